//! Uses of sessions: filling the tree, driving load, reading everything back, or idling.
//!
//! Each workload is the upper half of an engine ([`crate::session::Workload`]). It gets time and replies,
//! and gives requests. It never reads a clock and does no I/O.

pub mod idle;
pub mod load;
pub mod preload;
pub mod verify;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Shared state of the main thread and the worker threads of a run: start and end.
#[derive(Debug, Default)]
pub struct Control {
    ready: AtomicUsize,
    start_ns: AtomicU64,
    stop: AtomicBool,
}

/// Interval at which a waiting thread polls for the start. A thousandth of the shortest useful run.
pub const START_POLL_NS: u64 = 1_000_000;

impl Control {
    /// All sessions of the calling thread are established.
    pub fn announce_ready(&self) {
        self.ready.fetch_add(1, Ordering::AcqRel);
    }
    /// Number of threads whose sessions are all established.
    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }
    /// Sets the instant at which all threads begin.
    pub fn start_at(&self, ns: u64) {
        self.start_ns.store(ns.max(1), Ordering::Release);
    }
    /// The instant at which all threads begin; `None` until it is set.
    pub fn start_ns(&self) -> Option<u64> {
        Some(self.start_ns.load(Ordering::Acquire)).filter(|&ns| ns != 0)
    }
    /// Asks all threads to end the run early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
    /// Whether the run is to end early.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
