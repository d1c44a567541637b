//! What counters and operators are told about the core.
//!
//! Owns nothing: it reads. Never decides anything.

use super::engine::Consensus;
use super::group::{Group, Role};
use crate::stats::Mode;

impl Consensus {
    /// Tells the counters.
    pub(super) fn tell(&mut self, _now_ns: u64) {
        let (machine, tree) = (&self.applier.machine, &self.applier.tree);
        self.stats.set_zxid(machine.zxid());
        let node = self.stats.node();
        node.znodes.set(tree.node_count());
        node.ephemerals.set(tree.ephemeral_count());
        node.data_bytes.set(tree.approximate_data_bytes());
        node.global_sessions.set(machine.sessions().len() as u64);
        self.stats.set_mode(match (self.group.alone(), self.group.role()) {
            (true, Role::Leader) => Mode::Standalone,
            (false, Role::Leader) => Mode::Leader,
            (false, Role::Follower) => Mode::Follower,
            _ => Mode::NotServing,
        });
    }
}
