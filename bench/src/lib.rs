//! Measures Paddock, its parts, and what it is held against.
//!
//! Owns the questions and the order of each measurement; the load comes from `paddock-load`, a process of its own.
//! Never part of the server. It stays honest by three rules: what is compared runs in one run, alternating, on the same
//! core; every document says on which machine and commit and by which command; a figure that is not the server's
//! (generator or rate was the limit) is marked.

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
