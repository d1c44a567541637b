//! The receiver's side.
//!
//! Owns the one transfer that this node takes part in as a receiver: there is one leader, and one state to be
//! replaced. Never takes a chunk that does not follow what it has, and never more of them than a window while
//! the disk is busy. It stays correct because the file is compared as a whole before it counts, so that all
//! this part has to get right is when to begin and when to give up. What came stays when the link is lost:
//! the same offer by the same node goes on there.

use super::worker::{Done, Job, JobError, TransferWorker};
use super::{
    BUSY_BEAT_NS, CHUNK_BYTES, FILE_BYTES_MAX, Failure, Outbox, Outcome, PARTIAL_KEEP_NS, PAUSE_NS, Standing,
    WINDOW_CHUNKS_MAX,
};
use crate::peers::message::SnapshotMessage;

/// Reason of a refusal while the worker's queue is full.
const BUSY: &str = "the receiver has too much to do";

/// What was offered, and by whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) from: u8,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) index_term: u64,
    pub(super) bytes: u64,
}

impl Offer {
    /// Whether it is the same file: two nodes may write the same state differently.
    fn is_same_file(&self, other: &Offer) -> bool {
        let of = |offer: &Offer| (offer.from, offer.index, offer.index_term, offer.bytes);
        of(self) == of(other)
    }
}

/// Bytes of the file.
pub(super) struct Chunk {
    pub(super) from: u8,
    pub(super) index: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Receivings {
    current: Option<Receiving>,
    /// In place since this start.
    in_place: Option<Offer>,
    /// The disk refused: nothing is taken before.
    refusing_until_ns: u64,
    /// Why this node could not keep a snapshot, until one is in place.
    failure: Option<Failure>,
    /// Whether the disk had no room for the last snapshot that this node was to take.
    lacks_room: bool,
    /// Why a sender gave up.
    given_up: Failure,
    next_number: u64,
}

struct Receiving {
    number: u64,
    offer: Offer,
    stage: Stage,
    /// Bytes handed to the helper.
    queued: u64,
    /// Bytes that it has written.
    written: u64,
    /// Chunks that it has not written yet.
    writing: usize,
    /// When something last came.
    heard_ns: u64,
    /// When the sender was last told something.
    told_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Creating,
    Taking,
    Finishing,
}

impl Receivings {
    pub(super) fn offer(
        &mut self,
        offer: &Offer,
        standing: &Standing,
        now_ns: u64,
        helper: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        if let Some(why) = objection(offer, standing) {
            return outbox.stop(offer.from, offer.index, why);
        }
        // A node whose state contains the snapshot says that it has all of it. A refusal would count as a
        // failed transfer: the leader's progress for this node would stay below the leader's log, and Raft
        // would ask for the snapshot for ever.
        let contained = offer.index <= standing.commit;
        if contained || self.in_place.is_some_and(|have| have.is_same_file(offer)) {
            return outbox.send(offer.from, want(offer.index, offer.bytes));
        }
        if now_ns < self.refusing_until_ns
            && let Some(failure) = &self.failure
        {
            return outbox.stop(offer.from, offer.index, failure.why.clone());
        }
        if let Some(current) = self.current.as_mut().filter(|c| c.offer.is_same_file(offer)) {
            // The link was lost, or an answer.
            current.offer.term = offer.term;
            current.heard_ns = now_ns;
            if current.stage != Stage::Creating {
                current.tell(now_ns, outbox);
            }
            return;
        }
        self.discard(helper);
        // A snapshot that could not be kept before is told with the next failure.
        if self.failure.as_ref().is_none_or(|failure| failure.index != offer.index) {
            tracing::info!(
                "this node is behind the log of node {}: it takes the snapshot at index {}, {} bytes",
                offer.from,
                offer.index,
                offer.bytes
            );
        }
        self.next_number += 1;
        let (transfer, index, term, bytes) = (self.next_number, offer.index, offer.index_term, offer.bytes);
        if !helper.submit(Job::Create { transfer, index, term, bytes }) {
            return outbox.stop(offer.from, offer.index, BUSY);
        }
        self.current = Some(Receiving {
            number: transfer,
            offer: *offer,
            stage: Stage::Creating,
            queued: 0,
            written: 0,
            writing: 0,
            heard_ns: now_ns,
            told_ns: now_ns,
        });
    }

    pub(super) fn chunk(
        &mut self,
        Chunk { from, index, offset, bytes }: Chunk,
        standing: &Standing,
        now_ns: u64,
        helper: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        let of = |c: &&mut Receiving| (c.offer.from, c.offer.index) == (from, index);
        let Some(current) = self.current.as_mut().filter(of) else {
            return match self.in_place {
                // It did not hear that we have everything.
                Some(have) if (have.from, have.index) == (from, index) => {
                    outbox.send(from, want(index, have.bytes));
                }
                _ => outbox.stop(from, index, "this snapshot was not asked for"),
            };
        };
        if standing.leader != u64::from(from) {
            return outbox.stop(from, index, "the sender is not the leader");
        }
        current.heard_ns = now_ns;
        // One that comes while the file is being created is written behind that: the helper keeps the order.
        let takes = current.stage != Stage::Finishing && current.writing < WINDOW_CHUNKS_MAX;
        if !takes || offset != current.queued {
            // Sent twice since our answer was lost, or behind one that was lost itself. Who is busy tells it
            // soon anyway.
            if !current.is_busy() {
                current.tell(now_ns, outbox);
            }
            return;
        }
        let length = bytes.len() as u64;
        if bytes.is_empty() || bytes.len() > CHUNK_BYTES || length > current.offer.bytes - current.queued {
            tracing::warn!("node {from} sends a chunk of {length} bytes at {offset}, which cannot be");
            outbox.stop(from, index, "a chunk of an impossible length");
            return self.discard(helper);
        }
        if helper.submit(Job::Write { transfer: current.number, offset, bytes }) {
            current.queued += length;
            current.writing += 1;
        }
    }

    /// The sender gave up. What came is kept: it may come back.
    pub(super) fn stopped(&mut self, from: u8, index: u64, why: &str, now_ns: u64) {
        let of = |c: &Receiving| (c.offer.from, c.offer.index) == (from, index);
        if self.current.as_ref().is_some_and(of)
            && let Some(more) = self.given_up.happened(index, why, now_ns)
        {
            tracing::warn!(more, "node {from} does not send the snapshot at index {index} any more: {why}");
        }
    }

    pub(super) fn done(
        &mut self,
        done: Done,
        standing: &Standing,
        now_ns: u64,
        helper: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        let Some(current) = &mut self.current else { return };
        let number = current.number;
        match done {
            Done::Created { transfer, result } if transfer == number => match result {
                Ok(()) => {
                    current.stage = Stage::Taking;
                    current.tell(now_ns, outbox);
                }
                Err(error) => self.fail(&error, now_ns, helper, outbox),
            },
            Done::Written { transfer, result } if transfer == number => match result {
                Ok(written) => {
                    current.written = written;
                    current.writing = current.writing.saturating_sub(1);
                    current.tell(now_ns, outbox);
                    if written == current.offer.bytes {
                        current.stage = Stage::Finishing;
                        if !helper.submit(Job::Finish { transfer }) {
                            let error = JobError { why: BUSY.to_owned(), no_room: false };
                            self.fail(&error, now_ns, helper, outbox);
                        }
                    }
                }
                Err(error) => self.fail(&error, now_ns, helper, outbox),
            },
            Done::Finished { transfer, result } if transfer == number => match result {
                Ok(()) => {
                    let offer = current.offer;
                    (self.current, self.in_place, self.failure) = (None, Some(offer), None);
                    self.lacks_room = false;
                    outbox.send(offer.from, want(offer.index, offer.bytes));
                    tracing::info!("the snapshot at index {} is here and durable", offer.index);
                    if offer.index > standing.commit {
                        let (index, term) = (offer.index, offer.index_term);
                        outbox.outcomes.push_back(Outcome::Received { index, term });
                    }
                }
                Err(error) => self.fail(&error, now_ns, helper, outbox),
            },
            // Of a transfer that was given up, or the sender's.
            Done::Created { .. } | Done::Written { .. } | Done::Finished { .. } => {}
            Done::Opened { .. } | Done::Read { .. } => {}
        }
    }

    pub(super) fn turn(
        &mut self,
        standing: &Standing,
        now_ns: u64,
        helper: &mut TransferWorker,
        outbox: &mut Outbox,
    ) -> Option<u64> {
        // The log brought this node on.
        self.lacks_room &= self.failure.as_ref().is_some_and(|failure| failure.index > standing.commit);
        let current = self.current.as_mut()?;
        let (from, index) = (current.offer.from, current.offer.index);
        if current.stage != Stage::Finishing {
            if index <= standing.commit {
                // The log brought this node as far. The leader may not know: acknowledgements can be lost.
                outbox.send(from, want(index, current.offer.bytes));
                self.discard(helper);
                return None;
            }
            if now_ns >= current.heard_ns + PARTIAL_KEEP_NS {
                tracing::warn!("nobody goes on with the snapshot at index {index}: its part is removed");
                self.discard(helper);
                return None;
            }
        }
        if current.is_busy() {
            if now_ns >= current.told_ns + BUSY_BEAT_NS {
                current.tell(now_ns, outbox);
            }
            return Some(current.told_ns + BUSY_BEAT_NS);
        }
        Some(current.heard_ns + PARTIAL_KEEP_NS)
    }

    /// Whether this node needs a snapshot for which its disk has no room.
    pub(super) fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    fn fail(&mut self, error: &JobError, now_ns: u64, helper: &mut TransferWorker, outbox: &mut Outbox) {
        let Some(Receiving { offer, .. }) = self.current else { return };
        let JobError { why, no_room } = error;
        self.lacks_room = *no_room;
        let failure = self.failure.get_or_insert_default();
        if let Some(more) = failure.happened(offer.index, why, now_ns) {
            tracing::error!(
                more,
                "the snapshot at index {} that node {} sends cannot be kept: {why}. It is tried again",
                offer.index,
                offer.from
            );
        }
        outbox.stop(offer.from, offer.index, why.clone());
        self.refusing_until_ns = now_ns + PAUSE_NS;
        self.discard(helper);
    }

    fn discard(&mut self, helper: &mut TransferWorker) {
        if self.current.take().is_some() {
            // A helper that has too much to do removes it with the next one, or at the next start.
            helper.submit(Job::Discard);
        }
    }
}

impl Receiving {
    /// Whether the sender has to wait for the disk.
    fn is_busy(&self) -> bool {
        self.stage != Stage::Taking || self.writing > 0
    }

    /// Tells how far it is. The last byte is acknowledged only when the file is whole and durable.
    fn tell(&mut self, now_ns: u64, outbox: &mut Outbox) {
        self.told_ns = now_ns;
        outbox.send(self.offer.from, want(self.offer.index, self.written.min(self.offer.bytes - 1)));
    }
}

/// Why an offer is not one that this node may take at all.
fn objection(offer: &Offer, standing: &Standing) -> Option<String> {
    let Standing { leader, term, .. } = standing;
    if (u64::from(offer.from), offer.term) != (*leader, *term) {
        return Some(format!("the receiver follows node {leader} in term {term}"));
    }
    let impossible = offer.bytes == 0 || offer.bytes > FILE_BYTES_MAX;
    impossible.then(|| format!("a file of {} bytes cannot be", offer.bytes))
}

/// Asks for what follows `offset`; at the file's end it says that this node needs nothing of the file any
/// more.
fn want(index: u64, offset: u64) -> SnapshotMessage {
    SnapshotMessage::Want { index, offset }
}
