//! What keeps the group and the log in step with each other beside the way of the entries.
//!
//! Owns no state: it has recorded how far session ids may go, tells the group where the log begins, which snapshot there is,
//! and what was read for peers who are behind; and it takes a change of membership to the group, the machine and the next
//! snapshot at once. It stays correct because the three hear of it in the same step, so that a snapshot never says something
//! else than the entries it contains.

use super::apply::Applier;
use super::checkpoints::Checkpoints;
use super::config::ALLOW_IDS_RETRY_NS;
use super::control::StopReason;
use super::engine::Consensus;
use super::group::{EntryKind, Group, LogEntry};
use super::raft_group::RaftGroup;
use crate::machine::Applied;

/// Applies an entry to the machine and, where it changes the membership, to the group and the next snapshot.
pub(super) fn apply<'a>(
    group: &mut RaftGroup,
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

impl Consensus {
    /// What the group wants for peers who are behind waits until it may be read.
    pub(super) fn feed_cold(&mut self) {
        for fetch in self.effects.fetches.drain(..) {
            self.feed.fetch(fetch);
        }
    }

    /// Has the data directory record more blocks of session ids before the last ones are used. The core waits for the disk here:
    /// once in a hundred million sessions.
    pub(super) fn allow_ids(&mut self, now_ns: u64) {
        let pauses = |at: u64| now_ns.saturating_sub(at) < ALLOW_IDS_RETRY_NS;
        if !self.ids.is_low() || self.phase.ids_failed_ns.is_some_and(pauses) {
            return;
        }
        let end = self.ids.wanted();
        self.phase.ids_failed_ns = match self.dir.allow_ids(end) {
            Ok(()) => {
                self.ids.allow(end);
                None
            }
            Err(error) => {
                tracing::error!(
                    "how far session ids may go could not be recorded: {error}. It is tried again; without it clients get no \
                     new sessions here before long"
                );
                Some(now_ns)
            }
        };
    }

    /// Has read for peers who are behind what is due, and tells the group what was read, what snapshot there is, and where the
    /// log begins.
    pub(super) fn inform_group(&mut self, now_ns: u64) {
        while let Some(fetch) = self.feed.next_fetch(now_ns) {
            self.cold.request(fetch);
        }
        while let Some((fetch, entries)) = self.cold.take() {
            self.group.fetched(fetch, entries);
        }
        let (index, term) = self.checkpoints.newest();
        if index > 0 {
            self.group.set_snapshot(index, term);
        }
        if let Some(first) = self.journal.take_truncated() {
            self.group.truncated(first);
        }
    }
}
