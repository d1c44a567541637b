//! Snapshot transfers between nodes, for a follower that needs entries that the leader's log no longer has.
//!
//! Owns the transfers in both directions: which are under way, how much of each is in flight, and when one
//! fails. The thread of [`worker`] reads and writes the files, so that the core never waits for a disk.
//!
//! Never decides that a follower needs a snapshot: Raft does. Never installs one: it reports a durable
//! snapshot, and the node then opens its data directory again.
//!
//! Correct because a received file gets its name only once it is durable and all its checksums match. A lost,
//! late, repeated or foreign message can at worst restart a transfer. The receiver acknowledges a position in
//! the file, and the sender resends from there. A position at the file's end means that the whole file is
//! durable. Heartbeats wait little: few chunks are in flight to one node, and fewer the longer they take.
//!
//! Installation needs no second way to load state. After [`TransferOutcome::Received`] the snapshot is the
//! newest of the directory, and the engine stops with [`super::StopReason::Reopen`].
//! [`paddock_storage::Log::open`] does the rest before the node answers anything. A log that holds the
//! snapshot's last entry keeps the entries after it, since they may have been acknowledged. Any other log is
//! reset. A power cut before that leaves either the old state or the new one.

#![forbid(unsafe_code)]

pub(super) mod install;
pub(super) mod left_behind;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;
pub(super) mod throttle;
mod worker;

pub use worker::WorkerMode;

use crate::log_throttle::LogThrottle;
use crate::peers::message::{Message, SnapshotMessage};
use paddock_storage::Snapshots;
use receiving::IncomingTransfers;
use sending::OutgoingTransfers;
use std::collections::VecDeque;
use std::io;
use worker::{Done, TransferWorker};

/// Bytes of one chunk. On a link of 100 Mbit/s a heartbeat waits 10 ms behind one.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// Upper bound of the window: chunks in flight to one node. `sending` adapts the window to their round-trip
/// time.
pub const WINDOW_CHUNKS_MAX: usize = 8;
/// Snapshots sent at the same time. Further receivers wait. Each transfer takes a window of memory.
pub const OUTGOING_TRANSFERS_MAX: usize = 4;
/// Silence of the receiver after which the sender resends unacknowledged chunks.
pub const RESEND_NS: u64 = 1_000_000_000;
/// Interval at which a receiver that is busy with its disk repeats its position. Well below [`RESEND_NS`], so
/// that the sender does not resend.
pub const BUSY_BEAT_NS: u64 = 300_000_000;
/// Silence of the receiver after which the transfer fails.
pub const SILENCE_MAX_NS: u64 = 15_000_000_000;
/// Time without progress after which the transfer fails, although the receiver answers. A slow disk syncs and
/// verifies a snapshot of 10 GiB in less.
pub const STALL_MAX_NS: u64 = 600_000_000_000;
/// Pause between a failure and the report to Raft, and so the least time between two attempts. Also the time
/// for which a receiver refuses offers after its disk failed.
pub const PAUSE_NS: u64 = 2_000_000_000;
/// How long a receiver keeps a partial snapshot without further chunks, since the sender may be restarting.
/// Afterwards the disk space is worth more.
pub const PARTIAL_KEEP_NS: u64 = 600_000_000_000;
/// How long the sender keeps its log back to a snapshot that has arrived. The receiver opens it and
/// reconnects meanwhile.
pub const LOG_KEEP_NS: u64 = 60_000_000_000;
/// Time between two lines of the log about transfers that fail for one reason. A full disk fails them every
/// few seconds.
pub const SAY_AGAIN_NS: u64 = 60_000_000_000;
/// Largest file that a receiver takes, bytes. A greater length is an invalid message.
pub const FILE_BYTES_MAX: u64 = 1 << 44;
/// Messages that wait for the engine. Further ones are dropped, and the peer asks again.
pub const OUT_MAX: usize = OUTGOING_TRANSFERS_MAX * (WINDOW_CHUNKS_MAX + 4) + 64;

/// Characters of a peer's reason that the log shows. The reasons of this release fit, with a path in them.
const REASON_CHARS_MAX: usize = 500;

/// Leader, term and commit index of this node: everything that a transfer needs to know of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Id of the leader; 0: not known.
    pub leader: u64,
    pub term: u64,
    /// Highest index that this node knows to be committed.
    pub commit: u64,
}

/// The end of a transfer, for the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    /// A transfer of [`Transfers::begin`] has ended. The engine tells Raft.
    Sent {
        /// Id of the receiver.
        to: u8,
        /// Whether the snapshot is durable on the receiver.
        ok: bool,
        /// Index of the snapshot; 0: none was opened.
        index: u64,
    },
    /// A snapshot from the leader is durable and the newest of the data directory. The engine opens the
    /// directory again.
    Received {
        /// Index of the snapshot.
        index: u64,
        /// Term of the entry at `index`.
        term: u64,
    },
}

/// See the module doc.
pub struct Transfers {
    worker: TransferWorker,
    outgoing: OutgoingTransfers,
    incoming: IncomingTransfers,
    outbox: Outbox,
}

/// Messages and outcomes that wait for the engine.
#[derive(Default)]
struct Outbox {
    messages: VecDeque<(u8, SnapshotMessage)>,
    outcomes: VecDeque<TransferOutcome>,
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

/// The reason why transfers with one node fail, and the rate limit of its lines in the log.
#[derive(Default)]
struct Failure {
    /// Index of the snapshot; 0: none could be opened.
    index: u64,
    why: String,
    log_limit: LogThrottle,
}

impl Failure {
    /// Records a failed transfer. `Some` if the log takes a line now, with the number of suppressed lines. A
    /// new reason is logged at once.
    fn record(&mut self, index: u64, why: &str, now_ns: u64) -> Option<u64> {
        if self.why != why {
            *self = Self { why: why.to_owned(), ..Self::default() };
        }
        self.index = index;
        self.log_limit.admit(now_ns, SAY_AGAIN_NS)
    }
}

/// A peer's reason as one line of bounded length, safe for the log.
fn printable_reason(why: &str) -> String {
    why.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Transfers {
    pub fn new(snapshots: Snapshots, mode: WorkerMode) -> io::Result<Self> {
        Ok(Self {
            worker: TransferWorker::new(snapshots, mode)?,
            outgoing: OutgoingTransfers::default(),
            incoming: IncomingTransfers::default(),
            outbox: Outbox::default(),
        })
    }

    /// On the leader of `term`: begins a transfer to `to`, unless one of this term is under way.
    pub fn begin(&mut self, to: u8, term: u64, now_ns: u64) {
        self.outgoing.begin(to, term, now_ns);
        self.outgoing.turn(now_ns, &mut self.worker, &mut self.outbox);
    }

    /// Ends all outgoing transfers, on a node that no longer leads. There is no outcome: Raft has forgotten
    /// which followers needed a snapshot.
    pub fn stop_sending(&mut self) {
        self.outgoing.clear(&mut self.worker, &mut self.outbox);
    }

    /// Handles a message of the peer `from`.
    pub fn handle(&mut self, from: u8, message: SnapshotMessage, engine: &EngineState, now_ns: u64) {
        let (worker, outbox) = (&mut self.worker, &mut self.outbox);
        match message {
            SnapshotMessage::Offer { term, index, index_term, bytes } => {
                let offer = receiving::Offer { from, term, index, index_term, bytes };
                self.incoming.offer(&offer, engine, now_ns, worker, outbox);
            }
            SnapshotMessage::Chunk { index, offset, bytes } => {
                let chunk = receiving::Chunk { from, index, offset, bytes };
                self.incoming.chunk(chunk, engine, now_ns, worker, outbox);
            }
            SnapshotMessage::Want { index, offset } => {
                self.outgoing.want(from, index, offset, now_ns, worker, outbox);
            }
            SnapshotMessage::Stop { index, why } => {
                let why = printable_reason(&why);
                self.outgoing.stopped(from, index, &why, now_ns, worker);
                self.incoming.stopped(from, index, &why, now_ns);
            }
        }
    }

    /// The link to `node` is down. An outgoing transfer to it fails. A part that `node` sent waits for its
    /// next offer.
    pub fn link_down(&mut self, node: u8) {
        self.outbox.messages.retain(|(to, _)| *to != node);
        self.outgoing.link_down(node, &mut self.worker, &mut self.outbox);
    }

    /// Takes the results of the worker, resends, and ends transfers that have failed. Returns the deadline of
    /// the next turn.
    pub fn turn(&mut self, engine: &EngineState, now_ns: u64) -> Option<u64> {
        let (worker, outbox) = (&mut self.worker, &mut self.outbox);
        while let Some(done) = worker.take() {
            match done {
                Done::Opened { .. } | Done::Read { .. } => self.outgoing.done(done, now_ns, worker, outbox),
                Done::Created { .. } | Done::Written { .. } | Done::Finished { .. } => {
                    self.incoming.done(done, engine, now_ns, worker, outbox);
                }
            }
        }
        let outgoing_ns = self.outgoing.turn(now_ns, worker, outbox);
        let incoming_ns = self.incoming.turn(engine, now_ns, worker, outbox);
        outgoing_ns.into_iter().chain(incoming_ns).min()
    }

    /// The next message to be sent. The caller may drop it if the link does not take it, since it is resent.
    pub fn next_out(&mut self) -> Option<(u8, Message)> {
        self.outbox.messages.pop_front().map(|(to, message)| (to, Message::Snapshot(message)))
    }

    /// The next outcome. Call [`Transfers::next_out`] until it is empty before. Otherwise this node reopens
    /// its directory before the sender learns that its snapshot has arrived.
    pub fn next_outcome(&mut self) -> Option<TransferOutcome> {
        self.outbox.outcomes.pop_front()
    }

    /// Lowest index of a snapshot that is being sent or has just arrived. The log must keep the entries after
    /// it, which its receiver needs next.
    pub fn keep_log_from(&self, now_ns: u64) -> Option<u64> {
        self.outgoing.keep_log_from(now_ns)
    }

    /// Whether this node needs a snapshot for which its disk has no room.
    pub fn lacks_room(&self) -> bool {
        self.incoming.lacks_room()
    }

    /// State of the transfer to a node, as text for an operator; `None`: there is no transfer.
    pub fn state(&self, to: u8) -> Option<String> {
        self.outgoing.state(to)
    }

    /// Whether the worker has results since the last turn. Then the loop must not sleep.
    pub fn has_news(&self) -> bool {
        self.worker.has_news()
    }
}
