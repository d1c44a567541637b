//! The write-ahead log: what a node has promised, in the order in which it promised it.
//!
//! Owns the segments of one directory and the thread that writes and syncs them. The consensus core hands
//! over records without waiting ([`Log::append`]). A wake-up and [`Log::durable`] report what became
//! durable. Other threads read durable entries through maps ([`LogReader`]).
//! Never overwrites what it has synced: an append supersedes a conflicting suffix. Never keeps an entry
//! in memory after its sync.
//! Never retries a failed sync: the log has failed from then on.
//! Correct across a power cut because each record carries the position up to which the log was durable
//! when the record was written. A bad record below a known durable position is corruption and is refused.
//! A bad record above it belongs to a tail that was never acknowledged, and is cut. See
//! `docs/formats/log.md`.

mod flusher;
mod front;
mod reader;
mod record;
mod recovery;
mod segment;
mod shared;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use front::Log;
pub use reader::{Entries, LogReader};

use crate::disk::{Disk, RealDisk};

/// Default size of a segment file.
///
/// A rotation costs three syncs, so it should be rare. Recovery reads one segment at a time into memory.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Smallest segment: its header, room for one small entry and for hard states.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Largest segment: recovery reads one segment at a time into memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Default bound of bytes handed over and not yet durable.
///
/// Several groups, so that the flusher never starves. Little enough that back-pressure from a slow disk
/// is felt within a fraction of a second.
pub const QUEUE_BYTES_MAX_DEFAULT: u64 = 8 << 20;
/// Interval at which a full disk is tried again: after space is freed, writes resume within it.
pub const ROOM_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// One entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Position in the Raft log, from 1.
    pub index: u64,
    /// Tells what `data` is, in the caller's encoding.
    pub kind: u8,
    /// Opaque bytes; 16-byte aligned when read from the log.
    pub data: Bytes,
}

/// Raft's durable state beside the entries.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    /// Node that received this node's vote in `term`, 0 for none.
    pub vote: u64,
    /// Highest index known committed.
    pub commit: u64,
}

/// One unit of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry, at most at the last index + 1. A lower index supersedes everything from there on.
    Entry(Entry),
    /// The new hard state.
    HardState(HardState),
    /// A durable snapshot was installed: the whole log before is void, and the next entry is `index` + 1.
    Reset {
        /// Last index that the snapshot contains.
        index: u64,
        /// Term of the entry at `index`.
        term: u64,
    },
}

/// Number of one append; tickets become durable in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How far the log is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// This append and all before it are durable.
    pub ticket: Ticket,
    /// Last index of the log as of that append.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
}

/// Whether the log takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All records are taken.
    Running,
    /// The disk has no room for another segment. The log resumes by itself when there is room again.
    ///
    /// Hard states are taken, and entries without data, with which terms and memberships begin and end.
    /// Entries with data are refused, except as many as the segment in use can still hold: the caller may
    /// have handed them over before it saw this state.
    WritesStopped {
        /// Directory and error of the operating system, for the operator.
        reason: Arc<str>,
    },
    /// A write or sync failed. All records are refused; the process must stop and recover at its next start.
    Failed {
        /// The failed operation, its file and the error, for the operator.
        reason: Arc<str>,
    },
}

/// Where the flusher runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flushing {
    /// On a thread of its own.
    #[default]
    Thread,
    /// Inside [`Log::flush_turn`], called by the owner: for simulation and tests.
    Manual,
}

/// Called from the flusher thread after [`Log::durable`] or [`Log::state`] changed.
///
/// Must be quick and must not call the log.
pub type WakeCallback = Arc<dyn Fn() + Send + Sync>;

/// How to open a log.
#[derive(Clone)]
pub struct LogOptions {
    /// Directory of the segments.
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    /// Size of new segments, rounded up to 4096 bytes. Limits an entry, see [`LogOptions::entry_bytes_max`].
    pub segment_bytes: u64,
    /// Bound of bytes handed over and not durable: beyond it [`Log::append`] refuses entries.
    pub queue_bytes_max: u64,
    /// `false` completes appends when they are written, not when they are synced (ZooKeeper's
    /// `forceSync=no`). Such appends survive the end of the process, not a power cut.
    pub force_sync: bool,
    pub flushing: Flushing,
    /// Secret random number of a new log. Without it a client that chooses the data cannot forge a checksum.
    pub salt: u64,
    /// Index and term of the snapshot with which the node starts, (0, 0) without one. The log must reach it.
    pub snapshot: (u64, u64),
    /// Whether a log may be created although there is a snapshot, as an import does. Otherwise a lost log
    /// is an error.
    pub create_at_snapshot: bool,
    pub wake: WakeCallback,
}

impl LogOptions {
    /// Defaults on the real disk, for a node without a snapshot. The caller draws `salt`.
    pub fn new(dir: impl Into<PathBuf>, salt: u64) -> LogOptions {
        LogOptions {
            dir: dir.into(),
            disk: Arc::new(RealDisk),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            queue_bytes_max: QUEUE_BYTES_MAX_DEFAULT,
            force_sync: true,
            flushing: Flushing::Thread,
            salt,
            snapshot: (0, 0),
            create_at_snapshot: false,
            wake: Arc::new(|| {}),
        }
    }

    /// Largest `data` of an entry that fits a segment, bytes.
    pub fn entry_bytes_max(&self) -> u64 {
        segment::entry_bytes_max(segment::file_bytes(self.segment_bytes))
    }
}

/// State of the log after its recovery at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Latest durable hard state; all zero in a new log.
    pub hard_state: HardState,
    /// First index that can be read; last + 1 if the log has no entries.
    pub first_index: u64,
    /// Last index; the snapshot's if the log has no entries after it.
    pub last_index: u64,
    /// Term of the entry at `last_index`.
    pub last_term: u64,
    /// Term of the entry before the first.
    pub term_before: u64,
    /// Runs of equal terms from the first entry on: (index at which the run begins, term).
    /// The first run may begin below `first_index`.
    pub terms: Vec<(u64, u64)>,
    /// Whether the log was created by this start.
    pub created: bool,
    /// Whether the log ended before the snapshot (or disagreed with it) and was reset to it.
    pub reset_to_snapshot: bool,
    /// Bytes of the unsynced tail that was cut, from the first bad record on.
    pub cut_bytes: u64,
    /// Number of segments read.
    pub segments: u64,
}

/// Why a log cannot be opened. In every case the node must neither vote nor serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Bytes that had been synced differ from what was written.
    #[error("{} is corrupt at offset {offset}: {what}; the log was durable beyond it. Restore the file, or remove this node's data directory and let it join as new", path.display())]
    Corrupt {
        path: PathBuf,
        /// Offset in the file at which the first bad record begins.
        offset: u64,
        /// The damage, and the evidence that the bytes had been durable.
        what: String,
    },
    /// A segment is gone from the middle.
    #[error("log segment {} is missing. Put it back, or restore the whole data directory from a backup; in an ensemble it may be emptied (but for myid) instead: the server is fed when it joins", path.display())]
    MissingSegment {
        /// Name of the missing file.
        path: PathBuf,
    },
    /// Written by a version with another format.
    #[error("{} has format version {found}; this build reads version {supported}: start the version of Paddock that wrote it", path.display())]
    UnsupportedVersion { path: PathBuf, found: u32, supported: u32 },
    /// The directory has a snapshot and no log.
    #[error("there is a snapshot at index {snapshot_index} and no log in {}; what this node had voted and promised is lost. Remove its data directory and let it join as new", dir.display())]
    LogMissing { dir: PathBuf, snapshot_index: u64 },
    /// The log begins after the snapshot ends.
    #[error("the log in {} begins at index {first_index}, the snapshot ends at {snapshot_index}: entries between them are missing. Put the missing files back, or restore the whole data directory from a backup; in an ensemble it may be emptied (but for myid) instead: the server is fed when it joins", dir.display())]
    DoesNotReachSnapshot {
        dir: PathBuf,
        first_index: u64,
        /// Last index of the snapshot, 0 without one.
        snapshot_index: u64,
    },
    /// An option has a value that cannot work.
    #[error("log option {option}: {what}")]
    Option { option: &'static str, what: String },
    /// An operation of the file system failed, or the disk has no room for the first segment.
    #[error("{}: {source}{}", path.display(), crate::datadir::advice(source))]
    Io { path: PathBuf, source: io::Error },
}

/// A refused append, with the records unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct AppendError {
    pub records: Vec<Record>,
    pub why: Refusal,
}

/// The cause in an [`AppendError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// [`LogOptions::queue_bytes_max`] is reached. Try again after a wake-up.
    #[error("the log's queue is full")]
    Full,
    /// The disk is full. Only hard states, resets and entries without data are taken.
    #[error("writes are stopped: {0}")]
    WritesStopped(Arc<str>),
    /// A write or sync failed earlier.
    #[error("the log has failed: {0}")]
    Failed(Arc<str>),
    /// The entry does not fit a segment.
    #[error("an entry of {bytes} bytes does not fit a log segment (at most {max})")]
    TooLarge {
        /// Size of its data.
        bytes: u64,
        /// Limit that [`LogOptions::entry_bytes_max`] computes.
        max: u64,
    },
}

/// Why entries cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The index is below the first index.
    #[error("index {0} is no longer in the log")]
    Compacted(u64),
    /// The index is above the last durable index.
    #[error("index {0} is not in the log yet")]
    Unavailable(u64),
    /// The record cannot be decoded.
    #[error("{path} is corrupt at offset {offset}")]
    Corrupt {
        path: String,
        /// Offset in the file at which the record begins.
        offset: u64,
    },
    /// Mapping the segment failed.
    #[error("{0}")]
    Io(String),
}
