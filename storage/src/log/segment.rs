//! A segment: one preallocated file of the log, its header, its names and its reuse.
//!
//! Owns the header format and the order "header, sync, name": a file has a segment's name only after its
//! header was synced. A file is a spare, then a segment, then a spare again. Each use as a segment has
//! its own generation.
//! Never shrinks or grows a file after it was filled.
//! Correct because a segment with a bad header cannot come from a crash: it is corruption.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::OpenError;
use super::record;
use crate::disk::{Disk, DiskFile};
use crate::map::View;
use crate::{crc32c, field};

pub(crate) const MAGIC: [u8; 8] = *b"PADLOG\r\n";
/// Format version of segments and their records.
pub(crate) const VERSION: u32 = 1;
/// Bytes before the first record: a page, so that appending never rewrites a sector of the header.
pub(crate) const HEADER_BYTES: u64 = 4096;
/// Bytes of the header that hold fields, all covered by its checksum.
const FIELDS_BYTES: usize = 64;
/// Bytes at the end of each segment that are reserved for hard states and entries without data.
///
/// With them a node whose disk is full still votes and begins a term. 64 KiB hold 800 hard states.
/// Segments below 1 MiB reserve a sixteenth.
const HARD_STATE_RESERVE_BYTES_MAX: u64 = 64 << 10;

/// File size for the option `segment_bytes`: a multiple of 4096.
pub(crate) fn file_bytes(segment_bytes: u64) -> u64 {
    segment_bytes.next_multiple_of(4096)
}

/// Bytes at the end of a file of `file_bytes` that no entry with data uses.
pub(crate) fn reserve(file_bytes: u64) -> u64 {
    HARD_STATE_RESERVE_BYTES_MAX.min(file_bytes / 16)
}

/// Largest entry payload in a file of `file_bytes`, bytes.
///
/// The segment also holds its header, the hard state at its head and the reserve.
pub(crate) fn entry_bytes_max(file_bytes: u64) -> u64 {
    let room = file_bytes - HEADER_BYTES - record::HARD_STATE_BYTES - reserve(file_bytes);
    (room - record::HEADER_BYTES as u64) / record::ALIGN as u64 * record::ALIGN as u64
}

/// Fields of a segment's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Number of the segment; consecutive segments have consecutive generations.
    pub generation: u64,
    /// Log position of the first record. The log before it was synced before this header was written.
    pub base: u64,
    /// Raft index after the last entry when the segment was begun.
    pub first_index: u64,
    /// Term of the entry before `first_index`.
    pub previous_term: u64,
    /// Secret of the log, see [`super::LogOptions::salt`].
    pub salt: u64,
    pub file_bytes: u64,
}

/// Why a page is not a valid header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged(&'static str),
    Version(u32),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; HEADER_BYTES as usize];
        field::put(&mut page, 0, MAGIC);
        field::put(&mut page, 8, VERSION.to_le_bytes());
        field::put(&mut page, 16, self.generation.to_le_bytes());
        field::put(&mut page, 24, self.base.to_le_bytes());
        field::put(&mut page, 32, self.first_index.to_le_bytes());
        field::put(&mut page, 40, self.previous_term.to_le_bytes());
        field::put(&mut page, 48, self.salt.to_le_bytes());
        field::put(&mut page, 56, self.file_bytes.to_le_bytes());
        let checksum = crc32c(&page[..FIELDS_BYTES]);
        field::put(&mut page, 12, checksum.to_le_bytes());
        page
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Header, BadHeader> {
        if page.len() < HEADER_BYTES as usize {
            return Err(BadHeader::Damaged("the file is shorter than a header"));
        }
        if page[..8] != MAGIC {
            return Err(BadHeader::Damaged("not a log segment"));
        }
        // Checked before the checksum, which another version may compute over other bytes.
        let version = field::u32(page, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let mut covered = [0; FIELDS_BYTES];
        covered.copy_from_slice(&page[..FIELDS_BYTES]);
        field::put(&mut covered, 12, [0; 4]);
        if field::u32(page, 12) != crc32c(&covered) {
            return Err(BadHeader::Damaged("the header's checksum does not match"));
        }
        Ok(Header {
            generation: field::u64(page, 16),
            base: field::u64(page, 24),
            first_index: field::u64(page, 32),
            previous_term: field::u64(page, 40),
            salt: field::u64(page, 48),
            file_bytes: field::u64(page, 56),
        })
    }
}

/// A segment in use.
pub(crate) struct Segment {
    pub header: Header,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Highest index of an entry in the segment, superseded ones included; 0 without entries.
    pub highest_index: std::sync::atomic::AtomicU64,
    views: Mutex<Views>,
}

#[derive(Default)]
struct Views {
    /// Longest view so far, kept because several followers often read the same entries.
    current: Option<Arc<SegmentView>>,
    /// Shared with every view: the file is not reused while a view holds it.
    token: Arc<()>,
}

/// A view of a segment's durable part; the file is not recycled while the view lives.
pub(crate) struct SegmentView {
    view: View,
    _token: Arc<()>,
}

impl SegmentView {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.view
    }
}

impl Segment {
    pub(crate) fn new(header: Header, path: PathBuf, file: Arc<dyn DiskFile>) -> Segment {
        Segment { header, path, file, highest_index: 0.into(), views: Mutex::default() }
    }

    /// File offset of a log position in this segment.
    pub(crate) fn offset(&self, position: u64) -> u64 {
        position - self.header.base + HEADER_BYTES
    }

    /// Log position of a file offset.
    pub(crate) fn position(&self, offset: u64) -> u64 {
        self.header.base + (offset - HEADER_BYTES)
    }

    /// A view that covers the file up to offset `end`, which is at or below the durable end.
    pub(crate) fn view(&self, end: u64) -> io::Result<Arc<SegmentView>> {
        debug_assert!(end <= self.header.file_bytes, "a view ends within the file");
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &views.current
            && view.view.len() as u64 >= end
        {
            return Ok(view.clone());
        }
        let view = Arc::new(SegmentView { view: self.file.view(end)?, _token: views.token.clone() });
        debug_assert!(view.bytes().len() as u64 >= end, "a view covers what was asked for");
        views.current = Some(view.clone());
        Ok(view)
    }

    /// Whether no view is left. Called after the segment was removed from the index, so that no view is
    /// added.
    pub(crate) fn unmapped(self: &mut Arc<Self>) -> bool {
        // get_mut also orders the last reader's accesses before the reuse of the file.
        let Some(segment) = Arc::get_mut(self) else { return false };
        let views = segment.views.get_mut().unwrap_or_else(PoisonError::into_inner);
        views.current = None;
        Arc::get_mut(&mut views.token).is_some()
    }
}

/// A filled file, ready to become a segment.
#[derive(Debug)]
pub(crate) struct Spare {
    pub path: PathBuf,
    pub file_bytes: u64,
}

/// Name of the segment of a generation.
pub(crate) fn segment_name(generation: u64) -> String {
    format!("segment-{generation:016x}.log")
}

/// Name of a spare file.
pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}.log")
}

/// The generation in a segment's name.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    parse(name, "segment-")
}

/// The number in a spare's name.
pub(crate) fn parse_spare_name(name: &str) -> Option<u64> {
    parse(name, "spare-")
}

fn parse(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".log")?;
    if digits.len() != 16 { None } else { u64::from_str_radix(digits, 16).ok() }
}

/// Fills a new spare file, durably. On failure it removes the file. If that fails too, the next start
/// removes or reuses the file.
pub(crate) fn make_spare(disk: &dyn Disk, dir: &Path, number: u64, file_bytes: u64) -> io::Result<Spare> {
    debug_assert!(file_bytes > HEADER_BYTES && file_bytes.is_multiple_of(4096));
    let path = dir.join(spare_name(number));
    let temporary = path.with_extension("tmp");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = disk.create(&temporary).and_then(|file| {
        file.allocate(file_bytes)?;
        file.sync_all()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)
    });
    if let Err(error) = made {
        // Free the allocated space: otherwise a nearly full disk would never have room again. If the
        // directory cannot be synced, each try would cost another file.
        let _ = disk.remove(&temporary);
        let _ = disk.remove(&path);
        return Err(error);
    }
    Ok(Spare { path, file_bytes })
}

/// Turns a spare into the segment of `header`, durably: first the header, then the name.
pub(crate) fn begin_segment(
    disk: &dyn Disk,
    dir: &Path,
    spare: &Spare,
    header: Header,
) -> Result<Segment, (PathBuf, io::Error)> {
    debug_assert_eq!(spare.file_bytes, header.file_bytes, "the header says how long the file is");
    debug_assert!(header.base.is_multiple_of(record::ALIGN as u64), "records are aligned");
    let path = dir.join(segment_name(header.generation));
    let begun = disk.open(&spare.path).and_then(|file| {
        file.write_at(&header.encode(), 0)?;
        file.sync_all()?;
        disk.rename(&spare.path, &path)?;
        disk.sync_dir(dir)?;
        Ok(file)
    });
    match begun {
        Ok(file) => Ok(Segment::new(header, path, file)),
        Err(error) => Err((path, error)),
    }
}

/// Opens a segment and reads its header.
pub(crate) fn open_segment(disk: &dyn Disk, path: &Path) -> Result<Segment, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = disk.open(path).map_err(io)?;
    let mut page = vec![0; HEADER_BYTES as usize];
    let count = crate::disk::read_full(&*file, &mut page, 0).map_err(io)?;
    let corrupt = |what: String| OpenError::Corrupt { path: path.to_owned(), offset: 0, what };
    let header = Header::decode(&page[..count]).map_err(|bad| match bad {
        BadHeader::Damaged(what) => corrupt(what.to_owned()),
        BadHeader::Version(found) => {
            OpenError::UnsupportedVersion { path: path.to_owned(), found, supported: VERSION }
        }
    })?;
    let size = file.size().map_err(io)?;
    if size != header.file_bytes || size < HEADER_BYTES {
        return Err(corrupt(format!("the file has {size} bytes, its header says {}", header.file_bytes)));
    }
    Ok(Segment::new(header, path.to_owned(), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        generation: 7,
        base: 0x4000,
        first_index: 12,
        previous_term: 3,
        salt: 99,
        file_bytes: 65536,
    };

    #[test]
    fn a_header_survives_and_every_flipped_bit_is_noticed() {
        let page = HEADER.encode();
        assert_eq!(Header::decode(&page), Ok(HEADER));
        for bit in 0..FIELDS_BYTES * 8 {
            let mut bad = page.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut page = HEADER.encode();
        field::put(&mut page, 8, 2u32.to_le_bytes());
        assert_eq!(Header::decode(&page), Err(BadHeader::Version(2)));
    }

    /// Filling is tried each second under another name: files left behind would fill the disk.
    #[test]
    fn a_spare_that_could_not_be_made_durable_gives_its_room_back() {
        let (disk, dir) = (crate::fault::FaultDisk::new(), Path::new("/log"));
        for number in 0..6 {
            disk.fail_sync_after(number % 2);
            assert!(make_spare(&disk, dir, number, 8192).is_err());
            assert_eq!((disk.used_bytes(), disk.paths()), (0, vec![]), "sync {}", number % 2);
        }
        make_spare(&disk, dir, 6, 8192).unwrap();
    }

    #[test]
    fn foreign_names_are_not_segments() {
        assert_eq!(parse_segment_name(&segment_name(0xabc)), Some(0xabc));
        for name in ["segment-1.log", "segment-zzzzzzzzzzzzzzzz.log", "segment-0000000000000001.tmp", "log.1"]
        {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        assert_eq!(parse_spare_name(&spare_name(5)), Some(5));
    }
}
