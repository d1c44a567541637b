//! What was said in the log of peers that say what cannot be.
//!
//! Owns when each fault of each node was last said. Never decides what a fault is. It stays correct because it counts the ticks of
//! Raft's clock: a heartbeat a beat, or as many as a line carries, make one line in [`COMPLAINT_TICKS`]; and bounded by the
//! numbers of nodes.

use crate::log_throttle::LogThrottle;
use std::collections::BTreeMap;

/// Ticks between two lines about the same fault of the same node: ten seconds by the usual clock.
pub(super) const COMPLAINT_TICKS: u64 = 500;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Wrong {
    /// It claims to lead in a term in which another one does.
    SecondLeader,
    /// Its log contradicts what is committed here.
    OtherLog,
    /// It believes that this node has what it has not.
    ForgottenEntry,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    ticks: u64,
    said: BTreeMap<(u64, Wrong), LogThrottle>,
}

impl Complaints {
    /// Time passes.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    /// Whether the log shall have it; the count of lines that it did not get.
    pub(super) fn admit(&mut self, node: u64, wrong: Wrong) -> Option<u64> {
        self.said.entry((node, wrong)).or_default().admit(self.ticks, COMPLAINT_TICKS)
    }
}
