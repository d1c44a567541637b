//! The `raft` crate behind [`Group`].
//!
//! Owns the Raft node, its window of recent entries, and the jitter of its elections. Never lets anything from outside
//! reach protobuf, and never uses leases. It stays correct because durability is reported by drain number, in order;
//! because a peer's message is looked at before the crate sees it, which panics on what an honest peer never says; and
//! because the crate's own draw from the thread's random numbers is overwritten by ours at each change of term or part:
//! two runs with the same seed and the same inputs do the same.

mod complaints;

use super::cold::Cold;
use super::group::{
    Effects, Fetch, Group, GroupError, LogEntry, Membership, MembershipError, MembershipStep, Progress,
    ProposeError, Role, Target, Vote,
};
use super::membership;
use super::window::{Span, Window};
use super::wire;
use crate::config::RaftClock;
use crate::mutation::{Mutation, mutated};
use crate::peers::message::RaftMessage;
use crate::random::splitmix;
use complaints::{Complaints, Wrong};
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage};

/// Bytes of committed entries handed out at once: a few batches, so that apply returns to the loop between them.
const COMMITTED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes in one append message to a peer, or one entry: small enough that a heartbeat behind it is not late.
const MESSAGE_BYTES_MAX: u64 = 256 * 1024;
/// Append messages under way to one peer: with their size, at most 2 MiB. A peer that catches up acknowledges many at once
/// and gets as many anew in one turn of the leader, whose clients wait that long. More than batches in flight: one that is
/// slow for a moment gets what it missed in fewer, larger messages.
const MESSAGES_IN_FLIGHT_MAX: usize = 8;
/// Bytes of entries that are not applied yet above which a follower takes no further ones: they must be in memory, and
/// apply may be held up by readers. The leader sends them again.
const UNAPPLIED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// From what a node starts.
#[derive(Clone, Debug, Default)]
pub struct GroupStart {
    /// This node's number in the group.
    pub node: u64,
    /// The membership as of the last entry applied.
    pub membership: Membership,
    /// What was recovered of elections.
    pub vote: Vote,
    /// Index of the last entry that was applied in recovery.
    pub applied: u64,
    /// Where the log begins, and the terms of what is in it.
    pub span: Span,
    /// What the log holds beyond `applied`.
    pub tail: Vec<LogEntry>,
    /// Seed of the election jitter.
    pub seed: u64,
    /// How long ticks, beats and elections are. The unit itself is its caller's, who calls [`Group::tick`].
    pub clock: RaftClock,
}

/// A Raft node.
pub struct RaftGroup {
    node: RawNode<Window>,
    membership: Membership,
    /// The newest one that was drained or recovered.
    vote: Vote,
    jitter: u64,
    /// Least ticks without a leader before this node stands for election; below twice that it certainly does.
    election_ticks: usize,
    /// Term and part for which the jitter was drawn.
    drawn_for: (u64, StateRole),
    /// The last drain, the last one with entries, and the last one that is durable.
    drained: u64,
    drained_entries: u64,
    persisted: u64,
    /// The last one with a vote or a term.
    drained_vote: u64,
    cold: Cold,
    complaints: Complaints,
}

impl RaftGroup {
    /// Sets a node up behind what recovery has applied.
    pub fn new(start: GroupStart) -> Result<Self, GroupError> {
        start.membership.check().map_err(|e| GroupError(e.to_string()))?;
        let hard_state = HardState {
            term: start.vote.term,
            vote: start.vote.node,
            commit: start.applied,
            ..HardState::default()
        };
        let mut window = Window::new(start.span, start.applied, hard_state, start.membership.conf_state());
        let tail: Vec<Entry> = start.tail.into_iter().map(wire::crate_entry).collect();
        window.append(&tail);
        window.set_alone(start.membership.is_alone(start.node));
        let election_ticks = start.clock.election_ticks();
        let config = Config {
            id: start.node,
            election_tick: election_ticks,
            heartbeat_tick: start.clock.heartbeat_ticks(),
            min_election_tick: election_ticks,
            max_election_tick: 2 * election_ticks,
            applied: start.applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let node = RawNode::new(&config, window, &super::raft_log::logger())
            .map_err(|e| GroupError(e.to_string()))?;
        let mut group = Self {
            node,
            membership: start.membership,
            vote: start.vote,
            jitter: start.seed,
            election_ticks,
            drawn_for: (u64::MAX, StateRole::Follower),
            drained: 0,
            drained_entries: 0,
            persisted: 0,
            drained_vote: 0,
            cold: Cold::default(),
            complaints: Complaints::default(),
        };
        group.draw();
        Ok(group)
    }

    /// Whether this node's vote alone decides, so that it may campaign at once.
    pub fn is_sole_voter(&self) -> bool {
        self.membership.is_sole_voter(self.id())
    }

    /// [`Group::tick`] for a node that must not stand for election: when its time has come it lets go of a leader that it does not
    /// hear, and votes for others.
    pub fn tick_without_standing(&mut self) {
        let raft = &self.node.raft;
        if raft.election_elapsed + 1 < raft.randomized_election_timeout() {
            return self.tick();
        }
        self.complaints.tick();
        let raft = &self.node.raft;
        if raft.leader_id != 0 || raft.state != StateRole::Follower {
            self.let_go();
        }
    }

    /// From now on this node follows nobody.
    fn let_go(&mut self) {
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, 0);
        // The crate has drawn, and neither term nor part need have changed.
        self.drawn_for = (u64::MAX, StateRole::Follower);
        self.draw();
    }

    fn id(&self) -> u64 {
        self.node.raft.id
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Overwrites the crate's own draw of the election timeout whenever it made one: it does at each change of term or
    /// part, and none of its calls changes both back and forth.
    fn draw(&mut self) {
        let now = (self.node.raft.term, self.node.raft.state);
        if self.drawn_for != now {
            self.drawn_for = now;
            let span = self.election_ticks as u64;
            let ticks = self.election_ticks + (splitmix(&mut self.jitter) % span) as usize;
            // With the defect all stand at once, so that a second vote finds somebody to be given to.
            let ticks = if mutated(Mutation::ForgetVote) { self.election_ticks } else { ticks };
            self.node.raft.set_randomized_election_timeout(ticks);
        }
    }

    /// Whether the whole log is durable and known to be: only then may this node stand for election or win one.
    fn is_settled(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.unstable_entries().is_empty()
            && log.persisted == log.last_index()
            && self.persisted >= self.drained_entries
    }

    /// Whether the crate can take the message without a panic or a false belief. What is asked here, honest peers hold.
    fn is_believable(&mut self, m: &mut Message) -> bool {
        let raft = &self.node.raft;
        let (last, term) = (raft.raft_log.last_index(), raft.term);
        match m.msg_type {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => {
                let other = m.term == term && raft.leader_id != 0 && raft.leader_id != m.from;
                // Two leaders of one term are what the defect is about.
                let other = other && !mutated(Mutation::ForgetVote);
                if other || (m.term == term && raft.state == StateRole::Leader) {
                    if let Some(more) = self.complaints.admit(m.from, Wrong::SecondLeader) {
                        tracing::error!(
                            more,
                            "node {} claims to lead in term {term}, in which node {} does; it is not heard. A node with \
                             that number has lost or mixed up its data directory",
                            m.from,
                            raft.leader_id
                        );
                    }
                    return false;
                }
                if m.term >= term && self.contradicts_committed(m) {
                    if let Some(more) = self.complaints.admit(m.from, Wrong::OtherLog) {
                        tracing::error!(
                            more,
                            "node {} leads with a log that contradicts what is committed here up to entry {}; it is not \
                             heard. The two never belonged to the same ensemble, or one has another's data directory. \
                             Keep both directories; let one of the nodes join as new, with an empty one",
                            m.from,
                            raft.raft_log.committed
                        );
                    }
                    return false;
                }
                if m.msg_type == MessageType::MsgHeartbeat && m.commit > last {
                    if let Some(more) = self.complaints.admit(m.from, Wrong::ForgottenEntry) {
                        tracing::error!(
                            more,
                            "node {} believes that this node has entry {}, but the log ends at {last}: this data directory \
                             is not the one that acknowledged it. Remove it and let the node join as new",
                            m.from,
                            m.commit
                        );
                    }
                    m.commit = 0;
                }
                // Only while there is something to apply: otherwise what is missing may be what commits the rest.
                let log = &raft.raft_log;
                let held_up = log.applied < log.committed.min(log.persisted);
                if held_up && log.store.unapplied_bytes() > UNAPPLIED_BYTES_MAX {
                    m.entries.clear();
                }
                true
            }
            MessageType::MsgAppendResponse => m.index <= last && (!m.reject || m.reject_hint <= m.index),
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                m.reject || self.is_settled()
            }
            MessageType::MsgTimeoutNow => self.is_settled(),
            _ => true,
        }
    }

    /// Whether a leader's entries, or the one before them, differ from what is committed here. No leader's of the same group
    /// do. The crate would take such a log for its own, and be counted for entries that it does not have.
    fn contradicts_committed(&self, m: &Message) -> bool {
        let log = &self.node.raft.raft_log;
        let known = log.store.first_index().unwrap_or(u64::MAX).saturating_sub(1)..=log.committed;
        let differs =
            |index: u64, term: u64| known.contains(&index) && log.term(index).is_ok_and(|t| t != term);
        m.msg_type == MessageType::MsgAppend
            && (differs(m.index, m.log_term) || m.entries.iter().any(|e| differs(e.index, e.term)))
    }

    /// What came of an application: the crate appends the end of a joint membership without telling anybody.
    fn tell_appended(&mut self, last_before: u64) {
        if self.leads() && self.node.raft.raft_log.last_index() > last_before {
            self.node.raft.bcast_append();
        }
    }

    /// A leader that does not belong to the voters any more lets go; the voter that is the farthest takes over at once.
    fn step_down_if_removed(&mut self) {
        if !self.leads() || self.node.raft.promotable() {
            return;
        }
        if let Some(heir) = self.heir() {
            self.node.raft.send_timeout_now(heir);
        }
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, 0);
        self.draw();
    }

    /// The voter beside this node whose log is known to be the longest.
    fn heir(&self) -> Option<u64> {
        let others = self.progress().into_iter().filter(|p| p.node != self.id() && p.active && !p.learner);
        others.max_by_key(|p| (p.matched, std::cmp::Reverse(p.node))).map(|p| p.node)
    }
}

impl Group for RaftGroup {
    fn tick(&mut self) {
        self.complaints.tick();
        let raft = &self.node.raft;
        let due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if !self.leads() && due && !self.is_settled() {
            // Its time has come, but its log is not durable: as soon as it is.
            return;
        }
        if !self.leads() && due && !raft.promotable() && raft.leader_id != 0 {
            // Who has no vote would believe in a dead leader until it hears of another one.
            return self.let_go();
        }
        self.node.tick();
        self.draw();
    }

    fn campaign(&mut self) -> Result<(), GroupError> {
        if !self.is_settled() {
            return Err(GroupError("part of the log is not durable yet".to_owned()));
        }
        let done = self.node.campaign().map_err(|e| GroupError(e.to_string()));
        self.draw();
        done
    }

    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ProposeError> {
        if !self.leads() {
            return Err(ProposeError::NotLeader);
        }
        self.node.propose(Vec::new(), payload).map_err(|_| ProposeError::Busy)
    }

    fn read_index(&mut self, round: u64) {
        if self.leads() {
            self.node.read_index(round.to_le_bytes().to_vec());
        }
    }

    fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
        self.node.on_persist_ready(number);
    }

    fn applied(&mut self, index: u64) {
        let last = self.node.raft.raft_log.last_index();
        self.node.advance_apply_to(index);
        self.node.mut_store().release(index);
        self.tell_appended(last);
    }

    fn drain(&mut self, effects: &mut Effects) -> bool {
        effects.clear();
        effects.number = self.drained;
        self.cold.wanted(&self.node, &mut effects.fetches);
        if !self.node.has_ready() {
            return !effects.fetches.is_empty();
        }
        let mut ready = self.node.ready();
        self.drained = ready.number();
        effects.number = self.drained;
        // The index of commit alone is not worth a record: the journal notes it with the next entries.
        let vote = ready.hs().map_or(self.vote, |h| Vote { term: h.term, node: h.vote });
        if vote != self.vote {
            self.vote = vote;
            effects.vote = Some(vote);
            self.drained_vote = self.drained;
        }
        // A sole voter leads before its own vote is durable. What its learners took from it in a term that it then forgot, it might
        // contradict in the same term.
        let in_durable_term = self.persisted >= self.drained_vote;
        for m in ready.take_messages() {
            match m.msg_type {
                MessageType::MsgSnapshot => effects.snapshots.push(m.to),
                _ if in_durable_term => effects.messages.extend(wire::outgoing(m)),
                _ => effects.after.extend(wire::outgoing(m)),
            }
        }
        for m in ready.take_persisted_messages() {
            match m.msg_type {
                // A word about this moment, which no crash makes untrue. Behind entries for which the disk has no room it would
                // never leave, and the leader would take this node for dead.
                MessageType::MsgHeartbeatResponse => {
                    effects.messages.extend(wire::outgoing(m));
                }
                MessageType::MsgSnapshot => effects.snapshots.push(m.to),
                _ => effects.after.extend(wire::outgoing(m)),
            }
        }
        effects.entries.extend(ready.entries().iter().map(wire::log_entry));
        effects.committed.extend(ready.take_committed_entries().iter().map(wire::log_entry));
        effects.reads.extend(ready.take_read_states().into_iter().filter_map(|r| {
            let round = u64::from_le_bytes(r.request_ctx.try_into().ok()?);
            Some((round, r.index))
        }));
        let entries = ready.take_entries();
        if !entries.is_empty() {
            self.drained_entries = self.drained;
            effects.note = (!self.is_sole_voter()).then_some(self.vote);
        }
        self.node.mut_store().append(&entries);
        self.node.advance_append_async(ready);
        self.draw();
        true
    }

    fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    fn term(&self) -> u64 {
        self.node.raft.term
    }

    fn alone(&self) -> bool {
        self.leads() && self.membership.is_alone(self.id())
    }

    fn step(&mut self, message: RaftMessage) {
        let Some(mut message) = wire::incoming(message, self.id()) else {
            tracing::debug!("a message of a peer is no message of Raft; it is dropped");
            return;
        };
        if self.is_believable(&mut message) {
            if mutated(Mutation::ForgetVote) {
                self.node.raft.vote = 0;
            }
            // What the crate refuses (an answer of somebody who is no member) needs no answer.
            let _ = self.node.step(message);
            self.draw();
        }
    }

    fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    fn unreachable(&mut self, node: u64) {
        self.node.report_unreachable(node);
    }

    fn snapshot_sent(&mut self, node: u64, index: Option<u64>) {
        // The file that was sent may be newer or older than the snapshot that Raft had in mind when it asked for one. The log is
        // kept back to the file's index, not to the other one.
        if let Some(index) = index
            && let Some(progress) = self.node.raft.mut_prs().get_mut(node)
            && progress.state == ProgressState::Snapshot
        {
            progress.pending_snapshot = index;
        }
        let status = if index.is_some() { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(node, status);
    }

    fn set_snapshot(&mut self, index: u64, term: u64) {
        self.node.mut_store().set_snapshot(index, term);
    }

    fn truncated(&mut self, first: u64) {
        self.node.mut_store().truncate(first);
    }

    fn transfer(&mut self, to: u64) {
        if self.leads() && to != self.id() {
            self.node.transfer_leader(to);
        }
    }

    fn propose_membership(&mut self, target: &Target, command: Vec<u8>) -> Result<(), ProposeError> {
        if !self.leads() {
            return Err(ProposeError::NotLeader);
        }
        if self.node.raft.has_pending_conf() {
            return Err(ProposeError::Changing);
        }
        match self.membership.enter(target) {
            Ok(_) => {}
            Err(MembershipError::Order { .. }) => return Err(ProposeError::Changing),
            Err(e) => return Err(ProposeError::Target(e)),
        }
        // The protobuf form is made here and looked at by the crate on this node only; what is logged and sent is the
        // context.
        let change = self.membership.conf_change(target);
        let payload = membership::encode(target, command);
        self.node.propose_conf_change(payload, change).map_err(|_| ProposeError::Busy)
    }

    fn apply_membership(&mut self, payload: &[u8]) -> Result<MembershipStep, GroupError> {
        let broken =
            |e: MembershipError| GroupError(format!("a change of membership cannot be applied: {e}"));
        let (change, step) = match membership::decode(payload).map_err(broken)? {
            Some((target, command)) => {
                self.membership.enter(&target).map_err(broken)?;
                (self.membership.conf_change(&target), MembershipStep::Entered { command })
            }
            None => {
                self.membership.leave().map_err(broken)?;
                (Default::default(), MembershipStep::Left)
            }
        };
        let now = self.node.apply_conf_change(&change).map_err(|e| GroupError(e.to_string()))?;
        self.membership = Membership::from_conf_state(now);
        let (id, state) = (self.id(), self.membership.conf_state());
        let alone = self.membership.is_alone(id);
        self.node.mut_store().set_members(state);
        self.node.mut_store().set_alone(alone);
        self.step_down_if_removed();
        Ok(step)
    }

    fn membership(&self) -> Membership {
        self.membership.clone()
    }

    fn progress(&self) -> Vec<Progress> {
        if !self.leads() {
            return Vec::new();
        }
        let voters = self.node.raft.prs().conf().voters();
        let mut all: Vec<Progress> = (self.node.raft.prs().iter())
            .map(|(&node, p)| Progress {
                node,
                matched: p.matched,
                active: node == self.id() || p.recent_active,
                learner: !voters.contains(node),
                snapshot: p.state == ProgressState::Snapshot,
            })
            .collect();
        all.sort_unstable_by_key(|p| p.node);
        all
    }

    fn fetched(&mut self, fetch: Fetch, entries: Vec<LogEntry>) {
        self.cold.fetched(&mut self.node, fetch, entries);
    }

    fn is_ready_to_order(&self) -> bool {
        let raft = &self.node.raft;
        self.leads() && raft.apply_to_current_term() && raft.lead_transferee.is_none()
    }
}

#[cfg(test)]
mod tests;
