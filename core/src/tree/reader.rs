//! Reading a version: one core's reader.
//!
//! Owns a standing in the tree's [`ReaderEpochs`]. Never writes, and never follows a pointer without standing on the
//! version it leads into. A reader moves by `&mut self`, views borrow `&self`: no view outlives the version it shows.

use super::epochs::ReaderEpochs;
use super::hash::PathHasher;
use super::pages::{self, Descent, Table};
use super::writer::DeferredFree;
use super::znode::{Znode, view};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Lookups that wait for memory at the same time: more than the processor's outstanding misses, few enough
/// for their state to stay in the first cache level.
pub(super) const BATCH_LOOKUPS: usize = 32;

/// What writer, readers and holds of one tree have in common. The last of them frees what is left.
pub(super) struct Shared {
    /// Tells this tree's versions from another's.
    pub(super) tree: u64,
    pub(super) hasher: PathHasher,
    pub(super) epochs: ReaderEpochs,
    /// Put here when the writer goes.
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
            // SAFETY: writer, readers and holds each keep this value alive; the last one is gone.
            unsafe { deferred.free() };
        }
    }
}

/// A finished version on its way to the readers.
#[derive(Debug)]
pub struct PublishedVersion {
    pub(super) tree: u64,
    pub(super) number: u64,
    pub(super) root: *mut Table,
}

// SAFETY: the root is only followed by a reader that stands on its version, on whatever thread.
unsafe impl Send for PublishedVersion {}
// SAFETY: as above; a shared reference gives no access to what the root leads to.
unsafe impl Sync for PublishedVersion {}

impl PublishedVersion {
    /// Its number; grows with each version, not always by one.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// One core's eyes on the tree.
pub struct Reader {
    shared: Arc<Shared>,
    index: usize,
    /// `None` while parked, and until the first move after.
    root: Option<*mut Table>,
    version: u64,
    /// It goes nowhere below: where it stands, or the writer's floor when it woke.
    bound: u64,
}

// SAFETY: a reader owns its standing alone; the objects it looks at are not changed by anybody while it stands.
unsafe impl Send for Reader {}

impl Reader {
    /// A reader that stands on the first version; `ReaderEpochs::new` has put it there.
    pub(super) fn new(shared: Arc<Shared>, index: usize, first: &PublishedVersion) -> Reader {
        Reader { shared, index, root: Some(first.root), version: first.number, bound: first.number }
    }

    /// Moves up to a version. Panics if it is older than the one on which the reader stands, older than what the
    /// writer had published everywhere when the reader woke, or of another tree: that breaks the order of commits.
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

    /// The version on which it stands, or stood last.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Looks up in the version on which the reader stands. Panics while it stands on none.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        let root = self.root();
        // SAFETY: the reader stands on this version until it is borrowed mutably, so the rule of reclamation keeps it
        // alive (see `epochs`), and published versions do not change.
        unsafe { get(root, &self.shared.hasher, path, self.version) }
    }

    /// Looks up many at once: about 2.5 times as fast as one by one, because their cache misses overlap. Clears
    /// `found`, then fills in the order of `paths`.
    pub fn get_batch<'t>(&'t self, paths: &[&str], found: &mut Vec<Option<Znode<'t>>>) {
        let root = self.root();
        found.clear();
        // SAFETY: as in `get`.
        unsafe { get_batch(root, &self.shared.hasher, paths, self.version, found) }
    }

    /// Stands nowhere and holds nothing, so that a sleeping core keeps no memory. No reading until
    /// [`Reader::unpark`] and [`Reader::move_to`].
    pub fn park(&mut self) {
        self.root = None;
        self.bound = PARKED_BOUND;
        self.shared.epochs.park(self.index);
    }

    /// Wakes: from here to the next [`Reader::move_to`] everything is held. Does nothing unless parked.
    pub fn unpark(&mut self) {
        if self.bound == PARKED_BOUND {
            self.bound = self.shared.epochs.unpark(self.index);
        }
    }

    fn root(&self) -> *mut Table {
        self.root.expect("a parked reader does not read")
    }

    /// Breaks the rule, as a test of the debug build's checks: claims to stand on a version without moving there.
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
    // SAFETY: by the caller's word.
    unsafe { pages::find(root, hasher.hash(path), path.as_bytes(), at).map(|znode| view(znode)) }
}

/// The root is also readable under the empty path.
pub(super) fn named(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// Appends to `found`.
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
        // SAFETY: alive and unchanged by the caller's word.
        unsafe {
            let mut descents = descend(root, hasher, group, at);
            for (descent, path) in descents.iter_mut().zip(group) {
                let znode = descent.finish(named(path).as_bytes(), at);
                found.push(znode.map(|znode| view(znode)));
            }
        }
    }
}

/// Takes the lookups of a group, at most [`BATCH_LOOKUPS`], down to their pages, step by step together, and asks for the
/// memory of what they will compare.
///
/// # Safety
/// As for [`get`], as long as the descents are used.
#[inline(always)]
pub(super) unsafe fn descend(
    root: *mut Table,
    hasher: &PathHasher,
    group: &[&str],
    at: u64,
) -> [Descent; BATCH_LOOKUPS] {
    // SAFETY: alive and unchanged by the caller's word.
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
