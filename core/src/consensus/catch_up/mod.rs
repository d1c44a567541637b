//! Snapshots on their way between nodes: for a follower that is so far behind that the log no longer reaches
//! it.
//!
//! Owns the transfers in both directions: which are under way, how much of each is in flight, and when one is
//! given up. The files are read and written by a helper ([`worker`]), never on the core's thread. Never
//! decides that a snapshot is needed (Raft does) and never installs one: it says that one is in place, and
//! the node then opens its data directory again.
//!
//! It stays correct because nothing that a peer sends is believed: a file gets its name only when all its
//! checksums were compared and it is durable, so a lost, late, repeated or foreign message can at worst make
//! a transfer begin anew. Chunks are acknowledged by position and sent again from there; a position at the
//! end means "whole and durable". It never delays heartbeats for long: what is in flight to one node is
//! little, and less the longer it takes.
//!
//! Installation needs no second way to load state. Once [`Outcome::Received`] is told, the snapshot is the
//! newest of the directory, and [`paddock_storage::Log::open`] does the rest at the next opening, durably and
//! before anybody is told anything: a log that holds the snapshot's last entry keeps what follows it (it may
//! have been acknowledged!), any other is reset. So the engine only has to stop with
//! [`super::StopReason::Reopen`]; a power cut at any moment before that leaves either the old state or the
//! new one.

#![forbid(unsafe_code)]

pub(super) mod install;
pub(super) mod left_behind;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;
pub(super) mod throttle;
mod worker;

pub use worker::Mode;

use crate::log_throttle::LogThrottle;
use crate::peers::message::{Message, SnapshotMessage};
use paddock_storage::Snapshots;
use receiving::Receivings;
use sending::Sendings;
use std::collections::VecDeque;
use std::io;
use worker::{Done, TransferWorker};

/// Bytes of one chunk: on a line of 100 Mbit/s a heartbeat waits 10 ms behind one.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks in flight to one node at most. How many there really are follows from how long they take: see
/// `sending`.
pub const WINDOW_CHUNKS_MAX: usize = 8;
/// Nodes that are sent a snapshot at the same time; further ones wait for their turn. Each takes a window of
/// memory.
pub const SENDINGS_MAX: usize = 4;
/// Without a word of the receiver for this long, what is not acknowledged is sent again.
pub const RESEND_NS: u64 = 1_000_000_000;
/// How often a receiver that is busy with its disk says that it lives: well below [`RESEND_NS`].
pub const BUSY_BEAT_NS: u64 = 300_000_000;
/// Without a word of the receiver for this long, the transfer has failed.
pub const SILENCE_MAX_NS: u64 = 15_000_000_000;
/// A receiver that lives and does not get on for this long has failed: above the time that a slow disk needs
/// to sync and compare a snapshot of some 10 GiB.
pub const STALL_MAX_NS: u64 = 600_000_000_000;
/// Pause after a failure before Raft is told, and so before it can be tried again; also how long a receiver
/// whose disk refused takes no further offer.
pub const PAUSE_NS: u64 = 2_000_000_000;
/// How long a receiver keeps a part of a snapshot that nobody goes on with: the sender may be restarting.
/// Afterwards the room on the disk is worth more.
pub const PARTIAL_KEEP_NS: u64 = 600_000_000_000;
/// How long the log is kept back to a snapshot that has arrived: the receiver opens it and comes back
/// meanwhile.
pub const LOG_KEEP_NS: u64 = 60_000_000_000;
/// Time between two lines of the log about transfers that fail for the same reason: a full disk fails them
/// every few seconds.
pub const SAY_AGAIN_NS: u64 = 60_000_000_000;
/// Largest file that is taken, bytes: a length beyond it is nonsense, not a request for room.
pub const FILE_BYTES_MAX: u64 = 1 << 44;
/// Messages that wait to be taken by the engine. Beyond it answers are dropped, and asked for again.
pub const OUT_MAX: usize = SENDINGS_MAX * (WINDOW_CHUNKS_MAX + 4) + 64;

/// Characters of a peer's reason that the log shows: what this release says itself, and a path in it.
const REASON_CHARS_MAX: usize = 500;

/// How the engine stands, as far as a transfer cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The leader, 0 if it is not known.
    pub leader: u64,
    /// The current term.
    pub term: u64,
    /// Highest index known committed here.
    pub commit: u64,
}

/// What the engine must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A transfer that [`Transfers::begin`] began is over; Raft wants to know.
    Sent {
        /// To whom.
        to: u8,
        /// Whether the receiver has it, durable.
        ok: bool,
        /// Index of the snapshot; 0 if none had been opened.
        index: u64,
    },
    /// A snapshot from the leader is whole, durable and the newest of the data directory: open the directory
    /// again.
    Received {
        /// Its index.
        index: u64,
        /// The term of the entry at that index.
        term: u64,
    },
}

/// See the module doc.
pub struct Transfers {
    helper: TransferWorker,
    sendings: Sendings,
    receivings: Receivings,
    outbox: Outbox,
}

/// What waits for the engine.
#[derive(Default)]
struct Outbox {
    messages: VecDeque<(u8, SnapshotMessage)>,
    outcomes: VecDeque<Outcome>,
}

impl Outbox {
    fn send(&mut self, to: u8, message: SnapshotMessage) {
        if self.messages.len() < OUT_MAX {
            self.messages.push_back((to, message));
        }
    }

    fn stop(&mut self, to: u8, index: u64, why: impl Into<String>) {
        self.send(to, SnapshotMessage::Stop { index, why: why.into() });
    }
}

/// Why transfers with one node fail, and how often the log has it.
#[derive(Default)]
struct Failure {
    /// Index of the snapshot; 0 if none could be opened.
    index: u64,
    why: String,
    said: LogThrottle,
}

impl Failure {
    /// A transfer has failed. Whether the log shall have it, and how many lines it did not get; another
    /// reason is said at once.
    fn happened(&mut self, index: u64, why: &str, now_ns: u64) -> Option<u64> {
        if self.why != why {
            *self = Self { why: why.to_owned(), ..Self::default() };
        }
        self.index = index;
        self.said.admit(now_ns, SAY_AGAIN_NS)
    }
}

/// A peer's reason as the log may have it: one line, of a bounded length.
fn shown(why: &str) -> String {
    why.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Transfers {
    /// Transfers of the snapshots in one directory.
    pub fn new(snapshots: Snapshots, mode: Mode) -> io::Result<Self> {
        Ok(Self {
            helper: TransferWorker::new(snapshots, mode)?,
            sendings: Sendings::default(),
            receivings: Receivings::default(),
            outbox: Outbox::default(),
        })
    }

    /// Leader of `term`: `to` needs a snapshot. One that is being sent to it already goes on.
    pub fn begin(&mut self, to: u8, term: u64, now_ns: u64) {
        self.sendings.begin(to, term, now_ns);
        self.sendings.turn(now_ns, &mut self.helper, &mut self.outbox);
    }

    /// This node does not lead any more: nothing more is sent, and Raft has forgotten who needed something.
    pub fn stop_sending(&mut self) {
        self.sendings.clear(&mut self.helper, &mut self.outbox);
    }

    /// A message of a peer.
    pub fn handle(&mut self, from: u8, message: SnapshotMessage, standing: &Standing, now_ns: u64) {
        let (helper, outbox) = (&mut self.helper, &mut self.outbox);
        match message {
            SnapshotMessage::Offer { term, index, index_term, bytes } => {
                let offer = receiving::Offer { from, term, index, index_term, bytes };
                self.receivings.offer(&offer, standing, now_ns, helper, outbox);
            }
            SnapshotMessage::Chunk { index, offset, bytes } => {
                let chunk = receiving::Chunk { from, index, offset, bytes };
                self.receivings.chunk(chunk, standing, now_ns, helper, outbox);
            }
            SnapshotMessage::Want { index, offset } => {
                self.sendings.want(from, index, offset, now_ns, helper, outbox);
            }
            SnapshotMessage::Stop { index, why } => {
                let why = shown(&why);
                self.sendings.stopped(from, index, &why, now_ns, helper);
                self.receivings.stopped(from, index, &why, now_ns);
            }
        }
    }

    /// The link to `node` is gone. What is being sent to it has failed; what came from it waits for the next
    /// offer.
    pub fn link_down(&mut self, node: u8) {
        self.outbox.messages.retain(|(to, _)| *to != node);
        self.sendings.link_down(node, &mut self.helper, &mut self.outbox);
    }

    /// Takes what the helper has done, sends again, gives up. When a turn is needed at the latest.
    pub fn turn(&mut self, standing: &Standing, now_ns: u64) -> Option<u64> {
        let (helper, outbox) = (&mut self.helper, &mut self.outbox);
        while let Some(done) = helper.take() {
            match done {
                Done::Opened { .. } | Done::Read { .. } => self.sendings.done(done, now_ns, helper, outbox),
                Done::Created { .. } | Done::Written { .. } | Done::Finished { .. } => {
                    self.receivings.done(done, standing, now_ns, helper, outbox);
                }
            }
        }
        let sending = self.sendings.turn(now_ns, helper, outbox);
        let receiving = self.receivings.turn(standing, now_ns, helper, outbox);
        sending.into_iter().chain(receiving).min()
    }

    /// The next message to be sent. One that the link does not take may be dropped: it is sent again.
    pub fn next_out(&mut self) -> Option<(u8, Message)> {
        self.outbox.messages.pop_front().map(|(to, message)| (to, Message::Snapshot(message)))
    }

    /// The next thing that the engine must know. To be asked after [`Transfers::next_out`] has given
    /// everything: the sender should hear that its snapshot has arrived before this node goes away to open
    /// it.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outbox.outcomes.pop_front()
    }

    /// The log must not be let go beyond this index: somebody is, or was just, sent the snapshot there, and
    /// will go on behind it.
    pub fn keep_log_from(&self, now_ns: u64) -> Option<u64> {
        self.sendings.keep_log_from(now_ns)
    }

    /// Whether this node needs a snapshot for which its disk has no room.
    pub fn lacks_room(&self) -> bool {
        self.receivings.lacks_room()
    }

    /// How the snapshot's transfer to a node stands, in words for an operator; `None`: none is being sent to
    /// it.
    pub fn state(&self, to: u8) -> Option<String> {
        self.sendings.state(to)
    }

    /// Whether the helper has done something since the last turn: then the loop must not sleep.
    pub fn has_news(&self) -> bool {
        self.helper.has_news()
    }
}
