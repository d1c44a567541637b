//! Who stands where, and what may therefore be freed: the whole protocol between the writer and its readers.
//!
//! Owns one padded atomic per reader (the version on which it stands, [`PARKED`], or [`EVERYWHERE`]) and the
//! writer's floor. Never touches an object of the tree, so that loom can run it alone.
//!
//! Why it stays correct. An object retired in version R is seen by versions below R only. The writer frees it when
//! R <= [`Standings::lowest`].
//! - A reader that *stands* at S holds every object with R > S: `lowest` <= S. It moves up only, and publishes the
//!   move with a release store after its last read of the old version, which the writer's acquire load sees.
//! - A *parked* reader holds nothing. Waking, it stores [`EVERYWHERE`], fences, then reads the floor; the writer
//!   stores the floor, fences, then reads the standings. Of the two fences one is first: either the writer sees the
//!   reader awake and frees nothing, or the reader sees the floor and goes nowhere below it, where nothing that the
//!   writer freed is visible. The commit ring already holds the floor's version when the writer stores it, so a
//!   reader always finds a version it may move to.
#![forbid(unsafe_code)]

use super::sync::{AtomicBool, AtomicU64, Ordering, fence};
use crossbeam_utils::CachePadded;

/// A reader that stands nowhere.
const PARKED: u64 = u64::MAX;

/// A reader that has just woken and may go to any version from the floor up.
const EVERYWHERE: u64 = 0;

/// The standings of all readers of one tree.
#[derive(Debug)]
pub(super) struct Standings {
    floor: CachePadded<AtomicU64>,
    readers: Box<[CachePadded<AtomicU64>]>,
}

impl Standings {
    /// All readers stand at `version`.
    pub(super) fn new(readers: usize, version: u64) -> Standings {
        let padded = |value| CachePadded::new(AtomicU64::new(value));
        Standings { floor: padded(version), readers: (0..readers).map(|_| padded(version)).collect() }
    }

    /// A reader moves up to `version`; it is done with what it stood on before.
    pub(super) fn stand(&self, reader: usize, version: u64) {
        self.readers[reader].store(version, Ordering::Release);
    }

    /// A reader leaves.
    pub(super) fn park(&self, reader: usize) {
        self.readers[reader].store(PARKED, Ordering::Release);
    }

    /// A reader comes back. Gives the lowest version to which it may move.
    pub(super) fn unpark(&self, reader: usize) -> u64 {
        self.readers[reader].store(EVERYWHERE, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.floor.load(Ordering::Acquire)
    }

    /// The writer announces that `published` is where every reader finds it, and learns up to which version of
    /// retirement nobody looks at objects any more.
    pub(super) fn lowest(&self, published: u64) -> u64 {
        self.floor.store(published, Ordering::Release);
        fence(Ordering::SeqCst);
        let standing = self.readers.iter().map(|reader| reader.load(Ordering::Acquire));
        standing.filter(|&version| version != PARKED).fold(published, u64::min)
    }
}

/// Whether a hold has been given up: set once by the holder, after its last read.
#[derive(Debug)]
pub(super) struct Release(AtomicBool);

impl Release {
    pub(super) fn new() -> Release {
        Release(AtomicBool::new(false))
    }
    /// The holder is done.
    pub(super) fn give_up(&self) {
        self.0.store(true, Ordering::Release);
    }
    /// Whether the holder is done, seen by the writer.
    pub(super) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
