//! One znode: header, path and data in one allocation, and the view through which everything reads it.
//!
//! Owns the layout.
//!
//! Never finds a znode and never decides how long it lives.
//!
//! Correct because a published znode does not change. The writer changes one in place only while it was
//! born in the version being built.
//!
//! ```text
//! 0       8      16                    64     72        80            96         112
//! ├ born ─┼ hash ┼ zxids, times, owner ┼ acl ─┼ children ┼ 3 versions, ┼ lengths,  ┼ path ┼ data, or `Bytes`
//! │       │      │                     │      │          │ child count │ checksum  │      │ aligned to 8,
//! └───────┴──────┴─────────────────────┴──────┴──────────┴─────────────┴───────────┴──────┘ if large
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

/// Offset of the path, bytes.
const PATH_OFFSET: usize = size_of::<Raw>();
const _: () = assert!(PATH_OFFSET == 112 && align_of::<Raw>() == 8 && align_of::<Bytes>() <= 8);

/// Header of a znode. Path and data follow it in the same allocation.
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
    /// Bytes of data, or [`NULL_DATA`].
    data_length: u32,
    checksum: u32,
    _spare: u32,
}

/// Refuses paths and data above [`LENGTH_MAX`].
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

/// Offset of the data, and size of the whole allocation.
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
        // SAFETY: the caller keeps `this` alive.
        unsafe { layout((*this).path_length, (*this).data_length) }
    }
    unsafe fn drop_fields(this: *mut Raw) {
        // SAFETY: the caller keeps `this` alive and lets nothing else use it. The constructors initialize
        // `acl` and the shared data, and only this function drops them. Children are objects of their own
        // and belong to the version, not to this copy.
        unsafe {
            ManuallyDrop::drop(&mut (*this).acl);
            if is_shared((*this).data_length) {
                shared_slot(this).drop_in_place();
            }
        }
    }
    unsafe fn shared_bytes(this: *const Raw) -> u64 {
        // SAFETY: the caller keeps `this` alive.
        let length = unsafe { (*this).data_length };
        if is_shared(length) { u64::from(length) } else { 0 }
    }
}

/// # Safety
/// `this` is alive and its data is shared.
unsafe fn shared_slot(this: *mut Raw) -> *mut Bytes {
    // SAFETY: the caller keeps `this` alive with shared data, so the offset lies within the allocation and
    // is aligned (`offsets`).
    unsafe { this.cast::<u8>().add(offsets((*this).path_length, (*this).data_length).0).cast() }
}

/// Bytes of the path.
///
/// # Safety
/// `this` is alive for `'t`.
#[inline(always)]
pub(super) unsafe fn path_bytes<'t>(this: *const Raw) -> &'t [u8] {
    // SAFETY: the caller keeps `this` alive. The constructors wrote the path behind the header, and it
    // never changes.
    unsafe { std::slice::from_raw_parts(this.cast::<u8>().add(PATH_OFFSET), (*this).path_length as usize) }
}

/// Prefetches the lines of a znode of usual size: a reply needs header, path and data.
#[inline(always)]
pub(super) fn prefetch_znode(this: *const Raw) {
    for line in 0..4 {
        prefetch(this.cast::<u8>().wrapping_add(line * 64));
    }
}

/// Header of a new znode, without path and data.
pub(super) struct Header {
    pub(super) hash: u64,
    pub(super) acl: AclRef,
    pub(super) stat: NodeStat,
    pub(super) children: *mut Chunk,
    pub(super) num_children: u32,
}

/// Makes a znode. The caller has checked the lengths ([`check_lengths`]).
pub(super) fn allocate(heap: &mut Heap, header: Header, path: &str, data: Option<&[u8]>) -> *mut Raw {
    let data_length = data.map_or(NULL_DATA, |data| data.len() as u32);
    let path_length = path.len() as u32;
    let this: *mut Raw = heap.allocate(layout(path_length, data_length));
    assert!(this.addr() >> 48 == 0, "user addresses of more than 48 bits cannot carry a tag");
    let stat = header.stat;
    // SAFETY: the heap just gave the memory, of the layout for these lengths. Every field, the path and the
    // data are written; the stamp is the one that the heap wrote.
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

/// Copies a znode that the writer must not change into one that it may change.
///
/// # Safety
/// `old` is alive.
pub(super) unsafe fn copy(heap: &mut Heap, old: *mut Raw) -> *mut Raw {
    // SAFETY: the caller keeps `old` alive, and the heap just gave new memory of the same layout.
    // Reference-counted fields (ACL, shared data) are cloned, never copied bit by bit: a reader may clone
    // the same `Bytes` now.
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

/// Changes the data in place if the new data fits exactly. Returns whether it did.
///
/// # Safety
/// `this` is alive and was born in the version being built.
pub(super) unsafe fn overwrite(this: *mut Raw, data: Option<&[u8]>) -> bool {
    // SAFETY: the caller passes a znode born in the version being built, which no reader sees. Data of
    // equal length lies inside its allocation.
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

/// Changes ACL and stat in place. Lengths and children stay.
///
/// # Safety
/// `this` is alive and was born in the version being built.
pub(super) unsafe fn set_header(this: *mut Raw, acl: AclRef, stat: &NodeStat) {
    // SAFETY: the caller passes a znode born in the version being built, which no reader sees. The
    // assignment drops the old list once.
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

/// Makes the view of a znode.
///
/// # Safety
/// `this` is alive and unchanged for `'t`.
#[inline(always)]
pub(super) unsafe fn view<'t>(this: *const Raw) -> Znode<'t> {
    // SAFETY: the caller passes a live object, so the pointer is not null.
    Znode { raw: unsafe { NonNull::new_unchecked(this.cast_mut()) }, version: PhantomData }
}

/// View of one znode in one version: a pointer, cheap to copy.
#[derive(Clone, Copy)]
pub struct Znode<'t> {
    raw: NonNull<Raw>,
    version: PhantomData<&'t Raw>,
}

impl<'t> Znode<'t> {
    #[inline(always)]
    fn raw(self) -> &'t Raw {
        // SAFETY: the caller of `view` keeps the znode alive and unchanged for 't: a reader by its pin, a
        // snapshot view by its hold, the writer by its own borrow.
        let raw = unsafe { self.raw.as_ref() };
        check_stamp(raw.born, POISON - 1);
        raw
    }
    pub fn path(&self) -> &'t str {
        // SAFETY: alive for 't (see `raw`), and the constructors copied the bytes from a `&str`.
        unsafe { std::str::from_utf8_unchecked(path_bytes(self.raw.as_ptr())) }
    }
    /// `None` is ZooKeeper's null.
    pub fn data(&self) -> Option<&'t [u8]> {
        let (path_length, data_length) = (self.raw().path_length, self.raw().data_length);
        if data_length == NULL_DATA {
            return None;
        }
        // SAFETY: alive and unchanged for 't (see `raw`). The data lies where `offsets` says, as the
        // constructors wrote it.
        Some(unsafe {
            if is_shared(data_length) {
                &**shared_slot(self.raw.as_ptr())
            } else {
                let start = self.raw.as_ptr().cast::<u8>().add(PATH_OFFSET + path_length as usize);
                std::slice::from_raw_parts(start, data_length as usize)
            }
        })
    }
    /// The data as shared bytes, if it is stored so: from [`SHARED_BYTES_MIN`] up.
    pub fn shared_data(&self) -> Option<Bytes> {
        // SAFETY: alive for 't (see `raw`) and shared, as the condition says. Cloning needs no exclusive
        // access.
        is_shared(self.raw().data_length).then(|| unsafe { (*shared_slot(self.raw.as_ptr())).clone() })
    }
    /// The stat fields as stored: the cversion is not the wire's.
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
    pub fn acl(&self) -> &'t AclRef {
        &self.raw().acl
    }
    /// Names of the children, sorted by bytes.
    pub fn children(&self) -> Children<'t> {
        let raw = self.raw();
        // SAFETY: the chunks of a znode live as long as the version that shows it, hence for 't.
        unsafe { Children::new(raw.children, raw.num_children) }
    }
    /// CRC-32 (IEEE) of path and data, one after the other. The root's path counts as empty, as in the
    /// digest.
    pub fn checksum(&self) -> u32 {
        self.raw().checksum
    }
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
