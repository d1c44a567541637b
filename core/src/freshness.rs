//! How fresh a node is: what the consensus core tells its shards about the quorum.
//!
//! Owns a few numbers that the core writes and every shard reads. Never decides anything: the core confirms, a shard
//! draws the consequences at the top of its turns. It stays correct because the core stores a confirmation only after the
//! commits up to the confirmed index are in the commit ring, and a shard loads it before it takes commits: whoever sees
//! the confirmation sees the commits.

#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for «always»: a group of one that leads itself needs nobody's confirmation.
pub const ALWAYS: u64 = u64::MAX;

/// One node's account. Times are `Now::mono_ns` of that node.
#[derive(Debug)]
pub struct Freshness {
    /// The quorum confirmed that this node has applied all that was committed at this time.
    fresh_ns: CachePadded<AtomicU64>,
    /// By shard: the leader has heard every report that the shard made at or before this time.
    reports_ns: Box<[CachePadded<AtomicU64>]>,
}

impl Freshness {
    /// Nothing is confirmed yet.
    pub fn new(shards: usize) -> Self {
        Self {
            fresh_ns: CachePadded::default(),
            reports_ns: (0..shards).map(|_| CachePadded::default()).collect(),
        }
    }

    /// When the node was confirmed to be up to date; 0: never, [`ALWAYS`]: it needs no confirmation.
    pub fn fresh_ns(&self) -> u64 {
        self.fresh_ns.load(Ordering::Acquire)
    }

    /// Up to when the shard's reports of sessions heard from are confirmed.
    pub fn reports_ns(&self, shard: u16) -> u64 {
        self.reports_ns[usize::from(shard)].load(Ordering::Acquire)
    }

    /// The core's: everything committed at `at_ns` is in the commit ring.
    pub fn confirm(&self, at_ns: u64) {
        self.fresh_ns.store(at_ns, Ordering::Release);
    }

    /// The core's: the leader has the shard's reports up to the one made at `at_ns`.
    pub fn confirm_reports(&self, shard: u16, at_ns: u64) {
        self.reports_ns[usize::from(shard)].store(at_ns, Ordering::Release);
    }
}
