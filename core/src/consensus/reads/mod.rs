//! ReadIndex: the rounds of a node that must confirm that it is up to date, and the read indexes of the
//! leader that confirms them.
//!
//! Owns both ends. Never answers before the confirmed index is applied. Correct because a round is
//! confirmed only by a read index that began after the round arrived.

pub(super) mod read_index;
pub(super) mod rounds;
