//! Reading older entries on other threads, through read-only maps.
//!
//! Owns nothing: it finds an entry's slot in the shared index, maps the durable part of its segment, and
//! returns slices of the map. Never maps a byte above the published durable end.
//! Correct while segments are recycled, because a file is not reused while a map of it, or an entry in
//! the map, lives.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, Body, RecordPlace};
use super::segment::{Segment, SegmentView};
use super::shared::{Shared, Slot};
use super::{Entry, ReadError};

/// Bytes of entries that [`Entries`] fetches at once.
const ITERATION_BYTES: u64 = 4 << 20;

/// Reads durable entries. Cheap to clone, usable on any thread; every call may wait for the disk.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    /// Durable entries `low..high`: as many as fit into `bytes_max` of records, and at least one.
    ///
    /// Their data points into the map. A segment is not recycled while such data lives.
    pub fn read_range(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        if low >= high {
            return Ok(Vec::new());
        }
        let mut found: Vec<(Slot, Arc<Segment>, u64)> = Vec::new();
        {
            let index = self.shared.index();
            if low < index.first {
                return Err(ReadError::Compacted(low));
            }
            if low >= index.next() {
                return Err(ReadError::Unavailable(low));
            }
            let mut bytes = 0;
            for slot in index.slots.range((low - index.first) as usize..).take((high - low) as usize) {
                bytes += u64::from(slot.bytes);
                if bytes > bytes_max && !found.is_empty() {
                    break;
                }
                let end = slot.position + u64::from(slot.bytes);
                let Some(segment) = index.segment_of(slot.position) else {
                    return Err(ReadError::Compacted(low));
                };
                found.push((*slot, segment.clone(), end));
            }
        }
        let mut entries = Vec::with_capacity(found.len());
        let mut at = 0;
        while at < found.len() {
            let segment = &found[at].1;
            let run = found[at..].iter().take_while(|(_, other, _)| Arc::ptr_eq(other, segment)).count();
            let end = found[at..at + run].iter().map(|(_, _, end)| *end).max().unwrap_or_default();
            let view = segment
                .view(segment.offset(end))
                .map_err(|error| ReadError::Io(format!("{}: {error}", segment.path.display())))?;
            for (slot, _, _) in &found[at..at + run] {
                entries.push(read(segment, &view, *slot)?);
            }
            at += run;
        }
        Ok(entries)
    }

    /// All durable entries `low..high` in order, fetched in pieces.
    pub fn entries(&self, low: u64, high: u64) -> Entries {
        Entries { reader: self.clone(), next: low, high, fetched: VecDeque::new() }
    }

    /// Range of indexes that can be read.
    pub fn bounds(&self) -> Range<u64> {
        let index = self.shared.index();
        index.first..index.next()
    }
}

/// Iterator over durable entries; ends after the first error.
pub struct Entries {
    reader: LogReader,
    next: u64,
    high: u64,
    fetched: VecDeque<Entry>,
}

impl Iterator for Entries {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fetched.is_empty() {
            if self.next >= self.high {
                return None;
            }
            match self.reader.read_range(self.next, self.high, ITERATION_BYTES) {
                Ok(entries) => {
                    self.next += entries.len() as u64;
                    self.fetched = entries.into();
                }
                Err(error) => {
                    self.next = self.high;
                    return Some(Err(error));
                }
            }
        }
        self.fetched.pop_front().map(Ok)
    }
}

fn read(segment: &Segment, view: &Arc<SegmentView>, slot: Slot) -> Result<Entry, ReadError> {
    let corrupt = || ReadError::Corrupt {
        path: segment.path.display().to_string(),
        offset: segment.offset(slot.position),
    };
    let start = segment.offset(slot.position) as usize;
    let bytes = view.bytes().get(start..start + slot.bytes as usize).ok_or_else(corrupt)?;
    let place = RecordPlace {
        salt: segment.header.salt,
        generation: segment.header.generation,
        position: slot.position,
    };
    let decoded = record::decode(bytes, place).map_err(|_| corrupt())?;
    let Body::Entry { term, index, kind, payload } = decoded.body else { return Err(corrupt()) };
    let payload = start + payload.start..start + payload.end;
    let data = if payload.is_empty() {
        Bytes::new()
    } else {
        Bytes::from_owner(MappedData { view: view.clone(), range: payload })
    };
    Ok(Entry { term, index, kind, data })
}

/// Data of one entry as a slice of its segment's map.
struct MappedData {
    view: Arc<SegmentView>,
    range: Range<usize>,
}

impl AsRef<[u8]> for MappedData {
    fn as_ref(&self) -> &[u8] {
        &self.view.bytes()[self.range.clone()]
    }
}
