//! Snapshot view: one version of the tree, held as a whole for a checkpoint.
//!
//! Owns its hold on the heap.
//!
//! Never stops the writer or a reader. Its cost is the old copies of what changes meanwhile.
//!
//! Correct because the heap frees nothing that the hold can see. The walk follows names, parents first. So
//! the same tree gives the same order on every node, and a restore finds siblings together.

use super::children::Children;
use super::epochs::Release;
use super::pages::Table;
use super::reader::{BATCH_LOOKUPS, Shared, get, get_batch};
use super::writer::Counts;
use super::znode::Znode;
use std::collections::VecDeque;
use std::sync::Arc;

/// One version of the tree, held until this value is dropped. It may move to another thread while readers
/// and the writer go on.
pub struct SnapshotView {
    pub(super) shared: Arc<Shared>,
    pub(super) release: Arc<Release>,
    pub(super) root: *mut Table,
    pub(super) version: u64,
    pub(super) counts: Counts,
}

// SAFETY: the hold keeps the version alive (`Heap::reclaim` respects it), and the writer changes no
// published version.
unsafe impl Send for SnapshotView {}
// SAFETY: as above, and every access through a shared reference only reads.
unsafe impl Sync for SnapshotView {}

impl SnapshotView {
    pub fn version(&self) -> u64 {
        self.version
    }
    /// Count of znodes that [`SnapshotView::iter`] yields: the root once.
    pub fn len(&self) -> u64 {
        self.counts.znodes
    }
    /// Always false: every version has a root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Looks up a path in the held version.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        // SAFETY: the hold keeps its version alive (`Heap::reclaim` respects it), and the writer changes no
        // published version.
        unsafe { get(self.root, &self.shared.hasher, path, self.version) }
    }
    /// Every znode, parents before children, in an order that depends on names only.
    pub fn iter(&self) -> SnapshotViewIter<'_> {
        let root = self.get("/");
        SnapshotViewIter {
            held: self,
            ready: root.into_iter().collect(),
            open: Vec::new(),
            paths: String::new(),
        }
    }
}

impl<'h> IntoIterator for &'h SnapshotView {
    type Item = Znode<'h>;
    type IntoIter = SnapshotViewIter<'h>;
    fn into_iter(self) -> SnapshotViewIter<'h> {
        self.iter()
    }
}

impl Drop for SnapshotView {
    fn drop(&mut self) {
        self.release.give_up();
    }
}

/// Walk over a [`SnapshotView`], parents before children.
pub struct SnapshotViewIter<'h> {
    held: &'h SnapshotView,
    /// Looked up and not yet yielded.
    ready: VecDeque<Znode<'h>>,
    /// Znodes whose children are not all found yet.
    open: Vec<(Znode<'h>, Children<'h>)>,
    /// Paths of the next group, concatenated.
    paths: String,
}

impl<'h> SnapshotViewIter<'h> {
    /// Looks up the next group of siblings, at most [`BATCH_LOOKUPS`].
    fn find_more(&mut self) {
        let Some((parent, children)) = self.open.last_mut() else { return };
        let prefix = if parent.path() == "/" { "" } else { parent.path() };
        self.paths.clear();
        let mut ends = [0; BATCH_LOOKUPS];
        let mut group = 0;
        for (end, name) in ends.iter_mut().zip(children.by_ref()) {
            self.paths.push_str(prefix);
            self.paths.push('/');
            self.paths.push_str(name);
            *end = self.paths.len();
            group += 1;
        }
        if group < BATCH_LOOKUPS {
            self.open.pop();
        }
        let mut paths = [""; BATCH_LOOKUPS];
        let mut start = 0;
        for (path, &end) in paths.iter_mut().zip(&ends[..group]) {
            *path = &self.paths[start..end];
            start = end;
        }
        let (mut found, held) = (Vec::with_capacity(group), self.held);
        // SAFETY: the hold keeps its version alive and unchanged (see `SnapshotView::get`).
        unsafe { get_batch(held.root, &held.shared.hasher, &paths[..group], held.version, &mut found) };
        self.ready.extend(found.into_iter().map(|znode| znode.expect("each child has a znode")));
    }
}

impl<'h> Iterator for SnapshotViewIter<'h> {
    type Item = Znode<'h>;

    fn next(&mut self) -> Option<Znode<'h>> {
        while self.ready.is_empty() && !self.open.is_empty() {
            self.find_more();
        }
        let znode = self.ready.pop_front()?;
        let children = znode.children();
        if children.len() > 0 {
            self.open.push((znode, children));
        }
        Some(znode)
    }
}
