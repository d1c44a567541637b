//! A log on a simulated disk, driven by hand, and a model of what it must hold.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;

pub const DIR: &str = "/node/log";

pub fn options(disk: &FaultDisk) -> LogOptions {
    LogOptions {
        disk: Arc::new(disk.clone()),
        segment_bytes: 16 << 10,
        flushing: Flushing::Manual,
        ..LogOptions::new(DIR, 0xfeed)
    }
}

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let data: Vec<u8> = (0..bytes).map(|at| (index * 31 + term * 7 + at as u64) as u8).collect();
    Entry { term, index, kind: 1, data: Bytes::from(data) }
}

pub fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

/// Appends entries `range` of `term`: one append for each entry, and one group for all.
pub fn append(log: &mut Log, range: std::ops::RangeInclusive<u64>, term: u64, bytes: usize) {
    for index in range {
        log.append(vec![Record::Entry(entry(index, term, bytes))]).unwrap();
    }
    log.flush_turn();
}

pub fn read_all(log: &Log) -> Vec<Entry> {
    let reader = log.reader();
    let bounds = reader.bounds();
    reader.entries(bounds.start, bounds.end).collect::<Result<_, _>>().unwrap()
}

/// Segment files, oldest first.
pub fn segments(disk: &FaultDisk) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        disk.paths().into_iter().filter(|path| name(path).starts_with("segment-")).collect();
    found.sort();
    found
}

pub fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Random numbers of one seed.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// Model of a log: what was appended, and how much of it must survive.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// State of the log after each append, in order of tickets; the first is the empty log.
    pub history: Vec<(Vec<Entry>, HardState)>,
    /// Index in `history` of the last state reported durable.
    pub durable: usize,
}

impl Model {
    pub fn new() -> Model {
        Model { history: vec![(Vec::new(), HardState::default())], durable: 0 }
    }

    pub fn apply(&mut self, records: &[Record]) {
        let (mut entries, mut hard) = self.history.last().unwrap().clone();
        for record in records {
            match record {
                Record::Entry(entry) => {
                    entries.retain(|old: &Entry| old.index < entry.index);
                    entries.push(entry.clone());
                }
                Record::HardState(state) => hard = *state,
                Record::Reset { .. } => entries.clear(),
            }
        }
        self.history.push((entries, hard));
    }

    /// Checks that the recovered log equals its state after the last durable append, or after a later one.
    ///
    /// A group is cut record by record, and each record here is an append of its own.
    pub fn check(&mut self, entries: &[Entry], hard: HardState, context: &str) {
        let last = entries.last().map_or(0, |entry| entry.index);
        let fits = |(expected, state): &(Vec<Entry>, HardState)| {
            let clamped = HardState { commit: state.commit.min(last), ..*state };
            expected == entries && clamped == hard
        };
        let found = self.history[self.durable..].iter().position(fits);
        let found = found.unwrap_or_else(|| {
            panic!(
                "{context}: recovered {} entries to {last} and {hard:?}; durable was {:?}",
                entries.len(),
                self.history[self.durable].1
            )
        });
        let kept = self.history[self.durable + found].clone();
        // The recovered state is durable from now on.
        *self = Model { history: vec![kept], durable: 0 };
    }
}
