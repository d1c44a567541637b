//! Checks that a node which can follow the leader does so.
//!
//! A member that runs, has space on its disk and exchanges messages with the same leader applies a further
//! entry within [`STUCK_NS`]. This holds while it misses entries that others applied that long ago. The
//! checker fails during the run, when the bound is exceeded. Otherwise a stuck node would show only if the
//! run happens to end then.

use super::{Checker, Event, Facts, NodeState};
use std::collections::BTreeMap;

/// Virtual time without a further entry, after which a node counts as stuck. The largest snapshot of a run
/// takes less than one second, and two pauses of a failed transfer take four. A dead link is noticed after
/// five.
pub const STUCK_NS: u64 = 12_000_000_000;

/// A node's progress since it last advanced, or could not.
#[derive(Debug)]
struct Follower {
    /// Number of the node's process.
    life: u64,
    leader: u8,
    /// Index of the last applied entry.
    applied: u64,
    /// True time at which the node applied its last entry, or became able to apply one.
    since_ns: u64,
}

/// See the module doc.
#[derive(Default)]
pub struct Progress {
    followers: BTreeMap<u8, Follower>,
}

impl Progress {
    fn look(&mut self, facts: &Facts, state: &NodeState) -> Result<(), String> {
        let NodeState { node, life, leader, applied } = *state;
        let Some(leader) = leader else {
            self.followers.remove(&node);
            return Ok(());
        };
        let known =
            self.followers.entry(node).or_insert(Follower { life, leader, applied, since_ns: facts.now });
        if (known.life, known.leader, known.applied) != (life, leader, applied) {
            *known = Follower { life, leader, applied, since_ns: facts.now };
        }
        let others = facts.log.partition_point(|fact| fact.at_ns + STUCK_NS < facts.now) as u64;
        if applied >= others || facts.now < known.since_ns + STUCK_NS {
            return Ok(());
        }
        Err(format!(
            "node {node} runs, has room and reaches node {leader}, which leads, and yet it has applied {applied} of {others} \
             entries and none more for {} ms",
            (facts.now - known.since_ns) / 1_000_000
        ))
    }
}

impl Checker for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Looked { nodes } => nodes.iter().try_for_each(|state| self.look(facts, state)),
            _ => Ok(()),
        }
    }
}
