//! Counters of one node: those of each shard, and those of the consensus core for the whole node.
//!
//! Owns every number in the four-letter words, the admin pages and the metrics.
//! Never lets one core wait for another: a shard writes only its own cache lines, with a plain load and
//! store. Readers sum the shards on request.
//! Correct because each cell has exactly one writer. A reader may see cells at slightly different moments,
//! which metrics tolerate.

#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the cell's one writer calls this, so no read-modify-write is needed.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Subtracts `n`, saturating at zero. Only the cell's one writer calls this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// Raises the value to `n` if `n` is larger.
    pub fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Description of one metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// In snake case.
    pub name: &'static str,
    pub unit: &'static str,
    /// Meaning of the value, in one sentence.
    pub help: &'static str,
}

macro_rules! cells {
    ($(#[$doc:meta])* $owner:ident { $($name:ident, $unit:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $owner { $(#[doc = $help] pub $name: Cell,)* }
        impl $owner {
            /// Descriptions of all cells, in the order of [`Self::values`].
            pub const METRICS: &'static [Metric] =
                &[$(Metric { name: stringify!($name), unit: $unit, help: $help }),*];
            /// Current values, in the order of [`Self::METRICS`].
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$name.get()),*]
            }
        }
    };
}

cells! {
    /// Counters of one shard. Only that shard writes them.
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
        stale_closed, "connections", "Connections closed because the quorum had not confirmed this node for longer than maxStaleness.";
        leases_run_out, "connections", "Connections closed because the quorum had not confirmed their session for its whole timeout.";
        read_only_sessions, "sessions", "Sessions of read-only clients granted while the node was out of quorum.";
        read_rounds, "rounds", "Rounds asked of the quorum for linearizable reads.";
        submit_ring_full, "turns", "Turns in which the ring to the consensus core was full and a request stayed queued.";
        output_stalls, "events", "Times a connection was not served because its peer did not read.";
    }
}

cells! {
    /// Counters of the whole node. Only the consensus core writes them.
    NodeCells {
        znodes, "znodes", "Znodes of the tree, the root counted twice as ZooKeeper does.";
        ephemerals, "znodes", "Ephemeral znodes.";
        data_bytes, "bytes", "Approximate bytes of paths and data.";
        global_sessions, "sessions", "Sessions of the whole ensemble.";
        node_id, "number", "Number of this node within the ensemble; 1 when standalone.";
        leader_id, "number", "Number of the node that leads, as far as this one knows; 0: none.";
        term, "terms", "Raft term of this node.";
        commit_index, "entries", "Index of the last log entry known to be committed.";
        applied_index, "entries", "Index of the last log entry applied here.";
        lag_entries, "entries", "Entries that the leader has committed, as far as known, and this node has not applied.";
        disk_full, "boolean", "1 while this node's log has no room for another segment; 0: it has.";
        elections, "elections", "Changes of leader seen since the start.";
        quorum_size, "nodes", "Voters of the ensemble.";
        followers, "nodes", "On the leader: other voters in the membership.";
        synced_followers, "nodes", "On the leader: other voters that are connected and replicate.";
        observers, "nodes", "On the leader: observers in the membership.";
        synced_observers, "nodes", "On the leader: observers that are connected and replicate.";
        left_behind, "nodes", "On the leader: members that miss entries and have acknowledged none for 10 s.";
        pending_syncs, "requests", "On the leader: syncs and linearizable reads waiting for a round.";
        leading_since_ms, "milliseconds", "On the leader: when it began to lead, since the Unix epoch; 0: it does not.";
        proposal_bytes_last, "bytes", "On the leader: size of the last proposal; 0: none since it leads.";
        proposal_bytes_min, "bytes", "On the leader: smallest proposal since it leads.";
        proposal_bytes_max, "bytes", "On the leader: largest proposal since it leads.";
    }
}

/// The node's part in its ensemble, as `srvr` and `mntr` name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ServerState {
    /// Starting: the node never knew a leader. A node that loses its leader keeps its last state.
    /// [`crate::freshness::Freshness`] says how long it serves.
    NotServing = 0,
    /// The only voter of a standalone node.
    Standalone = 1,
    Leader = 2,
    /// A voter that does not lead.
    Follower = 3,
    /// A node without a vote.
    Observer = 4,
}

impl ServerState {
    /// ZooKeeper's word for the state, which tools parse.
    pub const fn name(self) -> &'static str {
        match self {
            ServerState::NotServing => "not serving",
            ServerState::Standalone => "standalone",
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Observer => "observer",
        }
    }
    const fn from_u8(n: u8) -> Self {
        match n {
            1 => ServerState::Standalone,
            2 => ServerState::Leader,
            3 => ServerState::Follower,
            4 => ServerState::Observer,
            _ => ServerState::NotServing,
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
    /// Only operators read these, so a lock is never on the path of a request.
    texts: Mutex<Texts>,
}

/// Texts that the consensus core provides.
#[derive(Debug, Default)]
struct Texts {
    write_block: String,
    membership_wait: String,
    left_behind: String,
    membership: String,
}

impl Stats {
    /// Counters of a node that started at `started_ms` (ms since the Unix epoch), in state
    /// [`ServerState::NotServing`].
    pub fn new(shards: usize, started_ms: i64) -> Self {
        Self {
            shards: (0..shards).map(|_| CachePadded::default()).collect(),
            node: CachePadded::default(),
            mode: AtomicU8::new(ServerState::NotServing as u8),
            zxid: AtomicI64::new(0),
            started_ms,
            texts: Mutex::default(),
        }
    }
    /// Panics if there is no shard `id`.
    pub fn shard(&self, id: u16) -> &ShardCells {
        &self.shards[usize::from(id)]
    }
    pub fn shards(&self) -> impl Iterator<Item = &ShardCells> {
        self.shards.iter().map(|s| &**s)
    }
    /// Sum of one cell over all shards.
    pub fn sum(&self, cell: impl Fn(&ShardCells) -> &Cell) -> u64 {
        self.shards().map(|s| cell(s).get()).fold(0, u64::wrapping_add)
    }
    /// Largest value of one cell over all shards.
    pub fn max(&self, cell: impl Fn(&ShardCells) -> &Cell) -> u64 {
        self.shards().map(|s| cell(s).get()).max().unwrap_or(0)
    }
    /// Counters that the consensus core writes.
    pub fn node(&self) -> &NodeCells {
        &self.node
    }
    pub fn mode(&self) -> ServerState {
        ServerState::from_u8(self.mode.load(Relaxed))
    }
    /// Called by the consensus core.
    pub fn set_mode(&self, mode: ServerState) {
        self.mode.store(mode as u8, Relaxed);
    }
    /// Last applied zxid.
    pub fn zxid(&self) -> i64 {
        self.zxid.load(Relaxed)
    }
    /// Called by the consensus core.
    pub fn set_zxid(&self, zxid: i64) {
        self.zxid.store(zxid, Relaxed);
    }
    /// Why no write is accepted, such as `no leader: 2 of 5 voters reachable`; empty while writes are
    /// accepted.
    pub fn write_block(&self) -> String {
        self.texts().write_block.clone()
    }
    /// Called by the consensus core, with an empty text when writes are accepted.
    pub fn set_write_block(&self, reason: &str) {
        reason.clone_into(&mut self.texts().write_block);
    }
    /// On the leader: what a membership change waits for, or which members have no vote yet; empty: neither.
    pub fn membership_wait(&self) -> String {
        self.texts().membership_wait.clone()
    }
    /// Called by the consensus core.
    pub fn set_membership_wait(&self, text: &str) {
        text.clone_into(&mut self.texts().membership_wait);
    }
    /// On the leader: members that miss entries and acknowledge none, how far behind each is, and why;
    /// empty: none.
    pub fn left_behind(&self) -> String {
        self.texts().left_behind.clone()
    }
    /// Called by the consensus core.
    pub fn set_left_behind(&self, text: &str) {
        text.clone_into(&mut self.texts().left_behind);
    }
    /// The membership as in `/zookeeper/config`; empty on a standalone node.
    pub fn membership(&self) -> String {
        self.texts().membership.clone()
    }
    /// Called by the consensus core when the membership has changed.
    pub fn set_membership(&self, text: String) {
        self.texts().membership = text;
    }
    /// Counts a proposal of the leader. Called by the consensus core.
    pub fn note_proposal(&self, bytes: u64) {
        let node = &self.node;
        let first = node.proposal_bytes_last.get() == 0;
        node.proposal_bytes_last.set(bytes);
        node.proposal_bytes_max.raise(bytes);
        if first || bytes < node.proposal_bytes_min.get() {
            node.proposal_bytes_min.set(bytes);
        }
    }
    /// The node starts leading at `at_ms` (ms since the Unix epoch) or stops (`None`): resets the leader's
    /// counters.
    pub fn set_leading(&self, at_ms: Option<i64>) {
        let node = &self.node;
        let leader_only = [
            &node.followers,
            &node.synced_followers,
            &node.observers,
            &node.synced_observers,
            &node.pending_syncs,
            &node.proposal_bytes_last,
            &node.proposal_bytes_min,
            &node.proposal_bytes_max,
        ];
        leader_only.into_iter().for_each(|cell| cell.set(0));
        node.leading_since_ms.set(at_ms.map_or(0, |ms| ms.max(0) as u64));
    }
    fn texts(&self) -> MutexGuard<'_, Texts> {
        // Each text is replaced as a whole, so a panic leaves none half written.
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Start of the node, ms since the Unix epoch.
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
        assert_eq!(stats.mode(), ServerState::NotServing);
        stats.set_mode(ServerState::Standalone);
        assert_eq!(stats.mode().name(), "standalone");
    }
}
