//! Clients: their input and their output.
//!
//! Owns no state of its own. Never tells a client more than bytes. Correct because the checkers see every
//! answer in the order of arrival.

use super::super::check::Event;
use super::super::client::{ClientState, News};
use super::super::net::{End, Parcel, WireId};
use super::super::workload::Ask;
use super::{Happening, World, hash};
use paddock_transport::wire::{error, opcode};

impl World {
    pub(super) fn reach_client(&mut self, id: WireId, c: usize, parcel: Parcel) {
        if self.clients[c].wire() != Some(id) {
            return;
        }
        match parcel {
            Parcel::Open => {}
            Parcel::Accepted => {
                let bytes = self.clients[c].connected(self.now);
                self.send_from(id, End::Client(c), Parcel::Bytes(bytes));
            }
            Parcel::Bytes(bytes) => {
                for byte in bytes.chunks(64) {
                    hash(
                        &mut self.report.trace_hash,
                        byte.iter().fold(7, |h, b| h * 31 % 0xffff_fffb + u64::from(*b)),
                    );
                }
                let session = self.clients[c].session;
                let node = self.number_at(id);
                let (news, out, asks) = self.clients[c].received(&bytes, self.now, &mut self.next_op);
                for news in news {
                    self.hear(c, node, session, news);
                }
                self.say(c, id, out, &asks);
                self.at(self.clients[c].next_ns, Happening::Client(c));
            }
            Parcel::End | Parcel::Reset => self.lose(c, false),
        }
    }

    /// The clients that are connected to a node.
    pub fn served_by(&self, n: usize) -> Vec<usize> {
        let at = |client: &usize| self.clients[*client].wire().and_then(|id| self.net.wires.get(&id));
        (0..self.clients.len())
            .filter(|c| matches!(at(c).map(|wire| wire.ends[1]), Some(End::Engine { node, .. }) if node == n))
            .collect()
    }

    /// Number of the node at the accepting end of a client's wire.
    fn number_at(&self, id: WireId) -> u8 {
        match self.net.wires.get(&id).map(|wire| wire.ends[1]) {
            Some(End::Engine { node, .. }) => self.nodes[node].setup.consensus.node,
            _ => 0,
        }
    }

    pub(super) fn say(&mut self, c: usize, wire: WireId, bytes: Vec<u8>, asks: &[Ask]) {
        for ask in asks.iter().filter(|ask| ask.opcode != opcode::AUTH) {
            self.see(&Event::Sent { client: c, ask });
        }
        if !bytes.is_empty() {
            self.send_from(wire, End::Client(c), Parcel::Bytes(bytes));
        }
    }

    pub(super) fn hear(&mut self, c: usize, node: u8, session: i64, news: News) {
        match news {
            News::Opened { session, timeout_ms, asked_ns, again, read_only } => {
                self.note(|| format!("client {c} has session {session:x} (again: {again})"));
                self.see(&Event::Opened { client: c, session, timeout_ms, asked_ns, read_only });
            }
            News::Refused { session } => {
                self.note(|| format!("client {c} lost session {session:x}"));
            }
            News::Answered { ask, err, .. } if ask.opcode == opcode::AUTH => {
                // An authentication's reply reveals no state: its zxid is 0.
                if err != 0 {
                    self.see(&Event::Nonsense { client: c, what: "its authentication failed" });
                }
            }
            News::Answered { ask, zxid, err, body } => {
                self.report.answered += 1;
                self.report.refused += u64::from(ask.is_write() && err == error::SYSTEM_ERROR);
                let name = opcode::name(ask.opcode).unwrap_or("?");
                self.note(|| format!("client {c}: {name} ({}) answered at {zxid:x} with {err}", ask.xid));
                // In the turn of the handshake the session's id is known only afterwards.
                let session = if session == 0 { self.clients[c].session } else { session };
                self.see(&Event::Answered { client: c, node, session, ask: &ask, zxid, err, body: &body });
            }
            News::Notified { zxid, kind, path } => {
                self.note(|| format!("client {c}: event {kind} of {path} at {zxid:x}"));
                self.see(&Event::Notified { client: c, zxid, kind, path: &path });
            }
            News::Nonsense(what) => self.see(&Event::Nonsense { client: c, what: &what }),
        }
    }

    /// Handles the end of a client's connection. `gives_up` says that the client ended it.
    pub fn lose(&mut self, c: usize, gives_up: bool) {
        let Some(wire) = self.clients[c].wire() else { return };
        let by = (!gives_up).then(|| self.number_at(wire));
        if gives_up {
            self.let_go(wire, End::Client(c), Parcel::Reset);
        } else if let Some(end) = self.end_of(wire, End::Client(c)) {
            let other_gone = self.net.wires.get_mut(&wire).is_some_and(|w| {
                w.gone[end] = true;
                w.gone[end ^ 1]
            });
            if !other_gone {
                self.send(wire, end ^ 1, Parcel::End);
            }
            self.net.sweep(wire);
        }
        self.clients[c].lost(self.now);
        self.note(|| format!("client {c} lost its connection"));
        self.see(&Event::Lost { client: c, by });
        self.at(self.clients[c].next_ns, Happening::Client(c));
    }

    pub(super) fn run_client(&mut self, c: usize) {
        if self.clients[c].next_ns > self.now {
            return;
        }
        if self.clients[c].state == ClientState::Away {
            if self.clients[c].is_done() {
                return;
            }
            let n = self.clients[c].next_server();
            let engine = 1 + self.rng.below(self.nodes[n].setup.shards as u64) as usize;
            let listener = u16::from(self.clients[c].linearizable);
            let wire = self.net.wire(End::Client(c), self.nodes[n].end(n, engine), listener);
            self.clients[c].dial(wire, self.now);
            self.send(wire, 1, Parcel::Open);
        }
        let Some(wire) = self.clients[c].wire() else { return };
        match self.clients[c].turn(self.now, &mut self.next_op) {
            Some((bytes, asks)) => {
                self.say(c, wire, bytes, &asks);
                self.at(self.clients[c].next_ns, Happening::Client(c));
            }
            None => self.lose(c, true),
        }
    }
}
