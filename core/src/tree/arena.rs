//! Memory for the tree's objects: millions of small ones, allocated and freed by the writer alone.
//!
//! Owns blocks of 2 MiB that ask for huge pages, cut into spans of 64 KiB, each cut into pieces of one
//! size. A lookup among millions of znodes pays for address translation as much as for the memory itself.
//! Huge pages halve that, and no general allocator asks for them. Pieces above [`PIECE_BYTES_MAX`] come
//! from the system's allocator.
//!
//! Never knows what a piece holds.
//!
//! ```text
//! block, 2 MiB   ├ span ┼ span ┼ … 32 ┤
//! span, 64 KiB   ├ header ┼ piece ┼ piece ┼ … ┤   free pieces are chained through their first word
//! ```
//!
//! Correct because a piece's address gives its span (spans are aligned to their size), and its layout gives
//! its class. The caller that frees it passes the layout of its allocation. An empty span returns to its
//! block, an empty block to the system, except the last one. Miri and the address sanitizer need every
//! object in an allocation of its own. Under them (`cfg(miri)`, `cfg(paddock_asan)`) everything comes from
//! the system's allocator.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::null_mut;

/// A huge page of x86-64 and of aarch64 with 4 KiB pages.
const BLOCK_BYTES: usize = 2 * 1024 * 1024;
/// Holds at least seven of the largest pieces, and is small enough that a class with few objects wastes
/// little.
const SPAN_BYTES: usize = 64 * 1024;
const SPANS: usize = BLOCK_BYTES / SPAN_BYTES;
/// Largest size in steps of [`FINE_STEP`], the alignment of objects: znodes with small data.
const FINE_BYTES_MAX: usize = 1024;
const FINE_STEP: usize = 8;
/// Largest size in steps of [`COARSE_STEP`]: chunks of names, znodes with larger data.
const PIECE_BYTES_MAX: usize = 8 * 1024;
const COARSE_STEP: usize = 256;
const FINE_CLASSES: usize = FINE_BYTES_MAX / FINE_STEP;
const CLASSES: usize = FINE_CLASSES + (PIECE_BYTES_MAX - FINE_BYTES_MAX) / COARSE_STEP;
/// Bytes before the first piece: one line, so that pieces whose size is a multiple of 64 are aligned to 64.
const SPAN_HEADER: usize = 64;
const _: () = assert!(size_of::<Span>() <= SPAN_HEADER && SPANS == u32::BITS as usize);

/// Whether everything comes from the system's allocator: see the module.
const PLAIN: bool = cfg!(any(miri, paddock_asan));

/// The class of a size; `None` above [`PIECE_BYTES_MAX`].
fn class_of(bytes: usize) -> Option<usize> {
    match bytes {
        _ if PLAIN => None,
        0..=FINE_BYTES_MAX => Some(bytes.saturating_sub(1) / FINE_STEP),
        _ if bytes <= PIECE_BYTES_MAX => Some(FINE_CLASSES + (bytes - FINE_BYTES_MAX - 1) / COARSE_STEP),
        _ => None,
    }
}

/// Bytes of each piece of a class.
fn piece_bytes(class: usize) -> usize {
    match class.checked_sub(FINE_CLASSES) {
        None => (class + 1) * FINE_STEP,
        Some(coarse) => FINE_BYTES_MAX + (coarse + 1) * COARSE_STEP,
    }
}

/// Header of a span in use.
struct Span {
    /// Links of the list of the class's spans with room.
    next: *mut Span,
    previous: *mut Span,
    /// Freed pieces, chained; null if none.
    free: *mut Piece,
    /// Pieces allocated and not freed, up to `capacity`.
    used: u32,
    /// Pieces handed out at least once, up to `capacity`. Those behind were never touched.
    carved: u32,
    capacity: u32,
    /// Index of its block in [`Arena::blocks`].
    block: u32,
}

/// A free piece: its first word links to the next one.
struct Piece {
    next: *mut Piece,
}

struct Block {
    /// Null once returned to the system; the entry is used again.
    base: *mut u8,
    /// A bit for each span that belongs to no class.
    free: u32,
}

/// Allocator of one tree's objects. See the module.
pub(super) struct Arena {
    /// For each class the list of its spans with room.
    with_room: [*mut Span; CLASSES],
    blocks: Vec<Block>,
    /// Indices of blocks that may have free spans; checked when taken.
    open: Vec<u32>,
    /// Indices of `blocks` without a block.
    vacant: Vec<u32>,
    /// Count of blocks all of whose spans are free, at most one between calls.
    empty_blocks: usize,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena {
            with_room: [null_mut(); CLASSES],
            blocks: Vec::new(),
            open: Vec::new(),
            vacant: Vec::new(),
            empty_blocks: 0,
        }
    }
}

fn system(layout: Layout) -> *mut u8 {
    assert!(layout.size() > 0);
    // SAFETY: the size is not zero, by the assertion above.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}

fn block_layout() -> Layout {
    Layout::from_size_align(BLOCK_BYTES, BLOCK_BYTES).expect("a power of two")
}

/// The span that contains a piece.
fn span_of(piece: *mut u8) -> *mut Span {
    piece.map_addr(|address| address & !(SPAN_BYTES - 1)).cast()
}

impl Arena {
    /// Allocates uninitialized memory. Alignments are at most 64, and 64 only with sizes that are multiples
    /// of it.
    #[inline]
    pub(super) fn allocate(&mut self, layout: Layout) -> *mut u8 {
        debug_assert!(layout.align() <= 8 || (layout.align() == 64 && layout.size().is_multiple_of(64)));
        let Some(class) = class_of(layout.size()) else { return system(layout) };
        let mut span = self.with_room[class];
        if span.is_null() {
            span = self.new_span(class);
        }
        // SAFETY: spans in the list of a class have room (`allocate` unlinks full ones): a freed piece, or
        // one that was never carved, within the span.
        unsafe {
            debug_assert!((*span).used < (*span).capacity, "a full span is in no list");
            let piece = (*span).free;
            let memory = if piece.is_null() {
                let offset = SPAN_HEADER + (*span).carved as usize * piece_bytes(class);
                (*span).carved += 1;
                span.cast::<u8>().add(offset)
            } else {
                (*span).free = (*piece).next;
                piece.cast()
            };
            (*span).used += 1;
            debug_assert!((*span).used <= (*span).carved && (*span).carved <= (*span).capacity);
            if (*span).used == (*span).capacity {
                self.unlink(class, span);
            }
            memory
        }
    }

    /// Frees memory.
    ///
    /// # Safety
    /// `memory` came from [`Arena::allocate`] of this arena with this layout, is freed once, and is not
    /// used afterwards.
    #[inline]
    pub(super) unsafe fn free(&mut self, memory: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout.size()) else {
            // SAFETY: the class is the same as at the allocation, so `allocate` took it from the system
            // with this layout.
            unsafe { dealloc(memory, layout) };
            return;
        };
        let (span, piece) = (span_of(memory), memory.cast::<Piece>());
        // SAFETY: the caller gives up the piece. Its span is alive as long as a piece of it is in use.
        // Pieces are at least 8 bytes and aligned to 8 (`FINE_STEP`).
        unsafe {
            debug_assert!((*span).used > 0, "more pieces freed than allocated");
            piece.write(Piece { next: (*span).free });
            (*span).free = piece;
            if (*span).used == (*span).capacity {
                self.link(class, span);
            }
            (*span).used -= 1;
            // The last span with room stays, so that a class that alternates between no object and one does
            // not allocate a span each time.
            let alone = self.with_room[class] == span && (*span).next.is_null();
            if (*span).used == 0 && !alone {
                self.unlink(class, span);
                self.give_back(span);
            }
        }
    }

    /// # Safety
    /// `span` is alive and in no list.
    unsafe fn link(&mut self, class: usize, span: *mut Span) {
        let head = self.with_room[class];
        // SAFETY: the caller passes a live span. Spans in the list are alive: `free` unlinks a span before
        // it returns it.
        unsafe {
            (*span).previous = null_mut();
            (*span).next = head;
            if !head.is_null() {
                (*head).previous = span;
            }
        }
        self.with_room[class] = span;
    }

    /// # Safety
    /// `span` is alive and in the list of `class`.
    unsafe fn unlink(&mut self, class: usize, span: *mut Span) {
        // SAFETY: the caller passes a live span of this list, and so are the spans that it links to.
        unsafe {
            let (previous, next) = ((*span).previous, (*span).next);
            if previous.is_null() {
                self.with_room[class] = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    #[cold]
    fn new_span(&mut self, class: usize) -> *mut Span {
        let place = loop {
            match self.open.last() {
                None => self.new_block(),
                Some(&place) if self.blocks[place as usize].free == 0 => _ = self.open.pop(),
                Some(&place) => break place,
            }
        };
        let block = &mut self.blocks[place as usize];
        debug_assert!(!block.base.is_null() && block.free != 0, "a block of the list has a free span");
        if block.free == u32::MAX {
            self.empty_blocks -= 1;
        }
        let index = block.free.trailing_zeros();
        block.free &= !(1 << index);
        let capacity = ((SPAN_BYTES - SPAN_HEADER) / piece_bytes(class)) as u32;
        let (next, previous, free) = (null_mut(), null_mut(), null_mut());
        // SAFETY: the span lies in the block, is aligned, and belongs to no class: its bit was set until
        // just now.
        unsafe {
            let span = block.base.add(index as usize * SPAN_BYTES).cast::<Span>();
            span.write(Span { next, previous, free, used: 0, carved: 0, capacity, block: place });
            self.link(class, span);
            span
        }
    }

    fn new_block(&mut self) {
        debug_assert_eq!(self.empty_blocks, 0, "an empty block is used before a new one");
        let base = system(block_layout());
        #[cfg(target_os = "linux")]
        // SAFETY: `system` just allocated the range, and the advice changes no content. It fails where huge
        // pages are switched off, which costs time only.
        let _ = unsafe { rustix::mm::madvise(base.cast(), BLOCK_BYTES, rustix::mm::Advice::LinuxHugepage) };
        let block = Block { base, free: u32::MAX };
        self.empty_blocks += 1;
        let place = match self.vacant.pop() {
            Some(place) => {
                self.blocks[place as usize] = block;
                place
            }
            None => {
                self.blocks.push(block);
                (self.blocks.len() - 1) as u32
            }
        };
        self.open.push(place);
    }

    /// # Safety
    /// `span` is alive, in no list, and none of its pieces is in use.
    #[cold]
    unsafe fn give_back(&mut self, span: *mut Span) {
        // SAFETY: the caller passes a live span.
        let place = unsafe { (*span).block };
        let block = &mut self.blocks[place as usize];
        let index = (span.addr() - block.base.addr()) / SPAN_BYTES;
        debug_assert!(block.free & (1 << index) == 0, "the span was in use");
        if block.free == 0 {
            self.open.push(place);
        }
        block.free |= 1 << index;
        if block.free != u32::MAX {
            return;
        }
        if self.empty_blocks == 0 {
            self.empty_blocks = 1;
            return;
        }
        // SAFETY: `new_block` allocated it with this layout, and no span of it is in use: all its bits are
        // set.
        unsafe { dealloc(block.base, block_layout()) };
        *block = Block { base: null_mut(), free: 0 };
        self.open.retain(|&open| open != place);
        self.vacant.push(place);
    }

    /// Bytes of all blocks that the arena has.
    #[cfg(all(test, not(any(paddock_loom, paddock_asan, miri))))]
    fn bytes(&self) -> usize {
        (self.blocks.len() - self.vacant.len()) * BLOCK_BYTES
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for block in &self.blocks {
            if !block.base.is_null() {
                // SAFETY: `new_block` allocated it with this layout, and a block returned earlier is null.
                // The tree frees its objects one by one before their heap drops.
                unsafe { dealloc(block.base, block_layout()) };
            }
        }
    }
}

#[cfg(all(test, not(any(paddock_loom, paddock_asan, miri))))]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).expect("small")
    }

    #[test]
    fn every_size_has_a_class_that_holds_it() {
        for bytes in 1..=PIECE_BYTES_MAX {
            let class = class_of(bytes).expect("up to the maximum");
            assert!(piece_bytes(class) >= bytes && class < CLASSES);
            assert!(class == 0 || piece_bytes(class - 1) < bytes, "{bytes} fits a smaller class");
        }
        assert_eq!(class_of(PIECE_BYTES_MAX + 1), None);
    }

    /// Pieces keep what is written into them, whatever is allocated and freed around them. Empty blocks
    /// return to the system.
    #[test]
    fn pieces_do_not_overlap_and_empty_blocks_go_back() {
        let mut arena = Arena::default();
        let mut state = 1u64;
        let mut random = move |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % limit
        };
        let mut live: Vec<(*mut u8, usize, u8)> = Vec::new();
        for round in 0..60_000 {
            if random(60_000) > round / 2 || live.is_empty() {
                let size = if random(10) == 0 { 1 + random(20_000) } else { 16 + random(600) };
                let memory = arena.allocate(layout(size));
                let mark = random(256) as u8;
                // SAFETY: just allocated with this size.
                unsafe { memory.write_bytes(mark, size) };
                live.push((memory, size, mark));
            } else {
                let (memory, size, mark) = live.swap_remove(random(live.len()));
                // SAFETY: alive, of this size.
                let bytes = unsafe { std::slice::from_raw_parts(memory, size) };
                assert!(bytes.iter().all(|&byte| byte == mark), "another piece was written into this one");
                // SAFETY: allocated with this layout, freed once.
                unsafe { arena.free(memory, layout(size)) };
            }
        }
        assert!(arena.bytes() > 4 * BLOCK_BYTES);
        for (memory, size, _) in live {
            // SAFETY: allocated with this layout, freed once.
            unsafe { arena.free(memory, layout(size)) };
        }
        // Each class may keep one span.
        assert!(arena.bytes() <= (CLASSES.div_ceil(SPANS) + 32) * BLOCK_BYTES);
        let page = Layout::from_size_align(512, 64).expect("small");
        let pages: Vec<_> = (0..1_000).map(|_| arena.allocate(page)).collect();
        assert!(pages.iter().all(|page| page.addr() % 64 == 0));
        for memory in pages {
            // SAFETY: allocated with this layout, freed once.
            unsafe { arena.free(memory, page) };
        }
    }
}
