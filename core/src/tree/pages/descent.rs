//! Lookup of a znode in a version.
//!
//! Owns no memory: it follows a version that its caller keeps alive.
//!
//! Never writes.
//!
//! Correct because published versions do not change. A lookup is cut into steps that each wait for one line
//! of memory: a batch waits for many lines at once.

use super::{Entry, PAGE_HEADER, PAGE_SLOTS, ROOT_BITS, Slot, TABLE_BITS, TABLE_HEADER, Table};
use super::{entry, home, slot, tag_of};
use crate::tree::object::{check_stamp, prefetch};
use crate::tree::znode::{Raw, path_bytes, prefetch_znode};

/// A lookup on its way down, between two steps.
#[derive(Clone, Copy)]
pub(in crate::tree) struct Descent {
    hash: u64,
    entry: Entry,
    shift: u32,
    slot: u32,
}

impl Descent {
    /// Begins at the root of version `at`.
    ///
    /// # Safety
    /// `root` and everything below it stays alive while the descent is used. This holds for all its
    /// functions.
    #[inline(always)]
    pub(in crate::tree) unsafe fn begin(root: *mut Table, hash: u64, at: u64) -> Descent {
        // SAFETY: the caller keeps `root` alive, and nine bits stay below its 512 entries.
        let entry = unsafe {
            check_stamp((*root).born, at);
            *entry(root, (hash >> (64 - ROOT_BITS)) as usize)
        };
        Descent { hash, entry, shift: 64 - ROOT_BITS, slot: 0 }
    }
    /// Prefetches the line that [`Descent::down`] reads.
    #[inline(always)]
    pub(in crate::tree) fn prefetch_down(&self) {
        if let Some(table) = self.entry.table() {
            let index = (self.hash >> (self.shift - TABLE_BITS)) as usize & ((1 << TABLE_BITS) - 1);
            prefetch(table.cast::<u8>().wrapping_add(TABLE_HEADER + index * size_of::<Entry>()));
        }
    }
    /// Goes one table down; false at a page.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(in crate::tree) unsafe fn down(&mut self, at: u64) -> bool {
        let Some(table) = self.entry.table() else { return false };
        self.shift -= TABLE_BITS;
        let index = (self.hash >> self.shift) as usize & ((1 << TABLE_BITS) - 1);
        // SAFETY: the caller of `begin` keeps the version alive, and below the root all tables have 64
        // entries. A release build does not touch the header.
        unsafe {
            if cfg!(debug_assertions) {
                check_stamp((*table).born, at);
            }
            self.entry = *entry(table, index);
        }
        true
    }
    /// At a page: prefetches the line where probing begins.
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
        // SAFETY: the caller of `begin` keeps the version alive.
        unsafe {
            if cfg!(debug_assertions) {
                check_stamp((*self.entry.page()).born, at);
            }
            self.slot = home(tag_of(self.hash), self.entry.capacity());
        }
    }
    /// Returns the next znode whose tag matches.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(in crate::tree) unsafe fn candidate(&mut self) -> Option<*mut Raw> {
        let (page, tag) = (self.entry.page(), tag_of(self.hash));
        // SAFETY: the caller of `begin` keeps the version alive, and the index stays below the capacity. A
        // page always has a free slot (`insert` splits above `full`), which ends the loop.
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
    /// Prefetches the next candidate without advancing to it.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(in crate::tree) unsafe fn prefetch_candidate(&self) {
        // SAFETY: the caller of `begin` keeps the version alive.
        if let Some(znode) = unsafe { { *self }.candidate() } {
            prefetch_znode(znode);
        }
    }
    /// Returns the znode with this path, from the current slot on.
    ///
    /// # Safety
    /// See [`Descent::begin`].
    #[inline(always)]
    pub(in crate::tree) unsafe fn finish(&mut self, path: &[u8], at: u64) -> Option<*mut Raw> {
        // SAFETY: the caller of `begin` keeps the version alive, and its znodes with it.
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

/// Looks up the znode with this path.
///
/// # Safety
/// `root` and everything below it is alive; `at` is its version.
#[inline]
pub(in crate::tree) unsafe fn find(root: *mut Table, hash: u64, path: &[u8], at: u64) -> Option<*mut Raw> {
    // SAFETY: the caller keeps `root` and everything below it alive.
    unsafe {
        let mut descent = Descent::begin(root, hash, at);
        while descent.down(at) {}
        descent.arrive(at);
        descent.finish(path, at)
    }
}
