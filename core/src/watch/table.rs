//! The table of one shard: paths with their watchers, and connections with their paths.
//!
//! Owns the entries, their indices and the counts of watches.
//! Never moves an entry: a free slot is reused for another path.
//! Correct because a watcher knows its position in the connection's list, and [`Watches::unlink`] updates
//! the one watcher whose position changes.

use super::{Hits, WatcherFilter, WatcherMode};
use crate::commit::{Change, ChangeKind};
use foldhash::fast::RandomState;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// The connection already holds the maximum of watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the connection holds {max} watches, as many as it may")]
pub struct WatchesFull {
    /// Paths that one connection may watch.
    pub max: usize,
}

#[derive(Clone, Copy)]
struct Watcher {
    connection: u32,
    /// Index of the path in the connection's list.
    position: u32,
    modes: u8,
}

struct WatchedPath {
    path: Arc<str>,
    /// Sorted by connection. Most paths have one watcher, which needs no allocation.
    watchers: SmallVec<[Watcher; 1]>,
}

impl WatchedPath {
    fn find(&self, connection: u32) -> Result<usize, usize> {
        self.watchers.binary_search_by_key(&connection, |w| w.connection)
    }
}

#[derive(Default)]
struct ConnectionWatches {
    /// Indices into [`Watches::entries`].
    entries: Vec<u32>,
    /// Number of the last firing that hit the connection: at most one event for each firing.
    fired: u64,
}

/// All watches of one shard.
pub struct Watches {
    index: HashMap<Arc<str>, u32, RandomState>,
    entries: Vec<WatchedPath>,
    free: Vec<u32>,
    /// Indexed by the connection's slot.
    connections: Vec<ConnectionWatches>,
    per_connection_max: usize,
    watching: usize,
    pairs: usize,
    armed: usize,
    recursive: usize,
    firing: u64,
}

/// Modes that end with their first event.
const ONE_SHOT: u8 = WatcherMode::Data.bit() | WatcherMode::Child.bit();
/// Modes that belong to the data table.
const IN_DATA: u8 = WatcherMode::Data.bit() | WatcherMode::Persistent.bit() | WatcherMode::Recursive.bit();
/// Modes that belong to the child table.
const IN_CHILD: u8 = WatcherMode::Child.bit() | WatcherMode::Persistent.bit();

impl Watches {
    /// An empty table in which one connection may watch `per_connection_max` paths.
    pub fn new(per_connection_max: usize) -> Self {
        Self {
            index: HashMap::default(),
            entries: Vec::new(),
            free: Vec::new(),
            connections: Vec::new(),
            per_connection_max,
            watching: 0,
            pairs: 0,
            armed: 0,
            recursive: 0,
            firing: 0,
        }
    }
    /// Whether no watch is armed.
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }
    /// Armed watches: each mode of each pair of connection and path counts.
    pub fn armed(&self) -> usize {
        self.armed
    }
    /// Paths with at least one watch.
    pub fn paths(&self) -> usize {
        self.index.len()
    }
    /// Connections with at least one watch.
    pub fn watching(&self) -> usize {
        self.watching
    }

    /// Arms a watch. Arming it again changes nothing.
    pub fn add(&mut self, connection: u32, path: &str, mode: WatcherMode) -> Result<(), WatchesFull> {
        let slot = connection as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, ConnectionWatches::default);
        }
        let held = self.connections[slot].entries.len();
        let known = self.index.get(path).copied();
        let place = known.map(|e| self.entries[e as usize].find(connection));
        if let (Some(e), Some(Ok(at))) = (known, place) {
            let watcher = &mut self.entries[e as usize].watchers[at];
            if watcher.modes & mode.bit() == 0 {
                watcher.modes |= mode.bit();
                self.armed += 1;
                self.recursive += usize::from(mode == WatcherMode::Recursive);
            }
            return Ok(());
        }
        if held >= self.per_connection_max {
            return Err(WatchesFull { max: self.per_connection_max });
        }
        let e = known.unwrap_or_else(|| self.intern(path));
        let at = match place {
            Some(Err(at)) => at,
            _ => 0,
        };
        let watcher = Watcher { connection, position: held as u32, modes: mode.bit() };
        self.entries[e as usize].watchers.insert(at, watcher);
        self.connections[slot].entries.push(e);
        self.watching += usize::from(held == 0);
        self.pairs += 1;
        self.armed += 1;
        self.recursive += usize::from(mode == WatcherMode::Recursive);
        Ok(())
    }

    /// Whether the connection has a matching watch on exactly this path.
    pub fn has(&self, connection: u32, path: &str, kind: WatcherFilter) -> bool {
        self.index.get(path).is_some_and(|e| {
            let entry = &self.entries[*e as usize];
            entry.find(connection).is_ok_and(|at| entry.watchers[at].modes & kind.bits() != 0)
        })
    }

    /// Removes the matching watches from exactly this path. Gives whether there was one.
    pub fn remove(&mut self, connection: u32, path: &str, kind: WatcherFilter) -> bool {
        let Some(e) = self.index.get(path).copied() else { return false };
        let Ok(at) = self.entries[e as usize].find(connection) else { return false };
        let removed = self.disarm(e, at, kind.bits());
        self.prune(e);
        removed
    }

    /// Removes all watches of the connection.
    pub fn drop_connection(&mut self, connection: u32) {
        let Some(held) = self.connections.get_mut(connection as usize) else { return };
        let entries = std::mem::take(&mut held.entries);
        self.watching -= usize::from(!entries.is_empty());
        for e in entries {
            let entry = &mut self.entries[e as usize];
            if let Ok(at) = entry.find(connection) {
                let watcher = entry.watchers.remove(at);
                self.uncount(watcher.modes);
                self.pairs -= 1;
            }
            self.prune(e);
        }
    }

    /// Finds the watchers of a change and removes the one-shot watches that fire. Clears `hits` first.
    pub fn fire(&mut self, change: &Change, hits: &mut Hits) {
        hits.own.clear();
        hits.parent.clear();
        if self.pairs == 0 {
            return;
        }
        self.firing += 1;
        let path: &str = &change.path;
        // A deletion also fires the child table of the path. A connection in both tables gets one event.
        let tables = if change.kind == ChangeKind::Deleted { IN_DATA | IN_CHILD } else { IN_DATA };
        self.fire_at(path, tables, &mut hits.own);
        if self.recursive > 0 {
            let mut above = parent(path);
            while let Some(ancestor) = above {
                self.fire_at(ancestor, WatcherMode::Recursive.bit(), &mut hits.own);
                above = parent(ancestor);
            }
        }
        if change.kind != ChangeKind::DataChanged
            && let Some(parent) = parent(path)
        {
            self.firing += 1;
            self.fire_at(parent, IN_CHILD, &mut hits.parent);
        }
    }

    /// Collects the watchers of `path` in `tables`, each connection once a firing, and ends their one-shot
    /// modes. All that end are removed in one pass: ten thousand may watch one path, and each single removal
    /// would move those behind it.
    fn fire_at(&mut self, path: &str, tables: u8, hits: &mut Vec<u32>) {
        let Some(e) = self.index.get(path).copied() else { return };
        let mut watchers = std::mem::take(&mut self.entries[e as usize].watchers);
        watchers.retain(|watcher| {
            if watcher.modes & tables == 0 {
                return true;
            }
            let connection = &mut self.connections[watcher.connection as usize];
            if connection.fired != self.firing {
                connection.fired = self.firing;
                hits.push(watcher.connection);
            }
            let ended = watcher.modes & tables & ONE_SHOT;
            watcher.modes &= !ended;
            self.uncount(ended);
            if watcher.modes == 0 {
                self.unlink(watcher.connection, watcher.position as usize);
            }
            watcher.modes != 0
        });
        self.entries[e as usize].watchers = watchers;
        self.prune(e);
    }

    /// Removes the modes in `bits` from the watcher at `at`, and the watcher when no mode is left. Keeps the
    /// path's entry.
    fn disarm(&mut self, e: u32, at: usize, bits: u8) -> bool {
        let watcher = &mut self.entries[e as usize].watchers[at];
        let removed = watcher.modes & bits;
        watcher.modes &= !bits;
        let (left, connection, position) = (watcher.modes, watcher.connection, watcher.position as usize);
        self.uncount(removed);
        if left == 0 {
            self.entries[e as usize].watchers.remove(at);
            self.unlink(connection, position);
        }
        removed != 0
    }

    /// Removes a path from its connection's list, after its watcher was removed.
    fn unlink(&mut self, connection: u32, position: usize) {
        self.pairs -= 1;
        let held = &mut self.connections[connection as usize].entries;
        held.swap_remove(position);
        self.watching -= usize::from(held.is_empty());
        // `swap_remove` moved the last path of the list to `position`: tell its watcher.
        if let Some(moved) = held.get(position).copied() {
            let entry = &mut self.entries[moved as usize];
            if let Ok(at) = entry.find(connection) {
                entry.watchers[at].position = position as u32;
            }
        }
    }

    fn uncount(&mut self, modes: u8) {
        self.armed -= modes.count_ones() as usize;
        self.recursive -= usize::from(modes & WatcherMode::Recursive.bit() != 0);
    }

    fn intern(&mut self, path: &str) -> u32 {
        let path: Arc<str> = path.into();
        let entry = WatchedPath { path: path.clone(), watchers: SmallVec::new() };
        let e = match self.free.pop() {
            Some(e) => {
                self.entries[e as usize] = entry;
                e
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.index.insert(path, e);
        e
    }

    /// Removes the path if it has no watcher left.
    fn prune(&mut self, e: u32) {
        let entry = &mut self.entries[e as usize];
        if entry.watchers.is_empty() {
            let path = std::mem::replace(&mut entry.path, Arc::from(""));
            self.index.remove(&path);
            self.free.push(e);
        }
    }
}

/// The parent as events name it: "/" for "/a"; `None` for "/" and for a path without a slash.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        cut => Some(&path[..cut]),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
