//! The incoming transfer.
//!
//! Owns the one transfer that this node receives. There is one at most: there is one leader, and one state
//! to be replaced.
//!
//! Never takes a chunk that does not follow the received part, nor more than a window of chunks while the
//! disk is busy.
//!
//! Correct because the whole file is verified before it counts; this part only decides when to begin and
//! when to give up. A lost link keeps the received part, and the same offer by the same node continues it.

use super::worker::{Done, Job, JobError, TransferWorker};
use super::{
    BUSY_BEAT_NS, CHUNK_BYTES, EngineState, FILE_BYTES_MAX, Failure, Outbox, PARTIAL_KEEP_NS, PAUSE_NS,
    TransferOutcome, WINDOW_CHUNKS_MAX,
};
use crate::peers::message::SnapshotMessage;

/// Reason of a refusal while the worker's queue is full.
const BUSY: &str = "the receiver has too much to do";

/// An offer of a snapshot, and its sender.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) from: u8,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) index_term: u64,
    pub(super) bytes: u64,
}

impl Offer {
    /// Whether both offers are of one file. Two nodes may write different files of one state.
    fn is_same_file(&self, other: &Offer) -> bool {
        let of = |offer: &Offer| (offer.from, offer.index, offer.index_term, offer.bytes);
        of(self) == of(other)
    }
}

/// A part of the file, and its sender.
pub(super) struct Chunk {
    pub(super) from: u8,
    pub(super) index: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// See the module doc.
#[derive(Default)]
pub(super) struct IncomingTransfers {
    current: Option<IncomingTransfer>,
    /// Offer of the newest snapshot that became durable since this start.
    in_place: Option<Offer>,
    /// Time before which offers are refused, after a failure of the disk.
    refusing_until_ns: u64,
    /// The last failure to keep a snapshot, until one is in place.
    failure: Option<Failure>,
    /// Whether the disk had no room for the last snapshot that this node was to take.
    lacks_room: bool,
    /// The last message of a sender that it gave up.
    given_up: Failure,
    /// Number of the newest transfer; each number is used once.
    last_number: u64,
}

struct IncomingTransfer {
    /// Number by which the worker's results name this transfer.
    number: u64,
    offer: Offer,
    stage: IncomingStage,
    /// Bytes submitted to the worker.
    queued: u64,
    /// Bytes that the worker has written.
    written: u64,
    /// Chunks that the worker has yet to write.
    writing: usize,
    /// Time of the last offer or chunk.
    last_message_ns: u64,
    /// Time of the last report of the position to the sender.
    last_report_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IncomingStage {
    /// The worker creates the file.
    Creating,
    /// The worker writes chunks as they come.
    Taking,
    /// The worker syncs and verifies the file, which has all its bytes.
    Finishing,
}

impl IncomingTransfers {
    pub(super) fn offer(
        &mut self,
        offer: &Offer,
        engine: &EngineState,
        now_ns: u64,
        worker: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        if let Some(why) = refusal(offer, engine) {
            return outbox.stop(offer.from, offer.index, why);
        }
        // A node whose state contains the snapshot acknowledges all of it. A refusal would count as a failed
        // transfer: the leader's progress for this node would stay below the leader's log, and Raft would ask
        // for the snapshot for ever.
        let contained = offer.index <= engine.commit;
        if contained || self.in_place.is_some_and(|have| have.is_same_file(offer)) {
            return outbox.send(offer.from, want(offer.index, offer.bytes));
        }
        if now_ns < self.refusing_until_ns
            && let Some(failure) = &self.failure
        {
            return outbox.stop(offer.from, offer.index, failure.why.clone());
        }
        if let Some(current) = self.current.as_mut().filter(|c| c.offer.is_same_file(offer)) {
            // The link or an answer was lost.
            current.offer.term = offer.term;
            current.last_message_ns = now_ns;
            if current.stage != IncomingStage::Creating {
                current.report_position(now_ns, outbox);
            }
            return;
        }
        self.discard(worker);
        debug_assert!(self.current.is_none(), "one transfer at a time");
        // A repeated offer of a snapshot that failed gets no line of its own.
        if self.failure.as_ref().is_none_or(|failure| failure.index != offer.index) {
            tracing::info!(
                "this node is behind the log of node {}: it takes the snapshot at index {}, {} bytes",
                offer.from,
                offer.index,
                offer.bytes
            );
        }
        self.last_number += 1;
        let (transfer, index, term, bytes) = (self.last_number, offer.index, offer.index_term, offer.bytes);
        if !worker.submit(Job::Create { transfer, index, term, bytes }) {
            return outbox.stop(offer.from, offer.index, BUSY);
        }
        self.current = Some(IncomingTransfer {
            number: transfer,
            offer: *offer,
            stage: IncomingStage::Creating,
            queued: 0,
            written: 0,
            writing: 0,
            last_message_ns: now_ns,
            last_report_ns: now_ns,
        });
    }

    pub(super) fn chunk(
        &mut self,
        Chunk { from, index, offset, bytes }: Chunk,
        engine: &EngineState,
        now_ns: u64,
        worker: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        let of = |c: &&mut IncomingTransfer| (c.offer.from, c.offer.index) == (from, index);
        let Some(current) = self.current.as_mut().filter(of) else {
            return match self.in_place {
                // The final acknowledgement was lost.
                Some(have) if (have.from, have.index) == (from, index) => {
                    outbox.send(from, want(index, have.bytes));
                }
                _ => outbox.stop(from, index, "this snapshot was not asked for"),
            };
        };
        if engine.leader != u64::from(from) {
            return outbox.stop(from, index, "the sender is not the leader");
        }
        debug_assert!(current.is_consistent());
        current.last_message_ns = now_ns;
        // The worker keeps the order of its jobs, so a chunk may come before the file is created.
        let takes = current.stage != IncomingStage::Finishing && current.writing < WINDOW_CHUNKS_MAX;
        if !takes || offset != current.queued {
            // The chunk is a repetition, or follows a lost one. A busy receiver reports its position soon
            // anyway.
            if !current.is_busy() {
                current.report_position(now_ns, outbox);
            }
            return;
        }
        let length = bytes.len() as u64;
        if bytes.is_empty() || bytes.len() > CHUNK_BYTES || length > current.offer.bytes - current.queued {
            tracing::warn!("node {from} sends a chunk of {length} bytes at {offset}, which cannot be");
            outbox.stop(from, index, "a chunk of an impossible length");
            return self.discard(worker);
        }
        if worker.submit(Job::Write { transfer: current.number, offset, bytes }) {
            current.queued += length;
            current.writing += 1;
        }
        debug_assert!(current.is_consistent());
    }

    /// Handles a sender that gives up. The received part stays, since the sender may come back.
    pub(super) fn stopped(&mut self, from: u8, index: u64, why: &str, now_ns: u64) {
        let of = |c: &IncomingTransfer| (c.offer.from, c.offer.index) == (from, index);
        if self.current.as_ref().is_some_and(of)
            && let Some(more) = self.given_up.record(index, why, now_ns)
        {
            tracing::warn!(more, "node {from} does not send the snapshot at index {index} any more: {why}");
        }
    }

    pub(super) fn done(
        &mut self,
        done: Done,
        engine: &EngineState,
        now_ns: u64,
        worker: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        let Some(current) = &mut self.current else { return };
        let number = current.number;
        match done {
            Done::Created { transfer, result } if transfer == number => match result {
                Ok(()) => {
                    current.stage = IncomingStage::Taking;
                    current.report_position(now_ns, outbox);
                }
                Err(error) => self.fail(&error, now_ns, worker, outbox),
            },
            Done::Written { transfer, result } if transfer == number => match result {
                Ok(written) => {
                    debug_assert!(current.writing > 0 && current.written < written);
                    current.written = written;
                    current.writing = current.writing.saturating_sub(1);
                    debug_assert!(current.is_consistent());
                    current.report_position(now_ns, outbox);
                    if written == current.offer.bytes {
                        current.stage = IncomingStage::Finishing;
                        if !worker.submit(Job::Finish { transfer }) {
                            let error = JobError { why: BUSY.to_owned(), no_room: false };
                            self.fail(&error, now_ns, worker, outbox);
                        }
                    }
                }
                Err(error) => self.fail(&error, now_ns, worker, outbox),
            },
            Done::Finished { transfer, result } if transfer == number => match result {
                Ok(()) => {
                    debug_assert!(current.stage == IncomingStage::Finishing);
                    let offer = current.offer;
                    (self.current, self.in_place, self.failure) = (None, Some(offer), None);
                    self.lacks_room = false;
                    outbox.send(offer.from, want(offer.index, offer.bytes));
                    tracing::info!("the snapshot at index {} is here and durable", offer.index);
                    if offer.index > engine.commit {
                        let (index, term) = (offer.index, offer.index_term);
                        outbox.outcomes.push_back(TransferOutcome::Received { index, term });
                    }
                }
                Err(error) => self.fail(&error, now_ns, worker, outbox),
            },
            // Results of a discarded transfer, and of outgoing transfers.
            Done::Created { .. } | Done::Written { .. } | Done::Finished { .. } => {}
            Done::Opened { .. } | Done::Read { .. } => {}
        }
    }

    pub(super) fn turn(
        &mut self,
        engine: &EngineState,
        now_ns: u64,
        worker: &mut TransferWorker,
        outbox: &mut Outbox,
    ) -> Option<u64> {
        // The log brought this node on.
        self.lacks_room &= self.failure.as_ref().is_some_and(|failure| failure.index > engine.commit);
        let current = self.current.as_mut()?;
        let (from, index) = (current.offer.from, current.offer.index);
        if current.stage != IncomingStage::Finishing {
            if index <= engine.commit {
                // The log brought this node as far. The leader may not know, since acknowledgements can be
                // lost.
                outbox.send(from, want(index, current.offer.bytes));
                self.discard(worker);
                return None;
            }
            if now_ns >= current.last_message_ns + PARTIAL_KEEP_NS {
                tracing::warn!(
                    "no node continues the snapshot at index {index}: the received part is removed"
                );
                self.discard(worker);
                return None;
            }
        }
        if current.is_busy() {
            if now_ns >= current.last_report_ns + BUSY_BEAT_NS {
                current.report_position(now_ns, outbox);
            }
            return Some(current.last_report_ns + BUSY_BEAT_NS);
        }
        Some(current.last_message_ns + PARTIAL_KEEP_NS)
    }

    /// Whether this node needs a snapshot for which its disk has no room.
    pub(super) fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    fn fail(&mut self, error: &JobError, now_ns: u64, worker: &mut TransferWorker, outbox: &mut Outbox) {
        let Some(IncomingTransfer { offer, .. }) = self.current else { return };
        let JobError { why, no_room } = error;
        self.lacks_room = *no_room;
        let failure = self.failure.get_or_insert_default();
        if let Some(more) = failure.record(offer.index, why, now_ns) {
            tracing::error!(
                more,
                "the snapshot at index {} that node {} sends cannot be kept: {why}. It is tried again",
                offer.index,
                offer.from
            );
        }
        outbox.stop(offer.from, offer.index, why.clone());
        self.refusing_until_ns = now_ns + PAUSE_NS;
        self.discard(worker);
    }

    fn discard(&mut self, worker: &mut TransferWorker) {
        if self.current.take().is_some() {
            // If the worker has no room for the job, the next Create or the next start removes the file.
            worker.submit(Job::Discard);
        }
    }
}

impl IncomingTransfer {
    /// Whether positions and counts lie within their bounds.
    fn is_consistent(&self) -> bool {
        self.written <= self.queued
            && self.queued <= self.offer.bytes
            && self.writing <= WINDOW_CHUNKS_MAX
            && (self.writing > 0) == (self.written < self.queued)
    }

    /// Whether the sender has to wait for the disk.
    fn is_busy(&self) -> bool {
        self.stage != IncomingStage::Taking || self.writing > 0
    }

    /// Sends the position of the received part. The last byte is acknowledged only when the file is durable.
    fn report_position(&mut self, now_ns: u64, outbox: &mut Outbox) {
        debug_assert!(self.offer.bytes > 0, "empty files are refused");
        self.last_report_ns = now_ns;
        outbox.send(self.offer.from, want(self.offer.index, self.written.min(self.offer.bytes - 1)));
    }
}

/// The reason to refuse an offer of another node than the leader, of another term, or of an impossible size.
fn refusal(offer: &Offer, engine: &EngineState) -> Option<String> {
    let EngineState { leader, term, .. } = engine;
    if (u64::from(offer.from), offer.term) != (*leader, *term) {
        return Some(format!("the receiver follows node {leader} in term {term}"));
    }
    let impossible = offer.bytes == 0 || offer.bytes > FILE_BYTES_MAX;
    impossible.then(|| format!("a file of {} bytes cannot be", offer.bytes))
}

/// A request for the bytes from `offset` on. With `offset` at the file's end this node needs no more of it.
fn want(index: u64, offset: u64) -> SnapshotMessage {
    SnapshotMessage::Want { index, offset }
}
