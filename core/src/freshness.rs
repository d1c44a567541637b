//! Freshness of a node: what the consensus core tells its shards about the quorum's confirmations.
//!
//! Owns a few times that the core writes and every shard reads.
//!
//! Never decides anything: the core confirms, and a shard acts on it at the top of its turns.
//!
//! Correct because the core stores a confirmation only after the commits up to the confirmed index are in
//! the commit ring. A shard loads it before it takes commits, so a shard that sees the confirmation sees
//! the commits.

#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// Always up to date: a node that is the only voter needs no confirmation.
pub const ALWAYS: u64 = u64::MAX;

/// Confirmations of one node. Times are `Now::mono_ns` of that node.
#[derive(Debug)]
pub struct Freshness {
    /// Time up to which the quorum confirmed that this node has applied every commit.
    fresh_ns: CachePadded<AtomicU64>,
    /// Per shard: the leader has every report that the shard made at or before this time.
    reports_ns: Box<[CachePadded<AtomicU64>]>,
}

impl Freshness {
    /// Starts with no confirmation.
    pub fn new(shards: usize) -> Self {
        Self {
            fresh_ns: CachePadded::default(),
            reports_ns: (0..shards).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Time at which the node was up to date. 0: never. [`ALWAYS`]: it needs no confirmation.
    pub fn fresh_ns(&self) -> u64 {
        self.fresh_ns.load(Ordering::Acquire)
    }

    /// Time up to which the shard's reports of active sessions are confirmed; 0: none.
    pub fn reports_ns(&self, shard: u16) -> u64 {
        self.reports_ns[usize::from(shard)].load(Ordering::Acquire)
    }

    /// For the core: everything committed at `at_ns` is in the commit ring.
    pub fn confirm(&self, at_ns: u64) {
        self.fresh_ns.store(at_ns, Ordering::Release);
    }

    /// For the core: the leader has the shard's reports up to the one made at `at_ns`.
    pub fn confirm_reports(&self, shard: u16, at_ns: u64) {
        self.reports_ns[usize::from(shard)].store(at_ns, Ordering::Release);
    }
}
