//! The tree of znodes: one writer, many readers, versions.
//!
//! Owns every znode and every version of the tree that somebody may still look at. Never knows sessions, watches
//! or sockets, takes time and zxids from its caller, and never lets a published version change.
//!
//! The writer builds the next version by copying what it touches, once per version: tables and pages of the index
//! (`pages`), the znode itself (`znode`), chunks of child names (`children`). [`Writer::publish`] ends the version;
//! what it gives travels in the commit ring; each [`Reader`] moves to it by its own hand. Reading is a hash, three
//! dependent loads and a comparison: no lock, no counter, no fence.
//!
//! Why it stays correct: an object is freed when no reader and no hold can see it, which each reader says in one
//! atomic of its own (`epochs`, checked by loom) and the heap decides (`reclaim`). Debug builds poison what they
//! free and check the stamp of everything that is read, so that a reader which breaks the rule is caught.
//!
//! This room holds `unsafe` code; every block names its invariant and who keeps it. How it is tested:
//! - `cargo test -p paddock-core --lib tree::` — against a `BTreeMap` model, against an implementation on
//!   `crossbeam-epoch`, with real threads, with a reader that breaks the rule;
//! - `RUSTFLAGS="--cfg paddock_loom" cargo test -p paddock-core --lib tree::epochs --release` — the protocol under
//!   loom's model checker;
//! - `cargo +nightly miri test -p paddock-core --lib tree::tests::rules` where the component is installed;
//! - `CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false RUSTFLAGS="-Zsanitizer=address --cfg paddock_asan" cargo +nightly test
//!   -p paddock-core --lib tree:: --target x86_64-unknown-linux-gnu` — every object from the system's allocator, freed
//!   at once (debug assertions would keep freed ones, poisoned), leaks included;
//! - `cargo bench -p paddock-bench --bench tree` — lookups, updates, bytes per znode.

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

/// A new tree and its readers. It holds ZooKeeper's reserved znodes ("/", "/zookeeper", its "quota" and "config");
/// each reader stands on its first version.
pub fn tree(readers: usize) -> (Writer, Vec<Reader>) {
    writer::tree(readers, hash::PathHasher::new())
}

#[cfg(all(test, not(paddock_loom)))]
mod tests;
