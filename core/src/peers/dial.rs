//! Timers of the links: dials, keep-alives, and the end of what takes too long.
//!
//! Owns the pass through the tables when something is due. Never waits.
//!
//! Correct because each pass plans the next one: everything with a deadline of its own calls
//! [`Peers::wake_at`] with it.

#![forbid(unsafe_code)]

use super::config::{HANDSHAKE_NS, IDLE_NS, RESOLVE_NS, SILENCE_NS};
use super::frame::FrameKind;
use super::greeting::Refusal;
use super::links::Peers;
use super::peer::{Dial, Link, LinkError, LinkState, Side};
use paddock_transport::engine::{Address, ConnId};
use paddock_transport::io::Io;

/// The next thing to do on a connection.
enum Due {
    /// Nothing before this time.
    At(u64),
    /// Close the connection now.
    End(LinkError),
    /// Close the link now, because the node was removed from the ensemble.
    Leaving(u8, Refusal),
    /// Send a keep-alive frame.
    Here,
}

impl Peers {
    pub(super) fn check_links(&mut self, io: &mut Io) {
        let conns: Vec<ConnId> = self.links.keys().copied().collect();
        for conn in conns {
            let Some(link) = self.links.get(&conn) else { continue };
            match self.due(link) {
                Due::At(at_ns) => self.wake_at(at_ns),
                Due::End(why) => {
                    self.abort(conn, why, io);
                }
                Due::Leaving(node, why) => self.refuse(node, why, io),
                Due::Here => {
                    self.put(conn, FrameKind::Here, &[], io);
                    self.wake_at(self.now_ns.saturating_add(IDLE_NS));
                }
            }
        }
    }

    fn due(&self, link: &Link) -> Due {
        let LinkState::Up(node) = link.state else {
            let end = link.since_ns.saturating_add(HANDSHAKE_NS);
            return if self.now_ns >= end { Due::End(LinkError::HandshakeTime) } else { Due::At(end) };
        };
        let (leaving, told) =
            self.peers.get(&node).and_then(|p| p.leaving).unwrap_or((u64::MAX, Refusal::Removed));
        if self.now_ns >= leaving {
            return Due::Leaving(node, told);
        }
        // A paused link is not read, so its silence means nothing.
        let silence = if link.paused { u64::MAX } else { link.heard_ns.saturating_add(SILENCE_NS) };
        let end = silence.min(link.probe_ns.unwrap_or(u64::MAX));
        if self.now_ns >= end {
            return Due::End(LinkError::Silent(self.now_ns.saturating_sub(link.heard_ns)));
        }
        let idle = link.sent_ns.saturating_add(IDLE_NS);
        if self.now_ns >= idle {
            return Due::Here;
        }
        Due::At(end.min(idle).min(leaving))
    }

    /// Advances the dial of every node without a link.
    pub(super) fn check_dials(&mut self) {
        let nodes: Vec<u8> =
            self.peers.iter().filter(|(_, p)| p.link.is_none()).map(|(node, _)| *node).collect();
        for node in nodes {
            if self
                .peers
                .get(&node)
                .is_some_and(|p| p.member && matches!(p.dial, Dial::New | Dial::At(u64::MAX)))
            {
                self.plan_dial(node, true);
            }
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            let Some(address) = peer.address.as_ref().filter(|_| peer.member) else { continue };
            match peer.dial {
                Dial::At(at_ns) if self.now_ns < at_ns => self.wake_at(at_ns),
                Dial::At(_) => {
                    let until = self.now_ns.saturating_add(RESOLVE_NS);
                    peer.dial = Dial::Resolving(until);
                    self.resolver.request(node, &address.host, address.port);
                    self.wake_at(until);
                }
                Dial::Resolving(until) if self.now_ns < until => self.wake_at(until),
                Dial::Resolving(_) => self.dial_failed(node, LinkError::ResolveTime),
                // The connection has a deadline of its own.
                Dial::Connecting(_) | Dial::New => {}
            }
        }
    }

    /// Takes the resolver's answers and connects.
    pub(super) fn take_addresses(&mut self, io: &mut Io) {
        while let Some((node, answer)) = self.resolver.poll() {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            // A late answer that no dial waits for.
            if !matches!(peer.dial, Dial::Resolving(_)) || peer.link.is_some() {
                continue;
            }
            match answer {
                Ok(at) => {
                    let remote = Address::Tcp(at);
                    let conn = io.connect(remote.clone());
                    peer.dial = Dial::Connecting(conn);
                    self.links.insert(
                        conn,
                        Link::new(Side::Dialled(node), LinkState::Connecting, remote, self.now_ns),
                    );
                    self.wake_at(self.now_ns.saturating_add(HANDSHAKE_NS));
                }
                Err(why) => self.dial_failed(node, LinkError::Resolve(why)),
            }
        }
    }
}
