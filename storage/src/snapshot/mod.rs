//! Snapshots: the whole state at one index of the log, in one file of typed, checksummed blocks.
//!
//! Owns the files of one directory. Writes a snapshot, receives one from a peer, keeps the newest two,
//! and finds the newest good one at a start.
//! Never knows what a block contains. Never changes a file that has its final name.
//! Correct across a crash because a file gets its name only after its bytes are durable. Correct against
//! decay because every byte is covered by a checksum, and the previous good snapshot is kept. See
//! `docs/formats/snapshot.md`.

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

/// Number of snapshots kept: the newest, and the one to use when the newest is damaged.
pub const RETAINED: usize = 2;
/// Largest payload of a block, bytes. A greater length in a file is damage.
pub const BLOCK_BYTES_MAX: u64 = 1 << 30;
/// Largest configuration state, bytes. A few hundred members take a fraction of it.
pub const CONF_STATE_BYTES_MAX: usize = 1 << 20;

/// Header of a snapshot file: identifies and describes the state in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Last applied zxid of the state.
    pub zxid: i64,
    /// Last applied log index.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
    /// Digest of the state.
    pub digest: u64,
    /// Number of znodes, from which the loader sizes its tables and reports progress.
    pub node_count: u64,
    /// Membership as of `index`, in the caller's encoding.
    pub conf_state: Bytes,
}

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Bytes of the file differ from what was written.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
    /// Written by a version with another format.
    #[error("{} has format version {found}; this build reads version {supported}: start the version of Paddock that wrote it", path.display())]
    UnsupportedVersion { path: PathBuf, found: u32, supported: u32 },
    /// The directory has snapshots, and all of them are damaged.
    #[error(
        "none of the {} snapshots in {} can be used; the newest: {newest}. Move them away and start: a log that still begins at its \
         first entry is enough, and any other is refused. Then restore the whole data directory from a backup; in an ensemble it \
         may be emptied (but for myid) instead: the server is fed when it joins",
        count,
        dir.display()
    )]
    NoneGood {
        dir: PathBuf,
        /// Number of snapshots in the directory.
        count: usize,
        /// Error of the newest snapshot.
        newest: Box<SnapshotError>,
    },
    /// An argument is larger than the format allows.
    #[error("snapshot {what} is {bytes} bytes long, at most {max} are allowed")]
    TooLarge { what: &'static str, bytes: u64, max: u64 },
    /// Chunks of a received snapshot do not follow each other.
    #[error("a chunk at offset {found} where {expected} was expected")]
    OutOfOrder {
        /// Offset of the next byte.
        expected: u64,
        /// Offset of the chunk that was received.
        found: u64,
    },
    /// An operation of the file system failed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A damaged snapshot that was passed over.
#[derive(Debug)]
pub struct Skipped {
    pub path: PathBuf,
    pub error: SnapshotError,
}

/// The result of [`Snapshots::open_newest`].
#[derive(Debug)]
pub struct Opened {
    /// The newest good snapshot.
    pub reader: SnapshotReader,
    /// Newer snapshots that are damaged, newest first. The caller logs them.
    pub skipped: Vec<Skipped>,
}

/// A finished snapshot by its file name, not verified.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Last log index in the snapshot.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
    pub path: PathBuf,
}

/// The snapshots of one directory.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Snapshots {
    /// Snapshots in `dir` on the real disk.
    pub fn new(dir: impl Into<PathBuf>) -> Snapshots {
        Snapshots::on(Arc::new(RealDisk), dir)
    }

    /// Snapshots in `dir` on `disk`.
    pub fn on(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Snapshots {
        Snapshots { disk, dir: dir.into() }
    }

    /// Removes temporary files, then opens the newest good snapshot. `None` if the directory has no snapshot.
    ///
    /// A damaged snapshot is skipped for the one before it. Another format version is an error at once,
    /// because older snapshots and the log were not written for this build either. To be called at a
    /// start, before any writer exists.
    pub fn open_newest(&self) -> Result<Option<Opened>, SnapshotError> {
        self.disk.create_dir(&self.dir).map_err(self.io(&self.dir))?;
        for name in self.disk.list(&self.dir).map_err(self.io(&self.dir))? {
            if name.ends_with(format::TEMPORARY_SUFFIX) {
                let path = self.dir.join(name);
                self.disk.remove(&path).map_err(self.io(&path))?;
            }
        }
        // The process that wrote the newest snapshot may have crashed before it synced the rename. The
        // log is cut or reset by the snapshot opened here, so its name must survive the next power cut.
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

    /// The newest good snapshot before (index, term). Damaged ones are added to `skipped`.
    ///
    /// For a caller that cannot load the snapshot of [`Snapshots::open_newest`].
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

    /// All finished snapshots by their names, oldest first.
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

    /// Begins to write a snapshot.
    pub fn create(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::create(self.clone(), meta)
    }

    /// Begins to receive a snapshot file of `bytes` from a peer.
    pub fn receive(&self, index: u64, term: u64, bytes: u64) -> Result<SnapshotReceiver, SnapshotError> {
        SnapshotReceiver::create(self.clone(), index, term, bytes)
    }

    /// Removes a damaged snapshot, so that it does not count as one of the [`RETAINED`].
    pub fn discard(&self, skipped: &Skipped) -> Result<(), SnapshotError> {
        self.disk.remove(&skipped.path).map_err(self.io(&skipped.path))?;
        self.disk.sync_dir(&self.dir).map_err(self.io(&self.dir))
    }

    /// Removes all but the newest [`RETAINED`]. Returns the index of the oldest kept, once there are that
    /// many.
    fn retain(&self) -> Result<Option<u64>, SnapshotError> {
        let mut listed = self.list()?;
        let surplus = listed.len().saturating_sub(RETAINED);
        for old in listed.drain(..surplus) {
            match self.disk.remove(&old.path) {
                // A checkpoint and a received snapshot may end at the same time, and both remove.
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
