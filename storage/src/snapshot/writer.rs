//! Writing a snapshot: temporary name, blocks in turn, sync, rename, sync of the directory, retention.
//!
//! Owns the file until it has its final name, and removes it when dropped before that.
//! Never holds more than one block in memory.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use super::{BLOCK_BYTES_MAX, CONF_STATE_BYTES_MAX, SnapshotError, SnapshotMeta, Snapshots, format};
use crate::disk::DiskFile;

/// Bytes buffered before they are written.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes between two syncs while a snapshot is written.
///
/// The log's syncs share the disk. Without these syncs they would wait behind a whole snapshot of dirty
/// pages.
const SYNC_EVERY_BYTES: u64 = 16 << 20;

/// A snapshot being written.
pub struct SnapshotWriter {
    snapshots: Snapshots,
    index: u64,
    term: u64,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    blocks: u64,
    finished: bool,
}

/// A snapshot that is durable under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub path: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// Last index that the log no longer needs, because both retained snapshots contain it. `None` while
    /// there is only one snapshot.
    pub log_not_needed_to: Option<u64>,
}

impl SnapshotWriter {
    pub(crate) fn create(snapshots: Snapshots, meta: &SnapshotMeta) -> Result<SnapshotWriter, SnapshotError> {
        if meta.conf_state.len() > CONF_STATE_BYTES_MAX {
            return Err(SnapshotError::TooLarge {
                what: "configuration state",
                bytes: meta.conf_state.len() as u64,
                max: CONF_STATE_BYTES_MAX as u64,
            });
        }
        let (index, term) = (meta.index, meta.term);
        let (temporary, file) = snapshots.create_temporary(index, term, "write")?;
        Ok(SnapshotWriter {
            snapshots,
            index,
            term,
            temporary,
            file,
            buffer: format::encode_header(meta),
            written: 0,
            synced: 0,
            blocks: 0,
            finished: false,
        })
    }

    /// Appends a block. Its bytes are 16-byte aligned when loaded.
    pub fn block(&mut self, kind: u16, bytes: &[u8]) -> Result<(), SnapshotError> {
        let length = bytes.len() as u64;
        if length > BLOCK_BYTES_MAX {
            return Err(SnapshotError::TooLarge { what: "block", bytes: length, max: BLOCK_BYTES_MAX });
        }
        self.buffer.extend_from_slice(&format::block_header(kind, self.blocks, bytes));
        self.blocks += 1;
        // A large block is written without a copy.
        if bytes.len() >= PIECE_BYTES {
            self.write_buffer()?;
            for piece in bytes.chunks(PIECE_BYTES) {
                self.write(piece)?;
            }
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        let padding = bytes.len().next_multiple_of(format::ALIGN) - bytes.len();
        self.buffer.extend_from_slice(&[0; format::ALIGN][..padding]);
        if self.buffer.len() >= PIECE_BYTES {
            self.write_buffer()?;
        }
        Ok(())
    }

    /// Makes the snapshot durable under its final name, and removes all but the newest two.
    pub fn finish(mut self) -> Result<Finished, SnapshotError> {
        self.buffer.extend_from_slice(&format::footer(self.blocks));
        self.write_buffer()?;
        let io = self.snapshots.io(&self.temporary);
        self.file.sync_all().map_err(io)?;
        let finished = self.snapshots.give_name(&self.temporary, self.index, self.term, self.written)?;
        self.finished = true;
        Ok(finished)
    }

    fn write_buffer(&mut self) -> Result<(), SnapshotError> {
        let buffer = std::mem::take(&mut self.buffer);
        let done = self.write(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        done
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        if piece.is_empty() {
            return Ok(());
        }
        let io = self.snapshots.io(&self.temporary);
        self.file.write_at(piece, self.written).map_err(&io)?;
        self.written += piece.len() as u64;
        if self.written - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync_data().map_err(&io)?;
            self.synced = self.written;
        }
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails, the next start removes the file.
            let _ = self.snapshots.disk.remove(&self.temporary);
        }
    }
}

impl Snapshots {
    /// Creates the temporary file for a snapshot, and replaces one that an earlier failure left.
    pub(super) fn create_temporary(
        &self,
        index: u64,
        term: u64,
        purpose: &str,
    ) -> Result<(PathBuf, Arc<dyn DiskFile>), SnapshotError> {
        self.disk.create_dir(&self.dir).map_err(self.io(&self.dir))?;
        let name = format!("{}.{purpose}{}", format::name(index, term), format::TEMPORARY_SUFFIX);
        let path = self.dir.join(name);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(self.io(&path)(error)),
            _ => {}
        }
        let file = self.disk.create(&path).map_err(self.io(&path))?;
        Ok((path, file))
    }

    /// Renames a durable temporary file to its final name, durably, and removes surplus snapshots.
    pub(super) fn give_name(
        &self,
        temporary: &std::path::Path,
        index: u64,
        term: u64,
        bytes: u64,
    ) -> Result<Finished, SnapshotError> {
        let path = self.dir.join(format::name(index, term));
        self.disk.rename(temporary, &path).map_err(self.io(&path))?;
        self.disk.sync_dir(&self.dir).map_err(self.io(&self.dir))?;
        let log_not_needed_to = self.retain()?;
        Ok(Finished { path, bytes, log_not_needed_to })
    }
}
