//! A shard's watch tables and what fires them.
//!
//! Owns which connection of this shard waits for which path, and in which of ZooKeeper's modes. Never sends, never
//! looks at the tree, never checks an ACL (the shard does, with the ACLs that come in the change), and is never shared
//! between cores. It stays correct because a watch exists in exactly two places that are changed together, the path's
//! list of watchers and the connection's list of paths, and each knows its position in the other: firing, removing and
//! closing cost what they touch, however large the tables are.
//!
//! ```text
//!   index: path ──► entry ──► watchers, sorted by connection: (connection, modes, position)
//!                     ▲                                             │           │
//!                     └─────────── connections[c].entries[position] ◄───────────┘
//! ```
//!
//! ZooKeeper's two tables (data and child) are one here: a watcher's modes say in which of them it stands. A one-shot
//! data watch and a one-shot child watch are a bit each; a persistent watch stands in both tables; a recursive one in the
//! data table of its path and of all paths below.

#![forbid(unsafe_code)]

mod table;

pub use table::{Watches, WatchesFull, parent};

/// One way to watch a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherMode {
    /// Set by getData and exists: one event.
    Data,
    /// Set by getChildren: one event.
    Child,
    /// Set by addWatch: every event of the path and of its list of children, until removed.
    Persistent,
    /// Set by addWatch: every event of the path and of all paths below, until removed; never NodeChildrenChanged.
    Recursive,
}

impl WatcherMode {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What checkWatches and removeWatches ask for, since 3.9.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherFilter {
    /// A one-shot child watch.
    Children,
    /// A one-shot data watch.
    Data,
    /// Whatever there is.
    Any,
    /// A persistent watch.
    Persistent,
    /// A recursive watch.
    Recursive,
}

impl WatcherFilter {
    const fn bits(self) -> u8 {
        match self {
            WatcherFilter::Children => WatcherMode::Child.bit(),
            WatcherFilter::Data => WatcherMode::Data.bit(),
            WatcherFilter::Any => 0xff,
            WatcherFilter::Persistent => WatcherMode::Persistent.bit(),
            WatcherFilter::Recursive => WatcherMode::Recursive.bit(),
        }
    }
}

/// Who is to be told of one change: slots of connections, each at most once in each list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// Told of the change of the path itself. Sent first.
    pub own: Vec<u32>,
    /// Told that the parent's children changed.
    pub parent: Vec<u32>,
}
