//! State shared by the core, the flusher and the readers of one log.
//!
//! Owns the queue to the flusher, the index of durable entries and the published progress.
//! Never holds a lock across a disk operation: each lock covers a few pointer moves.
//! Correct because only the flusher changes index and progress, and it publishes an entry's slot after
//! the sync that made the entry durable.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::segment::{Segment, Spare};
use super::{Durable, Record, State, Ticket};

/// Records of one append on their way to the disk.
pub(crate) struct Batch {
    pub ticket: Ticket,
    pub records: Vec<Record>,
    /// Encoded size of all records, which counts towards the queue's bound.
    pub bytes: u64,
    /// Number of records already encoded; a batch may cross a segment's end.
    pub written: usize,
}

/// Work for the flusher.
#[derive(Default)]
pub(crate) struct Queue {
    pub batches: VecDeque<Batch>,
    /// Entries below this index are no longer needed.
    pub truncate: Option<u64>,
    /// Result of the thread that fills a spare file.
    pub prepared: Option<io::Result<Spare>>,
    /// The flusher ends after the queued batches.
    pub closing: bool,
}

/// Record of a durable entry: its log position and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub position: u64,
    /// Length of the encoded record.
    pub bytes: u32,
}

/// The durable entries, by index.
#[derive(Default)]
pub(crate) struct Index {
    /// Raft index of the entry in `slots[0]`.
    pub first: u64,
    pub slots: VecDeque<Slot>,
    /// Segments in order of generation; the last one is active.
    pub segments: VecDeque<Arc<Segment>>,
}

impl Index {
    /// Raft index after the last entry.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Removes the entry at `index` and all after it.
    pub(crate) fn supersede(&mut self, index: u64) {
        debug_assert!(index <= self.next(), "an entry continues the log or supersedes a suffix");
        self.slots.truncate(index.saturating_sub(self.first) as usize);
        if index < self.first {
            self.first = index;
        }
        debug_assert_eq!(self.next(), index);
    }

    /// Removes all entries below `index`.
    pub(crate) fn forget_below(&mut self, index: u64) {
        let gone = index.saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.first += gone;
    }

    /// The segment in which `position` lies.
    pub(crate) fn segment_of(&self, position: u64) -> Option<&Arc<Segment>> {
        let after = self.segments.partition_point(|segment| segment.header.base <= position);
        self.segments.get(after.checked_sub(1)?)
    }
}

const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const FAILED: u8 = 2;

pub(crate) struct Shared {
    queue: Mutex<Queue>,
    pub news: Condvar,
    index: Mutex<Index>,
    durable: Mutex<Durable>,
    /// Copy of `durable.ticket`, which the core reads without a lock.
    durable_ticket: AtomicU64,
    pub queued_bytes: AtomicU64,
    /// While writes are stopped: bytes of entries with data for which the active segment has room.
    pub late_bytes: AtomicU64,
    state: AtomicU8,
    reason: Mutex<Arc<str>>,
}

impl Shared {
    pub(crate) fn new(index: Index, durable: Durable) -> Shared {
        Shared {
            queue: Mutex::default(),
            news: Condvar::new(),
            index: Mutex::new(index),
            durable: Mutex::new(durable),
            durable_ticket: AtomicU64::new(durable.ticket.0),
            queued_bytes: AtomicU64::new(0),
            late_bytes: AtomicU64::new(0),
            state: AtomicU8::new(RUNNING),
            reason: Mutex::new("".into()),
        }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> Durable {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable_ticket(&self) -> Ticket {
        Ticket(self.durable_ticket.load(Ordering::Acquire))
    }

    pub(crate) fn publish(&self, durable: Durable) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = durable;
        self.durable_ticket.store(durable.ticket.0, Ordering::Release);
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            RUNNING => State::Running,
            STOPPED => State::WritesStopped { reason: self.reason() },
            _ => State::Failed { reason: self.reason() },
        }
    }

    /// Sets the state and returns whether it changed. `Failed` is final.
    pub(crate) fn set_state(&self, state: State) -> bool {
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state.load(Ordering::Relaxed);
        let (after, text) = match state {
            State::Running => (RUNNING, "".into()),
            State::WritesStopped { reason } => (STOPPED, reason),
            State::Failed { reason } => (FAILED, reason),
        };
        if before == FAILED || (before == after && *reason == text) {
            return false;
        }
        if after == RUNNING {
            self.late_bytes.store(0, Ordering::Release);
        }
        *reason = text;
        self.state.store(after, Ordering::Release);
        true
    }

    fn reason(&self) -> Arc<str> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
