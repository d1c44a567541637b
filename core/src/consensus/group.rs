//! The narrow, step-driven border behind which Raft works.
//!
//! Owns the shapes in which ordering is asked for and granted. Never does I/O, reads a clock or draws randomness:
//! time comes as [`Group::tick`], durability as [`Group::persisted`], and all that is to be done comes out of
//! [`Group::drain`]. It stays correct because nothing behind it may promise what has not been reported as
//! persisted, and the caller performs effects in the order in which they are drained.

pub use super::membership::{Membership, MembershipError, MembershipStep, Target};
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

/// A range of the log that is not in memory any more and that a peer who is behind needs. Reading it is the caller's.
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

/// What is to be done, in this order: send `messages`, append `vote` and `entries` to the log, apply `committed`, answer
/// `reads`; and `after`, `fetches` and `snapshots` when their time comes.
#[derive(Debug, Default)]
pub struct Effects {
    /// Number of this drain: to be given to [`Group::persisted`] once `vote` and `entries` are durable. Drains
    /// become durable in their order.
    pub number: u64,
    /// To be made durable.
    pub vote: Option<Vote>,
    /// The vote as it stands, where the index of commit is worth a record beside `entries`: a group of more than one
    /// does not know by itself what of its log is committed.
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
    /// Peers so far behind that the log does not reach them: each is to get a snapshot, then [`Group::snapshot_sent`].
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

/// A member of a replicated group.
pub trait Group {
    /// One tick of the group's own clock passed.
    fn tick(&mut self);
    /// Tries to become leader now.
    fn campaign(&mut self) -> Result<(), GroupError>;
    /// Orders a payload.
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ProposeError>;
    /// Begins a read round; it may be lost without a word (always unless this node leads), and is then begun again under another number.
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
    /// Whether this node leads a group without anybody else, so that it needs no ticks.
    fn alone(&self) -> bool;
    /// Takes a message of a peer. The caller knows that `from` is who is at the other end of the link. Nonsense is dropped.
    fn step(&mut self, message: RaftMessage);
    /// Who leads in the current term, as far as this node knows; 0 = unknown.
    fn leader(&self) -> u64;
    /// Last index known to be committed.
    fn commit(&self) -> u64;
    /// Last index of the log.
    fn last_index(&self) -> u64;
    /// The link to the node is down, or something was not sent to it.
    fn unreachable(&mut self, node: u64);
    /// The node has everything up to the index of the snapshot that it was sent; `None`: the transfer was given up.
    fn snapshot_sent(&mut self, node: u64, index: Option<u64>);
    /// The newest snapshot that could be sent, and the term of its index.
    fn set_snapshot(&mut self, index: u64, term: u64);
    /// The log now begins at `first`.
    fn truncated(&mut self, first: u64);
    /// Hands leadership over to `to`. It takes some round trips, during which nothing can be proposed, or fails without a word.
    /// Nothing happens unless this node leads.
    fn transfer(&mut self, to: u64);
    /// Orders a change of membership together with `command`, through a joint membership that is left by itself.
    fn propose_membership(&mut self, target: &Target, command: Vec<u8>) -> Result<(), ProposeError>;
    /// Applies the payload of a membership entry; to be called before [`Group::applied`] for it.
    fn apply_membership(&mut self, payload: &[u8]) -> Result<MembershipStep, GroupError>;
    /// The membership as of the last entry applied.
    fn membership(&self) -> Membership;
    /// How far everybody is, by node; empty unless this node leads.
    fn progress(&self) -> Vec<Progress>;
    /// What a cold read found, from `fetch.low` on without a gap; nothing: it failed, and is asked for again when
    /// it is still needed.
    fn fetched(&mut self, fetch: Fetch, entries: Vec<LogEntry>);
    /// Whether this node leads and has applied an entry of its own term, so that it knows all that is committed.
    fn is_ready_to_order(&self) -> bool;
}
