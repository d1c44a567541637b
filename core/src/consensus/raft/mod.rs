//! Raft: the `raft` crate behind one type, [`node::RaftNode`].
//!
//! Owns the shapes in which ordering is asked for and granted. Never does I/O, reads a clock or draws
//! randomness: time comes as [`Group::tick`], durability as [`Group::persisted`], and all that is to be done
//! comes out of [`Group::drain`]. It stays correct because nothing behind it may promise what has not been
//! reported as persisted, and the caller performs effects in the order in which they are drained.

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

/// What an entry of the log carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A [`crate::command::Batch`], or nothing: the entry with which a leader begins its term.
    Batch,
    /// A change of membership.
    Membership,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Position, from 1 without a gap.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// What the payload is.
    pub kind: EntryKind,
    /// The payload.
    pub payload: Bytes,
}

/// What a node must not forget about elections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vote {
    /// The newest term it heard of.
    pub term: u64,
    /// For whom it voted in that term; 0 = nobody.
    pub node: u64,
}

/// A range of the log that is not in memory any more and that a peer who is behind needs. Reading it is the
/// caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The peer; others may need the same.
    pub to: u64,
    /// First index.
    pub low: u64,
    /// The one after the last.
    pub high: u64,
    /// Bytes at which to stop, after one entry at least.
    pub bytes_max: u64,
    /// The group's own word for this request.
    pub token: u64,
}

/// How far a peer is, as the leader knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The peer, or the leader itself.
    pub node: u64,
    /// Last index known to be durable there.
    pub matched: u64,
    /// Whether it answered within the last election timeout.
    pub active: bool,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether it waits for a snapshot.
    pub snapshot: bool,
}

/// What is to be done, in this order: send `messages`, append `vote` and `entries` to the log, apply
/// `committed`, answer `reads`; and `after`, `fetches` and `snapshots` when their time comes.
#[derive(Debug, Default)]
pub struct Effects {
    /// Number of this drain: to be given to [`Group::persisted`] once `vote` and `entries` are durable.
    /// Drains become durable in their order.
    pub number: u64,
    /// To be made durable.
    pub vote: Option<Vote>,
    /// The vote as it stands, where the index of commit is worth a record beside `entries`: a group of more
    /// than one does not know by itself what of its log is committed.
    pub note: Option<Vote>,
    /// To be made durable; the first may stand at or below the log's end, which it then supersedes.
    pub entries: Vec<LogEntry>,
    /// Committed and durable here: to be applied.
    pub committed: Vec<LogEntry>,
    /// Read rounds that are confirmed: (round, index at or above which they may be answered).
    pub reads: Vec<(u64, u64)>,
    /// To peers, at once.
    pub messages: Vec<RaftMessage>,
    /// To peers, but only once this drain is durable: they promise what it contains.
    pub after: Vec<RaftMessage>,
    /// To be read from the log, off the core; then [`Group::fetched`].
    pub fetches: Vec<Fetch>,
    /// Peers so far behind that the log does not reach them: each is to get a snapshot, then
    /// [`Group::snapshot_sent`].
    pub snapshots: Vec<u64>,
}

impl Effects {
    /// Empties it, keeping its memory.
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

/// The part that the node has in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Orders.
    Leader,
    /// Follows.
    Follower,
    /// Tries to become leader.
    Candidate,
}

/// Why nothing was proposed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Only a leader proposes.
    #[error("this node does not lead its group")]
    NotLeader,
    /// Nothing is taken just now; try again later.
    #[error("leadership is being handed over")]
    Busy,
    /// One change of membership at a time.
    #[error("a change of membership is under way")]
    Changing,
    /// No group can be so.
    #[error("the wanted membership cannot be: {0}")]
    Target(MembershipError),
}

/// Why a group cannot be set up from what was recovered, or not go on.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("consensus cannot go on from what it has: {0}")]
pub struct GroupError(pub String);
