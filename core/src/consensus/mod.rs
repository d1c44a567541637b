//! The consensus core: the one place where writes get their order.

pub mod config;
pub mod group;
mod intake;
mod raft_group;
mod raft_log;
mod window;
