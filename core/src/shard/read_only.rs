//! Read-only clients, while the quorum does not confirm this node.
//!
//! Owns their admission and what they may ask for. Never writes a log entry for them, and reports none of them as heard from: a
//! new client's session exists in this shard alone, ends with its connection, and is known to nobody else; a session that the
//! ensemble gave out goes on under its id and dies, or does not, as if its client were away. Never tells a client that its
//! session has expired: a node without a quorum cannot know. An id that is not in its table is served as well, for whatever it
//! was, and the quorum decides when it is back; only a wrong password for a session that is in the table is refused. It
//! stays correct because only clients that said they accept a read-only server are admitted, none of them on a
//! listener that promises linearizable reads, and because all of them are closed when the quorum is back
//! ([`super::footing`]).

use super::Shard;
use super::connection::{Connection, Pending, Phase, Waiting};
use super::footing::Footing;
use super::gather::{Kind, classify};
use super::serve::What;
use crate::commit::Outcome;
use crate::session::PASSWORD_BYTES;
use crate::submit::Inquiry;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wire::opcode::{self, Class};
use paddock_transport::wire::{ConnectResponse, Limits, reply};

/// What a ConnectRequest says that matters here.
pub(super) struct Applicant {
    pub accepts_read_only: bool,
    pub session: i64,
    pub password: Vec<u8>,
    pub timeout_ms: i32,
    /// Bytes of the request.
    pub used: usize,
}

/// A session that a client brought along, when it was looked for in the node's table.
pub(super) struct Recalled {
    pub session: i64,
    pub timeout_ms: i32,
    pub password: [u8; PASSWORD_BYTES],
    pub since_ns: u64,
}

/// What a read-only client gets.
struct Grant {
    session: i64,
    timeout_ms: i32,
    password: [u8; PASSWORD_BYTES],
    /// Whether the ensemble gave the session out, as far as is known.
    global: bool,
    since_ns: u64,
}

impl Shard {
    /// Gives a read-only client a session of this shard's own, has the session that it brings looked up, or closes the
    /// connection without an answer.
    pub(super) fn admit_read_only(&mut self, now: Now, slot: u32, who: &Applicant, io: &mut Io) {
        let timeout_ms = self.config.negotiate(who.timeout_ms);
        let Some(connection) = self.connections.slot(slot) else { return };
        if !who.accepts_read_only || connection.linearizable {
            self.close(now, slot, io);
            return;
        }
        connection.received += 1;
        let input = std::mem::take(&mut connection.input);
        connection.put_back(input, who.used);
        self.stats.shard(self.config.id).packets_received.add(1);
        if who.session == 0 {
            let Some((session, password)) = self.ids.next() else { return self.close(now, slot, io) };
            let grant = Grant { session, timeout_ms, password, global: false, since_ns: now.mono_ns };
            self.grant_read_only(now, slot, &grant, io);
            return;
        }
        connection.phase = Phase::Opening;
        connection.paused = true;
        io.pause_input(connection.id);
        // Longer or shorter ones are nobody's: what is echoed has the length that the protocol gives it.
        let password = <[u8; PASSWORD_BYTES]>::try_from(&who.password[..]).unwrap_or_default();
        let (ticket, number) = self.uplink.beside(slot);
        connection.pending.push_back(Pending {
            number,
            xid: 0,
            what: Waiting::Recall { session: who.session, timeout_ms, password },
            bytes: 0,
            since_ns: now.mono_ns,
            result: None,
        });
        self.outstanding += 1;
        let inquiry = Inquiry { ticket, session: who.session, password: who.password.clone() };
        if !self.inquiries.ask(inquiry) {
            self.close(now, slot, io);
        }
    }

    /// The session that a client brought along was looked up.
    pub(super) fn recalled(&mut self, now: Now, slot: u32, it: Recalled, outcome: &Outcome, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let known = match outcome {
            Outcome::Recalled { known } if self.judge.footing == Footing::ReadOnly => *known,
            Outcome::Refused => {
                if let Some(out) = io.out(connection.id) {
                    reply::put_connect(out.bytes(), &ConnectResponse::refused(Some(true)));
                }
                let cells = self.cells();
                cells.packets_sent.add(1);
                cells.sessions_refused.add(1);
                return self.close(now, slot, io);
            }
            _ => return self.close(now, slot, io),
        };
        connection.paused = false;
        io.resume_input(connection.id);
        let Recalled { session, timeout_ms, password, since_ns } = it;
        if known {
            // As with an ordinary reattach: the connection that the client has left ends.
            self.neighbours.evict(self.config.id, session);
            if let Some(old) = self.sessions.insert(session, slot) {
                self.close(now, old, io);
            }
        }
        self.grant_read_only(now, slot, &Grant { session, timeout_ms, password, global: true, since_ns }, io);
    }

    fn grant_read_only(&mut self, now: Now, slot: u32, grant: &Grant, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let Some(out) = io.out(connection.id) else { return self.close(now, slot, io) };
        let response = ConnectResponse {
            protocol_version: 0,
            timeout_ms: grant.timeout_ms,
            session_id: grant.session,
            password: Some(&grant.password),
            read_only: Some(true),
        };
        reply::put_connect(out.bytes(), &response);
        connection.phase = Phase::Open;
        (connection.read_only, connection.global) = (true, grant.global);
        (connection.session, connection.timeout_ms) = (grant.session, grant.timeout_ms);
        connection.sent += 1;
        let until_ns = grant.since_ns.saturating_add(connection.timeout_ns());
        self.leases.grant(connection, until_ns);
        let cells = self.stats.shard(self.config.id);
        cells.packets_sent.add(1);
        cells.read_only_sessions.add(1);
    }
}

/// A read-only client was heard from: nobody else expires its session.
pub(super) fn heard(connection: &mut Connection, now: Now) {
    connection.lease_ns = now.mono_ns.saturating_add(connection.timeout_ns());
}

/// What becomes of a read-only client's request: what would be ordered is refused before it is looked at. The end of a `global`
/// session would have to be ordered.
pub(super) fn classify_read_only(opcode: i32, body: &[u8], limits: Limits, global: bool) -> What<'_> {
    match opcode {
        opcode::CLOSE_SESSION if global => What::NotReadOnly,
        opcode::CLOSE_SESSION => What::Goodbye,
        opcode::CHECK | opcode::DELETE_CONTAINER => What::NotReadOnly,
        _ if matches!(opcode::class(opcode), Some(Class::Write | Class::Sync)) => What::NotReadOnly,
        _ => match classify(opcode, body, limits) {
            Kind::Here(what) => what,
            Kind::Forward(_) => What::NotReadOnly,
        },
    }
}
