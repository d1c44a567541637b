//! The bootstrap guard's view of the other servers.
//!
//! Owns no state. Never ends an election. Correct because a node with an entry in its log never consults
//! the guard: for such a node Raft alone decides.

use super::Consensus;
use crate::peers::Message;

impl Consensus {
    /// Updates the guard with the contacts to the other servers, as long as this node has no log.
    pub(super) fn update_bootstrap_guard(&mut self, now_ns: u64) {
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

    /// Whether the guard drops a peer's message, since it could bootstrap a second ensemble.
    pub(super) fn is_held_back(&self, message: &Message) -> bool {
        matches!(message, Message::Raft(message) if self.bootstrap_guard.holds_back(message))
    }
}
