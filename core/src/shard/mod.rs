//! The engine of a reading core: requests in, replies out.
#![forbid(unsafe_code)]

pub mod config;
pub mod ids;

pub use config::ShardConfig;
pub use ids::{CountedIds, SessionIds};
