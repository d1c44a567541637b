//! Paddock's server: rooms as in `docs/ARCHITECTURE.md`, imports downward only.

pub mod acl;
pub mod admin;
pub mod beats;
pub mod checkpoint;
pub mod cli;
pub mod client_stat;
pub mod cluster;
pub mod command;
pub mod commit;
mod complaint;
pub mod config;
pub mod consensus;
pub mod freshness;
#[cfg(test)]
mod logged;
pub mod machine;
pub mod members;
pub mod path;
pub mod peers;
mod random;
pub mod ring;
pub mod server;
pub mod session;
pub mod shard;
pub mod sim;
pub mod stats;
pub mod status;
pub mod submit;
pub mod tree;
pub mod watch;
