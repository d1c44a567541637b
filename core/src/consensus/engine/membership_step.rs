//! The membership within a turn: the planner's next step is proposed, and applied changes are followed.
//!
//! Owns this node's own removal. Never decides what happens to the membership: the membership planner does,
//! on the leader. Never waits for a peer.
//!
//! Correct because it acts on applied state alone. The planner repeats a proposal that was lost. A node
//! stops as removed only when it has applied its removal, or when neither its log nor a leader contradicts
//! the report.

use super::Consensus;
use crate::consensus::commands::encode_batch;
use crate::consensus::config::REMOVED_PATIENCE_NS;
use crate::consensus::control::StopReason;
use crate::consensus::membership::{Act, View, batch_of};
use crate::machine::{MembershipCommand, MembershipEffect, StreamPosition};
use paddock_transport::engine::Now;
use paddock_transport::io::Io;

/// A node's conclusion after it applied its removal or received a report of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RemovalCheck {
    /// Added again since. Both changes may have happened while the node was away.
    Member,
    /// The leader still sends the log, which will decide.
    Unknown,
    Removed,
}

/// `known`: the membership applied here is newer than the report of the removal, whose sender may have been
/// behind. `member`: this node is in that membership. `fed`: a leader has a link to this node.
fn check_removal(joins: bool, member: bool, known: bool, fed: bool) -> RemovalCheck {
    match (joins || (member && known), member && fed) {
        (true, _) => RemovalCheck::Member,
        (false, true) => RemovalCheck::Unknown,
        (false, false) => RemovalCheck::Removed,
    }
}

/// Whether a start is older than one of which the log has commands. Starts are counted durably in the data
/// directory, so the directory was put back to an earlier state. It has lost votes and acknowledgements,
/// and its commands would be skipped as old ones.
fn is_older_start(incarnation: Option<u64>, known: Option<StreamPosition>) -> bool {
    incarnation.zip(known).is_some_and(|(incarnation, known)| incarnation < known.incarnation)
}

/// This node's own removal from the ensemble.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Removal {
    /// When this node learned of its removal.
    pub(super) since_ns: Option<u64>,
    /// Version of the membership that was applied here when a peer reported the removal. That peer has no
    /// link to this node any more, so this node's own log may never contain the removal.
    pub(super) told_version: Option<i64>,
}

impl Consensus {
    /// Whether the node's data directory is the one that the membership records, and no older copy of it.
    pub(in crate::consensus) fn admits(&self, node: u8) -> bool {
        self.planner.admits(self.applier.machine.membership(), node) && !self.is_old_copy(node)
    }

    /// Whether the node runs from an older copy of its data directory.
    pub(in crate::consensus) fn is_old_copy(&self, node: u8) -> bool {
        let known = self.applier.machine.stream(node);
        let is_recorded = self.applier.machine.membership().recorded(node) == self.planner.identity(node);
        is_recorded && is_older_start(self.links.incarnation(node), known)
    }

    /// Proposes the leader's next membership step, if one is due. Ends a node that is no member.
    pub(super) fn membership_step(&mut self, now: Now, io: &mut Io) -> Result<(), StopReason> {
        let now_ns = now.mono_ns;
        if self.pending.is_cut_off(self.applier.machine.stream(self.node)) {
            tracing::warn!(
                "this node was removed and added again while it ran: it opens its data directory again"
            );
            return Err(StopReason::Reopen { index: self.applier.index });
        }
        if self.removal.since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= REMOVED_PATIENCE_NS)
            && !self.remains_member(now_ns)
        {
            return Err(StopReason::Removed { version: self.applier.machine.members().version });
        }
        if self.leadership.term == 0 {
            self.planner.rest();
            return Ok(());
        }
        for (node, incarnation) in self.links.take_deferred_expects() {
            self.send_expect(node, incarnation, io);
        }
        if !self.is_writable() || !self.planner.is_due(now_ns) {
            return Ok(());
        }
        let (raft, progress) = (self.raft.membership(), self.raft.progress());
        let view = View {
            now_ns,
            applied: self.applier.index,
            commit: self.raft.commit(),
            state: self.applier.machine.membership(),
            raft: &raft,
            progress: &progress,
        };
        let Some(act) = self.planner.turn(&view) else { return Ok(()) };
        let done = match act {
            Act::Order(command) => {
                let payload = self.membership_batch(&command, now)?;
                let bytes = payload.len() as u64;
                self.raft.propose(payload).inspect(|()| {
                    self.leadership.in_flight += 1;
                    self.throttle.proposed(bytes, now_ns);
                })
            }
            Act::Change { target, command } => {
                let payload = match command {
                    Some(command) => self.membership_batch(&command, now)?,
                    None => Vec::new(),
                };
                self.raft.propose_membership(&target, payload)
            }
            Act::Transfer { to } => {
                tracing::info!("leadership is handed to node {to}: this one is not to vote any more");
                self.raft.transfer(to);
                Ok(())
            }
        };
        if let Err(why) = done {
            tracing::debug!("a step of the membership waits: {why}");
        }
        Ok(())
    }

    /// Whether a node goes on although it applied its removal or received a report of it.
    fn remains_member(&mut self, now_ns: u64) -> bool {
        let state = self.applier.machine.membership();
        let told = self.removal.told_version;
        let check = check_removal(
            state.pending.as_ref().is_some_and(|pending| pending.members.get(self.node).is_some()),
            state.members.get(self.node).is_some(),
            told.is_none_or(|version| state.members.version > version),
            self.leader_to_ask().is_some(),
        );
        match check {
            RemovalCheck::Removed => return false,
            RemovalCheck::Unknown => self.removal.since_ns = Some(now_ns),
            RemovalCheck::Member => (self.removal.since_ns, self.removal.told_version) = (None, None),
        }
        true
    }

    /// Follows an applied change of the membership.
    pub(super) fn follow_membership(&mut self, effect: &MembershipEffect, now_ns: u64) {
        self.planner.changed();
        let state = self.applier.machine.membership();
        self.links.update(&state.linked());
        for node in &effect.anew {
            // A start from the new directory may have the incarnation of an earlier start. A linked node
            // gets a new `Expect`.
            self.leader_queues.forget(*node);
            self.links.defer_expect(*node);
        }
        if effect.removed.contains(&self.node) {
            tracing::error!(
                "this node (server {}) was removed from the ensemble by version {:x} of the membership; it stops",
                self.node,
                state.members.version
            );
            self.removal.since_ns.get_or_insert(now_ns);
        }
    }

    fn membership_batch(&self, command: &MembershipCommand, now: Now) -> Result<Vec<u8>, StopReason> {
        encode_batch(&batch_of(command, self.frame(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_reported_by_a_node_that_is_behind_stops_no_member() {
        // By its own log it is a member, and a peer reports its removal. A node that was removed and added
        // again learns that from the leader.
        assert_eq!(check_removal(false, true, false, true), RemovalCheck::Unknown);
        assert_eq!(check_removal(false, true, true, true), RemovalCheck::Member);
        assert_eq!(check_removal(false, true, false, false), RemovalCheck::Removed);
        assert_eq!(check_removal(false, false, false, true), RemovalCheck::Removed);
        assert_eq!(check_removal(true, false, false, false), RemovalCheck::Member);
    }

    #[test]
    fn a_directory_that_was_put_back_differs_from_one_that_goes_on() {
        let known = Some(StreamPosition { incarnation: 7, seq: 3 });
        assert!(is_older_start(Some(6), known));
        assert!(!is_older_start(Some(7), known) && !is_older_start(Some(8), known));
        assert!(!is_older_start(None, known) && !is_older_start(Some(1), None));
    }
}
