//! Assignment of session ids by each node.
//!
//! Owns the layout of a session id, and the blocks of ids of one start: the next block, and the end up to
//! which the data directory has recorded them as used.
//! Never writes that record, and never reads a clock, which may be set back.
//! Correct because no id is assigned twice. An id begins with its node's number, and a block belongs to one
//! shard of one start. A start begins above everything recorded for earlier starts, and uses only blocks
//! that are durably recorded.
//!
//! An emptied directory has no record: it begins at a block drawn at random. Each start also skips a random
//! number of blocks. A start from an older copy of the directory therefore gets other ids than the start
//! that the copy does not know.
//!
//! ```text
//! node (8 bits) | block (40 bits) | count in the block, from 1 (16 bits)
//! ```
//!
//! The form of ZooKeeper's ids, in which a clock is the middle part. More than a million starts fit above
//! the last block that can be drawn.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

const NODE_SHIFT: u32 = 56;
const BLOCK_SHIFT: u32 = 16;
const BLOCKS: u64 = 1 << (NODE_SHIFT - BLOCK_SHIFT);

/// Largest count of an id in its block. Counts begin at 1, so that no id is the node's bare number, which
/// would look like the owner of a container.
pub const ID_COUNT_MAX: u64 = (1 << BLOCK_SHIFT) - 1;

/// Lowest first block of a directory without a record. Ids of earlier releases had 36 bits of the clock in
/// this place, and lie below it if they were assigned before March 2027.
const BLOCKS_UNRECORDED: u64 = 1 << 38;

/// First blocks that can be drawn. Of two directories of one node with a thousand used blocks each, at most
/// one pair in half a million shares a block.
const BLOCKS_DRAWN: u64 = BLOCKS / 2;

/// Most blocks that a start skips. A start uses a handful: one for 65535 sessions, on each shard.
const BLOCKS_LEFT_OUT: u64 = 1 << 19;

/// Blocks that are recorded at once, for 268 million sessions.
const BLOCKS_AHEAD: u64 = 4096;

/// Remaining blocks at which to record more: each shard may take one meanwhile.
const BLOCKS_LOW: u64 = BLOCKS_AHEAD / 2;

/// First block of a start. `recorded` is the end of ids that the data directory has recorded (0: none).
/// `identity` is the random identity of the directory; `drawn` is random for each start.
pub fn first_block(recorded: u64, identity: &[u8; 16], drawn: u64) -> u64 {
    let place = BLOCKS_UNRECORDED + (u128::from_le_bytes(*identity) % u128::from(BLOCKS_DRAWN)) as u64;
    (if recorded == 0 { place } else { recorded }) + drawn % BLOCKS_LEFT_OUT
}

/// The id with this count (1 to [`ID_COUNT_MAX`]) in a block of a node.
pub fn id_of(node: u8, block: u64, count: u64) -> i64 {
    (u64::from(node) << NODE_SHIFT | (block % BLOCKS) << BLOCK_SHIFT | count) as i64
}

/// Blocks of one start. The consensus core allows blocks, the shards take them.
#[derive(Debug)]
pub struct IdBlocks {
    node: u8,
    next: AtomicU64,
    /// First block that is not allowed yet.
    end: AtomicU64,
}

impl IdBlocks {
    /// Blocks of `node` from `first` on. None may be taken before [`Self::allow`].
    pub fn new(node: u8, first: u64) -> Self {
        Self { node, next: AtomicU64::new(first), end: AtomicU64::new(first) }
    }

    pub fn node(&self) -> u8 {
        self.node
    }

    /// A block for the caller alone; `None`: no block is allowed.
    pub fn take(&self) -> Option<u64> {
        let below_end = |next: u64| (next < self.end.load(Ordering::Acquire)).then_some(next + 1);
        self.next.try_update(Ordering::AcqRel, Ordering::Acquire, below_end).ok()
    }

    /// Whether more blocks should be recorded and allowed.
    pub fn is_low(&self) -> bool {
        self.end.load(Ordering::Acquire) < self.next.load(Ordering::Acquire).saturating_add(BLOCKS_LOW)
    }

    /// The end to record next.
    pub fn wanted(&self) -> u64 {
        self.next.load(Ordering::Acquire).saturating_add(BLOCKS_AHEAD)
    }

    /// Allows blocks below `end`, which the data directory has durably recorded.
    pub fn allow(&self, end: u64) {
        self.end.fetch_max(end, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY_MS: i64 = 1_795_294_653_846;

    #[test]
    fn nothing_is_given_out_that_was_not_recorded_first() {
        let ids = IdBlocks::new(1, 7);
        assert!(ids.take().is_none() && ids.is_low());
        ids.allow(9);
        assert_eq!((ids.take(), ids.take(), ids.take()), (Some(7), Some(8), None));
        let end = ids.wanted();
        ids.allow(end);
        assert!(!ids.is_low());
        for _ in 0..=BLOCKS_AHEAD - BLOCKS_LOW {
            assert!(ids.take().is_some());
        }
        assert!(ids.is_low(), "in time");
        ids.allow(3);
        assert!(ids.take().is_some(), "an end never goes back");
    }

    #[test]
    fn ids_from_before_ends_were_recorded_lie_below_those_from_now_on() {
        // The layout of earlier releases: node, 36 bits of the clock, shard, count.
        let before = |ms: i64| 1 << 56 | (ms as u64 & ((1 << 36) - 1)) << 20 | 255 << 12 | 4095;
        for wall_ms in [TODAY_MS, TODAY_MS + 90 * 86_400_000] {
            assert!(before(wall_ms) < id_of(1, first_block(0, &[0; 16], 0), 1) as u64);
        }
    }

    #[test]
    fn a_start_begins_above_those_that_are_recorded_and_a_new_directory_elsewhere() {
        let room = BLOCKS - (BLOCKS_UNRECORDED + BLOCKS_DRAWN);
        assert!(room / (BLOCKS_LEFT_OUT / 2 + BLOCKS_AHEAD) > 1_000_000, "a million starts");
        assert!(
            first_block(700, &[1; 16], 0) >= 700
                && first_block(700, &[1; 16], 3) != first_block(700, &[1; 16], 4)
        );
        let (one, other) = (first_block(0, &[1; 16], 5), first_block(0, &[2; 16], 5));
        assert!(one.abs_diff(other) > BLOCKS_AHEAD && one >= BLOCKS_UNRECORDED);
    }

    #[test]
    fn whatever_is_drawn_gives_ids_that_sessions_may_have() {
        for (recorded, identity, drawn) in
            [(0, [0; 16], 0), (0, [255; 16], u64::MAX), (BLOCKS - 1, [7; 16], 9)]
        {
            let block = first_block(recorded, &identity, drawn);
            for node in [1, 127, 128, 254] {
                for count in [1, ID_COUNT_MAX] {
                    let id = id_of(node, block, count);
                    assert_eq!((id as u64 >> 56) as u8, node);
                    assert!(crate::client_stat::session_owner(id).is_some());
                }
            }
        }
    }
}
