//! The membership planner: the leader's next step about the membership.
//!
//! Owns the leader's view of which nodes are present, which catch up, and which still have to learn of their
//! removal. From this view and the replicated membership it draws the next step, one at a time.
//!
//! Never proposes, sends or applies: a step leaves by [`MembershipPlanner::turn`], and its effect shows in
//! the replicated state.
//!
//! Correct because it keeps nothing that matters. A new leader's planner begins with an empty memory and goes
//! on from the replicated state, and every step may come twice ([`crate::machine::MembershipCommand`]). Three
//! rules keep a node that has lost its promises from voting:
//!
//! - A node with another data directory than the recorded one is ignored ([`admits`]) by every node until the
//!   change that drops it from Raft's membership is applied. One exception: messages that only a leader
//!   sends, since it leads only where a majority has applied that change.
//! - A node gets a vote only as a learner that has caught up and has what was committed when it came. Raft
//!   remembers no earlier progress of that node, because it was dropped in between.
//! - A leader that will not vote transfers leadership before it changes the voters.
//!
//! # Use by the engine
//!
//! The engine reports [`MembershipPlanner::link_up`] and [`MembershipPlanner::link_down`], and
//! [`MembershipPlanner::changed`] after an entry that touched the membership. In turns in which this node
//! does not order, it calls [`MembershipPlanner::rest`]. Otherwise, if [`MembershipPlanner::is_due`], it
//! calls [`MembershipPlanner::turn`] and proposes the step. A failed proposal needs no report. Before it
//! sleeps it takes [`MembershipPlanner::deadline_ns`] into account.

pub(super) mod bootstrap_guard;
mod next_step;
mod progress;
#[cfg(test)]
mod tests;
mod wait_reason;

use crate::command::{Batch, Command, NO_STREAM};
use crate::consensus::raft::{Membership, Progress, Target};
use crate::machine::{MembershipCommand, MembershipState};
use crate::members::Member;
use progress::Memory;
use std::collections::BTreeMap;
use wait_reason::Waiting;

/// Entries by which a learner may be behind the commit index when it gets a vote. It must also have what was
/// committed when it came. That is a few ms of work at full load, so commits hardly wait.
pub const PROMOTE_LAG_ENTRIES: u64 = 256;

/// Time without progress after which a reconfiguration goes on without a joining node: several dials and an
/// election.
pub const CATCH_UP_STALL_NS: u64 = 5_000_000_000;

/// Time for which a reconfiguration waits for joining nodes that make progress. Then the client gets
/// NewConfigNoQuorum, or the nodes get their votes later. For larger states an operator adds them as
/// observers first.
pub const CATCH_UP_NS_MAX: u64 = 120_000_000_000;

/// Time for which a removed node stays a learner after it has the entry that removes it: some heartbeats,
/// which carry the commit.
pub const TOLD_NS: u64 = 1_000_000_000;

/// Time for which a removed node without a link stays a learner. Later its link is refused with the reason.
pub const LINGER_NS: u64 = 30_000_000_000;

/// Time between two looks while a change is under way.
pub const LOOK_NS: u64 = 100_000_000;

/// Time for which a node with a link counts as present after a message. Raft forgets once per election
/// timeout which nodes were active. A node that is inactive for that moment must not make a reconfiguration
/// fail.
pub const PRESENT_NS: u64 = 1_000_000_000;

/// Time after which a step without an effect is taken again: a proposal may be lost with a leader's term.
pub const RETRY_NS: u64 = 2_000_000_000;

const _: () = assert!(LOOK_NS < PRESENT_NS && PRESENT_NS < CATCH_UP_STALL_NS);

const _: () = assert!(LOOK_NS < TOLD_NS && TOLD_NS < LINGER_NS && CATCH_UP_STALL_NS < CATCH_UP_NS_MAX);

/// A step for the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Order a batch that holds this command only ([`batch_of`]).
    Order(MembershipCommand),
    /// Propose a change of Raft's membership. The entry carries the command, if any ([`batch_of`]).
    Change {
        /// Voters and learners after the change.
        target: Target,
        /// The command that takes effect at the end of the change.
        command: Option<MembershipCommand>,
    },
    /// Begin a leadership transfer.
    Transfer {
        /// The transferee.
        to: u64,
    },
}

/// Input of the planner.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Monotonic time, ns.
    pub now_ns: u64,
    /// Index of the last entry that was applied here.
    pub applied: u64,
    /// Index of the last entry that is known to be committed.
    pub commit: u64,
    /// The replicated membership, as of `applied`.
    pub state: &'a MembershipState,
    /// Raft's membership, as of `applied`.
    pub raft: &'a Membership,
    /// Progress of every node.
    pub progress: &'a [Progress],
}

/// See the module doc.
#[derive(Debug)]
pub struct MembershipPlanner {
    node: u8,
    /// Random number for an ensemble that has none yet.
    cluster: [u8; 16],
    /// The members as configured, for an ensemble that has none yet. Empty: standalone.
    configured: BTreeMap<u8, Member>,
    /// Nodes with a link, this one too, and the identities of their data directories.
    links: BTreeMap<u8, [u8; 16]>,
    memory: Memory,
    awaited: Option<Awaited>,
    waiting: Waiting,
    /// An event came since the last look.
    dirty: bool,
    /// A change is under way. The next look is due at `next_ns`.
    busy: bool,
    next_ns: u64,
}

/// A step that was taken and whose effect has not shown yet.
#[derive(Debug)]
struct Awaited {
    until_ns: u64,
    state: MembershipState,
    raft: Membership,
}

impl MembershipPlanner {
    /// A planner of node `node`, whose data directory has `identity`. If the ensemble has no members yet,
    /// `configured` (empty on a standalone node) and the random number `cluster` become the ensemble's.
    pub fn new(node: u8, identity: [u8; 16], cluster: [u8; 16], configured: BTreeMap<u8, Member>) -> Self {
        Self {
            node,
            cluster,
            configured,
            links: BTreeMap::from([(node, identity)]),
            memory: Memory::default(),
            awaited: None,
            waiting: Waiting::default(),
            dirty: true,
            busy: false,
            next_ns: 0,
        }
    }

    /// Takes the report that a link to the node is up.
    pub fn link_up(&mut self, node: u8, identity: [u8; 16]) {
        if node != self.node {
            self.links.insert(node, identity);
            self.memory.moved(node);
            self.dirty = true;
        }
    }

    /// Takes the report that the link is down.
    pub fn link_down(&mut self, node: u8) {
        if node != self.node && self.links.remove(&node).is_some() {
            self.dirty = true;
        }
    }

    /// Identity of the data directory at the other end of the node's link, or of this node's own.
    pub fn identity(&self, node: u8) -> Option<&[u8; 16]> {
        self.links.get(&node)
    }

    /// Whether messages of the node at the other end of its link count; see [`admits`].
    pub fn admits(&self, state: &MembershipState, node: u8) -> bool {
        self.links.get(&node).is_none_or(|identity| admits(state, node, identity))
    }

    /// Takes the report that an applied entry touched the membership of Raft or of the machine.
    pub fn changed(&mut self) {
        self.dirty = true;
    }

    /// Forgets what a leader remembers, on a node that does not lead or is not ready to order.
    pub fn rest(&mut self) {
        self.memory = Memory::default();
        self.awaited = None;
        self.waiting = Waiting::default();
        self.dirty = true;
        self.busy = false;
    }

    /// The wait reason for operators; empty: nothing waits as far as this leader knows.
    pub fn waits_for(&self) -> &str {
        &self.waiting.text
    }

    /// Whether a look may lead to a step.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.dirty || (self.busy && now_ns >= self.next_ns)
    }

    /// When the next look is due while this node leads, ns.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.busy.then_some(self.next_ns)
    }

    /// The next step, if one is due. Only on a leader that is ready to order.
    pub fn turn(&mut self, view: &View<'_>) -> Option<Act> {
        if !self.is_due(view.now_ns) {
            return None;
        }
        self.dirty = false;
        self.next_ns = view.now_ns + LOOK_NS;
        self.look(view);
        if self.is_awaiting(view) {
            self.busy = true;
            return None;
        }
        let act = self.decide(view);
        self.busy = act.is_some() || self.is_unsettled(view);
        if act.is_some() {
            let (state, raft) = (view.state.clone(), view.raft.clone());
            self.awaited = Some(Awaited { until_ns: view.now_ns + RETRY_NS, state, raft });
        } else if !view.raft.is_joint() && view.state.joint.is_none() {
            let waiting = self.waiting(view);
            waiting.tell(&self.waiting);
            self.waiting = waiting;
        }
        act
    }

    /// Whether the last step may still show its effect.
    fn is_awaiting(&mut self, view: &View<'_>) -> bool {
        self.awaited.take_if(|awaited| {
            view.now_ns >= awaited.until_ns || awaited.state != *view.state || awaited.raft != *view.raft
        });
        self.awaited.is_some()
    }
}

/// Whether Raft messages may go to and come from a node whose data directory has `identity`. They may only
/// after the ensemble has adopted the identity: the directory before may have promised what this one has
/// lost.
pub fn admits(state: &MembershipState, node: u8, identity: &[u8; 16]) -> bool {
    !state.is_foreign(node, identity)
}

/// A batch of one command of the leader. The caller adds what every batch has: policy, time and stamp.
pub fn batch_of(command: &MembershipCommand, frame: Batch) -> Batch {
    let op = command.to_op();
    let command = Command {
        node: NO_STREAM,
        incarnation: 0,
        seq: 0,
        session: 0,
        attachment: 0,
        identities: Vec::new(),
        op,
    };
    Batch { commands: vec![command], ..frame }
}
