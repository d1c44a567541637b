//! Index: from the hash of a path to the znode.
//!
//! Owns tables and pages of the versions. A table is indexed by bits of the hash from the top: 9 in the
//! root, 6 below. Its entries lead to further tables or to pages. Adjacent entries may share a page, told
//! apart by fewer bits (the page's `depth`). A page holds tagged pointers to znodes: an open-addressed
//! table of 61 slots in exactly 512 bytes.
//!
//! ```text
//! root table, 512 entries        table, 64 entries         page, 61 slots
//! ├ hash bits 63..55 ──────────> ├ bits 54..49 ──────────> ├ tag: bits 15..0 │ pointer: 48 bits ┤
//! ```
//!
//! The index grows by splitting the page that is full and moves nothing else. A page alone in its entry
//! gets a table of its own first.
//!
//! Never changes what was published.
//!
//! Correct because a change (`grow`) first copies, once per version, every table and page on the way to it.

mod descent;
mod grow;

pub(super) use descent::{Descent, find};
pub(super) use grow::{insert, new_root, remove, replace};

use super::object::Stamped;
use super::znode::Raw;
use std::alloc::Layout;
use std::ptr::null_mut;

/// Hash bits that the root table takes. Its 512 entries cost one copy of 4 KiB per version, and three
/// levels hold a million znodes.
const ROOT_BITS: u32 = 9;
/// Hash bits that any other table takes.
const TABLE_BITS: u32 = 6;
/// Slots of an ordinary page: with its header it fills 512 bytes.
const PAGE_SLOTS: u32 = 61;
/// Line of the processor's cache, bytes. Ordinary pages begin on one.
const LINE_BYTES: usize = 64;

const TABLE_HEADER: usize = size_of::<Table>();
const PAGE_HEADER: usize = size_of::<Page>();
const _: () = assert!(PAGE_HEADER + PAGE_SLOTS as usize * 8 == 512);

/// Znodes above which a page is split. One slot in six stays free, which keeps probes short and ends them.
const fn full(capacity: u32) -> u32 {
    capacity - capacity / 6
}

/// Header of a table; `1 << bits` entries follow.
#[repr(C)]
pub(super) struct Table {
    born: u64,
    bits: u32,
    /// The index into the table is the lowest `bits` bits of `hash >> shift`.
    shift: u32,
}

/// Header of a page; `capacity` slots follow.
#[repr(C)]
pub(super) struct Page {
    born: u64,
    capacity: u32,
    count: u32,
    /// Count of the table's index bits that all its znodes have in common.
    depth: u32,
    _spare: u32,
}

// SAFETY: repr(C), `born` first, aligned to 8; `new_table` allocates with this layout.
unsafe impl Stamped for Table {
    const KIND: usize = 1;
    unsafe fn layout(this: *const Table) -> Layout {
        // SAFETY: the caller keeps `this` alive.
        table_layout(unsafe { (*this).bits })
    }
}

// SAFETY: repr(C), `born` first, aligned to 8 at least; `new_page` allocates with this layout.
unsafe impl Stamped for Page {
    const KIND: usize = 2;
    unsafe fn layout(this: *const Page) -> Layout {
        // SAFETY: the caller keeps `this` alive.
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

/// Entry of a table: its low bits tell a table, an ordinary page, or a page of another capacity.
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
        // SAFETY: the caller keeps `page` alive.
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
        // SAFETY: the caller keeps the page alive.
        unsafe { (*self.page()).capacity }
    }
}

/// Slot of a page: a pointer to a znode with 16 bits of its hash on top; null is free.
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
/// Slot at which probing for a tag begins.
#[inline(always)]
fn home(tag: usize, capacity: u32) -> u32 {
    ((tag as u64 * u64::from(capacity)) >> 16) as u32
}

/// # Safety
/// `page` is alive, `index` below its capacity.
#[inline(always)]
unsafe fn slot(page: *mut Page, index: u32) -> *mut Slot {
    // SAFETY: the caller keeps `page` alive and `index` below its capacity; that many slots follow the
    // header.
    unsafe { page.cast::<u8>().add(PAGE_HEADER).cast::<Slot>().add(index as usize) }
}
/// # Safety
/// `table` is alive, `index` below `1 << bits`.
#[inline(always)]
unsafe fn entry(table: *mut Table, index: usize) -> *mut Entry {
    // SAFETY: the caller keeps `table` alive and `index` below `1 << bits`; that many entries follow the
    // header.
    unsafe { table.cast::<u8>().add(TABLE_HEADER).cast::<Entry>().add(index) }
}

/// The slots of a page that hold a znode.
///
/// # Safety
/// `page` is alive while the iterator is used.
unsafe fn slots_in_use(page: *mut Page) -> impl Iterator<Item = Slot> {
    // SAFETY: the caller keeps `page` alive, and the index is below its capacity.
    let all = unsafe { (0..(*page).capacity).map(move |index| *slot(page, index)) };
    all.filter(|slot| !slot.is_free())
}

/// Passes each table, page and znode below `root` to `visit`, once, after everything below it.
///
/// # Safety
/// `root` and everything below it is alive; `visit` may free what it is given.
pub(super) unsafe fn dismantle(root: *mut Table, visit: &mut dyn FnMut(Part)) {
    // SAFETY: the caller keeps everything below `root` alive, and `visit` frees an object only after its
    // header was read.
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

/// One object that [`dismantle`] passes on.
pub(super) enum Part {
    Table(*mut Table),
    Page(*mut Page),
    Znode(*mut Raw),
}
