//! The consensus core orders all writes of the ensemble.
//!
//! Owns the Raft node, the writing end of the log, the state machine, the tree's writer and the commit
//! ring. Owns also this node's numbered stream of commands, the read rounds, and the deadlines of sessions.
//!
//! Never touches a client socket and never waits for a shard. The engine works in turns, and slow work
//! reports its end by a wake-up. The only wait for a disk is the record of a block of session ids.
//!
//! Correct because a write is answered only after its entry is durable on a quorum and applied here. One
//! store publishes an applied entry to all shards before any reply to that entry can leave. After a start,
//! every entry that is known to be committed is applied before the first client is served. A standalone
//! node is a Raft group of one and runs the same code.
//!
//! | module | owns |
//! | --- | --- |
//! | [`engine`] | the order of steps within a turn, and each step that touches more than one part |
//! | `raft` | the `raft` crate behind one type: node, log window, codec, joint membership, cold entries |
//! | `commands` | a command from ring to entry: submissions, pending commands, leader queues |
//! | `reads` | ReadIndex: a node's rounds, the leader's read indexes |
//! | `durable` | the way into the log and out of it; free space on disks |
//! | `apply` | a committed entry to the commit ring; checkpoints; divergence; waking shards |
//! | [`membership`] | the leader's next membership step; whether an empty node may bootstrap an ensemble |
//! | [`catch_up`] | snapshots to and from nodes far behind, their throttle, and which nodes are left behind |
//! | [`recovery`] | from a data directory to a running core |
//! | `peer_links`, `session_expiry` | links to peers; expiry of sessions, on the leader |
//! | [`config`], `control` | settings and bounds; how the core is stopped |
//!
//! A part never names the engine. Only `engine` and `recovery` name parts.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod apply;
pub mod catch_up;
mod commands;
pub mod config;
mod control;
mod durable;
pub mod engine;
pub mod membership;
mod peer_links;
mod raft;
mod reads;
pub mod recovery;
mod session_expiry;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "sim"))]
pub use self::raft::conf_state::change_command;
pub use self::raft::{EntryKind, LogEntry};
pub use apply::shard_wakers::Armed;
pub use config::ConsensusConfig;
pub use control::{Control, StopReason};
pub use engine::Consensus;
pub use recovery::force_new_ensemble;
pub use recovery::{Parts, Recovered, ShardParts, StartError};
