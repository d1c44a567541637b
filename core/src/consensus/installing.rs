//! Snapshots between nodes, as the core goes along with them.
//!
//! Owns whom Raft wants a snapshot sent to. Never moves a byte of one: that is [`super::transfer`]. It stays correct because
//! only a leader sends, in its own term; and because a snapshot that has arrived is used in one way only, by opening the
//! data directory again, and not at all if this node has meanwhile come as far by the log.

use super::control::StopReason;
use super::engine::Consensus;
use super::group::{Group, Role};
use super::transfer::{Outcome, Standing, Transfers};
use crate::mutation::{Mutation, mutated};
use crate::peers::message::SnapshotMessage;
use paddock_transport::io::Io;

/// See the module doc.
pub(super) struct Installing {
    transfers: Transfers,
    /// Peers that Raft wants a snapshot sent to. Bounded by the number of members, since Raft asks once for each.
    wanted: Vec<u64>,
}

impl Installing {
    pub(super) fn new(transfers: Transfers) -> Self {
        Self { transfers, wanted: Vec::new() }
    }

    pub(super) fn want(&mut self, nodes: &mut Vec<u64>) {
        self.wanted.append(nodes);
    }

    pub(super) fn link_down(&mut self, node: u8) {
        self.transfers.link_down(node);
    }

    /// How the snapshot's transfer to a node stands, in words for an operator; `None`: none is being sent to it.
    pub(super) fn state(&self, to: u8) -> Option<String> {
        self.transfers.state(to)
    }

    pub(super) fn has_news(&self) -> bool {
        self.transfers.has_news()
    }
}

impl Consensus {
    pub(super) fn hear_of_snapshot(&mut self, from: u8, message: SnapshotMessage, now_ns: u64) {
        let standing = self.standing();
        self.installing.transfers.handle(from, message, &standing, now_ns);
    }

    /// Sends and takes on. When a turn is needed at the latest; an error when the data directory is to be opened again.
    pub(super) fn install(&mut self, now_ns: u64, io: &mut Io) -> Result<Option<u64>, StopReason> {
        let standing = self.standing();
        let leads = self.group.role() == Role::Leader;
        if !leads {
            self.installing.wanted.clear();
            self.installing.transfers.stop_sending();
        }
        for node in std::mem::take(&mut self.installing.wanted) {
            if let Ok(node) = u8::try_from(node) {
                self.installing.transfers.begin(node, standing.term, now_ns);
            }
        }
        let deadline_ns = self.installing.transfers.turn(&standing, now_ns);
        // What the link does not take is sent again.
        while let Some((to, message)) = self.installing.transfers.next_out() {
            if let Some(message) = self.feed.chunk(to, message) {
                self.links.send(to, &message, io);
            }
        }
        while let Some((to, message)) = self.feed.next_chunk(now_ns) {
            self.links.send(to, &message, io);
        }
        while let Some(outcome) = self.installing.transfers.next_outcome() {
            match outcome {
                Outcome::Sent { to, ok, index } if leads => {
                    let ok = ok && !mutated(Mutation::ForgetArrival);
                    self.group.snapshot_sent(u64::from(to), ok.then_some(index));
                }
                Outcome::Received { index, .. } if index > self.group.commit() => {
                    return Err(StopReason::Reopen { index });
                }
                // Nobody's concern any more.
                Outcome::Sent { .. } | Outcome::Received { .. } => {}
            }
        }
        self.checkpoints.keep_log_from(self.installing.transfers.keep_log_from(now_ns));
        Ok(deadline_ns)
    }

    fn standing(&self) -> Standing {
        let (leader, term, commit) = (self.group.leader(), self.group.term(), self.group.commit());
        Standing { leader, term, commit }
    }
}
