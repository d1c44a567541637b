//! Where session ids and passwords come from.
//!
//! Owns the layout of a session id. Never draws randomness itself: the seed is passed in. Ids stay unique within the
//! ensemble because the high byte is the node's, the next bits are its start time, and each shard counts in a range of
//! its own; a password is unpredictable because its generator is keyed with bytes from the system.

/// A source of session ids and passwords, one for each shard.
pub trait SessionIds {
    /// An id never given before, and a password.
    fn next(&mut self) -> (i64, [u8; 16]);
}

impl<F: FnMut() -> (i64, [u8; 16])> SessionIds for F {
    fn next(&mut self) -> (i64, [u8; 16]) {
        self()
    }
}

/// Layout of a new id: node (8 bits), start time in ms (low 36 bits), shard (8 bits), then a counter that runs over
/// into the bits above it.
const SHARD_SHIFT: u32 = 12;
const TIME_SHIFT: u32 = 20;
const TIME_BITS: u32 = 36;

/// Ids by node, start time and shard; passwords from a caller's source of secret random bytes.
pub struct CountedIds<R> {
    node: u8,
    base: u64,
    used: u64,
    shard: u16,
    random: R,
}

impl<R: FnMut() -> [u8; 16]> CountedIds<R> {
    /// Ids of `shard` on `node` (1–254), which started at `started_ms`. `random` gives secret bytes for passwords.
    pub fn new(node: u8, shard: u16, started_ms: i64, random: R) -> Self {
        let base = ((started_ms as u64) & ((1 << TIME_BITS) - 1)) << TIME_SHIFT;
        // From 1: an id is never the node's bare number, which ephemeral owners of containers look like.
        Self { node, base, used: 1, shard, random }
    }
}

impl<R: FnMut() -> [u8; 16]> SessionIds for CountedIds<R> {
    fn next(&mut self) -> (i64, [u8; 16]) {
        // The counter's low bits stand below the shard, its high bits above it, in the time's field: 4096 sessions each
        // millisecond before an id of this start could meet one of a later start of the same node.
        let low = self.used & ((1 << SHARD_SHIFT) - 1);
        let high = self.used >> SHARD_SHIFT;
        self.used += 1;
        let time = self.base.wrapping_add(high << TIME_SHIFT) & ((1 << (TIME_BITS + TIME_SHIFT)) - 1);
        let id = u64::from(self.node) << 56 | time | u64::from(self.shard & 0xff) << SHARD_SHIFT | low;
        (id as i64, (self.random)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_of_other_nodes_and_later_starts_are_others() {
        let mut seen = HashSet::new();
        for (node, start) in
            [(1, 0), (2, 0), (128, 0), (254, 0), (1, 1_795_294_653_846), (1, 1_795_294_653_847)]
        {
            for shard in 0..3 {
                let mut ids = CountedIds::new(node, shard, start, || [0; 16]);
                for _ in 0..4000 {
                    let (id, _) = ids.next();
                    assert_eq!((id as u64 >> 56) as u8, node);
                    assert!(id != 0 && id != i64::MIN && seen.insert(id));
                }
            }
        }
    }

    #[test]
    fn shards_of_one_node_never_give_the_same_id() {
        let mut seen = HashSet::new();
        for shard in 0..4 {
            let mut ids = CountedIds::new(1, shard, 1_795_294_653_846, || [7; 16]);
            for _ in 0..20_000 {
                let (id, password) = ids.next();
                assert_eq!(id >> 56, 1, "high byte is the node");
                assert_eq!(password, [7; 16]);
                assert!(seen.insert(id));
            }
        }
    }
}
