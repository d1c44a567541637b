//! The heap of the tree: which version is being built, what was retired when, and what may be freed.
//!
//! Owns every object from its allocation to its freeing. Never reads the standings itself: the writer brings the
//! lowest one. An object carries the version in which it was born; one that was born in the version being built is
//! the writer's alone and changes in place, any other is copied, and the old copy retired with (born, retired).
//!
//! Why it stays correct:
//! - Readers see published versions only. An object that was born after the newest published version is freed as
//!   soon as the writer drops it, unless a savepoint may still bring it back.
//! - Otherwise it goes through the retire list, in the order of retirement, and is freed when `retired <= lowest`
//!   (see `epochs`) and no hold stands in `[born, retired)`.
//! - Freeing is spread: a hold that ends, or a reader that was far behind, lets go of millions of objects at once, and to touch
//!   them all would stop the writer for as long. Each call frees some more than was retired since the last one.
//! - A savepoint raises the number of the version being built, so everything older is copied before it changes:
//!   rolling back is dropping what was born since and taking the old root again.

use super::arena::Arena;
use super::epochs::Release;
#[cfg(debug_assertions)]
use super::object::POISON;
use super::object::{Object, Stamped};
use std::alloc::Layout;
use std::collections::VecDeque;
use std::sync::Arc;

/// Freed objects that a debug build keeps, poisoned. Enough that a stale reader meets poison rather than reused
/// memory, and bounded by 4096 × the largest inline znode (17 KiB).
#[cfg(debug_assertions)]
const QUARANTINE_OBJECTS_MAX: usize = 4096;

/// Objects freed by one call beside twice as many as were retired since the last one: each may miss the caches a few times, so this
/// is about half a millisecond.
pub(super) const FREED_AT_ONCE: usize = 1024;

#[derive(Clone, Copy)]
struct Retired {
    object: Object,
    born: u64,
    retired: u64,
    /// So that nobody has to look at it until it is freed.
    bytes: u64,
}

struct Hold {
    version: u64,
    release: Arc<Release>,
    /// Passed the readers' rule, kept for this hold.
    kept: Vec<Retired>,
    kept_bytes: u64,
}

struct Savepoint {
    building: u64,
    retired: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct Heap {
    arena: Arena,
    building: u64,
    published: u64,
    retired: VecDeque<Retired>,
    retired_bytes: u64,
    /// Retired since the last [`Heap::reclaim`].
    retired_lately: usize,
    holds: Vec<Hold>,
    /// What holds kept that have ended, until it is freed. Bounded by what a hold may keep: it shrinks faster than the next
    /// one's grows.
    let_go: Vec<Vec<Retired>>,
    /// The last [`Heap::reclaim`] left something that might be freed.
    has_more: bool,
    savepoint: Option<Savepoint>,
    /// Everything allocated since the savepoint.
    allocated: Vec<Object>,
    #[cfg(debug_assertions)]
    quarantine: VecDeque<(*mut u8, Layout)>,
}

impl Heap {
    /// A heap that builds version 1.
    pub(super) fn new() -> Heap {
        Heap { building: 1, ..Heap::default() }
    }
    /// The number of the version being built.
    #[inline]
    pub(super) fn building(&self) -> u64 {
        self.building
    }
    /// The newest published version.
    pub(super) fn published(&self) -> u64 {
        self.published
    }
    /// Whether a savepoint is open.
    pub(super) fn in_savepoint(&self) -> bool {
        self.savepoint.is_some()
    }
    /// Bytes retired and not freed, but for those that only wait for their turn since a hold has ended.
    pub(super) fn retired_bytes(&self) -> u64 {
        self.retired_bytes
    }

    /// Allocates an object; only its birth stamp is written.
    pub(super) fn allocate<T: Stamped>(&mut self, layout: Layout) -> *mut T {
        assert!(layout.size() >= size_of::<u64>());
        let memory = self.arena.allocate(layout);
        // SAFETY: the memory is ours, at least 8 bytes, and `Stamped` types are aligned to 8 and begin with the stamp.
        unsafe { memory.cast::<u64>().write(self.building) };
        if self.savepoint.is_some() {
            self.allocated.push(Object::of(memory.cast::<T>()));
        }
        memory.cast()
    }

    /// The writer's current version no longer contains the object.
    ///
    /// # Safety
    /// The object is alive, came from this heap, and is reachable from no version still to be published.
    pub(super) unsafe fn discard<T: Stamped>(&mut self, object: *mut T) {
        // SAFETY: alive; `Stamped` types begin with the stamp.
        let born = unsafe { object.cast::<u64>().read() };
        let object = Object::of(object);
        if self.savepoint.is_none() && born > self.published {
            // SAFETY: born after the newest published version, so no reader and no hold ever saw it, and there is no
            // savepoint to return to.
            unsafe { self.free(object) };
            return;
        }
        // SAFETY: alive.
        let bytes = unsafe { object.bytes() };
        self.retired_bytes += bytes;
        self.retired_lately += 1;
        self.retired.push_back(Retired { object, born, retired: self.building, bytes });
    }

    /// Opens a savepoint: from here everything is copied before it changes.
    pub(super) fn savepoint(&mut self) {
        assert!(self.savepoint.is_none(), "savepoints do not nest");
        self.savepoint = Some(Savepoint { building: self.building, retired: self.retired.len() });
        self.building += 1;
    }

    /// Back to the savepoint. The caller takes its old root again.
    pub(super) fn rollback(&mut self) {
        let savepoint = self.savepoint.take().expect("rollback without a savepoint");
        for entry in self.retired.drain(savepoint.retired..) {
            self.retired_bytes -= entry.bytes;
        }
        for object in std::mem::take(&mut self.allocated) {
            // SAFETY: allocated since the savepoint and therefore reachable only from the root that the caller gives
            // up; while the savepoint was open nothing was freed.
            unsafe { self.free(object) };
        }
        self.building = savepoint.building;
    }

    /// Keeps what was done since the savepoint.
    pub(super) fn release(&mut self) {
        let savepoint = self.savepoint.take().expect("release without a savepoint");
        self.allocated.clear();
        let mut index = savepoint.retired;
        let mut kept = index;
        while index < self.retired.len() {
            let entry = self.retired[index];
            index += 1;
            if entry.born > self.published {
                self.retired_bytes -= entry.bytes;
                // SAFETY: retired, hence alive and off every version to come; born after the newest published
                // version, so nobody else ever saw it.
                unsafe { self.free(entry.object) };
            } else {
                self.retired[kept] = entry;
                kept += 1;
            }
        }
        self.retired.truncate(kept);
    }

    /// Ends the version and gives its number.
    pub(super) fn publish(&mut self) -> u64 {
        assert!(self.savepoint.is_none(), "publish inside a savepoint");
        self.published = self.building;
        self.building += 1;
        self.published
    }

    /// Holds the newest published version until `release` is given up.
    pub(super) fn hold(&mut self, release: Arc<Release>) {
        self.holds.push(Hold { version: self.published, release, kept: Vec::new(), kept_bytes: 0 });
    }

    /// Frees what nobody can see, or some of it.
    ///
    /// # Safety
    /// `lowest` comes from `ReaderEpochs::lowest` of this tree.
    pub(super) unsafe fn reclaim(&mut self, lowest: u64) {
        assert!(self.savepoint.is_none(), "reclaim inside a savepoint");
        let mut index = 0;
        while index < self.holds.len() {
            if self.holds[index].release.is_given_up() {
                let hold = self.holds.swap_remove(index);
                self.retired_bytes -= hold.kept_bytes;
                self.let_go.push(hold.kept);
            } else {
                index += 1;
            }
        }
        let mut left = FREED_AT_ONCE + 2 * std::mem::take(&mut self.retired_lately);
        while left > 0
            && let Some(entry) = self.retired.pop_front_if(|entry| entry.retired <= lowest)
        {
            left -= 1;
            self.retired_bytes -= entry.bytes;
            // SAFETY: `retired <= lowest`: no reader sees it (see `epochs`).
            unsafe { self.free_unless_held(entry) };
        }
        while left > 0
            && let Some(kept) = self.let_go.last_mut()
        {
            match kept.pop() {
                // SAFETY: it had passed the readers' rule before it was kept.
                Some(entry) => unsafe { self.free_unless_held(entry) },
                None => drop(self.let_go.pop()),
            }
            left -= 1;
        }
        self.has_more = left == 0;
    }

    /// Whether another [`Heap::reclaim`] might free more, though nobody moved meanwhile.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Not counted in `retired_bytes` when it comes, and again if a hold keeps it.
    ///
    /// # Safety
    /// No reader sees the object.
    unsafe fn free_unless_held(&mut self, entry: Retired) {
        let in_the_way = |hold: &&mut Hold| entry.born <= hold.version && hold.version < entry.retired;
        match self.holds.iter_mut().find(in_the_way) {
            Some(hold) => {
                self.retired_bytes += entry.bytes;
                hold.kept_bytes += entry.bytes;
                hold.kept.push(entry);
            }
            // SAFETY: retired, hence alive and in no version to come; no reader sees it by the caller's word, no hold by
            // the search above.
            None => unsafe { self.free(entry.object) },
        }
    }

    /// # Safety
    /// The object is alive and reachable by nobody; it is freed once.
    pub(super) unsafe fn free(&mut self, object: Object) {
        // SAFETY: alive by the caller's word, until the end of this function.
        let layout = unsafe {
            let layout = object.layout();
            object.drop_fields();
            layout
        };
        let memory = object.address();
        #[cfg(debug_assertions)]
        {
            // SAFETY: the whole allocation is ours now.
            unsafe { memory.write_bytes(POISON as u8, layout.size()) };
            self.quarantine.push_back((memory, layout));
            if self.quarantine.len() > QUARANTINE_OBJECTS_MAX {
                self.empty_quarantine_to(QUARANTINE_OBJECTS_MAX);
            }
        }
        #[cfg(not(debug_assertions))]
        // SAFETY: allocated with this layout (kept by `Stamped::layout`).
        unsafe {
            self.arena.free(memory, layout)
        };
    }

    #[cfg(debug_assertions)]
    fn empty_quarantine_to(&mut self, length: usize) {
        while self.quarantine.len() > length {
            let (memory, layout) = self.quarantine.pop_front().expect("it is longer than that");
            // SAFETY: freed by `free`, whose layout was put beside it, and in the quarantine once.
            unsafe { self.arena.free(memory, layout) };
        }
    }

    /// Frees all that is retired. The end of the tree.
    ///
    /// # Safety
    /// There is no reader and no hold any more.
    pub(super) unsafe fn free_retired(&mut self) {
        let kept = std::mem::take(&mut self.holds).into_iter().flat_map(|hold| hold.kept);
        let let_go = std::mem::take(&mut self.let_go).into_iter().flatten();
        for entry in std::mem::take(&mut self.retired).into_iter().chain(kept).chain(let_go) {
            // SAFETY: retired objects are alive, each is in one list once, and nobody is left to see them.
            unsafe { self.free(entry.object) };
        }
        #[cfg(debug_assertions)]
        self.empty_quarantine_to(0);
    }
}
