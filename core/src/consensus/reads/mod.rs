//! ReadIndex: rounds of a node that must know that it is up to date, and the read indexes by which a leader confirms them.
//!
//! Owns both ends. Never answers before the confirmed index is applied. Correct because a round is confirmed only by a read index that was
//! asked for after the round arrived.

pub(super) mod read_index;
pub(super) mod rounds;
