//! The log as the consensus core sees it: append, and query how far it is durable.
//!
//! Owns the flusher's thread. Never waits for a disk between [`Log::open`] and [`Log::close`]: an append
//! is a push to a bounded queue.
//! Correct because the flusher publishes a ticket, and makes its entries readable, only after they are
//! durable.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::flusher::Flusher;
use super::reader::LogReader;
use super::recovery::{self, Recovered};
use super::segment;
use super::shared::{Batch, Shared};
use super::{
    AppendError, Durable, Flushing, LogOptions, OpenError, Record, Recovery, Refusal, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, State, Ticket, record,
};

/// The write-ahead log. It has one owner; other threads use [`Log::reader`].
pub struct Log {
    shared: Arc<Shared>,
    /// Index of the last entry, durable or not.
    last: u64,
    next_ticket: u64,
    queue_bytes_max: u64,
    entry_bytes_max: u64,
    driver: Driver,
}

enum Driver {
    Thread(Option<JoinHandle<()>>),
    Manual(Box<Flusher>),
}

impl Driver {
    fn start(flusher: Flusher, flushing: Flushing) -> io::Result<Driver> {
        match flushing {
            Flushing::Manual => Ok(Driver::Manual(Box::new(flusher))),
            Flushing::Thread => {
                let thread = std::thread::Builder::new().name("paddock-flusher".to_owned());
                Ok(Driver::Thread(Some(thread.spawn(move || flusher.run())?)))
            }
        }
    }
}

impl Log {
    /// Recovers the log, or creates it. On return everything that [`Recovery`] reports is durable, and so
    /// is the record of this opening.
    pub fn open(options: LogOptions) -> Result<(Log, Recovery), OpenError> {
        check_segment_bytes(options.segment_bytes)?;
        let mut recovered = recovery::recover(&options)?;
        let plan = Plan::new(&options.dir, options.snapshot, &mut recovered)?;

        let durable = Durable { ticket: Ticket(0), index: plan.last_index, term: plan.last_term };
        let index = std::mem::take(&mut recovered.index);
        let report = Recovery {
            hard_state: recovered.hard_state,
            first_index: plan.first_index,
            last_index: plan.last_index,
            last_term: plan.last_term,
            term_before: plan.term_before,
            terms: if plan.reset { Vec::new() } else { std::mem::take(&mut recovered.terms).into() },
            created: recovered.created,
            reset_to_snapshot: plan.reset,
            cut_bytes: recovered.cut_bytes,
            segments: index.segments.len() as u64,
        };
        let shared = Arc::new(Shared::new(index, durable));
        let io = |source| OpenError::Io { path: options.dir.clone(), source };
        let mut flusher = Flusher::new(options.clone(), shared.clone(), &mut recovered).map_err(io)?;

        let mut records = vec![Record::HardState(recovered.hard_state)];
        if plan.reset {
            let (index, term) = options.snapshot;
            records.insert(0, Record::Reset { index, term });
        }
        record_opening(&mut flusher, &shared, records).map_err(io)?;

        let log = Log {
            shared,
            last: report.last_index,
            next_ticket: OPENING_TICKET.0 + 1,
            queue_bytes_max: options.queue_bytes_max,
            entry_bytes_max: options.entry_bytes_max(),
            driver: Driver::start(flusher, options.flushing).map_err(io)?,
        };
        Ok((log, report))
    }

    /// Hands records to the flusher, in order. They are durable when [`Log::durable`] reports the ticket.
    ///
    /// Takes all records or none. Panics if an entry lies beyond the last index + 1: Raft never appends such.
    pub fn append(&mut self, records: Vec<Record>) -> Result<Ticket, AppendError> {
        let bytes: u64 = records.iter().map(record::record_bytes).sum();
        if let Some(why) = self.refusal(&records, bytes) {
            return Err(AppendError { records, why });
        }
        let ticket = Ticket(self.next_ticket);
        debug_assert!(self.shared.durable_ticket() < ticket, "a ticket is durable after its append only");
        self.next_ticket += 1;
        for record in &records {
            match record {
                Record::Entry(entry) => {
                    let (index, next) = (entry.index, self.last + 1);
                    assert!(
                        index <= next,
                        "entry {index} does not continue the log, which goes on at {next}"
                    );
                    self.last = index;
                }
                Record::Reset { index, .. } => self.last = *index,
                Record::HardState(_) => {}
            }
        }
        let late = self.shared.late_bytes.load(Ordering::Acquire);
        if late > 0 {
            self.shared.late_bytes.store(late.saturating_sub(bytes), Ordering::Release);
        }
        self.shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let mut queue = self.shared.queue();
        debug_assert!(
            queue.batches.back().is_none_or(|before| before.ticket < ticket),
            "batches are in order"
        );
        queue.batches.push_back(Batch { ticket, records, bytes, written: 0 });
        drop(queue);
        self.shared.news.notify_one();
        Ok(ticket)
    }

    /// Latest durable append, with the last index and term as of that append.
    pub fn durable(&self) -> Durable {
        self.shared.durable()
    }

    /// Whether the log takes records.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// Bytes handed over and not yet durable.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes.load(Ordering::Acquire)
    }

    /// Last index of the log, durable or not.
    pub fn last_index(&self) -> u64 {
        self.last
    }

    /// Largest `data` of an entry, bytes.
    pub fn entry_bytes_max(&self) -> u64 {
        self.entry_bytes_max
    }

    /// Allows the log to drop entries below `index`, because both retained snapshots contain them.
    ///
    /// A segment is recycled when all its entries may be dropped and no map of it is left.
    pub fn truncate_prefix(&mut self, index: u64) {
        let index = index.min(self.last + 1);
        let mut queue = self.shared.queue();
        queue.truncate = Some(queue.truncate.map_or(index, |before| before.max(index)));
        drop(queue);
        self.shared.news.notify_one();
    }

    /// A reader of durable entries, for other threads.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// With [`Flushing::Manual`]: writes and syncs the queue, and tries a full disk again. Otherwise does
    /// nothing.
    pub fn flush_turn(&mut self) {
        if let Driver::Manual(flusher) = &mut self.driver {
            flusher.turn(true);
        }
    }

    /// Writes the queue, ends the flusher and returns the final state.
    ///
    /// Dropping a log with a flusher thread does the same. Dropping one with [`Flushing::Manual`] is like
    /// a crash of the process.
    pub fn close(mut self) -> State {
        if let Driver::Manual(flusher) = &mut self.driver {
            flusher.turn(true);
            flusher.close();
        }
        self.end_thread();
        self.shared.state()
    }

    fn refusal(&self, records: &[Record], bytes: u64) -> Option<Refusal> {
        let (mut has_entries, mut has_data) = (false, false);
        for record in records {
            if let Record::Entry(entry) = record {
                has_entries = true;
                has_data |= !entry.data.is_empty();
                let bytes = entry.data.len() as u64;
                if bytes > self.entry_bytes_max {
                    return Some(Refusal::TooLarge { bytes, max: self.entry_bytes_max });
                }
            }
        }
        match self.shared.state() {
            State::Failed { reason } => return Some(Refusal::Failed(reason)),
            State::WritesStopped { reason }
                if has_data && bytes > self.shared.late_bytes.load(Ordering::Acquire) =>
            {
                return Some(Refusal::WritesStopped(reason));
            }
            State::WritesStopped { .. } | State::Running => {}
        }
        // Hard states, resets and entries without data are small and rare. A batch without entries is
        // taken even when disk and queue are full. An entry without data is refused only when the queue
        // is full.
        (has_entries && !self.fits(bytes)).then_some(Refusal::Full)
    }

    fn fits(&self, bytes: u64) -> bool {
        let queued = self.queued_bytes();
        // A batch larger than the bound goes alone.
        queued == 0 || queued + bytes <= self.queue_bytes_max
    }

    fn end_thread(&mut self) {
        if let Driver::Thread(handle) = &mut self.driver
            && let Some(handle) = handle.take()
        {
            self.shared.queue().closing = true;
            self.shared.news.notify_one();
            let _ = handle.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.end_thread();
    }
}

/// Ticket of the record that each opening begins with.
const OPENING_TICKET: Ticket = Ticket(1);

fn check_segment_bytes(segment_bytes: u64) -> Result<(), OpenError> {
    if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
        return Ok(());
    }
    let what = format!("{segment_bytes} is not between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}");
    Err(OpenError::Option { option: "segment_bytes", what })
}

/// Makes the first records of this opening durable, before any append is taken.
///
/// They use up the epoch: no record that an earlier opening left beyond the cut can be taken for a new one.
fn record_opening(flusher: &mut Flusher, shared: &Shared, records: Vec<Record>) -> io::Result<()> {
    debug_assert!(shared.durable_ticket() < OPENING_TICKET && shared.queue().batches.is_empty());
    let bytes = records.iter().map(record::record_bytes).sum();
    shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
    shared.queue().batches.push_back(Batch { ticket: OPENING_TICKET, records, bytes, written: 0 });
    flusher.turn(true);
    if shared.durable_ticket() == OPENING_TICKET {
        return Ok(());
    }
    let why = match shared.state() {
        State::WritesStopped { reason } | State::Failed { reason } => reason.to_string(),
        State::Running => "the opening could not be recorded".to_owned(),
    };
    Err(io::Error::other(why))
}

/// The log's content in relation to the snapshot with which the node starts.
struct Plan {
    first_index: u64,
    last_index: u64,
    last_term: u64,
    term_before: u64,
    reset: bool,
}

impl Plan {
    fn new(dir: &Path, snapshot: (u64, u64), recovered: &mut Recovered) -> Result<Plan, OpenError> {
        let (snapshot_index, snapshot_term) = snapshot;
        if recovered.first() > snapshot_index + 1 {
            let first_index = recovered.first();
            return Err(OpenError::DoesNotReachSnapshot { dir: dir.to_owned(), first_index, snapshot_index });
        }
        // The node may have crashed after the rename of an installed snapshot and before the sync of the
        // log's reset. The snapshot is committed, so a log that ends before it or disagrees with it is
        // void.
        let disagrees = recovered.last() >= snapshot_index
            && snapshot_index > 0
            && recovered.term(snapshot_index).is_some_and(|term| term != snapshot_term);
        let reset = recovered.last() < snapshot_index || disagrees;
        let last = recovered.last();
        let state = &mut recovered.hard_state;
        state.commit = state.commit.max(snapshot_index);
        if state.term < snapshot_term {
            (state.term, state.vote) = (snapshot_term, 0);
        }
        if reset {
            state.commit = snapshot_index;
            return Ok(Plan {
                first_index: snapshot_index + 1,
                last_index: snapshot_index,
                last_term: snapshot_term,
                term_before: snapshot_term,
                reset,
            });
        }
        // Without force_sync a power cut may lose entries and keep the commit index that covers them.
        state.commit = state.commit.min(last);
        if recovered.term_before.is_none() {
            // The term before the first entry is unknown: it lay in a dropped segment. Begin at the snapshot.
            let first = snapshot_index + 1;
            let gone = first - recovered.first();
            recovered.index.forget_below(recovered.first() + gone);
            recovered.term_before = Some(snapshot_term);
        }
        let (first_index, last_index) = (recovered.first(), recovered.last());
        let last_term = recovered.term(last_index).unwrap_or(snapshot_term);
        let term_before = recovered.term_before.unwrap_or(snapshot_term);
        Ok(Plan { first_index, last_index, last_term, term_before, reset })
    }
}

const _: () = assert!(segment_min_holds_an_entry());

const fn segment_min_holds_an_entry() -> bool {
    SEGMENT_BYTES_MIN > segment::HEADER_BYTES + 2 * record::HARD_STATE_BYTES + SEGMENT_BYTES_MIN / 16 + 4096
}
