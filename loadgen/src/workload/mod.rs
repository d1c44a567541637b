//! What sessions are used for: filling the tree, driving load, reading everything back, or just being there.
//!
//! Each workload is an engine's upper half ([`crate::session::Workload`]): it is given time and replies and leaves
//! requests; it reads no clock and does no I/O.

pub mod idle;
pub mod load;
pub mod preload;
pub mod verify;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// How the threads of a run and the one that leads them keep together.
#[derive(Debug, Default)]
pub struct Control {
    ready: AtomicUsize,
    start_ns: AtomicU64,
    stop: AtomicBool,
}

/// How often a thread that waits for the start looks whether it has come. A thousandth of the shortest useful run.
pub const START_POLL_NS: u64 = 1_000_000;

impl Control {
    /// A thread's sessions all stand.
    pub fn announce_ready(&self) {
        self.ready.fetch_add(1, Ordering::AcqRel);
    }
    /// Threads whose sessions all stand.
    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }
    /// Everybody begins at this time.
    pub fn start_at(&self, ns: u64) {
        self.start_ns.store(ns.max(1), Ordering::Release);
    }
    /// When to begin, once that is known.
    pub fn start_ns(&self) -> Option<u64> {
        Some(self.start_ns.load(Ordering::Acquire)).filter(|&ns| ns != 0)
    }
    /// Ends the run early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
    /// Whether the run is to end early.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
