//! The table of one thread's sessions: phases, unanswered requests, timers.
//!
//! Owns phases, queues of unanswered requests, pings, retries and timeouts. Never parses a byte. Correct
//! because the counts of opening and ready sessions change in few places: `connect`, `leave`, `close_all`,
//! and the end of a handshake.

use super::{ClientError, Moves, OPEN_PATIENCE_NS, SessionOptions, Trouble};
use crate::check::Place;
use crate::config::Target;
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;
use paddock_transport::wire::{PASSWORD_BYTES, Request, put_request, xid};
use std::collections::VecDeque;

/// Connections of one thread that may be opening at once: fewer than the listen backlog of any server.
const OPENING_MAX: usize = 64;
/// Interval between two scans for pings, silence and retries. About a hundredth of the shortest usual
/// timeout.
const SCAN_NS: u64 = 50_000_000;
/// Shortest time that a server gets to accept a session, however many servers there are.
const OPEN_PATIENCE_MIN_NS: u64 = 500_000_000;
/// Longest idle time before a ping, as in the Java client.
const PING_MAX_NS: u64 = 10_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionPhase {
    /// Not connected; the next attempt is at `at_ns`.
    Down,
    /// Connecting or in the handshake since `at_ns`.
    Opening,
    Ready,
    /// Given up: waits for the event loop to report the end of the connection.
    Dropped,
    /// A request to close the session was sent, or its connection aborted.
    Closing,
    /// The session and its connection have ended.
    Gone,
}

#[derive(Debug)]
pub(super) struct Session<R> {
    pub(super) phase: SessionPhase,
    pub(super) conn: Option<ConnId>,
    pub(super) target: usize,
    pub(super) id: i64,
    pub(super) password: [u8; PASSWORD_BYTES],
    pub(super) timeout_ns: u64,
    /// Highest zxid in a reply's header.
    pub(super) header_zxid: i64,
    /// Highest zxid known to be visible to the session, from headers and stats.
    pub(super) seen: i64,
    pub(super) next_xid: i32,
    pub(super) pending: VecDeque<(i32, R)>,
    pub(super) partial: Vec<u8>,
    pub(super) heard_ns: u64,
    /// When a server last answered in this session.
    pub(super) answered_ns: u64,
    /// The session was established once, so the next one opened here replaces it.
    pub(super) had_session: bool,
    pub(super) sent_ns: u64,
    pub(super) ping_sent_ns: Option<u64>,
    /// Beginning of the phase; in `Down`, the instant of the next attempt.
    pub(super) at_ns: u64,
    pub(super) failures: u32,
    /// Number of established connections lost so far.
    pub(super) losses: usize,
}

#[derive(Debug)]
pub struct Sessions<R> {
    pub(super) options: SessionOptions,
    pub(super) all: Vec<Session<R>>,
    pub(super) by_slot: Vec<u32>,
    pub(super) opening: usize,
    pub(super) ready: usize,
    /// All sessions have been ready at once, or need not be ([`Sessions::tolerate`]).
    pub(super) stood: bool,
    pub(super) began_ns: Option<u64>,
    pub(super) scan_at_ns: u64,
    pub(super) in_flight: usize,
    pub(super) troubles: [u64; Trouble::ALL.len()],
    pub(super) moves: Moves,
    pub(super) fatal: Option<ClientError>,
}

impl<R: Copy> Sessions<R> {
    /// Makes `count` sessions, the first of which is number `first` of the whole run. Consecutive sessions
    /// go to different servers. Queues hold `outstanding` requests without growing, up to 4096.
    pub fn new(options: SessionOptions, first: usize, count: usize, outstanding: usize) -> Self {
        let targets = options.targets.len().max(1);
        let session = |i: usize| Session {
            phase: SessionPhase::Down,
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
            answered_ns: 0,
            had_session: false,
            sent_ns: 0,
            ping_sent_ns: None,
            at_ns: 0,
            failures: 0,
            losses: 0,
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
            moves: Moves::default(),
            fatal: None,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    /// Number of sessions that are ready.
    pub fn ready(&self) -> usize {
        self.ready
    }
    /// Whether session `index` can send requests.
    pub fn is_ready(&self, index: usize) -> bool {
        self.all[index].phase == SessionPhase::Ready
    }
    /// Number of unanswered requests of session `index`.
    pub fn in_flight(&self, index: usize) -> usize {
        self.all[index].pending.len()
    }
    /// Number of unanswered requests of all sessions.
    pub fn in_flight_total(&self) -> usize {
        self.in_flight
    }
    /// Highest zxid that every session has seen.
    pub fn floor(&self) -> i64 {
        self.all.iter().map(|s| s.seen).min().unwrap_or(0)
    }
    /// Count of each kind of connection event.
    pub fn troubles(&self) -> impl Iterator<Item = (Trouble, u64)> + '_ {
        Trouble::ALL.into_iter().map(|t| (t, self.troubles[t as usize]))
    }
    /// Counts of sessions that were attached again, replaced or expired.
    pub fn moves(&self) -> Moves {
        self.moves
    }
    /// Highest zxid in any reply's header.
    pub fn highest_zxid(&self) -> i64 {
        self.all.iter().map(|s| s.header_zxid).max().unwrap_or(0)
    }
    /// Server and id of session `index`.
    pub fn place(&self, index: usize) -> Place {
        let session = &self.all[index];
        Place { target: session.target, session: session.id }
    }
    /// Assigns first targets: session `index` begins at target `nth(index)` modulo the number of targets.
    pub fn spread(&mut self, nth: impl Fn(usize) -> usize) {
        let targets = self.options.targets.len().max(1);
        self.all.iter_mut().enumerate().for_each(|(index, session)| session.target = nth(index) % targets);
    }
    /// Makes a server that cannot be reached no error: the sessions keep trying.
    pub fn tolerate(&mut self) {
        self.stood = true;
    }
    /// Why no session can be established, once that is certain.
    pub fn fatal(&self) -> Option<&ClientError> {
        self.fatal.as_ref()
    }

    /// Sends a request on session `index`. `fill` appends the frame for the given xid. Returns `false` and
    /// sends nothing if the session is not ready.
    pub fn send(
        &mut self,
        now: Now,
        index: usize,
        request: R,
        io: &mut Io,
        fill: impl FnOnce(&mut Vec<u8>, i32),
    ) -> bool {
        let session = &mut self.all[index];
        if session.phase != SessionPhase::Ready {
            return false;
        }
        let Some(out) = session.conn.and_then(|conn| io.out(conn)) else { return false };
        let xid = session.next_xid;
        // Positive xids only: the others have special meanings.
        session.next_xid = if xid == i32::MAX { 1 } else { xid + 1 };
        fill(out.bytes(), xid);
        session.pending.push_back((xid, request));
        session.sent_ns = now.mono_ns;
        self.in_flight += 1;
        true
    }

    /// Closes all sessions and drops their unanswered requests. [`Self::all_gone`] tells when that is done.
    pub fn close_all(&mut self, now: Now, io: &mut Io) {
        for session in &mut self.all {
            self.in_flight -= session.pending.len();
            session.pending.clear();
            match (session.phase, session.conn) {
                (SessionPhase::Ready, Some(conn)) => {
                    if let Some(out) = io.out(conn) {
                        put_request(out.bytes(), session.next_xid, &Request::CloseSession);
                    }
                    session.phase = SessionPhase::Closing;
                    session.at_ns = now.mono_ns;
                }
                (SessionPhase::Opening | SessionPhase::Dropped, Some(conn)) => {
                    io.abort(conn);
                    session.phase = SessionPhase::Closing;
                }
                (SessionPhase::Closing, _) => {}
                _ => session.phase = SessionPhase::Gone,
            }
        }
        self.ready = 0;
        self.opening = 0;
    }

    /// Whether every session has ended.
    pub fn all_gone(&self) -> bool {
        self.all.iter().all(|s| s.phase == SessionPhase::Gone)
    }

    pub(super) fn index_of(&self, conn: ConnId) -> Option<usize> {
        let index = *self.by_slot.get(conn.index())? as usize;
        (self.all.get(index)?.conn == Some(conn)).then_some(index)
    }

    pub(super) fn target(&self, index: usize) -> &Target {
        &self.options.targets[self.all[index].target]
    }

    /// Marks the connection of session `index` as no longer usable.
    pub(super) fn leave(&mut self, index: usize) {
        match self.all[index].phase {
            SessionPhase::Opening => self.opening -= 1,
            SessionPhase::Ready => self.ready -= 1,
            _ => {}
        }
        self.all[index].phase = SessionPhase::Dropped;
    }

    /// Aborts the connection of session `index`.
    pub(super) fn give_up(&mut self, index: usize, io: &mut Io) {
        if let Some(conn) = self.all[index].conn {
            io.abort(conn);
        }
        self.leave(index);
    }

    pub(super) fn note(&mut self, trouble: Trouble) {
        self.troubles[trouble as usize] += 1;
    }

    /// Longest time that one server gets to accept a session. With several servers, all together get no
    /// longer than the session timeout, as far as [`OPEN_PATIENCE_MIN_NS`] allows.
    fn open_patience_ns(&self) -> u64 {
        let targets = self.options.targets.len() as u64;
        if targets < 2 || !self.options.through_failures {
            return OPEN_PATIENCE_NS;
        }
        let timeout_ns = self.options.timeout_ms.max(0) as u64 * 1_000_000;
        (timeout_ns / targets).clamp(OPEN_PATIENCE_MIN_NS, OPEN_PATIENCE_NS)
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
        session.phase = SessionPhase::Opening;
        session.at_ns = now.mono_ns;
        session.partial.clear();
        session.ping_sent_ns = None;
        self.opening += 1;
    }

    /// Connects sessions that are down, pings idle ones, gives up silent ones.
    pub(super) fn scan(&mut self, now: Now, io: &mut Io) {
        let at = now.mono_ns;
        let patience_ns = self.open_patience_ns();
        let began_ns = *self.began_ns.get_or_insert(at);
        if at < self.scan_at_ns {
            return;
        }
        self.scan_at_ns = at + SCAN_NS;
        for index in 0..self.all.len() {
            let session = &mut self.all[index];
            match session.phase {
                SessionPhase::Down if session.at_ns <= at && self.opening < OPENING_MAX => {
                    self.connect(now, index, io)
                }
                SessionPhase::Opening if at.saturating_sub(session.at_ns) > patience_ns => {
                    self.give_up(index, io);
                    if !self.stood && at - began_ns > OPEN_PATIENCE_NS {
                        let target = self.target(index).text.clone();
                        self.fatal.get_or_insert(ClientError::Silent { target });
                    }
                }
                SessionPhase::Ready => {
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
    /// Idle time before a ping: a third of the timeout, less up to a quarter of that. Sessions opened
    /// together therefore do not ping together for ever.
    fn ping_after_ns(&self, index: usize) -> u64 {
        let full = (self.timeout_ns / 3).min(PING_MAX_NS);
        let spread = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        full - full / 4 * spread / 1024
    }
}
