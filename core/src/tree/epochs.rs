//! Reader epochs: which version each reader pins, and what the writer may therefore free.
//!
//! Owns one padded atomic per reader (the version that it pins, [`PARKED`], or [`ALL_VERSIONS`]) and the
//! writer's floor.
//!
//! Never touches an object of the tree, so that loom can run the protocol alone.
//!
//! Correct because an object retired in version R is seen by versions below R only, and the writer frees it
//! when R <= [`ReaderEpochs::lowest`]:
//! - A reader that *pins* S may read every object with R > S, and `lowest` <= S keeps them. A pin moves up
//!   only. The reader publishes the move with a release store after its last read of the old version; the
//!   writer's load acquires it.
//! - A *parked* reader pins nothing. To wake, it stores [`ALL_VERSIONS`], fences, then reads the floor; the
//!   writer stores the floor, fences, then reads the epochs. One of the two fences comes first. If it is
//!   the reader's, the writer sees the reader awake and frees nothing. If it is the writer's, the reader
//!   sees the floor and pins nothing below it, and everything visible from the floor up is still there.
//! - The commit ring holds the floor's version before the writer stores the floor. So a waking reader
//!   always finds a version that it may pin.
#![cfg_attr(not(paddock_loom), forbid(unsafe_code))]

use super::sync::{AtomicBool, AtomicU64, Ordering, fence};
use crossbeam_utils::CachePadded;

/// Epoch of a reader that pins no version. Above every version, so that it never lowers the minimum.
const PARKED: u64 = u64::MAX;

/// Epoch of a reader that has just woken and may pin any version from the floor up. Below every version.
const ALL_VERSIONS: u64 = 0;

/// The epoch of each reader of one tree, and the floor for readers that wake.
#[derive(Debug)]
pub(super) struct ReaderEpochs {
    floor: CachePadded<AtomicU64>,
    readers: Box<[CachePadded<AtomicU64>]>,
}

impl ReaderEpochs {
    /// Every reader pins `version`.
    pub(super) fn new(readers: usize, version: u64) -> ReaderEpochs {
        let padded = |value| CachePadded::new(AtomicU64::new(value));
        ReaderEpochs { floor: padded(version), readers: (0..readers).map(|_| padded(version)).collect() }
    }

    /// Moves a reader's pin up to `version`. The reader no longer reads what it pinned before.
    pub(super) fn pin(&self, reader: usize, version: u64) {
        debug_assert!(version != ALL_VERSIONS && version != PARKED, "{version} is no version");
        debug_assert!(self.epoch(reader) <= version, "a pin moves up only, and a parked reader wakes first");
        self.readers[reader].store(version, Ordering::Release);
    }

    /// Removes a reader's pin.
    pub(super) fn park(&self, reader: usize) {
        self.readers[reader].store(PARKED, Ordering::Release);
    }

    /// Wakes a parked reader: it now keeps every version from the floor up. Returns that floor, the lowest
    /// version that it may pin.
    pub(super) fn unpark(&self, reader: usize) -> u64 {
        debug_assert_eq!(self.epoch(reader), PARKED, "only a parked reader wakes");
        self.readers[reader].store(ALL_VERSIONS, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.floor.load(Ordering::Acquire)
    }

    /// For the writer: sets the floor to `published`, which every reader already finds in the commit ring.
    /// Returns the highest retirement version whose objects no reader can see.
    pub(super) fn lowest(&self, published: u64) -> u64 {
        debug_assert!(self.floor.load(Ordering::Relaxed) <= published, "the floor never falls");
        self.floor.store(published, Ordering::Release);
        fence(Ordering::SeqCst);
        let epochs = self.readers.iter().map(|reader| reader.load(Ordering::Acquire));
        epochs.filter(|&version| version != PARKED).fold(published, u64::min)
    }

    /// Epoch of a reader, as the reader itself stored it last.
    fn epoch(&self, reader: usize) -> u64 {
        self.readers[reader].load(Ordering::Relaxed)
    }
}

/// End of a hold: set once by the holder, after its last read.
#[derive(Debug)]
pub(super) struct Release(AtomicBool);

impl Release {
    pub(super) fn new() -> Release {
        Release(AtomicBool::new(false))
    }
    /// Ends the hold. The holder reads nothing afterwards.
    pub(super) fn give_up(&self) {
        self.0.store(true, Ordering::Release);
    }
    /// Whether the hold has ended; acquires the holder's last read.
    pub(super) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The protocol under loom. Objects are cells that loom watches. A free at the wrong time is found in every
/// order of events and every outcome that the memory model allows.
#[cfg(all(test, paddock_loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    /// Versions that the writer publishes.
    const VERSIONS: usize = 3;

    /// One object per version, born in it and retired by the next. `newest` is the commit ring.
    struct World {
        epochs: ReaderEpochs,
        newest: AtomicU64,
        /// Each is true until it is freed.
        objects: Vec<UnsafeCell<bool>>,
        release: Release,
    }

    fn world(readers: usize) -> Arc<World> {
        Arc::new(World {
            epochs: ReaderEpochs::new(readers, 1),
            newest: AtomicU64::new(1),
            objects: (0..=VERSIONS).map(|_| UnsafeCell::new(true)).collect(),
            release: Release::new(),
        })
    }

    fn read(world: &World, version: u64) {
        // SAFETY: no write runs at the same time, which the protocol under test keeps; loom reports one
        // that does.
        let alive = world.objects[version as usize].with(|object| unsafe { *object });
        assert!(alive, "version {version} was freed under a reader");
    }

    /// Publishes versions and frees what the protocol allows, as `reclaim` does.
    fn write(world: &World, held: Option<u64>) {
        let mut freed = 0;
        for version in 2..=VERSIONS as u64 {
            world.newest.store(version, Ordering::Release);
            let lowest = world.epochs.lowest(version);
            // The object of version v is retired in v + 1.
            while freed + 2 <= lowest {
                freed += 1;
                if held == Some(freed) && !world.release.is_given_up() {
                    continue;
                }
                // SAFETY: no read runs at the same time, which the protocol under test keeps; loom reports
                // one that does.
                world.objects[freed as usize].with_mut(|object| unsafe { *object = false });
            }
        }
    }

    #[test]
    fn a_reader_that_moves_never_meets_a_freed_version() {
        loom::model(|| {
            let world = world(1);
            let reader = {
                let world = world.clone();
                thread::spawn(move || {
                    read(&world, 1);
                    for _ in 0..2 {
                        let newest = world.newest.load(Ordering::Acquire);
                        world.epochs.pin(0, newest);
                        read(&world, newest);
                    }
                })
            };
            write(&world, None);
            reader.join().expect("the reader found its versions");
        });
    }

    #[test]
    fn a_reader_that_parks_and_wakes_finds_a_version_that_lives() {
        loom::model(|| {
            let world = world(1);
            let reader = {
                let world = world.clone();
                thread::spawn(move || {
                    read(&world, 1);
                    world.epochs.park(0);
                    let floor = world.epochs.unpark(0);
                    let newest = world.newest.load(Ordering::Acquire);
                    assert!(newest >= floor, "the ring holds the floor's version");
                    // The oldest version to which it may move is the worst.
                    world.epochs.pin(0, floor);
                    read(&world, floor);
                    world.epochs.pin(0, newest);
                    read(&world, newest);
                })
            };
            write(&world, None);
            reader.join().expect("the reader found its versions");
        });
    }

    #[test]
    fn two_readers_do_not_free_for_each_other() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let world = world(2);
            let readers: Vec<_> = (0..2)
                .map(|index| {
                    let world = world.clone();
                    thread::spawn(move || {
                        if index == 0 {
                            world.epochs.park(0);
                            let floor = world.epochs.unpark(0);
                            world.epochs.pin(0, floor);
                            read(&world, floor);
                        } else {
                            read(&world, 1);
                            let newest = world.newest.load(Ordering::Acquire);
                            world.epochs.pin(1, newest);
                            read(&world, newest);
                        }
                    })
                })
                .collect();
            write(&world, None);
            for reader in readers {
                reader.join().expect("the reader found its versions");
            }
        });
    }

    #[test]
    fn a_hold_is_freed_only_after_its_last_read() {
        loom::model(|| {
            let world = world(1);
            world.epochs.park(0);
            let holder = {
                let world = world.clone();
                thread::spawn(move || {
                    read(&world, 1);
                    world.release.give_up();
                })
            };
            write(&world, Some(1));
            holder.join().expect("the held version was there");
        });
    }

    /// The model can fail: without the waking reader's fence it finds that neither side sees the other.
    #[test]
    #[should_panic]
    fn a_wrong_protocol_is_found() {
        loom::model(|| {
            let world = world(1);
            world.epochs.park(0);
            let reader = {
                let world = world.clone();
                thread::spawn(move || {
                    world.epochs.readers[0].store(ALL_VERSIONS, Ordering::Relaxed);
                    let floor = world.epochs.floor.load(Ordering::Acquire);
                    world.epochs.pin(0, floor);
                    read(&world, floor);
                })
            };
            write(&world, None);
            reader.join().expect("the reader found its versions");
        });
    }
}
