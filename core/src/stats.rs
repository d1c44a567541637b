//! Counters of one node: what each shard counts for itself, and what the consensus core tells about the whole.
//!
//! Owns every number that the four-letter words, the admin pages and the metrics show. Never is on the path between
//! two cores: a shard writes only its own cache lines, with a plain load and store, and readers add the shards up when
//! somebody asks. It stays correct because each cell has exactly one writer; a reader may see the cells at slightly
//! different moments, which no consumer of metrics can tell.

#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the cell's one writer calls this, so no read-modify-write is needed.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Takes `n` away; never below zero. Only the cell's one writer calls this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }
    /// Replaces the value.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// Raises the value to `n` if that is larger.
    pub fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }
    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a metric is called and means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Name, snake case.
    pub name: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// One sentence.
    pub help: &'static str,
}

macro_rules! cells {
    ($(#[$doc:meta])* $owner:ident { $($name:ident, $unit:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $owner { $(#[doc = $help] pub $name: Cell,)* }
        impl $owner {
            /// Name, unit and meaning of every cell, in the order of [`Self::values`].
            pub const METRICS: &'static [Metric] =
                &[$(Metric { name: stringify!($name), unit: $unit, help: $help }),*];
            /// The values, in the order of [`Self::METRICS`].
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$name.get()),*]
            }
        }
    };
}

cells! {
    /// What one shard counts. Written by that shard alone.
    ShardCells {
        connections, "connections", "Client connections open now.";
        connections_accepted, "connections", "Client connections accepted since the start.";
        connections_rejected, "connections", "Connections closed at once because their address had its full number.";
        handshakes_timed_out, "connections", "Connections closed because no session was asked for in time.";
        frames_rejected, "frames", "Frames whose length or header was impossible; each closed its connection.";
        words_answered, "words", "Four-letter words answered.";
        sessions, "sessions", "Sessions bound to a connection of this node now.";
        sessions_refused, "sessions", "Reattachments refused: unknown or expired session, or wrong password.";
        packets_received, "frames", "Frames received from clients.";
        packets_sent, "frames", "Frames sent to clients, notifications included.";
        bytes_received, "bytes", "Bytes received from clients.";
        reads_served, "requests", "Requests answered from this node's own tree.";
        writes_forwarded, "requests", "Writes and syncs handed to the consensus core.";
        outstanding, "requests", "Writes and syncs waiting for their commit now.";
        requests_malformed, "requests", "Requests that could not be decoded; answered with -5.";
        auth_failed, "requests", "Authentications refused.";
        watch_events, "events", "Watch notifications sent.";
        watch_events_filtered, "events", "Watch notifications withheld because the watcher may not read the znode.";
        watches, "watches", "Watches armed now: pairs of connection and path, each table and mode counted.";
        watched_paths, "paths", "Paths with at least one watch, counted per shard.";
        watching_connections, "connections", "Connections with at least one watch.";
        latency_count, "requests", "Requests whose latency was measured.";
        latency_sum_us, "microseconds", "Sum of measured latencies, from reading a request to writing its reply.";
        latency_max_us, "microseconds", "Largest measured latency.";
        commits_taken, "commits", "Commits taken from the commit ring.";
        submit_ring_full, "turns", "Turns in which the ring to the consensus core was full and a request stayed queued.";
        output_stalls, "events", "Times a connection was not served because its peer did not read.";
    }
}

cells! {
    /// What the consensus core tells about the node. Written by that core alone.
    NodeCells {
        znodes, "znodes", "Znodes of the tree, the root counted twice as ZooKeeper does.";
        ephemerals, "znodes", "Ephemeral znodes.";
        data_bytes, "bytes", "Approximate bytes of paths and data.";
        global_sessions, "sessions", "Sessions of the whole ensemble.";
    }
}

/// How the node takes part, as `srvr` and `mntr` name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Still starting or without a quorum: reads and writes are not served.
    NotServing = 0,
    /// A group of one.
    Standalone = 1,
    /// Leads an ensemble.
    Leader = 2,
    /// Votes and follows.
    Follower = 3,
    /// Follows without a vote.
    Observer = 4,
}

impl Mode {
    /// The word that tools parse.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::NotServing => "not serving",
            Mode::Standalone => "standalone",
            Mode::Leader => "leader",
            Mode::Follower => "follower",
            Mode::Observer => "observer",
        }
    }
    const fn from_u8(n: u8) -> Self {
        match n {
            1 => Mode::Standalone,
            2 => Mode::Leader,
            3 => Mode::Follower,
            4 => Mode::Observer,
            _ => Mode::NotServing,
        }
    }
}

/// All counters of one node.
#[derive(Debug)]
pub struct Stats {
    shards: Box<[CachePadded<ShardCells>]>,
    node: CachePadded<NodeCells>,
    mode: AtomicU8,
    zxid: AtomicI64,
    started_ms: i64,
}

impl Stats {
    /// Counters for `shards` shards of a node that started at `started_ms` (ms since the Unix epoch). The mode is
    /// [`Mode::NotServing`] until [`Stats::set_mode`].
    pub fn new(shards: usize, started_ms: i64) -> Self {
        Self {
            shards: (0..shards).map(|_| CachePadded::default()).collect(),
            node: CachePadded::default(),
            mode: AtomicU8::new(Mode::NotServing as u8),
            zxid: AtomicI64::new(0),
            started_ms,
        }
    }
    /// The cells of shard `id`; an id that does not exist is a programmer's error and panics.
    pub fn shard(&self, id: u16) -> &ShardCells {
        &self.shards[usize::from(id)]
    }
    /// The cells of every shard.
    pub fn shards(&self) -> impl Iterator<Item = &ShardCells> {
        self.shards.iter().map(|s| &**s)
    }
    /// The sum of one cell over all shards.
    pub fn sum(&self, cell: impl Fn(&ShardCells) -> &Cell) -> u64 {
        self.shards().map(|s| cell(s).get()).fold(0, u64::wrapping_add)
    }
    /// The largest value of one cell over all shards.
    pub fn max(&self, cell: impl Fn(&ShardCells) -> &Cell) -> u64 {
        self.shards().map(|s| cell(s).get()).max().unwrap_or(0)
    }
    /// What the consensus core tells.
    pub fn node(&self) -> &NodeCells {
        &self.node
    }
    /// How the node takes part now.
    pub fn mode(&self) -> Mode {
        Mode::from_u8(self.mode.load(Relaxed))
    }
    /// Tells how the node takes part; called by the consensus core.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Relaxed);
    }
    /// Last applied zxid.
    pub fn zxid(&self) -> i64 {
        self.zxid.load(Relaxed)
    }
    /// Tells the last applied zxid; called by the consensus core.
    pub fn set_zxid(&self, zxid: i64) {
        self.zxid.store(zxid, Relaxed);
    }
    /// When the node started, ms since the Unix epoch.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_metrics_share_a_name_and_each_says_what_it_is() {
        let mut seen = HashSet::new();
        for m in ShardCells::METRICS.iter().chain(NodeCells::METRICS) {
            assert!(seen.insert(m.name), "{} is declared twice", m.name);
            assert!(m.help.ends_with('.') && !m.unit.is_empty(), "{}", m.name);
        }
    }

    #[test]
    fn sums_add_the_shards_and_a_gauge_never_wraps_below_zero() {
        let stats = Stats::new(3, 0);
        stats.shard(0).connections.add(2);
        stats.shard(2).connections.add(5);
        assert_eq!(stats.sum(|s| &s.connections), 7);
        stats.shard(2).connections.sub(9);
        assert_eq!(stats.sum(|s| &s.connections), 2);
        assert_eq!(stats.mode(), Mode::NotServing);
        stats.set_mode(Mode::Standalone);
        assert_eq!(stats.mode().name(), "standalone");
    }
}
