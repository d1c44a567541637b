//! The next step of the membership planner.
//!
//! Owns the order of steps: a number for the ensemble, identities, nodes that lost their disk, the
//! reconfiguration, and last Raft's membership. Never takes a second step before the first one shows its
//! effect. Correct because each step follows from the replicated state alone, so any leader may take it. No
//! step gives a vote to a node that is behind, or takes a vote where the rest would be no quorum.

use super::{
    Act, CATCH_UP_NS_MAX, CATCH_UP_STALL_NS, Membership, MembershipCommand, MembershipPlanner, Target, View,
};
use crate::machine::PendingReconfig;
use crate::members::Members;

impl MembershipPlanner {
    pub(super) fn decide(&self, view: &View<'_>) -> Option<Act> {
        if view.raft.is_joint() || view.state.joint.is_some() {
            return None;
        }
        if view.state.members.members.is_empty() {
            return self.bootstrap();
        }
        self.identify(view).or_else(|| self.adopt(view)).or_else(|| match &view.state.pending {
            Some(pending) => self.reconfigure(view, pending),
            None => self.settle(view),
        })
    }

    /// Whether the planner must look again without an event.
    pub(super) fn is_unsettled(&self, view: &View<'_>) -> bool {
        let state = view.state;
        if state.members.members.is_empty() {
            return false;
        }
        view.raft.is_joint()
            || state.joint.is_some()
            || state.pending.is_some()
            || !state.leaving.is_empty()
            || !view.raft.voters.iter().copied().eq(state.members.voters().map(u64::from))
            || !view.raft.learners.iter().copied().eq(state.members.observers().map(u64::from))
            || self.links.iter().any(|(node, identity)| state.is_foreign(*node, identity))
    }

    fn bootstrap(&self) -> Option<Act> {
        let (cluster, members) = (self.cluster, self.configured.clone());
        (!members.is_empty()).then_some(Act::Order(MembershipCommand::Bootstrap { cluster, members }))
    }

    /// Identities of data directories that are not recorded yet.
    fn identify(&self, view: &View<'_>) -> Option<Act> {
        let joining = |node: u8| view.state.pending.as_ref().is_some_and(|p| p.members.get(node).is_some());
        let (node, identity) = self.links.iter().find(|(node, _)| {
            let belongs = view.state.members.get(**node).is_some() || joining(**node);
            belongs && !view.state.leaving.contains_key(*node) && view.state.recorded(**node).is_none()
        })?;
        Some(Act::Order(MembershipCommand::Identify { node: *node, identity: *identity }))
    }

    /// Drops a member that came back with another data directory. Raft forgets its progress. The node follows
    /// again and gets its vote back when it has caught up.
    fn adopt(&self, view: &View<'_>) -> Option<Act> {
        self.links.iter().find_map(|(&node, &identity)| {
            if node == self.node || !view.state.is_foreign(node, &identity) {
                return None;
            }
            let command = MembershipCommand::Adopt { node, identity };
            tracing::warn!(
                "server {node} comes with another data directory than the ensemble knows: it has no vote until it is \
                 caught up. If its disk was not replaced on purpose, look who runs under its number"
            );
            self.change(view, without(view.raft, &[node]), Some(command))
        })
    }

    fn reconfigure(&self, view: &View<'_>, pending: &PendingReconfig) -> Option<Act> {
        let wanted = &pending.members;
        // A former member may come with another disk: Raft must not remember its progress.
        let returning: Vec<u8> =
            wanted.members.keys().copied().filter(|node| view.state.leaving.contains_key(node)).collect();
        if !returning.is_empty() {
            let target = without(view.raft, &returning);
            return self.change(view, target, Some(MembershipCommand::Forget { nodes: returning }));
        }
        let joining: Vec<u64> = ids(wanted).filter(|id| !view.raft.contains(*id)).collect();
        if !joining.is_empty() {
            tracing::info!(
                "reconfiguration {}: servers {joining:?} follow the log from now on",
                pending.number
            );
            let voters = view.raft.voters.clone();
            let learners = others(view.raft, &voters, joining);
            return Some(Act::Change { target: Target { voters, learners }, command: None });
        }

        let is_voter = |node: u8| view.raft.voters.contains(&u64::from(node));
        let catches_up =
            |node: &u8| !is_voter(*node) && !self.is_ready(view, *node) && self.is_catching_up(view, *node);
        // A participant from before this change that has no vote yet gets it later as well.
        let joins = |node: &u8| !view.state.members.voters().any(|member| member == *node);
        if wanted.voters().filter(joins).any(|node| catches_up(&node)) {
            return None;
        }
        let refuse = Act::Order(MembershipCommand::Refuse { number: pending.number });
        let missing: Vec<u8> = wanted.voters().filter(|node| !self.counts(view, *node)).collect();
        if 2 * missing.len() >= wanted.voters().count() {
            // A voter may be between two links just now, and without the nodes that are behind there is no
            // quorum.
            let over = self.attempt_ns(view) >= CATCH_UP_STALL_NS && !missing.iter().any(catches_up);
            if over {
                tracing::warn!(
                    "reconfiguration {} is refused (NewConfigNoQuorum): of its {} voters {} do not count: {}. Nothing has changed",
                    pending.number,
                    wanted.voters().count(),
                    missing.len(),
                    self.list(view, &missing)
                );
            }
            return over.then_some(refuse);
        }

        // A node that is behind gets its vote later. A voter keeps its vote.
        let votes = |node: &u8| is_voter(*node) || self.is_ready(view, *node);
        let voters: Vec<u64> = wanted.voters().filter(votes).map(u64::from).collect();
        if !voters.contains(&u64::from(self.node)) {
            let over = self.attempt_ns(view) >= CATCH_UP_NS_MAX;
            return if over { Some(refuse) } else { self.hand_over(view, wanted, &voters) };
        }
        tracing::info!("reconfiguration {} takes effect, with voters {voters:?}", pending.number);
        let command = MembershipCommand::Conclude { number: pending.number };
        let learners = others(view.raft, &voters, []);
        self.change(view, Target { voters, learners }, Some(command))
    }

    /// Whether a future voter counts for the quorum that a reconfiguration needs.
    pub(super) fn counts(&self, view: &View<'_>, node: u8) -> bool {
        match view.raft.voters.contains(&u64::from(node)) {
            true => self.is_present(view, node),
            false => self.is_ready(view, node),
        }
    }

    /// This leader will not vote, so one of the future voters must lead. If none of them votes yet, some get
    /// their votes first.
    fn hand_over(&self, view: &View<'_>, wanted: &Members, voters: &[u64]) -> Option<Act> {
        let heirs = wanted.voters().filter(|node| view.raft.voters.contains(&u64::from(*node)));
        if let Some(heir) = self.farthest(view, heirs) {
            return Some(Act::Transfer { to: u64::from(heir) });
        }
        let mut both = [&view.raft.voters[..], voters].concat();
        both.sort_unstable();
        both.dedup();
        let learners = others(view.raft, &both, []);
        self.change(view, Target { voters: both, learners }, None)
    }

    /// The step that brings Raft's membership closer to the replicated members.
    fn settle(&self, view: &View<'_>) -> Option<Act> {
        let members = &view.state.members;
        let may_vote = |node: &u8| view.raft.voters.contains(&u64::from(*node)) || self.is_ready(view, *node);
        // A node that was never a learner becomes one first.
        let known = |node: &u8| view.raft.contains(u64::from(*node));
        let voters: Vec<u64> =
            members.voters().filter(|node| known(node) && may_vote(node)).map(u64::from).collect();
        if !voters.contains(&u64::from(self.node)) {
            let heirs = members.voters().filter(|node| view.raft.voters.contains(&u64::from(*node)));
            return self.farthest(view, heirs).map(|heir| Act::Transfer { to: u64::from(heir) });
        }
        let (stay, gone): (Vec<u8>, Vec<u8>) = (view.state.leaving.keys())
            .partition(|node| view.raft.contains(u64::from(**node)) && self.is_lingering(view, **node));
        let mut learners: Vec<u64> = ids(members).chain(stay.into_iter().map(u64::from)).collect();
        learners.retain(|id| !voters.contains(id));
        learners.sort_unstable();
        let command = (!gone.is_empty()).then_some(MembershipCommand::Forget { nodes: gone });
        self.change(view, Target { voters, learners }, command)
    }

    /// A change with its command; the command alone where Raft's membership stays; or no step.
    fn change(&self, view: &View<'_>, target: Target, command: Option<MembershipCommand>) -> Option<Act> {
        if (&target.voters, &target.learners) == (&view.raft.voters, &view.raft.learners) {
            return command.map(Act::Order);
        }
        if !self.is_quorum_present(view, &target.voters) {
            return None;
        }
        tracing::info!(
            "membership: voters {:?} and learners {:?} become voters {:?} and learners {:?}",
            view.raft.voters,
            view.raft.learners,
            target.voters,
            target.learners
        );
        Some(Act::Change { target, command })
    }

    fn is_quorum_present(&self, view: &View<'_>, voters: &[u64]) -> bool {
        let present = |id: &&u64| u8::try_from(**id).is_ok_and(|node| self.is_present(view, node));
        2 * voters.iter().filter(present).count() > voters.len()
    }
}

/// The membership with these nodes dropped.
fn without(raft: &Membership, nodes: &[u8]) -> Target {
    let stays = |id: &u64| !nodes.iter().any(|node| u64::from(*node) == *id);
    let keep = |ids: &[u64]| ids.iter().copied().filter(stays).collect();
    Target { voters: keep(&raft.voters), learners: keep(&raft.learners) }
}

/// All nodes of the membership and of `more` that are not among `voters`, ascending.
fn others(raft: &Membership, voters: &[u64], more: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut all: Vec<u64> = raft.nodes().into_iter().chain(more).filter(|id| !voters.contains(id)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn ids(members: &Members) -> impl Iterator<Item = u64> + '_ {
    members.members.keys().map(|node| u64::from(*node))
}
