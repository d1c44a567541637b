//! Writes that were sent and not acknowledged: refused, or of unknown outcome because their connection was lost.
//!
//! Owns them for the whole run, shared by all threads behind one lock. Never judges. It stays cheap because it is asked
//! only when a znode's version falls behind its writes, which nothing but such a write explains; and it stays bounded
//! by what the connections had in flight whenever they were lost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Why a write was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Its connection was lost, or the reply said that nobody knows: it may have been applied.
    Unknown,
    /// The server said no: it must not have been applied.
    Refused,
}

/// The doubtful writes of a run.
#[derive(Debug, Default)]
pub struct UnknownWrites(Mutex<BTreeMap<u32, Vec<(u32, WriteOutcome)>>>);

impl UnknownWrites {
    /// The `seq`th write to `key` was not acknowledged. Said by the thread that sent it.
    pub fn add(&self, key: u32, seq: u32, outcome: WriteOutcome) {
        self.locked().entry(key).or_default().push((seq, outcome));
    }

    /// How many of the writes `within` to `key` are in doubt.
    pub fn count(&self, key: u32, within: Range<u32>) -> u32 {
        let locked = self.locked();
        let of_key = locked.get(&key).map_or(&[][..], Vec::as_slice);
        of_key.iter().filter(|(seq, _)| within.contains(seq)).count() as u32
    }

    /// Whether the `seq`th write to `key` is in doubt, and why.
    pub fn of(&self, key: u32, seq: u32) -> Option<WriteOutcome> {
        self.locked().get(&key)?.iter().find(|(of, _)| *of == seq).map(|&(_, outcome)| outcome)
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<(u32, WriteOutcome)>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
