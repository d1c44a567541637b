//! Raft's messages between the crate's form and ours, and which of a peer's are let in.
//!
//! Owns the translation, field by field, and the first look at what a peer says. Never gives anything from
//! outside to protobuf, and never lets the crate see what would make it panic: it takes its peers for honest,
//! we do not. It stays correct because only the kinds that followers and leaders exchange exist on the wire;
//! proposals, read requests, snapshots and everything local have other ways.

use crate::consensus::raft::{EntryKind, LogEntry};
use crate::members::NODE_MAX;
use crate::peers::message::{RaftEntry, RaftMessage};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

/// The largest term: beyond it a zxid, which carries the term in its upper half, would turn negative. One
/// election in 300 ms takes twenty years to get there.
pub const TERM_MAX: u64 = (1 << 31) - 1;

/// Kinds that travel.
const KINDS: [MessageType; 9] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// For the wire; `None`: of a kind that does not travel.
pub(in crate::consensus) fn outgoing(m: Message) -> Option<RaftMessage> {
    KINDS.contains(&m.msg_type).then(|| RaftMessage {
        kind: m.msg_type as i32 as u8,
        to: m.to,
        from: m.from,
        term: m.term,
        log_term: m.log_term,
        index: m.index,
        entries: m.entries.iter().map(raft_entry).collect(),
        commit: m.commit,
        commit_term: m.commit_term,
        reject: m.reject,
        reject_hint: m.reject_hint,
        context: m.context.to_vec(),
        priority: m.priority,
    })
}

/// From the wire to node `to`; `None`: nonsense.
pub(in crate::consensus) fn incoming(m: RaftMessage, to: u64) -> Option<Message> {
    let kind = KINDS.into_iter().find(|kind| *kind as i32 == i32::from(m.kind))?;
    let sane = m.to == to
        && m.from != to
        && (1..=u64::from(NODE_MAX)).contains(&m.from)
        && (1..=TERM_MAX).contains(&m.term)
        && (kind == MessageType::MsgAppend || m.entries.is_empty())
        // Only the beginning of all logs has no term: the crate would take any place beyond a log's end for a
        // match.
        && (kind != MessageType::MsgAppend || (m.index == 0) == (m.log_term == 0))
        && m.index < u64::MAX - m.entries.len() as u64
        && follows(&m);
    if !sane {
        return None;
    }
    Some(Message {
        msg_type: kind,
        to: m.to,
        from: m.from,
        term: m.term,
        log_term: m.log_term,
        index: m.index,
        entries: m.entries.into_iter().map(from_peer).collect::<Vec<_>>().into(),
        commit: m.commit,
        commit_term: m.commit_term,
        reject: m.reject,
        reject_hint: m.reject_hint,
        context: m.context.into(),
        // Nobody here has a priority; one below zero would get a refusal that the crate cannot send in term
        // 0.
        priority: m.priority.max(0),
        ..Message::default()
    })
}

/// Whether only a leader says this. It needs no trust in his data directory: a majority trusts it.
pub(in crate::consensus) fn is_leaders_word(m: &RaftMessage) -> bool {
    is_one_of(m, [MessageType::MsgAppend, MessageType::MsgHeartbeat])
}

/// Whether it answers that: it promises something to a leader, and asks nothing of him.
pub(in crate::consensus) fn is_answer_to_leader(m: &RaftMessage) -> bool {
    is_one_of(m, [MessageType::MsgAppendResponse, MessageType::MsgHeartbeatResponse])
}

/// Whether it is about the election of a node without a log, or makes the receiver stand for election.
pub(in crate::consensus) fn would_found(m: &RaftMessage) -> bool {
    let asks = is_one_of(m, [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote]);
    let others = [
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
    ];
    (asks && m.index == 0) || is_one_of(m, others)
}

fn is_one_of<const N: usize>(m: &RaftMessage, kinds: [MessageType; N]) -> bool {
    kinds.into_iter().any(|kind| kind as i32 == i32::from(m.kind))
}

/// Whether the entries continue each other and what the message stands on, in index and term.
fn follows(m: &RaftMessage) -> bool {
    let mut before = (m.index, m.log_term);
    m.entries.iter().all(|e| {
        let fits = e.index == before.0 + 1 && e.term >= before.1.max(1) && e.term <= m.term;
        before = (e.index, e.term);
        fits
    })
}

/// What the log and apply see of the crate's entry.
pub(in crate::consensus) fn log_entry(e: &Entry) -> LogEntry {
    let (kind, payload) = match e.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Batch, &e.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (EntryKind::Membership, &e.context),
    };
    LogEntry { index: e.index, term: e.term, kind, payload: payload.clone() }
}

/// What the crate sees of the log's entry. Ours rides in the context: the crate looks into the data of a
/// change only when it is proposed.
pub(in crate::consensus) fn crate_entry(e: LogEntry) -> Entry {
    let (entry_type, data, context) = match e.kind {
        EntryKind::Batch => (EntryType::EntryNormal, e.payload, Bytes::new()),
        EntryKind::Membership => (EntryType::EntryConfChangeV2, Bytes::new(), e.payload),
    };
    Entry { entry_type, index: e.index, term: e.term, data, context, ..Entry::default() }
}

fn raft_entry(e: &Entry) -> RaftEntry {
    let e = log_entry(e);
    RaftEntry {
        index: e.index,
        term: e.term,
        membership: e.kind == EntryKind::Membership,
        payload: e.payload.into(),
    }
}

fn from_peer(e: RaftEntry) -> Entry {
    let kind = if e.membership { EntryKind::Membership } else { EntryKind::Batch };
    crate_entry(LogEntry { index: e.index, term: e.term, kind, payload: e.payload.into() })
}
