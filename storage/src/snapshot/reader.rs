//! Reading a snapshot through a read-only map.
//!
//! Owns the map. Never returns a byte that was not verified: opening checks every checksum, because a
//! damaged snapshot must be skipped before any of it is loaded. Never maps a file before plain reads have
//! read all of it: there a bad sector is an error, under a map it is a signal.
//! Correct because a finished snapshot is immutable, so verified bytes stay verified. Removing the file
//! leaves the map intact.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::format::{self, BadSnapshot, BlockPlace};
use super::{Opened, SnapshotError, SnapshotMeta, Snapshots};
use crate::disk::{Disk, DiskFile, read_full};
use crate::map::View;

/// Bytes per plain read; the offset of a bad sector is reported to this precision.
const PIECE_BYTES: usize = 256 << 10;

/// A verified snapshot; clones share its map.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    path: PathBuf,
    view: Arc<View>,
    meta: SnapshotMeta,
    places: Arc<[BlockPlace]>,
}

/// One block, borrowed from the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Type of the block, in the writer's encoding.
    pub kind: u16,
    /// Payload of the block, 16-byte aligned.
    pub bytes: &'a [u8],
}

impl SnapshotReader {
    /// The newest good snapshot of a directory, see [`Snapshots::open_newest`].
    pub fn open_newest(snapshots: &Snapshots) -> Result<Option<Opened>, SnapshotError> {
        snapshots.open_newest()
    }

    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<SnapshotReader, SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.to_owned(), source };
        let file = disk.open(path).map_err(io)?;
        let bytes = file.size().map_err(io)?;
        read_through(&*file, path, bytes)?;
        let view = file.view(bytes).map_err(io)?;
        let bad = |bad| match bad {
            BadSnapshot::Damaged(offset, what) => {
                SnapshotError::Damaged { path: path.to_owned(), offset: offset as u64, what }
            }
            BadSnapshot::Version(found) => {
                SnapshotError::UnsupportedVersion { path: path.to_owned(), found, supported: format::VERSION }
            }
        };
        let (meta, start) = format::decode_header(&view).map_err(bad)?;
        let places = format::verify(&view, start).map_err(bad)?;
        Ok(SnapshotReader { path: path.to_owned(), view: Arc::new(view), meta, places: places.into() })
    }

    /// This reader after the rename of its file to `path`.
    pub(super) fn renamed(self, path: &Path) -> SnapshotReader {
        SnapshotReader { path: path.to_owned(), ..self }
    }

    pub fn header(&self) -> &SnapshotMeta {
        &self.meta
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn block_count(&self) -> usize {
        self.places.len()
    }

    /// The blocks in the order in which they were written.
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { reader: self, at: 0 }
    }

    /// One block by its number, counted from 0. Allows loading on several threads.
    pub fn block(&self, number: usize) -> Option<Block<'_>> {
        let place = self.places.get(number)?;
        Some(Block { kind: place.kind, bytes: &self.view[place.payload.clone()] })
    }

    pub fn file_bytes(&self) -> u64 {
        self.view.len() as u64
    }

    /// Up to `bytes_max` raw bytes of the file at `offset`, for a peer. `None` beyond its end. Shares the
    /// map.
    pub fn chunk(&self, offset: u64, bytes_max: usize) -> Option<Bytes> {
        let start = usize::try_from(offset).ok().filter(|&start| start < self.view.len())?;
        let end = start.saturating_add(bytes_max).min(self.view.len());
        Some(Bytes::from_owner(FileChunk { view: self.view.clone(), range: start..end }))
    }
}

/// Reads all of a file. A sector that the disk cannot read is damage like any other: there is an older
/// snapshot.
fn read_through(file: &dyn DiskFile, path: &Path, bytes: u64) -> Result<(), SnapshotError> {
    let mut piece = vec![0; PIECE_BYTES];
    for offset in (0..bytes).step_by(PIECE_BYTES) {
        read_full(file, &mut piece, offset).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::IO) => {
                let what = "the disk cannot read a sector from there on";
                SnapshotError::Damaged { path: path.to_owned(), offset, what }
            }
            _ => SnapshotError::Io { path: path.to_owned(), source },
        })?;
    }
    Ok(())
}

/// Iterator over a snapshot's blocks.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    reader: &'a SnapshotReader,
    at: usize,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        let block = self.reader.block(self.at)?;
        self.at += 1;
        Some(block)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.reader.block_count() - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Blocks<'_> {}

/// A range of the file's map.
struct FileChunk {
    view: Arc<View>,
    range: Range<usize>,
}

impl AsRef<[u8]> for FileChunk {
    fn as_ref(&self) -> &[u8] {
        &self.view[self.range.clone()]
    }
}
