//! The part of the log that Raft reads: recent entries, and the term of every entry.
//!
//! Owns the unapplied entries, the terms of the whole log as runs, and the index of the newest snapshot. In a
//! group of more than one it also owns as many applied entries as its bound allows.
//!
//! Never reads the disk: the journal writes the log from the same drains. A position below the window is
//! noted as missed and read elsewhere.
//!
//! Correct because an entry leaves the window only once it is applied, hence committed and durable here. A
//! conflicting suffix is cut off before its replacement is appended, as in the log.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;

/// Bytes of applied entries kept in memory for peers that are a little behind: half a minute of heavy
/// writing.
const RECENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of an entry beside its payload, so that empty entries are bounded too.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// Missed positions that are remembered. More peers are not behind at different positions.
const MISSES_MAX: usize = 16;

/// First index of a log, and the terms of its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First index that can be read.
    first: u64,
    /// Term of the entry before `first`.
    term_before: u64,
    /// (index at which a term begins, term), ascending; the first one at or below `first`.
    runs: VecDeque<(u64, u64)>,
}

impl Span {
    /// A log from `first` on, behind an entry of `term_before`. `runs` are (first index, term).
    pub fn new(first: u64, term_before: u64, runs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self { first, term_before, runs: runs.into_iter().collect() }
    }

    /// Term of an index at or above `first - 1`. `None`: the index is not in the log.
    fn term(&self, index: u64) -> Option<u64> {
        if index + 1 == self.first {
            return Some(self.term_before);
        }
        let run = self.runs.partition_point(|&(begin, _)| begin <= index);
        self.runs.get(run.checked_sub(1)?).map(|&(_, term)| term)
    }

    fn supersede(&mut self, index: u64) {
        while self.runs.back().is_some_and(|&(begin, _)| begin >= index) {
            self.runs.pop_back();
        }
    }

    fn push(&mut self, index: u64, term: u64) {
        if self.runs.back().is_none_or(|&(_, last)| last != term) {
            self.runs.push_back((index, term));
        }
    }

    fn truncate(&mut self, first: u64) {
        if let Some(term) = self.term(first - 1) {
            self.term_before = term;
        }
        self.first = first;
        while self.runs.len() > 1 && self.runs[1].0 <= first {
            self.runs.pop_front();
        }
    }
}

/// See the module doc.
pub struct LogWindow {
    span: Span,
    entries: VecDeque<Entry>,
    /// First index in memory, or the index after the last entry.
    warm: u64,
    /// Index of the last applied entry.
    applied: u64,
    /// Bytes of the applied entries in memory, and of the unapplied ones.
    applied_bytes: u64,
    unapplied_bytes: u64,
    recent_bytes_max: u64,
    /// Fetched ranges, the newest last.
    cold: VecDeque<Vec<Entry>>,
    misses: RefCell<Vec<u64>>,
    hard_state: HardState,
    members: ConfState,
    /// Index and term of the newest snapshot that could be sent; 0: none.
    snapshot: (u64, u64),
}

impl LogWindow {
    /// A window on a log that is applied up to `applied`. The caller appends the rest of the log.
    pub fn new(mut span: Span, applied: u64, hard_state: HardState, members: ConfState) -> Self {
        span.supersede(applied + 1);
        Self {
            span,
            entries: VecDeque::new(),
            warm: applied + 1,
            applied,
            applied_bytes: 0,
            unapplied_bytes: 0,
            recent_bytes_max: RECENT_BYTES_MAX,
            cold: VecDeque::new(),
            misses: RefCell::default(),
            hard_state,
            members,
            snapshot: (0, 0),
        }
    }

    /// Appends entries of a drain. They supersede the entries at the same positions.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.applied && first.index <= self.end() + 1,
            "entry {} neither follows nor supersedes what is not applied ({}, {}]",
            first.index,
            self.applied,
            self.end()
        );
        for gone in self.entries.drain((first.index - self.warm) as usize..) {
            self.unapplied_bytes -= cost(&gone);
        }
        self.span.supersede(first.index);
        for entry in entries {
            self.unapplied_bytes += cost(entry);
            self.span.push(entry.index, entry.term);
            self.entries.push_back(entry.clone());
        }
    }

    /// Takes the report that everything up to `index` is applied. Applied entries may leave the memory, the
    /// oldest first.
    pub fn release(&mut self, index: u64) {
        let index = index.min(self.end());
        while self.applied < index {
            self.applied += 1;
            if let Some(entry) = self.entries.get((self.applied - self.warm) as usize) {
                let bytes = cost(entry);
                self.unapplied_bytes -= bytes;
                self.applied_bytes += bytes;
            }
        }
        self.evict();
    }

    /// Takes the report that the log begins at `first`.
    pub fn truncate(&mut self, first: u64) {
        let first = first.min(self.applied + 1);
        if first <= self.span.first {
            return;
        }
        self.span.truncate(first);
        while self.warm < first {
            self.drop_oldest();
        }
        self.cold.retain(|range| range.first().is_some_and(|e| e.index >= first));
    }

    /// With `alone` no peer can ask for entries, and no applied entry is kept.
    pub fn set_alone(&mut self, alone: bool) {
        self.recent_bytes_max = if alone { 0 } else { RECENT_BYTES_MAX };
        self.evict();
    }

    /// Sets the membership of a snapshot.
    pub fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    /// Sets the newest snapshot that can be sent.
    pub fn set_snapshot(&mut self, index: u64, term: u64) {
        self.snapshot = (index, term);
    }

    /// Bytes of entries that are not applied.
    pub fn unapplied_bytes(&self) -> u64 {
        self.unapplied_bytes
    }

    /// First index in memory.
    pub fn warm(&self) -> u64 {
        self.warm
    }

    /// Positions below the window that were asked for since the last call.
    pub fn take_misses(&self) -> Vec<u64> {
        std::mem::take(&mut self.misses.borrow_mut())
    }

    /// Keeps a fetched range, at most `max` of them.
    pub fn keep_cold(&mut self, range: Vec<Entry>, max: usize) {
        let low = range.first().map(|e| e.index);
        self.cold.retain(|known| known.first().map(|e| e.index) != low);
        while self.cold.len() >= max {
            self.cold.pop_front();
        }
        self.cold.push_back(range);
    }

    fn evict(&mut self) {
        while self.warm <= self.applied && self.applied_bytes > self.recent_bytes_max {
            self.drop_oldest();
        }
    }

    /// Drops the oldest entry, which must be applied.
    fn drop_oldest(&mut self) {
        if let Some(gone) = self.entries.pop_front() {
            self.applied_bytes -= cost(&gone);
        }
        self.warm += 1;
    }

    fn end(&self) -> u64 {
        self.warm + self.entries.len() as u64 - 1
    }
}

impl Storage for LogWindow {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.members.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.span.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.end() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if low >= self.warm {
            let range = (low - self.warm) as usize..(high - self.warm) as usize;
            return Ok(limited(self.entries.range(range), bytes_max));
        }
        let holds = |range: &&Vec<Entry>| {
            range.first().is_some_and(|e| e.index <= low) && range.last().is_some_and(|e| e.index >= low)
        };
        if let Some(range) = self.cold.iter().rev().find(holds) {
            let from = range.iter().skip_while(|e| e.index < low).take_while(|e| e.index < high);
            return Ok(limited(from, bytes_max));
        }
        if !context.can_async() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let mut misses = self.misses.borrow_mut();
        if misses.len() < MISSES_MAX && !misses.contains(&low) {
            misses.push(low);
        }
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index + 1 < self.span.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.end() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        self.span.term(index).ok_or(Error::Store(StorageError::Compacted))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.span.first)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.end())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> Result<Snapshot> {
        let (index, term) = self.snapshot;
        if index == 0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(self.members.clone());
        Ok(snapshot)
    }
}

fn cost(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// As many entries as `bytes_max` allows, at least one.
fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, bytes_max: u64) -> Vec<Entry> {
    let mut bytes = 0u64;
    let fits = |e: &&Entry| {
        let first = bytes == 0;
        // One byte more than the payload, so that empty entries count.
        bytes = bytes.saturating_add((e.data.len() + e.context.len()) as u64 + 1);
        first || bytes <= bytes_max
    };
    entries.take_while(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 9].into(), ..Entry::default() }
    }

    fn window() -> LogWindow {
        let mut w = LogWindow::new(Span::new(11, 2, []), 10, HardState::default(), ConfState::default());
        w.set_alone(true);
        w.append(&[entry(11, 2), entry(12, 2), entry(13, 2)]);
        w
    }

    fn indexes(w: &LogWindow, low: u64, high: u64, max: Option<u64>) -> Vec<u64> {
        w.entries(low, high, max, GetEntriesContext::empty(false)).unwrap().iter().map(|e| e.index).collect()
    }

    #[test]
    fn a_conflicting_suffix_is_superseded() {
        let mut w = window();
        w.append(&[entry(12, 3)]);
        assert_eq!((w.last_index().unwrap(), w.term(12).unwrap()), (12, 3));
        assert!(w.term(13).is_err());
    }

    #[test]
    fn what_is_released_is_compacted_but_its_last_term_is_known() {
        let mut w = window();
        w.release(12);
        w.truncate(13);
        assert_eq!((w.first_index().unwrap(), w.term(12).unwrap()), (13, 2));
        assert!(matches!(w.term(11), Err(Error::Store(StorageError::Compacted))));
        w.release(99);
        w.truncate(99);
        assert_eq!((w.first_index().unwrap(), w.last_index().unwrap(), w.term(13).unwrap()), (14, 13, 2));
    }

    #[test]
    fn a_size_limit_gives_at_least_one_entry() {
        let w = window();
        assert_eq!(indexes(&w, 11, 14, None), [11, 12, 13]);
        assert_eq!(indexes(&w, 11, 14, Some(0)), [11]);
        assert_eq!(indexes(&w, 11, 14, Some(20)), [11, 12]);
    }
}
