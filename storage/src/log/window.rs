//! The entries that the consensus core reads: the recent ones, in memory.
//!
//! Owns first and last index, the term of every index between them (as runs), and the entries from some index to
//! the last. Never drops an entry that is not both durable and released by the core, so Raft always finds what it is about
//! to persist, send or apply. Memory beyond that is bounded by `window_bytes`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Entry, ReadError, Ticket};

/// What an entry costs beside its data, so that empty entries are bounded too.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

pub(crate) struct Window {
    first: u64,
    /// Term of `first - 1`.
    term_before: u64,
    /// (index at which a term begins, term), ascending, first run at or below `first`.
    terms: VecDeque<(u64, u64)>,
    /// The newest entries; the last one is the log's last.
    entries: VecDeque<(Entry, Ticket)>,
    last: u64,
    bytes: u64,
    bytes_max: u64,
    /// Entries up to here are applied: the core does not need them any more.
    released: u64,
}

impl Window {
    /// A log from `first` to `last` with these terms; nothing is in memory yet.
    pub(crate) fn new(
        first: u64,
        last: u64,
        term_before: u64,
        terms: VecDeque<(u64, u64)>,
        bytes_max: u64,
    ) -> Window {
        Window { first, term_before, terms, entries: VecDeque::new(), last, bytes: 0, bytes_max, released: 0 }
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// First index in memory (last + 1 if none is).
    pub(crate) fn warm(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Term of an index from first - 1 to last.
    pub(crate) fn term(&self, index: u64) -> Result<u64, ReadError> {
        if index + 1 < self.first {
            return Err(ReadError::Compacted(index));
        }
        if index > self.last {
            return Err(ReadError::Unavailable(index));
        }
        if index + 1 == self.first {
            return Ok(self.term_before);
        }
        let run = self.terms.partition_point(|&(start, _)| start <= index);
        match run.checked_sub(1).and_then(|run| self.terms.get(run)) {
            Some(&(_, term)) => Ok(term),
            None => Err(ReadError::Compacted(index)),
        }
    }

    /// Term of `first - 1`, and the runs of terms from there on.
    pub(crate) fn terms(&self) -> (u64, Vec<(u64, u64)>) {
        (self.term_before, self.terms.iter().copied().collect())
    }

    /// Takes an entry read back at the start; called with the log's tail in order.
    pub(crate) fn warm_up(&mut self, entry: Entry) {
        self.bytes += cost(&entry);
        self.entries.push_back((entry, Ticket(0)));
    }

    /// Takes a new entry; one with a known index supersedes what was there.
    pub(crate) fn push(&mut self, entry: Entry, ticket: Ticket) {
        assert!(
            entry.index >= self.first && entry.index <= self.last + 1,
            "entry {} does not continue the log {}..={}",
            entry.index,
            self.first,
            self.last
        );
        while self.entries.back().is_some_and(|(last, _)| last.index >= entry.index) {
            if let Some((gone, _)) = self.entries.pop_back() {
                self.bytes -= cost(&gone);
            }
        }
        while self.terms.back().is_some_and(|&(start, _)| start >= entry.index) {
            self.terms.pop_back();
        }
        if self.terms.back().is_none_or(|&(_, term)| term != entry.term) {
            self.terms.push_back((entry.index, entry.term));
        }
        self.last = entry.index;
        self.bytes += cost(&entry);
        self.entries.push_back((entry, ticket));
    }

    /// The log begins anew after a snapshot.
    pub(crate) fn reset(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.terms.clear();
        self.bytes = 0;
        self.first = index + 1;
        self.last = index;
        self.term_before = term;
        self.released = index;
    }

    /// Forgets what lies below `index` (at most last + 1).
    pub(crate) fn truncate_prefix(&mut self, index: u64) {
        let index = index.min(self.last + 1);
        if index <= self.first {
            return;
        }
        if let Ok(term) = self.term(index - 1) {
            self.term_before = term;
        }
        self.first = index;
        while self.terms.len() > 1 && self.terms[1].0 <= index {
            self.terms.pop_front();
        }
        if self.first > self.last {
            self.terms.clear();
        }
        while self.entries.front().is_some_and(|(entry, _)| entry.index < index) {
            self.pop_front();
        }
    }

    /// The core has applied everything up to `index`.
    pub(crate) fn release(&mut self, index: u64, durable: Ticket) {
        self.released = self.released.max(index);
        self.evict(durable);
    }

    /// Drops the oldest entries while there are too many bytes and nobody needs them.
    pub(crate) fn evict(&mut self, durable: Ticket) {
        while self.bytes > self.bytes_max
            && self
                .entries
                .front()
                .is_some_and(|(entry, ticket)| entry.index <= self.released && *ticket <= durable)
        {
            self.pop_front();
        }
    }

    /// Entries `low..high` up to `bytes_max` of data, at least one.
    pub(crate) fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        if low < self.first {
            return Err(ReadError::Compacted(low));
        }
        if high > self.last + 1 {
            return Err(ReadError::Unavailable(high.saturating_sub(1)));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let warm = self.warm();
        if low < warm {
            return Err(ReadError::Cold(low));
        }
        let mut out = Vec::new();
        let mut bytes = 0;
        for (entry, _) in self.entries.range((low - warm) as usize..(high - warm) as usize) {
            bytes += entry.data.len() as u64;
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn pop_front(&mut self) {
        if let Some((gone, _)) = self.entries.pop_front() {
            self.bytes -= cost(&gone);
        }
    }
}

fn cost(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { term, index, kind: 0, data: Bytes::from(vec![index as u8; 100]) }
    }

    fn window() -> Window {
        let mut window = Window::new(1, 0, 0, VecDeque::new(), 500);
        for index in 1..=10 {
            window.push(entry(index, 1 + index / 4), Ticket(index));
        }
        window
    }

    #[test]
    fn what_is_not_durable_or_not_applied_stays() {
        let mut window = window();
        assert_eq!(window.warm(), 1);
        window.release(10, Ticket(2));
        assert_eq!(window.warm(), 3, "only two entries are durable");
        window.release(10, Ticket(10));
        assert_eq!(window.warm(), 8, "500 bytes hold three entries");
        assert_eq!(window.entries(5, 7, 1000), Err(ReadError::Cold(5)));
        assert_eq!(window.entries(8, 11, 150).unwrap().len(), 1);
        assert_eq!(window.entries(8, 11, 0).unwrap().len(), 1, "at least one");
        assert_eq!(window.entries(8, 12, 9), Err(ReadError::Unavailable(11)));
    }

    #[test]
    fn a_durable_old_entry_does_not_let_its_successor_go() {
        let mut window = window();
        window.push(entry(4, 9), Ticket(11));
        assert_eq!((window.last(), window.term(4), window.term(3)), (4, Ok(9), Ok(1)));
        window.bytes_max = 0;
        window.release(4, Ticket(10));
        assert_eq!(window.warm(), 4, "index 4 was durable as another entry");
        window.release(4, Ticket(11));
        assert_eq!((window.warm(), window.bytes()), (5, 0));
    }

    #[test]
    fn terms_outlive_entries() {
        let mut window = window();
        window.release(10, Ticket(10));
        for index in 1..=10 {
            assert_eq!(window.term(index), Ok(1 + index / 4));
        }
        window.truncate_prefix(6);
        assert_eq!(window.term(5), Ok(2));
        assert_eq!(window.term(4), Err(ReadError::Compacted(4)));
        assert_eq!(window.term(8), Ok(3));
        assert_eq!(window.terms(), (2, vec![(4, 2), (8, 3)]));
        window.truncate_prefix(11);
        assert_eq!((window.first(), window.term(10)), (11, Ok(3)));
        assert_eq!(window.terms(), (3, vec![]));
        window.push(entry(11, 3), Ticket(11));
        assert_eq!(window.term(11), Ok(3));
        window.reset(40, 7);
        assert_eq!((window.term(40), window.term(41)), (Ok(7), Err(ReadError::Unavailable(41))));
    }
}
