//! Receiving a snapshot file from a peer, chunk by chunk.
//!
//! Owns the temporary file. Never trusts the peer: the file gets its name only after all of it was
//! verified as a snapshot of the expected index and term. Chunks come in order; the caller does the flow
//! control.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use super::{Finished, SnapshotError, SnapshotReader, Snapshots};
use crate::disk::DiskFile;

/// A snapshot being received.
pub struct SnapshotReceiver {
    snapshots: Snapshots,
    index: u64,
    term: u64,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    expected: u64,
    received: u64,
    finished: bool,
}

impl SnapshotReceiver {
    pub(crate) fn create(
        snapshots: Snapshots,
        index: u64,
        term: u64,
        bytes: u64,
    ) -> Result<SnapshotReceiver, SnapshotError> {
        let (temporary, file) = snapshots.create_temporary(index, term, "receive")?;
        Ok(SnapshotReceiver {
            snapshots,
            index,
            term,
            temporary,
            file,
            expected: bytes,
            received: 0,
            finished: false,
        })
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether all bytes were received.
    pub fn complete(&self) -> bool {
        self.received == self.expected
    }

    /// Appends a chunk. `offset` must equal the bytes received so far.
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        if offset != self.received {
            return Err(SnapshotError::OutOfOrder { expected: self.received, found: offset });
        }
        let length = bytes.len() as u64;
        if length > self.expected - self.received {
            return Err(SnapshotError::TooLarge {
                what: "file",
                bytes: self.received.saturating_add(length),
                max: self.expected,
            });
        }
        self.file.write_at(bytes, offset).map_err(self.snapshots.io(&self.temporary))?;
        self.received += length;
        Ok(())
    }

    /// Syncs, verifies and renames the file. Afterwards the snapshot equals one written by this node.
    ///
    /// The caller appends and syncs the log's [`crate::Record::Reset`] before it uses the snapshot.
    pub fn finish(mut self) -> Result<(Finished, SnapshotReader), SnapshotError> {
        if !self.complete() {
            return Err(SnapshotError::OutOfOrder { expected: self.expected, found: self.received });
        }
        self.file.sync_all().map_err(self.snapshots.io(&self.temporary))?;
        let verified = SnapshotReader::open(&*self.snapshots.disk, &self.temporary)?;
        if (verified.header().index, verified.header().term) != (self.index, self.term) {
            return Err(SnapshotError::Damaged {
                path: self.temporary.clone(),
                offset: 0,
                what: "a snapshot of another index or term than announced",
            });
        }
        let finished = self.snapshots.give_name(&self.temporary, self.index, self.term, self.received)?;
        self.finished = true;
        // The renamed file is not read and verified a second time.
        let reader = verified.renamed(&finished.path);
        Ok((finished, reader))
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails, the next start removes the file.
            let _ = self.snapshots.disk.remove(&self.temporary);
        }
    }
}
