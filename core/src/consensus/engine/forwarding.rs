//! This node's commands on their way to the leader, and the leader's `Expect` to each node.
//!
//! Owns no state. Never sends a command to a leader that has not sent this node the next number of its
//! stream. Correct because the leader takes only that number, and answers any other with the number that it
//! expects.

use super::Consensus;
use crate::consensus::config::{BATCH_COMMANDS_MAX, FORWARD_AHEAD_BYTES, FORWARD_RETRY_NS};
use crate::consensus::raft::Role;
use crate::peers::Message;
use paddock_transport::io::Io;

impl Consensus {
    /// Sends a node the next number of its stream.
    pub(super) fn send_expect(&mut self, node: u8, incarnation: u64, io: &mut Io) {
        let term = self.leadership.term;
        if term == 0 {
            return;
        }
        if !self.admits(node) {
            self.links.defer_expect(node);
            self.leader_queues.forget(node);
            return;
        }
        let known = self.applier.machine.stream(node);
        if self.links.applied(node) < self.leader_queues.required_applied(node, known, self.applier.index) {
            // The node's next round carries its applied index. Then the leader tries again.
            self.links.defer_expect(node);
            return;
        }
        let seq = self.leader_queues.expect(node, incarnation, known);
        if !self.repeat_return(node, io) {
            self.links.send(node, &Message::Expect { term, incarnation, seq }, io);
        }
    }

    /// Whether a message about the stream of `incarnation` comes from the present leader and concerns this
    /// start of the node.
    pub(super) fn is_from_leader(&self, from: u8, term: u64, incarnation: u64) -> bool {
        incarnation == self.incarnation && term == self.raft.term() && u64::from(from) == self.raft.leader()
    }

    /// Sends this node's commands to the leader.
    pub(super) fn forward(&mut self, now_ns: u64, io: &mut Io) {
        let leader = self.raft.leader() as u8;
        let stalled = self.pending.is_stalled(now_ns, FORWARD_RETRY_NS);
        let wanted = std::mem::take(&mut self.leadership.wanted);
        if self.raft.role() == Role::Leader {
            return;
        }
        let term = self.raft.term();
        if wanted && !(leader != 0 && self.links.send(leader, &Message::Lead { term }, io)) {
            tracing::warn!(
                "this node is wanted as leader, but no leader can be asked to hand over: ask again when one is known"
            );
        }
        if leader == 0 {
            return;
        }
        if !self.links.may_forward(term) {
            if self.pending.undecided() > 0 && self.links.may_ask(now_ns, FORWARD_RETRY_NS) {
                // An empty forward asks the leader for the number that it expects.
                self.links.send(leader, &Message::Forward { term, commands: Vec::new() }, io);
            }
            return;
        }
        if stalled && self.links.may_ask(now_ns, FORWARD_RETRY_NS) {
            // Commands or the leader's `Expect` may be lost. The leader answers with the number that it
            // expects.
            self.links.send(leader, &Message::Forward { term, commands: Vec::new() }, io);
        }
        // The rest stays pending and is sent by a later turn, at the next tick at the latest.
        while self.pending.has_unsent() && self.links.unsent(leader, io) <= FORWARD_AHEAD_BYTES {
            let commands = self.pending.take_for_send(BATCH_COMMANDS_MAX, self.batch_bytes_max);
            if commands.is_empty() {
                return;
            }
            let message = Message::Forward { term, commands };
            let sent = self.links.send(leader, &message, io);
            if let Message::Forward { commands, .. } = message {
                self.pending.restore(commands, sent);
            }
            if !sent {
                return;
            }
        }
    }
}
