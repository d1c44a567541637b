//! The consensus core: the one place where writes get their order.
//!
//! Owns the group (Raft behind a narrow trait), the log's owner end, the machine, the tree's writer, the commit ring, the
//! numbered stream of this node's commands, the read rounds of syncs, and the deadlines of sessions. Never touches a
//! client socket and never waits for a disk or a shard: its engine moves on by turns, and everything slow is told to it by
//! a wake-up.
//!
//! It stays correct because a write is told to nobody before its entry is durable on a quorum and applied here; because
//! what is applied is published to all shards by one store, before any reply of it can leave; and because after a start
//! everything durable is applied before anybody is served. A group of one is a group: there is no second server.
//!
//! | room | owns |
//! |---|---|
//! | [`engine`] | the order of steps within a turn, and each step that touches more than one part |
//! | `raft` | the `raft` crate behind one type: node, log window, codec, joint membership, cold entries |
//! | `commands` | a command from its shard's ring to its entry: submissions, pending by number, the leader's queues |
//! | `reads` | ReadIndex: a node's rounds, the leader's read indexes |
//! | `durable` | the way into the log and out of it; free space on disks |
//! | `apply` | a committed entry to the commit ring; checkpoints; divergence; waking shards |
//! | [`membership`] | what the leader does next about members; whether an empty node may found an ensemble |
//! | [`catch_up`] | snapshots to and from nodes far behind, how fast they are fed, which are left behind |
//! | [`recovery`] | from a data directory to a running core |
//! | `peer_links`, `session_expiry` | links to peers and what waits on them; expiry of sessions, on the leader |
//! | [`config`], `control` | settings and bounds; how the core is stopped |
//!
//! A part never names the engine; only `engine` and `recovery` name parts.

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
