//! The beat of a node, and the staleness bound from which it follows.
//!
//! Owns the interval at which shards report the sessions heard from and the leader asks the quorum to
//! confirm them. Never reads a clock. Correct because shards and consensus core compute the beat with the
//! same function.

#![forbid(unsafe_code)]

/// Default of `maxStaleness`: the product of `syncLimit` (5) and `tickTime` (2000 ms) in ZooKeeper's
/// sample files.
pub const MAX_STALENESS_NS: u64 = 10_000_000_000;

/// Upper bound of the beat.
pub const TOUCH_BEAT_MAX_NS: u64 = 1_000_000_000;

/// Time between two reports of the sessions heard from: half of `tickTime`, at most a quarter of
/// `maxStaleness`, and at most [`TOUCH_BEAT_MAX_NS`].
pub fn touch_beat_ns(tick_time_ms: u32, max_staleness_ns: u64) -> u64 {
    (u64::from(tick_time_ms) * 500_000).min(max_staleness_ns / 4).clamp(1, TOUCH_BEAT_MAX_NS)
}
