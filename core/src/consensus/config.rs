//! Settings and bounds of the consensus core.

use crate::config::{INIT_LIMIT_TICKS, RaftClock, TICK_TIME_MS};
use crate::members::Members;
use paddock_storage::{Disk, RealDisk};
use std::path::PathBuf;
use std::sync::Arc;

/// Batches that may be proposed and not yet applied. With two, one is being synced and the next is ready
/// for the disk while a third gathers. More would only make batches smaller.
pub const BATCHES_IN_FLIGHT_MAX: usize = 2;

/// Batches in flight where core, shard and flusher share one usable CPU. A sync costs that CPU about 140
/// µs, so half as many syncs of twice the size leave more time for requests.
pub const BATCHES_IN_FLIGHT_SHARED_MAX: usize = 1;

/// Bytes of requests in one batch, about what a disk writes in the time of a sync. One request always fits.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Commands in one batch. At some µs each, a batch keeps the core busy for a few ms at most.
pub const BATCH_COMMANDS_MAX: usize = 2048;

/// Submissions taken from one shard's ring before the next shard's turn.
pub const FAIR_BURST: usize = 64;

/// Bytes retired and not yet reclaimable in the tree above which apply pauses. Apply continues when readers
/// have moved on.
pub const RETIRED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How soon a paused apply checks the readers again. Readers that move on send no wake-up.
pub const PAUSED_POLL_NS: u64 = 1_000_000;

/// How long a shard that is awake may lag without any progress before the process is aborted. Far above any
/// turn of a shard, and below the time after which clients give up.
pub const SHARD_STUCK_NS: u64 = 30_000_000_000;

/// A turn that begins later than it was due by this much counts as a stall of this process. Several time
/// slices of a busy machine, and well below the shortest session timeout.
pub const STALL_NS: u64 = 500_000_000;

/// How long a clean stop waits for batches that are already proposed.
pub const STOP_PATIENCE_NS: u64 = 5_000_000_000;

/// How soon an unanswered read round is begun again, since Raft drops rounds silently. Above the round trip
/// of any network that carries an ensemble, because a late answer counts for nothing.
pub const READ_ROUND_RETRY_NS: u64 = 500_000_000;

/// Read indexes that a leader has under way at once: one is being confirmed while the next gathers.
pub const READS_IN_FLIGHT_MAX: usize = 2;

/// Pending commands of this node. Further submissions stay in the shards' rings.
pub const PENDING_COMMANDS_MAX: usize = 8192;

/// Bytes of pending commands. One command always fits. Commands are kept until they are applied, to be sent
/// again if the leader dies.
pub const PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes queued on the link to the leader above which no more commands are sent. Raft messages and rounds
/// queue behind these bytes. They must arrive within an election timeout even where a network carries about
/// ten megabytes a second.
pub const FORWARD_AHEAD_BYTES: usize = 2 * 1024 * 1024;

/// How soon a node with pending commands asks a silent leader for the next number of its stream.
pub const FORWARD_RETRY_NS: u64 = 1_000_000_000;

/// How long a leader that stops waits for another node to take over.
pub const HAND_OVER_NS: u64 = 1_000_000_000;

/// Bytes of committed entries not yet applied, above which appends are dropped before Raft sees them. The
/// leader sends dropped appends again.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sessions whose expiry one batch carries, so that a mass expiry does not delay writes.
pub const EXPIRIES_PER_BATCH_MAX: usize = 256;

/// Log bytes between two checkpoints, whatever the number of commands. Bounds replay to about a second.
pub const CHECKPOINT_LOG_BYTES: u64 = 256 * 1024 * 1024;

/// How long writes may stay undecided after writes were stopped. Then their connections are closed.
pub const UNDECIDED_NS: u64 = 10_000_000_000;

/// How long a leader waits for voters without a link, while the reachable voters with disk space are no
/// majority. Then writes are refused. A restart takes less.
pub const AWAY_PATIENCE_NS: u64 = 5_000_000_000;

/// Ticks of Raft's clock that count as one on a node whose disk is full and that knows no leader. A node
/// with disk space has become a candidate by then.
pub const FULL_TICKS: u64 = 4;

/// Entries applied in one turn before the turn goes on to its other steps.
pub const APPLY_PER_TURN_MAX: usize = 8;

/// How long after a failed checkpoint the next one is tried.
pub const CHECKPOINT_RETRY_NS: u64 = 60_000_000_000;

/// How long a checkpoint may hold its version of the tree.
pub const CHECKPOINT_HOLD_NS: u64 = 1_800_000_000_000;

/// Bytes that a checkpoint's hold may keep from being reclaimed, whatever the size of the tree. A larger
/// tree raises the bound to its estimated size, since each page is kept at most once.
pub const CHECKPOINT_HOLD_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// Bytes that a znode takes beside its path and data, for the estimate of a tree's size.
pub const ZNODE_BYTES: u64 = 300;

const _: () = assert!(EXPIRIES_PER_BATCH_MAX < BATCH_COMMANDS_MAX);

/// How soon the record of a block of session ids is tried again after a failure.
pub const ALLOW_IDS_RETRY_NS: u64 = 1_000_000_000;

/// How long a removed node goes on before it stops. The client that requested the removal gets its reply
/// first.
pub const REMOVED_PATIENCE_NS: u64 = 500_000_000;

/// How to open the consensus core.
#[derive(Clone)]
pub struct ConsensusConfig {
    pub data_dir: PathBuf,
    /// The disk that holds the data directory.
    pub disk: Arc<dyn Disk>,
    /// This node's number, 1–254. A standalone node is 1.
    pub node: u8,
    /// The ensemble as configured. `None`: standalone.
    pub members: Option<Members>,
    pub shards: usize,
    /// [`BATCHES_IN_FLIGHT_MAX`] or [`BATCHES_IN_FLIGHT_SHARED_MAX`]: batches that may be proposed and not
    /// yet applied.
    pub batches_in_flight: usize,
    /// Unit of session expiry, ms.
    pub tick_time_ms: u32,
    /// How long the node may serve without a confirmation by the quorum, ns.
    pub max_staleness_ns: u64,
    /// How long after its start the node reports that it is not in service yet, ns.
    pub init_limit_ns: u64,
    pub raft: RaftClock,
    /// [`crate::command::policy`] bits that go into every batch.
    pub policy: u32,
    /// Whether a write waits for the disk.
    pub force_sync: bool,
    /// Commands between two checkpoints at most. In an ensemble each node takes another part of this
    /// number.
    pub snap_count: u64,
    /// Log bytes between two checkpoints at most, divided among the nodes like [`Self::snap_count`].
    pub snap_log_bytes: u64,
    /// Random number of this start. It seeds the election jitter and decides which session ids are left
    /// out.
    pub seed: u64,
    /// Random bytes that become the directory's identity if it has none.
    pub new_identity: [u8; 16],
    /// Secret random number that goes into the checksums of a new log. With it, no client's data can look
    /// like a record.
    pub log_salt: u64,
    /// Slots of the commit ring, a power of two.
    pub commit_ring_entries: usize,
    /// Retired bytes above which apply pauses.
    pub retired_bytes_max: u64,
    /// Size of a log segment, bytes. `None`: the default of the storage crate.
    pub segment_bytes: Option<u64>,
    /// No threads: [`super::Consensus::disk_turn`] writes log and checkpoints. For the simulation.
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
