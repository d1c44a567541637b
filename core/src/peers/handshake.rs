//! Decides which connections become links.
//!
//! Owns the check of a greeting and its consequences. Never trusts a greeting further than its numbers can
//! be compared.
//!
//! Correct because a pair of nodes has one link at most, and both ends keep the same one of two
//! connections:
//!
//! - A dialler counts its dials. Of two dials of one start the later one counts, whichever is read first.
//! - A node dials only while it has no link. A dial from a linked node therefore means that the link is
//!   dead, or that both nodes dialled at once.
//! - If both dialled at once, the dial of the larger number is kept. The larger node refuses the other's
//!   dial once its own greeting is sent; the smaller drops its own dial when it accepts.
//! - A refused dial makes the node probe the present link. A dead link is gone before the next dial comes.

#![forbid(unsafe_code)]

use super::PeerEvent;
use super::config::{IDLE_NS, PROBE_NS};
use super::frame::FrameKind;
use super::greeting::{Greeting, PROTOCOL_VERSION, Refusal};
use super::links::Peers;
use super::peer::{Contact, Dial, Known, LinkError, LinkState, Peer, Side};
use crate::members::NODE_MAX;
use paddock_transport::engine::ConnId;
use paddock_transport::io::Io;
use tracing::info;

/// The id of an unknown ensemble.
pub(super) const UNKNOWN: [u8; 16] = [0; 16];

impl Peers {
    /// Sends the first greeting on a connection that this node dialled.
    pub(super) fn greet(&mut self, conn: ConnId, io: &mut Io) {
        let Some(Side::Dialled(wanted)) = self.links.get(&conn).map(|l| l.side) else { return };
        self.attempts += 1;
        let greeting = self.greeting(wanted, self.attempts, None);
        self.put_greeting(conn, &greeting, io);
    }

    /// Handles the other end's greeting.
    pub(super) fn greeted(&mut self, conn: ConnId, it: Greeting, io: &mut Io) {
        let Some(link) = self.links.get(&conn) else { return };
        let side = link.side;
        if let Some(why) = it.refusal {
            let by = it.node;
            if let Side::Dialled(to) = side {
                self.meet(to, why);
                // A node without data that knows only its configured members has lost nothing of this
                // ensemble.
                if why == Refusal::UnknownNode
                    && !it.data
                    && it.members_version == 0
                    && let Some(peer) = self.peers.get_mut(&to)
                {
                    peer.contact = Contact::Empty;
                }
            }
            self.abort(conn, LinkError::RefusedBy(why, Some(Box::new(it))), io);
            if why == Refusal::Removed && side == Side::Dialled(by) {
                self.tell(0, PeerEvent::Removed { by });
            }
            return;
        }
        let judged = match side {
            Side::Dialled(to) => {
                self.judge(&it).and(if it.node == to { Ok(()) } else { Err(Refusal::NotForMe) })
            }
            Side::Accepted => {
                self.judge(&it).and_then(|()| self.judge_member(&it)).and_then(|()| self.admit(&it, io))
            }
        };
        match judged {
            Err(why) => {
                // A dialled node already counts the link as up, and expects frames.
                match side {
                    Side::Dialled(_) => self.put(conn, FrameKind::Goodbye, &[why.code()], io),
                    Side::Accepted => {
                        let answer = self.greeting(it.node, it.attempt, Some(why));
                        self.put_greeting(conn, &answer, io);
                    }
                }
                self.drop_refused(conn, why, it, io);
            }
            Ok(()) => {
                if side == Side::Accepted {
                    let answer = self.greeting(it.node, it.attempt, None);
                    self.put_greeting(conn, &answer, io);
                }
                self.establish(conn, &it, io);
            }
        }
    }

    /// The checks that every greeting must pass.
    fn judge(&self, it: &Greeting) -> Result<(), Refusal> {
        if it.version != PROTOCOL_VERSION {
            Err(Refusal::WrongVersion)
        } else if it.cluster != self.cluster && it.cluster != UNKNOWN && self.cluster != UNKNOWN {
            Err(Refusal::WrongCluster)
        } else if it.wanted != self.node {
            Err(Refusal::NotForMe)
        } else if it.founders != self.founders() && it.founders != 0 && self.founders() != 0 {
            Err(Refusal::OtherFounders)
        } else if it.node == self.node {
            Err(Refusal::Duplicate)
        } else if it.node == 0 || it.node > NODE_MAX {
            Err(Refusal::UnknownNode)
        } else if self.is_old_copy(it) {
            Err(Refusal::OldCopy)
        } else {
            Ok(())
        }
    }

    /// Whether this node met another start of the sender under the same start number. Starts are counted
    /// durably, so the sender runs from an older copy of its data directory. That copy misses every
    /// promise made since.
    fn is_old_copy(&self, it: &Greeting) -> bool {
        let known = self.peers.get(&it.node).and_then(|peer| peer.known);
        known.is_some_and(|k| {
            let same_start = (k.identity, k.incarnation) == (it.identity, it.incarnation);
            same_start && k.life != it.life && k.life != 0 && it.life != 0
        })
    }

    /// Whether the dialler belongs to the ensemble, as far as the older of both memberships can tell.
    fn judge_member(&self, it: &Greeting) -> Result<(), Refusal> {
        if self.peers.get(&it.node).is_some_and(|p| p.member) {
            return Ok(());
        }
        // A node that is in no membership yet accepts every node that claims to be a member.
        let known = self.member && self.version > 0;
        let same = it.cluster == self.cluster && it.member;
        match it.members_version.cmp(&self.version) {
            _ if !known && it.member => Ok(()),
            _ if !known || !same => Err(Refusal::UnknownNode),
            std::cmp::Ordering::Less => Err(Refusal::Removed),
            // A joining node gets its link before the version grows.
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Ok(()),
        }
    }

    /// Whether the dialler's connection replaces the present link or dial.
    fn admit(&mut self, it: &Greeting, io: &mut Io) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get(&it.node) else { return Ok(()) };
        if let Some(known) = peer.known
            && (known.identity, known.incarnation) == (it.identity, it.incarnation)
            && it.attempt <= known.attempt
        {
            return Err(Refusal::Duplicate);
        }
        let larger = self.node > it.node;
        let Some(conn) = peer.link else {
            let greeted = matches!(peer.dial, Dial::Connecting(c) if self.links.get(&c).is_some_and(|l| l.state == LinkState::Greeting));
            return if larger && greeted { Err(Refusal::Duplicate) } else { Ok(()) };
        };
        let (ours, known) = (self.links.get(&conn).is_some_and(|l| l.side != Side::Accepted), peer.known);
        let same = known.is_some_and(|k| k.identity == it.identity && k.incarnation <= it.incarnation);
        let restarted = known.is_some_and(|k| k.incarnation < it.incarnation);
        if same && (restarted || !(ours && larger)) {
            self.abort(conn, LinkError::Replaced, io);
            return Ok(());
        }
        self.probe(conn, io);
        Err(Refusal::Duplicate)
    }

    /// Asks for a keep-alive, and gives the link [`PROBE_NS`] to answer.
    fn probe(&mut self, conn: ConnId, io: &mut Io) {
        let until = self.now_ns.saturating_add(PROBE_NS);
        if let Some(link) = self.links.get_mut(&conn)
            && link.probe_ns.is_none()
        {
            link.probe_ns = Some(until);
            self.put(conn, FrameKind::Probe, &[], io);
            self.wake_at(until);
        }
    }

    /// Makes the connection the link with its node.
    fn establish(&mut self, conn: ConnId, it: &Greeting, io: &mut Io) {
        let node = it.node;
        let peer = self.peers.entry(node).or_insert_with(Peer::new);
        let (given_up, before) = (std::mem::replace(&mut peer.dial, Dial::At(u64::MAX)), peer.known);
        peer.link = Some(conn);
        peer.ups_untaken += 1;
        #[cfg(test)]
        peer.last_error.take();
        let same = before.filter(|k| (k.identity, k.incarnation) == (it.identity, it.incarnation));
        let Some(link) = self.links.get_mut(&conn) else { return };
        let accepted = link.side == Side::Accepted;
        peer.known = Some(Known {
            identity: it.identity,
            incarnation: it.incarnation,
            life: it.life,
            attempt: if accepted { it.attempt } else { same.map_or(0, |k| k.attempt) },
            members_version: it.members_version,
            member: it.member,
            cluster: it.cluster,
        });
        let settled = it.data || it.cluster != UNKNOWN;
        peer.contact = if settled { Contact::Settled } else { Contact::Empty };
        (link.state, link.since_ns) = (LinkState::Up(node), self.now_ns);
        // Repeated connections under a member's number must not fill the log. Each remote address counts
        // as another text.
        let remote = link.remote.to_string();
        if let Some(more) = peer.arrivals.admit(self.now_ns, &format!("{} {remote}", it.incarnation)) {
            let (incarnation, dialled) = (it.incarnation, !accepted);
            info!(incarnation, dialled, more, "node {node} at {remote}: the link is up");
        }
        // This node's own dial is no longer needed. An address request that is still open is ignored when
        // answered.
        if let Dial::Connecting(dialled) = given_up
            && dialled != conn
        {
            self.links.remove(&dialled);
            io.abort(dialled);
        }
        self.tell(0, PeerEvent::Up { node, incarnation: it.incarnation, identity: it.identity });
        self.wake_at(self.now_ns.saturating_add(IDLE_NS));
    }

    fn drop_refused(&mut self, conn: ConnId, why: Refusal, it: Greeting, io: &mut Io) {
        let node = it.node;
        let accepted = match self.links.get(&conn).map(|l| l.side) {
            Some(Side::Dialled(to)) => {
                self.meet(to, why);
                false
            }
            side => {
                self.meet(node, why);
                side.is_some()
            }
        };
        let error = LinkError::WeRefused(why, Some(Box::new(it)));
        // A member's refusal is logged under its number. A stranger's claimed number gets no table entry.
        if accepted && self.peers.contains_key(&node) {
            self.links.remove(&conn);
            self.log_failure(node, "a connection was refused", error);
        } else {
            self.drop_link(conn, error, io);
        }
        io.close(conn);
    }

    /// Fills in this node's greeting. A refusal omits ensemble id and directory identity: with them a
    /// stranger could come back as a member.
    fn greeting(&self, wanted: u8, attempt: u64, refusal: Option<Refusal>) -> Greeting {
        let shown = |number| if refusal.is_none() { number } else { [0; 16] };
        Greeting {
            version: PROTOCOL_VERSION,
            node: self.node,
            wanted,
            refusal,
            member: self.member,
            data: self.data,
            life: self.life,
            cluster: shown(self.cluster),
            identity: shown(self.identity),
            incarnation: self.incarnation,
            attempt,
            members_version: self.version,
            founders: self.founders(),
        }
    }

    /// A node that belongs to an ensemble bootstraps none.
    fn founders(&self) -> u64 {
        if self.cluster == UNKNOWN { self.founders } else { 0 }
    }

    /// Notes a refusal by either side, if it tells anything about the other node.
    pub(super) fn meet(&mut self, node: u8, why: Refusal) {
        if !matches!(why, Refusal::Duplicate | Refusal::NotForMe)
            && let Some(peer) = self.peers.get_mut(&node)
        {
            peer.contact = Contact::Refused(why);
        }
    }

    fn put_greeting(&mut self, conn: ConnId, greeting: &Greeting, io: &mut Io) {
        if let (Some(out), Some(link)) = (io.out(conn), self.links.get_mut(&conn)) {
            out.bytes().extend_from_slice(&greeting.encode());
            link.sent_ns = self.now_ns;
        }
    }
}
