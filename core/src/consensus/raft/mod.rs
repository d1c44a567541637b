//! Raft: the `raft` crate behind one type, [`node::RaftNode`].
//!
//! Owns the shapes of its inputs and outputs. Never does I/O, reads a clock or draws randomness: time comes
//! as [`node::RaftNode::tick`], durability as [`node::RaftNode::persisted`], and all effects leave by
//! [`node::RaftNode::drain`]. Correct because no message may promise what was not reported as persisted. The
//! caller performs effects in the order in which they are drained.

pub(super) mod codec;
pub(super) mod cold_entries;
pub(super) mod conf_state;
pub(super) mod log_window;
mod misbehaviour;
pub(super) mod node;
mod slog_bridge;
#[cfg(test)]
mod tests;

pub use crate::consensus::raft::conf_state::{Membership, MembershipError, MembershipStep, Target};
use crate::peers::message::RaftMessage;
use bytes::Bytes;
use thiserror::Error;

/// The kind of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A [`crate::command::Batch`], or nothing: the first entry of a leader's term.
    Batch,
    /// A change of membership.
    Membership,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Position, from 1 without a gap.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// How `payload` is to be read.
    pub kind: EntryKind,
    /// An archive as `kind` says; empty in the first entry of a term.
    pub payload: Bytes,
}

/// Term and vote, which must be durable before any message depends on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vote {
    /// The newest term that the node knows.
    pub term: u64,
    /// The candidate that got its vote in that term; 0 = none.
    pub node: u64,
}

/// A range of the log that a peer far behind needs and that is not in memory. The caller reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// A peer that needs the range; other peers may need it too.
    pub to: u64,
    /// First index of the range.
    pub low: u64,
    /// The index after the last one.
    pub high: u64,
    /// Bytes at which to stop; at least one entry is read.
    pub bytes_max: u64,
    /// Raft's number of this fetch.
    pub token: u64,
}

/// Progress of a peer, as the leader knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The peer, or the leader itself.
    pub node: u64,
    /// Last index known to be durable on the peer.
    pub matched: u64,
    /// Whether the peer answered within the last election timeout.
    pub active: bool,
    /// Whether the peer has no vote.
    pub learner: bool,
    /// Whether the peer waits for a snapshot.
    pub snapshot: bool,
}

/// Effects of one drain. The caller performs them in this order: send `messages`, append `vote` and `entries`
/// to the log, apply `committed`, answer `reads`. The rest follows when its time comes.
#[derive(Debug, Default)]
pub struct Effects {
    /// Number of this drain. The caller reports it by [`node::RaftNode::persisted`] once `vote` and `entries`
    /// are durable. Drains become durable in order.
    pub number: u64,
    /// A new term or vote that must become durable.
    pub vote: Option<Vote>,
    /// The present vote, where the commit index is worth a record beside `entries`. A group of more than one
    /// cannot tell from its log what is committed.
    pub note: Option<Vote>,
    /// Entries that must become durable. The first one may supersede entries of the log.
    pub entries: Vec<LogEntry>,
    /// Entries that are committed and durable here, to be applied.
    pub committed: Vec<LogEntry>,
    /// Confirmed ReadIndex rounds: (round, index at or above which it may be answered).
    pub reads: Vec<(u64, u64)>,
    /// Messages that may leave at once.
    pub messages: Vec<RaftMessage>,
    /// Messages that may leave only once this drain is durable: they promise its records.
    pub after: Vec<RaftMessage>,
    /// Ranges to be read off the core, then handed to [`node::RaftNode::fetched`].
    pub fetches: Vec<Fetch>,
    /// Peers that the log does not reach. Each needs a snapshot; [`node::RaftNode::snapshot_sent`] reports
    /// the end.
    pub snapshots: Vec<u64>,
}

impl Effects {
    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        self.number = 0;
        self.vote = None;
        self.note = None;
        self.entries.clear();
        self.committed.clear();
        self.reads.clear();
        self.messages.clear();
        self.after.clear();
        self.fetches.clear();
        self.snapshots.clear();
    }
}

/// The role of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The node orders entries.
    Leader,
    /// The node follows a leader, or knows none.
    Follower,
    /// The node campaigns for election.
    Candidate,
}

/// Why a proposal was refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead.
    #[error("this node does not lead its group")]
    NotLeader,
    /// A leadership transfer is under way; a later attempt may succeed.
    #[error("leadership is being handed over")]
    Busy,
    /// A change of membership is under way.
    #[error("a change of membership is under way")]
    Changing,
    /// The target is impossible.
    #[error("the wanted membership cannot be: {0}")]
    Target(MembershipError),
}

/// Why Raft cannot start from the recovered state, or cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("consensus cannot go on from what it has: {0}")]
pub struct GroupError(pub String);
