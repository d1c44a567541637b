//! Heap of the tree: which version is being built, what each version retired, and what may be freed.
//!
//! Owns every object from its allocation to its freeing. An object carries the version in which it was
//! born. One born in the version being built belongs to the writer alone and changes in place. Any other is
//! copied, and the old copy is retired with (born, retired).
//!
//! Never reads the readers' epochs: the writer passes the lowest one.
//!
//! Correct because:
//! - Readers see published versions only. An object born after the newest published version is freed when
//!   the writer discards it, unless a savepoint may restore it.
//! - Any other object goes through the retire list, in the order of retirement. It is freed once
//!   `retired <= lowest` (see `epochs`) and no hold has a version in `[born, retired)`.
//! - Freeing is spread over calls. The end of a hold, or of a reader's long lag, makes millions of objects
//!   free at once. Freeing them in one call would stop the writer. Each call frees some more than was
//!   retired since the last one.
//! - A savepoint raises the number of the version being built, so everything older is copied before it
//!   changes. A rollback drops what was born since and restores the old root.

use super::arena::Arena;
use super::epochs::Release;
#[cfg(debug_assertions)]
use super::object::POISON;
use super::object::{Object, Stamped};
use std::alloc::Layout;
use std::collections::VecDeque;
use std::sync::Arc;

/// Freed objects that a debug build keeps, poisoned. Enough that a stale reader meets poison rather than
/// reused memory. Bounded by 4096 × the largest inline znode (17 KiB).
#[cfg(debug_assertions)]
const QUARANTINE_OBJECTS_MAX: usize = 4096;

/// Objects that one call frees, besides twice as many as were retired since the last call. Each may miss
/// the caches a few times, so this is about half a millisecond.
pub(super) const FREED_AT_ONCE: usize = 1024;

#[derive(Clone, Copy)]
struct Retired {
    object: Object,
    born: u64,
    retired: u64,
    /// `Object::bytes` at retirement, so that counting touches no cold object.
    bytes: u64,
}

struct Hold {
    version: u64,
    release: Arc<Release>,
    /// Retired objects that no reader sees any more, kept for this hold.
    kept: Vec<Retired>,
    kept_bytes: u64,
}

struct Savepoint {
    building: u64,
    retired: usize,
}

/// All objects of one tree, live and retired. See the module.
#[derive(Default)]
pub(super) struct Heap {
    arena: Arena,
    building: u64,
    published: u64,
    retired: VecDeque<Retired>,
    retired_bytes: u64,
    /// Objects retired since the last [`Heap::reclaim`].
    retired_lately: usize,
    holds: Vec<Hold>,
    /// Objects that ended holds kept, until they are freed. Bounded by what one hold may keep: this list
    /// shrinks faster than the next hold's grows.
    let_go: Vec<Vec<Retired>>,
    /// The last [`Heap::reclaim`] reached its limit and may have left objects that can be freed.
    has_more: bool,
    savepoint: Option<Savepoint>,
    /// Objects allocated since the savepoint.
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
    /// Bytes retired and not freed, without the objects of ended holds that only wait for their turn.
    pub(super) fn retired_bytes(&self) -> u64 {
        self.retired_bytes
    }

    /// Allocates an object; only its birth stamp is written.
    pub(super) fn allocate<T: Stamped>(&mut self, layout: Layout) -> *mut T {
        assert!(layout.size() >= size_of::<u64>());
        let memory = self.arena.allocate(layout);
        // SAFETY: the arena just gave this memory, at least 8 bytes by the assertion above. `Stamped` types
        // are aligned to 8 and begin with the stamp.
        unsafe { memory.cast::<u64>().write(self.building) };
        if self.savepoint.is_some() {
            self.allocated.push(Object::of(memory.cast::<T>()));
        }
        memory.cast()
    }

    /// Retires or frees an object that the version being built no longer contains.
    ///
    /// # Safety
    /// The object is alive, came from this heap, and is reachable from no version still to be published.
    pub(super) unsafe fn discard<T: Stamped>(&mut self, object: *mut T) {
        // SAFETY: the caller keeps the object alive, and `Stamped` types begin with the stamp.
        let born = unsafe { object.cast::<u64>().read() };
        debug_assert!(born <= self.building, "discarded twice, or not of this heap: stamped {born:#x}");
        let object = Object::of(object);
        if self.savepoint.is_none() && born > self.published {
            // SAFETY: born after the newest published version, so no reader and no hold ever saw it. The
            // caller keeps it off every version to come, and there is no savepoint to return to.
            unsafe { self.free(object) };
            return;
        }
        debug_assert!(
            self.retired.back().is_none_or(|last| last.retired <= self.building),
            "the list is in the order of retirement"
        );
        // SAFETY: the caller keeps the object alive.
        let bytes = unsafe { object.bytes() };
        self.retired_bytes += bytes;
        self.retired_lately += 1;
        self.retired.push_back(Retired { object, born, retired: self.building, bytes });
    }

    /// Opens a savepoint: from here every object is copied before it changes. Panics if one is open.
    pub(super) fn savepoint(&mut self) {
        assert!(self.savepoint.is_none(), "savepoints do not nest");
        debug_assert!(self.allocated.is_empty(), "left over from an earlier savepoint");
        self.savepoint = Some(Savepoint { building: self.building, retired: self.retired.len() });
        self.building += 1;
    }

    /// Undoes everything since the savepoint. The caller restores its old root.
    pub(super) fn rollback(&mut self) {
        let savepoint = self.savepoint.take().expect("rollback without a savepoint");
        debug_assert!(savepoint.retired <= self.retired.len(), "something was freed inside the savepoint");
        for entry in self.retired.drain(savepoint.retired..) {
            self.retired_bytes -= entry.bytes;
        }
        for object in std::mem::take(&mut self.allocated) {
            // SAFETY: allocated since the savepoint, so reachable only from the root that the caller drops
            // (`Writer::rollback`). Nothing was freed while the savepoint was open (`discard`), so it is
            // freed once.
            unsafe { self.free(object) };
        }
        self.building = savepoint.building;
        debug_assert!(self.building > self.published, "the version being built is not published");
    }

    /// Closes the savepoint and keeps what was done since.
    pub(super) fn release(&mut self) {
        let savepoint = self.savepoint.take().expect("release without a savepoint");
        debug_assert!(savepoint.retired <= self.retired.len(), "something was freed inside the savepoint");
        self.allocated.clear();
        let mut index = savepoint.retired;
        let mut kept = index;
        while index < self.retired.len() {
            let entry = self.retired[index];
            index += 1;
            if entry.born > self.published {
                self.retired_bytes -= entry.bytes;
                // SAFETY: a retired object is alive and in no version to come. It was born after the newest
                // published version, so no reader and no hold saw it. It leaves the list here.
                unsafe { self.free(entry.object) };
            } else {
                self.retired[kept] = entry;
                kept += 1;
            }
        }
        self.retired.truncate(kept);
    }

    /// Ends the version and returns its number.
    pub(super) fn publish(&mut self) -> u64 {
        assert!(self.savepoint.is_none(), "publish inside a savepoint");
        debug_assert!(self.building > self.published, "version numbers grow");
        self.published = self.building;
        self.building += 1;
        self.published
    }

    /// Keeps the newest published version until `release` is set.
    pub(super) fn hold(&mut self, release: Arc<Release>) {
        self.holds.push(Hold { version: self.published, release, kept: Vec::new(), kept_bytes: 0 });
    }

    /// Frees objects that no reader and no hold can see, up to the limit of one call.
    ///
    /// # Safety
    /// `lowest` comes from [`super::epochs::ReaderEpochs::lowest`] of this tree.
    pub(super) unsafe fn reclaim(&mut self, lowest: u64) {
        assert!(self.savepoint.is_none(), "reclaim inside a savepoint");
        debug_assert!(lowest <= self.published, "{lowest} is not published");
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
            // SAFETY: `retired <= lowest`, and the caller took `lowest` from the readers' epochs: no reader
            // sees the object.
            unsafe { self.free_unless_held(entry) };
        }
        while left > 0
            && let Some(kept) = self.let_go.last_mut()
        {
            match kept.pop() {
                // SAFETY: no reader saw it when a hold kept it, and readers only move up.
                Some(entry) => unsafe { self.free_unless_held(entry) },
                None => drop(self.let_go.pop()),
            }
            left -= 1;
        }
        self.has_more = left == 0;
        debug_assert!(
            self.retired_bytes == 0 || !self.retired.is_empty() || !self.holds.is_empty(),
            "bytes are counted that no reader and no hold keeps"
        );
    }

    /// Whether another [`Heap::reclaim`] might free more although no reader moved meanwhile.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Frees a retired object, or gives it to a hold that can see it. The caller has subtracted its bytes
    /// from `retired_bytes`; a hold that keeps it adds them again.
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
            // SAFETY: a retired object is alive and in no version to come. The caller excludes readers; the
            // search above excludes holds.
            None => unsafe { self.free(entry.object) },
        }
    }

    /// # Safety
    /// The object is alive, no reader, hold or version to come can reach it, and it is freed once.
    pub(super) unsafe fn free(&mut self, object: Object) {
        // SAFETY: the caller keeps it alive until the end of this function and uses it no more. Every
        // object begins with its stamp.
        let layout = unsafe {
            #[cfg(debug_assertions)]
            assert_ne!(object.address().cast::<u64>().read(), POISON, "freed twice");
            let layout = object.layout();
            object.drop_fields();
            layout
        };
        let memory = object.address();
        #[cfg(debug_assertions)]
        {
            // SAFETY: the caller passed the whole allocation to this function, and `layout` is its size.
            unsafe { memory.write_bytes(POISON as u8, layout.size()) };
            self.quarantine.push_back((memory, layout));
            if self.quarantine.len() > QUARANTINE_OBJECTS_MAX {
                self.empty_quarantine_to(QUARANTINE_OBJECTS_MAX);
            }
        }
        #[cfg(not(debug_assertions))]
        // SAFETY: the arena allocated it with this layout (`Stamped::layout` gives the same one), and the
        // caller frees it once.
        unsafe {
            self.arena.free(memory, layout)
        };
    }

    #[cfg(debug_assertions)]
    fn empty_quarantine_to(&mut self, length: usize) {
        while self.quarantine.len() > length {
            let (memory, layout) = self.quarantine.pop_front().expect("it is longer than that");
            // SAFETY: `free` put it here once, with its layout, and nothing else frees it.
            unsafe { self.arena.free(memory, layout) };
        }
    }

    /// Frees everything that is retired, at the end of the tree.
    ///
    /// # Safety
    /// There is no reader and no hold any more.
    pub(super) unsafe fn free_retired(&mut self) {
        let kept = std::mem::take(&mut self.holds).into_iter().flat_map(|hold| hold.kept);
        let let_go = std::mem::take(&mut self.let_go).into_iter().flatten();
        for entry in std::mem::take(&mut self.retired).into_iter().chain(kept).chain(let_go) {
            // SAFETY: retired objects are alive and each is in one list once. The caller guarantees that no
            // reader and no hold is left.
            unsafe { self.free(entry.object) };
        }
        #[cfg(debug_assertions)]
        self.empty_quarantine_to(0);
    }
}
