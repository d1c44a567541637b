//! ZooKeeper sessions of one thread: the client engine under every workload.
//!
//! Owns connections, handshakes, pings, reconnection with reattachment, and each session's queue of unanswered requests.
//! Never knows what a request is for: that is the [`Workload`]'s. It stays correct because replies are matched strictly:
//! the oldest unanswered request of a session must be the one that is answered, and a connection on which anything
//! else comes is given up, its requests then counting as of unknown outcome.

use crate::check::{Accusation, Wrong};
use crate::config::{Auth, Target};
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Limits, PASSWORD_BYTES, ReplyHeader, Request, Split, put_frame,
    put_request, split, xid,
};
use std::collections::VecDeque;
use std::io::Error as IoError;
use std::sync::Arc;
use thiserror::Error;

/// Connections of one thread that are being opened at a time: below the listen backlog of any server.
const OPENING_MAX: usize = 64;
/// How often sessions are looked at for pings, silence and retries. A hundredth of the shortest usual timeout.
const SCAN_NS: u64 = 50_000_000;
/// How long a connection may take until its session is established.
const OPEN_PATIENCE_NS: u64 = 10_000_000_000;
/// First pause before another attempt; doubles up to [`RETRY_MAX_NS`].
const RETRY_MIN_NS: u64 = 50_000_000;
/// Longest pause between attempts.
const RETRY_MAX_NS: u64 = 1_000_000_000;
/// Attempts per target, before any session of this thread stood, after which a refusal is believed.
const REFUSALS_MAX: usize = 3;
/// A ping at the latest after this time, as the Java client does.
const PING_MAX_NS: u64 = 10_000_000_000;
/// The longest reply that is taken for one. Far above any value that is read here.
const REPLY_MAX_BYTES: u32 = 64 * 1024 * 1024;
/// A handshake's answer has 36 or 37 bytes; anything above this comes from something that is no ZooKeeper server.
const CONNECT_RESPONSE_MAX_BYTES: u32 = 256;

/// What a run of sessions needs to know.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Servers, tried in turn.
    pub targets: Arc<[Target]>,
    /// Session timeout to ask for, ms.
    pub timeout_ms: i32,
    /// Credentials for each connection.
    pub auth: Option<Auth>,
    /// No server that has not reached this zxid is accepted.
    pub first_zxid: i64,
}

/// Why sessions cannot be had at all. Each says what to do.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens, or the network is down.
    #[error(
        "cannot connect to {target}: {why}. Is a server running there? (`paddock serve` starts one; without --target a server is embedded)"
    )]
    Connect {
        /// Which server.
        target: String,
        /// The system's reason.
        why: String,
    },
    /// Something else answered.
    #[error(
        "{target} does not speak the ZooKeeper protocol: check the port (a TLS port and an admin port do not either)"
    )]
    NotZooKeeper {
        /// Which server.
        target: String,
    },
    /// The connection was taken and dropped.
    #[error(
        "{target} closes connections without an answer: either it is not serving (no quorum yet?), or it allows fewer connections per address than --connections (maxClientCnxns, 60 by default; 0 lifts it)"
    )]
    NoAnswer {
        /// Which server.
        target: String,
    },
    /// The connection was taken and nothing came.
    #[error(
        "{target} accepts connections but does not answer: it may be overloaded, or another kind of server"
    )]
    Silent {
        /// Which server.
        target: String,
    },
    /// Credentials were not accepted.
    #[error("{target} does not accept these credentials: check --auth")]
    AuthFailed {
        /// Which server.
        target: String,
    },
}

/// What happens to connections besides replies. Counted, with these names, in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// No connection.
    ConnectFailed,
    /// Taken and closed before the session stood.
    HandshakeClosed,
    /// An established connection was closed or reset.
    ConnectionLost,
    /// Nothing came for two thirds of the session timeout; given up.
    ServerSilent,
    /// The session had expired.
    SessionExpired,
}

impl Trouble {
    /// All kinds.
    pub const ALL: [Trouble; 5] = [
        Trouble::ConnectFailed,
        Trouble::HandshakeClosed,
        Trouble::ConnectionLost,
        Trouble::ServerSilent,
        Trouble::SessionExpired,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Trouble::ConnectFailed => "connect_failed",
            Trouble::HandshakeClosed => "handshake_closed",
            Trouble::ConnectionLost => "connection_lost",
            Trouble::ServerSilent => "server_silent",
            Trouble::SessionExpired => "session_expired",
        }
    }
}

/// A reply as the workload sees it.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// 0 or an error code.
    pub err: i32,
    /// The server's zxid when it answered.
    pub zxid: i64,
    /// The record; empty when there is an error.
    pub body: &'a [u8],
    /// What the session had been told before this reply: it must not see an older tree.
    pub seen: i64,
}

/// What sessions are used for.
pub trait Workload {
    /// What is remembered of a request until its reply comes.
    type Request: Copy;

    /// Session `index` is established, for the first time or again.
    fn ready(&mut self, now: Now, index: usize, sessions: &mut Sessions<Self::Request>, io: &mut Io);
    /// The oldest request of session `index` was answered. The highest zxid that the reply's record shows, for [`Reply::seen`] of
    /// later replies, is returned; 0 if none.
    fn replied(
        &mut self,
        now: Now,
        index: usize,
        request: Self::Request,
        reply: Reply<'_>,
        sessions: &mut Sessions<Self::Request>,
        io: &mut Io,
    ) -> i64;
    /// The connection of a request was lost before its reply.
    fn lost(&mut self, request: Self::Request);
    /// The server broke the protocol.
    fn wrong(&mut self, accusation: Accusation);
    /// Something happened to a connection.
    fn trouble(&mut self, _trouble: Trouble) {}
    /// A ping was answered.
    fn ponged(&mut self, _now: Now, _sent_ns: u64) {}
    /// All replies of this turn are in.
    fn turn(&mut self, now: Now, sessions: &mut Sessions<Self::Request>, io: &mut Io) -> Next;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not connected; tried again at `at_ns`.
    Down,
    /// Connecting or in the handshake since `at_ns`.
    Opening,
    Ready,
    /// Given up: waits for the loop to say that the connection is gone.
    Dropped,
    /// The end was asked for.
    Closing,
    /// The end was reached.
    Gone,
}

#[derive(Debug)]
struct Session<R> {
    phase: Phase,
    conn: Option<ConnId>,
    target: usize,
    id: i64,
    password: [u8; PASSWORD_BYTES],
    timeout_ns: u64,
    /// Highest zxid in a reply's header.
    header_zxid: i64,
    /// Highest zxid known to be visible: headers and stats.
    seen: i64,
    next_xid: i32,
    pending: VecDeque<(i32, R)>,
    partial: Vec<u8>,
    heard_ns: u64,
    sent_ns: u64,
    ping_sent_ns: Option<u64>,
    /// When the phase began, or (down) when to try again.
    at_ns: u64,
    failures: u32,
}

/// The sessions of one thread.
#[derive(Debug)]
pub struct Sessions<R> {
    options: SessionOptions,
    all: Vec<Session<R>>,
    by_slot: Vec<u32>,
    opening: usize,
    ready: usize,
    /// All sessions have been ready once.
    stood: bool,
    began_ns: Option<u64>,
    scan_at_ns: u64,
    in_flight: usize,
    troubles: [u64; Trouble::ALL.len()],
    fatal: Option<ClientError>,
}

impl<R: Copy> Sessions<R> {
    /// `count` sessions, the first of which is the `first`th of the whole run: neighbours go to different servers. Queues hold
    /// `outstanding` requests without growing.
    pub fn new(options: SessionOptions, first: usize, count: usize, outstanding: usize) -> Self {
        let targets = options.targets.len().max(1);
        let session = |i: usize| Session {
            phase: Phase::Down,
            conn: None,
            target: (first + i) % targets,
            id: 0,
            password: [0; PASSWORD_BYTES],
            timeout_ns: options.timeout_ms as u64 * 1_000_000,
            header_zxid: options.first_zxid,
            seen: options.first_zxid,
            next_xid: 1,
            pending: VecDeque::with_capacity(outstanding.min(4096)),
            partial: Vec::new(),
            heard_ns: 0,
            sent_ns: 0,
            ping_sent_ns: None,
            at_ns: 0,
            failures: 0,
        };
        Self {
            all: (0..count).map(session).collect(),
            options,
            by_slot: Vec::new(),
            opening: 0,
            ready: 0,
            stood: false,
            began_ns: None,
            scan_at_ns: 0,
            in_flight: 0,
            troubles: [0; Trouble::ALL.len()],
            fatal: None,
        }
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.all.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    /// Sessions that can be used now.
    pub fn ready(&self) -> usize {
        self.ready
    }
    /// Whether session `index` can be used now.
    pub fn is_ready(&self, index: usize) -> bool {
        self.all[index].phase == Phase::Ready
    }
    /// Unanswered requests of session `index`.
    pub fn in_flight(&self, index: usize) -> usize {
        self.all[index].pending.len()
    }
    /// Unanswered requests of all sessions.
    pub fn in_flight_total(&self) -> usize {
        self.in_flight
    }
    /// A zxid that every session has seen.
    pub fn floor(&self) -> i64 {
        self.all.iter().map(|s| s.seen).min().unwrap_or(0)
    }
    /// How often what happened.
    pub fn troubles(&self) -> impl Iterator<Item = (Trouble, u64)> + '_ {
        Trouble::ALL.into_iter().map(|t| (t, self.troubles[t as usize]))
    }
    /// Why sessions cannot be had, once that is certain.
    pub fn fatal(&self) -> Option<&ClientError> {
        self.fatal.as_ref()
    }

    /// Sends a request on session `index`; `fill` appends its frame for the given xid. `false`, and nothing is sent, when the session
    /// is not ready.
    pub fn send(
        &mut self,
        now: Now,
        index: usize,
        request: R,
        io: &mut Io,
        fill: impl FnOnce(&mut Vec<u8>, i32),
    ) -> bool {
        let session = &mut self.all[index];
        if session.phase != Phase::Ready {
            return false;
        }
        let Some(out) = session.conn.and_then(|conn| io.out(conn)) else { return false };
        let xid = session.next_xid;
        // Positive xids only: the others have meanings.
        session.next_xid = if xid == i32::MAX { 1 } else { xid + 1 };
        fill(out.bytes(), xid);
        session.pending.push_back((xid, request));
        session.sent_ns = now.mono_ns;
        self.in_flight += 1;
        true
    }

    /// Ends all sessions; [`Self::all_gone`] tells when that is done. Unanswered requests are forgotten.
    pub fn close_all(&mut self, now: Now, io: &mut Io) {
        for session in &mut self.all {
            self.in_flight -= session.pending.len();
            session.pending.clear();
            match (session.phase, session.conn) {
                (Phase::Ready, Some(conn)) => {
                    if let Some(out) = io.out(conn) {
                        put_request(out.bytes(), session.next_xid, &Request::CloseSession);
                    }
                    session.phase = Phase::Closing;
                    session.at_ns = now.mono_ns;
                }
                (Phase::Opening | Phase::Dropped, Some(conn)) => {
                    io.abort(conn);
                    session.phase = Phase::Closing;
                }
                (Phase::Closing, _) => {}
                _ => session.phase = Phase::Gone,
            }
        }
        self.ready = 0;
        self.opening = 0;
    }

    /// Whether every session is over.
    pub fn all_gone(&self) -> bool {
        self.all.iter().all(|s| s.phase == Phase::Gone)
    }

    fn index_of(&self, conn: ConnId) -> Option<usize> {
        let index = *self.by_slot.get(conn.index())? as usize;
        (self.all.get(index)?.conn == Some(conn)).then_some(index)
    }

    fn target(&self, index: usize) -> &Target {
        &self.options.targets[self.all[index].target]
    }

    /// Session `index` can no longer be used on its connection.
    fn leave(&mut self, index: usize) {
        match self.all[index].phase {
            Phase::Opening => self.opening -= 1,
            Phase::Ready => self.ready -= 1,
            _ => {}
        }
        self.all[index].phase = Phase::Dropped;
    }

    /// Gives up the connection of session `index`.
    fn give_up(&mut self, index: usize, io: &mut Io) {
        if let Some(conn) = self.all[index].conn {
            io.abort(conn);
        }
        self.leave(index);
    }

    fn note(&mut self, trouble: Trouble) {
        self.troubles[trouble as usize] += 1;
    }

    fn connect(&mut self, now: Now, index: usize, io: &mut Io) {
        let address = self.target(index).address.clone();
        let conn = io.connect(address);
        if self.by_slot.len() <= conn.index() {
            self.by_slot.resize(conn.index() + 1, u32::MAX);
        }
        self.by_slot[conn.index()] = index as u32;
        let session = &mut self.all[index];
        session.conn = Some(conn);
        session.phase = Phase::Opening;
        session.at_ns = now.mono_ns;
        session.partial.clear();
        session.ping_sent_ns = None;
        self.opening += 1;
    }

    /// Connects what is down, pings what is idle, gives up what is silent.
    fn scan(&mut self, now: Now, io: &mut Io) {
        let at = now.mono_ns;
        let began_ns = *self.began_ns.get_or_insert(at);
        if at < self.scan_at_ns {
            return;
        }
        self.scan_at_ns = at + SCAN_NS;
        for index in 0..self.all.len() {
            let session = &mut self.all[index];
            match session.phase {
                Phase::Down if session.at_ns <= at && self.opening < OPENING_MAX => {
                    self.connect(now, index, io)
                }
                Phase::Opening if at.saturating_sub(session.at_ns) > OPEN_PATIENCE_NS => {
                    self.give_up(index, io);
                    if !self.stood && at - began_ns > OPEN_PATIENCE_NS {
                        let target = self.target(index).text.clone();
                        self.fatal.get_or_insert(ClientError::Silent { target });
                    }
                }
                Phase::Ready => {
                    let Some(conn) = session.conn else { continue };
                    let waits = session.ping_sent_ns.is_some() || !session.pending.is_empty();
                    let asked_ns = session.heard_ns.max(session.ping_sent_ns.unwrap_or(0));
                    if waits && at.saturating_sub(asked_ns) > session.timeout_ns * 2 / 3 {
                        self.give_up(index, io);
                        self.note(Trouble::ServerSilent);
                    } else if session.ping_sent_ns.is_none()
                        && at.saturating_sub(session.sent_ns) > session.ping_after_ns(index)
                        && let Some(out) = io.out(conn)
                    {
                        put_request(out.bytes(), xid::PING, &Request::Ping);
                        session.ping_sent_ns = Some(at);
                        session.sent_ns = at;
                    }
                }
                _ => {}
            }
        }
    }
}

impl<R> Session<R> {
    /// Idle time before a ping: a third of the timeout, less up to a quarter of that so that sessions opened
    /// together do not ping together for ever.
    fn ping_after_ns(&self, index: usize) -> u64 {
        let full = (self.timeout_ns / 3).min(PING_MAX_NS);
        let spread = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        full - full / 4 * spread / 1024
    }
}

/// The engine: sessions with a workload on top.
#[derive(Debug)]
pub struct Client<W: Workload> {
    /// The sessions.
    pub sessions: Sessions<W::Request>,
    /// What they are used for.
    pub workload: W,
}

impl<W: Workload> Client<W> {
    /// Handles the whole frames at the beginning of `bytes` and says how many bytes need not be kept.
    fn frames(&mut self, now: Now, index: usize, bytes: &[u8], io: &mut Io) -> usize {
        let mut rest = bytes;
        loop {
            let max = match self.sessions.all[index].phase {
                Phase::Opening => CONNECT_RESPONSE_MAX_BYTES,
                Phase::Ready => REPLY_MAX_BYTES,
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
            Phase::Opening => self.established(now, index, payload, io),
            Phase::Ready => self.reply(now, index, payload, io),
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
            // Refused: the session is no more. What it had seen still binds the next one.
            session.id = 0;
            session.password = [0; PASSWORD_BYTES];
            self.sessions.note(Trouble::SessionExpired);
            self.workload.trouble(Trouble::SessionExpired);
            return self.sessions.give_up(index, io);
        };
        session.id = response.session_id;
        session.password = password;
        session.timeout_ns = response.timeout_ms as u64 * 1_000_000;
        session.phase = Phase::Ready;
        session.failures = 0;
        (session.heard_ns, session.sent_ns) = (now.mono_ns, now.mono_ns);
        self.sessions.opening -= 1;
        self.sessions.ready += 1;
        self.sessions.stood |= self.sessions.ready == self.sessions.all.len();
        // Another one may be opened now.
        self.sessions.scan_at_ns = 0;
        self.workload.ready(now, index, &mut self.sessions, io);
    }

    fn reply(&mut self, now: Now, index: usize, payload: &[u8], io: &mut Io) {
        let Ok((header, body)) = ReplyHeader::split(payload) else {
            return self.malformed(index, payload.len(), io);
        };
        let session = &mut self.sessions.all[index];
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
                self.workload.wrong(Accusation { wrong: Wrong::ZxidWentBack, key: 0, got, wanted });
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
                self.workload.wrong(Accusation { wrong: Wrong::UnexpectedXid, key: 0, got, wanted });
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

    /// Bytes that are no message of the protocol.
    fn malformed(&mut self, index: usize, bytes: usize, io: &mut Io) {
        if self.sessions.all[index].phase == Phase::Opening {
            let target = self.sessions.target(index).text.clone();
            self.sessions.fatal.get_or_insert(ClientError::NotZooKeeper { target });
        } else {
            self.workload.wrong(Accusation {
                wrong: Wrong::MalformedReply,
                key: 0,
                got: bytes as i64,
                wanted: 0,
            });
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
            // Only the frame that was cut is put together; what follows it is read where it lies.
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
        if phase == Phase::Closing {
            session.phase = Phase::Gone;
            return;
        }
        for (_, request) in session.pending.drain(..) {
            sessions.in_flight -= 1;
            self.workload.lost(request);
        }
        session.phase = Phase::Down;
        let tried = session.target;
        session.target = (tried + 1) % targets;
        // The first attempt after a loss is immediate; later ones are spread so that sessions do not come back in step.
        let pause_ns = if phase == Phase::Ready {
            0
        } else {
            (RETRY_MIN_NS << session.failures.min(8)).min(RETRY_MAX_NS)
        };
        session.at_ns = now.mono_ns + pause_ns - pause_ns / 16 * (index as u64 % 4);
        session.failures += 1;
        let failures = session.failures as usize;
        sessions.scan_at_ns = sessions.scan_at_ns.min(session.at_ns);
        let trouble = match (phase, why) {
            // What made us give it up has been counted.
            (Phase::Dropped, _) => None,
            (Phase::Ready, _) => Some(Trouble::ConnectionLost),
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
        sessions.fatal = match why {
            Closed::ConnectFailed(errno) if failures >= REFUSALS_MAX * targets => {
                Some(ClientError::Connect { target, why: IoError::from_raw_os_error(errno).to_string() })
            }
            Closed::ByPeer | Closed::Failed(_) if waited_ns > OPEN_PATIENCE_NS => {
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
