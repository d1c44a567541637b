//! What peers say, and what they are told.
//!
//! Owns the peer links (none on a standalone node), Raft messages that wait for the disk, and whether the leader has told
//! this node where its stream stands. Never lets a message out that promises something not yet durable. It stays correct
//! because a message that the group gives out with a drain is held until that drain is persisted, unless the group says
//! that it may go at once; and because whatever a peer says about a term that is not the present one is dropped.

use super::config::BACKLOG_BYTES_MAX;
use super::disputes::Dispute;
use super::engine::Consensus;
use super::group::Group;
use super::streams::Return;
use super::wire;
use crate::members::Members;
use crate::peers::message::RaftMessage;
use crate::peers::{Contact, Message, PeerEvent, Peers};
use paddock_transport::engine::{Closed, ConnId, Now, Origin};
use paddock_transport::io::Io;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Drains whose messages wait for the disk. A disk that hangs for minutes must not gather answers to every heartbeat without
/// end: what is beyond is dropped, as if the link were down, and Raft repeats what matters.
const HELD_DRAINS_MAX: usize = 4096;

/// The peers' side of the core. See the module doc.
#[derive(Default)]
pub(super) struct Links {
    peers: Option<Peers>,
    /// Nodes with a link, and the numbers of their starts.
    up: BTreeMap<u8, u64>,
    /// Raft messages that wait until the drain with this number is persisted.
    held: VecDeque<(u64, Vec<RaftMessage>)>,
    /// Who has told this node, as the leader of which term, the next number of its stream.
    granted: Option<(u8, u64)>,
    asked_ns: Option<u64>,
    /// Number of a start of this data directory that others know and that is none of its past: it was said that it is a copy.
    pub(super) copied_from: Option<u64>,
    /// Nodes that were not told where their stream stands: the ensemble does not know their data directory, or they have not
    /// seen what was taken of it before it was begun anew.
    strange: BTreeSet<u8>,
    /// The last entry that nodes said they had applied, since their links are up.
    applied: BTreeMap<u8, u64>,
}

impl Links {
    pub(super) fn new(peers: Option<Peers>) -> Self {
        Self { peers, ..Self::default() }
    }

    pub(super) fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        match &mut self.peers {
            Some(peers) => peers.opened(now, conn, origin, io),
            // Nobody talks to a standalone core.
            None => io.abort(conn),
        }
    }

    pub(super) fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        match &mut self.peers {
            Some(peers) => peers.received(now, conn, bytes, io),
            None => io.abort(conn),
        }
    }

    pub(super) fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        match &mut self.peers {
            Some(peers) => peers.eof(now, conn, io),
            None => io.close(conn),
        }
    }

    pub(super) fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        if let Some(peers) = &mut self.peers {
            peers.closed(now, conn, why, io);
        }
    }

    /// Whether an answer waits that came from elsewhere than the loop.
    pub(super) fn is_ready(&self) -> bool {
        self.peers.as_ref().is_some_and(Peers::is_ready)
    }

    /// Nodes with a link, and the numbers of their starts.
    pub(super) fn up(&self) -> Vec<(u8, u64)> {
        self.up.iter().map(|(node, incarnation)| (*node, *incarnation)).collect()
    }

    /// Number of the start of the node at the other end of its link.
    pub(super) fn incarnation(&self, node: u8) -> Option<u64> {
        self.up.get(&node).copied()
    }

    pub(super) fn is_up(&self, node: u8) -> bool {
        self.up.contains_key(&node)
    }

    /// How far the node is, as it said.
    pub(super) fn applied(&self, node: u8) -> u64 {
        self.applied.get(&node).copied().unwrap_or(0)
    }

    /// Whether the leader of `term` has said where this node's stream stands.
    pub(super) fn is_granted(&self, term: u64) -> bool {
        self.granted.is_some_and(|(_, of)| of == term)
    }

    /// It takes nothing more of this node before it has said so again.
    pub(super) fn ungrant(&mut self) {
        self.granted = None;
    }

    /// What was on its way to the node is lost. It says anew where the stream stands, also if nobody knows just now that it leads.
    fn link_changed(&mut self, node: u8) {
        self.granted = self.granted.filter(|(by, _)| *by != node);
    }

    /// Whether it is time to ask it. Asking counts.
    pub(super) fn may_ask(&mut self, now_ns: u64, every_ns: u64) -> bool {
        let may = self.asked_ns.is_none_or(|at| now_ns.saturating_sub(at) >= every_ns);
        if may {
            self.asked_ns = Some(now_ns);
        }
        may
    }

    /// What the last meeting with a node told.
    pub(super) fn contact(&self, node: u8) -> Contact {
        self.peers.as_ref().map_or(Contact::None, |peers| peers.contact(node))
    }

    /// This node's log holds something.
    pub(super) fn holds_data(&mut self) {
        if let Some(peers) = &mut self.peers {
            peers.holds_data();
        }
    }

    /// The membership has changed.
    pub(super) fn update(&mut self, linked: &Members) {
        if let Some(peers) = &mut self.peers {
            peers.update(linked);
        }
    }

    /// The node is not told where its stream stands.
    pub(super) fn note_strange(&mut self, node: u8) {
        self.strange.insert(node);
    }

    /// Nodes that were not told so far, and the numbers of their starts.
    pub(super) fn take_strange(&mut self) -> Vec<(u8, u64)> {
        let strange = std::mem::take(&mut self.strange);
        strange.into_iter().filter_map(|node| Some((node, *self.up.get(&node)?))).collect()
    }

    /// Keeps messages until the drain `number` is persisted.
    fn hold(&mut self, number: u64, messages: Vec<RaftMessage>) {
        if self.held.len() < HELD_DRAINS_MAX {
            self.held.push_back((number, messages));
        }
    }

    /// Bytes that wait to be sent to a node.
    pub(super) fn unsent(&self, node: u8, io: &Io) -> usize {
        self.peers.as_ref().map_or(0, |peers| peers.unsent(node, io))
    }

    /// `false`: not sent; there is no link, or it is too full.
    pub(super) fn send(&mut self, to: u8, message: &Message, io: &mut Io) -> bool {
        self.peers.as_mut().is_some_and(|peers| peers.send(to, message, io))
    }
}

impl Consensus {
    /// Takes what peers said. Returns when the links need a turn at the latest.
    pub(super) fn listen(&mut self, now: Now, io: &mut Io) -> Option<u64> {
        let deadline = self.links.peers.as_mut()?.turn(now, io);
        self.look_for_founders(now.mono_ns);
        while let Some(event) = self.links.peers.as_mut().and_then(Peers::next_event) {
            match event {
                PeerEvent::Up { node, incarnation, identity } => {
                    self.steward.link_up(node, identity);
                    self.links.up.insert(node, incarnation);
                    self.links.applied.remove(&node);
                    if self.is_old_copy(node) {
                        tracing::error!(
                            "node {node} runs from an older copy of its data directory (start number {incarnation}; its log has \
                             later ones here): it may have forgotten votes, and is not listened to. Stop it, empty its data \
                             directory except for myid, and start it again: it is fed anew"
                        );
                        self.tell_old_copy(node, io);
                    }
                    self.links.asked_ns = None;
                    self.streams.link_up(node);
                    self.links.link_changed(node);
                    self.expect(node, incarnation, io);
                }
                PeerEvent::Down { node } => {
                    self.steward.link_down(node);
                    self.links.up.remove(&node);
                    self.links.applied.remove(&node);
                    self.reads.forget(node);
                    self.room.link_down(node);
                    self.links.link_changed(node);
                    self.group.unreachable(u64::from(node));
                    self.installing.link_down(node);
                    self.feed.link_down(node);
                }
                PeerEvent::Message { node, message } => self.hear(now, node, message, io),
                PeerEvent::Removed { by } => {
                    tracing::error!("node {by} says that this node was removed from the ensemble");
                    // It may have been away while that was logged; a node that never was a member goes on asking.
                    if !self.applier.machine.members().members.is_empty() {
                        self.phase.removed_since.get_or_insert(now.mono_ns);
                        self.phase.told_removed = Some(self.applier.machine.members().version);
                    }
                }
            }
        }
        deadline
    }

    fn hear(&mut self, now: Now, from: u8, message: Message, io: &mut Io) {
        if !self.admits(from) && !is_leaders_word(&message) || self.founds_too_early(&message) {
            return;
        }
        match message {
            Message::Raft(message) => {
                // Dropped before Raft sees them, entries that cannot be kept are sent again later.
                let holds_data = message.entries.iter().any(|entry| !entry.payload.is_empty());
                let cannot_keep = (holds_data && self.journal.is_full())
                    || self.journal.is_refusing()
                    || self.backlog_bytes > BACKLOG_BYTES_MAX;
                let meant = message.from == u64::from(from) && message.to == u64::from(self.node);
                if meant && (!cannot_keep || message.entries.is_empty()) {
                    self.group.step(message);
                }
            }
            Message::Forward { term, commands } => {
                if term != self.phase.leading || term == 0 {
                    return;
                }
                if commands.is_empty() && self.give_back_again(from, io) {
                    return;
                }
                self.note_returning(&commands, now.mono_ns);
                if let Err(Some((incarnation, seq))) = self.streams.take(from, commands) {
                    self.links.send(from, &Message::Expect { term, incarnation, seq }, io);
                }
            }
            Message::Expect { term, incarnation, seq } => {
                if self.is_word_of_leader(from, term, incarnation) && self.outbound.rewind(seq) {
                    if !self.links.is_granted(term) {
                        self.rounds.lose();
                    }
                    self.links.granted = Some((from, term));
                } else {
                    self.compare_starts(from, incarnation);
                }
            }
            Message::Round { term, number, touched, applied, full, zxid, digest } => {
                self.links.applied.insert(from, applied);
                self.room.heard(from, full, now.mono_ns);
                self.compare(from, zxid, digest, io);
                if term == self.phase.leading && term != 0 {
                    self.take_round(from, number, &touched, now.mono_ns);
                }
            }
            Message::RoundConfirmed { number, index, shut } => {
                self.hear_of_room(from, shut, now.mono_ns);
                // Whatever leader confirmed it: its quorum did so after the round began, and the sessions went with it.
                self.rounds.confirm(number, index);
            }
            Message::Disputed { index, zxid, logged, digest } => {
                self.answer_dispute(from, Dispute { index, zxid, logged, found: digest }, io);
            }
            Message::Lead { term } => {
                if self.room.is_full(from) {
                    tracing::warn!(
                        "node {from} is wanted as leader, but its disk is full: it is not offered leadership"
                    );
                } else if term == self.phase.leading && term != 0 {
                    tracing::info!("node {from} is wanted as leader; leadership is offered to it");
                    self.group.transfer(u64::from(from));
                }
            }
            Message::Computed { zxid, digest } => self.disputes.hear(zxid, from, digest),
            Message::Snapshot(message) => self.hear_of_snapshot(from, message, now.mono_ns),
            Message::Room { full, shut } => {
                self.room.heard(from, full, now.mono_ns);
                self.hear_of_room(from, shut, now.mono_ns);
            }
            Message::Return { term, incarnation, seq, number } => {
                self.hear_of_return(from, term, Return { incarnation, seq, number }, io);
            }
        }
    }

    /// A node learns that a later start of it is known.
    fn tell_old_copy(&mut self, node: u8, io: &mut Io) {
        let (term, Some(known)) = (self.group.term(), self.applier.machine.stream(node)) else { return };
        let known = Message::Expect { term, incarnation: known.incarnation, seq: known.seq + 1 };
        self.links.send(node, &known, io);
    }

    /// Whether another node knows a later start of this one: then it runs from a copy of its data directory, and the copied one
    /// went on. A restart would give it a number that is not known yet, so it stays, and says so.
    fn compare_starts(&mut self, from: u8, incarnation: u64) {
        let is_copy = incarnation > self.incarnation;
        // Once: whatever a peer says, and however often, fills no log.
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

    /// Sends what may go at once, and keeps what waits for the disk.
    pub(super) fn speak(&mut self, io: &mut Io) {
        let messages = std::mem::take(&mut self.effects.messages);
        self.send_raft(messages, io);
        if !self.effects.after.is_empty() {
            let after = std::mem::take(&mut self.effects.after);
            self.links.hold(self.effects.number, after);
        }
    }

    /// All drains up to `number` are durable.
    pub(super) fn persisted(&mut self, number: u64, io: &mut Io) {
        self.group.persisted(number);
        while let Some((_, messages)) = self.links.held.pop_front_if(|(drain, _)| *drain <= number) {
            self.send_raft(messages, io);
        }
    }

    fn send_raft(&mut self, messages: Vec<RaftMessage>, io: &mut Io) {
        for message in messages {
            let to = message.to;
            let answers = to == self.group.leader() && wire::is_answer_to_leader(&message);
            if !(answers || self.admits(to as u8)) || !self.links.send(to as u8, &Message::Raft(message), io)
            {
                self.group.unreachable(to);
            }
        }
    }
}

/// What is heard from a node, too, whose data directory this one does not know: it can lead only where a majority knows it, so
/// it is this node that has not come so far in the log. Its vote, and what it says as a follower, must not count: the
/// directory that was recorded may have promised something else.
fn is_leaders_word(message: &Message) -> bool {
    match message {
        Message::Raft(message) => wire::is_leaders_word(message),
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
            wire::outgoing(message).unwrap()
        };
        for kind in [MessageType::MsgAppend, MessageType::MsgHeartbeat] {
            assert!(is_leaders_word(&Message::Raft(said(kind))), "{kind:?}");
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
            assert!(!is_leaders_word(&Message::Raft(said(kind))), "{kind:?}");
        }
        assert!(!is_leaders_word(&Message::Forward { term: 3, commands: Vec::new() }));
        // What it is told: how far this node is, and no vote.
        assert!(wire::is_answer_to_leader(&said(MessageType::MsgAppendResponse)));
        assert!(!wire::is_answer_to_leader(&said(MessageType::MsgRequestVoteResponse)));
    }

    /// A candidate knows no leader, and the one of its term may be found to lead still.
    #[test]
    fn what_a_leader_granted_ends_with_its_link_whoever_is_known_to_lead() {
        let mut links = Links { granted: Some((2, 5)), ..Links::new(None) };
        links.link_changed(3);
        assert!(links.is_granted(5) && !links.is_granted(4));
        links.link_changed(2);
        assert!(!links.is_granted(5));
    }

    #[test]
    fn a_disk_that_hangs_does_not_gather_answers_without_end() {
        let mut links = Links::new(None);
        for number in 0..2 * HELD_DRAINS_MAX as u64 {
            links.hold(number, Vec::new());
        }
        assert_eq!(links.held.len(), HELD_DRAINS_MAX);
    }
}
