//! Read-only clients: served while the quorum does not confirm this node.
//!
//! Owns their admission and their sessions. A client without a session gets one that only this shard
//! knows and that ends with the connection. A client that presents a session of the ensemble keeps its
//! id. That session expires as if the client were away.
//!
//! Never writes a log entry for such a client, and never reports it as heard from. Never tells a client
//! that its session has expired, because a node without a quorum cannot know that. A session id that the
//! node's table lacks is accepted, and the quorum decides when it returns. Only a wrong password for a
//! session in the table is refused.
//!
//! Correct because only clients that accept a read-only server are admitted, and none on a listener that
//! promises linearizable reads. All of them are closed when the quorum returns ([`super::serving_mode`]).

use super::Shard;
use super::connection::{Connection, ConnectionPhase, Pending, PendingKind};
use super::serving_mode::ServingMode;
use crate::commit::Outcome;
use crate::session::PASSWORD_BYTES;
use crate::submit::Inquiry;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wire::{ConnectResponse, reply};

/// The fields of a ConnectRequest that decide the admission.
pub(super) struct ReadOnlyConnect {
    pub accepts_read_only: bool,
    pub session: i64,
    pub password: Vec<u8>,
    pub timeout_ms: i32,
    /// Bytes of the request's frame.
    pub used: usize,
}

/// A session that a client presented, after the lookup in the node's table.
pub(super) struct LookedUpSession {
    pub session: i64,
    pub timeout_ms: i32,
    pub password: [u8; PASSWORD_BYTES],
    pub since_ns: u64,
}

/// The session granted to a read-only client.
struct ReadOnlyGrant {
    session: i64,
    timeout_ms: i32,
    password: [u8; PASSWORD_BYTES],
    /// The client presented the session, so it may be one of the ensemble.
    global: bool,
    since_ns: u64,
}

impl Shard {
    /// Admits a read-only client: grants a session of this shard, or looks up the session that the client
    /// presents. Other clients are closed without a reply.
    pub(super) fn admit_read_only(&mut self, now: Now, slot: u32, connect: &ReadOnlyConnect, io: &mut Io) {
        let timeout_ms = self.config.negotiate(connect.timeout_ms);
        let Some(connection) = self.connections.slot(slot) else { return };
        if !connect.accepts_read_only || connection.linearizable {
            self.close(now, slot, io);
            return;
        }
        connection.received += 1;
        let input = std::mem::take(&mut connection.input);
        connection.put_back(input, connect.used);
        self.stats.shard(self.config.id).packets_received.add(1);
        if connect.session == 0 {
            let Some((session, password)) = self.ids.next() else { return self.close(now, slot, io) };
            let grant = ReadOnlyGrant { session, timeout_ms, password, global: false, since_ns: now.mono_ns };
            self.grant_read_only(now, slot, &grant, io);
            return;
        }
        connection.phase = ConnectionPhase::Opening;
        connection.paused = true;
        io.pause_input(connection.id);
        // A password of another length belongs to no session. The reply repeats the password, in the
        // protocol's length.
        let password = <[u8; PASSWORD_BYTES]>::try_from(&connect.password[..]).unwrap_or_default();
        let (ticket, number) = self.submit_queue.ticket_outside_ring(slot);
        connection.pending.push_back(Pending {
            number,
            xid: 0,
            kind: PendingKind::Lookup { session: connect.session, timeout_ms, password },
            bytes: 0,
            since_ns: now.mono_ns,
            result: None,
        });
        self.outstanding += 1;
        let inquiry = Inquiry { ticket, session: connect.session, password: connect.password.clone() };
        if !self.inquiries.ask(inquiry) {
            self.close(now, slot, io);
        }
    }

    /// Handles the result of the lookup.
    pub(super) fn session_looked_up(
        &mut self,
        now: Now,
        slot: u32,
        found: LookedUpSession,
        outcome: &Outcome,
        io: &mut Io,
    ) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let known = match outcome {
            Outcome::Recalled { known } if self.serving.mode == ServingMode::ReadOnly => *known,
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
        let LookedUpSession { session, timeout_ms, password, since_ns } = found;
        if known {
            // As with an ordinary reattach, the former connection of the session closes.
            self.mailboxes.evict(self.config.id, session);
            if let Some(old) = self.sessions.insert(session, slot) {
                self.close(now, old, io);
            }
        }
        self.grant_read_only(
            now,
            slot,
            &ReadOnlyGrant { session, timeout_ms, password, global: true, since_ns },
            io,
        );
    }

    fn grant_read_only(&mut self, now: Now, slot: u32, grant: &ReadOnlyGrant, io: &mut Io) {
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
        connection.phase = ConnectionPhase::Open;
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

/// Renews the lease of a read-only client that was heard from. The lease is its session timeout, since no
/// quorum confirms it.
pub(super) fn heard(connection: &mut Connection, now: Now) {
    connection.lease_ns = now.mono_ns.saturating_add(connection.timeout_ns());
}
