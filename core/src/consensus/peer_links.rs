//! Links to peers, and messages that wait for the disk.
//!
//! Owns the peer links (none on a standalone node), Raft messages held until a drain is durable, and the
//! leader's permission to forward.
//!
//! Never sends a message that promises something not yet durable.
//!
//! Correct because messages of a drain are held until that drain is persisted, unless Raft marks them as
//! safe to send at once.

use crate::members::Members;
use crate::peers::message::RaftMessage;
use crate::peers::{Contact, Message, PeerEvent, Peers};
use paddock_transport::engine::{Closed, ConnId, Now, Origin};
use paddock_transport::io::Io;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Drains whose messages wait for the disk. A disk that hangs for minutes must not accumulate answers to
/// every heartbeat. Messages beyond the bound are dropped, as if the link were down, and Raft repeats those
/// that matter.
const HELD_DRAINS_MAX: usize = 4096;

/// The peer links of the core. See the module doc.
#[derive(Default)]
pub(super) struct Links {
    peers: Option<Peers>,
    /// Nodes with a link, and their incarnations.
    up: BTreeMap<u8, u64>,
    /// Raft messages, by the drain that must be persisted before they are sent.
    held: VecDeque<(u64, Vec<RaftMessage>)>,
    /// The leader that sent this node the next number of its stream, and the term of that leader.
    forward_to: Option<(u8, u64)>,
    asked_ns: Option<u64>,
    /// Incarnation of this data directory that others know and that lies after this start: the directory is
    /// a copy.
    pub(super) copied_from: Option<u64>,
    /// Nodes that got no `Expect` yet. Either the membership does not record their data directory, or they
    /// have not applied the entry at which their stream was begun again.
    deferred_expects: BTreeSet<u8>,
    /// The last entry that each node reported as applied, since its link is up.
    applied: BTreeMap<u8, u64>,
}

impl Links {
    pub(super) fn new(peers: Option<Peers>) -> Self {
        Self { peers, ..Self::default() }
    }

    pub(super) fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        match &mut self.peers {
            Some(peers) => peers.opened(now, conn, origin, io),
            // A standalone core has no peers.
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

    /// Whether a result from outside the loop waits to be handled.
    pub(super) fn is_ready(&self) -> bool {
        self.peers.as_ref().is_some_and(Peers::is_ready)
    }

    /// Nodes with a link, and their incarnations.
    pub(super) fn up(&self) -> Vec<(u8, u64)> {
        self.up.iter().map(|(node, incarnation)| (*node, *incarnation)).collect()
    }

    /// Incarnation of the node at the other end of its link.
    pub(super) fn incarnation(&self, node: u8) -> Option<u64> {
        self.up.get(&node).copied()
    }

    pub(super) fn is_up(&self, node: u8) -> bool {
        self.up.contains_key(&node)
    }

    /// The last entry that the node reported as applied.
    pub(super) fn applied(&self, node: u8) -> u64 {
        self.applied.get(&node).copied().unwrap_or(0)
    }

    /// Whether the leader of `term` has sent this node the next number of its stream.
    pub(super) fn may_forward(&self, term: u64) -> bool {
        self.forward_to.is_some_and(|(_, of)| of == term)
    }

    /// The leader ignores this node's forwards until its next `Expect`.
    pub(super) fn stop_forwarding(&mut self) {
        self.forward_to = None;
    }

    /// The next event of any link.
    pub(super) fn next_event(&mut self) -> Option<PeerEvent> {
        self.peers.as_mut().and_then(Peers::next_event)
    }

    /// Dials, reads and times out. Returns when the links need a turn at the latest, or `None` without
    /// peers.
    pub(super) fn turn(&mut self, now: Now, io: &mut Io) -> Option<Option<u64>> {
        Some(self.peers.as_mut()?.turn(now, io))
    }

    /// The node has a link. This node may ask the leader at once.
    pub(super) fn link_up(&mut self, node: u8, incarnation: u64) {
        self.up.insert(node, incarnation);
        self.asked_ns = None;
        self.link_changed(node);
    }

    /// The node has no link any more.
    pub(super) fn link_down(&mut self, node: u8) {
        self.up.remove(&node);
        self.link_changed(node);
    }

    /// The node reports the last entry that it has applied.
    pub(super) fn note_applied(&mut self, node: u8, index: u64) {
        self.applied.insert(node, index);
    }

    /// The leader of `term` has sent this node the next number of its stream.
    pub(super) fn allow_forwarding(&mut self, leader: u8, term: u64) {
        self.forward_to = Some((leader, term));
    }

    /// Takes the oldest held messages of a drain up to `number`.
    pub(super) fn take_held(&mut self, number: u64) -> Option<Vec<RaftMessage>> {
        self.held.pop_front_if(|(drain, _)| *drain <= number).map(|(_, messages)| messages)
    }

    /// Messages on the way to the node are lost. If it is a leader, it sends another `Expect`, even if this
    /// node knows no leader at the moment.
    fn link_changed(&mut self, node: u8) {
        self.applied.remove(&node);
        self.forward_to = self.forward_to.filter(|(by, _)| *by != node);
    }

    /// Whether the leader may be asked again. The call counts as asking.
    pub(super) fn may_ask(&mut self, now_ns: u64, every_ns: u64) -> bool {
        let may = self.asked_ns.is_none_or(|at| now_ns.saturating_sub(at) >= every_ns);
        if may {
            self.asked_ns = Some(now_ns);
        }
        may
    }

    /// The outcome of the last contact with a node.
    pub(super) fn contact(&self, node: u8) -> Contact {
        self.peers.as_ref().map_or(Contact::None, |peers| peers.contact(node))
    }

    /// This node's log holds an entry.
    pub(super) fn holds_data(&mut self) {
        if let Some(peers) = &mut self.peers {
            peers.holds_data();
        }
    }

    /// The membership has changed. `linked`: the members that need a link.
    pub(super) fn update(&mut self, linked: &Members) {
        if let Some(peers) = &mut self.peers {
            peers.update(linked);
        }
    }

    /// The node gets its `Expect` later.
    pub(super) fn defer_expect(&mut self, node: u8) {
        self.deferred_expects.insert(node);
    }

    /// Takes the linked nodes that got no `Expect` yet, with their incarnations.
    pub(super) fn take_deferred_expects(&mut self) -> Vec<(u8, u64)> {
        let deferred_expects = std::mem::take(&mut self.deferred_expects);
        deferred_expects.into_iter().filter_map(|node| Some((node, *self.up.get(&node)?))).collect()
    }

    /// Holds messages until the drain `number` is persisted.
    pub(super) fn hold(&mut self, number: u64, messages: Vec<RaftMessage>) {
        if self.held.len() < HELD_DRAINS_MAX {
            self.held.push_back((number, messages));
        }
    }

    /// Bytes that wait to be sent to a node.
    pub(super) fn unsent(&self, node: u8, io: &Io) -> usize {
        self.peers.as_ref().map_or(0, |peers| peers.unsent(node, io))
    }

    /// Sends a message. `false`: there is no link, or its queue is full.
    pub(super) fn send(&mut self, to: u8, message: &Message, io: &mut Io) -> bool {
        self.peers.as_mut().is_some_and(|peers| peers.send(to, message, io))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A candidate knows no leader, and the leader of its term may turn out to lead still.
    #[test]
    fn permission_to_forward_ends_with_the_leaders_link() {
        let mut links = Links { forward_to: Some((2, 5)), ..Links::new(None) };
        links.link_changed(3);
        assert!(links.may_forward(5) && !links.may_forward(4));
        links.link_changed(2);
        assert!(!links.may_forward(5));
    }

    #[test]
    fn messages_held_for_a_disk_that_hangs_are_bounded() {
        let mut links = Links::new(None);
        for number in 0..2 * HELD_DRAINS_MAX as u64 {
            links.hold(number, Vec::new());
        }
        assert_eq!(links.held.len(), HELD_DRAINS_MAX);
    }
}
