//! Impossible messages of peers, and how often the log has them.
//!
//! Owns the tick at which each misbehaviour of each node was last logged. Never decides what a misbehaviour
//! is. Correct because it counts the ticks of Raft's clock: one line in [`MISBEHAVIOUR_TICKS`] per node and
//! kind. Bounded by the node ids.

use crate::log_throttle::LogThrottle;
use std::collections::BTreeMap;

/// Ticks between two lines about one misbehaviour of one node: ten seconds by the usual clock.
pub(super) const MISBEHAVIOUR_TICKS: u64 = 500;

/// A kind of impossible message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Misbehaviour {
    /// The peer claims to lead in a term in which another node leads.
    SecondLeader,
    /// The log of the peer contradicts what is committed here.
    OtherLog,
    /// The peer believes that this node has an entry that it lacks.
    ForgottenEntry,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Misbehaviours {
    ticks: u64,
    said: BTreeMap<(u64, Misbehaviour), LogThrottle>,
}

impl Misbehaviours {
    /// Takes one tick of Raft's clock.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    /// Whether the log takes a line now. Returns the number of suppressed lines.
    pub(super) fn admit(&mut self, node: u64, wrong: Misbehaviour) -> Option<u64> {
        self.said.entry((node, wrong)).or_default().admit(self.ticks, MISBEHAVIOUR_TICKS)
    }
}
