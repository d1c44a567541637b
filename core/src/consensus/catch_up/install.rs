//! The transfers of this node, and the peers for which Raft asks for a snapshot.
//!
//! Never moves a byte of a file: that is [`crate::consensus::catch_up`]. Correct because only a leader sends,
//! in its own term. A received snapshot is used in one way only: the node opens its data directory again,
//! unless the log has brought it as far.

use crate::consensus::catch_up::Transfers;

/// See the module doc.
pub(in crate::consensus) struct Installation {
    pub(in crate::consensus) transfers: Transfers,
    /// Peers that need a snapshot. Bounded by the number of members, since Raft asks once for each.
    pub(in crate::consensus) wanted: Vec<u64>,
}

impl Installation {
    pub(in crate::consensus) fn new(transfers: Transfers) -> Self {
        Self { transfers, wanted: Vec::new() }
    }

    pub(in crate::consensus) fn want(&mut self, nodes: &mut Vec<u64>) {
        self.wanted.append(nodes);
    }

    pub(in crate::consensus) fn link_down(&mut self, node: u8) {
        self.transfers.link_down(node);
    }

    /// Whether this node needs a snapshot for which its disk has no room.
    pub(in crate::consensus) fn lacks_room(&self) -> bool {
        self.transfers.lacks_room()
    }

    /// State of the transfer to a node, as text for an operator; `None`: there is no transfer.
    pub(in crate::consensus) fn state(&self, to: u8) -> Option<String> {
        self.transfers.state(to)
    }

    pub(in crate::consensus) fn has_news(&self) -> bool {
        self.transfers.has_news()
    }
}
