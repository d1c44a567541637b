//! Changes to the index of the version being built.
//!
//! Owns how the index grows and shrinks. A full page splits, and two nearly empty buddies merge. A table
//! whose znodes fit one page becomes that page again.
//!
//! Never changes what was published.
//!
//! Correct because every table and page on the way to a change is first made part of the version being
//! built ([`fresh_way`]).

use super::{Entry, PAGE_SLOTS, Page, ROOT_BITS, Slot, TABLE_BITS, Table};
use super::{entry, full, home, page_layout, slot, slots_in_use, table_layout, tag_of};
use crate::tree::object::prefetch;
use crate::tree::reclaim::Heap;
use crate::tree::znode::Raw;

/// Two buddy pages that together hold at most this many znodes merge. Well below half of what splits a
/// page, so that a page at the border does not split and merge in turn.
const MERGE_SLOTS_MAX: u32 = 20;

fn new_table(heap: &mut Heap, bits: u32, shift: u32) -> *mut Table {
    let table: *mut Table = heap.allocate(table_layout(bits));
    // SAFETY: the heap just gave memory of a table's layout.
    unsafe { table.write(Table { born: heap.building(), bits, shift }) };
    table
}

fn new_page(heap: &mut Heap, capacity: u32, depth: u32) -> *mut Page {
    let page: *mut Page = heap.allocate(page_layout(capacity));
    // SAFETY: the heap just gave memory of a page's layout, and every slot is written.
    unsafe {
        page.write(Page { born: heap.building(), capacity, count: 0, depth, _spare: 0 });
        for index in 0..capacity {
            slot(page, index).write(Slot::FREE);
        }
    }
    page
}

/// Makes the root of an empty index.
pub(in crate::tree) fn new_root(heap: &mut Heap) -> *mut Table {
    let root = new_table(heap, ROOT_BITS, 64 - ROOT_BITS);
    let page = new_page(heap, PAGE_SLOTS, 0);
    // SAFETY: both objects were just made, and every entry is written.
    unsafe { fill(root, 0, 1 << ROOT_BITS, Entry::to_page(page)) };
    root
}

/// # Safety
/// `table` is alive and no reader sees it; the range lies within it.
unsafe fn fill(table: *mut Table, start: usize, length: usize, value: Entry) {
    // SAFETY: the caller keeps `table` alive.
    debug_assert!(start + length <= 1 << unsafe { (*table).bits }, "the range lies within the table");
    for index in start..start + length {
        // SAFETY: the caller keeps the range within the table, which no reader sees.
        unsafe { entry(table, index).write(value) };
    }
}

/// Range of a table's entries that share the page at `index`: start and length.
fn sharers(index: usize, bits: u32, depth: u32) -> (usize, usize) {
    let length = 1 << (bits - depth);
    (index & !(length - 1), length)
}

/// # Safety
/// `table` is alive.
unsafe fn index_in(table: *mut Table, hash: u64) -> usize {
    // SAFETY: the caller keeps `table` alive.
    unsafe { (hash >> (*table).shift) as usize & ((1 << (*table).bits) - 1) }
}

/// Returns the table itself if it was born in the version being built, otherwise a copy, which the caller
/// links.
///
/// # Safety
/// `table` is alive and part of the version being built.
unsafe fn fresh_table(heap: &mut Heap, table: *mut Table) -> *mut Table {
    // SAFETY: the caller keeps `table` alive, and the copy has the same layout. The caller links the copy
    // at once, and with that the old table leaves the version.
    unsafe {
        if (*table).born == heap.building() {
            return table;
        }
        let copy = new_table(heap, (*table).bits, (*table).shift);
        entry(copy, 0).copy_from_nonoverlapping(entry(table, 0), 1 << (*table).bits);
        heap.discard(table);
        copy
    }
}

/// Returns the page at `index`, first replaced by a copy unless it was born in the version being built.
///
/// # Safety
/// `table` is alive and was born in the version being built; its entry `index` is a page.
unsafe fn fresh_page(heap: &mut Heap, table: *mut Table, index: usize) -> *mut Page {
    // SAFETY: the caller keeps `table` alive and writable. The copy has the same layout and replaces the
    // old page in all entries that share it.
    unsafe {
        let page = (*entry(table, index)).page();
        if (*page).born == heap.building() {
            return page;
        }
        let layout = page_layout((*page).capacity);
        let copy: *mut Page = heap.allocate(layout);
        copy.cast::<u8>().copy_from_nonoverlapping(page.cast::<u8>(), layout.size());
        (*copy).born = heap.building();
        let (start, length) = sharers(index, (*table).bits, (*page).depth);
        fill(table, start, length, Entry::to_page(copy));
        heap.discard(page);
        copy
    }
}

/// # Safety
/// `page` is alive, was born in the version being built and is not full.
unsafe fn put(page: *mut Page, value: Slot) {
    // SAFETY: the caller passes a live page that no reader sees and that is not full. The index stays below
    // its capacity, and a free slot ends the loop.
    unsafe {
        let capacity = (*page).capacity;
        debug_assert!((*page).count < full(capacity), "a page keeps free slots, which end each probe");
        let mut index = home(value.tag(), capacity);
        while !(*slot(page, index)).is_free() {
            index = if index + 1 == capacity { 0 } else { index + 1 };
        }
        slot(page, index).write(value);
        (*page).count += 1;
    }
}

/// Makes room at `index` of `table`, one step: splits the page, or gives it a table of its own, or widens
/// it.
///
/// # Safety
/// `table` is alive and was born in the version being built; its entry `index` is a page.
unsafe fn make_room(heap: &mut Heap, table: *mut Table, index: usize) {
    // SAFETY: the caller keeps `table` alive and writable. New objects are linked in all entries that led
    // to the old page, which then leaves the version. No half gets more than the old page had.
    unsafe {
        let page = (*entry(table, index)).page();
        let (bits, shift, depth) = ((*table).bits, (*table).shift, (*page).depth);
        debug_assert!((*page).count >= full((*page).capacity), "the page has room");
        if depth < bits {
            for slot in slots_in_use(page) {
                prefetch(slot.znode());
            }
            let (start, length) = sharers(index, bits, depth);
            let capacity = (*page).capacity;
            let halves = [new_page(heap, capacity, depth + 1), new_page(heap, capacity, depth + 1)];
            let bit = shift + bits - depth - 1;
            for slot in slots_in_use(page) {
                put(halves[((*slot.znode()).hash >> bit) as usize & 1], slot);
            }
            fill(table, start, length / 2, Entry::to_page(halves[0]));
            fill(table, start + length / 2, length / 2, Entry::to_page(halves[1]));
            heap.discard(page);
        } else if shift >= TABLE_BITS {
            let page = fresh_page(heap, table, index);
            (*page).depth = 0;
            let child = new_table(heap, TABLE_BITS, shift - TABLE_BITS);
            fill(child, 0, 1 << TABLE_BITS, Entry::to_page(page));
            entry(table, index).write(Entry::to_table(child));
        } else {
            // Every bit of the hash is used up: dozens of paths with one hash, which only a client that
            // knows the seed can make. The page costs time then, never a wrong answer.
            let wide = new_page(heap, (*page).capacity * 2, depth);
            for slot in slots_in_use(page) {
                put(wide, slot);
            }
            entry(table, index).write(Entry::to_page(wide));
            heap.discard(page);
        }
    }
}

/// Goes down to the page for `hash` and copies every table on the way into the version being built.
///
/// # Safety
/// `root` is the root of the version being built.
unsafe fn fresh_way(heap: &mut Heap, root: &mut *mut Table, hash: u64) -> (*mut Table, usize) {
    // SAFETY: the caller passes the root of the version being built, and everything below it is alive. Each
    // copy is linked at once.
    unsafe {
        *root = fresh_table(heap, *root);
        let mut table = *root;
        loop {
            let index = index_in(table, hash);
            let Some(child) = (*entry(table, index)).table() else { return (table, index) };
            let fresh = fresh_table(heap, child);
            entry(table, index).write(Entry::to_table(fresh));
            table = fresh;
        }
    }
}

/// Adds a znode whose path is not there.
///
/// # Safety
/// `root` is the root of the version being built, `znode` is alive.
pub(in crate::tree) unsafe fn insert(heap: &mut Heap, root: &mut *mut Table, znode: *mut Raw) {
    // SAFETY: the caller passes the root of the version being built and a live znode. `fresh_way` returns a
    // table of that version and the index of an entry that is a page.
    unsafe {
        let hash = (*znode).hash;
        loop {
            let (table, index) = fresh_way(heap, root, hash);
            let page = (*entry(table, index)).page();
            if (*page).count < full((*page).capacity) {
                put(fresh_page(heap, table, index), Slot::of(znode, tag_of(hash)));
                return;
            }
            make_room(heap, table, index);
        }
    }
}

/// # Safety
/// `page` is alive and holds `znode`.
unsafe fn position(page: *mut Page, znode: *mut Raw) -> u32 {
    // SAFETY: the caller keeps `page` alive, and the index stays below its capacity.
    unsafe {
        let (tag, capacity) = (tag_of((*znode).hash), (*page).capacity);
        let mut index = home(tag, capacity);
        while (*slot(page, index)).znode() != znode {
            debug_assert!(!(*slot(page, index)).is_free(), "the index does not hold the znode");
            index = if index + 1 == capacity { 0 } else { index + 1 };
        }
        index
    }
}

/// Replaces `old` by `new`, which has the same path. The caller discards `old`.
///
/// # Safety
/// `root` is the root of the version being built and holds `old`; `new` is alive.
pub(in crate::tree) unsafe fn replace(heap: &mut Heap, root: &mut *mut Table, old: *mut Raw, new: *mut Raw) {
    // SAFETY: the caller passes the root of the version being built, which holds `old`. `fresh_page`
    // returns a page of that version.
    unsafe {
        let hash = (*old).hash;
        let (table, index) = fresh_way(heap, root, hash);
        let page = fresh_page(heap, table, index);
        slot(page, position(page, old)).write(Slot::of(new, tag_of(hash)));
    }
}

/// Removes a znode. The caller discards it.
///
/// # Safety
/// `root` is the root of the version being built and holds `znode`.
pub(in crate::tree) unsafe fn remove(heap: &mut Heap, root: &mut *mut Table, znode: *mut Raw) {
    // SAFETY: the caller passes the root of the version being built, which holds `znode`.
    unsafe {
        *root = fresh_table(heap, *root);
        remove_below(heap, *root, znode);
    }
}

/// # Safety
/// `table` is alive, was born in the version being built, and `znode` is below it.
unsafe fn remove_below(heap: &mut Heap, table: *mut Table, znode: *mut Raw) {
    // SAFETY: the caller passes a live table of the version being built with `znode` below it. Copies are
    // linked at once, and one page replaces a table that it fills alone.
    unsafe {
        let index = index_in(table, (*znode).hash);
        if let Some(child) = (*entry(table, index)).table() {
            let child = fresh_table(heap, child);
            entry(table, index).write(Entry::to_table(child));
            remove_below(heap, child, znode);
            let first = *entry(child, 0);
            if first.table().is_some() || (*first.page()).depth != 0 {
                return;
            }
            // `merge` or `take` has just written the page, so it is of this version. It has an entry of its
            // own now.
            let page = fresh_page(heap, child, 0);
            (*page).depth = (*table).bits;
            entry(table, index).write(Entry::to_page(page));
            heap.discard(child);
        } else {
            let page = fresh_page(heap, table, index);
            take(page, position(page, znode));
        }
        merge(heap, table, index);
    }
}

/// Empties a slot and moves back the later ones that a probe would no longer reach.
///
/// # Safety
/// `page` is alive and was born in the version being built.
unsafe fn take(page: *mut Page, at: u32) {
    // SAFETY: the caller passes a live page that no reader sees. Indices stay below its capacity, and a
    // free slot ends the loop.
    unsafe {
        let capacity = (*page).capacity;
        debug_assert!(!(*slot(page, at)).is_free(), "the slot to empty holds a znode");
        let distance = |from: u32, to: u32| if to >= from { to - from } else { to + capacity - from };
        let mut hole = at;
        let mut index = at;
        loop {
            index = if index + 1 == capacity { 0 } else { index + 1 };
            let next = *slot(page, index);
            if next.is_free() {
                break;
            }
            if distance(home(next.tag(), capacity), index) >= distance(hole, index) {
                slot(page, hole).write(next);
                hole = index;
            }
        }
        slot(page, hole).write(Slot::FREE);
        (*page).count -= 1;
    }
}

/// Merges the page at `index` with its buddy while both together are small.
///
/// # Safety
/// `table` is alive and was born in the version being built; its entry `index` is a page.
unsafe fn merge(heap: &mut Heap, table: *mut Table, index: usize) {
    // SAFETY: the caller passes a live table of the version being built. The new page replaces both in all
    // their entries.
    unsafe {
        loop {
            let bits = (*table).bits;
            let page = (*entry(table, index)).page();
            let depth = (*page).depth;
            if depth == 0 {
                return;
            }
            let buddy = *entry(table, index ^ (1 << (bits - depth)));
            if buddy.table().is_some() {
                return;
            }
            let buddy = buddy.page();
            if (*buddy).depth != depth || (*page).count + (*buddy).count > MERGE_SLOTS_MAX {
                return;
            }
            let joined = new_page(heap, PAGE_SLOTS, depth - 1);
            for slot in slots_in_use(page).chain(slots_in_use(buddy)) {
                put(joined, slot);
            }
            debug_assert_eq!((*joined).count, (*page).count + (*buddy).count, "a znode was lost");
            let (start, length) = sharers(index, bits, depth - 1);
            fill(table, start, length, Entry::to_page(joined));
            heap.discard(page);
            heap.discard(buddy);
        }
    }
}
