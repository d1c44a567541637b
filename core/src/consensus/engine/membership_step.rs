//! The membership within a turn: what the steward says is proposed, and what was applied is told.
//!
//! Owns no state. Never decides what happens to the membership (the steward does, on the leader) and never waits for whoever
//! is told. It stays correct because it acts on what is applied alone: a proposal that got lost is made again by the steward, and
//! a node stops as removed only when it has applied its own removal.

use super::Consensus;
use crate::consensus::commands::encode_batch;
use crate::consensus::config::REMOVED_PATIENCE_NS;
use crate::consensus::control::StopReason;
use crate::consensus::membership::{Act, View, batch_of};
use crate::machine::{MembershipCommand, MembershipEffect, StreamPosition};
use paddock_transport::engine::Now;
use paddock_transport::io::Io;

/// What a node is that found itself removed, or was told so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// It was added again since: both may have happened while it was away.
    Member,
    /// The leader still sends it the log, which will tell.
    Unknown,
    /// Removed.
    Out,
}

/// `known` tells whether the membership applied here, of which it is `member` or not, is newer than the word of its removal: who
/// said that may have been behind himself.
fn judge(joins: bool, member: bool, known: bool, fed: bool) -> Part {
    match (joins || (member && known), member && fed) {
        (true, _) => Part::Member,
        (false, true) => Part::Unknown,
        (false, false) => Part::Out,
    }
}

/// A start that is older than one of which the log has commands: starts are counted in the data directory, durably, so the
/// directory was put back to an earlier state. It has forgotten votes and acknowledgements, and its commands would be skipped as
/// old ones.
fn is_before(incarnation: Option<u64>, known: Option<StreamPosition>) -> bool {
    incarnation.zip(known).is_some_and(|(incarnation, known)| incarnation < known.incarnation)
}

/// This node's own removal from the ensemble.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Removal {
    /// When this node learned that it is no member any more.
    pub(super) since_ns: Option<u64>,
    /// The version of the membership that was known here when another node said so. That node has no link to this one any more, so this
    /// node's own log may never tell.
    pub(super) told_version: Option<i64>,
}

impl Consensus {
    /// Whether the node's data directory is the one that the ensemble knows, and as new as it was.
    pub(in crate::consensus) fn admits(&self, node: u8) -> bool {
        self.planner.admits(self.applier.machine.membership(), node) && !self.is_old_copy(node)
    }

    /// Whether the node runs from an older copy of its data directory.
    pub(in crate::consensus) fn is_old_copy(&self, node: u8) -> bool {
        let known = self.applier.machine.stream(node);
        let is_recorded = self.applier.machine.membership().recorded(node) == self.planner.identity(node);
        is_recorded && is_before(self.links.incarnation(node), known)
    }

    /// The leader's step for the membership, if one is due; and the end of a node that is no member.
    pub(super) fn membership_step(&mut self, now: Now, io: &mut Io) -> Result<(), StopReason> {
        let now_ns = now.mono_ns;
        if self.pending.is_cut_off(self.applier.machine.stream(self.node)) {
            tracing::warn!("this node was added to the ensemble anew while it ran: it begins anew as well");
            return Err(StopReason::Reopen { index: self.applier.index });
        }
        if self.removal.since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= REMOVED_PATIENCE_NS)
            && !self.stays(now_ns)
        {
            return Err(StopReason::Removed { version: self.applier.machine.members().version });
        }
        if self.leadership.term == 0 {
            self.planner.rest();
            return Ok(());
        }
        for (node, incarnation) in self.links.take_strange() {
            self.expect(node, incarnation, io);
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
                let payload = self.leaders_batch(&command, now)?;
                let bytes = payload.len() as u64;
                self.raft.propose(payload).inspect(|()| {
                    self.leadership.in_flight += 1;
                    self.throttle.proposed(bytes, now_ns);
                })
            }
            Act::Change { target, command } => {
                let payload = match command {
                    Some(command) => self.leaders_batch(&command, now)?,
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

    /// Whether a node that found itself removed, or was told so, goes on all the same.
    fn stays(&mut self, now_ns: u64) -> bool {
        let state = self.applier.machine.membership();
        let told = self.removal.told_version;
        let part = judge(
            state.pending.as_ref().is_some_and(|pending| pending.members.get(self.node).is_some()),
            state.members.get(self.node).is_some(),
            told.is_none_or(|version| state.members.version > version),
            self.asks_leader().is_some(),
        );
        match part {
            Part::Out => return false,
            Part::Unknown => self.removal.since_ns = Some(now_ns),
            Part::Member => (self.removal.since_ns, self.removal.told_version) = (None, None),
        }
        true
    }

    /// Follows a change that was applied.
    pub(super) fn follow_members(&mut self, effect: &MembershipEffect, now_ns: u64) {
        self.planner.changed();
        let state = self.applier.machine.membership();
        self.links.update(&state.linked());
        for node in &effect.anew {
            // A start from the new directory may have the number of one that was heard of here. Whoever is linked is told anew
            // where its stream stands.
            self.leader_queues.forget(*node);
            self.links.note_strange(*node);
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

    fn leaders_batch(&self, command: &MembershipCommand, now: Now) -> Result<Vec<u8>, StopReason> {
        encode_batch(&batch_of(command, self.frame(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stops_on_no_word_of_one_that_is_behind_itself() {
        // By its own log it is a member, and it is told that it is none: removed and added again, it learns that from the leader.
        assert_eq!(judge(false, true, false, true), Part::Unknown);
        assert_eq!(judge(false, true, true, true), Part::Member);
        assert_eq!(judge(false, true, false, false), Part::Out);
        assert_eq!(judge(false, false, false, true), Part::Out);
        assert_eq!(judge(true, false, false, false), Part::Member);
    }

    #[test]
    fn a_directory_that_was_put_back_is_told_from_one_that_goes_on() {
        let known = Some(StreamPosition { incarnation: 7, seq: 3 });
        assert!(is_before(Some(6), known));
        assert!(!is_before(Some(7), known) && !is_before(Some(8), known));
        assert!(!is_before(None, known) && !is_before(Some(1), None));
    }
}
