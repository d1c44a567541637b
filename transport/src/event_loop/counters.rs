//! Counters of a loop, for metrics and benchmarks.
//!
//! Owns one set of counts per loop. Never shares a write: only the loop's thread stores. Readers on other
//! threads may see a value slightly late.

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
    /// How often the loop called `Engine::turn`.
    pub fn turns(&self) -> u64 {
        self.turns.get()
    }
    /// Turns with output that took at least [`crate::engine::LONG_TURN_NS`], after which the loop called
    /// `Engine::late`.
    pub fn long_turns(&self) -> u64 {
        self.long_turns.get()
    }
    /// System calls made to wait, receive and send. Calls that open and close connections are not counted.
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
    /// Connections that ended, failed attempts to connect included.
    pub fn closed(&self) -> u64 {
        self.closed.get()
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds with a load and a store, not a read-modify-write: only the loop's thread may call this.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
