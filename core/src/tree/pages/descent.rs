//! Finding a znode in a version.
//!
//! Owns no memory: it follows a version that its caller keeps alive. Never writes. A lookup is cut into steps, each of
//! which waits for one line of memory, so that a batch can wait for many lines at the same time.

use super::{Entry, PAGE_HEADER, PAGE_SLOTS, ROOT_BITS, Slot, TABLE_BITS, TABLE_HEADER, Table};
use super::{entry, home, slot, tag_of};
use crate::tree::object::{check_stamp, prefetch};
use crate::tree::znode::{Raw, path_bytes, prefetch_znode};

/// A lookup on its way down; cut into steps so that many can wait for memory at the same time.
#[derive(Clone, Copy)]
pub(in crate::tree) struct Descent {
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
    pub(in crate::tree) unsafe fn begin(root: *mut Table, hash: u64, at: u64) -> Descent {
        // SAFETY: alive by the caller's word; nine bits are below the root's 512.
        let entry = unsafe {
            check_stamp((*root).born, at);
            *entry(root, (hash >> (64 - ROOT_BITS)) as usize)
        };
        Descent { hash, entry, shift: 64 - ROOT_BITS, slot: 0 }
    }
    /// Asks for the line that [`Descent::down`] reads.
    #[inline(always)]
    pub(in crate::tree) fn prefetch_down(&self) {
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
    pub(in crate::tree) unsafe fn down(&mut self, at: u64) -> bool {
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
    pub(in crate::tree) fn prefetch_slots(&self) {
        let index = home(tag_of(self.hash), PAGE_SLOTS) as usize;
        prefetch(self.entry.page().cast::<u8>().wrapping_add(PAGE_HEADER + index * size_of::<Slot>()));
    }
    /// At a page: begins probing.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(in crate::tree) unsafe fn arrive(&mut self, at: u64) {
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
    pub(in crate::tree) unsafe fn candidate(&mut self) -> Option<*mut Raw> {
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
    pub(in crate::tree) unsafe fn prefetch_candidate(&self) {
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
    pub(in crate::tree) unsafe fn finish(&mut self, path: &[u8], at: u64) -> Option<*mut Raw> {
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
pub(in crate::tree) unsafe fn find(root: *mut Table, hash: u64, path: &[u8], at: u64) -> Option<*mut Raw> {
    // SAFETY: by the caller's word.
    unsafe {
        let mut descent = Descent::begin(root, hash, at);
        while descent.down(at) {}
        descent.arrive(at);
        descent.finish(path, at)
    }
}
