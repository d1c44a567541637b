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
//! | part | does |
//! |---|---|
//! | [`engine`] | the order of things within a turn |
//! | [`open`], `replay` | recovery, and the ends that shards get; what the log holds behind the snapshot |
//! | [`group`], `raft_group`, `window`, `wire`, `cold` | ordering, messages, what peers who are behind are fed from |
//! | `cold_reader` | older parts of the log, read off the core |
//! | `feed` | how fast nodes that are far behind are fed |
//! | `upkeep` | what keeps group and log in step |
//! | `bootstrap` | with which membership a node begins |
//! | `founding` | whether a node without data may found an ensemble |
//! | `membership` | who votes and who learns, and how that changes |
//! | `journal` | what must be durable, on its way to the log |
//! | `apply` | committed entry to published commit |
//! | `links` | what peers say, and what they are told |
//! | `intake`, `outbound` | shards' rings to this node's numbered stream; what is not applied yet |
//! | `leading`, `streams`, `ordering` | on the leader: all nodes' streams to batches, one batch an entry |
//! | `rounds`, `reads` | read rounds of this node; on the leader, the read indexes that serve all nodes' rounds |
//! | `deadlines` | expiry of sessions, on the leader |
//! | `disputes` | who is wrong when two nodes differ about the state |
//! | `room` | who has room on its disk, and what is refused when too few have |
//! | `report` | what counters and operators are told |
//! | `shards` | whom to wake, who is stuck |
//! | [`steward`], `tend` | what the leader does about the membership, and what every node does when it has changed |
//! | `checkpoints` | when a snapshot is due, and what the log may forget |
//! | [`transfer`], `installing` | snapshots for a node that is far behind |
//! | [`refound`] | an ensemble begins again with one server's data, when an operator says so |

#![forbid(unsafe_code)]

mod apply;
mod bootstrap;
mod checkpoints;
mod cold;
mod cold_reader;
pub mod config;
mod control;
mod deadlines;
mod disputes;
pub mod engine;
mod feed;
mod founding;
pub mod group;
mod installing;
mod intake;
mod journal;
mod leading;
mod left_behind;
mod links;
mod membership;
pub mod open;
mod ordering;
mod outbound;
mod raft_group;
mod raft_log;
mod reads;
pub mod refound;
mod replay;
mod report;
mod room;
mod rounds;
mod shards;
pub mod steward;
mod streams;
mod tend;
#[cfg(test)]
mod tests;
pub mod transfer;
mod upkeep;
mod window;
mod wire;

pub use config::ConsensusConfig;
pub use control::{Control, StopReason};
pub use engine::Consensus;
#[cfg(any(test, feature = "sim"))]
pub use membership::change_command;
pub use open::{Parts, Recovered, ShardParts, StartError};
pub use shards::Armed;
