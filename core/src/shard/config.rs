//! A shard's parameters and its named bounds.
//!
//! Owns every number that limits the memory one client can occupy in a shard. Never reads a file: the
//! server fills [`ShardConfig`] from the configuration. Correct because each bound documents what happens
//! at it.

use crate::admin::words::Words;
use crate::beats;

/// Time from accept to the session. A connection without one is closed then (ZooKeeper's
/// `nio.sessionlessCnxnTimeout`).
pub const HANDSHAKE_TIMEOUT_NS: u64 = 10_000_000_000;

/// Time for the peer of a closing connection to read the remaining output. The connection is aborted
/// then, so that a peer that never reads cannot occupy memory.
pub const CLOSE_LINGER_NS: u64 = 5_000_000_000;

/// Bytes of unserved requests at which a connection is no longer read. 64 KiB hold a thousand small
/// requests, and ten thousand connections that pipeline behind one slow write stay below 1 GiB. One
/// larger frame is still read to its end.
pub const INPUT_HIGH_WATER_BYTES: usize = 64 * 1024;

/// [`INPUT_HIGH_WATER_BYTES`] while the input of a turn is delivered, because the turn serves most of it.
/// A loop delivers at most this much to one connection in one turn.
pub const INPUT_IN_TURN_MAX_BYTES: usize = 4 * INPUT_HIGH_WATER_BYTES;

/// Capacity that an empty input buffer keeps. A connection that only pings never allocates, and an idle
/// one costs less than 4 KiB.
pub const INPUT_KEEP_BYTES: usize = 512;

/// Bytes of the largest ConnectRequest. The record has 45 bytes; the rest is room for old and future clients.
pub const CONNECT_REQUEST_MAX_BYTES: usize = 1024;

/// Writes in flight of one connection. Further writes stay in its input. Equals ZooKeeper's
/// `globalOutstandingLimit` (1000), but applies to each connection.
pub const WRITES_IN_FLIGHT_MAX: usize = 1000;

/// Bytes of the writes in flight of one connection. A single write may exceed it; a second is then not begun.
pub const WRITE_BYTES_IN_FLIGHT_MAX: usize = 4 * 1024 * 1024;

/// Requests of one connection begun in one turn. The remaining ones are served in the next turn, after
/// other connections.
pub const REQUESTS_PER_TURN_MAX: usize = 128;

/// Bytes of the largest reply to one multiRead; beyond it the request fails as a whole. A request of 1
/// MiB can name a value of 1 MiB forty thousand times. The bound is four times the largest frame of
/// default clients. A larger `jute.maxbuffer` raises it, see [`ShardConfig::multi_read_reply_max_bytes`].
pub const MULTI_READ_REPLY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Znodes visited in one turn by lists of children, getAllChildrenNumber, multiRead and setWatches. A
/// single request may exceed it; further ones wait for the next turn. At a cache miss each this takes
/// some 60 ms, far below the time after which a shard counts as stuck.
pub const VISITS_PER_TURN_MAX: u64 = 200_000;

/// Watches of one connection (pairs of path and mode). At the bound the connection closes with a line in
/// the log, because a watch that is silently not set would be a wrong answer. A million paths of 100 B
/// are 200 MiB.
pub const WATCHES_PER_CONNECTION_MAX: usize = 1_000_000;

/// Unread output at which a connection gets no further notification and closes with a line in the log.
/// The bound keeps the watches of a peer that never reads from filling memory. It exceeds twice the
/// largest reply of default clients.
pub const NOTIFICATIONS_UNREAD_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Authentication ids of one connection. A further one is refused like a wrong password.
pub const IDENTITIES_MAX: usize = 64;

/// Time that a four-letter word waits for the client lists of the node's other shards.
pub const CLIENT_LIST_WAIT_MAX_NS: u64 = 1_000_000_000;

/// Time after which a shard retries when the ring to the consensus core was full and no commit arrived
/// meanwhile.
pub const SUBMIT_RETRY_NS: u64 = 1_000_000;

/// Unconfirmed reports of sessions that a shard keeps. At the bound the oldest is dropped, and the leases
/// that it would have renewed end early. With four beats in maxStaleness at most five reports are
/// unconfirmed.
pub const REPORTS_KEPT_MAX: usize = 16;

/// Time after the start in which clients wait for the node's first confirmation. Clients are closed
/// afterwards. A group of one leads within milliseconds, and a restarted member finds its leader within
/// an election.
pub const START_PATIENCE_NS: u64 = 1_000_000_000;

/// Least time after the start before a node accepts read-only clients; one tickTime if that is longer
/// (ZooKeeper's delay).
pub const READ_ONLY_AFTER_MIN_NS: u64 = 2_000_000_000;

/// The part of the configuration that a shard uses.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Number of this shard: [`crate::commit::Ticket::shard`] and its cells in [`crate::stats::Stats`].
    pub id: u16,
    /// Largest request frame, bytes (`jute.maxbuffer`).
    pub jute_max_buffer_bytes: u32,
    /// Number of this node, 1–254.
    pub node: u8,
    /// Longest age of the quorum's confirmation at which clients are served (`maxStaleness`; default
    /// syncLimit × tickTime). Unused on a group of one.
    pub max_staleness_ns: u64,
    /// Whether read-only clients are served when the confirmation is older (`readonlymode.enabled`).
    pub read_only_mode: bool,
    /// By listener: whether a quorum round precedes each read (`readConsistency=linearizable`). Listeners
    /// beyond the end of the list read the state of this node.
    pub linearizable: Vec<bool>,
    /// `tickTime` in milliseconds; the beat is at most half of it.
    pub tick_time_ms: u32,
    /// Smallest session timeout granted, ms.
    pub session_timeout_min_ms: i32,
    /// Largest session timeout granted, ms.
    pub session_timeout_max_ms: i32,
    /// [`crate::command::policy`] bits, for ACL checks of reads.
    pub policy: u32,
    /// `zookeeper.DigestAuthenticationProvider.superDigest`: the whole `super:hash`.
    pub super_digest: Option<String>,
    /// The enabled four-letter words (`4lw.commands.whitelist`).
    pub words: Words,
    /// Output of the word `conf`: one `key=value` line each, in order.
    pub conf_lines: Vec<String>,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            id: 0,
            jute_max_buffer_bytes: 0xf_ffff,
            node: 1,
            max_staleness_ns: beats::MAX_STALENESS_NS,
            read_only_mode: false,
            linearizable: Vec::new(),
            tick_time_ms: 2000,
            session_timeout_min_ms: 4000,
            session_timeout_max_ms: 40_000,
            policy: 0,
            super_digest: None,
            words: Words::default(),
            conf_lines: Vec::new(),
        }
    }
}

impl ShardConfig {
    /// The session timeout granted to a client that asks for `wanted_ms`.
    pub fn negotiate(&self, wanted_ms: i32) -> i32 {
        wanted_ms.min(self.session_timeout_max_ms).max(self.session_timeout_min_ms)
    }
    /// Bytes of the largest reply to one multiRead: at least [`MULTI_READ_REPLY_MAX_BYTES`].
    pub fn multi_read_reply_max_bytes(&self) -> usize {
        MULTI_READ_REPLY_MAX_BYTES.max((self.jute_max_buffer_bytes as usize).saturating_mul(4))
    }

    /// Time between two reports of the sessions heard from; see [`beats::touch_beat_ns`].
    pub fn touch_beat_ns(&self) -> u64 {
        beats::touch_beat_ns(self.tick_time_ms, self.max_staleness_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_clamped_as_zookeeper_does() {
        let config = ShardConfig {
            session_timeout_min_ms: 2000,
            session_timeout_max_ms: 20_000,
            ..ShardConfig::default()
        };
        for (asked, granted) in [(1, 2000), (500, 2000), (-5, 2000), (5000, 5000), (100_000, 20_000)] {
            assert_eq!(config.negotiate(asked), granted);
        }
    }
}
