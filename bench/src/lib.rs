//! Benchmarks of Paddock and its parts, beside ZooKeeper and an echo server.
//!
//! Owns the questions and the order of the measurements. Never part of the server. Never generates load,
//! except in `echo`: that is the business of `paddock-load`, a process of its own. Correct because of three
//! rules. Servers that are compared run in one run, alternating, on the same core. Every document carries
//! machine, commit and command. A figure that does not show the server's limit (generator or rate was the
//! limit) is marked.

#![forbid(unsafe_code)]

pub mod canary;
pub mod catchup;
pub mod client;
pub mod common;
pub mod echo;
pub mod ensemble;
pub mod figures;
pub mod idle;
pub mod load;
pub mod peers;
pub mod provenance;
pub mod server;
pub mod znodes;
