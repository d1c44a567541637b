//! The writer: the one who changes the tree, publishes its versions and frees the old ones.
//!
//! Owns the version being built, the counters, and through its heap every object of the tree. Never changes what is
//! published, and never reads a clock. It stays correct because every change goes through one way: find, make the
//! znode one of this version (a copy, unless it is already), change it.

use super::children;
use super::hash::PathHasher;
use super::held::Held;
use super::node::{
    NewNode, NodeStat, RestoredNode, TreeError, approximate_bytes, is_session, next_version, split,
};
use super::object::Object;
use super::pages::{self, Part, Table};
use super::reader::{BATCH_LOOKUPS, Published, Reader, Shared, descend, get};
use super::reclaim::Heap;
use super::standing::Release;
use super::znode::{self, Header, Raw, Znode, check_lengths};
use crate::acl::{AclList, AclRef};
use std::ptr::null_mut;
use std::sync::Arc;

/// Permission bits that the reserved znodes have.
const PERMS_ALL: i32 = 31;
const PERM_READ: i32 = 1;

/// Sums over a version.
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

/// What the writer leaves behind for the last reader to free.
pub(super) struct Estate {
    heap: Heap,
    root: *mut Table,
}

// SAFETY: it is only ever freed, by whoever is last.
unsafe impl Send for Estate {}

impl Estate {
    /// # Safety
    /// There is no writer, no reader and no hold any more.
    pub(super) unsafe fn free(mut self) {
        // SAFETY: by the caller's word nobody is left. Everything is either reachable from the newest root, once, or
        // retired, once. A part is visited after all that lies below it.
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

/// The only one who changes the tree.
pub struct Writer {
    shared: Arc<Shared>,
    heap: Heap,
    root: *mut Table,
    counts: Counts,
    /// Root and sums of the newest published version.
    published: (*mut Table, Counts),
    /// Root and sums at the savepoint.
    saved: Option<(*mut Table, Counts)>,
    /// The parent of the znode restored last: snapshots come with siblings together. Null when not known.
    restored_parent: *mut Raw,
}

// SAFETY: the writer alone uses what it points to for writing, and what others read is not changed.
unsafe impl Send for Writer {}

/// A new tree with ZooKeeper's reserved znodes, and readers that stand on its first version.
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
    /// Looks up in the version being built.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        // SAFETY: everything below the root of the version being built is alive, and changes only through `&mut self`.
        unsafe { get(self.root, &self.shared.hasher, path, self.heap.building()) }
    }

    /// Brings the memory of these paths near, all together. A hint: what is looked up, changed, created or restored next
    /// does not wait for each line alone. Worth it from a few paths up, and not for more than fit the cache (some 64).
    pub fn prefetch(&self, paths: &[&str]) {
        for group in paths.chunks(BATCH_LOOKUPS) {
            // SAFETY: as in `get`.
            let _ = unsafe { descend(self.root, &self.shared.hasher, group, self.heap.building()) };
        }
    }

    fn find(&self, path: &str) -> Option<*mut Raw> {
        self.get(path).map(|znode| znode.address())
    }

    /// The znode as one that may be changed in place.
    ///
    /// # Safety
    /// `znode` is alive and part of the version being built.
    unsafe fn fresh(&mut self, znode: *mut Raw) -> *mut Raw {
        // SAFETY: by the caller's word; the copy takes the place of the old one before that is discarded.
        unsafe {
            if (*znode).born == self.heap.building() {
                return znode;
            }
            let copy = znode::copy(&mut self.heap, znode);
            pages::replace(&mut self.heap, &mut self.root, znode, copy);
            self.heap.discard(znode);
            copy
        }
    }

    fn make_fresh(&mut self, path: &str) -> Result<*mut Raw, TreeError> {
        self.restored_parent = null_mut();
        let znode = self.find(path).ok_or(TreeError::NoNode)?;
        // SAFETY: just found in the version being built.
        Ok(unsafe { self.fresh(znode) })
    }

    /// Creates a znode; the parent's cversion grows by one and its pzxid becomes the zxid.
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
        // SAFETY: the parent was found in the version being built.
        unsafe {
            let parent = self.fresh(parent);
            self.add(parent, name, node);
            (*parent).cversion = (*parent).cversion.wrapping_add(1);
            (*parent).pzxid = new.zxid;
        }
        Ok(())
    }

    /// Puts in a znode that is not there, and its name into the parent.
    ///
    /// # Safety
    /// `parent` is alive and was born in the version being built.
    unsafe fn add(&mut self, parent: *mut Raw, name: &str, node: RestoredNode<'_>) {
        // SAFETY: by the caller's word; the parent's chunks belong to the version being built with it.
        unsafe {
            (*parent).children = children::insert(&mut self.heap, (*parent).children, name)
                .expect("a name is among the children if and only if its znode is there");
            (*parent).num_children += 1;
            self.put(node);
        }
    }

    /// Puts in a znode that is not there and has no children.
    fn put(&mut self, node: RestoredNode<'_>) {
        let hash = self.shared.hasher.hash(node.path);
        let header = Header { hash, acl: node.acl, stat: node.stat, children: null_mut(), num_children: 0 };
        let znode = znode::allocate(&mut self.heap, header, node.path, node.data);
        // SAFETY: just made.
        unsafe {
            self.counts.add(znode::view(znode));
            pages::insert(&mut self.heap, &mut self.root, znode);
        }
    }

    /// Deletes a znode without children; the parent's pzxid becomes the zxid if that is larger.
    pub fn delete(&mut self, path: &str, zxid: i64) -> Result<(), TreeError> {
        self.restored_parent = null_mut();
        let (parent, name) = split(path).ok_or(TreeError::BadPath)?;
        let znode = self.find(path).ok_or(TreeError::NoNode)?;
        let parent = self.find(parent).ok_or(TreeError::NoParent)?;
        // SAFETY: both were just found in the version being built; the znode is discarded once it is out of the index.
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
            (*parent).pzxid = (*parent).pzxid.max(zxid);
        }
        Ok(())
    }

    /// Replaces the data; mzxid, mtime and version follow.
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
        // SAFETY: just found in the version being built.
        unsafe {
            let before = znode::view(old).stat();
            let version = next_version(before.version);
            let stat = NodeStat { mzxid: zxid, mtime: time_ms, version, ..before };
            let acl = znode::view(old).acl().clone();
            self.set(old, acl, stat, data);
        }
        Ok(())
    }

    /// Gives a znode new data, ACL and stat; its path and children stay.
    ///
    /// # Safety
    /// `old` is alive and part of the version being built.
    unsafe fn set(&mut self, old: *mut Raw, acl: AclRef, stat: NodeStat, data: Option<&[u8]>) {
        // SAFETY: by the caller's word; the new znode takes the place of the old one before that is discarded.
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

    /// Replaces the ACL; aversion grows by one.
    pub fn set_acl(&mut self, path: &str, acl: AclRef) -> Result<(), TreeError> {
        let znode = self.make_fresh(path)?;
        // SAFETY: alive and born in the version being built.
        unsafe {
            let stat = znode::view(znode).stat();
            let aversion = next_version(stat.aversion);
            znode::set_header(znode, acl, &NodeStat { aversion, ..stat });
        }
        Ok(())
    }

    /// Forces the version, as reconfiguration does to its own znode.
    pub fn set_version(&mut self, path: &str, version: i32) -> Result<(), TreeError> {
        let znode = self.make_fresh(path)?;
        // SAFETY: alive and born in the version being built.
        unsafe { (*znode).version = version };
        Ok(())
    }

    /// Puts a znode of a snapshot into the tree as it is, over what is there. Parents first, siblings in any order;
    /// fastest when siblings come together. Before the first publication nothing is copied.
    pub fn restore(&mut self, node: RestoredNode<'_>) -> Result<(), TreeError> {
        check_lengths(node.path, node.data)?;
        if let Some(there) = self.find(node.path) {
            self.restored_parent = null_mut();
            // SAFETY: just found in the version being built.
            unsafe { self.set(there, node.acl, node.stat, node.data) };
            return Ok(());
        }
        if node.path == "/" {
            self.put(node);
            return Ok(());
        }
        let (parent, name) = split(node.path).ok_or(TreeError::BadPath)?;
        // SAFETY: the parent restored last is of the version being built and in place: everything that may move or end
        // it forgets it. Any other is found and made so here.
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

    /// Marks the point to which [`Writer::rollback`] returns. One at a time.
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
    }

    /// Keeps everything since the savepoint.
    pub fn release(&mut self) {
        self.saved.take().expect("release without a savepoint");
        self.heap.release();
    }

    /// Ends the version. What it gives goes to the readers; then [`Writer::reclaim`].
    pub fn publish(&mut self) -> Published {
        self.restored_parent = null_mut();
        let number = self.heap.publish();
        self.published = (self.root, self.counts);
        Published { tree: self.shared.tree, number, root: self.root }
    }

    /// Frees what nobody can see, or some of it ([`Writer::has_more_to_reclaim`]). To be called when the newest [`Published`] is where every reader finds it: a
    /// reader that wakes after this moves nowhere below it.
    pub fn reclaim(&mut self) {
        let lowest = self.shared.standings.lowest(self.heap.published());
        // SAFETY: the number comes from the standings of this tree.
        unsafe { self.heap.reclaim(lowest) };
    }

    /// Whether the last [`Writer::reclaim`] left something for the next one, so that nobody waits for all of it.
    pub fn has_more_to_reclaim(&self) -> bool {
        self.heap.has_more()
    }

    /// Holds the newest published version until the hold is dropped.
    pub fn hold(&mut self) -> Held {
        let release = Arc::new(Release::new());
        self.heap.hold(release.clone());
        let (root, counts) = self.published;
        Held { shared: self.shared.clone(), release, root, version: self.heap.published(), counts }
    }

    /// Bytes that the newest version does not contain and that somebody may still see.
    pub fn retired_bytes(&self) -> u64 {
        self.heap.retired_bytes()
    }
    /// Znodes as ZooKeeper counts them: the root twice.
    pub fn node_count(&self) -> u64 {
        self.counts.znodes + 1
    }
    /// Sum of path characters and data bytes.
    pub fn approximate_data_bytes(&self) -> u64 {
        self.counts.approximate_bytes
    }
    /// Znodes that belong to sessions.
    pub fn ephemeral_count(&self) -> u64 {
        self.counts.ephemerals
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.heap.in_savepoint() {
            self.rollback();
        }
        let estate = Estate { heap: std::mem::take(&mut self.heap), root: self.root };
        *self.shared.estate.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(estate);
    }
}
