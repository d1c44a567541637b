//! Writes that were sent and not acknowledged. Jepsen calls their outcomes `:fail` (refused) and `:info`
//! (unknown).
//!
//! Owns the list for the whole run, shared by all threads behind one lock. Never judges. Correct because
//! each write is added by the thread that sent it, before the run's end decides which versions remain
//! unexplained. The list grows only with lost connections and refused writes. During the load the lock is
//! only taken for such a write, and when a znode's version is behind its number of writes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Outcome of a write that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Possibly applied: the connection was lost, or the error reply does not tell (`:info`).
    Unknown,
    /// The server refused the write, so it must not have been applied (`:fail`).
    Refused,
}

/// All writes of a run that were not acknowledged, by key.
#[derive(Debug, Default)]
pub struct UnknownWrites(Mutex<BTreeMap<u32, Vec<(u32, WriteOutcome)>>>);

impl UnknownWrites {
    /// Adds write `seq` to `key`. Called by the thread that sent the write.
    pub fn add(&self, key: u32, seq: u32, outcome: WriteOutcome) {
        self.locked().entry(key).or_default().push((seq, outcome));
    }

    /// Number of unacknowledged writes to `key` in the range `within`.
    pub fn count(&self, key: u32, within: Range<u32>) -> u32 {
        let locked = self.locked();
        let of_key = locked.get(&key).map_or(&[][..], Vec::as_slice);
        of_key.iter().filter(|(seq, _)| within.contains(seq)).count() as u32
    }

    /// Outcome of write `seq` to `key`; `None` if the write is not in the list.
    pub fn of(&self, key: u32, seq: u32) -> Option<WriteOutcome> {
        self.locked().get(&key)?.iter().find(|(of, _)| *of == seq).map(|&(_, outcome)| outcome)
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<(u32, WriteOutcome)>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
