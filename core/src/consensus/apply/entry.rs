//! One committed entry, applied.
//!
//! Owns no state. Never publishes. Correct because Raft, the machine and the next snapshot take a change of
//! membership in the same step. So a snapshot has the membership of the entries that it contains.

use crate::consensus::apply::Applier;
use crate::consensus::apply::checkpoints::Checkpoints;
use crate::consensus::control::StopReason;
use crate::consensus::raft::node::RaftNode;
use crate::consensus::raft::{EntryKind, LogEntry};
use crate::machine::Applied;

/// Applies an entry to the machine. A change of membership also goes to Raft and into the next snapshot.
pub(in crate::consensus) fn apply<'a>(
    raft: &mut RaftNode,
    applier: &'a mut Applier,
    checkpoints: &mut Checkpoints,
    entry: &LogEntry,
) -> Result<&'a Applied, StopReason> {
    if entry.kind == EntryKind::Batch {
        return applier.apply(entry);
    }
    let step = raft
        .apply_membership(&entry.payload)
        .map_err(|e| StopReason::Undecodable { index: entry.index, what: e.to_string() })?;
    checkpoints.set_membership(&raft.membership());
    applier.apply_change(entry, &step)
}
