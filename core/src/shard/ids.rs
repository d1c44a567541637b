//! Session ids and passwords for the sessions that a shard opens.
//!
//! Owns the shard's current block of ids. Never draws randomness: the caller passes the source. Correct
//! because no two shards get the same block ([`IdBlocks`]) and each id of a block is used once.

#![forbid(unsafe_code)]

use crate::session::{ID_COUNT_MAX, IdBlocks, id_of};
use std::sync::Arc;

/// A source of session ids and passwords, one for each shard.
pub trait SessionIds {
    /// An id that was never returned before, and a password. `None`: no block of ids is available yet,
    /// and the client must try again later.
    fn next(&mut self) -> Option<(i64, [u8; 16])>;
}

impl<F: FnMut() -> (i64, [u8; 16])> SessionIds for F {
    fn next(&mut self) -> Option<(i64, [u8; 16])> {
        Some(self())
    }
}

/// Ids counted within blocks of this node, and passwords from the caller's source of secret random bytes.
pub struct CountedIds<R> {
    blocks: Arc<IdBlocks>,
    block: u64,
    /// Ids of the block that are used, at most [`ID_COUNT_MAX`].
    used: u64,
    random: R,
}

impl<R: FnMut() -> [u8; 16]> CountedIds<R> {
    /// Ids of one shard. `random` returns secret bytes for passwords.
    pub fn new(blocks: Arc<IdBlocks>, random: R) -> Self {
        Self { blocks, block: 0, used: ID_COUNT_MAX, random }
    }
}

impl<R: FnMut() -> [u8; 16]> SessionIds for CountedIds<R> {
    fn next(&mut self) -> Option<(i64, [u8; 16])> {
        if self.used == ID_COUNT_MAX {
            (self.block, self.used) = (self.blocks.take()?, 0);
        }
        self.used += 1;
        Some((id_of(self.blocks.node(), self.block, self.used), (self.random)()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn shards_of_one_node_never_give_the_same_id() {
        let blocks = Arc::new(IdBlocks::new(254, 5));
        blocks.allow(12);
        let mut shards: Vec<_> = (0..3).map(|_| CountedIds::new(blocks.clone(), || [7; 16])).collect();
        let (mut seen, mut last) = (HashSet::new(), [0; 3]);
        for n in 0..2 * ID_COUNT_MAX {
            for (shard, last) in shards.iter_mut().zip(&mut last) {
                let (id, password) = shard.next().unwrap();
                assert!((id as u64 >> 56, password) == (254, [7; 16]) && seen.insert(id), "{n}: {id:x}");
                assert!(id as u64 > *last, "ids of a shard grow");
                *last = id as u64;
            }
        }
        assert!(shards[0].next().is_some(), "the seventh block");
        assert!(shards[1].next().is_none(), "no further one is allowed");
        blocks.allow(13);
        assert!(shards[1].next().is_some());
    }
}
