//! The steward: what the leader does about the membership.
//!
//! Owns the leader's view of who is here, who catches up and who still has to hear that it was removed, and
//! draws from it and from the replicated membership the next step: one at a time. Never proposes, sends or
//! applies anything: a step comes out of [`MembershipPlanner::turn`], and what became of it is seen in the
//! replicated state. It stays correct because it keeps nothing that matters: a new leader's steward begins
//! with an empty memory and goes on from what is replicated, and every step may come twice
//! ([`crate::machine::MembershipCommand`]). That nobody votes who forgot something hangs on three rules:
//!
//! - a node with another data directory than the recorded one is not listened to ([`admits`]), on no node,
//!   until the change that drops it from Raft's membership is done; but for what only a leader says, which it
//!   can be only where a majority has applied that change;
//! - a node gets a vote only as a learner that is caught up, and has what was committed when it came; and
//!   Raft knows nothing of it from an earlier life: it was dropped in between;
//! - a leader that shall not vote hands over before it changes the voters.
//!
//! # In the engine
//!
//! Tell it [`MembershipPlanner::link_up`] and [`MembershipPlanner::link_down`] as they come,
//! [`MembershipPlanner::changed`] when an applied entry touched the membership, [`MembershipPlanner::rest`]
//! in turns in which this node does not lead or is not ready to order; otherwise, if
//! [`MembershipPlanner::is_due`], ask [`MembershipPlanner::turn`], and propose what it says. A proposal that
//! failed needs no word. Before each turn's sleep: [`MembershipPlanner::deadline_ns`].
//!
//! | part | does |
//! |---|---|
//! | [`standing`] | who is present, ready, still moving, done with lingering |
//! | [`steps`] | the next step |
//! | [`waiting`] | what is waited for, in words |

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

/// Entries by which a learner may be behind the commit index when it gets a vote, if it has what was
/// committed when it came: a few ms of work at full load, so that commits do not wait for it.
pub const PROMOTE_LAG_ENTRIES: u64 = 256;

/// How long a joining node may make no progress before a reconfiguration goes on without it: several of its
/// dials and an election.
pub const CATCH_UP_STALL_NS: u64 = 5_000_000_000;

/// How long a reconfiguration waits for joining nodes that do make progress; then the client hears
/// NewConfigNoQuorum, or they get their votes later. Above it an operator adds them as observers first.
pub const CATCH_UP_NS_MAX: u64 = 120_000_000_000;

/// How long a removed node stays a learner after it has the entry that removes it: some heartbeats, which
/// carry the commit.
pub const TOLD_NS: u64 = 1_000_000_000;

/// How long a removed node that cannot be reached stays a learner. Later its link is refused with the reason.
pub const LINGER_NS: u64 = 30_000_000_000;

/// How often it looks while something is under way.
pub const LOOK_NS: u64 = 100_000_000;

/// How long a node that was heard from counts as present while its link stands: Raft forgets once each
/// election timeout who was, and who is not there for that moment only must not make a reconfiguration fail.
pub const PRESENT_NS: u64 = 1_000_000_000;

/// How long a step that shows no effect is waited for before it is taken again: proposals may be lost with a
/// leader's term.
pub const RETRY_NS: u64 = 2_000_000_000;

const _: () = assert!(LOOK_NS < PRESENT_NS && PRESENT_NS < CATCH_UP_STALL_NS);

const _: () = assert!(LOOK_NS < TOLD_NS && TOLD_NS < LINGER_NS && CATCH_UP_STALL_NS < CATCH_UP_NS_MAX);

/// What the leader shall do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Order a batch with this command alone ([`batch_of`]).
    Order(MembershipCommand),
    /// Propose a change of Raft's membership; the command, if any, rides in it ([`batch_of`]).
    Change {
        /// What it shall become.
        target: Target,
        /// What takes effect at its end.
        command: Option<MembershipCommand>,
    },
    /// Hand leadership over.
    Transfer {
        /// To whom.
        to: u64,
    },
}

/// What it looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Monotonic time.
    pub now_ns: u64,
    /// Last entry applied here.
    pub applied: u64,
    /// Last entry known to be committed.
    pub commit: u64,
    /// The replicated membership, as of `applied`.
    pub state: &'a MembershipState,
    /// Raft's membership, as of `applied`.
    pub raft: &'a Membership,
    /// How far everybody is.
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
    /// Something happened since the last look.
    dirty: bool,
    /// Something is under way: look again at `next_ns`.
    busy: bool,
    next_ns: u64,
}

/// A step whose effect is waited for.
#[derive(Debug)]
struct Awaited {
    until_ns: u64,
    state: MembershipState,
    raft: Membership,
}

impl MembershipPlanner {
    /// For node `node`, whose data directory has `identity`. `configured` (empty on a standalone node) and
    /// the random number `cluster` become the ensemble's if it has no members yet.
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

    /// A link to the node stands.
    pub fn link_up(&mut self, node: u8, identity: [u8; 16]) {
        if node != self.node {
            self.links.insert(node, identity);
            self.memory.moved(node);
            self.dirty = true;
        }
    }

    /// The link is gone.
    pub fn link_down(&mut self, node: u8) {
        if node != self.node && self.links.remove(&node).is_some() {
            self.dirty = true;
        }
    }

    /// Identity of the data directory at the other end of the node's link, or of this node's own.
    pub fn identity(&self, node: u8) -> Option<&[u8; 16]> {
        self.links.get(&node)
    }

    /// Whether the node at the other end of its link may be listened to; see [`admits`].
    pub fn admits(&self, state: &MembershipState, node: u8) -> bool {
        self.links.get(&node).is_none_or(|identity| admits(state, node, identity))
    }

    /// An applied entry touched the membership, Raft's or the machine's.
    pub fn changed(&mut self) {
        self.dirty = true;
    }

    /// This node does not lead, or is not ready to order: what it remembers of others means nothing later.
    pub fn rest(&mut self) {
        self.memory = Memory::default();
        self.awaited = None;
        self.waiting = Waiting::default();
        self.dirty = true;
        self.busy = false;
    }

    /// What the membership waits for, for operators; empty: nothing, as far as this node leads.
    pub fn waits_for(&self) -> &str {
        &self.waiting.text
    }

    /// Whether a look may lead to a step.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.dirty || (self.busy && now_ns >= self.next_ns)
    }

    /// When it wants to look again, while it leads.
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

/// Whether messages of Raft may go to and come from a node whose data directory has `identity`: not before
/// the ensemble has adopted it, since the one before may have promised what this one does not know.
pub fn admits(state: &MembershipState, node: u8, identity: &[u8; 16]) -> bool {
    !state.is_foreign(node, identity)
}

/// The batch of one command of the leader's. The caller fills in what goes into every batch: policy, time and
/// stamp.
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
