//! What the log holds behind the snapshot, applied again.
//!
//! Owns the judgement of what of it is committed: what was recorded as such, what a sole voter has made
//! durable, and what follows from the changes of membership. Never publishes anything, and never decides
//! about the rest: that is Raft's. It stays correct because every entry takes the way that it took at first,
//! the same check and the same comparison of digests.

use crate::consensus::apply::Applier;
use crate::consensus::control::StopReason;
use crate::consensus::durable::journal::loaded;
use crate::consensus::raft::{EntryKind, GroupError, LogEntry, Membership};
use crate::consensus::recovery::StartError;
use bytes::Bytes;
use paddock_storage::{Log, Recovery};

/// What lay in the log behind the snapshot.
#[derive(Default)]
pub(in crate::consensus) struct Replayed {
    pub(in crate::consensus) entries: u64,
    /// Bytes of their payloads.
    pub(in crate::consensus) bytes: u64,
    /// Entries of which it is not known whether they are committed.
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
                    // A majority may have found the entry's proposer wrong while this node ran. If it is this
                    // node, the first read round that it joins tells.
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

/// Up to which entry a log is committed, by the changes of membership in it: one is proposed only when the
/// one before it was applied. Whoever has the end of a change must know that its beginning is committed,
/// whatever was recorded: else he would vote and stand as one of the voters before it, of whom a majority may
/// know nothing of the change, beside the voters after it.
pub(in crate::consensus) fn known_committed(mut changes: impl DoubleEndedIterator<Item = u64>) -> u64 {
    let _last = changes.next_back();
    changes.next_back().unwrap_or(0)
}

/// Applies what the log holds beyond the snapshot and is known to be committed, without publishing. A sole
/// voter's log is committed as soon as it is durable; of others' only what they have recorded or what follows
/// from [`known_committed`], and Raft decides about the rest.
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
            // A copy: what is kept must not keep its segment from being recycled.
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
