//! The watch tables of one shard, and which watches a change fires.
//!
//! Owns which connection of this shard watches which path, in which of ZooKeeper's modes.
//! Never sends, reads the tree, or checks an ACL: the shard does that, with the ACLs in the change. Never
//! shared between cores.
//! Correct because a watch is stored in exactly two places, which are changed together: the path's list of
//! watchers and the connection's list of paths. Each entry knows its position in the other list. Firing,
//! removing and closing therefore cost what they touch, however large the tables are.
//!
//! ```text
//!   index: path ──► entry ──► watchers, sorted by connection: (connection, modes, position)
//!                     ▲                                             │           │
//!                     └─────────── connections[c].entries[position] ◄───────────┘
//! ```
//!
//! ZooKeeper's data table and child table are one table here: the modes of a watcher say which of them it
//! belongs to. A one-shot data watch and a one-shot child watch are one bit each. A persistent watch belongs
//! to both tables. A recursive watch belongs to the data tables of its path and of all paths below.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod table;

pub use table::{Watches, WatchesFull, parent};

/// How a watcher watches its path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherMode {
    /// One event. Set by getData and exists.
    Data,
    /// One event. Set by getChildren.
    Child,
    /// Every event of the path and of its list of children, until removed. Set by addWatch.
    Persistent,
    /// Every event of the path and of all paths below, except NodeChildrenChanged, until removed. Set by
    /// addWatch.
    Recursive,
}

impl WatcherMode {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Which watches a checkWatches or removeWatches request (since 3.9) applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherFilter {
    /// One-shot child watches.
    Children,
    /// One-shot data watches.
    Data,
    /// Watches of every mode.
    Any,
    Persistent,
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

/// The connections to notify of one change, as slots. A slot occurs at most once in each list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// To be notified of the change of the path itself. Sent first.
    pub own: Vec<u32>,
    /// To be notified that the children of the parent changed.
    pub parent: Vec<u32>,
}
