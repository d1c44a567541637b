//! Broadcast commit ring: the consensus core publishes each commit to all shards with one store.
//!
//! Owns the slots, the tail (one writer) and a padded cursor per reader.
//!
//! Never allocates after construction, never blocks, never copies a commit: readers look at it in its slot.
//!
//! Correct because only the sender writes a slot, only outside `[slowest cursor, tail)`, and readers read
//! only inside that range:
//!
//! - The sender fills the slot at `tail` and then stores `tail + 1` (release). A reader loads the tail
//!   (acquire) before it looks into a slot, so it sees the slot filled.
//! - A reader's cursor is the oldest position that it may still look at. It stores a higher one (release)
//!   only after its last look at all slots below. The sender loads the cursors (acquire) before it drops or
//!   overwrites a slot.
//!
//! A parked reader keeps its cursor: nothing from it on is dropped, and the core wakes the reader when it
//! is half a ring behind. When the slowest reader is a whole ring behind, [`CommitSender::try_push`]
//! returns the commit and the core pauses apply. Nothing else of the core waits.

#![deny(clippy::disallowed_methods)]

use crate::commit::Commit;
use crate::tree;
use crossbeam_utils::CachePadded;
use sync::{Arc, AtomicU64, Cell, Ordering};

#[cfg(not(paddock_loom))]
mod sync {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    /// `UnsafeCell` with the interface of loom's.
    pub(super) struct Cell<T>(std::cell::UnsafeCell<T>);

    impl<T> Cell<T> {
        pub(super) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(paddock_loom)]
mod sync {
    pub(super) use loom::cell::UnsafeCell as Cell;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

/// Slots of the ring. A batch is published per sync of the log, at best every 50 µs. So a shard may be away
/// for 50 ms before apply pauses. A thousand commits of the usual few KiB stay below 10 MiB.
pub const COMMIT_RING_ENTRIES: usize = 1024;

const _: () = assert!(COMMIT_RING_ENTRIES.is_power_of_two() && COMMIT_RING_ENTRIES >= 4);

/// One entry of the ring: a commit and the version of the tree that it made.
#[derive(Debug)]
pub struct Published {
    pub commit: Commit,
    /// Version to which a shard moves before it acts on the commit.
    pub version: tree::PublishedVersion,
}

struct Ring<T> {
    slots: Box<[Cell<Option<T>>]>,
    /// Positions below are published.
    tail: CachePadded<AtomicU64>,
    /// Per reader the oldest position that it may still look at; [`GONE`] once its receiver is dropped.
    cursors: Box<[CachePadded<AtomicU64>]>,
}

/// Cursor of a dropped receiver. Above every position.
const GONE: u64 = u64::MAX;

// SAFETY: a `T` moves from the sender's thread into a slot, and the last owner of the ring drops it: hence
// `Send`. Several readers look at one `T` at once: hence `Sync`. The protocol of the module doc keeps
// writers off slots that a reader looks at; its two sides are `CommitSender` and `CommitReceiver`.
unsafe impl<T: Send + Sync> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, position: u64) -> &Cell<Option<T>> {
        // `with_capacity` makes the length a power of two.
        &self.slots[(position & (self.slots.len() as u64 - 1)) as usize]
    }
}

/// Makes a ring of `capacity` slots, a power of two, and one receiver for each of `readers`.
pub fn with_capacity<T>(readers: usize, capacity: usize) -> (CommitSender<T>, Vec<CommitReceiver<T>>) {
    assert!(capacity.is_power_of_two(), "the ring's capacity must be a power of two, not {capacity}");
    let ring = Arc::new(Ring {
        slots: (0..capacity).map(|_| Cell::new(None)).collect(),
        tail: CachePadded::new(AtomicU64::new(0)),
        cursors: (0..readers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
    });
    let receivers = (0..readers)
        .map(|reader| CommitReceiver { ring: ring.clone(), reader, position: 0, held: false })
        .collect();
    (CommitSender { ring, tail: 0, head: 0 }, receivers)
}

/// Writing end of the ring, in the consensus core.
pub struct CommitSender<T = Published> {
    ring: Arc<Ring<T>>,
    /// Copy of the ring's tail, which only this sender stores.
    tail: u64,
    /// Position of the oldest commit that is still in its slot.
    head: u64,
}

impl<T> CommitSender<T> {
    /// Publishes a commit to all readers, or returns it when the slowest of them is a whole ring behind.
    ///
    /// Slots that all readers have passed are emptied here and in [`CommitSender::sweep`] only, so the
    /// sender's thread drops what a commit owns.
    pub fn try_push(&mut self, commit: T) -> Result<(), T> {
        self.sweep();
        if self.is_full() {
            return Err(commit);
        }
        self.ring.slot(self.tail).with_mut(|slot| {
            // SAFETY: position `tail` is not published yet. The slot's former position, one ring before
            // `tail`, is below `head`. `sweep` raises `head` only up to the lowest cursor (acquired), so no
            // reader looks at this slot.
            unsafe {
                debug_assert!((*slot).is_none(), "sweep empties a slot before it is filled again");
                *slot = Some(commit)
            }
        });
        self.tail += 1;
        self.ring.tail.store(self.tail, Ordering::Release);
        debug_assert!(self.tail - self.head <= self.ring.slots.len() as u64, "more commits than slots");
        Ok(())
    }

    /// Whether [`CommitSender::try_push`] would be refused, as of the last [`CommitSender::sweep`].
    pub fn is_full(&self) -> bool {
        self.tail - self.head == self.ring.slots.len() as u64
    }

    /// Drops the commits that every reader has passed.
    pub fn sweep(&mut self) {
        let passed = self.slowest();
        debug_assert!(self.head <= passed, "a cursor went back: {passed} below {}", self.head);
        while self.head < passed {
            let old = self.ring.slot(self.head).with_mut(|slot| {
                // SAFETY: every reader's cursor (acquired in `slowest`) is above `head`, and cursors only
                // grow: no reader looks at this slot again.
                unsafe { (*slot).take() }
            });
            self.head += 1;
            debug_assert!(old.is_some(), "a slot between head and tail is filled");
            drop(old);
        }
    }

    /// Commits that `reader` has not released. A reader that has taken everything may still look at the
    /// newest one, so 1 is not behind.
    pub fn lag(&self, reader: usize) -> u64 {
        self.tail.saturating_sub(self.ring.cursors[reader].load(Ordering::Relaxed))
    }

    /// Commits published so far, which is the position of the next one.
    pub fn published(&self) -> u64 {
        self.tail
    }

    /// Slots of the ring, a power of two.
    pub fn capacity(&self) -> usize {
        self.ring.slots.len()
    }

    /// The lowest cursor, at most the tail: all below has been passed by every reader.
    fn slowest(&self) -> u64 {
        self.ring
            .cursors
            .iter()
            .map(|c| c.load(Ordering::Acquire))
            .min()
            .map_or(self.tail, |c| c.min(self.tail))
    }
}

/// Reading end of the ring, in one shard.
pub struct CommitReceiver<T = Published> {
    ring: Arc<Ring<T>>,
    reader: usize,
    /// Next position to take. The published cursor is this one, or one less while a commit is looked at.
    position: u64,
    /// Whether a commit is looked at: the published cursor is then one less than `position`.
    held: bool,
}

impl<T> CommitReceiver<T> {
    /// Whether there is a commit that this reader has not taken.
    pub fn has_more(&self) -> bool {
        self.ring.tail.load(Ordering::Acquire) > self.position
    }

    /// Takes the next commit. It stays valid until the following call of any method that takes `&mut self`.
    // A lending iterator cannot be an `Iterator`, and no other name is as short.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<&T> {
        self.release();
        (self.position < self.ring.tail.load(Ordering::Acquire)).then(|| self.take())
    }

    /// Takes the newest commit and releases all before it; `None` if every commit was taken.
    pub fn skip_to_newest(&mut self) -> Option<&T> {
        let tail = self.ring.tail.load(Ordering::Acquire);
        if self.position < tail {
            self.position = tail - 1;
        }
        self.release();
        (self.position < tail).then(|| self.take())
    }

    /// Releases the commit taken last, so that a reader that goes to sleep keeps no slot.
    pub fn release(&mut self) {
        debug_assert!(self.cursor() <= self.position, "a cursor only grows");
        self.ring.cursors[self.reader].store(self.position, Ordering::Release);
        self.held = false;
    }

    /// The commit taken last, unless it was released. A shard that wakes finds its version here when no
    /// commit arrived meanwhile.
    pub fn current(&self) -> Option<&T> {
        self.held.then(|| self.look(self.position - 1))
    }

    /// Commits taken or skipped so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn take(&mut self) -> &T {
        debug_assert!(!self.held && self.cursor() == self.position, "the last commit was released");
        let position = self.position;
        self.position += 1;
        self.held = true;
        self.look(position)
    }

    /// Published cursor, which only this receiver stores.
    fn cursor(&self) -> u64 {
        self.ring.cursors[self.reader].load(Ordering::Relaxed)
    }

    fn look(&self, position: u64) -> &T {
        debug_assert!(self.cursor() <= position, "the sender may empty slots below the cursor");
        self.ring.slot(position).with(|slot| {
            // SAFETY: `position` is below the tail (acquired by the caller of `take`), so the slot is
            // filled. It is not below this reader's cursor (`held`), which stays until the next `&mut self`
            // call ends the returned borrow. So the sender does not touch the slot meanwhile.
            unsafe { &*slot }
                .as_ref()
                .expect("a slot between cursor and tail is filled: only sweep empties, below every cursor")
        })
    }
}

impl<T> Drop for CommitReceiver<T> {
    fn drop(&mut self) {
        self.ring.cursors[self.reader].store(GONE, Ordering::Release);
    }
}

#[cfg(all(test, not(paddock_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};

    #[test]
    fn every_reader_gets_every_commit_in_order() {
        let (mut tx, mut rx) = with_capacity::<u64>(3, 4);
        for n in 0..4 {
            tx.try_push(n).unwrap();
        }
        for r in &mut rx {
            assert!(r.has_more());
            assert_eq!((0..4).map(|_| *r.next().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
            assert!(!r.has_more() && r.next().is_none());
        }
    }

    #[test]
    fn the_slowest_reader_alone_fills_the_ring_and_empties_it() {
        let (mut tx, mut rx) = with_capacity::<u64>(2, 4);
        for n in 0..4 {
            tx.try_push(n).unwrap();
        }
        while rx[0].next().is_some() {}
        assert_eq!(tx.try_push(4), Err(4));
        assert_eq!(tx.lag(1), 4);
        // Taken but still looked at: the slot is not free before the next call.
        rx[1].next().unwrap();
        assert_eq!(tx.try_push(4), Err(4));
        rx[1].next().unwrap();
        tx.try_push(4).unwrap();
        assert_eq!(tx.try_push(5), Err(5));
        assert_eq!(rx[0].next(), Some(&4));
    }

    #[test]
    fn skipping_frees_all_that_was_skipped() {
        let (mut tx, mut rx) = with_capacity::<u64>(1, 4);
        for n in 0..4 {
            tx.try_push(n).unwrap();
        }
        assert_eq!(rx[0].skip_to_newest(), Some(&3));
        assert_eq!(rx[0].skip_to_newest(), None);
        for n in 4..8 {
            tx.try_push(n).unwrap();
        }
        assert_eq!(rx[0].next(), Some(&4));
    }

    #[test]
    fn the_commit_taken_last_can_be_looked_at_until_it_is_let_go() {
        let (mut tx, mut rx) = with_capacity::<u64>(1, 4);
        assert!(rx[0].current().is_none());
        for n in 0..3 {
            tx.try_push(n).unwrap();
        }
        assert_eq!(rx[0].next(), Some(&0));
        assert_eq!(rx[0].skip_to_newest(), Some(&2));
        tx.sweep();
        assert_eq!(rx[0].current(), Some(&2));
        assert_eq!(tx.lag(0), 1, "the slot is kept");
        rx[0].release();
        assert!(rx[0].current().is_none());
        assert_eq!(tx.lag(0), 0);
    }

    #[test]
    fn a_reader_that_is_gone_holds_up_nobody() {
        let (mut tx, mut rx) = with_capacity::<u64>(2, 2);
        drop(rx.pop());
        for n in 0..10 {
            tx.try_push(n).unwrap();
            assert_eq!(rx[0].next(), Some(&n));
        }
        drop(rx);
        for n in 0..10 {
            tx.try_push(n).unwrap();
        }
    }

    #[test]
    fn each_commit_is_dropped_once_and_not_while_it_is_looked_at() {
        static DROPS: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPS.fetch_add(1, StdOrdering::Relaxed);
            }
        }
        let (mut tx, mut rx) = with_capacity::<Counted>(1, 2);
        for _ in 0..2 {
            assert!(tx.try_push(Counted).is_ok());
        }
        assert!(rx[0].next().is_some());
        tx.sweep();
        assert_eq!(DROPS.load(StdOrdering::Relaxed), 0);
        rx[0].release();
        tx.sweep();
        assert_eq!(DROPS.load(StdOrdering::Relaxed), 1);
        drop((tx, rx));
        assert_eq!(DROPS.load(StdOrdering::Relaxed), 2);
    }

    #[test]
    fn threads_see_whole_commits_in_order() {
        const COMMITS: u64 = 20_000;
        let (mut tx, rx) = with_capacity::<Vec<u64>>(2, 8);
        let readers: Vec<_> = rx
            .into_iter()
            .map(|mut r| {
                std::thread::spawn(move || {
                    let mut expected = 0;
                    while expected < COMMITS {
                        match r.next() {
                            Some(commit) => {
                                assert_eq!(commit.as_slice(), [expected, !expected]);
                                expected += 1;
                            }
                            None => std::thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        for n in 0..COMMITS {
            let mut commit = vec![n, !n];
            while let Err(back) = tx.try_push(commit) {
                commit = back;
                std::thread::yield_now();
            }
        }
        for r in readers {
            r.join().unwrap();
        }
    }
}

#[cfg(all(test, paddock_loom))]
mod tests {
    //! All interleavings of small cases:
    //! `RUSTFLAGS="--cfg paddock_loom" cargo test -p paddock-core --lib --release ring::`.
    use super::*;
    use loom::thread;

    #[test]
    fn a_slot_is_seen_filled_and_reused_only_when_let_go() {
        loom::model(|| {
            let (mut tx, mut rx) = with_capacity::<Box<u64>>(1, 2);
            let mut r = rx.pop().unwrap();
            let reader = thread::spawn(move || {
                let mut last = None;
                for _ in 0..2 {
                    if let Some(commit) = r.next() {
                        let value = **commit;
                        assert!(last.is_none_or(|l| value == l + 1));
                        last = Some(value);
                    }
                }
                if let Some(commit) = r.skip_to_newest() {
                    assert!(last.is_none_or(|l| **commit > l));
                }
            });
            let mut refused = 0;
            for n in 0..3 {
                // A refused commit is not sent again, so that the model stays finite. Numbers stay without
                // a gap.
                refused += u64::from(tx.try_push(Box::new(n - refused)).is_err());
            }
            reader.join().unwrap();
        });
    }

    #[test]
    fn two_readers_hold_a_slot_independently() {
        // All interleavings take minutes. Three preemptions find what two readers and a writer can do to
        // each other.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (mut tx, rx) = with_capacity::<Box<u64>>(2, 1);
            let readers: Vec<_> = rx
                .into_iter()
                .map(|mut r| {
                    thread::spawn(move || {
                        if let Some(commit) = r.next() {
                            assert!(**commit < 2);
                        }
                        r.release();
                    })
                })
                .collect();
            let first = tx.try_push(Box::new(0));
            assert!(first.is_ok());
            let _ = tx.try_push(Box::new(1));
            for r in readers {
                r.join().unwrap();
            }
        });
    }
}
