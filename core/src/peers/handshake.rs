//! Who may have a link.
//!
//! Owns the judgement of a greeting and what follows from it. Never trusts more of it than a number can be compared
//! with. It stays correct because there is one link per pair at most, and of two connections of a pair both ends keep
//! the same one:
//!
//! - A dialler counts its dials; of two dials of one start the later one is in force, whichever is read first.
//! - A node dials only while it has no link. So a dial of a node with which there is a link says that the link is dead,
//!   or that both dialled at the same time. In the second case the dial of the larger number is kept: the larger one refuses
//!   the other's dial while its own has said its greeting, the smaller one drops its own dial when it accepts.
//! - A refused dial puts the present link in doubt: it is asked for a sign of life, and one that is dead is gone before the
//!   next dial comes.

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

/// The number of an ensemble that is not known.
pub(super) const UNKNOWN: [u8; 16] = [0; 16];

impl Peers {
    /// Says the first greeting on a connection that we dialled.
    pub(super) fn greet(&mut self, conn: ConnId, io: &mut Io) {
        let Some(Side::Dialled(wanted)) = self.links.get(&conn).map(|l| l.side) else { return };
        self.attempts += 1;
        let greeting = self.greeting(wanted, self.attempts, None);
        self.put_greeting(conn, &greeting, io);
    }

    /// The other end's greeting is here.
    pub(super) fn greeted(&mut self, conn: ConnId, it: Greeting, io: &mut Io) {
        let Some(link) = self.links.get(&conn) else { return };
        let side = link.side;
        if let Some(why) = it.refusal {
            let by = it.node;
            if let Side::Dialled(to) = side {
                self.meet(to, why);
                // Who has nothing and knows no membership but his own file's has lost nothing that was ours.
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
                // For who was dialled the link stands already: he expects frames.
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

    /// What holds for every greeting.
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

    /// Whether another life of the node was met under the same number of a start. Starts are counted durably, so the directory was put
    /// back to where it was before that one: a copy taken while the node did not run, which knows nothing of its promises since.
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
        // Who has no place in a membership yet is told by its members.
        let known = self.member && self.version > 0;
        let same = it.cluster == self.cluster && it.member;
        match it.members_version.cmp(&self.version) {
            _ if !known && it.member => Ok(()),
            _ if !known || !same => Err(Refusal::UnknownNode),
            std::cmp::Ordering::Less => Err(Refusal::Removed),
            // A node that joins is talked to before the version grows.
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Ok(()),
        }
    }

    /// Whether the dialler's connection takes the place of what there is between both.
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

    /// Asks a link for a sign of life.
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

    /// The connection is the link with its node from now on.
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
        // Whoever comes again and again under a member's number fills no log: each place counts as something else to say.
        let remote = link.remote.to_string();
        if let Some(more) = peer.arrivals.admit(self.now_ns, &format!("{} {remote}", it.incarnation)) {
            let (incarnation, dialled) = (it.incarnation, !accepted);
            info!(incarnation, dialled, more, "node {node} at {remote}: the link is up");
        }
        // Our own dial is not needed any more; a question for an address is answered to nobody.
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
        // A member's refusal is said under its number; what a stranger calls himself is not worth an entry.
        if accepted && self.peers.contains_key(&node) {
            self.links.remove(&conn);
            self.log_failure(node, "a connection was refused", error);
        } else {
            self.drop_link(conn, error, io);
        }
        io.close(conn);
    }

    /// A refusal names neither ensemble nor data directory: with these numbers a stranger could come back as a member.
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

    /// Who belongs to an ensemble founds none.
    fn founders(&self) -> u64 {
        if self.cluster == UNKNOWN { self.founders } else { 0 }
    }

    /// Notes a refusal, ours or the other's, if it says something about who is there.
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
