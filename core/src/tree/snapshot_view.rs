//! A version held as a whole, for checkpoints.
//!
//! Owns nothing but its hold on the heap. Never stops the writer or a reader: it costs the old copies of what changes
//! meanwhile. Its walk goes down by names, parents first, so that the same tree gives the same order on every node
//! and a restore finds siblings together.

use super::children::Children;
use super::epochs::Release;
use super::pages::Table;
use super::reader::{BATCH_LOOKUPS, Shared, get, get_batch};
use super::writer::Counts;
use super::znode::Znode;
use std::collections::VecDeque;
use std::sync::Arc;

/// One version, held for as long as this value lives. For checkpoints: it may go to another thread, and readers and
/// the writer go on meanwhile.
pub struct SnapshotView {
    pub(super) shared: Arc<Shared>,
    pub(super) release: Arc<Release>,
    pub(super) root: *mut Table,
    pub(super) version: u64,
    pub(super) counts: Counts,
}

// SAFETY: the version is kept alive by the hold and is not changed by anybody.
unsafe impl Send for SnapshotView {}
// SAFETY: all access through it is reading.
unsafe impl Sync for SnapshotView {}

impl SnapshotView {
    /// The version's number.
    pub fn version(&self) -> u64 {
        self.version
    }
    /// Znodes that [`SnapshotView::iter`] gives.
    pub fn len(&self) -> u64 {
        self.counts.znodes
    }
    /// Never: there is a root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Looks up in the held version.
    pub fn get(&self, path: &str) -> Option<Znode<'_>> {
        // SAFETY: the hold keeps its version alive (see `reclaim`), and published versions do not change.
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

/// See [`SnapshotView::iter`].
pub struct SnapshotViewIter<'h> {
    held: &'h SnapshotView,
    /// Found, not given yet.
    ready: VecDeque<Znode<'h>>,
    /// Znodes whose children are not all found yet.
    open: Vec<(Znode<'h>, Children<'h>)>,
    /// Paths of the next group, one behind the other.
    paths: String,
}

impl<'h> SnapshotViewIter<'h> {
    /// Finds the next group of siblings.
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
