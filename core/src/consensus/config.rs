//! What the consensus core is told, and its bounds.

use crate::config::{INIT_LIMIT_TICKS, RaftClock, TICK_TIME_MS};
use crate::members::Members;
use paddock_storage::{Disk, RealDisk};
use std::path::PathBuf;
use std::sync::Arc;

/// Batches that may be proposed and not yet applied. Two: one is being synced and the next stands ready for the disk,
/// while a third gathers; more would only make batches smaller.
pub const BATCHES_IN_FLIGHT_MAX: usize = 2;

/// The same where core, shard and flusher share one usable core: a sync costs that core some 140 µs of work, so half as
/// many syncs of twice the size leave more of it to requests.
pub const BATCHES_IN_FLIGHT_SHARED_MAX: usize = 1;

/// Bytes of requests in one batch, except that one request always fits: about what a disk writes in the time of a sync.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Commands in one batch: at some µs each, applying one keeps the core busy for a few ms at most.
pub const BATCH_COMMANDS_MAX: usize = 2048;

/// Submissions taken from one shard's ring before the next shard's turn.
pub const FAIR_BURST: usize = 64;

/// Bytes retired and not yet reclaimable in the tree above which apply pauses until readers have moved on.
pub const RETIRED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How soon a paused apply looks again: readers that move on do not say so.
pub const PAUSED_POLL_NS: u64 = 1_000_000;

/// How long a shard that is awake may be behind without moving at all before the process is aborted: far above any
/// turn of a shard, below the time after which clients give up.
pub const SHARD_STUCK_NS: u64 = 30_000_000_000;

/// A pause between two turns that were due sooner counts as a stall of our own from here on: several time slices of a
/// busy machine, well below the shortest session timeout.
pub const STALL_NS: u64 = 500_000_000;

/// How long a clean stop waits for what is already proposed.
pub const STOP_PATIENCE_NS: u64 = 5_000_000_000;

/// How soon a read round that was not answered is begun again: Raft drops rounds without a word. Above the round trip of
/// any network that an ensemble is run over, since a late answer counts for nothing.
pub const READ_ROUND_RETRY_NS: u64 = 500_000_000;

/// Read indexes that a leader has under way at once: one confirmed while the next gathers.
pub const READS_IN_FLIGHT_MAX: usize = 2;

/// Commands of this node that may be undecided; what is beyond stays in the shards' rings.
pub const OUTBOUND_COMMANDS_MAX: usize = 8192;

/// Bytes of them, except that one command always fits: they are kept until they are applied, to be sent again if the leader dies.
pub const OUTBOUND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes on the way to the leader above which no more commands are sent: what Raft and the rounds say on the same link stands
/// behind them, and must get there within an election timeout even where a network carries some ten megabytes a second.
pub const FORWARD_AHEAD_BYTES: usize = 2 * 1024 * 1024;

/// How soon a node whose commands are undecided asks a silent leader where its stream stands.
pub const FORWARD_RETRY_NS: u64 = 1_000_000_000;

/// How long a leader that stops waits for another to take over.
pub const HAND_OVER_NS: u64 = 1_000_000_000;

/// Bytes of committed entries that wait to be applied, above which appends are dropped before Raft sees them: the leader
/// sends them again.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sessions whose expiry one batch carries, so that a mass expiry does not hold up writes.
pub const EXPIRIES_PER_BATCH_MAX: usize = 256;

/// Log bytes between two checkpoints, whatever the number of commands: bounds replay to about a second.
pub const CHECKPOINT_LOG_BYTES: u64 = 256 * 1024 * 1024;

/// How long a write that was handed to a log without room may stay undecided before its connection is closed.
pub const UNDECIDED_NS: u64 = 10_000_000_000;

/// How long a leader waits for voters that are away, where those that are there and have room are no majority, before writes are
/// refused: a restart takes less.
pub const AWAY_PATIENCE_NS: u64 = 5_000_000_000;

/// Ticks of Raft's clock that count as one on a node whose disk is full and that knows no leader: whoever has room has stood for
/// election by then.
pub const FULL_TICKS: u64 = 4;

/// Entries applied in one turn before the loop looks at everything else again.
pub const APPLY_PER_TURN_MAX: usize = 8;

/// How long after a failed checkpoint the next one is tried.
pub const CHECKPOINT_RETRY_NS: u64 = 60_000_000_000;

/// How long a checkpoint may hold its version of the tree.
pub const CHECKPOINT_HOLD_NS: u64 = 1_800_000_000_000;

/// Bytes that a checkpoint's hold may keep from being reclaimed, whatever the size of the tree. Above it, as many as
/// the tree is reckoned to have: each page is kept at most once.
pub const CHECKPOINT_HOLD_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// Bytes that a znode takes beside its path and data, to reckon the size of a tree.
pub const ZNODE_BYTES: u64 = 300;

const _: () = assert!(EXPIRIES_PER_BATCH_MAX < BATCH_COMMANDS_MAX);

/// How soon a node that could not record how far its session ids may go tries again.
pub const ALLOW_IDS_RETRY_NS: u64 = 1_000_000_000;

/// How long a node that was removed goes on before it stops: whoever asked it for that is answered first.
pub const REMOVED_PATIENCE_NS: u64 = 500_000_000;

/// How to open the consensus core.
#[derive(Clone)]
pub struct ConsensusConfig {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The disk on which it lies.
    pub disk: Arc<dyn Disk>,
    /// This node's number, 1–254. A standalone node is 1.
    pub node: u8,
    /// The ensemble as configured; `None`: standalone.
    pub members: Option<Members>,
    /// How many shards there will be.
    pub shards: usize,
    /// Batches that may be proposed and not yet applied: [`BATCHES_IN_FLIGHT_MAX`] or [`BATCHES_IN_FLIGHT_SHARED_MAX`].
    pub batches_in_flight: usize,
    /// Unit of session expiry, ms.
    pub tick_time_ms: u32,
    /// How long the node may serve without being confirmed by the quorum, ns.
    pub max_staleness_ns: u64,
    /// How long after its start the node says that it is not in service yet, ns.
    pub init_limit_ns: u64,
    /// Raft's own clock.
    pub raft: RaftClock,
    /// [`crate::command::policy`] bits that go into every batch.
    pub policy: u32,
    /// Whether a write waits for the disk.
    pub force_sync: bool,
    /// Commands between two checkpoints at most: in an ensemble each node takes another part of it.
    pub snap_count: u64,
    /// Log bytes between two checkpoints at most, in the same way.
    pub snap_log_bytes: u64,
    /// Random number of this start: the seed of the election jitter, and which session ids it leaves out.
    pub seed: u64,
    /// Random bytes that become the directory's identity if it has none.
    pub new_identity: [u8; 16],
    /// Secret random number that goes into the checksums of a new log, so that no client's data can look like a record.
    pub log_salt: u64,
    /// Slots of the commit ring, a power of two.
    pub commit_ring_entries: usize,
    /// Retired bytes above which apply pauses.
    pub retired_bytes_max: u64,
    /// Size of a log segment, bytes; `None`: storage's own default.
    pub segment_bytes: Option<u64>,
    /// No threads: log and checkpoints are written when [`super::Consensus::disk_turn`] is called. For the simulation.
    pub inline: bool,
}

impl ConsensusConfig {
    /// A standalone node in `data_dir` with the defaults for everything else.
    pub fn standalone(data_dir: PathBuf, shards: usize) -> Self {
        Self {
            data_dir,
            disk: Arc::new(RealDisk),
            node: 1,
            members: None,
            shards,
            batches_in_flight: BATCHES_IN_FLIGHT_MAX,
            tick_time_ms: TICK_TIME_MS,
            max_staleness_ns: crate::beats::MAX_STALENESS_NS,
            init_limit_ns: u64::from(INIT_LIMIT_TICKS * TICK_TIME_MS) * 1_000_000,
            raft: RaftClock::default(),
            policy: 0,
            force_sync: true,
            snap_count: crate::config::SNAP_COUNT,
            snap_log_bytes: CHECKPOINT_LOG_BYTES,
            seed: 0,
            new_identity: [0; 16],
            log_salt: 0,
            commit_ring_entries: crate::ring::COMMIT_RING_ENTRIES,
            retired_bytes_max: RETIRED_BYTES_MAX,
            segment_bytes: None,
            inline: false,
        }
    }
}
