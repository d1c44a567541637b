//! Sessions: the replicated table and the leader's deadlines.
//!
//! Owns which sessions exist, with timeout, password, attachment number and ephemerals ([`table`]: state of the
//! machine, the same on every node), when they die ([`expiry`]: the leader's alone, never replicated), and from which ids new
//! ones get theirs ([`ids`]: each node's own). Never
//! reads a clock: times are arguments. It stays correct because only the log changes the table; a deadline that has
//! passed merely proposes an expiry.
#![forbid(unsafe_code)]

mod expiry;
mod ids;
mod table;

pub use expiry::Expiry;
pub use ids::{ID_COUNT_MAX, IdBlocks, first_block, id_of};
pub use table::{PASSWORD_BYTES, Session, SessionTable, password_matches};
