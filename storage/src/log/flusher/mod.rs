//! The only writer of the log: takes the queue, writes it as one group, syncs once, publishes.
//!
//! Owns the active segment, the spare files and the retired segments.
//! Never retries a failed write or sync, because the kernel may have marked pages clean that are not on
//! the disk. The log has failed from then on.
//! Correct when the disk fills up, because space for the next segment is reserved before it is needed.
//! Without a spare, [`super::Log::append`] refuses entries while the active segment still holds all that
//! was accepted. Hard states and entries without data fit for long after that.
//! Correct across a rotation, because a segment is synced before the next segment's header is written.

#![forbid(unsafe_code)]

mod spares;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use rkyv::util::AlignedVec;

use super::record::{self, RecordPlace};
use super::recovery::Recovered;
use super::segment::{self, HEADER_BYTES, Header, Segment, Spare};
use super::shared::{Batch, Shared, Slot};
use super::{Durable, HardState, LogOptions, ROOM_RETRY_INTERVAL, Record, State};

/// Bytes written and synced as one group. A bigger group delays its first ticket more than it saves syncs.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Why the log cannot go on: a text for the operator.
struct Failure(String);

/// Whether a record fits the active segment, or the one after a rotation.
#[derive(PartialEq, Eq)]
enum Fit {
    Fits,
    NoSegment,
}

/// A change of the shared index, published in order after the group's sync.
enum Change {
    Entry { index: u64, slot: Slot },
    Reset { index: u64 },
    Segment(Arc<Segment>),
}

pub(crate) struct Flusher {
    options: LogOptions,
    shared: Arc<Shared>,
    active: Arc<Segment>,
    /// File offset in the active segment at which `buffer` will be written.
    offset: u64,
    buffer: AlignedVec<16>,
    /// Whether bytes before `offset` were written after the last sync.
    unsynced: bool,
    /// Log position up to which the log is synced.
    synced: u64,
    epoch: u32,
    hard_state: HardState,
    last_index: u64,
    last_term: u64,
    /// Progress that the next publication reports: the last batch that was encoded completely.
    done: Durable,
    changes: Vec<Change>,
    /// Batches taken from the queue and not completely encoded.
    backlog: VecDeque<Batch>,
    /// Bytes of batches that the next publication completes.
    completed_bytes: u64,
    spares: Vec<Spare>,
    next_spare: u64,
    filling: Option<JoinHandle<()>>,
    /// Segments removed from the index, oldest first; reused when no map of them is left.
    retired: VecDeque<Arc<Segment>>,
    /// Entries below this index are not needed.
    needed_from: u64,
    /// A reset was written to this generation: older ones are not needed.
    needed_generation: u64,
    failed: bool,
    news: bool,
}

impl Flusher {
    pub(crate) fn new(
        options: LogOptions,
        shared: Arc<Shared>,
        recovered: &mut Recovered,
    ) -> io::Result<Flusher> {
        let Some(active) = shared.index().segments.back().cloned() else {
            return Err(io::Error::other("a recovered log has a segment"));
        };
        Ok(Flusher {
            offset: active.offset(recovered.end),
            active,
            buffer: AlignedVec::new(),
            unsynced: false,
            synced: recovered.end,
            epoch: recovered.epoch + 1,
            hard_state: recovered.hard_state,
            last_index: shared.durable().index,
            last_term: shared.durable().term,
            done: shared.durable(),
            changes: Vec::new(),
            backlog: VecDeque::new(),
            completed_bytes: 0,
            spares: std::mem::take(&mut recovered.spares),
            next_spare: recovered.next_spare,
            filling: None,
            retired: VecDeque::new(),
            needed_from: 0,
            needed_generation: 0,
            failed: false,
            news: false,
            options,
            shared,
        })
    }

    /// Runs until the log is closed or fails.
    pub(crate) fn run(mut self) {
        let mut tried = Instant::now();
        loop {
            let closing = self.wait();
            // Trying a full disk costs system calls: it is tried at the interval, not at every append.
            let retry = tried.elapsed() >= ROOM_RETRY_INTERVAL;
            if retry {
                tried = Instant::now();
            }
            self.turn(retry);
            if self.failed || closing {
                self.close();
                return;
            }
        }
    }

    /// Waits for work; returns whether the log is being closed.
    fn wait(&self) -> bool {
        let stopped = self.shared.state() != State::Running;
        let mut queue = self.shared.queue();
        while queue.batches.is_empty()
            && queue.truncate.is_none()
            && queue.prepared.is_none()
            && !queue.closing
        {
            if stopped || !self.retired.is_empty() {
                let (guard, timeout) = match self.shared.news.wait_timeout(queue, ROOM_RETRY_INTERVAL) {
                    Ok(woken) => woken,
                    Err(poisoned) => poisoned.into_inner(),
                };
                queue = guard;
                if timeout.timed_out() {
                    break;
                }
            } else {
                queue = match self.shared.news.wait(queue) {
                    Ok(guard) => guard,
                    Err(poisoned) => poisoned.into_inner(),
                };
            }
        }
        queue.closing
    }

    /// Writes and syncs the queue. With `retry` a full disk may be tried again.
    pub(crate) fn turn(&mut self, retry: bool) {
        if self.failed {
            return;
        }
        if let Err(Failure(reason)) = self.try_turn(retry) {
            self.failed = true;
            self.backlog.clear();
            tracing::error!(%reason, "the log has failed");
            self.news |= self.shared.set_state(State::Failed { reason: reason.into() });
        }
        if std::mem::take(&mut self.news) {
            (self.options.wake)();
        }
    }

    /// Ends the log with one more hard state, whose `durable_to` tells the next start how far the log was
    /// durable.
    pub(crate) fn close(&mut self) {
        if !self.failed && self.backlog.is_empty() {
            let room = self.active.header.file_bytes - self.offset;
            if room >= record::HARD_STATE_BYTES {
                let state = Record::HardState(self.hard_state);
                self.encode(&state);
            }
            if let Err(Failure(reason)) = self.write_out(true) {
                self.failed = true;
                self.shared.set_state(State::Failed { reason: reason.into() });
            }
        }
        if let Some(filling) = self.filling.take() {
            let _ = filling.join();
        }
    }

    fn try_turn(&mut self, mut retry: bool) -> Result<(), Failure> {
        let prepared = {
            let mut queue = self.shared.queue();
            self.backlog.append(&mut queue.batches);
            if let Some(index) = queue.truncate.take() {
                self.needed_from = self.needed_from.max(index);
            }
            queue.prepared.take()
        };
        if let Some(prepared) = prepared {
            self.prepared(prepared);
        }
        'batches: while let Some(mut batch) = self.backlog.pop_front() {
            while let Some(record) = batch.records.get(batch.written) {
                if self.put(record, &mut retry)? == Fit::NoSegment {
                    self.backlog.push_front(batch);
                    break 'batches;
                }
                batch.written += 1;
            }
            self.done = Durable { ticket: batch.ticket, index: self.last_index, term: self.last_term };
            self.completed_bytes += batch.bytes;
            if self.buffer.len() >= GROUP_BYTES_MAX {
                self.write_out(self.options.force_sync)?;
                self.publish();
            }
        }
        self.write_out(self.options.force_sync)?;
        self.publish();
        self.retire()?;
        self.keep_spare(retry);
        Ok(())
    }

    /// Encodes one record into the group, after a rotation if the active segment has no room for it.
    fn put(&mut self, record: &Record, retry: &mut bool) -> Result<Fit, Failure> {
        let bytes = record::record_bytes(record);
        let file_bytes = self.active.header.file_bytes;
        let limit = match record {
            Record::Entry(entry) if !entry.data.is_empty() => file_bytes - segment::reserve(file_bytes),
            Record::Entry(_) | Record::HardState(_) | Record::Reset { .. } => file_bytes,
        };
        if self.end() + bytes > limit && self.rotate(retry)? == Fit::NoSegment {
            return Ok(Fit::NoSegment);
        }
        let position = self.encode(record);
        match record {
            Record::Entry(entry) => {
                self.last_index = entry.index;
                self.last_term = entry.term;
                self.active.highest_index.fetch_max(entry.index, Ordering::Relaxed);
                let slot = Slot { position, bytes: bytes as u32 };
                self.changes.push(Change::Entry { index: entry.index, slot });
            }
            Record::HardState(state) => self.hard_state = *state,
            Record::Reset { index, term } => {
                self.last_index = *index;
                self.last_term = *term;
                self.needed_generation = self.active.header.generation;
                self.changes.push(Change::Reset { index: *index });
            }
        }
        Ok(Fit::Fits)
    }

    /// Appends a record to the group; returns its log position.
    fn encode(&mut self, record: &Record) -> u64 {
        let header = &self.active.header;
        let position = self.active.position(self.end());
        debug_assert!(self.synced <= position, "recovery refuses a record that claims to be durable itself");
        let place = RecordPlace { salt: header.salt, generation: header.generation, position };
        record::encode(&mut self.buffer, record, place, self.epoch, self.synced);
        debug_assert!(self.end() <= self.active.header.file_bytes, "a segment never grows");
        position
    }

    /// File offset in the active segment behind the group.
    fn end(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Writes the group and, if asked, syncs it.
    fn write_out(&mut self, sync: bool) -> Result<(), Failure> {
        let failure = |what: &str, path: &Path, error: io::Error| {
            Failure(format!(
                "{what} {} failed: {error}; stop the process, it recovers at its next start",
                path.display()
            ))
        };
        if !self.buffer.is_empty() {
            self.active
                .file
                .write_at(&self.buffer, self.offset)
                .map_err(|error| failure("writing", &self.active.path, error))?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            self.unsynced = true;
        }
        debug_assert!(self.buffer.is_empty());
        if sync && self.unsynced {
            // The file was filled before it became a segment: its size and extents do not change.
            self.active.file.sync_data().map_err(|error| failure("syncing", &self.active.path, error))?;
            self.unsynced = false;
            self.synced = self.active.position(self.offset);
        }
        debug_assert!(
            self.unsynced || self.synced == self.active.position(self.offset),
            "all that is written is synced, or marked as not synced"
        );
        Ok(())
    }

    /// Publishes what is durable now: index, queued bytes and ticket.
    fn publish(&mut self) {
        debug_assert!(self.buffer.is_empty(), "publishing follows writing");
        debug_assert!(!self.unsynced || !self.options.force_sync, "publishing follows the sync");
        if !self.changes.is_empty() {
            let mut index = self.shared.index();
            for change in self.changes.drain(..) {
                match change {
                    Change::Entry { index: at, slot } => {
                        index.supersede(at);
                        index.slots.push_back(slot);
                    }
                    Change::Reset { index: at } => {
                        index.slots.clear();
                        index.first = at + 1;
                    }
                    Change::Segment(segment) => index.segments.push_back(segment),
                }
            }
        }
        if self.completed_bytes > 0 {
            let before = self.shared.queued_bytes.fetch_sub(self.completed_bytes, Ordering::AcqRel);
            debug_assert!(before >= self.completed_bytes, "bytes are counted before they are queued");
            self.completed_bytes = 0;
        }
        debug_assert!(self.shared.durable_ticket() <= self.done.ticket, "tickets become durable in order");
        if self.shared.durable_ticket() != self.done.ticket {
            self.shared.publish(self.done);
            self.news = true;
        }
    }

    /// Seals the active segment and begins the next one with the hard state at its head.
    fn rotate(&mut self, retry: &mut bool) -> Result<Fit, Failure> {
        if self.spares.is_empty() && !self.obtain_spare(retry) {
            return Ok(Fit::NoSegment);
        }
        let Some(spare) = self.spares.pop() else { return Ok(Fit::NoSegment) };
        // Even without force_sync: recovery takes a later segment's header as proof that this one was synced.
        self.write_out(true)?;
        debug_assert!(!self.unsynced && self.buffer.is_empty(), "the sealed segment is durable");
        let header = Header {
            generation: self.active.header.generation + 1,
            base: self.synced,
            first_index: self.last_index + 1,
            previous_term: self.last_term,
            salt: self.active.header.salt,
            file_bytes: spare.file_bytes,
        };
        let segment = segment::begin_segment(&*self.options.disk, &self.options.dir, &spare, header)
            .map_err(|(path, error)| Failure(format!("beginning {} failed: {error}", path.display())))?;
        self.active = Arc::new(segment);
        self.offset = HEADER_BYTES;
        self.changes.push(Change::Segment(self.active.clone()));
        let state = Record::HardState(self.hard_state);
        self.encode(&state);
        debug_assert_eq!(self.synced, self.active.header.base, "a segment begins where the log is synced");
        Ok(Fit::Fits)
    }

    /// Removes segments that are not needed from the index, and reuses those without a map.
    fn retire(&mut self) -> Result<(), Failure> {
        let mut gone = Vec::new();
        {
            let mut index = self.shared.index();
            index.forget_below(self.needed_from);
            while index.segments.len() > 1
                && index.segments.front().is_some_and(|segment| {
                    segment.header.generation < self.needed_generation
                        || segment.highest_index.load(Ordering::Relaxed) < self.needed_from
                })
            {
                gone.extend(index.segments.pop_front());
            }
            debug_assert!(
                index.segments.back().is_some_and(|last| Arc::ptr_eq(last, &self.active)),
                "the active segment is never retired"
            );
        }
        if !gone.is_empty() {
            // The segment that is now the first must hold a durable hard state before the older ones go.
            self.write_out(true)?;
            debug_assert!(!self.unsynced);
            self.retired.extend(gone);
            debug_assert!(
                self.retired.iter().is_sorted_by(|a, b| a.header.generation + 1 == b.header.generation),
                "generations are retired in order, without a gap"
            );
        }
        // In order only: after a crash a gap in the generations would look like a lost segment.
        while let Some(segment) = self.retired.front_mut() {
            if !segment.unmapped() {
                break;
            }
            let Some(segment) = self.retired.pop_front() else { break };
            self.recycle(&segment)
                .map_err(|error| Failure(format!("recycling {} failed: {error}", segment.path.display())))?;
        }
        Ok(())
    }
}
