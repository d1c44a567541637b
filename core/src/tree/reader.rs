//! Reads of one version: the reader of one core.
//!
//! Owns one epoch in the tree's [`ReaderEpochs`].
//!
//! Never writes to the tree, and follows no pointer of a version that it does not pin.
//!
//! Correct because a reader moves by `&mut self` and its views borrow `&self`: no view outlives the pin of
//! the version it shows.

use super::epochs::ReaderEpochs;
use super::hash::PathHasher;
use super::pages::{self, Descent, Table};
use super::writer::DeferredFree;
use super::znode::{Znode, view};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Lookups of a batch that wait for memory at the same time. More than the processor's outstanding misses,
/// and few enough for their state to stay in the first cache level.
pub(super) const BATCH_LOOKUPS: usize = 32;

/// State shared by the writer, the readers and the holds of one tree. The last of them to drop frees the
/// rest.
pub(super) struct Shared {
    /// Identity of this tree, so that a version of another tree is refused.
    pub(super) tree: u64,
    pub(super) hasher: PathHasher,
    pub(super) epochs: ReaderEpochs,
    /// Set by the writer's drop.
    pub(super) deferred_free: Mutex<Option<DeferredFree>>,
}

impl Shared {
    pub(super) fn new(readers: usize, hasher: PathHasher) -> Shared {
        static TREES: AtomicU64 = AtomicU64::new(1);
        let tree = TREES.fetch_add(1, Ordering::Relaxed);
        Shared { tree, hasher, epochs: ReaderEpochs::new(readers, 1), deferred_free: Mutex::new(None) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let deferred = self.deferred_free.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(deferred) = deferred.take() {
            // SAFETY: the writer, each reader and each hold own an `Arc` of this value, so none of them is
            // left.
            unsafe { deferred.free() };
        }
    }
}

/// Handle of a published version on its way to the readers.
#[derive(Debug)]
pub struct PublishedVersion {
    pub(super) tree: u64,
    pub(super) number: u64,
    pub(super) root: *mut Table,
}

// SAFETY: only a reader follows the root, after it has pinned this version (`Reader::move_to`), on any
// thread.
unsafe impl Send for PublishedVersion {}
// SAFETY: as above; a shared reference gives no access to what the root leads to.
unsafe impl Sync for PublishedVersion {}

impl PublishedVersion {
    /// Version number. Grows with each version, not always by one.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Reader of one core: pins one version and looks up in it.
pub struct Reader {
    shared: Arc<Shared>,
    index: usize,
    /// `None` while parked, and until the first move after that.
    root: Option<*mut Table>,
    version: u64,
    /// Lowest version that it may pin: the one it pins now, or the writer's floor when it woke.
    bound: u64,
}

// SAFETY: this reader alone stores its epoch, and the writer changes no object of a version that a reader
// pins.
unsafe impl Send for Reader {}

impl Reader {
    /// A reader whose epoch [`ReaderEpochs::new`] has set to the first version.
    pub(super) fn new(shared: Arc<Shared>, index: usize, first: &PublishedVersion) -> Reader {
        Reader { shared, index, root: Some(first.root), version: first.number, bound: first.number }
    }

    /// Pins `published` instead of the current version. Panics if that breaks the order of commits: an
    /// older version than the pinned one, or one below the floor at which the reader woke. Panics too if it
    /// belongs to another tree.
    pub fn move_to(&mut self, published: &PublishedVersion) {
        assert_eq!(published.tree, self.shared.tree, "a version of another tree");
        let (number, bound) = (published.number, self.bound);
        assert!(bound != PARKED_BOUND, "a parked reader wakes before it moves");
        assert!(number >= bound, "a reader never goes back: from {bound} to {number}");
        self.shared.epochs.pin(self.index, number);
        self.root = Some(published.root);
        self.version = number;
        self.bound = number;
    }

    /// The pinned version, or while parked the one pinned last.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Looks up a path in the pinned version. Panics while the reader pins none.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        let root = self.root();
        // SAFETY: the pin stays until the next `&mut self` call, and the writer frees nothing that a pinned
        // version shows (`epochs`). The writer changes no published version.
        unsafe { get(root, &self.shared.hasher, path, self.version) }
    }

    /// Looks up many paths at once: about 2.5 times as fast as one by one, because their cache misses
    /// overlap. Clears `found`, then fills it in the order of `paths`.
    pub fn get_batch<'t>(&'t self, paths: &[&str], found: &mut Vec<Option<Znode<'t>>>) {
        let root = self.root();
        found.clear();
        // SAFETY: as in `get`.
        unsafe { get_batch(root, &self.shared.hasher, paths, self.version, found) }
    }

    /// Removes the pin, so that a sleeping core keeps no memory. No lookups until [`Reader::unpark`] and
    /// [`Reader::move_to`].
    pub fn park(&mut self) {
        self.root = None;
        self.bound = PARKED_BOUND;
        self.shared.epochs.park(self.index);
    }

    /// Wakes a parked reader: until the next [`Reader::move_to`] it keeps every version from the writer's
    /// floor up. Does nothing unless parked.
    pub fn unpark(&mut self) {
        if self.bound == PARKED_BOUND {
            self.bound = self.shared.epochs.unpark(self.index);
        }
    }

    fn root(&self) -> *mut Table {
        self.root.expect("a parked reader does not read")
    }

    /// Breaks the rule on purpose, to test the checks of debug builds: stores a pin without moving to that
    /// version.
    #[cfg(all(test, debug_assertions, not(paddock_loom)))]
    pub(super) fn claim(&mut self, version: u64) {
        self.shared.epochs.pin(self.index, version);
    }
}

/// The bound of a parked reader: it must unpark before it moves.
const PARKED_BOUND: u64 = u64::MAX;

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.epochs.park(self.index);
    }
}

/// # Safety
/// `root` is the root of version `at`, alive and unchanged for `'t`.
#[inline]
pub(super) unsafe fn get<'t>(
    root: *mut Table,
    hasher: &PathHasher,
    path: &str,
    at: u64,
) -> Option<Znode<'t>> {
    let path = named(path);
    // SAFETY: the caller keeps everything below `root` alive and unchanged.
    unsafe { pages::find(root, hasher.hash(path), path.as_bytes(), at).map(|znode| view(znode)) }
}

/// Maps the empty path to the root's: ZooKeeper reads the root under both.
pub(super) fn named(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// Looks up `paths` in groups and appends the results to `found`.
///
/// # Safety
/// As for [`get`].
pub(super) unsafe fn get_batch<'t>(
    root: *mut Table,
    hasher: &PathHasher,
    paths: &[&str],
    at: u64,
    found: &mut Vec<Option<Znode<'t>>>,
) {
    found.reserve(paths.len());
    for group in paths.chunks(BATCH_LOOKUPS) {
        // SAFETY: the caller keeps everything below `root` alive and unchanged.
        unsafe {
            let mut descents = descend(root, hasher, group, at);
            for (descent, path) in descents.iter_mut().zip(group) {
                let znode = descent.finish(named(path).as_bytes(), at);
                found.push(znode.map(|znode| view(znode)));
            }
        }
    }
}

/// Takes a group of at most [`BATCH_LOOKUPS`] lookups down to their pages, step by step together. Then asks
/// for the memory of the znodes that they will compare.
///
/// # Safety
/// As for [`get`], while the descents are used.
#[inline(always)]
pub(super) unsafe fn descend(
    root: *mut Table,
    hasher: &PathHasher,
    group: &[&str],
    at: u64,
) -> [Descent; BATCH_LOOKUPS] {
    // SAFETY: the caller keeps everything below `root` alive and unchanged.
    unsafe {
        let mut all = [Descent::begin(root, 0, at); BATCH_LOOKUPS];
        let descents = &mut all[..group.len()];
        for (descent, path) in descents.iter_mut().zip(group) {
            *descent = Descent::begin(root, hasher.hash(named(path)), at);
            descent.prefetch_down();
        }
        loop {
            let mut deeper = false;
            for descent in descents.iter_mut() {
                if descent.down(at) {
                    deeper = true;
                    descent.prefetch_down();
                }
            }
            if !deeper {
                break;
            }
        }
        for descent in descents.iter() {
            descent.prefetch_slots();
        }
        for descent in descents.iter_mut() {
            descent.arrive(at);
            descent.prefetch_candidate();
        }
        all
    }
}
