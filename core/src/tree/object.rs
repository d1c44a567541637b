//! Common part of the tree's objects: a birth stamp in front, and a kind that says how to free them.
//!
//! Owns the untyped handle that retire lists carry.
//!
//! Never decides when an object is freed: see `reclaim`.
//!
//! Correct because a handle is made only from a typed pointer, and the kind in its low bits names that
//! type.

use super::children::Chunk;
use super::pages::{Page, Table};
use super::znode::Raw;
use std::alloc::Layout;

/// Birth stamp of a freed object, above every version. Debug builds keep freed memory for a while,
/// poisoned. A reader that breaks the rule then panics instead of reading something plausible.
pub(super) const POISON: u64 = 0xdededededededede;

/// A type of object of the tree.
///
/// # Safety
/// The type is `repr(C)`, begins with `born: u64`, and is aligned to at least 8. `layout` returns the
/// layout with which each of its objects was allocated, computed from its own header.
pub(super) unsafe trait Stamped {
    /// Tag in the low bits of an [`Object`], at most [`KIND_MASK`].
    const KIND: usize;
    /// Layout with which it was allocated.
    ///
    /// # Safety
    /// `this` is alive.
    unsafe fn layout(this: *const Self) -> Layout;
    /// Drops what the object owns besides its memory.
    ///
    /// # Safety
    /// `this` is alive, no reader or hold can reach it, and it is freed right after.
    unsafe fn drop_fields(_this: *mut Self) {}
    /// Bytes that the object keeps alive besides its own memory.
    ///
    /// # Safety
    /// `this` is alive.
    unsafe fn shared_bytes(_this: *const Self) -> u64 {
        0
    }
}

/// A pointer to any object of the tree; its kind is in the two low bits.
#[derive(Clone, Copy)]
pub(super) struct Object(*mut u8);

/// Calls a generic function of the object's own type.
macro_rules! typed {
    ($object:expr, $function:ident) => {{
        let address = $object.address();
        match $object.0.addr() & KIND_MASK {
            Raw::KIND => Raw::$function(address.cast()),
            Page::KIND => Page::$function(address.cast()),
            Table::KIND => Table::$function(address.cast()),
            _ => Chunk::$function(address.cast()),
        }
    }};
}

const KIND_MASK: usize = 3;

impl Object {
    /// The handle of a typed object.
    pub(super) fn of<T: Stamped>(object: *mut T) -> Object {
        Object(object.cast::<u8>().map_addr(|address| address | T::KIND))
    }
    pub(super) fn address(self) -> *mut u8 {
        self.0.map_addr(|address| address & !KIND_MASK)
    }
    /// Layout with which it was allocated.
    ///
    /// # Safety
    /// The object is alive.
    pub(super) unsafe fn layout(self) -> Layout {
        // SAFETY: the caller keeps the object alive, and the kind names its type (set by `Object::of`).
        unsafe { typed!(self, layout) }
    }
    /// Bytes that freeing it releases.
    ///
    /// # Safety
    /// The object is alive.
    pub(super) unsafe fn bytes(self) -> u64 {
        // SAFETY: as in `layout`.
        unsafe { typed!(self, layout).size() as u64 + typed!(self, shared_bytes) }
    }
    /// Drops what it owns besides its memory.
    ///
    /// # Safety
    /// The object is alive, no reader or hold can reach it, and it is freed right after.
    pub(super) unsafe fn drop_fields(self) {
        // SAFETY: the caller gives up the object, and the kind names its type (set by `Object::of`).
        unsafe { typed!(self, drop_fields) }
    }
}

/// In debug builds: checks an object stamped `born` that a reader of version `at` meets. A freed object, or
/// one younger than the version, means that a reader reads what it does not pin.
#[inline(always)]
pub(super) fn check_stamp(born: u64, at: u64) {
    debug_assert!(born <= at, "read of a stale version: object stamped {born:#x}, reader at {at}");
}

/// Asks the processor to fetch the line at `address`. A hint that never faults.
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch reads nothing architecturally and ignores bad addresses; SSE is part of x86_64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast::<i8>());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
