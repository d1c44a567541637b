//! Writer: the only handle that changes the tree, publishes its versions and frees the old ones.
//!
//! Owns the version being built, the counters, and through its heap every object of the tree.
//!
//! Never changes what is published, and never reads a clock.
//!
//! Correct because every change takes one path: find the znode, copy it into this version unless it was
//! born there, change it.

use super::children;
use super::epochs::Release;
use super::hash::PathHasher;
use super::node::{
    NewNode, NodeStat, RestoredNode, TreeError, approximate_bytes, is_session, next_version, split,
};
use super::object::Object;
use super::pages::{self, Part, Table};
use super::reader::{BATCH_LOOKUPS, PublishedVersion, Reader, Shared, descend, get};
use super::reclaim::Heap;
use super::snapshot_view::SnapshotView;
use super::znode::{self, Header, Raw, Znode, check_lengths};
use crate::acl::{AclList, AclRef};
use std::ptr::null_mut;
use std::sync::Arc;

/// Permission bits of the reserved znodes: all, and read only for `/zookeeper/config`.
const PERMS_ALL: i32 = 31;
const PERM_READ: i32 = 1;

/// Sums over the znodes of one version.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) znodes: u64,
    ephemerals: u64,
    approximate_bytes: u64,
}

impl Counts {
    fn add(&mut self, znode: Znode<'_>) {
        let stat = znode.stat();
        self.znodes += 1;
        self.ephemerals += u64::from(is_session(stat.ephemeral_owner));
        self.approximate_bytes += approximate_bytes(znode.path(), stat.data_length as usize);
    }
    fn subtract(&mut self, znode: Znode<'_>) {
        let stat = znode.stat();
        self.znodes -= 1;
        self.ephemerals -= u64::from(is_session(stat.ephemeral_owner));
        self.approximate_bytes -= approximate_bytes(znode.path(), stat.data_length as usize);
    }
}

/// Heap and newest root of a dropped writer. The last of the readers and holds frees them.
pub(super) struct DeferredFree {
    heap: Heap,
    root: *mut Table,
}

// SAFETY: nothing reads through it. It is only freed, once, by the last owner of `Shared`, on any thread.
unsafe impl Send for DeferredFree {}

impl DeferredFree {
    /// # Safety
    /// There is no writer, no reader and no hold any more.
    pub(super) unsafe fn free(mut self) {
        // SAFETY: the caller guarantees that no reader and no hold is left. Each object is reachable from
        // the newest root once, or retired once. A part is visited after all that lies below it.
        unsafe {
            let heap = &mut self.heap;
            pages::dismantle(self.root, &mut |part| match part {
                Part::Table(table) => heap.free(Object::of(table)),
                Part::Page(page) => heap.free(Object::of(page)),
                Part::Znode(znode) => {
                    children::dismantle((*znode).children, &mut |chunk| heap.free(Object::of(chunk)));
                    heap.free(Object::of(znode));
                }
            });
            self.heap.free_retired();
        }
    }
}

/// The only handle that changes the tree. Publishes versions and frees old ones.
pub struct Writer {
    shared: Arc<Shared>,
    heap: Heap,
    root: *mut Table,
    counts: Counts,
    /// Root and sums of the newest published version.
    published: (*mut Table, Counts),
    /// Root and sums at the savepoint.
    saved: Option<(*mut Table, Counts)>,
    /// Parent of the znode restored last, since snapshots list siblings together. Null when not known.
    restored_parent: *mut Raw,
}

// SAFETY: only the writer writes through these pointers, and it changes no object that a reader or a hold
// can see.
unsafe impl Send for Writer {}

/// A new tree with ZooKeeper's reserved znodes, and readers that pin its first version.
pub(super) fn tree(readers: usize, hasher: PathHasher) -> (Writer, Vec<Reader>) {
    let shared = Arc::new(Shared::new(readers, hasher));
    let mut heap = Heap::new();
    let root = pages::new_root(&mut heap);
    let counts = Counts::default();
    let published = (root, counts);
    let mut writer = Writer {
        shared: shared.clone(),
        heap,
        root,
        counts,
        published,
        saved: None,
        restored_parent: null_mut(),
    };
    let list = |perms| -> AclRef { Arc::new(AclList::world(perms)) };
    let open = list(PERMS_ALL);
    let config = (list(PERM_READ), -1);
    let reserved = [
        ("/", (open.clone(), 0)),
        ("/zookeeper", (open.clone(), 0)),
        ("/zookeeper/quota", (open, 0)),
        ("/zookeeper/config", config),
    ];
    for (path, (acl, aversion)) in reserved {
        let stat = NodeStat { aversion, ..NodeStat::default() };
        writer.restore(RestoredNode { path, data: Some(b""), acl, stat }).expect("parents come first");
    }
    let first = writer.publish();
    let readers = (0..readers).map(|index| Reader::new(shared.clone(), index, &first)).collect();
    (writer, readers)
}

impl Writer {
    /// Looks up a path in the version being built.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        // SAFETY: everything below the root of the version being built is alive, and changes only through
        // `&mut self`.
        unsafe { get(self.root, &self.shared.hasher, path, self.heap.building()) }
    }

    /// Prefetches the memory of these paths, all together. A hint: later lookups and changes of them do not
    /// wait for each cache line alone. Worth it from a few paths up, and for no more than fit the cache
    /// (some 64).
    pub fn prefetch(&self, paths: &[&str]) {
        for group in paths.chunks(BATCH_LOOKUPS) {
            // SAFETY: as in `get`.
            let _ = unsafe { descend(self.root, &self.shared.hasher, group, self.heap.building()) };
        }
    }

    fn find(&self, path: &str) -> Option<*mut Raw> {
        self.get(path).map(|znode| znode.address())
    }

    /// Returns the znode itself if it was born in the version being built, otherwise a copy that replaces
    /// it there.
    ///
    /// # Safety
    /// `znode` is alive and part of the version being built.
    unsafe fn fresh(&mut self, znode: *mut Raw) -> *mut Raw {
        // SAFETY: the caller keeps `znode` alive and in the version being built. The copy replaces it in
        // the index before it is discarded.
        unsafe {
            if (*znode).born == self.heap.building() {
                return znode;
            }
            let copy = znode::copy(&mut self.heap, znode);
            pages::replace(&mut self.heap, &mut self.root, znode, copy);
            self.heap.discard(znode);
            debug_assert_eq!((*copy).born, self.heap.building(), "a copy belongs to the version being built");
            copy
        }
    }

    fn make_fresh(&mut self, path: &str) -> Result<*mut Raw, TreeError> {
        self.restored_parent = null_mut();
        let znode = self.find(path).ok_or(TreeError::NoNode)?;
        // SAFETY: `find` returned it from the version being built, and nothing changed since.
        Ok(unsafe { self.fresh(znode) })
    }

    /// Creates a znode. The parent's cversion grows by one and its pzxid becomes the zxid.
    pub fn create(&mut self, new: &NewNode<'_>) -> Result<(), TreeError> {
        self.restored_parent = null_mut();
        let (parent, name) = split(new.path).ok_or(TreeError::BadPath)?;
        check_lengths(new.path, new.data)?;
        let parent = self.find(parent).ok_or(TreeError::NoParent)?;
        if self.get(new.path).is_some() {
            return Err(TreeError::NodeExists);
        }
        let stat = NodeStat {
            czxid: new.zxid,
            mzxid: new.zxid,
            pzxid: new.zxid,
            ctime: new.time_ms,
            mtime: new.time_ms,
            ephemeral_owner: new.ephemeral_owner,
            ..NodeStat::default()
        };
        let node = RestoredNode { path: new.path, data: new.data, acl: new.acl.clone(), stat };
        // SAFETY: `find` returned the parent from the version being built, and nothing changed since.
        unsafe {
            let parent = self.fresh(parent);
            self.add(parent, name, node);
            (*parent).cversion = (*parent).cversion.wrapping_add(1);
            (*parent).pzxid = new.zxid;
        }
        Ok(())
    }

    /// Inserts a znode that is not there, and its name into the parent.
    ///
    /// # Safety
    /// `parent` is alive and was born in the version being built.
    unsafe fn add(&mut self, parent: *mut Raw, name: &str, node: RestoredNode<'_>) {
        // SAFETY: the caller keeps `parent` alive and born in the version being built; its chunks belong to
        // that version with it.
        unsafe {
            debug_assert_eq!((*parent).born, self.heap.building(), "only such a znode changes in place");
            (*parent).children = children::insert(&mut self.heap, (*parent).children, name)
                .expect("a name is among the children if and only if its znode is there");
            (*parent).num_children += 1;
            self.put(node);
        }
    }

    /// Inserts a znode that is not there and has no children.
    fn put(&mut self, node: RestoredNode<'_>) {
        debug_assert!(self.find(node.path).is_none(), "{} is there already", node.path);
        let hash = self.shared.hasher.hash(node.path);
        let header = Header { hash, acl: node.acl, stat: node.stat, children: null_mut(), num_children: 0 };
        let znode = znode::allocate(&mut self.heap, header, node.path, node.data);
        // SAFETY: `allocate` just made the znode, and the root is that of the version being built.
        unsafe {
            self.counts.add(znode::view(znode));
            pages::insert(&mut self.heap, &mut self.root, znode);
        }
    }

    /// Deletes a znode without children. The parent's pzxid becomes the zxid if that is larger.
    pub fn delete(&mut self, path: &str, zxid: i64) -> Result<(), TreeError> {
        self.restored_parent = null_mut();
        let (parent, name) = split(path).ok_or(TreeError::BadPath)?;
        let znode = self.find(path).ok_or(TreeError::NoNode)?;
        let parent = self.find(parent).ok_or(TreeError::NoParent)?;
        // SAFETY: `find` returned both from the version being built. The znode is discarded once it is out
        // of the index.
        unsafe {
            if (*znode).num_children != 0 {
                return Err(TreeError::NotEmpty);
            }
            self.counts.subtract(znode::view(znode));
            pages::remove(&mut self.heap, &mut self.root, znode);
            self.heap.discard(znode);
            let parent = self.fresh(parent);
            (*parent).children = children::remove(&mut self.heap, (*parent).children, name)
                .expect("a znode's name is among its parent's children");
            (*parent).num_children -= 1;
            debug_assert_eq!((*parent).children.is_null(), (*parent).num_children == 0, "no chunk is empty");
            (*parent).pzxid = (*parent).pzxid.max(zxid);
        }
        Ok(())
    }

    /// Replaces the data, mzxid and mtime. The version grows by one.
    pub fn set_data(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        zxid: i64,
        time_ms: i64,
    ) -> Result<(), TreeError> {
        self.restored_parent = null_mut();
        check_lengths(path, data)?;
        let old = self.find(path).ok_or(TreeError::NoNode)?;
        // SAFETY: `find` returned it from the version being built, and nothing changed since.
        unsafe {
            let before = znode::view(old).stat();
            let version = next_version(before.version);
            let stat = NodeStat { mzxid: zxid, mtime: time_ms, version, ..before };
            let acl = znode::view(old).acl().clone();
            self.set(old, acl, stat, data);
        }
        Ok(())
    }

    /// Replaces data, ACL and stat of a znode. Its path and children stay.
    ///
    /// # Safety
    /// `old` is alive and part of the version being built.
    unsafe fn set(&mut self, old: *mut Raw, acl: AclRef, stat: NodeStat, data: Option<&[u8]>) {
        // SAFETY: the caller keeps `old` alive and in the version being built. The new znode replaces it in
        // the index before it is discarded.
        unsafe {
            self.counts.subtract(znode::view(old));
            let now = if (*old).born == self.heap.building() && znode::overwrite(old, data) {
                znode::set_header(old, acl, &stat);
                old
            } else {
                let (hash, children, num_children) = ((*old).hash, (*old).children, (*old).num_children);
                let header = Header { hash, acl, stat, children, num_children };
                let now = znode::allocate(&mut self.heap, header, znode::view(old).path(), data);
                pages::replace(&mut self.heap, &mut self.root, old, now);
                self.heap.discard(old);
                now
            };
            self.counts.add(znode::view(now));
        }
    }

    /// Replaces the ACL. The aversion grows by one.
    pub fn set_acl(&mut self, path: &str, acl: AclRef) -> Result<(), TreeError> {
        let znode = self.make_fresh(path)?;
        // SAFETY: `make_fresh` returned a znode that is alive and born in the version being built.
        unsafe {
            let stat = znode::view(znode).stat();
            let aversion = next_version(stat.aversion);
            znode::set_header(znode, acl, &NodeStat { aversion, ..stat });
        }
        Ok(())
    }

    /// Sets the version of the data, as reconfiguration does to its own znode.
    pub fn set_version(&mut self, path: &str, version: i32) -> Result<(), TreeError> {
        let znode = self.make_fresh(path)?;
        // SAFETY: `make_fresh` returned a znode that is alive and born in the version being built.
        unsafe { (*znode).version = version };
        Ok(())
    }

    /// Restores a znode of a snapshot with its stat, over an existing one. Parents come first, siblings in
    /// any order; siblings that follow each other are fastest. Before the first publication nothing is
    /// copied.
    pub fn restore(&mut self, node: RestoredNode<'_>) -> Result<(), TreeError> {
        check_lengths(node.path, node.data)?;
        if let Some(there) = self.find(node.path) {
            self.restored_parent = null_mut();
            // SAFETY: `find` returned it from the version being built, and nothing changed since.
            unsafe { self.set(there, node.acl, node.stat, node.data) };
            return Ok(());
        }
        if node.path == "/" {
            self.put(node);
            return Ok(());
        }
        let (parent, name) = split(node.path).ok_or(TreeError::BadPath)?;
        // SAFETY: `restored_parent` was born in the version being built and is in the index: every method
        // that may move or discard it resets it. Any other parent is found and copied here.
        unsafe {
            let last = self.restored_parent;
            if last.is_null() || znode::view(last).path() != parent {
                let found = self.find(parent).ok_or(TreeError::NoParent)?;
                self.restored_parent = self.fresh(found);
            }
            self.add(self.restored_parent, name, node);
        }
        Ok(())
    }

    /// Marks the point to which [`Writer::rollback`] returns. Panics if one is open.
    pub fn savepoint(&mut self) {
        self.restored_parent = null_mut();
        self.heap.savepoint();
        self.saved = Some((self.root, self.counts));
    }

    /// Undoes everything since the savepoint.
    pub fn rollback(&mut self) {
        self.restored_parent = null_mut();
        (self.root, self.counts) = self.saved.take().expect("rollback without a savepoint");
        self.heap.rollback();
        debug_assert!(!self.heap.in_savepoint(), "heap and root return to the savepoint together");
    }

    /// Closes the savepoint and keeps everything since.
    pub fn release(&mut self) {
        self.saved.take().expect("release without a savepoint");
        self.heap.release();
        debug_assert!(!self.heap.in_savepoint(), "heap and root leave the savepoint together");
    }

    /// Ends the version. Its handle goes to the readers; then [`Writer::reclaim`] is due.
    pub fn publish(&mut self) -> PublishedVersion {
        self.restored_parent = null_mut();
        debug_assert!(self.saved.is_none(), "publish inside a savepoint");
        let number = self.heap.publish();
        self.published = (self.root, self.counts);
        PublishedVersion { tree: self.shared.tree, number, root: self.root }
    }

    /// Frees objects that no reader and no hold can see, up to a limit ([`Writer::has_more_to_reclaim`]).
    /// Call it only when every reader finds the newest [`PublishedVersion`] in the commit ring: a reader
    /// that wakes after this pins nothing below it.
    pub fn reclaim(&mut self) {
        let lowest = self.shared.epochs.lowest(self.heap.published());
        // SAFETY: `lowest` comes from the epochs of this tree's readers.
        unsafe { self.heap.reclaim(lowest) };
    }

    /// Whether the last [`Writer::reclaim`] reached its limit and another call may free more.
    pub fn has_more_to_reclaim(&self) -> bool {
        self.heap.has_more()
    }

    /// Holds the newest published version until the returned view is dropped.
    pub fn hold(&mut self) -> SnapshotView {
        let release = Arc::new(Release::new());
        self.heap.hold(release.clone());
        let (root, counts) = self.published;
        SnapshotView { shared: self.shared.clone(), release, root, version: self.heap.published(), counts }
    }

    /// Bytes of objects that the newest version does not contain and that a reader or a hold may still see.
    pub fn retired_bytes(&self) -> u64 {
        self.heap.retired_bytes()
    }
    /// Count of znodes as ZooKeeper reports it: the root counts twice.
    pub fn node_count(&self) -> u64 {
        self.counts.znodes + 1
    }
    /// Sum of path characters (UTF-16) and data bytes.
    pub fn approximate_data_bytes(&self) -> u64 {
        self.counts.approximate_bytes
    }
    /// Count of znodes that a session owns.
    pub fn ephemeral_count(&self) -> u64 {
        self.counts.ephemerals
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.heap.in_savepoint() {
            self.rollback();
        }
        let deferred = DeferredFree { heap: std::mem::take(&mut self.heap), root: self.root };
        *self.shared.deferred_free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(deferred);
    }
}
