//! The handshake: the first bytes of a connection are a four-letter word or a ConnectRequest.
//!
//! Owns the decisions of spec 01 section 2.3 up to the submission, and the reply when the result arrives.
//! Never grants a session. Correct because opening and attaching a session are ordered like a write, so
//! all nodes agree on its owner.

use super::Shard;
use super::config::CONNECT_REQUEST_MAX_BYTES;
use super::connection::{ConnectionPhase, Pending, PendingKind};
use super::read_only::ReadOnlyConnect;
use super::serving_mode::ServingMode;
use crate::admin::words::Word;
use crate::command::Op;
use crate::commit::Outcome;
use crate::submit::Submit;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wire::{ConnectRequest, ConnectResponse, FOUR_LETTER_BYTES, Split, reply, split};

impl Shard {
    /// Handles the first bytes of a connection. The connection stays in [`ConnectionPhase::Fresh`] while
    /// its input is incomplete, while the ring is full, and while the node's first commit or confirmation
    /// is missing.
    pub(super) fn handshake(&mut self, now: Now, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let Some(first) = connection.input.first_chunk::<FOUR_LETTER_BYTES>() else { return };
        if let Some(word) = Word::recognise(*first) {
            self.take_word(now, slot, word, io);
            return;
        }
        let max = (CONNECT_REQUEST_MAX_BYTES as u32).min(self.config.jute_max_buffer_bytes);
        let (request, used) = match split(&connection.input, max) {
            Ok(Split::Incomplete { .. }) => return,
            Ok(Split::Frame { payload, rest }) => match ConnectRequest::decode(payload, self.limits) {
                Ok(request) => (request, connection.input.len() - rest.len()),
                Err(_) => return self.reject(now, slot, io),
            },
            Err(_) => return self.reject(now, slot, io),
        };
        if !self.pinned {
            return;
        }
        let connect = ReadOnlyConnect {
            accepts_read_only: request.read_only == Some(true),
            session: request.session_id,
            password: request.password.unwrap_or_default().to_vec(),
            timeout_ms: request.timeout_ms,
            used,
        };
        if self.serving.may_wait(now, connection.id, &mut connection.early) {
            return;
        }
        if self.serving.mode == ServingMode::Closed
            || (self.serving.mode == ServingMode::ReadOnly && !connect.accepts_read_only)
        {
            self.close(now, slot, io);
            return;
        }
        if request.last_zxid_seen > self.zxid {
            // The client has seen a newer state than this node has: it must connect to a server that is
            // up to date.
            self.close(now, slot, io);
            return;
        }
        if self.serving.mode == ServingMode::ReadOnly {
            self.admit_read_only(now, slot, &connect, io);
            return;
        }
        if !self.submit_queue.has_room() {
            Self::mark_ready(&mut self.ready, connection);
            return;
        }
        let timeout_ms = self.config.negotiate(request.timeout_ms);
        let (session, op) = match request.session_id {
            0 => {
                let Some((session, password)) = self.ids.next() else { return self.close(now, slot, io) };
                (session, Op::OpenSession { timeout_ms, password })
            }
            session => {
                let password = request.password.unwrap_or_default().to_vec();
                let last_zxid_seen = request.last_zxid_seen;
                (session, Op::AttachSession { timeout_ms, password, last_zxid_seen })
            }
        };
        let (identities, read_only) = (connection.identities.clone(), request.read_only);
        let reattach = request.session_id != 0;
        let number = self.submit_queue.push(slot, |ticket| Submit::Command {
            ticket,
            session,
            attachment: 0,
            identities,
            op,
        });
        let Some(number) = number else { return };
        connection.pending.push_back(Pending {
            number,
            xid: 0,
            kind: PendingKind::Session { read_only: read_only.map(|_| false), new: !reattach },
            bytes: 0,
            since_ns: now.mono_ns,
            result: None,
        });
        connection.phase = ConnectionPhase::Opening;
        connection.received += 1;
        let input = std::mem::take(&mut connection.input);
        connection.put_back(input, used);
        connection.paused = true;
        io.pause_input(connection.id);
        self.outstanding += 1;
        let cells = self.cells();
        cells.packets_received.add(1);
        cells.writes_forwarded.add(1);
        if reattach {
            // Presenting a session's id ends the present connection of the session, before the password
            // is checked.
            self.mailboxes.evict(self.config.id, session);
            if let Some(old) = self.sessions.get(&session).copied() {
                self.close(now, old, io);
            }
        }
    }

    /// Handles the result of opening or attaching a session, requested at `since_ns`.
    pub(super) fn session_result(
        &mut self,
        now: Now,
        slot: u32,
        outcome: Outcome,
        read_only: Option<bool>,
        since_ns: u64,
        io: &mut Io,
    ) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let id = connection.id;
        match outcome {
            Outcome::Attached { session, attachment, timeout_ms, password } => {
                connection.timeout_ms = timeout_ms;
                // The lease counts from the request. The leader counts from the time of ordering, which
                // is later.
                let until_ns = since_ns.saturating_add(connection.timeout_ns());
                if self.leases.are_on() && until_ns <= now.mono_ns {
                    self.close(now, slot, io);
                    return;
                }
                let Some(out) = io.out(id) else { return };
                let password = Some(&password[..]);
                let response = ConnectResponse {
                    protocol_version: 0,
                    timeout_ms,
                    session_id: session,
                    password,
                    read_only,
                };
                reply::put_connect(out.bytes(), &response);
                connection.sent += 1;
                connection.phase = ConnectionPhase::Open;
                (connection.session, connection.attachment) = (session, attachment);
                match self.leases.are_on() {
                    true => self.leases.grant(connection, until_ns),
                    false => connection.lease_ns = until_ns,
                }
                connection.paused = false;
                io.resume_input(id);
                self.cells().packets_sent.add(1);
                if let Some(old) = self.sessions.insert(session, slot)
                    && old != slot
                {
                    self.close(now, old, io);
                }
            }
            Outcome::Refused => {
                if let Some(out) = io.out(id) {
                    reply::put_connect(out.bytes(), &ConnectResponse::refused(read_only));
                }
                let cells = self.cells();
                cells.packets_sent.add(1);
                cells.sessions_refused.add(1);
                self.close(now, slot, io);
            }
            // The session is undecided, so the client is told nothing. It tries again, here or on another
            // node.
            Outcome::Ok(_)
            | Outcome::Err(_)
            | Outcome::NotOrdered(_)
            | Outcome::Drop
            | Outcome::Deferred
            | Outcome::Synced
            | Outcome::Recalled { .. } => {
                self.close(now, slot, io);
            }
        }
    }

    /// Closes a connection that sent invalid bytes, without a reply.
    pub(super) fn reject(&mut self, now: Now, slot: u32, io: &mut Io) {
        self.cells().frames_rejected.add(1);
        self.close(now, slot, io);
    }
}
