//! Children of a znode: their names, sorted, in chunks.
//!
//! Owns the chunks of the versions. A chunk packs up to 64 names one behind the other. Few children are one
//! chunk. More are a B+-tree: for each chunk below, an inner chunk keeps a name that is not above any name
//! in it. To create a child copies one chunk of a kilobyte or two, whatever the number of siblings. Listing
//! is a walk over packed names.
//!
//! Never knows the children's znodes: those are found by path.
//!
//! ```text
//! 0      8       12      16      20      24
//! ├ born ┼ count ┼ bytes ┼ level ┼ spare ┼ chunks below, if level > 0 ┼ ends of names, u32 ┼ names
//! ```
//! Correct because a chunk's names never change once it is made. Only pointers of inner chunks born in the
//! version being built change.

use super::object::{POISON, Stamped, check_stamp, prefetch};
use super::reclaim::Heap;
use smallvec::SmallVec;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::null_mut;

/// Names of a chunk, at most: a search ends after six comparisons, a copy is a kilobyte or two.
const NAMES_MAX: usize = 64;
/// Bytes of a chunk's names, at most, so that long names do not make copies long. One name may exceed it.
const NAME_BYTES_MAX: usize = 4096;
/// Chunks below an inner one before its bytes split it, at least: the tree branches, whatever the names.
const FANOUT_MIN: usize = 4;
/// A chunk of at most so many names joins an adjacent one.
const SPARSE_NAMES: usize = 16;
/// Two adjacent chunks of together at most so many names join. Far enough below [`NAMES_MAX`] not to split
/// again at once.
const JOINED_NAMES_MAX: usize = 40;

const HEADER: usize = size_of::<Chunk>();
const POINTER: usize = size_of::<*mut Chunk>();
const END: usize = size_of::<u32>();

/// Header of a chunk; pointers to chunks below, ends of names, and names follow.
#[repr(C)]
pub(super) struct Chunk {
    born: u64,
    count: u32,
    bytes: u32,
    /// 0 if the names are children, otherwise the height above them.
    level: u32,
    _spare: u32,
}

fn chunk_layout(level: u32, count: usize, bytes: usize) -> Layout {
    let pointers = if level > 0 { count * POINTER } else { 0 };
    Layout::from_size_align(HEADER + pointers + count * END + bytes, 8).expect("names are bounded by paths")
}

// SAFETY: repr(C), `born` first, aligned to 8; `build` is the only constructor and uses the same layout.
unsafe impl Stamped for Chunk {
    const KIND: usize = 3;
    unsafe fn layout(this: *const Chunk) -> Layout {
        // SAFETY: the caller keeps `this` alive.
        unsafe { chunk_layout((*this).level, (*this).count as usize, (*this).bytes as usize) }
    }
}

/// # Safety
/// `chunk` is alive.
unsafe fn count(chunk: *const Chunk) -> usize {
    // SAFETY: the caller keeps `chunk` alive.
    unsafe { (*chunk).count as usize }
}
/// # Safety
/// `chunk` is alive, its level above 0, `index` at most its count.
unsafe fn below(chunk: *const Chunk, index: usize) -> *mut *mut Chunk {
    // SAFETY: the caller keeps the inner chunk alive; `build` wrote `count` pointers behind its header.
    unsafe { chunk.cast::<u8>().cast_mut().add(HEADER).cast::<*mut Chunk>().add(index) }
}
/// # Safety
/// `chunk` is alive, `index` at most its count.
unsafe fn end(chunk: *const Chunk, index: usize) -> *mut u32 {
    // SAFETY: the caller keeps `chunk` alive; `build` wrote `count` ends behind the pointers, or behind the
    // header.
    unsafe {
        let pointers = if (*chunk).level > 0 { count(chunk) * POINTER } else { 0 };
        chunk.cast::<u8>().cast_mut().add(HEADER + pointers).cast::<u32>().add(index)
    }
}
/// Offset at which the names before `index` end.
///
/// # Safety
/// `chunk` is alive, `index` at most its count.
unsafe fn start(chunk: *const Chunk, index: usize) -> usize {
    // SAFETY: the caller keeps `chunk` alive, and `index - 1` is below its count.
    if index == 0 { 0 } else { unsafe { *end(chunk, index - 1) as usize } }
}
/// # Safety
/// `chunk` is alive.
unsafe fn names(chunk: *const Chunk) -> *mut u8 {
    // SAFETY: the caller keeps `chunk` alive; `build` wrote the names behind the ends.
    unsafe { end(chunk, count(chunk)).cast() }
}
/// # Safety
/// `chunk` is alive for `'t`, `index` below its count.
unsafe fn name<'t>(chunk: *const Chunk, index: usize) -> &'t [u8] {
    // SAFETY: the caller keeps `chunk` alive for `'t` and `index` below its count. Names never change.
    unsafe {
        let from = start(chunk, index);
        std::slice::from_raw_parts(names(chunk).add(from), *end(chunk, index) as usize - from)
    }
}

/// Source of entries of a new chunk.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// Entries of an old chunk, from the first index to before the second.
    Range(*const Chunk, usize, usize),
    /// One name, and for an inner chunk the chunk below.
    One(&'a [u8], *mut Chunk),
}

/// Makes a chunk of the entries in `parts`, in order.
///
/// # Safety
/// Chunks in `parts` are alive and of this level; ranges lie within them.
unsafe fn build(heap: &mut Heap, level: u32, parts: &[Part<'_>]) -> *mut Chunk {
    // SAFETY: the caller keeps the sources alive and the ranges within them. The heap just gave memory of
    // the layout for the sums of the first loop, and the second loop writes as much as the first counted.
    unsafe {
        let (mut total, mut bytes) = (0, 0);
        for part in parts {
            let (entries, length) = match *part {
                Part::Range(old, from, to) => (to - from, start(old, to) - start(old, from)),
                Part::One(name, _) => (1, name.len()),
            };
            total += entries;
            bytes += length;
        }
        debug_assert!(total > 0, "a chunk is never empty");
        let chunk: *mut Chunk = heap.allocate(chunk_layout(level, total, bytes));
        let born = heap.building();
        chunk.write(Chunk { born, count: total as u32, bytes: bytes as u32, level, _spare: 0 });
        let (mut at, mut written) = (0, 0);
        for part in parts {
            match *part {
                Part::Range(old, from, to) => {
                    let (first, last) = (start(old, from), start(old, to));
                    if level > 0 {
                        below(chunk, at).copy_from_nonoverlapping(below(old, from), to - from);
                    }
                    for index in from..to {
                        *end(chunk, at + index - from) = (*end(old, index) as usize - first + written) as u32;
                    }
                    let source = names(old).add(first);
                    names(chunk).add(written).copy_from_nonoverlapping(source, last - first);
                    at += to - from;
                    written += last - first;
                }
                Part::One(name, under) => {
                    if level > 0 {
                        *below(chunk, at) = under;
                    }
                    names(chunk).add(written).copy_from_nonoverlapping(name.as_ptr(), name.len());
                    written += name.len();
                    *end(chunk, at) = written as u32;
                    at += 1;
                }
            }
        }
        debug_assert_eq!((at, written), (total, bytes), "the second loop writes what the first counted");
        debug_assert!(is_sorted(chunk), "names are sorted and distinct");
        chunk
    }
}

/// Whether names strictly grow. An inner chunk's own first name is never compared, so it may be stale.
///
/// # Safety
/// `chunk` is alive.
unsafe fn is_sorted(chunk: *const Chunk) -> bool {
    // SAFETY: the caller keeps `chunk` alive, and indices stay below its count.
    unsafe {
        let first = usize::from((*chunk).level > 0);
        (first + 1..count(chunk)).all(|index| name(chunk, index - 1) < name(chunk, index))
    }
}

/// Searches a name: its index, or the index at which to insert it.
///
/// # Safety
/// `chunk` is alive.
unsafe fn search(chunk: *const Chunk, wanted: &[u8]) -> Result<usize, usize> {
    // SAFETY: the caller keeps `chunk` alive, and indices stay below its count.
    unsafe {
        let (mut low, mut high) = (0, count(chunk));
        // Names often arrive in order: compare with the last one first.
        if high > 0 && name(chunk, high - 1) < wanted {
            return Err(high);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match name(chunk, middle).cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }
}

/// Index of the chunk below that leads to a name. The first entry's own name is never compared.
///
/// # Safety
/// `chunk` is alive and inner.
unsafe fn route(chunk: *const Chunk, wanted: &[u8]) -> usize {
    // SAFETY: the caller keeps `chunk` alive.
    match unsafe { search(chunk, wanted) } {
        Ok(index) => index,
        Err(index) => index.saturating_sub(1),
    }
}

enum Grown {
    There,
    One(*mut Chunk),
    Two(*mut Chunk, *mut Chunk),
}

/// Adds a name; `None` if it is there. `root` may be null: no children. The returned root replaces it.
///
/// # Safety
/// `root` is null or belongs to the version being built.
pub(super) unsafe fn insert(heap: &mut Heap, root: *mut Chunk, name_: &str) -> Option<*mut Chunk> {
    // SAFETY: the caller passes null or a root of the version being built, alive with everything below.
    // `grow` returns live chunks.
    unsafe {
        if root.is_null() {
            return Some(build(heap, 0, &[Part::One(name_.as_bytes(), null_mut())]));
        }
        match grow(heap, root, name_.as_bytes()) {
            Grown::There => None,
            Grown::One(root) => Some(root),
            Grown::Two(left, right) => {
                let parts = [Part::One(name(left, 0), left), Part::One(name(right, 0), right)];
                Some(build(heap, (*left).level + 1, &parts))
            }
        }
    }
}

/// # Safety
/// `chunk` belongs to the version being built.
unsafe fn grow(heap: &mut Heap, chunk: *mut Chunk, wanted: &[u8]) -> Grown {
    // SAFETY: the caller passes a live chunk of the version being built. A chunk is discarded only after
    // its entries are copied, and the caller links the replacement.
    unsafe {
        let entries = count(chunk);
        if (*chunk).level == 0 {
            let Err(at) = search(chunk, wanted) else { return Grown::There };
            let one = Part::One(wanted, null_mut());
            if entries < NAMES_MAX && (*chunk).bytes as usize + wanted.len() <= NAME_BYTES_MAX {
                let parts = [Part::Range(chunk, 0, at), one, Part::Range(chunk, at, entries)];
                let grown = build(heap, 0, &parts);
                heap.discard(chunk);
                return Grown::One(grown);
            }
            if at == entries {
                return Grown::Two(chunk, build(heap, 0, &[one]));
            }
            let middle = entries / 2;
            let (left, right) = if at <= middle {
                let left = [Part::Range(chunk, 0, at), one, Part::Range(chunk, at, middle)];
                (build(heap, 0, &left), build(heap, 0, &[Part::Range(chunk, middle, entries)]))
            } else {
                let right = [Part::Range(chunk, middle, at), one, Part::Range(chunk, at, entries)];
                (build(heap, 0, &[Part::Range(chunk, 0, middle)]), build(heap, 0, &right))
            };
            heap.discard(chunk);
            return Grown::Two(left, right);
        }
        let at = route(chunk, wanted);
        let (left, right) = match grow(heap, *below(chunk, at), wanted) {
            Grown::There => return Grown::There,
            Grown::One(under) => return Grown::One(set_below(heap, chunk, at, under)),
            Grown::Two(left, right) => (left, right),
        };
        let parts = [
            Part::Range(chunk, 0, at),
            Part::One(name(chunk, at), left),
            Part::One(name(right, 0), right),
            Part::Range(chunk, at + 1, entries),
        ];
        let level = (*chunk).level;
        let whole = build(heap, level, &parts);
        heap.discard(chunk);
        let total = entries + 1;
        let fits = (*whole).bytes as usize <= NAME_BYTES_MAX || total < FANOUT_MIN;
        if total <= NAMES_MAX && fits {
            return Grown::One(whole);
        }
        let cut = if at + 1 == entries { total - 1 } else { total / 2 };
        let left = build(heap, level, &[Part::Range(whole, 0, cut)]);
        let right = build(heap, level, &[Part::Range(whole, cut, total)]);
        heap.discard(whole);
        Grown::Two(left, right)
    }
}

/// Changes the chunk below entry `at`, in place or in a copy.
///
/// # Safety
/// `chunk` is inner and belongs to the version being built; `under` is alive.
unsafe fn set_below(heap: &mut Heap, chunk: *mut Chunk, at: usize, under: *mut Chunk) -> *mut Chunk {
    // SAFETY: the caller passes live chunks. The change is in place only if the chunk was born in the
    // version being built, which no reader sees.
    unsafe {
        debug_assert!((*chunk).level > 0 && at < count(chunk), "only inner chunks have chunks below");
        if (*chunk).born == heap.building() {
            *below(chunk, at) = under;
            return chunk;
        }
        let copy = build(heap, (*chunk).level, &[Part::Range(chunk, 0, count(chunk))]);
        *below(copy, at) = under;
        heap.discard(chunk);
        copy
    }
}

enum Shrunk {
    Missing,
    Empty,
    One(*mut Chunk),
}

/// Removes a name; `None` if it is not there. The returned root, null when no name is left, replaces
/// `root`.
///
/// # Safety
/// `root` is null or belongs to the version being built.
pub(super) unsafe fn remove(heap: &mut Heap, root: *mut Chunk, name: &str) -> Option<*mut Chunk> {
    if root.is_null() {
        return None;
    }
    // SAFETY: the caller passes a live root of the version being built. An inner root that leads to one
    // chunk is discarded, and that chunk replaces it.
    unsafe {
        match shrink(heap, root, name.as_bytes()) {
            Shrunk::Missing => None,
            Shrunk::Empty => Some(null_mut()),
            Shrunk::One(mut root) => {
                while (*root).level > 0 && count(root) == 1 {
                    let under = *below(root, 0);
                    heap.discard(root);
                    root = under;
                }
                Some(root)
            }
        }
    }
}

/// # Safety
/// `chunk` belongs to the version being built.
unsafe fn shrink(heap: &mut Heap, chunk: *mut Chunk, wanted: &[u8]) -> Shrunk {
    // SAFETY: as in `grow`.
    unsafe {
        let (entries, level) = (count(chunk), (*chunk).level);
        let at = if level == 0 {
            let Ok(at) = search(chunk, wanted) else { return Shrunk::Missing };
            at
        } else {
            let at = route(chunk, wanted);
            match shrink(heap, *below(chunk, at), wanted) {
                Shrunk::Missing => return Shrunk::Missing,
                Shrunk::One(under) => {
                    let chunk = set_below(heap, chunk, at, under);
                    return Shrunk::One(join(heap, chunk, at));
                }
                Shrunk::Empty => at,
            }
        };
        if entries == 1 {
            heap.discard(chunk);
            return Shrunk::Empty;
        }
        let shrunk = build(heap, level, &[Part::Range(chunk, 0, at), Part::Range(chunk, at + 1, entries)]);
        heap.discard(chunk);
        Shrunk::One(shrunk)
    }
}

/// Joins the chunk below `at` with an adjacent one if both are small.
///
/// # Safety
/// `chunk` is inner and belongs to the version being built.
unsafe fn join(heap: &mut Heap, chunk: *mut Chunk, at: usize) -> *mut Chunk {
    // SAFETY: as in `grow`.
    unsafe {
        let entries = count(chunk);
        if entries == 1 || count(*below(chunk, at)) > SPARSE_NAMES {
            return chunk;
        }
        let at = if at + 1 < entries { at } else { at - 1 };
        let (left, right) = (*below(chunk, at), *below(chunk, at + 1));
        let bytes = ((*left).bytes + (*right).bytes) as usize + name(chunk, at + 1).len();
        if count(left) + count(right) > JOINED_NAMES_MAX || bytes > NAME_BYTES_MAX {
            return chunk;
        }
        let level = (*left).level;
        let joined = if level == 0 {
            build(heap, 0, &[Part::Range(left, 0, count(left)), Part::Range(right, 0, count(right))])
        } else {
            // An inner chunk's own first name may be stale; the name in the chunk above is current.
            let border = Part::One(name(chunk, at + 1), *below(right, 0));
            let parts = [Part::Range(left, 0, count(left)), border, Part::Range(right, 1, count(right))];
            build(heap, level, &parts)
        };
        let border = Part::One(name(chunk, at), joined);
        let parts = [Part::Range(chunk, 0, at), border, Part::Range(chunk, at + 2, entries)];
        let shorter = build(heap, (*chunk).level, &parts);
        debug_assert!(count(joined) == count(left) + count(right), "a name was lost");
        heap.discard(left);
        heap.discard(right);
        heap.discard(chunk);
        shorter
    }
}

/// Passes each chunk to `visit`, once, after those below it.
///
/// # Safety
/// `root` is null or alive with everything below it; `visit` may free what it is given.
pub(super) unsafe fn dismantle(root: *mut Chunk, visit: &mut dyn FnMut(*mut Chunk)) {
    if root.is_null() {
        return;
    }
    // SAFETY: the caller keeps everything below `root` alive, and `visit` frees a chunk only after its
    // header was read.
    unsafe {
        if (*root).level > 0 {
            for index in 0..count(root) {
                dismantle(*below(root, index), visit);
            }
        }
        visit(root);
    }
}

/// Iterator over the names of a znode's children, sorted by bytes.
#[derive(Clone)]
pub struct Children<'t> {
    leaf: *const Chunk,
    index: usize,
    /// Inner chunks above the leaf, each with the index of the entry that follows.
    above: SmallVec<[(*const Chunk, usize); 4]>,
    left: usize,
    version: PhantomData<&'t Chunk>,
}

impl<'t> Children<'t> {
    /// # Safety
    /// `root` is null or alive, with everything below it, for `'t`; `left` is the number of names.
    pub(super) unsafe fn new(root: *const Chunk, left: u32) -> Children<'t> {
        let above = SmallVec::new();
        let mut children =
            Children { leaf: root, index: 0, above, left: left as usize, version: PhantomData };
        if !root.is_null() {
            // SAFETY: the caller keeps `root` and everything below it alive for `'t`.
            unsafe { children.down(root) };
        }
        children
    }
    /// # Safety
    /// `chunk` is alive for `'t`.
    unsafe fn down(&mut self, mut chunk: *const Chunk) {
        // SAFETY: the caller keeps `chunk` and everything below it alive for `'t`, and `build` makes no
        // empty chunk.
        unsafe {
            check_stamp((*chunk).born, POISON - 1);
            while (*chunk).level > 0 {
                if count(chunk) > 1 {
                    prefetch(*below(chunk, 1));
                }
                self.above.push((chunk, 1));
                chunk = *below(chunk, 0);
                check_stamp((*chunk).born, POISON - 1);
            }
        }
        self.leaf = chunk;
        self.index = 0;
    }
}

impl<'t> Iterator for Children<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.leaf.is_null() {
            return None;
        }
        // SAFETY: the caller of `new` keeps the chunks alive for 't. Indices stay below the counts. Names
        // came from `&str`.
        unsafe {
            while self.index == count(self.leaf) {
                let (chunk, next) = self.above.pop()?;
                if next < count(chunk) {
                    self.above.push((chunk, next + 1));
                    if next + 1 < count(chunk) {
                        prefetch(*below(chunk, next + 1));
                    }
                    self.down(*below(chunk, next));
                }
            }
            let found = name(self.leaf, self.index);
            self.index += 1;
            self.left -= 1;
            Some(std::str::from_utf8_unchecked(found))
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Children<'_> {}
