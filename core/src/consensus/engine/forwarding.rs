//! This node's commands on their way to the leader, and the leader's word where a node's stream stands.
//!
//! Owns no state. Never sends a command to a leader that has not told this node the next number of its stream. Correct because the
//! leader takes only that number, and because everything else is answered with the number that it expects.

use super::Consensus;
use crate::consensus::config::{BATCH_COMMANDS_MAX, FORWARD_AHEAD_BYTES, FORWARD_RETRY_NS};
use crate::consensus::raft::Role;
use crate::peers::Message;
use paddock_transport::io::Io;

impl Consensus {
    /// Tells a node the next number of its stream.
    pub(super) fn expect(&mut self, node: u8, incarnation: u64, io: &mut Io) {
        let term = self.leadership.term;
        if term == 0 {
            return;
        }
        if !self.admits(node) {
            self.links.note_strange(node);
            self.leader_queues.forget(node);
            return;
        }
        let known = self.applier.machine.stream(node);
        if self.links.applied(node) < self.leader_queues.seen_by(node, known, self.applier.index) {
            // Its next round tells.
            self.links.note_strange(node);
            return;
        }
        let seq = self.leader_queues.expect(node, incarnation, known);
        if !self.give_back_again(node, io) {
            self.links.send(node, &Message::Expect { term, incarnation, seq }, io);
        }
    }

    /// Whether what is said of the stream of `incarnation` comes from the leader that this node follows, and means this start of it.
    pub(super) fn is_word_of_leader(&self, from: u8, term: u64, incarnation: u64) -> bool {
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
        if !self.links.is_granted(term) {
            if self.pending.undecided() > 0 && self.links.may_ask(now_ns, FORWARD_RETRY_NS) {
                // A question: the answer is the number that it wants.
                self.links.send(leader, &Message::Forward { term, commands: Vec::new() }, io);
            }
            return;
        }
        if stalled && self.links.may_ask(now_ns, FORWARD_RETRY_NS) {
            // Whatever was lost on the way, the commands or the leader's word that it misses some: it says where it stands.
            self.links.send(leader, &Message::Forward { term, commands: Vec::new() }, io);
        }
        // The rest is kept here, and sent by a later turn: the clock's tick is the next one at the latest.
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
