//! The `raft` crate behind [`RaftNode`].
//!
//! Owns the Raft node, its window of recent entries, and the jitter of its elections.
//!
//! Never lets anything from outside reach protobuf, and never uses leases.
//!
//! Correct because durability is reported by drain number, in order. A peer's message is checked before the
//! crate sees it, since the crate panics on messages that an honest peer never sends. The crate draws its
//! election timeouts from thread-local randomness; this node overwrites each draw. So two runs with the same
//! seed and the same inputs do the same.

use super::misbehaviour::{Misbehaviour, Misbehaviours};
use crate::config::RaftClock;
use crate::consensus::raft::codec;
use crate::consensus::raft::cold_entries::ColdEntries;
use crate::consensus::raft::conf_state;
use crate::consensus::raft::log_window::{LogWindow, Span};
use crate::consensus::raft::{
    Effects, Fetch, GroupError, LogEntry, Membership, MembershipError, MembershipStep, Progress,
    ProposeError, Role, Target, Vote,
};
use crate::mutation::{Mutation, mutated};
use crate::peers::message::RaftMessage;
use crate::random::splitmix;
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage};

/// Bytes of committed entries in one drain: a few batches, so that apply returns to the loop between them.
const COMMITTED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes in one append message to a peer, or one entry. A heartbeat behind it is not late.
const MESSAGE_BYTES_MAX: u64 = 256 * 1024;

/// Append messages in flight to one peer: with their size, at most 2 MiB. A peer that catches up acknowledges
/// many at once, and the leader sends as many again in one turn, for which its clients wait. The bound is
/// above the batches in flight: a peer that was slow for a moment gets what it missed in fewer, larger
/// messages.
const MESSAGES_IN_FLIGHT_MAX: usize = 8;

/// Bytes of unapplied entries above which a follower takes no further ones. They are in memory, and readers
/// may hold up apply. The leader sends the dropped entries again.
const UNAPPLIED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The recovered state from which a Raft node starts.
#[derive(Clone, Debug, Default)]
pub struct GroupStart {
    pub node: u64,
    /// The membership as of the last entry that was applied.
    pub membership: Membership,
    /// The recovered term and vote.
    pub vote: Vote,
    /// Index of the last entry that was applied in recovery.
    pub applied: u64,
    /// First index of the log, and the terms of its entries.
    pub span: Span,
    /// Entries of the log beyond `applied`.
    pub tail: Vec<LogEntry>,
    /// Seed of the election jitter.
    pub seed: u64,
    /// Ticks of a heartbeat and of an election. The caller of [`RaftNode::tick`] decides how long a tick is.
    pub clock: RaftClock,
}

/// One node of a Raft group. See the module doc.
pub struct RaftNode {
    node: RawNode<LogWindow>,
    membership: Membership,
    /// The newest vote that was drained or recovered.
    vote: Vote,
    jitter: u64,
    /// Fewest ticks without a leader before this node campaigns. It campaigns below twice as many.
    election_ticks: usize,
    /// Term and role for which the jitter was drawn.
    drawn_for: (u64, StateRole),
    /// Numbers of the last drain, the last drain with entries, and the last durable drain.
    drained: u64,
    drained_entries: u64,
    persisted: u64,
    /// Number of the last drain with a vote or a term.
    drained_vote: u64,
    cold: ColdEntries,
    misbehaviours: Misbehaviours,
}

impl RaftNode {
    /// Sets a node up behind the entries that recovery has applied.
    pub(in crate::consensus) fn new(start: GroupStart) -> Result<Self, GroupError> {
        start.membership.check().map_err(|e| GroupError(e.to_string()))?;
        let hard_state = HardState {
            term: start.vote.term,
            vote: start.vote.node,
            commit: start.applied,
            ..HardState::default()
        };
        let mut window = LogWindow::new(start.span, start.applied, hard_state, start.membership.conf_state());
        let tail: Vec<Entry> = start.tail.into_iter().map(codec::crate_entry).collect();
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
        let node = RawNode::new(&config, window, &crate::consensus::raft::slog_bridge::logger())
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
            cold: ColdEntries::default(),
            misbehaviours: Misbehaviours::default(),
        };
        group.draw_timeout();
        Ok(group)
    }

    /// Whether this node is the only voter, so that it may campaign at once.
    pub(in crate::consensus) fn is_sole_voter(&self) -> bool {
        self.membership.is_sole_voter(self.id())
    }

    /// [`RaftNode::tick`] for a node that must not campaign. At its election timeout the node forgets a
    /// leader that it does not hear, and votes for others.
    pub(in crate::consensus) fn tick_without_campaign(&mut self) {
        let raft = &self.node.raft;
        if raft.election_elapsed + 1 < raft.randomized_election_timeout() {
            return self.tick();
        }
        self.misbehaviours.tick();
        let raft = &self.node.raft;
        if raft.leader_id != 0 || raft.state != StateRole::Follower {
            self.forget_leader();
        }
    }

    /// Makes this node a follower without a leader.
    fn forget_leader(&mut self) {
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, 0);
        // The crate has drawn a timeout, although term and role may be the same.
        self.drawn_for = (u64::MAX, StateRole::Follower);
        self.draw_timeout();
    }

    fn id(&self) -> u64 {
        self.node.raft.id
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Overwrites the crate's own draw of the election timeout. The crate draws at each change of term or
    /// role, and no call changes both back and forth.
    fn draw_timeout(&mut self) {
        let now = (self.node.raft.term, self.node.raft.state);
        if self.drawn_for != now {
            self.drawn_for = now;
            let span = self.election_ticks as u64;
            let ticks = self.election_ticks + (splitmix(&mut self.jitter) % span) as usize;
            // With the defect all nodes campaign at once, so that a second vote has a candidate.
            let ticks = if mutated(Mutation::ForgetVote) { self.election_ticks } else { ticks };
            self.node.raft.set_randomized_election_timeout(ticks);
        }
    }

    /// Whether the whole log is known to be durable. Only then may this node campaign or win an election.
    fn is_settled(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.unstable_entries().is_empty()
            && log.persisted == log.last_index()
            && self.persisted >= self.drained_entries
    }

    /// Whether the crate can take the message without a panic or a wrong belief. Messages of honest peers
    /// always pass.
    fn is_believable(&mut self, m: &mut Message) -> bool {
        let raft = &self.node.raft;
        let (last, term) = (raft.raft_log.last_index(), raft.term);
        match m.msg_type {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => {
                let other = m.term == term && raft.leader_id != 0 && raft.leader_id != m.from;
                // The defect produces two leaders of one term.
                let other = other && !mutated(Mutation::ForgetVote);
                if other || (m.term == term && raft.state == StateRole::Leader) {
                    if let Some(more) = self.misbehaviours.admit(m.from, Misbehaviour::SecondLeader) {
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
                    if let Some(more) = self.misbehaviours.admit(m.from, Misbehaviour::OtherLog) {
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
                    if let Some(more) = self.misbehaviours.admit(m.from, Misbehaviour::ForgottenEntry) {
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
                // Only while entries can be applied. Otherwise the dropped entries may be those that commit
                // the rest.
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

    /// Whether a leader's entries, or the entry before them, differ from what is committed here. No leader of
    /// the same ensemble sends such entries. The crate would take the leader's log for its own and count this
    /// node for entries that it lacks.
    fn contradicts_committed(&self, m: &Message) -> bool {
        let log = &self.node.raft.raft_log;
        let known = log.store.first_index().unwrap_or(u64::MAX).saturating_sub(1)..=log.committed;
        let differs =
            |index: u64, term: u64| known.contains(&index) && log.term(index).is_ok_and(|t| t != term);
        m.msg_type == MessageType::MsgAppend
            && (differs(m.index, m.log_term) || m.entries.iter().any(|e| differs(e.index, e.term)))
    }

    /// Sends entries that the application appended. The crate appends the end of a joint membership without
    /// sending it.
    fn tell_appended(&mut self, last_before: u64) {
        if self.leads() && self.node.raft.raft_log.last_index() > last_before {
            self.node.raft.bcast_append();
        }
    }

    /// Steps down if this node leads and is no voter any more. The voter with the longest log campaigns at
    /// once.
    fn step_down_if_removed(&mut self) {
        if !self.leads() || self.node.raft.promotable() {
            return;
        }
        if let Some(transferee) = self.transferee() {
            self.node.raft.send_timeout_now(transferee);
        }
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, 0);
        self.draw_timeout();
    }

    /// The active voter, other than this node, whose log is known to be the longest.
    fn transferee(&self) -> Option<u64> {
        let others = self.progress().into_iter().filter(|p| p.node != self.id() && p.active && !p.learner);
        others.max_by_key(|p| (p.matched, std::cmp::Reverse(p.node))).map(|p| p.node)
    }
}

impl RaftNode {
    /// Takes one tick of Raft's clock.
    pub(in crate::consensus) fn tick(&mut self) {
        self.misbehaviours.tick();
        let raft = &self.node.raft;
        let due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if !self.leads() && due && !self.is_settled() {
            // The election timeout is over, but the log is not durable. The node campaigns as soon as it is.
            return;
        }
        if !self.leads() && due && !raft.promotable() && raft.leader_id != 0 {
            // A node without a vote would keep a dead leader until it hears of another one.
            return self.forget_leader();
        }
        self.node.tick();
        self.draw_timeout();
    }

    /// Campaigns without waiting for the election timeout.
    pub(in crate::consensus) fn campaign(&mut self) -> Result<(), GroupError> {
        if !self.is_settled() {
            return Err(GroupError("part of the log is not durable yet".to_owned()));
        }
        let done = self.node.campaign().map_err(|e| GroupError(e.to_string()));
        self.draw_timeout();
        done
    }

    /// Proposes a payload as one entry.
    pub(in crate::consensus) fn propose(&mut self, payload: Vec<u8>) -> Result<(), ProposeError> {
        if !self.leads() {
            return Err(ProposeError::NotLeader);
        }
        self.node.propose(Vec::new(), payload).map_err(|_| ProposeError::Busy)
    }

    /// Begins a ReadIndex under the number `round`. Raft may drop it silently, and always does unless this
    /// node leads. The caller begins it again under another number.
    pub(in crate::consensus) fn read_index(&mut self, round: u64) {
        if self.leads() {
            self.node.read_index(round.to_le_bytes().to_vec());
        }
    }

    /// Takes the report that all drains up to `number` are durable.
    pub(in crate::consensus) fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
        self.node.on_persist_ready(number);
    }

    /// Takes the report that all entries up to `index` are applied. Raft does not ask for them again.
    pub(in crate::consensus) fn applied(&mut self, index: u64) {
        let last = self.node.raft.raft_log.last_index();
        self.node.advance_apply_to(index);
        self.node.mut_store().release(index);
        self.tell_appended(last);
    }

    /// Fills `effects` with the next drain. Returns `false` if there is nothing to do.
    pub(in crate::consensus) fn drain(&mut self, effects: &mut Effects) -> bool {
        effects.clear();
        effects.number = self.drained;
        self.cold.wanted(&self.node, &mut effects.fetches);
        if !self.node.has_ready() {
            return !effects.fetches.is_empty();
        }
        let mut ready = self.node.ready();
        self.drained = ready.number();
        effects.number = self.drained;
        // A new commit index alone is not worth a record: the journal notes it with the next entries.
        let vote = ready.hs().map_or(self.vote, |h| Vote { term: h.term, node: h.vote });
        if vote != self.vote {
            self.vote = vote;
            effects.vote = Some(vote);
            self.drained_vote = self.drained;
        }
        // A sole voter leads before its vote is durable. After a crash it could lead the same term again and
        // send learners different entries. So its messages wait until the vote is synced.
        let in_durable_term = self.persisted >= self.drained_vote;
        for m in ready.take_messages() {
            match m.msg_type {
                MessageType::MsgSnapshot => effects.snapshots.push(m.to),
                _ if in_durable_term => effects.messages.extend(codec::outgoing(m)),
                _ => effects.after.extend(codec::outgoing(m)),
            }
        }
        for m in ready.take_persisted_messages() {
            match m.msg_type {
                // A heartbeat response promises nothing that a crash could make untrue. Behind entries that a
                // full disk refuses it would never leave, and the leader would take this node for dead.
                MessageType::MsgHeartbeatResponse => {
                    effects.messages.extend(codec::outgoing(m));
                }
                MessageType::MsgSnapshot => effects.snapshots.push(m.to),
                _ => effects.after.extend(codec::outgoing(m)),
            }
        }
        effects.entries.extend(ready.entries().iter().map(codec::log_entry));
        effects.committed.extend(ready.take_committed_entries().iter().map(codec::log_entry));
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
        self.draw_timeout();
        true
    }

    /// The role of this node.
    pub(in crate::consensus) fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    pub(in crate::consensus) fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Whether this node leads a group of one, which needs no ticks.
    pub(in crate::consensus) fn alone(&self) -> bool {
        self.leads() && self.membership.is_alone(self.id())
    }

    /// Takes a message of a peer. The caller has checked that `from` is the node at the other end of the
    /// link. An impossible message is dropped.
    pub(in crate::consensus) fn step(&mut self, message: RaftMessage) {
        let Some(mut message) = codec::incoming(message, self.id()) else {
            tracing::debug!("a message of a peer is no message of Raft; it is dropped");
            return;
        };
        if self.is_believable(&mut message) {
            if mutated(Mutation::ForgetVote) {
                self.node.raft.vote = 0;
            }
            // The crate refuses, for instance, an answer of a node that is no member. That needs no answer.
            let _ = self.node.step(message);
            self.draw_timeout();
        }
    }

    /// The leader of the current term as far as this node knows; 0 = unknown.
    pub(in crate::consensus) fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// Last index of the log.
    pub(in crate::consensus) fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// Last index known to be committed.
    pub(in crate::consensus) fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// Takes the report that the link to the node is down, or that a message was not sent to it.
    pub(in crate::consensus) fn unreachable(&mut self, node: u64) {
        self.node.report_unreachable(node);
    }

    /// Takes the end of a snapshot transfer: the node has everything up to `index`. `None`: the transfer was
    /// given up.
    pub(in crate::consensus) fn snapshot_sent(&mut self, node: u64, index: Option<u64>) {
        // The file that was sent may be newer or older than the snapshot that Raft had in mind when it asked
        // for one. The log is kept back to the file's index, not to the other one.
        if let Some(index) = index
            && let Some(progress) = self.node.raft.mut_prs().get_mut(node)
            && progress.state == ProgressState::Snapshot
        {
            progress.pending_snapshot = index;
        }
        let status = if index.is_some() { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(node, status);
    }

    /// Sets the newest snapshot that could be sent, and the term of its index.
    pub(in crate::consensus) fn set_snapshot(&mut self, index: u64, term: u64) {
        self.node.mut_store().set_snapshot(index, term);
    }

    /// Takes the report that the log begins at `first`.
    pub(in crate::consensus) fn truncated(&mut self, first: u64) {
        self.node.mut_store().truncate(first);
    }

    /// Begins a leadership transfer to `to`. It takes some round trips, during which nothing can be proposed,
    /// or fails silently. It does nothing unless this node leads.
    pub(in crate::consensus) fn transfer(&mut self, to: u64) {
        if self.leads() && to != self.id() {
            self.node.transfer_leader(to);
        }
    }

    /// Proposes a change of membership together with `command`, through a joint membership that Raft leaves
    /// by itself.
    pub(in crate::consensus) fn propose_membership(
        &mut self,
        target: &Target,
        command: Vec<u8>,
    ) -> Result<(), ProposeError> {
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
        // The crate reads the protobuf form on this node only. The log and the peers get the context.
        let change = self.membership.conf_change(target);
        let payload = conf_state::encode(target, command);
        self.node.propose_conf_change(payload, change).map_err(|_| ProposeError::Busy)
    }

    /// Applies the payload of a membership entry. Must be called before [`RaftNode::applied`] for the entry.
    pub(in crate::consensus) fn apply_membership(
        &mut self,
        payload: &[u8],
    ) -> Result<MembershipStep, GroupError> {
        let broken =
            |e: MembershipError| GroupError(format!("a change of membership cannot be applied: {e}"));
        let (change, step) = match conf_state::decode(payload).map_err(broken)? {
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

    /// The membership as of the last entry that was applied.
    pub(in crate::consensus) fn membership(&self) -> Membership {
        self.membership.clone()
    }

    /// The progress of every node, ascending by node. Empty unless this node leads.
    pub(in crate::consensus) fn progress(&self) -> Vec<Progress> {
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

    /// Takes the entries of a fetch, from `fetch.low` on without a gap. Without entries the fetch has failed;
    /// Raft asks again while a peer needs them.
    pub(in crate::consensus) fn fetched(&mut self, fetch: Fetch, entries: Vec<LogEntry>) {
        self.cold.fetched(&mut self.node, fetch, entries);
    }

    /// Whether this node leads and has applied an entry of its own term, so that it knows every committed
    /// entry.
    pub(in crate::consensus) fn is_ready_to_order(&self) -> bool {
        let raft = &self.node.raft;
        self.leads() && raft.apply_to_current_term() && raft.lead_transferee.is_none()
    }
}
