//! Read-only clients, while the quorum does not confirm this node.
//!
//! Owns their admission and what they may ask for. Never writes a log entry for them: their sessions exist in this shard
//! alone, end with their connection, and are known to nobody else. It stays correct because only clients that said they
//! accept a read-only server are admitted, none of them on a listener that promises linearizable reads, and because all of
//! them are closed when the quorum is back ([`super::footing`]).

use super::Shard;
use super::connection::{Connection, Phase};
use super::gather::{Kind, classify};
use super::serve::What;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wire::opcode::{self, Class};
use paddock_transport::wire::{ConnectResponse, Limits, reply};

/// What a ConnectRequest says that matters here.
pub(super) struct Applicant {
    pub accepts_read_only: bool,
    pub session: i64,
    pub timeout_ms: i32,
    /// Bytes of the request.
    pub used: usize,
}

impl Shard {
    /// Gives a read-only client a session of this shard's own, or closes the connection without an answer.
    pub(super) fn admit_read_only(&mut self, now: Now, slot: u32, who: &Applicant, io: &mut Io) {
        let timeout_ms = self.config.negotiate(who.timeout_ms);
        let Some(connection) = self.connections.slot(slot) else { return };
        // A session of the ensemble stays as it is: its client finds a server that may answer for it.
        let admitted = who.accepts_read_only && who.session == 0 && !connection.linearizable;
        let out = if admitted { io.out(connection.id) } else { None };
        let Some(out) = out else {
            self.close(now, slot, io);
            return;
        };
        let (session, password) = self.ids.next();
        let response = ConnectResponse {
            protocol_version: 0,
            timeout_ms,
            session_id: session,
            password: Some(&password),
            read_only: Some(true),
        };
        reply::put_connect(out.bytes(), &response);
        connection.phase = Phase::Open;
        connection.read_only = true;
        (connection.session, connection.timeout_ms) = (session, timeout_ms);
        connection.received += 1;
        connection.sent += 1;
        let input = std::mem::take(&mut connection.input);
        connection.put_back(input, who.used);
        let until_ns = now.mono_ns.saturating_add(connection.timeout_ns());
        self.leases.grant(connection, until_ns);
        let cells = self.stats.shard(self.config.id);
        cells.packets_received.add(1);
        cells.packets_sent.add(1);
        cells.read_only_sessions.add(1);
    }
}

/// A read-only client was heard from: nobody else expires its session.
pub(super) fn heard(connection: &mut Connection, now: Now) {
    connection.lease_ns = now.mono_ns.saturating_add(connection.timeout_ns());
}

/// What becomes of a read-only client's request: what would be ordered is refused before it is looked at.
pub(super) fn classify_read_only(opcode: i32, body: &[u8], limits: Limits) -> What<'_> {
    match opcode {
        opcode::CLOSE_SESSION => What::Goodbye,
        opcode::CHECK | opcode::DELETE_CONTAINER => What::NotReadOnly,
        _ if matches!(opcode::class(opcode), Some(Class::Write | Class::Sync)) => What::NotReadOnly,
        _ => match classify(opcode, body, limits) {
            Kind::Here(what) => what,
            Kind::Forward(_) => What::NotReadOnly,
        },
    }
}
