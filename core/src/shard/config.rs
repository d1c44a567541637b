//! A shard's parameters and its named bounds.
//!
//! Owns every number that limits what one client can make a shard hold. Never reads a file: the `config` room fills
//! [`ShardConfig`]. It stays correct because each bound says what happens at it, and tests stand at each.

use crate::admin::words::Words;

/// Time from accept to a complete ConnectRequest, and from there to the session; afterwards the connection is closed
/// (ZooKeeper's `nio.sessionlessCnxnTimeout`).
pub const HANDSHAKE_TIMEOUT_NS: u64 = 10_000_000_000;

/// How long a connection that is being closed may take to read what it was still sent. Afterwards it is cut off: a peer
/// that never reads must not keep its output alive.
pub const CLOSE_LINGER_NS: u64 = 5_000_000_000;

/// Bytes of unserved requests above which a connection is not read: 64 KiB hold a thousand small requests, and ten
/// thousand connections that pipeline behind one slow write stay below 1 GiB. One larger frame is still taken whole.
pub const INPUT_HIGH_WATER_BYTES: usize = 64 * 1024;

/// The same while input of one turn is still coming in, for the turn will serve most of it: what a loop delivers at most
/// to one connection in one turn.
pub const INPUT_IN_TURN_MAX_BYTES: usize = 4 * INPUT_HIGH_WATER_BYTES;

/// An empty input buffer keeps at most this capacity, so that a connection which only pings never allocates and an
/// idle one costs less than 4 KiB.
pub const INPUT_KEEP_BYTES: usize = 512;

/// Bytes that a ConnectRequest may have: the record is 45 bytes; old and future clients get room, strangers do not.
pub const CONNECT_REQUEST_MAX_BYTES: usize = 1024;

/// Writes of one connection on their way through consensus; further ones stay in its input. As ZooKeeper's
/// `globalOutstandingLimit` (1000), but for each connection.
pub const WRITES_IN_FLIGHT_MAX: usize = 1000;

/// Bytes of one connection's writes on their way through consensus; one write may exceed it, a second is not begun.
pub const WRITE_BYTES_IN_FLIGHT_MAX: usize = 4 * 1024 * 1024;

/// Requests served to one connection in one turn before the others have their turn again.
pub const REQUESTS_PER_TURN_MAX: usize = 128;

/// Bytes that the reply to one multiRead may grow to; beyond it the request fails as a whole. A request of 1 MiB can name
/// a value of 1 MiB forty thousand times. Four times what default clients take; more with a larger `jute.maxbuffer`, see
/// [`ShardConfig::multi_read_reply_max_bytes`].
pub const MULTI_READ_REPLY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Znodes that requests which look at many of them (lists of children, getAllChildrenNumber, multiRead, setWatches) may look
/// at in one turn before all others have their turn; one request may exceed it. Some 60 ms when each is a cache miss,
/// far below the time after which a shard counts as stuck.
pub const VISITS_PER_TURN_MAX: u64 = 200_000;

/// Watches one connection may hold (each pair of path and mode); at the bound the connection is closed with a line in
/// the log, for a watch that is silently not set would be a wrong answer. A million paths of 100 B are 200 MiB.
pub const WATCHES_PER_CONNECTION_MAX: usize = 1_000_000;

/// Unread output at which a connection gets no further notification but is closed with a line in the log: the watches
/// of a peer that never reads must not fill the memory. Twice the largest reply that default clients take, plus room.
pub const NOTIFICATIONS_UNREAD_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Authentication ids one connection may gather; a further one is refused like a wrong password.
pub const IDENTITIES_MAX: usize = 64;

/// How long a word that lists clients waits for the node's other shards.
pub const ROLL_CALL_MAX_NS: u64 = 1_000_000_000;

/// How soon a request that found the ring to the consensus core full is tried again if no commit came before.
pub const SUBMIT_RETRY_NS: u64 = 1_000_000;

/// Longest beat between two reports of the sessions heard from. The beat is tickTime / 2, at most a quarter of
/// maxStaleness, at most this.
pub const TOUCH_BEAT_MAX_NS: u64 = 1_000_000_000;

/// `maxStaleness` where nothing else is said: ZooKeeper's sample files' syncLimit × tickTime, 5 × 2000 ms.
pub const MAX_STALENESS_NS: u64 = 10_000_000_000;

/// Reports of sessions that a shard keeps until the quorum confirmed them; the oldest is forgotten at the bound, and the
/// leases that it would have renewed end early. At four beats in maxStaleness no more than five are ever waiting.
pub const REPORTS_KEPT_MAX: usize = 16;

/// How long after its start a node that was never confirmed lets clients wait for their session instead of sending them
/// away: a group of one leads within milliseconds, a member that was restarted finds its leader within an election.
pub const START_PATIENCE_NS: u64 = 1_000_000_000;

/// How long a node looks for its quorum after a start before it takes read-only clients; one tickTime if that is longer
/// (ZooKeeper's own delay).
pub const READ_ONLY_AFTER_MIN_NS: u64 = 2_000_000_000;

/// What a shard must be told of the configuration.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Number of this shard: [`crate::commit::Ticket::shard`] and its cells in [`crate::stats::Stats`].
    pub id: u16,
    /// Largest request frame, bytes (`jute.maxbuffer`).
    pub jute_max_buffer_bytes: u32,
    /// Number of this node, 1–254.
    pub node: u8,
    /// How long after the quorum's last confirmation clients are still served (`maxStaleness`; default syncLimit ×
    /// tickTime). Means nothing on a group of one.
    pub max_staleness_ns: u64,
    /// Whether read-only clients are served beyond that (`readonlymode.enabled`).
    pub read_only_mode: bool,
    /// By listener: whether each of its reads is preceded by a round of the quorum (`readConsistency=linearizable`).
    /// Listeners that are not named read what this node has.
    pub linearizable: Vec<bool>,
    /// `tickTime`, ms.
    pub tick_time_ms: u32,
    /// Smallest session timeout granted, ms.
    pub session_timeout_min_ms: i32,
    /// Largest session timeout granted, ms.
    pub session_timeout_max_ms: i32,
    /// [`crate::command::policy`] bits, for ACL checks of reads.
    pub policy: u32,
    /// `zookeeper.DigestAuthenticationProvider.superDigest`: the whole `super:hash`.
    pub super_digest: Option<String>,
    /// Four-letter words that are answered (`4lw.commands.whitelist`).
    pub words: Words,
    /// What `conf` prints, one `key=value` line each, in order.
    pub conf_lines: Vec<String>,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            id: 0,
            jute_max_buffer_bytes: 0xf_ffff,
            node: 1,
            max_staleness_ns: MAX_STALENESS_NS,
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
    /// The timeout that a client who asked for `wanted_ms` gets.
    pub fn negotiate(&self, wanted_ms: i32) -> i32 {
        wanted_ms.min(self.session_timeout_max_ms).max(self.session_timeout_min_ms)
    }
    /// What the reply to one multiRead may grow to, bytes.
    pub fn multi_read_reply_max_bytes(&self) -> usize {
        MULTI_READ_REPLY_MAX_BYTES.max((self.jute_max_buffer_bytes as usize).saturating_mul(4))
    }

    /// Time between two reports of the sessions heard from.
    pub fn touch_beat_ns(&self) -> u64 {
        beat_ns(self.tick_time_ms, self.max_staleness_ns)
    }
}

/// The beat at which shards report sessions and the core asks the quorum to confirm them.
pub fn beat_ns(tick_time_ms: u32, max_staleness_ns: u64) -> u64 {
    (u64::from(tick_time_ms) * 500_000).min(max_staleness_ns / 4).clamp(1, TOUCH_BEAT_MAX_NS)
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
