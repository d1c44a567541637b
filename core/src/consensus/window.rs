//! Recent entries in memory: what Raft reads of the log.
//!
//! Owns the entries between what is applied and the log's end, with the term of the one before them. Never reads the
//! disk: the log itself is written beside it, from the same effects. It stays correct because an entry leaves the
//! window only once it is applied, hence committed and durable here, and Raft asks for nothing older in a group of
//! one; and because a conflicting suffix is cut off before its replacement is appended, as in the log.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::collections::VecDeque;

/// The window. See the module doc.
pub struct Window {
    entries: VecDeque<Entry>,
    /// Index of the entry before the first one.
    before: u64,
    /// Its term.
    before_term: u64,
    hard_state: HardState,
    members: ConfState,
}

impl Window {
    /// A window that begins behind entry (`before`, `before_term`), with what was recovered of elections and members.
    pub fn new(before: u64, before_term: u64, hard_state: HardState, members: ConfState) -> Self {
        Self { entries: VecDeque::new(), before, before_term, hard_state, members }
    }

    /// Appends what Raft gave out, superseding what stands at the same positions.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.before && first.index <= self.end() + 1,
            "entry {} neither follows nor supersedes the window ({}, {}]",
            first.index,
            self.before,
            self.end()
        );
        self.entries.truncate((first.index - self.before - 1) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// Lets go of everything up to `index`.
    pub fn release(&mut self, index: u64) {
        while self.before < index {
            let Some(entry) = self.entries.pop_front() else { return };
            self.before = entry.index;
            self.before_term = entry.term;
        }
    }

    fn end(&self) -> u64 {
        self.before + self.entries.len() as u64
    }
}

impl Storage for Window {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.members.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.before {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.end() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let range = (low - self.before - 1) as usize..(high - self.before - 1) as usize;
        let wanted = self.entries.range(range).take_while(|e| {
            let first = bytes == 0;
            // One more than the payload, so that empty entries count as well.
            bytes = bytes.saturating_add(e.data.len() as u64 + 1);
            first || bytes <= bytes_max
        });
        Ok(wanted.cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.before {
            return Ok(self.before_term);
        }
        if index < self.before {
            return Err(Error::Store(StorageError::Compacted));
        }
        match self.entries.get((index - self.before - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.before + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.end())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> Result<Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 9].into(), ..Entry::default() }
    }

    fn window() -> Window {
        let mut w = Window::new(10, 2, HardState::default(), ConfState::default());
        w.append(&[entry(11, 2), entry(12, 2), entry(13, 2)]);
        w
    }

    fn indexes(w: &Window, low: u64, high: u64, max: Option<u64>) -> Vec<u64> {
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
        assert_eq!((w.first_index().unwrap(), w.term(12).unwrap()), (13, 2));
        assert!(matches!(w.term(11), Err(Error::Store(StorageError::Compacted))));
        w.release(99);
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
