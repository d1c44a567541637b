//! Messages and links of peers, passed to the parts that they concern.
//!
//! Owns no state. Never acts on a stream or a round of another term than the present one. Correct because
//! messages of a node with an unknown data directory are dropped. Messages that only a leader sends are the
//! exception: see `is_leader_message`.

use super::Consensus;
use crate::consensus::apply::divergence::Divergence;
use crate::consensus::commands::leader_queue::Return;
use crate::consensus::config::BACKLOG_BYTES_MAX;
use crate::consensus::raft::codec;
use crate::peers::{Message, PeerEvent};
use paddock_transport::engine::Now;
use paddock_transport::io::Io;

impl Consensus {
    /// Takes the events of the links. Returns when the links need a turn at the latest.
    pub(super) fn take_peer_events(&mut self, now: Now, io: &mut Io) -> Option<u64> {
        let deadline = self.links.turn(now, io)?;
        self.update_bootstrap_guard(now.mono_ns);
        while let Some(event) = self.links.next_event() {
            match event {
                PeerEvent::Up { node, incarnation, identity } => {
                    self.planner.link_up(node, identity);
                    self.links.link_up(node, incarnation);
                    if self.is_old_copy(node) {
                        tracing::error!(
                            "node {node} runs from an older copy of its data directory (start number {incarnation}; its log has \
                             later ones here): it may have forgotten votes, and is not listened to. Stop it, empty its data \
                             directory except for myid, and start it again: it is fed anew"
                        );
                        self.report_old_copy(node, io);
                    }
                    self.leader_queues.link_up(node);
                    self.send_expect(node, incarnation, io);
                }
                PeerEvent::Down { node } => {
                    self.planner.link_down(node);
                    self.links.link_down(node);
                    self.reads.forget(node);
                    self.disk_space.link_down(node);
                    self.raft.unreachable(u64::from(node));
                    self.installation.link_down(node);
                    self.throttle.link_down(node);
                }
                PeerEvent::Message { node, message } => self.handle_message(now, node, message, io),
                PeerEvent::Removed { by } => {
                    tracing::error!("node {by} says that this node was removed from the ensemble");
                    // This node may have been away while its removal was logged. A node that never was a
                    // member goes on dialling.
                    if !self.applier.machine.members().members.is_empty() {
                        self.removal.since_ns.get_or_insert(now.mono_ns);
                        self.removal.told_version = Some(self.applier.machine.members().version);
                    }
                }
            }
        }
        deadline
    }

    pub(super) fn handle_message(&mut self, now: Now, from: u8, message: Message, io: &mut Io) {
        if !self.admits(from) && !is_leader_message(&message) || self.is_held_back(&message) {
            return;
        }
        match message {
            Message::Raft(message) => {
                // Entries that cannot be kept are dropped before Raft sees them. The leader sends them
                // again.
                let holds_data = message.entries.iter().any(|entry| !entry.payload.is_empty());
                let cannot_keep = (holds_data && self.journal.is_full())
                    || self.journal.is_refusing()
                    || self.backlog_bytes > BACKLOG_BYTES_MAX;
                let meant = message.from == u64::from(from) && message.to == u64::from(self.node);
                if meant && (!cannot_keep || message.entries.is_empty()) {
                    self.raft.step(message);
                }
            }
            Message::Forward { term, commands } => {
                if term != self.leadership.term || term == 0 {
                    return;
                }
                if commands.is_empty() && self.repeat_return(from, io) {
                    return;
                }
                self.note_reattaching(&commands, now.mono_ns);
                if let Err(Some((incarnation, seq))) = self.leader_queues.take(from, commands) {
                    self.links.send(from, &Message::Expect { term, incarnation, seq }, io);
                }
            }
            Message::Expect { term, incarnation, seq } => {
                if self.is_from_leader(from, term, incarnation) && self.pending.rewind(seq) {
                    if !self.links.may_forward(term) {
                        self.rounds.mark_lost();
                    }
                    self.links.allow_forwarding(from, term);
                } else {
                    self.compare_starts(from, incarnation);
                }
            }
            Message::Round { term, number, touched, applied, full, zxid, digest } => {
                self.links.note_applied(from, applied);
                self.disk_space.heard(from, full, now.mono_ns);
                self.compare_digest(from, zxid, digest, io);
                if term == self.leadership.term && term != 0 {
                    self.accept_round(from, number, &touched, now.mono_ns);
                }
            }
            Message::RoundConfirmed { number, index, shut } => {
                self.handle_disk_report(from, shut, now.mono_ns);
                // Valid from any leader: its quorum confirmed after the round began, and the sessions were
                // part of the round.
                self.rounds.confirm(number, index);
            }
            Message::Disputed { index, zxid, logged, digest } => {
                self.answer_divergence(from, Divergence { index, zxid, logged, found: digest }, io);
            }
            Message::Lead { term } => {
                if self.disk_space.is_full(from) {
                    tracing::warn!(
                        "node {from} is wanted as leader, but its disk is full: it is not offered leadership"
                    );
                } else if term == self.leadership.term && term != 0 {
                    tracing::info!("node {from} is wanted as leader; leadership is offered to it");
                    self.raft.transfer(u64::from(from));
                }
            }
            Message::Computed { zxid, digest } => self.divergences.hear(zxid, from, digest),
            Message::Snapshot(message) => self.handle_snapshot(from, message, now.mono_ns),
            Message::Room { full, shut } => {
                self.disk_space.heard(from, full, now.mono_ns);
                self.handle_disk_report(from, shut, now.mono_ns);
            }
            Message::Return { term, incarnation, seq, number } => {
                self.handle_return(from, term, Return { incarnation, seq, number }, io);
            }
        }
    }

    /// Sends a node the later start of its directory that the log here knows.
    pub(super) fn report_old_copy(&mut self, node: u8, io: &mut Io) {
        let (term, Some(known)) = (self.raft.term(), self.applier.machine.stream(node)) else { return };
        let known = Message::Expect { term, incarnation: known.incarnation, seq: known.seq + 1 };
        self.links.send(node, &known, io);
    }

    /// Checks whether another node knows a later start of this node's directory. Then this node runs from a
    /// copy, and the original went on. A restart would get an incarnation that is not known yet, so the
    /// node stays up and logs an error.
    pub(super) fn compare_starts(&mut self, from: u8, incarnation: u64) {
        let is_copy = incarnation > self.incarnation;
        // Logged once, so that no peer can fill the log.
        if is_copy && self.links.copied_from.is_none() {
            self.links.copied_from = Some(incarnation);
            tracing::error!(
                "this server runs from an older copy of its data directory: its start number is {}, and node {from} knows of \
                 commands of start {incarnation} that this directory does not know. It may have forgotten votes. Stop it, empty \
                 the data directory except for myid, and start it again: it is fed anew. Do not only start it again",
                self.incarnation
            );
        }
    }
}

/// Whether the message is accepted from a node with an unknown data directory, because only a leader sends
/// it. A leader has the trust of a majority, so this node's log is what lags. Votes and follower messages
/// of such a node must not count: the recorded directory may have promised something else.
fn is_leader_message(message: &Message) -> bool {
    match message {
        Message::Raft(message) => codec::is_leaders_word(message),
        Message::Snapshot(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::MessageType;

    #[test]
    fn a_leader_whose_new_disk_is_not_known_here_yet_is_followed_and_its_vote_does_not_count() {
        let said = |kind: MessageType| {
            let message =
                raft::eraftpb::Message { msg_type: kind, from: 2, to: 1, term: 3, ..Default::default() };
            codec::outgoing(message).unwrap()
        };
        for kind in [MessageType::MsgAppend, MessageType::MsgHeartbeat] {
            assert!(is_leader_message(&Message::Raft(said(kind))), "{kind:?}");
        }
        for kind in [
            MessageType::MsgRequestVote,
            MessageType::MsgRequestVoteResponse,
            MessageType::MsgRequestPreVote,
            MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgAppendResponse,
            MessageType::MsgHeartbeatResponse,
            MessageType::MsgTimeoutNow,
        ] {
            assert!(!is_leader_message(&Message::Raft(said(kind))), "{kind:?}");
        }
        assert!(!is_leader_message(&Message::Forward { term: 3, commands: Vec::new() }));
        // In return such a leader gets acknowledgements, and no vote.
        assert!(codec::is_answer_to_leader(&said(MessageType::MsgAppendResponse)));
        assert!(!codec::is_answer_to_leader(&said(MessageType::MsgRequestVoteResponse)));
    }
}
