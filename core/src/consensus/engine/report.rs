//! What counters and operators learn about the core.
//!
//! Owns what was last reported. Never decides anything. Correct because each value is read from the part
//! that owns it. Values that have to be computed are reported a few times a second only.

use super::Consensus;
use crate::consensus::catch_up::left_behind::LeftBehind;
use crate::consensus::membership::bootstrap_guard::Servers;
use crate::consensus::raft::{Membership, Progress, Role};
use crate::peers::{Contact, Refusal};
use crate::stats::ServerState;
use paddock_transport::engine::Now;

/// Period between two reports of computed values.
const REPORT_NS: u64 = 200_000_000;

/// Values as they were last reported.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Report {
    leader: (u64, u64),
    /// Whether a leader was known since the start.
    led: bool,
    /// Whether this node is a voter.
    votes: bool,
    next_ns: u64,
    /// Version of the membership reported last.
    members: Option<i64>,
    blocked: String,
    /// `initLimit`, at least one report period.
    init_limit_ns: u64,
    /// When the next `initLimit` ends. `None` before the first call of `is_late`.
    late_ns: Option<u64>,
    /// When the first report was made.
    began_ns: u64,
    left_behind: LeftBehind,
}

impl Report {
    /// Nothing is reported yet. A node that is not in service `init_limit_ns` after its start logs that.
    pub(in crate::consensus) fn new(init_limit_ns: u64) -> Self {
        Self { init_limit_ns: init_limit_ns.max(REPORT_NS), ..Self::default() }
    }

    /// Call while the node is not in service. Once per `initLimit`, returns the time since the start, ns.
    fn is_late(&mut self, now_ns: u64) -> Option<u64> {
        if self.late_ns.is_none() {
            self.began_ns = now_ns;
        }
        let due = *self.late_ns.get_or_insert(now_ns.saturating_add(self.init_limit_ns));
        if now_ns < due {
            return None;
        }
        self.late_ns = Some(now_ns.saturating_add(self.init_limit_ns));
        Some(now_ns - self.began_ns)
    }
}

impl Consensus {
    /// Updates counters and metrics, and the mode that clients see.
    pub(in crate::consensus) fn report_counters(&mut self, now: Now) {
        let (machine, tree) = (&self.applier.machine, &self.applier.tree);
        self.stats.set_zxid(machine.zxid());
        let node = self.stats.node();
        node.znodes.set(tree.node_count());
        node.ephemerals.set(tree.ephemeral_count());
        node.data_bytes.set(tree.approximate_data_bytes());
        node.global_sessions.set(machine.sessions().len() as u64);
        let (term, leader) = (self.raft.term(), self.raft.leader());
        let commit = self.known_commit();
        node.leader_id.set(leader);
        node.term.set(term);
        node.commit_index.set(commit);
        node.applied_index.set(self.applier.index);
        node.lag_entries.set(commit.saturating_sub(self.applier.index));
        if leader != 0 && self.report.leader != (leader, term) {
            self.report.leader = (leader, term);
            node.elections.add(1);
            if !self.raft.alone() {
                tracing::info!("node {leader} leads in term {term}");
            }
        }
        self.report.led |= leader != 0;
        if now.mono_ns >= self.report.next_ns {
            self.report.next_ns = now.mono_ns + REPORT_NS;
            self.report_gauges(now.mono_ns);
            if self.freshness.fresh_ns() == 0 && now.mono_ns != 0 {
                self.report_late(now.mono_ns);
            }
        }
        self.stats.set_mode(match (self.raft.alone(), self.raft.role()) {
            _ if !self.report.led => ServerState::NotServing,
            (true, _) => ServerState::Standalone,
            (false, Role::Leader) => ServerState::Leader,
            (false, _) if self.report.votes => ServerState::Follower,
            (false, _) => ServerState::Observer,
        });
    }

    /// The last index known to be committed. Raft tells a node of no commit beyond its own log. So a node
    /// whose disk is full, or that receives nothing, would never appear to lag. Confirmed rounds carry that
    /// index too.
    fn known_commit(&self) -> u64 {
        self.raft.commit().max(self.rounds.last_index())
    }

    fn report_gauges(&mut self, now_ns: u64) {
        let node = self.stats.node();
        node.node_id.set(u64::from(self.node));
        let membership = self.raft.membership();
        self.report.votes = membership.voters.contains(&u64::from(self.node));
        node.quorum_size.set(membership.settled_voters().len() as u64);
        node.disk_full.set(u64::from(self.lacks_disk_space()));
        let progress = self.raft.progress();
        let mine = u64::from(self.node);
        let count = |learner: bool, active: bool| {
            progress
                .iter()
                .filter(|p| p.node != mine && p.learner == learner && (p.active || !active))
                .count() as u64
        };
        node.followers.set(count(false, false));
        node.synced_followers.set(count(false, true));
        node.observers.set(count(true, false));
        node.synced_observers.set(count(true, true));
        let members = self.applier.machine.members();
        if self.report.members != Some(members.version) && !members.members.is_empty() {
            self.report.members = Some(members.version);
            self.stats.set_membership(members.config_text());
        }
        self.stats.set_membership_wait(self.planner.waits_for());
        self.report_left_behind(&progress, now_ns);
        let blocked = self.why_nothing_is_written(membership.voters.len());
        if blocked != self.report.blocked {
            if blocked.is_empty() {
                tracing::info!("writes go on");
            } else {
                tracing::warn!("nothing is written: {blocked}");
            }
            self.stats.set_write_block(&blocked);
            self.report.blocked = blocked;
        }
    }

    /// Reports the followers that acknowledge nothing, how far each is behind, and the cause.
    fn report_left_behind(&mut self, progress: &[Progress], now_ns: u64) {
        let (own, last) = (u64::from(self.node), self.raft.last_index());
        let stragglers = self.report.left_behind.look(progress, own, last, now_ns);
        self.stats.node().left_behind.set(stragglers.len() as u64);
        let told = stragglers.iter().map(|straggler| {
            let active = progress.iter().any(|p| p.node == straggler.node && p.active);
            let text = straggler.text(&self.why_left_behind(straggler.node, active));
            if straggler.say {
                tracing::warn!("{text}");
            }
            text
        });
        let told: Vec<String> = told.collect();
        self.stats.set_left_behind(&told.join("; "));
    }

    /// On the leader: why a follower gets or acknowledges no entries. `active`: Raft received a message
    /// from it within an election timeout.
    fn why_left_behind(&self, node: u64, active: bool) -> String {
        // Raft's members are numbered like servers.
        let Ok(node) = u8::try_from(node) else { return String::new() };
        if !self.links.is_up(node) {
            return match self.links.contact(node) {
                Contact::Refused(_) => {
                    "one of the two servers refuses the other; both logs say why".to_owned()
                }
                Contact::Silent => {
                    "it takes connections and does not answer; it is starting, or hangs".to_owned()
                }
                _ => "there is no link to it; is it running, and can the two hosts reach each other?"
                    .to_owned(),
            };
        }
        if !self.admits(node) {
            return "it came with another data directory than before; it gets its vote back when it has caught up".to_owned();
        }
        if self.disk_space.is_full(node) {
            return "the disk of its data directory is full; free space on it".to_owned();
        }
        if let Some(state) = self.installation.state(node) {
            return state;
        }
        match active {
            true => "it answers, and acknowledges no entry; see its log".to_owned(),
            false => "its link is up, and it does not answer; it may be paused, or its disk hangs".to_owned(),
        }
    }

    /// ZooKeeper ends a server that has not connected and caught up within `initLimit`. This node goes on,
    /// and logs a warning.
    fn report_late(&mut self, now_ns: u64) {
        let Some(since_ns) = self.report.is_late(now_ns) else { return };
        let (node, leader) = (self.node, self.raft.leader());
        let why = if leader == 0 {
            self.why_nothing_is_written(self.raft.membership().voters.len())
        } else {
            format!(
                "node {leader} leads, and this one has applied the log up to entry {} of {}. The leader's log and `paddock status` \
                 say what keeps the rest from it",
                self.applier.index,
                self.known_commit()
            )
        };
        tracing::warn!(
            "node {node} is not in service {} s after its start (initLimit {} s): {why}. It goes on trying",
            since_ns / 1_000_000_000,
            self.report.init_limit_ns / 1_000_000_000
        );
    }

    /// A text for operators, empty while writes go on.
    fn why_nothing_is_written(&self, voters: usize) -> String {
        if self.disk_space.writes_stopped_since().is_some() {
            return self.why_writes_are_stopped(voters);
        }
        if self.disk_space.own_full_since.is_some() && self.raft.role() == Role::Leader {
            return "the disk of the data directory is full; leadership goes to a node with room".to_owned();
        }
        if self.divergences.is_waiting() {
            return "this node's state differs from its log; it waits for a majority's opinion".to_owned();
        }
        if self.apply_blocked {
            return "shards do not follow: too many commits wait for them".to_owned();
        }
        if self.raft.leader() != 0 || self.raft.alone() {
            return String::new();
        }
        if let Some(why) = self.bootstrap_guard.why() {
            return why;
        }
        let needed = voters / 2 + 1;
        let lost = self.lost_voters();
        if voters - lost.len() < needed {
            return format!(
                "no leader can be elected: {} came without the data that this ensemble knows of them, and {needed} of {voters} \
                 voters are needed. Bring their data directories back; if they are gone for good, see \"No leader, and nothing \
                 to wait for\" in docs/OPERATIONS.md",
                Servers(&lost)
            );
        }
        no_leader(self.links.up().len() + 1, &self.raft.membership())
    }

    /// Voters met since this node's start whose data directories are not those that this ensemble knows.
    fn lost_voters(&self) -> Vec<u8> {
        let voters = self.raft.membership().voters.into_iter().filter_map(|id| u8::try_from(id).ok());
        let others = voters.filter(|node| *node != self.node);
        let lost = others.filter(|&node| match self.links.is_up(node) {
            true => !self.admits(node),
            false => self.links.contact(node) == Contact::Refused(Refusal::WrongCluster),
        });
        lost.collect()
    }
}

/// Describes what an election lacks where `reachable` nodes see each other.
fn no_leader(reachable: usize, membership: &Membership) -> String {
    let ids = |voters: &[u64]| voters.iter().map(|id| *id as u8).collect::<Vec<u8>>();
    let (before, after) = (ids(&membership.outgoing), ids(&membership.voters));
    let needed = match membership.is_joint() {
        true => format!(
            "a majority of {} and one of {} are needed, since a change of the voters is under way",
            Servers(&before),
            Servers(&after)
        ),
        false => format!("{} of {} voters are needed", after.len() / 2 + 1, after.len()),
    };
    format!("no leader; {reachable} nodes see each other here, {needed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft::Target;

    #[test]
    fn missing_voters_are_named_during_a_change_of_voters() {
        let alone = Membership::new(vec![3], vec![1, 2]);
        assert_eq!(no_leader(1, &alone), "no leader; 1 nodes see each other here, 1 of 1 voters are needed");
        let joint = alone.enter(&Target { voters: vec![1, 2, 3], learners: Vec::new() }).unwrap();
        assert_eq!(
            no_leader(2, &joint),
            "no leader; 2 nodes see each other here, a majority of server 3 and one of servers 1, 2 and 3 are needed, since a \
             change of the voters is under way"
        );
    }

    #[test]
    fn a_node_that_is_not_in_service_logs_that_once_per_init_limit() {
        const S: u64 = 1_000_000_000;
        let mut report = Report::new(20 * S);
        let told: Vec<u64> = (100..=160).filter_map(|s| report.is_late(s * S)).map(|ns| ns / S).collect();
        assert_eq!(told, [20, 40, 60]);
    }
}
