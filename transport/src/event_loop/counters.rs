//! What a loop has done, for metrics and benchmarks.
//!
//! Owned and written by the loop's thread alone, with plain stores; read by anyone, a little late. Never shared on write.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the loop began to run.
#[derive(Debug, Default)]
pub struct LoopCounters {
    pub(crate) turns: Count,
    pub(crate) long_turns: Count,
    pub(crate) system_calls: Count,
    pub(crate) sleeps: Count,
    pub(crate) opened: Count,
    pub(crate) closed: Count,
}

impl LoopCounters {
    /// Turns of the engine.
    pub fn turns(&self) -> u64 {
        self.turns.get()
    }
    /// Those whose output was looked at again before it left, since they had taken long.
    pub fn long_turns(&self) -> u64 {
        self.long_turns.get()
    }
    /// System calls made to wait, receive and send; not those that open and close connections.
    pub fn system_calls(&self) -> u64 {
        self.system_calls.get()
    }
    /// Times the loop went to sleep.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.get()
    }
    /// Connections that were accepted, adopted or established.
    pub fn opened(&self) -> u64 {
        self.opened.get()
    }
    /// Connections that ended, attempts to connect that failed included.
    pub fn closed(&self) -> u64 {
        self.closed.get()
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Only the loop's thread calls this: a load and a store, no read-modify-write.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
