//! Replay: entries of the log behind the snapshot, applied again.
//!
//! Owns the decision which of them are committed: those recorded as such, those that a sole voter has made
//! durable, and those implied by changes of membership. Never publishes, and never decides about other
//! entries: Raft does. Correct because every entry passes the checks that it passed at first, and the same
//! comparison of digests.

use crate::consensus::apply::Applier;
use crate::consensus::control::StopReason;
use crate::consensus::durable::journal::loaded;
use crate::consensus::raft::{EntryKind, GroupError, LogEntry, Membership};
use crate::consensus::recovery::StartError;
use bytes::Bytes;
use paddock_storage::{Log, Recovery};

/// The entries of the log behind the snapshot.
#[derive(Default)]
pub(in crate::consensus) struct Replayed {
    pub(in crate::consensus) entries: u64,
    /// Bytes of the payloads of replayed entries.
    pub(in crate::consensus) bytes: u64,
    /// Entries that may or may not be committed.
    pub(in crate::consensus) tail: Vec<LogEntry>,
}

impl Replayed {
    fn apply(
        &mut self,
        entry: &LogEntry,
        applier: &mut Applier,
        membership: &mut Membership,
        node: u64,
    ) -> Result<(), StartError> {
        let applied = match entry.kind {
            EntryKind::Batch => match applier.apply(entry) {
                Err(why @ StopReason::Diverged { .. }) if !membership.is_sole_voter(node) => {
                    // A majority may have differed from the entry's proposer while this node ran. If this
                    // node differs, its first read round shows it.
                    tracing::warn!("replay goes on, and the others are asked: {why}");
                    applier.accepted = entry.index;
                    applier.apply(entry)
                }
                applied => applied,
            },
            EntryKind::Membership => {
                let step = membership.apply(&entry.payload).map_err(|e| GroupError(e.to_string()))?;
                applier.apply_change(entry, &step)
            }
        };
        applied.map_err(StartError::Replay)?;
        self.entries += 1;
        self.bytes += entry.payload.len() as u64;
        Ok(())
    }
}

/// The index up to which the changes of membership prove a log committed. A change is proposed only after the
/// change before it was applied. A node that has the end of a change must know that its beginning is
/// committed. Otherwise it would vote among the voters before the change, of which a majority may not know
/// it.
pub(in crate::consensus) fn known_committed(mut changes: impl DoubleEndedIterator<Item = u64>) -> u64 {
    let _last = changes.next_back();
    changes.next_back().unwrap_or(0)
}

/// Applies the entries behind the snapshot that are known to be committed, without publishing. A sole voter's
/// log is committed once it is durable. Another node applies what it recorded and what [`known_committed`]
/// implies; Raft decides about the rest.
pub(in crate::consensus) fn replay(
    log: &Log,
    recovery: &Recovery,
    applier: &mut Applier,
    membership: &mut Membership,
    node: u64,
) -> Result<Replayed, StartError> {
    let first = applier.index + 1;
    let mut replayed = Replayed::default();
    for entry in log.reader().entries(first, recovery.last_index + 1) {
        let mut entry = loaded(entry?);
        let committed = entry.index <= recovery.hard_state.commit || membership.is_sole_voter(node);
        if committed && replayed.tail.is_empty() {
            replayed.apply(&entry, applier, membership, node)?;
        } else {
            // A copy, so that a kept entry does not keep its segment from being recycled.
            entry.payload = Bytes::copy_from_slice(&entry.payload);
            replayed.tail.push(entry);
        }
    }
    let changes = replayed.tail.iter().filter(|e| e.kind == EntryKind::Membership).map(|e| e.index);
    let committed = known_committed(changes);
    let mut tail = std::mem::take(&mut replayed.tail).into_iter().peekable();
    while let Some(entry) = tail.next_if(|e| e.index <= committed || membership.is_sole_voter(node)) {
        replayed.apply(&entry, applier, membership, node)?;
    }
    replayed.tail = tail.collect();
    applier.forget_applied();
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::known_committed;

    #[test]
    fn a_change_of_membership_says_that_the_one_before_it_is_committed() {
        assert_eq!(known_committed([].into_iter()), 0);
        assert_eq!(known_committed([7].into_iter()), 0, "it may itself be nobody's but a dead leader's");
        assert_eq!(known_committed([7, 9, 12].into_iter()), 9);
    }
}
