//! Deterministic simulation of whole nodes and clusters: time, network, disks, clients and faults in one thread.
//!
//! Owns nothing of a server: it runs the real engines (consensus, shards, log, snapshots, machine) and gives them time, bytes
//! and disks from one seed. Never is in the release binary's path: without the feature `sim` only the empty [`hooks`] are
//! compiled.

#![forbid(unsafe_code)]

pub mod hooks;

#[cfg(any(test, feature = "sim"))]
mod check;
#[cfg(any(test, feature = "sim"))]
mod client;
#[cfg(any(test, feature = "sim"))]
mod faults;
#[cfg(any(test, feature = "sim"))]
mod model;
#[cfg(any(test, feature = "sim"))]
mod net;
#[cfg(any(test, feature = "sim"))]
mod node;
#[cfg(any(test, feature = "sim"))]
mod rng;
#[cfg(any(test, feature = "sim"))]
pub mod run;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "sim"))]
mod workload;
#[cfg(any(test, feature = "sim"))]
mod world;

pub use hooks::{Mutation, applied, apply_time_ms, mutated};
