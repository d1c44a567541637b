//! Deterministic simulation of whole clusters: time, network, disks, clients and faults in one thread.
//!
//! Owns no part of a server. The real engines (consensus, shards, log, snapshots, machine) run here, and
//! one seed decides their time, bytes and disks. Never part of the release binary: production code does
//! not import this module.

#![forbid(unsafe_code)]

mod check;
mod client;
mod faults;
mod model;
mod net;
mod node;
mod rng;
pub mod run;
#[cfg(test)]
mod tests;
mod workload;
mod world;
