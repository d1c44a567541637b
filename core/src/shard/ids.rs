//! Where a shard's session ids and passwords come from.
//!
//! Owns the block of ids from which the shard gives them out. Never draws randomness itself: the source is passed in. Ids
//! stay unique because a block is one shard's alone ([`IdBlocks`]) and its ids are counted; a password is unpredictable because its
//! source is the system's.

#![forbid(unsafe_code)]

use crate::session::{ID_COUNT_MAX, IdBlocks, id_of};
use std::sync::Arc;

/// A source of session ids and passwords, one for each shard.
pub trait SessionIds {
    /// An id never given before, and a password. `None`: there is none just now; whoever wants one has to come back.
    fn next(&mut self) -> Option<(i64, [u8; 16])>;
}

impl<F: FnMut() -> (i64, [u8; 16])> SessionIds for F {
    fn next(&mut self) -> Option<(i64, [u8; 16])> {
        Some(self())
    }
}

/// Ids by node and block; passwords from a caller's source of secret random bytes.
pub struct CountedIds<R> {
    blocks: Arc<IdBlocks>,
    block: u64,
    /// Ids of the block that were given out.
    used: u64,
    random: R,
}

impl<R: FnMut() -> [u8; 16]> CountedIds<R> {
    /// Ids of one shard. `random` gives secret bytes for passwords.
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
