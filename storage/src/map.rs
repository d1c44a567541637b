//! Memory maps of log segments and snapshots: the one place of this crate with `unsafe`.
//!
//! Owns the rule under which mapping a file is sound here: the mapped range is allocated, the file is never
//! truncated while it is open, and no byte below the mapped end is rewritten while a read-only map of it lives. The callers keep
//! that rule: the log maps only below its durable end and recycles a segment when its last map is gone, and a snapshot
//! is immutable from the rename on. Never hands out a map of a file that this process still appends below.

use std::fs::File;
use std::io;
use std::ops::Deref;

use rkyv::util::AlignedVec;

/// Read-only bytes of a file: a map of a real file, or a copy where the disk is simulated. Aligned to 16 bytes.
#[derive(Debug)]
pub enum View {
    /// Pages of the file itself.
    Map(memmap2::Mmap),
    /// Bytes read from it.
    Copy(AlignedVec<16>),
}

impl View {
    /// Maps the first `length` bytes of `file`.
    pub(crate) fn map(file: &File, length: u64) -> io::Result<View> {
        if length == 0 {
            return Ok(View::Copy(AlignedVec::new()));
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut options = memmap2::MmapOptions::new();
        options.len(length);
        // SAFETY: bytes below `length` are allocated and are neither rewritten nor truncated while this map
        // lives: the log maps below its durable end and keeps a segment from being recycled as long as a view's token
        // lives; snapshots are mapped after their rename and only ever removed, which leaves the pages in place.
        // The directory lock keeps other processes of ours out.
        let map = unsafe { options.map(file)? };
        Ok(View::Map(map))
    }
}

impl Deref for View {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            View::Map(map) => map,
            View::Copy(copy) => copy,
        }
    }
}

/// A writable map of a whole preallocated segment.
#[derive(Debug)]
pub struct WriteMap(memmap2::MmapMut);

impl WriteMap {
    /// Maps the first `length` bytes of `file`, which are allocated and zero-filled.
    pub(crate) fn map(file: &File, length: u64) -> io::Result<WriteMap> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut options = memmap2::MmapOptions::new();
        options.len(length);
        // SAFETY: the segment was zero-filled to `length` before it got its name, so no store meets a hole on a
        // full disk, and nobody truncates it. Read-only maps of the same file end at the durable end and the one
        // writer (the flusher) stores only above it, so no reader sees a byte change.
        let map = unsafe { options.map_mut(file)? };
        Ok(WriteMap(map))
    }

    /// Stores `bytes` at `offset`; false if they do not fit.
    pub(crate) fn store(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Ok(start) = usize::try_from(offset) else { return false };
        match self.0.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    /// Writes the dirty pages of a range back and waits for the disk.
    pub(crate) fn flush(&self, offset: u64, length: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.0.flush_range(start, length)
    }
}
