//! The two ways in which bytes get into a segment and are made durable.
//!
//! Owns nothing but the way: offsets and order are the flusher's. Never retries. Both leave the file in the same
//! state, so a log written one way is read, and gone on with, the other way.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::WriteMethod;
use crate::disk::DiskFile;
use crate::map::WriteMap;

/// Writes into one segment.
pub(crate) trait SegmentWriter: Send {
    /// Puts `bytes` at `offset`; they are live afterwards.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written since the last sync durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The writer for `method`. A disk without maps writes the plain way.
pub(crate) fn writer(
    method: WriteMethod,
    file: &Arc<dyn DiskFile>,
    file_bytes: u64,
) -> io::Result<Box<dyn SegmentWriter>> {
    if method == WriteMethod::Map
        && let Some(map) = file.write_map(file_bytes)?
    {
        return Ok(Box::new(MapWriter { map, dirty: None }));
    }
    Ok(Box::new(PwriteWriter { file: file.clone() }))
}

struct PwriteWriter {
    file: Arc<dyn DiskFile>,
}

impl SegmentWriter for PwriteWriter {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        // The file was filled before it became a segment: its size and extents do not change.
        self.file.sync_data()
    }
}

struct MapWriter {
    map: WriteMap,
    /// Begin and end of what was stored since the last sync.
    dirty: Option<(u64, u64)>,
}

impl SegmentWriter for MapWriter {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.map.store(offset, bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write beyond the segment"));
        }
        let end = offset + bytes.len() as u64;
        self.dirty = Some(match self.dirty {
            Some((start, old_end)) => (start.min(offset), old_end.max(end)),
            None => (offset, end),
        });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some((start, end)) = self.dirty.take() {
            self.map.flush(start, end - start)?;
        }
        Ok(())
    }
}
