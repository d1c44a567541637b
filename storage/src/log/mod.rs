//! The write-ahead log: what a node has promised, in the order in which it promised it.
//!
//! Owns the segments in one directory and the thread that writes and syncs them. The consensus core hands over
//! records without waiting ([`Log::append`]) and is told when they are durable ([`Log::durable`] and a wake-up); the entries that
//! it still needs it keeps itself. Helper threads read older ones through maps ([`LogReader`]). Never overwrites what it
//! has synced: a conflicting suffix is superseded by appending. Never retries a failed sync: the log is failed from then on.
//!
//! It stays correct across a power cut because each record says how far the log was durable when it was written:
//! a bad record below that position is corruption and refused, a bad record above it is a tail that nobody was
//! told about and is cut. See `docs/formats/log.md`.

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

/// Default size of a segment file: a rotation costs three syncs, so it should be rare; recovery reads one into memory.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Smallest segment: its header, room for one small entry and for hard states.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Largest segment: recovery reads one segment at a time into memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Default bound of bytes handed over and not yet durable: several groups, so that the flusher never starves, and
/// little enough that a slow disk is noticed within a fraction of a second.
pub const QUEUE_BYTES_MAX_DEFAULT: u64 = 8 << 20;
/// How often a full disk is asked again whether there is room: the operator who freed some waits no longer than this.
pub const ROOM_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// One Raft entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term in which it was proposed.
    pub term: u64,
    /// Position in the Raft log, from 1.
    pub index: u64,
    /// The caller's word for what `data` is.
    pub kind: u8,
    /// Opaque bytes; 16-byte aligned when they were read back from the log.
    pub data: Bytes,
}

/// Raft's durable state beside the entries.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term.
    pub term: u64,
    /// Whom this node voted for in `term`, 0 for nobody.
    pub vote: u64,
    /// Highest index known committed.
    pub commit: u64,
}

/// What can be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry. Its index is at most the last index + 1; a lower one supersedes everything from there on.
    Entry(Entry),
    /// The new hard state.
    HardState(HardState),
    /// A snapshot was installed (and is durable): the log before and at `index` is void, it goes on at `index` + 1.
    Reset {
        /// Last index that the snapshot contains.
        index: u64,
        /// Term of that index.
        term: u64,
    },
}

/// Names one append; tickets become durable in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How far the log is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// This append and all before it are durable.
    pub ticket: Ticket,
    /// Last index of the log as of that append.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Whether the log takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Running,
    /// There is no room for another segment. Entries with data are refused, but for what is handed over before its caller can have
    /// heard of it; hard states are still taken, and entries without
    /// data, with which terms and memberships begin and end. Heals by itself.
    WritesStopped {
        /// What the operator must know: which directory, and what the system said.
        reason: Arc<str>,
    },
    /// A write or sync failed. Nothing is taken any more; the process must stop and recover at its next start.
    Failed {
        /// Which operation on which file failed, and how.
        reason: Arc<str>,
    },
}

/// Who runs the flusher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flushing {
    /// A thread of its own.
    #[default]
    Thread,
    /// The owner, by calling [`Log::flush_turn`]: simulation and tests. Nothing happens in between.
    Manual,
}

/// Called from the flusher thread after [`Log::durable`] or [`Log::state`] changed. Must be quick and must not call the log.
pub type WakeCallback = Arc<dyn Fn() + Send + Sync>;

/// How to open a log.
#[derive(Clone)]
pub struct LogOptions {
    /// Where the segments are.
    pub dir: PathBuf,
    /// On which disk.
    pub disk: Arc<dyn Disk>,
    /// Size of new segments, bytes; rounded up to 4096. Bounds an entry, see [`LogOptions::entry_bytes_max`].
    pub segment_bytes: u64,
    /// Bytes handed over and not durable at which [`Log::append`] says full.
    pub queue_bytes_max: u64,
    /// `false` completes appends when they are written, not when they are synced (ZooKeeper's `forceSync=no`):
    /// they survive the process, not a power cut.
    pub force_sync: bool,
    /// Who runs the flusher.
    pub flushing: Flushing,
    /// Secret random number. Used when a log is created: it makes the checksums unforgeable for who chooses the data.
    pub salt: u64,
    /// Index and term of the snapshot with which the node starts, (0, 0) without one. The log must reach it.
    pub snapshot: (u64, u64),
    /// Whether a log may be created although there is a snapshot (an import). Otherwise a lost log is an error.
    pub create_at_snapshot: bool,
    /// Called when there is news.
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

    /// Largest `data` of an entry that fits a segment.
    pub fn entry_bytes_max(&self) -> u64 {
        segment::entry_bytes_max(segment::file_bytes(self.segment_bytes))
    }
}

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Latest durable hard state; all zero in a new log.
    pub hard_state: HardState,
    /// First index that can be read (last + 1 if there is none).
    pub first_index: u64,
    /// Last index.
    pub last_index: u64,
    /// Its term (the snapshot's if there are no entries after it).
    pub last_term: u64,
    /// Term of the entry before the first.
    pub term_before: u64,
    /// The runs of terms from the first entry on: (index at which a term begins, term). The first may begin below it.
    pub terms: Vec<(u64, u64)>,
    /// Whether the log was created by this start.
    pub created: bool,
    /// Whether the log ended before the snapshot (or disagreed with it) and was reset to it.
    pub reset_to_snapshot: bool,
    /// Bytes from the first bad record on that held an unsynced tail and were cut.
    pub cut_bytes: u64,
    /// Segments read.
    pub segments: u64,
}

/// Why a log cannot be opened. All of them mean: do not vote, do not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Bytes that had been synced are not what was written.
    #[error("{} is corrupt at offset {offset}: {what}; the log was durable beyond it. Restore the file, or remove this node's data directory and let it join as new", path.display())]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the first bad record begins.
        offset: u64,
        /// What is wrong and how we know.
        what: String,
    },
    /// A segment is gone from the middle.
    #[error("log segment {} is missing. Put it back, or restore the whole data directory from a backup; in an ensemble it may be emptied (but for myid) instead: the server is fed when it joins", path.display())]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
    },
    /// Written by a version with another format.
    #[error("{} has format version {found}; this build reads version {supported}: start the version of Paddock that wrote it", path.display())]
    UnsupportedVersion {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// There is a snapshot and no log.
    #[error("there is a snapshot at index {snapshot_index} and no log in {}; what this node had voted and promised is lost. Remove its data directory and let it join as new", dir.display())]
    LogMissing {
        /// The log's directory.
        dir: PathBuf,
        /// Index of the snapshot.
        snapshot_index: u64,
    },
    /// The log begins after the snapshot ends.
    #[error("the log in {} begins at index {first_index}, the snapshot ends at {snapshot_index}: entries between them are missing. Put the missing files back, or restore the whole data directory from a backup; in an ensemble it may be emptied (but for myid) instead: the server is fed when it joins", dir.display())]
    DoesNotReachSnapshot {
        /// The log's directory.
        dir: PathBuf,
        /// First index of the log.
        first_index: u64,
        /// Index of the snapshot, 0 without one.
        snapshot_index: u64,
    },
    /// An option has a value that cannot work.
    #[error("log option {option}: {what}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused, or there is no room for the first segment.
    #[error("{}: {source}{}", path.display(), crate::datadir::advice(source))]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why records were not taken. They come back unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct AppendError {
    /// What was to be appended.
    pub records: Vec<Record>,
    /// Why not.
    pub why: Refusal,
}

/// The cause in an [`AppendError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// `queue_bytes_max` is reached. Try again after a wake-up.
    #[error("the log's queue is full")]
    Full,
    /// There is no room on the disk. Only hard states and entries without data are taken.
    #[error("writes are stopped: {0}")]
    WritesStopped(Arc<str>),
    /// The log failed before.
    #[error("the log has failed: {0}")]
    Failed(Arc<str>),
    /// An entry does not fit a segment.
    #[error("an entry of {bytes} bytes does not fit a log segment (at most {max})")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// [`LogOptions::entry_bytes_max`].
        max: u64,
    },
}

/// Why entries cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Below the first index.
    #[error("index {0} is no longer in the log")]
    Compacted(u64),
    /// Above the last durable index.
    #[error("index {0} is not in the log yet")]
    Unavailable(u64),
    /// The bytes are not what was written.
    #[error("{path} is corrupt at offset {offset}")]
    Corrupt {
        /// The segment.
        path: String,
        /// Where the record begins.
        offset: u64,
    },
    /// The operating system refused.
    #[error("{0}")]
    Io(String),
}
