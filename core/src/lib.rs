//! Paddock's server. Rooms and their imports are described in `docs/ARCHITECTURE.md`; imports run downward
//! only.

pub mod acl;
pub mod admin;
pub mod beats;
pub mod checkpoint;
pub mod cli;
pub mod client_stat;
pub mod cluster;
pub mod command;
pub mod commit;
pub mod config;
pub mod consensus;
pub mod freshness;
mod log_throttle;
#[cfg(test)]
mod logged;
pub mod machine;
pub mod members;
pub mod mutation;
pub mod path;
pub mod peers;
pub mod properties;
mod random;
pub mod ring;
pub mod server;
pub mod session;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stats;
pub mod status;
pub mod submit;
pub mod tree;
pub mod watch;
