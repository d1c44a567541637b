//! The index: from the hash of a path to the znode.
//!
//! Owns tables and pages of the versions. A table is indexed by bits of the hash from the top: 9 in the root, 6 below.
//! Its entries lead to further tables or to pages; neighbours may share a page, told apart by fewer bits (the page's
//! `depth`). A page holds tagged pointers to znodes: an open-addressed table of 61 slots in exactly 512 bytes.
//!
//! ```text
//! root table, 512 entries        table, 64 entries         page, 61 slots
//! ├ hash bits 63..55 ──────────> ├ bits 54..49 ──────────> ├ tag: bits 15..0 │ pointer: 48 bits ┤
//! ```
//!
//! It grows by splitting the page that is full (a page alone in its entry gets a table of its own first) and never
//! moves anything else. It stays correct because nothing that was published is changed: [`insert`], [`replace`] and
//! [`remove`] first copy, once per version, every table and page on their way.

use super::object::{Stamped, check_stamp, prefetch};
use super::reclaim::Heap;
use super::znode::{Raw, path_bytes, prefetch_znode};
use std::alloc::Layout;
use std::ptr::null_mut;

/// Hash bits that the root table takes. 512 entries are one copy of 4 KiB per version, and three levels hold a
/// million znodes.
const ROOT_BITS: u32 = 9;
/// Hash bits that any other table takes.
const TABLE_BITS: u32 = 6;
/// Slots of an ordinary page: with its header it fills 512 bytes.
const PAGE_SLOTS: u32 = 61;
/// Two neighbours that together hold at most this many are merged: well below half of what splits a page, so that
/// a page at the border does not split and merge in turn.
const MERGE_SLOTS_MAX: u32 = 20;
/// Lines of the processor's cache, bytes. Ordinary pages begin on one.
const LINE_BYTES: usize = 64;

const TABLE_HEADER: usize = size_of::<Table>();
const PAGE_HEADER: usize = size_of::<Page>();
const _: () = assert!(PAGE_HEADER + PAGE_SLOTS as usize * 8 == 512);

/// Above this many a page is split: one slot in six stays free, which keeps probes short and ends them.
const fn full(capacity: u32) -> u32 {
    capacity - capacity / 6
}

/// Header of a table; `1 << bits` entries follow.
#[repr(C)]
pub(super) struct Table {
    born: u64,
    bits: u32,
    /// The index is `hash >> shift`, its lowest `bits` bits.
    shift: u32,
}

/// Header of a page; `capacity` slots follow.
#[repr(C)]
pub(super) struct Page {
    born: u64,
    capacity: u32,
    count: u32,
    /// How many of its table's index bits all its znodes have in common.
    depth: u32,
    _spare: u32,
}

// SAFETY: repr(C), `born` first, aligned to 8; `new_table` allocates with this layout.
unsafe impl Stamped for Table {
    const KIND: usize = 1;
    unsafe fn layout(this: *const Table) -> Layout {
        // SAFETY: alive by the caller's word.
        table_layout(unsafe { (*this).bits })
    }
}

// SAFETY: repr(C), `born` first, aligned to 8 at least; `new_page` allocates with this layout.
unsafe impl Stamped for Page {
    const KIND: usize = 2;
    unsafe fn layout(this: *const Page) -> Layout {
        // SAFETY: alive by the caller's word.
        page_layout(unsafe { (*this).capacity })
    }
}

fn table_layout(bits: u32) -> Layout {
    Layout::from_size_align(TABLE_HEADER + (size_of::<Entry>() << bits), 8).expect("tables are small")
}
fn page_layout(capacity: u32) -> Layout {
    let size = PAGE_HEADER + size_of::<Slot>() * capacity as usize;
    let align = if capacity == PAGE_SLOTS { LINE_BYTES } else { 8 };
    Layout::from_size_align(size, align).expect("a page is no larger than memory")
}

/// Where a table leads: its low bits tell a table, an ordinary page, or a page of another capacity.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Entry(*mut u8);

const TO_TABLE: usize = 1;
const TO_WIDE_PAGE: usize = 2;

impl Entry {
    fn to_table(table: *mut Table) -> Entry {
        Entry(table.cast::<u8>().map_addr(|address| address | TO_TABLE))
    }
    /// # Safety
    /// `page` is alive.
    unsafe fn to_page(page: *mut Page) -> Entry {
        // SAFETY: alive by the caller's word.
        let wide = unsafe { (*page).capacity } != PAGE_SLOTS;
        Entry(page.cast::<u8>().map_addr(|address| address | if wide { TO_WIDE_PAGE } else { 0 }))
    }
    #[inline(always)]
    fn table(self) -> Option<*mut Table> {
        (self.0.addr() & TO_TABLE != 0).then(|| self.0.map_addr(|address| address & !TO_TABLE).cast())
    }
    #[inline(always)]
    fn page(self) -> *mut Page {
        self.0.map_addr(|address| address & !(TO_TABLE | TO_WIDE_PAGE)).cast()
    }
    /// # Safety
    /// The page is alive.
    #[inline(always)]
    unsafe fn capacity(self) -> u32 {
        if self.0.addr() & TO_WIDE_PAGE == 0 {
            return PAGE_SLOTS;
        }
        // SAFETY: alive by the caller's word.
        unsafe { (*self.page()).capacity }
    }
}

/// A pointer to a znode with 16 bits of its hash on top; null is free.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Slot(*mut Raw);

const TAG_SHIFT: u32 = 48;

impl Slot {
    const FREE: Slot = Slot(null_mut());
    fn of(znode: *mut Raw, tag: usize) -> Slot {
        Slot(znode.map_addr(|address| address | tag << TAG_SHIFT))
    }
    fn is_free(self) -> bool {
        self.0.is_null()
    }
    fn tag(self) -> usize {
        self.0.addr() >> TAG_SHIFT
    }
    fn znode(self) -> *mut Raw {
        self.0.map_addr(|address| address & ((1 << TAG_SHIFT) - 1))
    }
}

#[inline(always)]
fn tag_of(hash: u64) -> usize {
    (hash & 0xffff) as usize
}
/// Where probing for a tag begins.
#[inline(always)]
fn home(tag: usize, capacity: u32) -> u32 {
    ((tag as u64 * u64::from(capacity)) >> 16) as u32
}

/// # Safety
/// `page` is alive, `index` below its capacity.
#[inline(always)]
unsafe fn slot(page: *mut Page, index: u32) -> *mut Slot {
    // SAFETY: slots follow the header.
    unsafe { page.cast::<u8>().add(PAGE_HEADER).cast::<Slot>().add(index as usize) }
}
/// # Safety
/// `table` is alive, `index` below `1 << bits`.
#[inline(always)]
unsafe fn entry(table: *mut Table, index: usize) -> *mut Entry {
    // SAFETY: entries follow the header.
    unsafe { table.cast::<u8>().add(TABLE_HEADER).cast::<Entry>().add(index) }
}

// ---------------------------------------------------------------------------------------------------- reading

/// A lookup on its way down; cut into steps so that many can wait for memory at the same time.
#[derive(Clone, Copy)]
pub(super) struct Descent {
    hash: u64,
    entry: Entry,
    shift: u32,
    slot: u32,
}

impl Descent {
    /// Begins at the root.
    ///
    /// # Safety
    /// `root` and everything below it stays alive while the descent is used: this holds for all its functions.
    #[inline(always)]
    pub(super) unsafe fn begin(root: *mut Table, hash: u64, at: u64) -> Descent {
        // SAFETY: alive by the caller's word; nine bits are below the root's 512.
        let entry = unsafe {
            check_stamp((*root).born, at);
            *entry(root, (hash >> (64 - ROOT_BITS)) as usize)
        };
        Descent { hash, entry, shift: 64 - ROOT_BITS, slot: 0 }
    }
    /// Asks for the line that [`Descent::down`] reads.
    #[inline(always)]
    pub(super) fn prefetch_down(&self) {
        if let Some(table) = self.entry.table() {
            let index = (self.hash >> (self.shift - TABLE_BITS)) as usize & ((1 << TABLE_BITS) - 1);
            prefetch(table.cast::<u8>().wrapping_add(TABLE_HEADER + index * size_of::<Entry>()));
        }
    }
    /// One table down; false at a page.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(super) unsafe fn down(&mut self, at: u64) -> bool {
        let Some(table) = self.entry.table() else { return false };
        self.shift -= TABLE_BITS;
        let index = (self.hash >> self.shift) as usize & ((1 << TABLE_BITS) - 1);
        // SAFETY: alive by the caller's word; below the root all tables have 64 entries. In a release build the header is
        // not touched.
        unsafe {
            if cfg!(debug_assertions) {
                check_stamp((*table).born, at);
            }
            self.entry = *entry(table, index);
        }
        true
    }
    /// At a page: asks for the line where probing begins.
    #[inline(always)]
    pub(super) fn prefetch_slots(&self) {
        let index = home(tag_of(self.hash), PAGE_SLOTS) as usize;
        prefetch(self.entry.page().cast::<u8>().wrapping_add(PAGE_HEADER + index * size_of::<Slot>()));
    }
    /// At a page: begins probing.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(super) unsafe fn arrive(&mut self, at: u64) {
        // SAFETY: alive by the caller's word.
        unsafe {
            if cfg!(debug_assertions) {
                check_stamp((*self.entry.page()).born, at);
            }
            self.slot = home(tag_of(self.hash), self.entry.capacity());
        }
    }
    /// The next znode whose tag fits.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(super) unsafe fn candidate(&mut self) -> Option<*mut Raw> {
        let (page, tag) = (self.entry.page(), tag_of(self.hash));
        // SAFETY: alive by the caller's word; the index stays below the capacity, and a page always has a free slot
        // (kept by `full`), which ends the loop.
        unsafe {
            let capacity = self.entry.capacity();
            loop {
                let found = *slot(page, self.slot);
                if found.is_free() {
                    return None;
                }
                self.slot = if self.slot + 1 == capacity { 0 } else { self.slot + 1 };
                if found.tag() == tag {
                    return Some(found.znode());
                }
            }
        }
    }
    /// The next candidate without going on, its memory asked for.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(super) unsafe fn prefetch_candidate(&self) {
        // SAFETY: by the caller's word.
        if let Some(znode) = unsafe { { *self }.candidate() } {
            prefetch_znode(znode);
        }
    }
    /// The znode with this path, from the slot where the descent stands.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(super) unsafe fn finish(&mut self, path: &[u8], at: u64) -> Option<*mut Raw> {
        // SAFETY: znodes of a version are alive with it.
        unsafe {
            while let Some(znode) = self.candidate() {
                check_stamp((*znode).born, at);
                if path_bytes(znode) == path {
                    return Some(znode);
                }
            }
        }
        None
    }
}

/// The znode with this path.
///
/// # Safety
/// `root` and everything below it is alive; `at` is its version.
#[inline]
pub(super) unsafe fn find(root: *mut Table, hash: u64, path: &[u8], at: u64) -> Option<*mut Raw> {
    // SAFETY: by the caller's word.
    unsafe {
        let mut descent = Descent::begin(root, hash, at);
        while descent.down(at) {}
        descent.arrive(at);
        descent.finish(path, at)
    }
}

// ---------------------------------------------------------------------------------------------------- writing

fn new_table(heap: &mut Heap, bits: u32, shift: u32) -> *mut Table {
    let table: *mut Table = heap.allocate(table_layout(bits));
    // SAFETY: the memory is ours and of a table's layout.
    unsafe { table.write(Table { born: heap.building(), bits, shift }) };
    table
}

fn new_page(heap: &mut Heap, capacity: u32, depth: u32) -> *mut Page {
    let page: *mut Page = heap.allocate(page_layout(capacity));
    // SAFETY: the memory is ours and of a page's layout; every slot is written.
    unsafe {
        page.write(Page { born: heap.building(), capacity, count: 0, depth, _spare: 0 });
        for index in 0..capacity {
            slot(page, index).write(Slot::FREE);
        }
    }
    page
}

/// The root of an empty index.
pub(super) fn new_root(heap: &mut Heap) -> *mut Table {
    let root = new_table(heap, ROOT_BITS, 64 - ROOT_BITS);
    let page = new_page(heap, PAGE_SLOTS, 0);
    // SAFETY: just made; every entry is written.
    unsafe { fill(root, 0, 1 << ROOT_BITS, Entry::to_page(page)) };
    root
}

/// # Safety
/// `table` is alive and the writer's alone; the range lies within it.
unsafe fn fill(table: *mut Table, start: usize, length: usize, value: Entry) {
    for index in start..start + length {
        // SAFETY: within the table by the caller's word.
        unsafe { entry(table, index).write(value) };
    }
}

/// The entries of a table that share the page at `index`.
fn sharers(index: usize, bits: u32, depth: u32) -> (usize, usize) {
    let length = 1 << (bits - depth);
    (index & !(length - 1), length)
}

/// # Safety
/// `table` is alive.
unsafe fn index_in(table: *mut Table, hash: u64) -> usize {
    // SAFETY: alive by the caller's word.
    unsafe { (hash >> (*table).shift) as usize & ((1 << (*table).bits) - 1) }
}

/// The table itself if it was born in the version being built, otherwise a copy; the caller links it.
///
/// # Safety
/// `table` is alive and part of the version being built.
unsafe fn fresh_table(heap: &mut Heap, table: *mut Table) -> *mut Table {
    // SAFETY: alive by the caller's word; the copy has the same layout; the old one leaves the version with the caller's
    // link.
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

/// Makes the page at `index` one of the version being built, and links it.
///
/// # Safety
/// `table` is alive and was born in the version being built; its entry `index` is a page.
unsafe fn fresh_page(heap: &mut Heap, table: *mut Table, index: usize) -> *mut Page {
    // SAFETY: alive by the caller's word; the copy has the same layout and takes the place of the old one in all entries
    // that share it.
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
    // SAFETY: the index stays below the capacity; a free slot ends the loop.
    unsafe {
        let capacity = (*page).capacity;
        let mut index = home(value.tag(), capacity);
        while !(*slot(page, index)).is_free() {
            index = if index + 1 == capacity { 0 } else { index + 1 };
        }
        slot(page, index).write(value);
        (*page).count += 1;
    }
}

/// The slots in use.
///
/// # Safety
/// `page` is alive while the iterator is used.
unsafe fn slots_in_use(page: *mut Page) -> impl Iterator<Item = Slot> {
    // SAFETY: alive by the caller's word; the index is below the capacity.
    let all = unsafe { (0..(*page).capacity).map(move |index| *slot(page, index)) };
    all.filter(|slot| !slot.is_free())
}

/// Makes room at `index` of `table`, one step: shares out the page, or hands it to a table of its own, or widens it.
///
/// # Safety
/// `table` is alive and was born in the version being built; its entry `index` is a page.
unsafe fn make_room(heap: &mut Heap, table: *mut Table, index: usize) {
    // SAFETY: alive by the caller's word; new objects are linked in all entries that led to the old page, which then
    // leaves the version; no half gets more than the old page had.
    unsafe {
        let page = (*entry(table, index)).page();
        let (bits, shift, depth) = ((*table).bits, (*table).shift, (*page).depth);
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
            // Every bit of the hash is used up: dozens of paths with one hash, which only an adversary who knows the
            // seed can make. It costs time, never an answer.
            let wide = new_page(heap, (*page).capacity * 2, depth);
            for slot in slots_in_use(page) {
                put(wide, slot);
            }
            entry(table, index).write(Entry::to_page(wide));
            heap.discard(page);
        }
    }
}

/// Goes down to the page for `hash`, making everything on the way part of the version being built.
///
/// # Safety
/// `root` is the root of the version being built.
unsafe fn fresh_way(heap: &mut Heap, root: &mut *mut Table, hash: u64) -> (*mut Table, usize) {
    // SAFETY: everything below the root of the version being built is alive; each copy is linked at once.
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
pub(super) unsafe fn insert(heap: &mut Heap, root: &mut *mut Table, znode: *mut Raw) {
    // SAFETY: by the caller's word; `fresh_way` gives a table of the version being built and an entry that is a page.
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
    // SAFETY: alive by the caller's word; the index stays below the capacity.
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

/// Puts `new` where `old` was; both have the same path. The caller discards `old`.
///
/// # Safety
/// `root` is the root of the version being built and holds `old`; `new` is alive.
pub(super) unsafe fn replace(heap: &mut Heap, root: &mut *mut Table, old: *mut Raw, new: *mut Raw) {
    // SAFETY: by the caller's word; the page is one of the version being built.
    unsafe {
        let hash = (*old).hash;
        let (table, index) = fresh_way(heap, root, hash);
        let page = fresh_page(heap, table, index);
        slot(page, position(page, old)).write(Slot::of(new, tag_of(hash)));
    }
}

/// Takes a znode out. The caller discards it.
///
/// # Safety
/// `root` is the root of the version being built and holds `znode`.
pub(super) unsafe fn remove(heap: &mut Heap, root: &mut *mut Table, znode: *mut Raw) {
    // SAFETY: by the caller's word.
    unsafe {
        *root = fresh_table(heap, *root);
        remove_below(heap, *root, znode);
    }
}

/// # Safety
/// `table` is alive, was born in the version being built, and `znode` is below it.
unsafe fn remove_below(heap: &mut Heap, table: *mut Table, znode: *mut Raw) {
    // SAFETY: by the caller's word; copies are linked at once, and a table that has become one page is replaced by it.
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
            // The page has just been merged or written, hence is of this version; it is alone in its new entry.
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

/// Empties a slot and moves up those behind it that probing would no longer reach.
///
/// # Safety
/// `page` is alive and was born in the version being built.
unsafe fn take(page: *mut Page, at: u32) {
    // SAFETY: indices stay below the capacity; a free slot ends the loop.
    unsafe {
        let capacity = (*page).capacity;
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

/// Joins the page at `index` with its neighbour while both together are small.
///
/// # Safety
/// `table` is alive and was born in the version being built; its entry `index` is a page.
unsafe fn merge(heap: &mut Heap, table: *mut Table, index: usize) {
    // SAFETY: by the caller's word; the new page takes the place of both in all their entries.
    unsafe {
        loop {
            let bits = (*table).bits;
            let page = (*entry(table, index)).page();
            let depth = (*page).depth;
            if depth == 0 {
                return;
            }
            let neighbour = *entry(table, index ^ (1 << (bits - depth)));
            if neighbour.table().is_some() {
                return;
            }
            let neighbour = neighbour.page();
            if (*neighbour).depth != depth || (*page).count + (*neighbour).count > MERGE_SLOTS_MAX {
                return;
            }
            let joined = new_page(heap, PAGE_SLOTS, depth - 1);
            for slot in slots_in_use(page).chain(slots_in_use(neighbour)) {
                put(joined, slot);
            }
            let (start, length) = sharers(index, bits, depth - 1);
            fill(table, start, length, Entry::to_page(joined));
            heap.discard(page);
            heap.discard(neighbour);
        }
    }
}

// ---------------------------------------------------------------------------------------------------- the end

/// Gives each table, page and znode below `root` to `visit`, once, after everything below it.
///
/// # Safety
/// `root` and everything below it is alive; `visit` may free what it is given.
pub(super) unsafe fn dismantle(root: *mut Table, visit: &mut dyn FnMut(Part)) {
    // SAFETY: by the caller's word; headers are read before their object is given away.
    unsafe {
        let (bits, mut index) = ((*root).bits, 0);
        while index < 1 << bits {
            let next = *entry(root, index);
            if let Some(table) = next.table() {
                dismantle(table, visit);
                index += 1;
            } else {
                let page = next.page();
                index += 1 << (bits - (*page).depth);
                for slot in slots_in_use(page) {
                    visit(Part::Znode(slot.znode()));
                }
                visit(Part::Page(page));
            }
        }
        visit(Part::Table(root));
    }
}

/// What [`dismantle`] meets.
pub(super) enum Part {
    /// A table.
    Table(*mut Table),
    /// A page.
    Page(*mut Page),
    /// A znode.
    Znode(*mut Raw),
}
