//! The narrow, step-driven border behind which Raft works.
//!
//! Owns the shapes in which ordering is asked for and granted. Never does I/O, reads a clock or draws randomness:
//! time comes as [`Group::tick`], durability as [`Group::persisted`], and all that is to be done comes out of
//! [`Group::drain`]. It stays correct because nothing behind it may promise what has not been reported as
//! persisted, and the caller performs effects in the order in which they are drained.

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

/// What is to be done, in this order: append `vote` and `entries` to the log, apply `committed`, answer `reads`.
#[derive(Debug, Default)]
pub struct Effects {
    /// Number of this drain: to be given to [`Group::persisted`] once `vote` and `entries` are durable. Drains
    /// become durable in their order.
    pub number: u64,
    /// To be made durable.
    pub vote: Option<Vote>,
    /// To be made durable; the first may stand at or below the log's end, which it then supersedes.
    pub entries: Vec<LogEntry>,
    /// Committed and durable here: to be applied.
    pub committed: Vec<LogEntry>,
    /// Read rounds that are confirmed: (round, index at or above which they may be answered).
    pub reads: Vec<(u64, u64)>,
}

impl Effects {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.number = 0;
        self.vote = None;
        self.entries.clear();
        self.committed.clear();
        self.reads.clear();
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Only a leader proposes.
    #[error("this node does not lead its group")]
    NotLeader,
    /// The group has too much that is not committed; try again later.
    #[error("too much is waiting to be committed")]
    Busy,
}

/// Why a group could not be set up from what was recovered.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("consensus cannot start from what was recovered: {0}")]
pub struct GroupError(pub String);

/// A member of a replicated group.
pub trait Group {
    /// One tick of the group's own clock passed.
    fn tick(&mut self);
    /// Tries to become leader now.
    fn campaign(&mut self) -> Result<(), GroupError>;
    /// Orders a payload.
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ProposeError>;
    /// Begins a read round; it may be lost without a word, and is then begun again under another number.
    fn read_index(&mut self, round: u64);
    /// All drains up to `number` are durable.
    fn persisted(&mut self, number: u64);
    /// All entries up to `index` are applied: they are not asked for again.
    fn applied(&mut self, index: u64);
    /// Takes what is to be done. `false`: nothing.
    fn drain(&mut self, effects: &mut Effects) -> bool;
    /// The node's part.
    fn role(&self) -> Role;
    /// The current term.
    fn term(&self) -> u64;
    /// Whether the group has this one voter only, so that it needs no ticks.
    fn alone(&self) -> bool;
}
