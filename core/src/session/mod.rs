//! Sessions: the replicated table ([`table`]), the leader's deadlines ([`expiry`]), and the assignment of
//! ids by each node ([`ids`]). Nothing here reads a clock: times are arguments. Only the log changes the
//! table; a passed deadline merely leads to a proposal.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod expiry;
mod ids;
mod table;

pub use expiry::Expiry;
pub use ids::{ID_COUNT_MAX, IdBlocks, first_block, id_of};
pub use table::{PASSWORD_BYTES, Session, SessionTable, password_matches};
