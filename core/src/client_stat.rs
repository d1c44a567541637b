//! Stats in replies to clients.
//!
//! Owns the two fields whose form in a reply differs from the stored one: the child counter and the
//! owner. Never changes a stored value. Correct because state machine and shards both use [`wire_stat`].
#![forbid(unsafe_code)]

use crate::tree::NodeStat;
use paddock_transport::wire::{Create, CreateOp, Stat};

pub const CONTAINER_OWNER: i64 = i64::MIN;

/// Top byte of the stored owner of a TTL znode. No session id begins with it, since no node has the number
/// 255.
const TTL_OWNER_BYTE: u64 = 0xff;

/// The session of a stored owner; `None` for persistent, container and TTL znodes.
pub fn session_owner(stored: i64) -> Option<i64> {
    let session = stored != 0 && stored != CONTAINER_OWNER && (stored as u64) >> 56 != TTL_OWNER_BYTE;
    session.then_some(stored)
}

/// The stat in the form that clients see.
pub fn wire_stat(stored: &NodeStat) -> Stat {
    Stat {
        czxid: stored.czxid,
        mzxid: stored.mzxid,
        ctime: stored.ctime,
        mtime: stored.mtime,
        version: stored.version,
        cversion: stored.cversion.wrapping_mul(2).wrapping_sub(stored.num_children),
        aversion: stored.aversion,
        ephemeral_owner: session_owner(stored.ephemeral_owner).unwrap_or(0),
        data_length: stored.data_length,
        num_children: stored.num_children,
        pzxid: stored.pzxid,
    }
}

/// Whether the reply to a create carries a stat: that of opcode 1 carries the path only.
pub fn answers_stat(create: &Create<'_>) -> bool {
    create.op != CreateOp::Create
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_counter_shows_creations_and_deletions() {
        let shown = |cversion, num_children| {
            wire_stat(&NodeStat { cversion, num_children, ..NodeStat::default() }).cversion
        };
        assert_eq!(shown(0, 1), -1, "a fresh root");
        assert_eq!(shown(0, 2), -2, "a fresh /zookeeper");
        assert_eq!([shown(1, 1), shown(2, 2), shown(2, 1)], [1, 2, 3]);
        assert_eq!(shown(i32::MIN, 1), -1, "wraps");
    }

    #[test]
    fn only_sessions_are_shown_as_owners() {
        for (stored, shown) in [
            (0, 0),
            (i64::MIN, 0),
            (0xff00_0000_0000_03e8_u64 as i64, 0),
            (0x0100_0000_0000_0001, 0x0100_0000_0000_0001),
            (0xfe00_0000_0000_0001_u64 as i64, 0xfe00_0000_0000_0001_u64 as i64),
        ] {
            let stat = NodeStat { ephemeral_owner: stored, ..NodeStat::default() };
            assert_eq!(wire_stat(&stat).ephemeral_owner, shown);
        }
    }
}
