//! Paddock's load generator: drives any ZooKeeper-protocol server with a read-mostly load and checks its answers.
//!
//! Owns workloads, pacing, checking, histograms and reports. Never knows the server's insides: it speaks the client
//! protocol only, so its figures for Paddock and for any other server mean the same. It stays honest by three rules: an
//! open loop's schedule does not wait for the server, every answer is checked, and a run says when the generator itself
//! was the limit.
//!
//! | part | owns |
//! |---|---|
//! | [`config`], [`cli`] | settings; the command line |
//! | [`session`] | connections, handshakes, pings, reconnection: the client engine |
//! | [`workload`] | what sessions are used for: filling the tree, load, idling |
//! | [`keyspace`], [`value`], [`pacing`] | which znode, which bytes, which instant |
//! | [`check`] | whether an answer is right |
//! | [`counts`], [`histogram`], [`gaps`], [`machine`], [`report`] | counts, latencies, times without answers, CPU time, and what is made of them |
//! | [`target`], [`workers`], [`progress`], [`run`] | the server of a run, its threads, its display, its order |

#![forbid(unsafe_code)]

pub mod check;
pub mod cli;
pub mod config;
pub mod counts;
pub mod embedded;
pub mod gaps;
pub mod histogram;
pub mod keyspace;
pub mod machine;
pub mod pacing;
pub mod progress;
pub mod report;
pub mod run;
pub mod session;
pub mod target;
pub mod value;
pub mod workers;
pub mod workload;

pub use config::RunConfig;
pub use report::Report;
pub use run::{Outcome, RunError, run, run_until};
