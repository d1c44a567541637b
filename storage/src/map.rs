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
