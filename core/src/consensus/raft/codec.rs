//! Raft's messages between the crate's form and the wire's form, and the check of what a peer sends.
//!
//! Owns the translation, field by field.
//!
//! Never gives anything from outside to protobuf. Never passes a message to the crate that would make the
//! crate panic: the crate trusts its peers.
//!
//! Correct because only the kinds that followers and leaders exchange exist on the wire. Proposals, read
//! requests, snapshots and local messages have other ways.

use crate::consensus::raft::{EntryKind, LogEntry};
use crate::members::NODE_MAX;
use crate::peers::message::{RaftEntry, RaftMessage};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

/// The largest term. A zxid carries the term in its upper half and would turn negative beyond it. With an
/// election every 300 ms a group needs twenty years to get there.
pub const TERM_MAX: u64 = (1 << 31) - 1;

/// Kinds of messages that exist on the wire.
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

/// Translates for the wire. `None`: the kind does not exist on the wire.
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

/// Translates a message from the wire to node `to`. `None`: an impossible message.
pub(in crate::consensus) fn incoming(m: RaftMessage, to: u64) -> Option<Message> {
    let kind = KINDS.into_iter().find(|kind| *kind as i32 == i32::from(m.kind))?;
    let sane = m.to == to
        && m.from != to
        && (1..=u64::from(NODE_MAX)).contains(&m.from)
        && (1..=TERM_MAX).contains(&m.term)
        && (kind == MessageType::MsgAppend || m.entries.is_empty())
        // Only the beginning of all logs has no term. The crate would match any position beyond the end of a
        // log.
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
        // Priorities are not used. A negative one would get a refusal that the crate cannot send in term 0.
        priority: m.priority.max(0),
        ..Message::default()
    })
}

/// Whether only a leader sends this message. The receiver need not know the leader's data directory: a
/// majority elected it.
pub(in crate::consensus) fn is_leaders_word(m: &RaftMessage) -> bool {
    is_one_of(m, [MessageType::MsgAppend, MessageType::MsgHeartbeat])
}

/// Whether the message answers a leader. Such a message promises something to the leader and requests
/// nothing.
pub(in crate::consensus) fn is_answer_to_leader(m: &RaftMessage) -> bool {
    is_one_of(m, [MessageType::MsgAppendResponse, MessageType::MsgHeartbeatResponse])
}

/// Whether the message is about the election of a node without a log, or makes the receiver campaign.
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

/// Whether index and term of the entries continue each other and the entry before them.
fn follows(m: &RaftMessage) -> bool {
    let mut before = (m.index, m.log_term);
    m.entries.iter().all(|e| {
        let fits = e.index == before.0 + 1 && e.term >= before.1.max(1) && e.term <= m.term;
        before = (e.index, e.term);
        fits
    })
}

/// An entry of the crate in the form of the log and of apply.
pub(in crate::consensus) fn log_entry(e: &Entry) -> LogEntry {
    let (kind, payload) = match e.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Batch, &e.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (EntryKind::Membership, &e.context),
    };
    LogEntry { index: e.index, term: e.term, kind, payload: payload.clone() }
}

/// An entry of the log in the crate's form. A change of membership is in the context: the crate reads the
/// data of a change only when it is proposed.
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
