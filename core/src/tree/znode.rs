//! One znode: header, path and data in one allocation, and the view of it that everybody reads.
//!
//! Owns the layout. Never finds a znode and never decides how long it lives. A published znode does not change; the
//! writer changes one in place only while it was born in the version being built.
//!
//! ```text
//! 0       8      16                        64     72        80            96         112
//! ├ born ─┼ hash ┼ zxids, times, owner ────┼ acl ─┼ children ┼ 3 versions, ┼ lengths,  ┼ path ┼ data
//! │       │      │                         │      │          │ child count │ checksum  │      │ or, aligned to 8,
//! └───────┴──────┴─────────────────────────┴──────┴──────────┴─────────────┴───────────┴──────┘ `Bytes` if large
//! ```
//! The lengths lie beside the path because a lookup compares both.

use super::children::{Children, Chunk};
use super::node::{NodeStat, TreeError};
use super::object::{POISON, Stamped, check_stamp, prefetch};
use super::reclaim::Heap;
use crate::acl::AclRef;
use bytes::Bytes;
use paddock_transport::io::SHARED_BYTES_MIN;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// Longest path and longest data, bytes: lengths are 32 bits wide and the protocol's are signed.
const LENGTH_MAX: usize = i32::MAX as usize;

/// `data_length` of null data. Above [`LENGTH_MAX`].
const NULL_DATA: u32 = u32::MAX;

/// Where the path begins.
const PATH_OFFSET: usize = size_of::<Raw>();
const _: () = assert!(PATH_OFFSET == 112 && align_of::<Raw>() == 8 && align_of::<Bytes>() <= 8);

/// The header; path and data follow it in the same allocation.
#[repr(C)]
pub(super) struct Raw {
    pub(super) born: u64,
    pub(super) hash: u64,
    pub(super) czxid: i64,
    pub(super) mzxid: i64,
    pub(super) pzxid: i64,
    pub(super) ctime: i64,
    pub(super) mtime: i64,
    pub(super) ephemeral_owner: i64,
    acl: ManuallyDrop<AclRef>,
    pub(super) children: *mut Chunk,
    pub(super) version: i32,
    pub(super) cversion: i32,
    pub(super) aversion: i32,
    pub(super) num_children: u32,
    path_length: u32,
    /// Or [`NULL_DATA`].
    data_length: u32,
    checksum: u32,
    _spare: u32,
}

/// Refuses what does not fit the lengths.
pub(super) fn check_lengths(path: &str, data: Option<&[u8]>) -> Result<(), TreeError> {
    let data = data.map_or(0, <[u8]>::len);
    if path.len() > LENGTH_MAX || data > LENGTH_MAX { Err(TreeError::TooLong) } else { Ok(()) }
}

fn checksum(path: &str, data: Option<&[u8]>) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
    digest.update(if path == "/" { b"" } else { path.as_bytes() });
    digest.update(data.unwrap_or_default());
    digest.finalize() as u32
}

fn is_shared(data_length: u32) -> bool {
    data_length != NULL_DATA && data_length as usize >= SHARED_BYTES_MIN
}

/// Offset of the data, and size of the whole.
fn offsets(path_length: u32, data_length: u32) -> (usize, usize) {
    let path_end = PATH_OFFSET + path_length as usize;
    if is_shared(data_length) {
        let offset = path_end.next_multiple_of(8);
        (offset, offset + size_of::<Bytes>())
    } else {
        let inline = if data_length == NULL_DATA { 0 } else { data_length as usize };
        (path_end, path_end + inline)
    }
}

fn layout(path_length: u32, data_length: u32) -> Layout {
    let (_, size) = offsets(path_length, data_length);
    Layout::from_size_align(size, align_of::<Raw>()).expect("lengths are bounded by LENGTH_MAX")
}

// SAFETY: repr(C), `born` first, aligned to 8; `allocate` is the only constructor and uses the same `layout`.
unsafe impl Stamped for Raw {
    const KIND: usize = 0;
    unsafe fn layout(this: *const Raw) -> Layout {
        // SAFETY: alive by the caller's word.
        unsafe { layout((*this).path_length, (*this).data_length) }
    }
    unsafe fn drop_fields(this: *mut Raw) {
        // SAFETY: alive and the caller's alone; `acl` and the shared data are initialised by the constructors and
        // dropped only here. Children are objects of their own and belong to the version, not to this copy.
        unsafe {
            ManuallyDrop::drop(&mut (*this).acl);
            if is_shared((*this).data_length) {
                shared_slot(this).drop_in_place();
            }
        }
    }
    unsafe fn shared_bytes(this: *const Raw) -> u64 {
        // SAFETY: alive by the caller's word.
        let length = unsafe { (*this).data_length };
        if is_shared(length) { u64::from(length) } else { 0 }
    }
}

/// # Safety
/// `this` is alive and its data is shared.
unsafe fn shared_slot(this: *mut Raw) -> *mut Bytes {
    // SAFETY: the offset lies within the allocation and is aligned (see `offsets`).
    unsafe { this.cast::<u8>().add(offsets((*this).path_length, (*this).data_length).0).cast() }
}

/// The path's bytes.
///
/// # Safety
/// `this` is alive for `'t`.
#[inline(always)]
pub(super) unsafe fn path_bytes<'t>(this: *const Raw) -> &'t [u8] {
    // SAFETY: the path lies behind the header, initialised by the constructors, and never changes.
    unsafe { std::slice::from_raw_parts(this.cast::<u8>().add(PATH_OFFSET), (*this).path_length as usize) }
}

/// Asks for the lines of a znode of usual size: a reply needs header, path and data.
#[inline(always)]
pub(super) fn prefetch_znode(this: *const Raw) {
    for line in 0..4 {
        prefetch(this.cast::<u8>().wrapping_add(line * 64));
    }
}

/// The header of a new znode before path and data are known.
pub(super) struct Header {
    pub(super) hash: u64,
    pub(super) acl: AclRef,
    pub(super) stat: NodeStat,
    pub(super) children: *mut Chunk,
    pub(super) num_children: u32,
}

/// Makes a znode. Lengths have been checked ([`check_lengths`]).
pub(super) fn allocate(heap: &mut Heap, header: Header, path: &str, data: Option<&[u8]>) -> *mut Raw {
    let data_length = data.map_or(NULL_DATA, |data| data.len() as u32);
    let path_length = path.len() as u32;
    let this: *mut Raw = heap.allocate(layout(path_length, data_length));
    assert!(this.addr() >> 48 == 0, "user addresses of more than 48 bits cannot carry a tag");
    let stat = header.stat;
    // SAFETY: the memory is ours, of the layout for these lengths; every field, the path and the data are written,
    // the stamp as the heap had written it.
    unsafe {
        this.write(Raw {
            born: heap.building(),
            hash: header.hash,
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            pzxid: stat.pzxid,
            ctime: stat.ctime,
            mtime: stat.mtime,
            ephemeral_owner: stat.ephemeral_owner,
            acl: ManuallyDrop::new(header.acl),
            children: header.children,
            version: stat.version,
            cversion: stat.cversion,
            aversion: stat.aversion,
            num_children: header.num_children,
            path_length,
            data_length,
            checksum: checksum(path, data),
            _spare: 0,
        });
        let memory = this.cast::<u8>();
        memory.add(PATH_OFFSET).copy_from_nonoverlapping(path.as_ptr(), path.len());
        if is_shared(data_length) {
            shared_slot(this).write(Bytes::copy_from_slice(data.unwrap_or_default()));
        } else if let Some(data) = data {
            memory.add(PATH_OFFSET + path.len()).copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
    }
    this
}

/// A copy that the writer may change, of a znode that it may not.
///
/// # Safety
/// `old` is alive.
pub(super) unsafe fn copy(heap: &mut Heap, old: *mut Raw) -> *mut Raw {
    // SAFETY: `old` is alive, the new memory has the same layout and is ours. What is counted by reference (ACL, shared
    // data) is cloned, never copied bit by bit: a reader may be cloning the same `Bytes` at this moment.
    unsafe {
        let layout = Raw::layout(old);
        let this: *mut Raw = heap.allocate(layout);
        assert!(this.addr() >> 48 == 0, "user addresses of more than 48 bits cannot carry a tag");
        let shared = is_shared((*old).data_length);
        let plain = if shared { PATH_OFFSET + (*old).path_length as usize } else { layout.size() };
        this.cast::<u8>().copy_from_nonoverlapping(old.cast::<u8>(), plain);
        (*this).born = heap.building();
        (&raw mut (*this).acl).write((*old).acl.clone());
        if shared {
            shared_slot(this).write((*shared_slot(old)).clone());
        }
        this
    }
}

/// Changes the data in place, if the new data fits exactly; tells whether it did.
///
/// # Safety
/// `this` is alive and was born in the version being built.
pub(super) unsafe fn overwrite(this: *mut Raw, data: Option<&[u8]>) -> bool {
    // SAFETY: the znode is the writer's alone, and the data of equal length lies inside its allocation.
    unsafe {
        match data {
            Some(data) if data.len() as u32 == (*this).data_length && !is_shared((*this).data_length) => {
                let offset = PATH_OFFSET + (*this).path_length as usize;
                this.cast::<u8>().add(offset).copy_from_nonoverlapping(data.as_ptr(), data.len());
                (*this).checksum = checksum(view(this).path(), Some(data));
                true
            }
            _ => false,
        }
    }
}

/// Changes ACL and stat in place; lengths and children stay.
///
/// # Safety
/// `this` is alive and was born in the version being built.
pub(super) unsafe fn set_header(this: *mut Raw, acl: AclRef, stat: &NodeStat) {
    // SAFETY: the znode is the writer's alone; the old list is dropped once, by the assignment.
    let raw = unsafe { &mut *this };
    *raw.acl = acl;
    raw.czxid = stat.czxid;
    raw.mzxid = stat.mzxid;
    raw.pzxid = stat.pzxid;
    raw.ctime = stat.ctime;
    raw.mtime = stat.mtime;
    raw.ephemeral_owner = stat.ephemeral_owner;
    raw.version = stat.version;
    raw.cversion = stat.cversion;
    raw.aversion = stat.aversion;
}

/// The view of a znode.
///
/// # Safety
/// `this` is alive and unchanged for `'t`.
#[inline(always)]
pub(super) unsafe fn view<'t>(this: *const Raw) -> Znode<'t> {
    // SAFETY: not null because it is alive.
    Znode { raw: unsafe { NonNull::new_unchecked(this.cast_mut()) }, version: PhantomData }
}

/// A view of one znode in one version. It is a pointer: copy it freely.
#[derive(Clone, Copy)]
pub struct Znode<'t> {
    raw: NonNull<Raw>,
    version: PhantomData<&'t Raw>,
}

impl<'t> Znode<'t> {
    #[inline(always)]
    fn raw(self) -> &'t Raw {
        // SAFETY: whoever made the view keeps the znode alive and unchanged for 't: a standing reader or a hold through
        // the rule of reclamation, the writer through its own borrow.
        let raw = unsafe { self.raw.as_ref() };
        check_stamp(raw.born, POISON - 1);
        raw
    }
    /// Full path.
    pub fn path(&self) -> &'t str {
        // SAFETY: alive for 't (see `raw`); the bytes came from a `&str`.
        unsafe { std::str::from_utf8_unchecked(path_bytes(self.raw.as_ptr())) }
    }
    /// Data; `None` is null.
    pub fn data(&self) -> Option<&'t [u8]> {
        let (path_length, data_length) = (self.raw().path_length, self.raw().data_length);
        if data_length == NULL_DATA {
            return None;
        }
        // SAFETY: alive and unchanged for 't (see `raw`); data lies where `offsets` says, as the constructors put it.
        Some(unsafe {
            if is_shared(data_length) {
                &**shared_slot(self.raw.as_ptr())
            } else {
                let start = self.raw.as_ptr().cast::<u8>().add(PATH_OFFSET + path_length as usize);
                std::slice::from_raw_parts(start, data_length as usize)
            }
        })
    }
    /// The data as shared bytes, when it is stored so: from [`SHARED_BYTES_MIN`] up.
    pub fn shared_data(&self) -> Option<Bytes> {
        // SAFETY: alive for 't (see `raw`) and shared as just checked; cloning needs no exclusive access.
        is_shared(self.raw().data_length).then(|| unsafe { (*shared_slot(self.raw.as_ptr())).clone() })
    }
    /// The stat fields, as stored.
    pub fn stat(&self) -> NodeStat {
        let raw = self.raw();
        NodeStat {
            czxid: raw.czxid,
            mzxid: raw.mzxid,
            pzxid: raw.pzxid,
            ctime: raw.ctime,
            mtime: raw.mtime,
            version: raw.version,
            cversion: raw.cversion,
            aversion: raw.aversion,
            ephemeral_owner: raw.ephemeral_owner,
            data_length: if raw.data_length == NULL_DATA { 0 } else { raw.data_length as i32 },
            num_children: raw.num_children as i32,
        }
    }
    /// The ACL.
    pub fn acl(&self) -> &'t AclRef {
        &self.raw().acl
    }
    /// Names of the children, sorted.
    pub fn children(&self) -> Children<'t> {
        let raw = self.raw();
        // SAFETY: the chunks of a znode live as long as the version that shows it, hence for 't.
        unsafe { Children::new(raw.children, raw.num_children) }
    }
    /// CRC-32 (IEEE) of path and data, one after the other; the root counts under the empty path, as in the digest.
    pub fn checksum(&self) -> u32 {
        self.raw().checksum
    }
    /// Where it is.
    pub(super) fn address(&self) -> *mut Raw {
        self.raw.as_ptr()
    }
}

impl std::fmt::Debug for Znode<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Znode")
            .field("path", &self.path())
            .field("stat", &self.stat())
            .finish_non_exhaustive()
    }
}
