//! The network between engines and clients.
//!
//! Owns no state of its own: the net holds what is in flight. Never reorders a wire's parcels. Correct
//! because a dead process's kernel answers for it, and a silent host does not answer.

use super::super::net::{End, Parcel, WireId};
use super::super::node::{Input, Output};
use super::{Happening, World};
use paddock_transport::engine::{Closed, ConnId};

impl World {
    pub(super) fn carry_out(&mut self, n: usize, engine: usize, output: Output) {
        let from = self.nodes[n].end(n, engine);
        match output {
            Output::Took(wire) => self.send(wire, 0, Parcel::Accepted),
            Output::Send(wire, bytes) => self.send_from(wire, from, Parcel::Bytes(bytes)),
            Output::End(wire) => self.let_go(wire, from, Parcel::End),
            Output::Abort(wire) => self.let_go(wire, from, Parcel::Reset),
            Output::Connect(conn, address) => {
                let to = self.nodes.iter().position(|node| node.address.as_ref() == Some(&address));
                let Some(to) = to else {
                    return self.tell(n, engine, Input::Closed(conn, Closed::ConnectFailed(111)));
                };
                let end = self.nodes[to].end(to, 0);
                let wire = self.net.wire(from, end, 0);
                if let Some(process) = &mut self.nodes[n].process {
                    process.loops[engine].wires.insert(conn.0, wire);
                }
                self.send(wire, 1, Parcel::Open);
            }
        }
    }

    pub(super) fn end_of(&self, wire: WireId, holder: End) -> Option<usize> {
        self.net.wires.get(&wire)?.ends.iter().position(|end| *end == holder)
    }

    pub(super) fn send_from(&mut self, wire: WireId, from: End, parcel: Parcel) {
        if let Some(end) = self.end_of(wire, from) {
            self.send(wire, end ^ 1, parcel);
        }
    }

    /// Closes one end of a wire. The other end is told.
    pub(super) fn let_go(&mut self, wire: WireId, from: End, parcel: Parcel) {
        let Some(end) = self.end_of(wire, from) else { return };
        if let Some(wire) = self.net.wires.get_mut(&wire) {
            wire.gone[end] = true;
        }
        self.send(wire, end ^ 1, parcel);
        self.net.sweep(wire);
    }

    /// Sends a parcel. Bytes may be cut into two parcels.
    pub fn send(&mut self, wire: WireId, end: usize, parcel: Parcel) {
        match parcel {
            Parcel::Bytes(bytes) if bytes.len() > 1 && self.rng.one_in(8) => {
                let cut = self.rng.range(1, bytes.len() as u64 - 1) as usize;
                self.send_one(wire, end, Parcel::Bytes(bytes[..cut].to_vec()));
                self.send_one(wire, end, Parcel::Bytes(bytes[cut..].to_vec()));
            }
            parcel => self.send_one(wire, end, parcel),
        }
    }

    pub(super) fn send_one(&mut self, wire: WireId, end: usize, parcel: Parcel) {
        if let Some(at) = self.net.send(wire, end, parcel, self.now, &mut self.rng) {
            self.at(at, Happening::Deliver(wire, end));
        }
    }

    pub(super) fn tell(&mut self, n: usize, engine: usize, input: Input) {
        if let Some(process) = &mut self.nodes[n].process {
            process.loops[engine].inbox.push_back(input);
            self.schedule(n, engine, self.now);
        }
    }

    pub(super) fn deliver(&mut self, id: WireId, end: usize) {
        loop {
            let Some(wire) = self.net.wires.get_mut(&id) else { return };
            let (from, to) = (wire.ends[end ^ 1].host(), wire.ends[end].host());
            match wire.flight[end].front_mut() {
                Some((at, _)) if *at <= self.now => {}
                _ => return,
            }
            if self.net.is_cut(from, to) {
                let again = self.now + self.rng.range(20, 250) * 1_000_000;
                if let Some((at, _)) = self.net.wires.get_mut(&id).and_then(|w| w.flight[end].front_mut()) {
                    *at = again;
                }
                return self.at(again, Happening::Deliver(id, end));
            }
            let Some(wire) = self.net.wires.get_mut(&id) else { return };
            let Some((_, parcel)) = wire.flight[end].pop_front() else { return };
            let (holder, gone) = (wire.ends[end], wire.gone[end]);
            if gone {
                if matches!(parcel, Parcel::Bytes(_) | Parcel::Open) {
                    self.bounce(id, end);
                }
                continue;
            }
            match holder {
                End::Client(client) => self.reach_client(id, client, parcel),
                End::Engine { node, life, engine } => {
                    self.reach_engine(id, end, (node, life, engine), parcel)
                }
            }
        }
    }

    /// Answers for an end that is gone: the sender gets a reset, unless the whole host is silent.
    pub(super) fn bounce(&mut self, id: WireId, end: usize) {
        let Some(wire) = self.net.wires.get(&id) else { return };
        if let End::Engine { node, .. } = wire.ends[end]
            && self.nodes[node].process.is_none()
            && !self.nodes[node].refuses
        {
            return;
        }
        if !wire.gone[end ^ 1] {
            self.send(id, end ^ 1, Parcel::Reset);
        }
    }

    pub(super) fn reach_engine(&mut self, id: WireId, end: usize, to: (usize, u64, usize), parcel: Parcel) {
        let (n, life, engine) = to;
        let there = self.nodes[n].process.is_some() && self.nodes[n].life == life;
        let conn = match (&parcel, self.nodes[n].process.as_ref().filter(|_| there)) {
            (Parcel::Open, Some(_)) => Some(ConnId(0)),
            (_, Some(process)) => process.loops[engine].conn_of(id),
            (_, None) => None,
        };
        let Some(conn) = conn else {
            // The engine holds no connection for this wire, so the wire's end is gone.
            if let Some(wire) = self.net.wires.get_mut(&id) {
                wire.gone[end] = true;
            }
            if matches!(parcel, Parcel::Bytes(_) | Parcel::Open) {
                self.bounce(id, end);
            }
            return self.net.sweep(id);
        };
        let input = match parcel {
            Parcel::Open => Input::Open(id),
            Parcel::Accepted => Input::Accepted(conn),
            Parcel::Bytes(bytes) => Input::Bytes(conn, bytes),
            Parcel::End => Input::End(conn),
            Parcel::Reset => {
                if let Some(wire) = self.net.wires.get_mut(&id) {
                    wire.gone[end] = true;
                }
                if let Some(process) = &mut self.nodes[n].process {
                    process.loops[engine].wires.remove(&conn.0);
                }
                Input::Closed(conn, Closed::ByPeer)
            }
        };
        self.tell(n, engine, input);
        self.net.sweep(id);
    }
}
