//! The tree of znodes: one writer, many readers, versions.
//!
//! Owns every znode and every version of the tree that a reader or a hold can still see.
//!
//! Never knows sessions, watches or sockets, never reads a clock or draws a zxid (its caller passes both),
//! and never changes a published version.
//!
//! The writer builds the next version by copying what it changes, once per version: tables and pages of the
//! index (`pages`), the znode itself (`znode`), chunks of child names (`children`). [`Writer::publish`]
//! ends the version and returns a handle, which travels in the commit ring. Each [`Reader`] moves to it
//! when it takes the commit. A lookup is a hash, three dependent loads and a comparison: no lock, no
//! reference count, no fence.
//!
//! Correct because an object is freed only when no reader and no hold can see it. Each reader publishes its
//! pin in one atomic of its own (`epochs`, checked by loom); the heap compares pins and holds (`reclaim`).
//! Debug builds poison what they free and check the stamp of every object read, so that a reader that
//! breaks the rule panics.
//!
//! This module holds `unsafe` code; each block names its invariant and what keeps it. How it is tested:
//! - `cargo test -p paddock-core --lib tree::`: against a `BTreeMap` model, against an implementation on
//!   `crossbeam-epoch`, with real threads, and with a reader that breaks the rule;
//! - `RUSTFLAGS="--cfg paddock_loom" cargo test -p paddock-core --lib tree::epochs --release`: the protocol
//!   under loom's model checker;
//! - `cargo +nightly miri test -p paddock-core --lib tree::tests::rules` where the component is installed;
//! - `CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false RUSTFLAGS="-Zsanitizer=address --cfg paddock_asan" cargo
//!   +nightly test -p paddock-core --lib tree:: --target x86_64-unknown-linux-gnu`: every object from the
//!   system's allocator and freed at once, leaks included (debug assertions would keep freed objects,
//!   poisoned);
//! - `cargo bench -p paddock-bench --bench tree`: lookups, updates, bytes per znode.

#![deny(clippy::disallowed_methods)]

mod arena;
mod children;
mod epochs;
mod hash;
mod node;
mod object;
mod pages;
mod reader;
mod reclaim;
mod snapshot_view;
mod sync;
mod writer;
mod znode;

pub use children::Children;
pub use node::{NewNode, NodeStat, RestoredNode, TreeError};
pub use reader::{PublishedVersion, Reader};
pub use snapshot_view::{SnapshotView, SnapshotViewIter};
pub use writer::Writer;
pub use znode::Znode;

/// A new tree with ZooKeeper's reserved znodes ("/", "/zookeeper", its "quota" and "config"), and its
/// readers. Each reader pins the first version.
pub fn tree(readers: usize) -> (Writer, Vec<Reader>) {
    writer::tree(readers, hash::PathHasher::new())
}

#[cfg(all(test, not(paddock_loom)))]
mod tests;
