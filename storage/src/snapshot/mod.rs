//! Snapshots: the whole state at one index of the log, in one file of typed, checksummed blocks.
//!
//! Owns the files of one directory: writing under a temporary name, the rename, the newest two, the choice of the newest good
//! one at a start, and receiving a file from a peer. Never knows what is in a block, and never changes a file that has its
//! name. It stays correct across a crash because a file gets its name only after its bytes are durable, and against
//! decay because every byte lies under a checksum and the previous good snapshot is kept. See `docs/formats/snapshot.md`.

#![forbid(unsafe_code)]

mod format;
mod reader;
mod receiver;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use reader::{Block, Blocks, SnapshotReader};
pub use receiver::SnapshotReceiver;
pub use writer::{Finished, SnapshotWriter};

use crate::disk::{Disk, RealDisk};

/// Snapshots kept: the newest, and the one to fall back to when it is damaged.
pub const RETAINED: usize = 2;
/// Largest block, bytes of payload: a length beyond it is damage, not a request for memory.
pub const BLOCK_BYTES_MAX: u64 = 1 << 30;
/// Largest configuration state, bytes: a few hundred members.
pub const CONF_STATE_BYTES_MAX: usize = 1 << 20;

/// What a snapshot is a snapshot of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Last zxid applied.
    pub zxid: i64,
    /// Last log index applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Digest of the state.
    pub digest: u64,
    /// Znodes in it: progress of loading, and how large to make the tables.
    pub node_count: u64,
    /// Membership as of `index`, in the caller's encoding.
    pub conf_state: Bytes,
}

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Bytes are not what was written.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Written by a version with another format.
    #[error("{} has format version {found}; this build reads version {supported}: start the version of Paddock that wrote it", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// There are snapshots, and none of them can be used.
    #[error(
        "none of the {} snapshots in {} can be used; the newest: {newest}. Move them away and start: a log that still begins at its \
         first entry is enough, and any other is refused. Then restore the whole data directory from a backup; in an ensemble it \
         may be emptied (but for myid) instead: the server is fed when it joins",
        count,
        dir.display()
    )]
    NoneGood {
        /// The directory.
        dir: PathBuf,
        /// How many there are.
        count: usize,
        /// What is wrong with the newest.
        newest: Box<SnapshotError>,
    },
    /// The caller gave something the format cannot hold.
    #[error("snapshot {what} is {bytes} bytes long, at most {max} are allowed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// Chunks of a received snapshot do not follow each other.
    #[error("a chunk at offset {found} where {expected} was expected")]
    OutOfOrder {
        /// Offset of the next byte.
        expected: u64,
        /// Offset that came.
        found: u64,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A snapshot that was not chosen, and why.
#[derive(Debug)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: SnapshotError,
}

/// The result of [`Snapshots::open_newest`].
#[derive(Debug)]
pub struct Opened {
    /// The newest good snapshot.
    pub reader: SnapshotReader,
    /// Newer ones that are damaged, newest first. The caller logs them.
    pub skipped: Vec<Skipped>,
}

/// A name in the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Last log index in it.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The file.
    pub path: PathBuf,
}

/// The snapshots of one directory.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Snapshots {
    /// Snapshots on the real disk.
    pub fn new(dir: impl Into<PathBuf>) -> Snapshots {
        Snapshots::on(Arc::new(RealDisk), dir)
    }

    /// Snapshots on any disk.
    pub fn on(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Snapshots {
        Snapshots { disk, dir: dir.into() }
    }

    /// Removes what interrupted writes left, then opens the newest good snapshot; `None` if there is none at all.
    ///
    /// A damaged one is passed over in favour of the one before it; another format version is an error at once, since
    /// the snapshots and the log before it were not written for this build either. Call this at a start, before
    /// any writer exists.
    pub fn open_newest(&self) -> Result<Option<Opened>, SnapshotError> {
        self.disk.create_dir(&self.dir).map_err(self.io(&self.dir))?;
        for name in self.disk.list(&self.dir).map_err(self.io(&self.dir))? {
            if name.ends_with(format::TEMPORARY_SUFFIX) {
                let path = self.dir.join(name);
                self.disk.remove(&path).map_err(self.io(&path))?;
            }
        }
        // Whoever wrote the newest may have ended between its rename and this: the log is cut or reset by what is opened here,
        // which must not go with the next power cut.
        self.disk.sync_dir(&self.dir).map_err(self.io(&self.dir))?;
        let mut skipped = Vec::new();
        let listed = self.list()?;
        for found in listed.iter().rev() {
            match SnapshotReader::open(&*self.disk, &found.path) {
                Ok(reader) => return Ok(Some(Opened { reader, skipped })),
                Err(error @ SnapshotError::Damaged { .. }) => {
                    skipped.push(Skipped { path: found.path.clone(), error });
                }
                Err(error) => return Err(error),
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        let newest = Box::new(skipped.swap_remove(0).error);
        Err(SnapshotError::NoneGood { dir: self.dir.clone(), count: listed.len(), newest })
    }

    /// The newest good snapshot before (index, term): for a caller that cannot use what [`Snapshots::open_newest`] gave
    /// it. Damaged ones are added to `skipped`.
    pub fn open_before(
        &self,
        before: (u64, u64),
        skipped: &mut Vec<Skipped>,
    ) -> Result<Option<SnapshotReader>, SnapshotError> {
        for found in self.list()?.iter().rev().filter(|found| (found.index, found.term) < before) {
            match SnapshotReader::open(&*self.disk, &found.path) {
                Ok(reader) => return Ok(Some(reader)),
                Err(error @ SnapshotError::Damaged { .. }) => {
                    skipped.push(Skipped { path: found.path.clone(), error });
                }
                Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// All snapshots by name, oldest first.
    pub fn list(&self) -> Result<Vec<Listed>, SnapshotError> {
        let names = self.disk.list(&self.dir).map_err(self.io(&self.dir))?;
        let mut listed: Vec<Listed> = names
            .iter()
            .filter_map(|name| {
                let (index, term) = format::parse_name(name)?;
                Some(Listed { index, term, path: self.dir.join(name) })
            })
            .collect();
        listed.sort();
        Ok(listed)
    }

    /// Opens and verifies one snapshot.
    pub fn open(&self, path: &Path) -> Result<SnapshotReader, SnapshotError> {
        SnapshotReader::open(&*self.disk, path)
    }

    /// Begins a snapshot.
    pub fn create(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::create(self.clone(), meta)
    }

    /// Begins to receive a snapshot file of `bytes` from a peer.
    pub fn receive(&self, index: u64, term: u64, bytes: u64) -> Result<SnapshotReceiver, SnapshotError> {
        SnapshotReceiver::create(self.clone(), index, term, bytes)
    }

    /// Removes a damaged snapshot that was skipped, so that it does not count as one of the retained two.
    pub fn discard(&self, skipped: &Skipped) -> Result<(), SnapshotError> {
        self.disk.remove(&skipped.path).map_err(self.io(&skipped.path))?;
        self.disk.sync_dir(&self.dir).map_err(self.io(&self.dir))
    }

    /// Removes all but the newest [`RETAINED`]; the index of the oldest that stays, once there are that many.
    fn retain(&self) -> Result<Option<u64>, SnapshotError> {
        let mut listed = self.list()?;
        let surplus = listed.len().saturating_sub(RETAINED);
        for old in listed.drain(..surplus) {
            match self.disk.remove(&old.path) {
                // A checkpoint and a snapshot that was received may come to their ends at the same time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(self.io(&old.path))?,
            }
        }
        if surplus > 0 {
            self.disk.sync_dir(&self.dir).map_err(self.io(&self.dir))?;
        }
        Ok(if listed.len() == RETAINED { listed.first().map(|oldest| oldest.index) } else { None })
    }

    fn io(&self, path: &Path) -> impl Fn(io::Error) -> SnapshotError + use<> {
        let path = path.to_owned();
        move |source| SnapshotError::Io { path: path.clone(), source }
    }
}
