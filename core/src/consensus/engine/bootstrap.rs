//! The bootstrap guard, told what this node knows of the other servers.
//!
//! Owns no state. Never ends an election. Correct because a node with an entry in its log never asks the guard: there Raft alone decides.

use super::Consensus;
use crate::peers::Message;

impl Consensus {
    /// Looks whether this node may found an ensemble, as long as it has no log.
    pub(super) fn look_for_founders(&mut self, now_ns: u64) {
        if self.bootstrap_guard.is_settled() {
            return;
        }
        if self.raft.last_index() > 0 {
            self.bootstrap_guard.settle();
            self.links.holds_data();
            return;
        }
        let links = &self.links;
        self.bootstrap_guard.look(now_ns, |node| links.contact(node));
    }

    /// Whether a peer's word must not be heard, since an ensemble could come of it that must not be.
    pub(super) fn founds_too_early(&self, message: &Message) -> bool {
        matches!(message, Message::Raft(message) if self.bootstrap_guard.holds_back(message))
    }
}
