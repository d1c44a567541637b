//! What keeps the group and the log in step with each other beside the way of the entries.
//!
//! Owns no state: it has recorded how far session ids may go, tells the group where the log begins, which snapshot there is,
//! and what was read for peers who are behind; and it takes a change of membership to the group, the machine and the next
//! snapshot at once. It stays correct because the three hear of it in the same step, so that a snapshot never says something
//! else than the entries it contains.

use crate::consensus::apply::Applier;
use crate::consensus::apply::checkpoints::Checkpoints;
use crate::consensus::control::StopReason;
use crate::consensus::raft::node::RaftNode;
use crate::consensus::raft::{EntryKind, LogEntry};
use crate::machine::Applied;

/// Applies an entry to the machine and, where it changes the membership, to the group and the next snapshot.
pub(in crate::consensus) fn apply<'a>(
    group: &mut RaftNode,
    applier: &'a mut Applier,
    checkpoints: &mut Checkpoints,
    entry: &LogEntry,
) -> Result<&'a Applied, StopReason> {
    if entry.kind == EntryKind::Batch {
        return applier.apply(entry);
    }
    let step = group
        .apply_membership(&entry.payload)
        .map_err(|e| StopReason::Undecodable { index: entry.index, what: e.to_string() })?;
    checkpoints.set_membership(&group.membership());
    applier.apply_change(entry, &step)
}
