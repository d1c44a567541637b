//! What peers say, and what they are told.
//!
//! Owns the peer links (none on a standalone node), Raft messages that wait for the disk, and whether the leader has told
//! this node where its stream stands. Never lets a message out that promises something not yet durable. It stays correct
//! because a message that the group gives out with a drain is held until that drain is persisted, unless the group says
//! that it may go at once; and because whatever a peer says about a term that is not the present one is dropped.

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

    /// The next event of the links.
    pub(super) fn next_event(&mut self) -> Option<PeerEvent> {
        self.peers.as_mut().and_then(Peers::next_event)
    }

    /// Dials, reads and times out. `None` without peers; otherwise when the links need a turn at the latest.
    pub(super) fn turn(&mut self, now: Now, io: &mut Io) -> Option<Option<u64>> {
        Some(self.peers.as_mut()?.turn(now, io))
    }

    /// A link to the node is up. This node asks the leader at once.
    pub(super) fn link_up(&mut self, node: u8, incarnation: u64) {
        self.up.insert(node, incarnation);
        self.asked_ns = None;
        self.link_changed(node);
    }

    /// The link to the node is down.
    pub(super) fn link_down(&mut self, node: u8) {
        self.up.remove(&node);
        self.link_changed(node);
    }

    /// The node says how far it has applied the log.
    pub(super) fn note_applied(&mut self, node: u8, index: u64) {
        self.applied.insert(node, index);
    }

    /// The leader of `term` has said where this node's stream stands.
    pub(super) fn grant(&mut self, leader: u8, term: u64) {
        self.granted = Some((leader, term));
    }

    /// Takes the oldest messages that wait for a drain up to `number`.
    pub(super) fn take_held(&mut self, number: u64) -> Option<Vec<RaftMessage>> {
        self.held.pop_front_if(|(drain, _)| *drain <= number).map(|(_, messages)| messages)
    }

    /// What was on its way to the node is lost. It says anew where the stream stands, also if nobody knows just now that it leads.
    fn link_changed(&mut self, node: u8) {
        self.applied.remove(&node);
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
    pub(super) fn hold(&mut self, number: u64, messages: Vec<RaftMessage>) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
