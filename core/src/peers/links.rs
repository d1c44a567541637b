//! The component that the consensus core calls.
//!
//! Owns the tables of nodes and connections, and the queue of events.
//!
//! Never blocks, reads a clock, or draws randomness that was not passed in.
//!
//! Correct because a connection is in the table exactly as long as it matters: input for any other
//! connection is dropped. A node's link is the connection that its entry names.

#![forbid(unsafe_code)]

use super::PeerEvent;
use super::config::*;
use super::frame::{self, Frame, FrameKind};
use super::greeting::Refusal;
use super::handshake::UNKNOWN;
use super::message::Message;
use super::peer::{Contact, Dial, Link, LinkError, LinkState, Peer, PeerLogThrottle, Side, backoff};
use super::resolver::Resolver;
use crate::members::{Members, is_wildcard};
use crate::random::splitmix;
use paddock_transport::engine::{Address, Closed, ConnId, Now, Origin};
use paddock_transport::io::Io;
use std::collections::{BTreeMap, VecDeque};
use tracing::{info, warn};

/// All links of this node.
pub struct Peers {
    pub(super) node: u8,
    pub(super) identity: [u8; 16],
    pub(super) incarnation: u64,
    /// Random number of this start, so that others notice two processes with one number. Never 0.
    pub(super) life: u16,
    /// Id of the ensemble; all zero if unknown.
    pub(super) cluster: [u8; 16],
    /// Whether the log or the snapshots hold anything.
    pub(super) data: bool,
    /// Hash of the voters with which this node would bootstrap an ensemble; 0 if none.
    pub(super) founders: u64,
    /// Version of the membership in force; 0 for the configured one.
    pub(super) version: i64,
    /// Whether this node is in the replicated membership.
    pub(super) member: bool,
    pub(super) peers: BTreeMap<u8, Peer>,
    pub(super) links: BTreeMap<ConnId, Link>,
    /// Events that the core has not taken, each with its payload's size in bytes.
    events: VecDeque<(usize, PeerEvent)>,
    untaken_bytes: usize,
    /// Whether some link may be paused because too many events wait.
    pausing: bool,
    pub(super) resolver: Box<dyn Resolver + Send>,
    pub(super) random: u64,
    /// Number of dials since the start.
    pub(super) attempts: u64,
    /// Time of the latest call.
    pub(super) now_ns: u64,
    /// Time of the latest turn.
    turned_ns: u64,
    /// Earliest deadline; the tables are checked then.
    pub(super) due_ns: u64,
    strangers: PeerLogThrottle,
}

impl Peers {
    /// Creates links to the configured members. The first turn dials them.
    pub fn new(config: PeersConfig, resolver: Box<dyn Resolver + Send>) -> Self {
        let mut peers: BTreeMap<u8, Peer> = BTreeMap::new();
        for address in config.members.into_iter().filter(|a| a.node != config.node) {
            let peer = peers.entry(address.node).or_insert_with(Peer::new);
            (peer.member, peer.address) = (true, Some(address));
        }
        Self {
            node: config.node,
            identity: config.identity,
            incarnation: config.incarnation,
            life: life_of(config.seed),
            cluster: config.cluster,
            data: config.data,
            founders: config.founders,
            version: 0,
            member: false,
            peers,
            links: BTreeMap::new(),
            events: VecDeque::new(),
            untaken_bytes: 0,
            pausing: false,
            resolver,
            random: config.seed,
            attempts: 0,
            now_ns: 0,
            turned_ns: 0,
            due_ns: 0,
            strangers: PeerLogThrottle::default(),
        }
    }

    /// Takes the replicated membership, at the start and after each change. A node that was removed keeps
    /// its link for [`REMOVED_GRACE_NS`], so that it learns of the removal through the log.
    pub fn update(&mut self, members: &Members) {
        if members.cluster != UNKNOWN {
            self.cluster = members.cluster;
        }
        if members.members.is_empty() {
            return;
        }
        let replicated = std::mem::replace(&mut self.version, members.version) > 0;
        self.member = members.get(self.node).is_some();
        for (&node, member) in members.members.iter().filter(|(node, _)| **node != self.node) {
            let peer = self.peers.entry(node).or_insert_with(Peer::new);
            // A wildcard address says where a server listens, not where others reach it. The configured
            // address may do that.
            let nowhere = is_wildcard(&member.host);
            if !nowhere || peer.address.as_ref().is_none_or(|a| a.port != member.peer_port) {
                let address = PeerAddress { node, host: member.host.clone(), port: member.peer_port };
                peer.address = Some(address);
            }
            (peer.member, peer.leaving) = (true, None);
        }
        // If this node is not in the membership, its view may be stale or ahead, so it keeps all links.
        for (_, peer) in
            self.peers.iter_mut().filter(|(node, _)| self.member && members.get(**node).is_none())
        {
            let was = std::mem::replace(&mut peer.member, false);
            let Some(known) = peer.known.filter(|_| peer.link.is_some() && peer.leaving.is_none()) else {
                continue;
            };
            let older = known.members_version < members.version;
            if older || was && known.members_version == members.version {
                let removed = was && replicated || known.member && older;
                let told = if removed { Refusal::Removed } else { Refusal::UnknownNode };
                peer.leaving = Some((self.now_ns.saturating_add(REMOVED_GRACE_NS), told));
            }
        }
        self.part_from_others();
        self.due_ns = 0;
    }

    /// Notes that this node's log holds entries from now on.
    pub fn holds_data(&mut self) {
        self.data = true;
    }

    /// Result of the last contact with a node.
    pub fn contact(&self, node: u8) -> Contact {
        let Some(peer) = self.peers.get(&node) else { return Contact::None };
        let asked = |conn: &ConnId| self.links.get(conn).is_some_and(|l| l.state == LinkState::Greeting);
        match (peer.contact, peer.dial) {
            (Contact::None, Dial::Connecting(conn)) if asked(&conn) => Contact::Silent,
            (contact, _) => contact,
        }
    }

    /// Ends links with nodes of other ensembles. They may have begun while this node knew no ensemble.
    fn part_from_others(&mut self) {
        let ours = self.cluster;
        for peer in self.peers.values_mut().filter(|p| p.link.is_some()) {
            if peer.known.is_some_and(|k| k.cluster != UNKNOWN && k.cluster != ours) {
                peer.leaving = Some((self.now_ns, Refusal::WrongCluster));
            }
        }
    }

    /// Handles an established connection.
    pub fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        self.now_ns = now.mono_ns;
        if origin.listener.is_some() {
            return self.accepted(conn, origin.peer.clone(), io);
        }
        match self.links.get_mut(&conn) {
            Some(link) => {
                link.state = LinkState::Greeting;
                self.greet(conn, io);
            }
            None => io.abort(conn),
        }
    }

    /// Handles bytes that arrived on a connection.
    pub fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        self.now_ns = now.mono_ns;
        let Some(link) = self.links.get_mut(&conn) else { return };
        (link.heard_ns, link.probe_ns) = (self.now_ns, None);
        link.inbox.push(bytes);
        while self.take_one(conn, io) {}
        self.bound_newcomers(conn, io);
        self.pause_when_full(conn, io);
    }

    /// Bounds the input of all non-members together to one large frame.
    fn bound_newcomers(&mut self, conn: ConnId, io: &mut Io) {
        let newcomer = |link: &Link| match link.state {
            LinkState::Up(node) => self.peers.get(&node).is_none_or(|p| !p.member),
            LinkState::Connecting | LinkState::Greeting => true,
        };
        let Some(link) = self.links.get(&conn) else { return };
        if link.inbox.waiting() <= NEWCOMER_BYTES || !newcomer(link) {
            return;
        }
        let held: usize = self.links.values().filter(|l| newcomer(l)).map(|l| l.inbox.waiting()).sum();
        if held > NEWCOMERS_BYTES_MAX {
            self.abort(conn, LinkError::CrowdedNewcomers, io);
        }
    }

    /// The other end sends no more. Half-open links are ended.
    pub fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        self.now_ns = now.mono_ns;
        self.abort(conn, LinkError::ByPeer, io);
    }

    /// Handles a closed connection.
    pub fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.now_ns = now.mono_ns;
        let why = match why {
            Closed::ConnectFailed(errno) => LinkError::Connect(errno),
            Closed::Failed(errno) => LinkError::Failed(errno),
            Closed::ByPeer | Closed::ByEngine => LinkError::ByPeer,
        };
        self.drop_link(conn, why, io);
    }

    /// Sends due dials and keep-alives, and ends what took too long. Returns the next deadline, if any.
    pub fn turn(&mut self, now: Now, io: &mut Io) -> Option<u64> {
        self.now_ns = now.mono_ns;
        let paused_ns = self.now_ns.saturating_sub(std::mem::replace(&mut self.turned_ns, self.now_ns));
        if paused_ns >= STOOD_STILL_NS {
            self.forgive(paused_ns);
        }
        self.take_addresses(io);
        if self.now_ns >= self.due_ns {
            self.due_ns = u64::MAX;
            self.check_links(io);
            self.check_dials();
            // A resolver without a thread has already answered.
            self.take_addresses(io);
        }
        self.resume_when_taken(io);
        (self.due_ns != u64::MAX).then_some(self.due_ns)
    }

    /// Whether [`Peers::turn`] has work at once. The loop asks before it sleeps.
    pub fn is_ready(&self) -> bool {
        self.resolver.is_ready() || self.pausing && self.untaken_bytes <= UNTAKEN_BYTES_MAX / 2
    }

    /// Takes the next event.
    pub fn next_event(&mut self) -> Option<PeerEvent> {
        let (bytes, event) = self.events.pop_front()?;
        self.untaken_bytes -= bytes;
        if let PeerEvent::Up { node, .. } = event
            && let Some(peer) = self.peers.get_mut(&node)
        {
            // Of several untaken `Up` events, the last is the present link's.
            peer.ups_untaken = peer.ups_untaken.saturating_sub(1);
        }
        Some(event)
    }

    /// Sends a message after everything sent before. `false` if the message was not taken, in four cases:
    ///
    /// - There is no link.
    /// - The core has not taken the link's [`PeerEvent::Up`]: an answer to an earlier link must not get
    ///   into this one.
    /// - More than [`UNSENT_BYTES_MAX`] bytes wait for the link.
    /// - The message is larger than a frame may be.
    pub fn send(&mut self, to: u8, message: &Message, io: &mut Io) -> bool {
        let up = self.peers.get_mut(&to).filter(|p| p.ups_untaken == 0);
        let Some((conn, peer)) = up.and_then(|p| Some((p.link?, p))) else {
            return false;
        };
        if io.unsent(conn) > UNSENT_BYTES_MAX {
            return false;
        }
        let Some(out) = io.out(conn) else { return false };
        // Sent output is freed buffer by buffer. A link that always has unsent bytes must not collect all
        // of them in one.
        let put = if out.bytes().len() < STRETCH_BYTES {
            frame::put_message(message, out.bytes())
        } else {
            let mut stretch = Vec::new();
            let put = frame::put_message(message, &mut stretch);
            out.push_shared(stretch.into());
            put
        };
        if put.is_none() {
            if let Some(more) = peer.log_throttle.admit(self.now_ns, "too large") {
                warn!(
                    node = to,
                    more, "a message is larger than a frame between nodes may be and was not sent"
                );
            }
            return false;
        }
        if let Some(link) = self.links.get_mut(&conn) {
            link.sent_ns = self.now_ns;
        }
        true
    }

    /// Number of bytes that wait to be sent to the node.
    pub fn unsent(&self, node: u8, io: &Io) -> usize {
        self.peers.get(&node).and_then(|p| p.link).map_or(0, |conn| io.unsent(conn))
    }

    /// Ends the link with a node, and tells the node why.
    pub(super) fn refuse(&mut self, node: u8, why: Refusal, io: &mut Io) {
        let Some(conn) = self.peers.get(&node).and_then(|p| p.link) else { return };
        // The refusal does not wait for a node that stopped reading.
        if io.unsent(conn) > STRETCH_BYTES {
            self.abort(conn, LinkError::WeRefused(why, None), io);
            return;
        }
        self.put(conn, FrameKind::Goodbye, &[why.code()], io);
        self.drop_link(conn, LinkError::WeRefused(why, None), io);
        io.close(conn);
    }

    /// Decodes one greeting or frame of a connection. `false` if none is complete.
    fn take_one(&mut self, conn: ConnId, io: &mut Io) -> bool {
        let Some(link) = self.links.get_mut(&conn) else { return false };
        let LinkState::Up(node) = link.state else {
            return match link.inbox.greeting() {
                Ok(Some(greeting)) => {
                    self.greeted(conn, greeting, io);
                    true
                }
                Ok(None) => false,
                Err(why) => self.abort(conn, why.into(), io),
            };
        };
        match link.inbox.frame() {
            Ok(Some(Frame::Message(message, bytes))) => {
                self.tell(bytes, PeerEvent::Message { node, message });
                true
            }
            Ok(Some(Frame::Here)) => true,
            Ok(Some(Frame::Probe)) => {
                // A node with this much unread output hears from us anyway. A node that probes without
                // reading must not cost memory.
                if io.unsent(conn) <= STRETCH_BYTES {
                    self.put(conn, FrameKind::Here, &[], io);
                }
                true
            }
            Ok(Some(Frame::Goodbye(code))) => {
                let why = Refusal::from_code(code);
                // A removal is believed only from a node that this node dialled at a member's address: any
                // process can dial us. A member that is right repeats it when this node dials it.
                let believed = why == Refusal::Removed && link.side == Side::Dialled(node);
                self.meet(node, why);
                self.abort(conn, LinkError::RefusedBy(why, None), io);
                if believed {
                    self.tell(0, PeerEvent::Removed { by: node });
                }
                false
            }
            Ok(None) => false,
            Err(why) => self.abort(conn, why.into(), io),
        }
    }

    /// Ends a connection at once. Always returns `false`, which callers return in turn.
    pub(super) fn abort(&mut self, conn: ConnId, why: LinkError, io: &mut Io) -> bool {
        self.drop_link(conn, why, io);
        io.abort(conn);
        false
    }

    /// Extends deadlines by the time that this node stood still: unread input may wait in the kernel.
    fn forgive(&mut self, paused_ns: u64) {
        for link in self.links.values_mut().filter(|l| matches!(l.state, LinkState::Up(_))) {
            link.heard_ns = link.heard_ns.saturating_add(paused_ns).min(self.now_ns);
            link.probe_ns = link.probe_ns.map(|at| at.saturating_add(paused_ns));
        }
    }

    pub(super) fn tell(&mut self, bytes: usize, event: PeerEvent) {
        self.untaken_bytes += bytes;
        self.events.push_back((bytes, event));
    }

    /// Plans a check of the tables at this time.
    pub(super) fn wake_at(&mut self, at_ns: u64) {
        self.due_ns = self.due_ns.min(at_ns);
    }

    /// Appends a frame that carries no message.
    pub(super) fn put(&mut self, conn: ConnId, kind: FrameKind, payload: &[u8], io: &mut Io) {
        if let (Some(out), Some(link)) = (io.out(conn), self.links.get_mut(&conn)) {
            frame::put(kind, payload, out.bytes());
            link.sent_ns = self.now_ns;
        }
    }

    /// Forgets a connection, reports a lost link to the core, and plans the next dial. The caller closes
    /// the connection.
    pub(super) fn drop_link(&mut self, conn: ConnId, why: LinkError, io: &mut Io) {
        let Some(link) = self.links.remove(&conn) else { return };
        match (link.state, link.side) {
            (LinkState::Up(node), _) => {
                let steady = self.now_ns.saturating_sub(link.since_ns) >= STEADY_NS;
                if let Some(peer) = self.peers.get_mut(&node) {
                    (peer.link, peer.leaving) = (None, None);
                    peer.failures = if steady { 0 } else { peer.failures.saturating_add(1) };
                }
                self.tell(0, PeerEvent::Down { node });
                self.plan_dial(node, true);
                self.log_failure(node, "the link is down", why);
            }
            (state, Side::Dialled(node)) => {
                let silent = state == LinkState::Greeting && why == LinkError::HandshakeTime;
                if let Some(peer) = self.peers.get_mut(&node)
                    && matches!(peer.contact, Contact::None | Contact::Silent)
                {
                    peer.contact = if silent { Contact::Silent } else { Contact::None };
                }
                self.dial_failed(node, why);
            }
            (_, Side::Accepted) => {
                let text = why.to_string();
                if let Some(more) = self.strangers.admit(self.now_ns, &text) {
                    warn!(from = %link.remote, more, "a connection to the peer port was closed: {text}");
                }
            }
        }
        if link.paused {
            io.resume_input(conn);
        }
    }

    /// Plans the next dial after a failed one.
    pub(super) fn dial_failed(&mut self, node: u8, why: LinkError) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        // A node that refuses will most likely refuse again.
        let refused = matches!(
            why,
            LinkError::RefusedBy(r, _) | LinkError::WeRefused(r, _) if r != Refusal::Duplicate
        );
        peer.failures = if refused { u32::MAX } else { peer.failures.saturating_add(1) };
        self.plan_dial(node, false);
        self.log_failure(node, "no link", why);
    }

    /// Sets the time of the next dial. With `patient`, the node with the smaller number first waits for
    /// the other node's dial.
    pub(super) fn plan_dial(&mut self, node: u8, patient: bool) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let pause = match peer.dial {
            Dial::New => 0,
            _ => backoff(peer.failures, &mut self.random),
        };
        let patience = if patient && self.node < node { PATIENCE_NS } else { 0 };
        let at_ns = self.now_ns.saturating_add(pause + patience);
        peer.dial = Dial::At(at_ns);
        self.wake_at(at_ns);
    }

    /// Logs why a node has no link, unless the log just said so.
    pub(super) fn log_failure(&mut self, node: u8, what: &str, why: LinkError) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let text = why.to_string();
        if let Some(more) = peer.log_throttle.admit(self.now_ns, &text) {
            let place = peer.place();
            match why {
                LinkError::Replaced => info!(more, "node {node} at {place}: {text}"),
                _ => warn!(more, "node {node} at {place}: {what}: {text}"),
            }
        }
        #[cfg(test)]
        peer.last_error.replace(text);
    }

    fn pause_when_full(&mut self, conn: ConnId, io: &mut Io) {
        if self.untaken_bytes > UNTAKEN_BYTES_MAX
            && let Some(link) = self.links.get_mut(&conn)
        {
            link.paused = true;
            self.pausing = true;
            io.pause_input(conn);
        }
    }

    fn resume_when_taken(&mut self, io: &mut Io) {
        if !self.pausing || self.untaken_bytes > UNTAKEN_BYTES_MAX / 2 {
            return;
        }
        self.pausing = false;
        for (conn, link) in self.links.iter_mut().filter(|(_, l)| l.paused) {
            link.paused = false;
            link.heard_ns = self.now_ns;
            io.resume_input(*conn);
        }
    }

    fn accepted(&mut self, conn: ConnId, remote: Address, io: &mut Io) {
        let strangers = |l: &&Link| l.side == Side::Accepted && l.state == LinkState::Greeting;
        if self.links.values().filter(strangers).count() >= STRANGERS_MAX {
            let oldest =
                self.links.iter().filter(|(_, l)| strangers(l)).min_by_key(|(conn, l)| (l.since_ns, **conn));
            if let Some(oldest) = oldest.map(|(conn, _)| *conn) {
                self.abort(oldest, LinkError::Crowded, io);
            }
        }
        self.links.insert(conn, Link::new(Side::Accepted, LinkState::Greeting, remote, self.now_ns));
        self.wake_at(self.now_ns.saturating_add(HANDSHAKE_NS));
    }
}

/// Derives the start's random number from its seed.
fn life_of(seed: u64) -> u16 {
    (splitmix(&mut seed.clone()) as u16).max(1)
}
