//! Deterministic simulation of whole nodes and clusters: time, network, disks, clients and faults in one thread.
//!
//! Owns nothing of a server: it runs the real engines (consensus, shards, log, snapshots, machine) and gives them time, bytes
//! and disks from one seed. Never is in the release binary's path: without the feature `sim` only the empty [`hooks`] are
//! compiled.

#![forbid(unsafe_code)]

pub mod hooks;

pub use hooks::{Mutation, applied, apply_time_ms, mutated};
