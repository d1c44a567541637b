//! Read-only memory maps of log segments and snapshots: the one place of this crate with `unsafe`.
//!
//! Owns the rule under which mapping a file is sound: the mapped range is allocated, and no mapped byte is
//! rewritten or truncated while the map lives. Never maps writably.
//! Correct because both callers keep the rule. The log maps only below its durable end, and recycles a
//! segment after its last map is gone. A snapshot is mapped when all of it is written.

use std::fs::File;
use std::io;
use std::ops::Deref;

use rkyv::util::AlignedVec;

/// Read-only bytes of a file, aligned to 16 bytes: a map of a real file, or a copy on a simulated disk.
#[derive(Debug)]
pub enum View {
    /// Pages of the file itself.
    Map(memmap2::Mmap),
    /// Bytes read from the file.
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
        // SAFETY: bytes below `length` are allocated, and are neither rewritten nor truncated while this
        // map lives. The log maps below its durable end, and does not recycle a segment while a view's
        // token lives. A snapshot is mapped when all of it is written. Afterwards its file is only renamed
        // or removed, which leaves the pages in place. The directory lock
        // excludes other Paddock processes.
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
