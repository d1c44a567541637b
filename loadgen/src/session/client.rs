//! The client engine: parses incoming frames and hands matched replies to the workload.
//!
//! Owns the parsing of frames and the consequences of a connection's end. Never decides what to send
//! besides the handshake. Correct because a reply is only accepted for the oldest unanswered request of its
//! session.

use super::table::{SessionPhase, Sessions};
use super::{ClientError, OPEN_PATIENCE_NS, Reply, Trouble, Workload};
use crate::check::{Violation, ViolationKind};
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Limits, PASSWORD_BYTES, ReplyHeader, Request, Split, put_frame,
    put_request, split, xid,
};
use std::io::Error as IoError;

/// First pause before another attempt, ns. Doubles up to [`RETRY_MAX_NS`].
const RETRY_MIN_NS: u64 = 50_000_000;
/// Longest pause between two attempts, ns.
const RETRY_MAX_NS: u64 = 1_000_000_000;
/// Refused attempts per target after which the run fails, until all sessions of this thread have been
/// established once.
const REFUSALS_MAX: usize = 3;
/// A session expired too early if its server answered within `timeout / LIVES_FOR`. The margin is for
/// servers, which tell each other of live sessions only at intervals. Reports not yet sent are lost with a
/// server that dies.
const LIVES_FOR: u64 = 2;
/// Longest reply that is accepted. Far above any value of a run.
const REPLY_MAX_BYTES: u32 = 64 * 1024 * 1024;
/// Longest answer to a handshake that is accepted. A ZooKeeper server sends 36 or 37 bytes.
const CONNECT_RESPONSE_MAX_BYTES: u32 = 256;

/// An engine: the sessions of one thread and the workload on top.
#[derive(Debug)]
pub struct Client<W: Workload> {
    pub sessions: Sessions<W::Request>,
    pub workload: W,
}

impl<W: Workload> Client<W> {
    /// Handles the whole frames at the beginning of `bytes`. Returns how many bytes the caller need not
    /// keep.
    fn frames(&mut self, now: Now, index: usize, bytes: &[u8], io: &mut Io) -> usize {
        let mut rest = bytes;
        loop {
            let max = match self.sessions.all[index].phase {
                SessionPhase::Opening => CONNECT_RESPONSE_MAX_BYTES,
                SessionPhase::Ready => REPLY_MAX_BYTES,
                _ => return bytes.len(),
            };
            match split(rest, max) {
                Ok(Split::Frame { payload, rest: behind }) => {
                    rest = behind;
                    self.frame(now, index, payload, io);
                }
                Ok(Split::Incomplete { .. }) => return bytes.len() - rest.len(),
                Err(_) => self.malformed(index, rest.len(), io),
            }
        }
    }

    fn frame(&mut self, now: Now, index: usize, payload: &[u8], io: &mut Io) {
        match self.sessions.all[index].phase {
            SessionPhase::Opening => self.established(now, index, payload, io),
            SessionPhase::Ready => self.reply(now, index, payload, io),
            _ => {}
        }
    }

    fn established(&mut self, now: Now, index: usize, payload: &[u8], io: &mut Io) {
        let response =
            ConnectResponse::decode(payload, Limits::NONE).ok().filter(|r| r.protocol_version == 0);
        let Some(response) = response else { return self.malformed(index, payload.len(), io) };
        let session = &mut self.sessions.all[index];
        let password = response.password.and_then(|p| <[u8; PASSWORD_BYTES]>::try_from(p).ok());
        let (true, Some(password)) = (response.timeout_ms > 0, password) else {
            return self.expired(now, index, io);
        };
        match session.id {
            0 if session.had_session => self.sessions.moves.renewed += 1,
            0 => {}
            _ => self.sessions.moves.reattached += 1,
        }
        let session = &mut self.sessions.all[index];
        session.had_session = true;
        session.id = response.session_id;
        session.password = password;
        session.timeout_ns = response.timeout_ms as u64 * 1_000_000;
        session.phase = SessionPhase::Ready;
        session.failures = 0;
        session.answered_ns = now.mono_ns;
        // The next server guarantees what the handshake told it: the highest zxid of a reply header. A stat
        // may have shown a higher one, which no longer counts.
        session.seen = session.header_zxid;
        (session.heard_ns, session.sent_ns) = (now.mono_ns, now.mono_ns);
        self.sessions.opening -= 1;
        self.sessions.ready += 1;
        self.sessions.stood |= self.sessions.ready == self.sessions.all.len();
        // One fewer connection is opening, so another may begin.
        self.sessions.scan_at_ns = 0;
        self.workload.ready(now, index, &mut self.sessions, io);
    }

    /// Handles a refusal in the handshake: the session has expired. The zxid it had seen also binds its
    /// replacement.
    fn expired(&mut self, now: Now, index: usize, io: &mut Io) {
        let place = self.sessions.place(index);
        let session = &mut self.sessions.all[index];
        let unheard_ns = now.mono_ns.saturating_sub(session.answered_ns);
        if session.id != 0 {
            self.sessions.moves.expired += 1;
            if unheard_ns < session.timeout_ns / LIVES_FOR {
                self.sessions.moves.expired_early += 1;
                if self.sessions.options.sessions_must_live {
                    let (got, wanted) =
                        ((unheard_ns / 1_000_000) as i64, (session.timeout_ns / 1_000_000) as i64);
                    self.workload.violation(
                        Violation { kind: ViolationKind::ExpiredEarly, key: 0, got, wanted },
                        place,
                    );
                }
            }
        }
        session.id = 0;
        session.password = [0; PASSWORD_BYTES];
        self.sessions.note(Trouble::SessionExpired);
        self.workload.trouble(Trouble::SessionExpired);
        self.sessions.give_up(index, io);
    }

    fn reply(&mut self, now: Now, index: usize, payload: &[u8], io: &mut Io) {
        let Ok((header, body)) = ReplyHeader::split(payload) else {
            return self.malformed(index, payload.len(), io);
        };
        let place = self.sessions.place(index);
        let session = &mut self.sessions.all[index];
        session.answered_ns = now.mono_ns;
        match header.xid {
            xid::NOTIFICATION => return,
            xid::AUTH if header.err != 0 => {
                let target = self.sessions.target(index).text.clone();
                self.sessions.fatal.get_or_insert(ClientError::AuthFailed { target });
                return;
            }
            xid::AUTH => return,
            _ => {}
        }
        if header.zxid > 0 {
            if header.zxid < session.header_zxid {
                let (got, wanted) = (header.zxid, session.header_zxid);
                self.workload
                    .violation(Violation { kind: ViolationKind::ZxidWentBack, key: 0, got, wanted }, place);
            } else {
                session.header_zxid = header.zxid;
            }
        }
        if header.xid == xid::PING {
            session.seen = session.seen.max(header.zxid);
            if let Some(sent_ns) = session.ping_sent_ns.take() {
                self.workload.ponged(now, sent_ns);
            }
            return;
        }
        let request = match session.pending.front() {
            Some(&(xid, request)) if xid == header.xid => request,
            front => {
                let (got, wanted) = (i64::from(header.xid), front.map_or(0, |&(xid, _)| i64::from(xid)));
                self.workload
                    .violation(Violation { kind: ViolationKind::UnexpectedXid, key: 0, got, wanted }, place);
                return self.sessions.give_up(index, io);
            }
        };
        session.pending.pop_front();
        let seen = session.seen;
        self.sessions.in_flight -= 1;
        let reply = Reply { err: header.err, zxid: header.zxid, body, seen };
        let shown = self.workload.replied(now, index, request, reply, &mut self.sessions, io);
        let session = &mut self.sessions.all[index];
        session.seen = session.seen.max(header.zxid).max(shown);
    }

    /// Handles bytes that are no message of the protocol.
    fn malformed(&mut self, index: usize, bytes: usize, io: &mut Io) {
        if self.sessions.all[index].phase == SessionPhase::Opening {
            let target = self.sessions.target(index).text.clone();
            self.sessions.fatal.get_or_insert(ClientError::NotZooKeeper { target });
        } else {
            let (kind, got) = (ViolationKind::MalformedReply, bytes as i64);
            let place = self.sessions.place(index);
            self.workload.violation(Violation { kind, key: 0, got, wanted: 0 }, place);
        }
        self.sessions.give_up(index, io);
    }
}

impl<W: Workload> Engine for Client<W> {
    fn opened(&mut self, now: Now, conn: ConnId, _origin: &Origin, io: &mut Io) {
        let Some(index) = self.sessions.index_of(conn) else { return };
        let sessions = &mut self.sessions;
        let session = &mut sessions.all[index];
        session.heard_ns = now.mono_ns;
        let Some(out) = io.out(conn) else { return };
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: session.header_zxid,
            timeout_ms: sessions.options.timeout_ms,
            session_id: session.id,
            password: Some(&session.password),
            read_only: Some(false),
        };
        put_frame(out.bytes(), |out| request.put(out));
        if let Some(auth) = &sessions.options.auth {
            let packet = Request::Auth {
                kind: 0,
                scheme: Some(auth.scheme.as_str().into()),
                auth: Some(auth.credentials.as_bytes()),
            };
            put_request(out.bytes(), xid::AUTH, &packet);
        }
    }

    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        let Some(index) = self.sessions.index_of(conn) else { return };
        let session = &mut self.sessions.all[index];
        session.heard_ns = now.mono_ns;
        let mut bytes = bytes;
        if !session.partial.is_empty() {
            // Only the frame that was cut is assembled here. The bytes behind it are parsed in place.
            let mut held = std::mem::take(&mut session.partial);
            while let Ok(Split::Incomplete { needed_bytes }) = split(&held, REPLY_MAX_BYTES) {
                let wanted = needed_bytes - held.len();
                if wanted > bytes.len() {
                    held.extend_from_slice(bytes);
                    self.sessions.all[index].partial = held;
                    return;
                }
                let (head, rest) = bytes.split_at(wanted);
                held.extend_from_slice(head);
                bytes = rest;
            }
            self.frames(now, index, &held, io);
            held.clear();
            self.sessions.all[index].partial = held;
        }
        let used = self.frames(now, index, bytes, io);
        self.sessions.all[index].partial.extend_from_slice(&bytes[used..]);
    }

    fn eof(&mut self, _now: Now, conn: ConnId, io: &mut Io) {
        // A server that has closed its sending side answers nothing more, so the connection is of no use.
        io.abort(conn);
    }

    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, _io: &mut Io) {
        let Some(index) = self.sessions.index_of(conn) else { return };
        let sessions = &mut self.sessions;
        let phase = sessions.all[index].phase;
        sessions.leave(index);
        let targets = sessions.options.targets.len();
        let session = &mut sessions.all[index];
        session.conn = None;
        session.partial = Vec::new();
        session.ping_sent_ns = None;
        if phase == SessionPhase::Closing {
            session.phase = SessionPhase::Gone;
            return;
        }
        for (_, request) in session.pending.drain(..) {
            sessions.in_flight -= 1;
            self.workload.lost(now, request);
        }
        session.phase = SessionPhase::Down;
        let tried = session.target;
        session.target = match phase {
            SessionPhase::Ready => {
                session.losses += 1;
                elsewhere(tried, targets, index + session.losses)
            }
            _ => (tried + 1) % targets,
        };
        // The first attempt after a loss is immediate. Later ones are spread, so that sessions do not
        // reconnect in step.
        let pause_ns = if phase == SessionPhase::Ready {
            0
        } else {
            // The pause grows once per round over all servers.
            (RETRY_MIN_NS << (session.failures / targets as u32).min(8)).min(RETRY_MAX_NS)
        };
        session.at_ns = now.mono_ns + pause_ns - pause_ns / 16 * (index as u64 % 4);
        session.failures += 1;
        let failures = session.failures as usize;
        sessions.scan_at_ns = sessions.scan_at_ns.min(session.at_ns);
        let trouble = match (phase, why) {
            // The reason for giving the connection up has been counted already.
            (SessionPhase::Dropped, _) => None,
            (SessionPhase::Ready, _) => Some(Trouble::ConnectionLost),
            (_, Closed::ConnectFailed(_)) => Some(Trouble::ConnectFailed),
            _ => Some(Trouble::HandshakeClosed),
        };
        if let Some(trouble) = trouble {
            sessions.note(trouble);
            self.workload.trouble(trouble);
        }
        if sessions.stood || sessions.fatal.is_some() {
            return;
        }
        let target = sessions.options.targets[tried].text.clone();
        let waited_ns = now.mono_ns - sessions.began_ns.unwrap_or(now.mono_ns);
        sessions.fatal = match (phase, why) {
            (_, Closed::ConnectFailed(errno)) if failures >= REFUSALS_MAX * targets => {
                Some(ClientError::Connect { target, why: IoError::from_raw_os_error(errno).to_string() })
            }
            (_, Closed::ConnectFailed(_)) => None,
            (SessionPhase::Opening, _) if waited_ns > OPEN_PATIENCE_NS => {
                Some(ClientError::NoAnswer { target })
            }
            _ => None,
        };
    }

    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        self.sessions.scan(now, io);
        if self.sessions.fatal.is_some() {
            return Next::Stop;
        }
        match self.workload.turn(now, &mut self.sessions, io) {
            Next::Sleep { deadline_ns } => {
                let scan_at_ns = self.sessions.scan_at_ns.max(now.mono_ns);
                Next::Sleep { deadline_ns: Some(deadline_ns.map_or(scan_at_ns, |d| d.min(scan_at_ns))) }
            }
            next => next,
        }
    }
}

/// The next target of a session that lost target `tried`. Sessions of one server spread over all others, so
/// that no single one gets them all.
fn elsewhere(tried: usize, targets: usize, number: usize) -> usize {
    match targets {
        0 | 1 => 0,
        _ => (tried + 1 + number % (targets - 1)) % targets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sessions_of_a_lost_server_spread_over_all_others() {
        let mut got = [0; 5];
        (0..40).for_each(|number| got[elsewhere(3, 5, number)] += 1);
        assert_eq!(got, [10, 10, 10, 0, 10]);
        assert_eq!(elsewhere(0, 1, 7), 0);
        assert_eq!(elsewhere(1, 2, 7), 0);
    }
}
