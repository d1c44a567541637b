//! Paddock's load generator: drives any ZooKeeper-protocol server with a read-mostly load and checks its
//! answers.
//!
//! Owns workloads, pacing, checking, histograms and reports. Never knows the server's internals: it speaks
//! the client protocol only, so figures for Paddock and for any other server mean the same. Correct because
//! of three rules. An open loop's schedule does not wait for the server. Every answer is checked. A report
//! says when the generator itself was the limit.
//!
//! | part | owns |
//! |---|---|
//! | [`config`], [`cli`] | settings; the command line |
//! | [`session`] | connections, handshakes, pings, reconnection: the client engine |
//! | [`workload`] | uses of sessions: filling the tree, load, reading back, idling |
//! | [`keyspace`], [`value`], [`pacing`] | which znode, which bytes, which instant |
//! | [`check`] | whether an answer is correct |
//! | [`counts`], [`histogram`], [`gaps`] | counts, latencies, times without answers |
//! | [`machine`], [`report`] | CPU time; the report of a run |
//! | [`target`], [`embedded`] | the server of a run: named, or in this process |
//! | [`workers`], [`progress`], [`run`] | the threads of a run, its display, its steps |

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
