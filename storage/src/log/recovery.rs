//! Recovery of the log at a start.
//!
//! Owns the first pass over the segments, with plain reads: a map would turn a bad sector into a signal.
//! Decides between an unsynced tail, which is cut, and corruption, which is refused.
//! Never returns before all above the last known durable position was written again and synced, file and
//! directory. Those bytes may come from the page cache of a process whose sync failed, and the page cache
//! is not a disk.
//! Correct because each record carries `durable_to`. See `docs/formats/log.md`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rkyv::util::AlignedVec;

use super::record::{self, Body, Decoded, RecordPlace};
use super::segment::{self, HEADER_BYTES, Header, Segment, Spare};
use super::shared::{Index, Slot};
use super::{HardState, LogOptions, OpenError};
use crate::disk::{Disk, read_full};

/// Spare files kept: one for the next rotation, and one recycled segment. More are removed.
pub(crate) const SPARES_MAX: usize = 2;

/// Content of all segments, after the unsynced tail was cut.
pub(crate) struct Recovered {
    pub index: Index,
    pub hard_state: HardState,
    /// Runs of equal terms, ascending: (index at which the run begins, term). The first may begin below
    /// the first index.
    pub terms: VecDeque<(u64, u64)>,
    /// Term of the entry before the first, if it is known.
    pub term_before: Option<u64>,
    /// Highest epoch of a record, accepted or not.
    pub epoch: u32,
    /// Log position after the last good record.
    pub end: u64,
    /// Log position known to be durable before this start.
    pub durable_to: u64,
    pub spares: Vec<Spare>,
    pub next_spare: u64,
    pub cut_bytes: u64,
    pub created: bool,
}

impl Recovered {
    pub(crate) fn first(&self) -> u64 {
        self.index.first
    }

    pub(crate) fn last(&self) -> u64 {
        self.index.next() - 1
    }

    /// Term of an index from first − 1 to last, if it is known.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index + 1 == self.first() {
            return self.term_before;
        }
        let run = self.terms.partition_point(|&(start, _)| start <= index);
        self.terms.get(run.checked_sub(1)?).map(|&(_, term)| term)
    }

    fn apply(
        &mut self,
        segment: &Segment,
        offset: u64,
        decoded: &Decoded,
        corrupt: impl Fn(String) -> OpenError,
    ) -> Result<(), OpenError> {
        self.durable_to = self.durable_to.max(decoded.durable_to);
        match decoded.body {
            Body::HardState(state) => self.hard_state = state,
            Body::Reset { index, term } => {
                self.index.slots.clear();
                self.index.first = index.checked_add(1).ok_or_else(|| corrupt("index at its end".into()))?;
                self.terms.clear();
                self.term_before = Some(term);
            }
            Body::Entry { term, index, .. } => {
                let next = self.index.next();
                if index > next {
                    return Err(corrupt(format!("entry {index} where {next} was expected")));
                }
                if index < self.first() {
                    self.term_before = if index == 1 { Some(0) } else { None };
                }
                self.index.supersede(index);
                self.index
                    .slots
                    .push_back(Slot { position: segment.position(offset), bytes: decoded.bytes as u32 });
                while self.terms.back().is_some_and(|&(start, _)| start >= index) {
                    self.terms.pop_back();
                }
                if self.terms.back().is_none_or(|&(_, last)| last != term) {
                    self.terms.push_back((index, term));
                }
                segment.highest_index.fetch_max(index, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Reads the log, or creates it, and makes durable what it accepts.
pub(crate) fn recover(options: &LogOptions) -> Result<Recovered, OpenError> {
    let disk = &*options.disk;
    let dir = options.dir.as_path();
    let file_bytes = segment::file_bytes(options.segment_bytes);
    disk.create_dir(dir).map_err(io_error(dir))?;
    let Names { generations, spares, next_spare } = sort_out(disk, dir, file_bytes)?;

    let mut recovered = Recovered {
        index: Index::default(),
        hard_state: HardState::default(),
        terms: VecDeque::new(),
        term_before: None,
        epoch: 0,
        end: 0,
        durable_to: 0,
        spares,
        next_spare,
        cut_bytes: 0,
        created: generations.is_empty(),
    };
    if generations.is_empty() {
        create(options, &mut recovered)?;
    } else {
        let segments = open_all(disk, dir, &generations)?;
        recovered.index.first = segments[0].header.first_index.max(1);
        recovered.term_before = Some(segments[0].header.previous_term);
        recovered.index.segments = segments.into();
        scan_all(&mut recovered)?;
    }
    make_durable(disk, dir, &recovered)?;
    Ok(recovered)
}

struct Names {
    generations: Vec<u64>,
    spares: Vec<Spare>,
    next_spare: u64,
}

/// Lists the directory. Removes temporary files and spares of another size.
fn sort_out(disk: &dyn Disk, dir: &Path, file_bytes: u64) -> Result<Names, OpenError> {
    let mut names = Names { generations: Vec::new(), spares: Vec::new(), next_spare: 1 };
    for name in disk.list(dir).map_err(io_error(dir))? {
        let path = dir.join(&name);
        if name.ends_with(".tmp") {
            disk.remove(&path).map_err(io_error(&path))?;
        } else if let Some(generation) = segment::parse_segment_name(&name) {
            names.generations.push(generation);
        } else if let Some(number) = segment::parse_spare_name(&name) {
            names.next_spare = names.next_spare.max(number.saturating_add(1));
            let size = disk.open(&path).and_then(|file| file.size()).map_err(io_error(&path))?;
            if size == file_bytes && names.spares.len() < SPARES_MAX {
                names.spares.push(Spare { path, file_bytes });
            } else {
                disk.remove(&path).map_err(io_error(&path))?;
            }
        }
    }
    names.generations.sort_unstable();
    Ok(names)
}

fn create(options: &LogOptions, recovered: &mut Recovered) -> Result<(), OpenError> {
    let (disk, dir) = (&*options.disk, options.dir.as_path());
    let (snapshot_index, snapshot_term) = options.snapshot;
    if snapshot_index > 0 && !options.create_at_snapshot {
        return Err(OpenError::LogMissing { dir: dir.to_owned(), snapshot_index });
    }
    let file_bytes = segment::file_bytes(options.segment_bytes);
    let spare = match recovered.spares.pop() {
        Some(spare) => spare,
        None => {
            recovered.next_spare += 1;
            segment::make_spare(disk, dir, recovered.next_spare - 1, file_bytes).map_err(io_error(dir))?
        }
    };
    let header = Header {
        generation: 1,
        base: 0,
        first_index: snapshot_index + 1,
        previous_term: snapshot_term,
        salt: options.salt,
        file_bytes,
    };
    let segment = segment::begin_segment(disk, dir, &spare, header)
        .map_err(|(path, source)| OpenError::Io { path, source })?;
    recovered.index.first = header.first_index;
    recovered.term_before = Some(snapshot_term);
    recovered.index.segments.push_back(Arc::new(segment));
    Ok(())
}

fn open_all(disk: &dyn Disk, dir: &Path, generations: &[u64]) -> Result<Vec<Arc<Segment>>, OpenError> {
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for &generation in generations {
        let path = dir.join(segment::segment_name(generation));
        if let Some(before) = segments.last() {
            let expected = before.header.generation + 1;
            if generation != expected {
                return Err(OpenError::MissingSegment { path: dir.join(segment::segment_name(expected)) });
            }
        }
        let segment = segment::open_segment(disk, &path)?;
        let wrong = |what: &str| OpenError::Corrupt { path: path.clone(), offset: 0, what: what.to_owned() };
        if segment.header.generation != generation {
            return Err(wrong("the header is of another generation than the name"));
        }
        if let Some(before) = segments.last() {
            if segment.header.salt != before.header.salt {
                return Err(wrong("the segment belongs to another log"));
            }
            let room = before.header.file_bytes - HEADER_BYTES;
            let used = segment.header.base.checked_sub(before.header.base);
            if used.is_none_or(|used| used > room || !used.is_multiple_of(record::ALIGN as u64)) {
                return Err(wrong("the segment does not continue the one before it"));
            }
        }
        segments.push(Arc::new(segment));
    }
    Ok(segments)
}

fn scan_all(recovered: &mut Recovered) -> Result<(), OpenError> {
    let segments: Vec<_> = recovered.index.segments.iter().cloned().collect();
    let mut bytes = AlignedVec::<16>::new();
    for (at, segment) in segments.iter().enumerate() {
        // A later segment was begun only after this one was synced up to its end.
        let next_base = segments.get(at + 1).map(|next| next.header.base);
        let limit = next_base.map_or(segment.header.file_bytes, |base| segment.offset(base));
        bytes.resize(limit as usize, 0);
        let count = read_full(&*segment.file, &mut bytes, 0).map_err(io_error(&segment.path))?;
        let bytes = &bytes[..count];
        recovered.durable_to = recovered.durable_to.max(segment.header.base);
        let (end, why) = scan(recovered, segment, bytes)?;
        match (next_base, why) {
            (Some(base), Some(why)) => {
                return Err(OpenError::Corrupt {
                    path: segment.path.clone(),
                    offset: end,
                    what: format!("{why}, but the next segment begins at log position {base}"),
                });
            }
            (None, Some(why)) => cut(recovered, segment, bytes, end, &why)?,
            (_, None) => {}
        }
        recovered.end = segment.position(end);
    }
    Ok(())
}

/// Accepts records up to the first bad one. Returns its offset and the defect; no defect if the bytes end
/// there.
fn scan(
    recovered: &mut Recovered,
    segment: &Segment,
    bytes: &[u8],
) -> Result<(u64, Option<String>), OpenError> {
    let mut offset = HEADER_BYTES;
    while (offset as usize) < bytes.len() {
        let decoded = match record::decode(&bytes[offset as usize..], place(segment, offset)) {
            Ok(decoded) if decoded.epoch >= recovered.epoch => decoded,
            Ok(_) => return Ok((offset, Some("a record of an earlier opening, cut before".to_owned()))),
            Err(bad) => return Ok((offset, Some(bad.to_string()))),
        };
        recovered.epoch = decoded.epoch;
        let corrupt = |what| OpenError::Corrupt { path: segment.path.clone(), offset, what };
        recovered.apply(segment, offset, &decoded, corrupt)?;
        offset += decoded.bytes as u64;
    }
    Ok((offset, None))
}

/// Scans the bytes after the first bad record, which is at `end`.
///
/// A later record that was written when the log was durable beyond `end` proves corruption. Otherwise
/// nothing from `end` on was reported durable, and it is cut.
fn cut(
    recovered: &mut Recovered,
    segment: &Segment,
    bytes: &[u8],
    end: u64,
    why: &str,
) -> Result<(), OpenError> {
    let position = segment.position(end);
    let accepted_epoch = recovered.epoch;
    let mut offset = end + record::ALIGN as u64;
    while (offset as usize) < bytes.len() {
        let rest = &bytes[offset as usize..];
        let found = record::may_begin(rest, segment.header.generation)
            .then(|| record::decode(rest, place(segment, offset)).ok())
            .flatten();
        let Some(found) = found else {
            offset += record::ALIGN as u64;
            continue;
        };
        if found.durable_to > position {
            return Err(OpenError::Corrupt {
                path: segment.path.clone(),
                offset: end,
                what: format!(
                    "{why}, but the record at offset {offset} was written when the log was durable to offset {}",
                    segment.offset(found.durable_to)
                ),
            });
        }
        // A record that is not accepted has used up its epoch too: the next opening must not reuse it.
        recovered.epoch = recovered.epoch.max(found.epoch);
        offset += found.bytes as u64;
        if found.epoch >= accepted_epoch {
            recovered.cut_bytes = offset - end;
        }
    }
    Ok(())
}

/// Writes again what is accepted and not known to be durable, and syncs it.
fn make_durable(disk: &dyn Disk, dir: &Path, recovered: &Recovered) -> Result<(), OpenError> {
    for (at, segment) in recovered.index.segments.iter().enumerate() {
        let end = recovered.index.segments.get(at + 1).map_or(recovered.end, |next| next.header.base);
        let start = recovered.durable_to.max(segment.header.base);
        let error = io_error(&segment.path);
        if start < end {
            let mut bytes = vec![0; (end - start) as usize];
            let offset = segment.offset(start);
            read_full(&*segment.file, &mut bytes, offset)
                .and_then(|_| segment.file.write_at(&bytes, offset))
                .map_err(&error)?;
        }
        if start <= end {
            segment.file.sync_all().map_err(&error)?;
        }
    }
    disk.sync_dir(dir).map_err(io_error(dir))
}

fn place(segment: &Segment, offset: u64) -> RecordPlace {
    RecordPlace {
        salt: segment.header.salt,
        generation: segment.header.generation,
        position: segment.position(offset),
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}
