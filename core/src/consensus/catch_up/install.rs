//! Snapshots between nodes, as the core goes along with them.
//!
//! Owns whom Raft wants a snapshot sent to. Never moves a byte of one: that is
//! [`crate::consensus::catch_up`]. It stays correct because only a leader sends, in its own term; and because
//! a snapshot that has arrived is used in one way only, by opening the data directory again, and not at all
//! if this node has meanwhile come as far by the log.

use crate::consensus::catch_up::Transfers;

/// See the module doc.
pub(in crate::consensus) struct Installation {
    pub(in crate::consensus) transfers: Transfers,
    /// Peers that Raft wants a snapshot sent to. Bounded by the number of members, since Raft asks once for
    /// each.
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

    /// How the snapshot's transfer to a node stands, in words for an operator; `None`: none is being sent to
    /// it.
    pub(in crate::consensus) fn state(&self, to: u8) -> Option<String> {
        self.transfers.state(to)
    }

    pub(in crate::consensus) fn has_news(&self) -> bool {
        self.transfers.has_news()
    }
}
