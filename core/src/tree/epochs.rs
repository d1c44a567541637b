//! Who stands where, and what may therefore be freed: the whole protocol between the writer and its readers.
//!
//! Owns one padded atomic per reader (the version on which it stands, [`PARKED`], or [`ALL_VERSIONS`]) and the
//! writer's floor. Never touches an object of the tree, so that loom can run it alone.
//!
//! Why it stays correct. An object retired in version R is seen by versions below R only. The writer frees it when
//! R <= [`ReaderEpochs::lowest`].
//! - A reader that *stands* at S holds every object with R > S: `lowest` <= S. It moves up only, and publishes the
//!   move with a release store after its last read of the old version, which the writer's acquire load sees.
//! - A *parked* reader holds nothing. Waking, it stores [`ALL_VERSIONS`], fences, then reads the floor; the writer
//!   stores the floor, fences, then reads the epochs. Of the two fences one is first: either the writer sees the
//!   reader awake and frees nothing, or the reader sees the floor and goes nowhere below it, where nothing that the
//!   writer freed is visible. The commit ring already holds the floor's version when the writer stores it, so a
//!   reader always finds a version it may move to.
#![cfg_attr(not(paddock_loom), forbid(unsafe_code))]

use super::sync::{AtomicBool, AtomicU64, Ordering, fence};
use crossbeam_utils::CachePadded;

/// A reader that stands nowhere.
const PARKED: u64 = u64::MAX;

/// A reader that has just woken and may go to any version from the floor up.
const ALL_VERSIONS: u64 = 0;

/// The standings of all readers of one tree.
#[derive(Debug)]
pub(super) struct ReaderEpochs {
    floor: CachePadded<AtomicU64>,
    readers: Box<[CachePadded<AtomicU64>]>,
}

impl ReaderEpochs {
    /// All readers stand at `version`.
    pub(super) fn new(readers: usize, version: u64) -> ReaderEpochs {
        let padded = |value| CachePadded::new(AtomicU64::new(value));
        ReaderEpochs { floor: padded(version), readers: (0..readers).map(|_| padded(version)).collect() }
    }

    /// A reader moves up to `version`; it is done with what it stood on before.
    pub(super) fn pin(&self, reader: usize, version: u64) {
        self.readers[reader].store(version, Ordering::Release);
    }

    /// A reader leaves.
    pub(super) fn park(&self, reader: usize) {
        self.readers[reader].store(PARKED, Ordering::Release);
    }

    /// A reader comes back. Gives the lowest version to which it may move.
    pub(super) fn unpark(&self, reader: usize) -> u64 {
        self.readers[reader].store(ALL_VERSIONS, Ordering::Relaxed);
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

/// The protocol under loom: objects are cells that loom watches, so a free at the wrong time is found in every order of
/// events and every outcome that the memory model allows.
#[cfg(all(test, paddock_loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    /// Versions that the writer publishes.
    const VERSIONS: usize = 3;

    /// One object per version, born in it and retired by the next; the commit ring is the newest number.
    struct World {
        epochs: ReaderEpochs,
        newest: AtomicU64,
        /// True until freed.
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
        // SAFETY: this is what is tested; loom reports a write at the same time.
        let alive = world.objects[version as usize].with(|object| unsafe { *object });
        assert!(alive, "version {version} was freed under a reader");
    }

    /// Publishes versions and frees what the protocol lets it, as `reclaim` does.
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
                // SAFETY: this is what is tested; loom reports a read at the same time.
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

    /// The net itself: without the fence of the one who wakes, the model finds that neither sees the other.
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
