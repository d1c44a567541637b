//! A client made of bytes: one session after the other, as ZooKeeper's own client keeps them.
//!
//! Owns its session, its position in the stream of a connection, the watches that it believes to have, and
//! its timeouts.
//!
//! Never knows more than servers told it.
//!
//! Correct because it behaves as the Java client does wherever a server can tell the difference:
//!
//! - It pings when idle for a third of its timeout, and gives a connection up after two thirds without
//!   input.
//! - It gives up a connection attempt after its share of the timeout among the servers, and tries the
//!   servers in turn.
//! - It reconnects with the highest zxid that it saw, and sets its watches again before anything else.
//! - It takes a refusal for the end of its session.

mod book;

use super::net::WireId;
use super::rng::Rng;
use super::workload::{Ask, SUPER, USERS, Workload, encode, identities};
use crate::command::Identity;
use book::Book;
use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Limits, ReplyHeader, Request, RequestHeader, Response, SetWatches,
    Split, Text, WatcherEvent, opcode, put_frame, split, xid,
};
use std::collections::VecDeque;
use std::rc::Rc;

/// How long a client stays with a read-only server before it looks for another one, as ZooKeeper's client
/// does.
const READ_ONLY_NS: u64 = 3_000_000_000;

/// The source of a client's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMode {
    /// Sends requests drawn from the workload.
    Load,
    /// Sends no new requests. Open ones are still answered.
    Drain,
    /// Sends the listed requests, one at a time.
    Operate(VecDeque<(i32, Vec<u8>)>),
    /// Sends the listed reads, a few at a time; then the client is done.
    Audit(VecDeque<(i32, Vec<u8>)>),
}

/// The state of a client's connection and session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientState {
    /// No connection. The client dials at its next turn.
    Away,
    Dialing(WireId),
    /// The client has asked for the session.
    Opening(WireId),
    /// The session is served.
    Open(WireId),
}

/// A result of received bytes.
#[derive(Debug)]
pub enum News {
    /// The session is open.
    Opened {
        session: i64,
        timeout_ms: i32,
        /// Time at which the client asked for the session.
        asked_ns: u64,
        /// Whether the client resumed an earlier session.
        again: bool,
        /// Whether the session is read-only: the server's own, or while the client talks to that server.
        read_only: bool,
    },
    /// The server refused the session.
    Refused { session: i64 },
    /// The reply to a request.
    Answered {
        ask: Ask,
        zxid: i64,
        err: i32,
        /// The record after the header.
        body: Vec<u8>,
    },
    /// A watch event of the server.
    Notified {
        zxid: i64,
        /// Event type, as on the wire.
        kind: i32,
        path: String,
    },
    /// Bytes that break the protocol.
    Nonsense(String),
}

/// See the module doc.
pub struct Client {
    /// The client's own random stream.
    pub rng: Rng,
    /// The source of its requests under [`ClientMode::Load`].
    pub workload: Workload,
    pub mode: ClientMode,
    pub state: ClientState,
    /// The session's id; 0 without a session.
    pub session: i64,
    password: [u8; 16],
    /// The negotiated timeout, or the one to ask for.
    pub timeout_ms: i32,
    wanted_ms: i32,
    /// Highest zxid seen in a reply.
    pub zxid: i64,
    next_xid: i32,
    /// Requests without an answer, in order.
    pub waiting: VecDeque<Ask>,
    input: Vec<u8>,
    book: Book,
    heard_ns: u64,
    said_ns: u64,
    asked_ns: u64,
    /// Time of the next turn.
    pub next_ns: u64,
    /// Largest number of open requests.
    pub depth: usize,
    /// Mean pause between bursts of requests, ns.
    pub pause_ns: u64,
    /// The only node that it dials, if it is bound to one.
    pub home: Option<usize>,
    /// Servers in the order in which the client tries them, and the number of tries.
    servers: Vec<usize>,
    tries: usize,
    /// Ids of its connections once they are authenticated.
    who: Rc<[Identity]>,
    /// Credentials that it sends on each connection.
    user: Option<&'static str>,
    /// Whether the client dials listeners that promise linearizable reads.
    pub linearizable: bool,
    /// Whether the client accepts a read-only server.
    accepts_read_only: bool,
    /// Whether the present server is read-only.
    read_only: bool,
    /// Whether only the present server knows its session.
    borrowed: bool,
}

impl Client {
    /// A client without a session, that knows this number of servers.
    pub fn new(mut rng: Rng, servers: usize) -> Client {
        let wanted_ms = *rng.pick(&[1000, 1500, 2000, 4000]);
        let user = rng.one_in(2).then(|| *rng.pick(&USERS));
        Client {
            workload: Workload::new(&mut rng),
            mode: ClientMode::Load,
            state: ClientState::Away,
            session: 0,
            password: [0; 16],
            timeout_ms: wanted_ms,
            wanted_ms,
            zxid: 0,
            next_xid: 1,
            waiting: VecDeque::new(),
            input: Vec::new(),
            book: Book::default(),
            heard_ns: 0,
            said_ns: 0,
            asked_ns: 0,
            next_ns: rng.below(200_000_000),
            depth: rng.range(1, 12) as usize,
            pause_ns: rng.range(5, 60) * 1_000_000,
            home: None,
            servers: shuffled(servers, &mut rng),
            tries: 0,
            who: identities(user),
            user,
            linearizable: rng.one_in(5),
            accepts_read_only: rng.one_in(4),
            read_only: false,
            borrowed: false,
            rng,
        }
    }

    /// The wire of the present connection.
    pub fn wire(&self) -> Option<WireId> {
        match self.state {
            ClientState::Away => None,
            ClientState::Dialing(wire) | ClientState::Opening(wire) | ClientState::Open(wire) => Some(wire),
        }
    }

    /// A client with superuser rights. Its workload asks for no reconfiguration.
    pub fn operator(rng: Rng, servers: usize) -> Client {
        let mut client = Client::new(rng, servers);
        (client.user, client.who) = (Some(SUPER), identities(Some(SUPER)));
        (client.linearizable, client.accepts_read_only) = (false, false);
        client.wanted_ms = 10_000;
        (client.workload.writes_percent, client.workload.meddles) = (30, false);
        client
    }

    /// Whether the client has nothing more to do.
    pub fn is_done(&self) -> bool {
        match &self.mode {
            ClientMode::Load | ClientMode::Operate(_) => false,
            ClientMode::Drain => self.waiting.is_empty() || self.state == ClientState::Away,
            ClientMode::Audit(left) => left.is_empty() && self.waiting.is_empty(),
        }
    }

    /// Selects the next server to dial.
    pub fn next_server(&mut self) -> usize {
        self.tries += 1;
        self.home.unwrap_or(self.servers[self.tries % self.servers.len()])
    }

    /// Begins to dial over a wire.
    pub fn dial(&mut self, wire: WireId, now: u64) {
        self.state = ClientState::Dialing(wire);
        (self.heard_ns, self.said_ns, self.asked_ns) = (now, now, now);
        self.input.clear();
    }

    /// Handles a lost connection. Returns the open requests, whose outcome is unknown.
    pub fn lost(&mut self, now: u64) -> Vec<Ask> {
        self.state = ClientState::Away;
        self.input.clear();
        self.next_ns = now + self.rng.range(1, 300) * 1_000_000;
        let unknown: Vec<Ask> = self.waiting.drain(..).collect();
        if self.borrowed {
            // No other server knows that session.
            self.die();
        }
        if let ClientMode::Audit(left) = &mut self.mode {
            let again = unknown
                .iter()
                .filter(|a| ![opcode::PING, opcode::SET_WATCHES2, opcode::AUTH].contains(&a.opcode));
            for ask in again.rev() {
                left.push_front((ask.opcode, ask.body.clone()));
            }
        }
        unknown
    }

    /// Forgets the session, as a process that dies does.
    pub fn die(&mut self) {
        (self.session, self.password, self.zxid) = (0, [0; 16], 0);
        (self.read_only, self.borrowed) = (false, false);
        self.book = Book::default();
    }

    /// Returns the session request for a connection that is now established.
    pub fn connected(&mut self, now: u64) -> Vec<u8> {
        let Some(wire) = self.wire() else { return Vec::new() };
        self.state = ClientState::Opening(wire);
        (self.heard_ns, self.said_ns, self.asked_ns) = (now, now, now);
        let mut bytes = Vec::new();
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.zxid,
            timeout_ms: self.wanted_ms,
            session_id: self.session,
            password: Some(&self.password),
            read_only: Some(self.accepts_read_only),
        };
        put_frame(&mut bytes, |out| request.put(out));
        bytes
    }

    /// Returns requests to send, or `None` if the client gives the connection up.
    pub fn turn(&mut self, now: u64, next_op: &mut u64) -> Option<(Vec<u8>, Vec<Ask>)> {
        let timeout_ns = self.timeout_ms as u64 * 1_000_000;
        let (mut bytes, mut asks) = (Vec::new(), Vec::new());
        let patience_ns = match self.state {
            ClientState::Open(_) => timeout_ns * 2 / 3,
            _ => timeout_ns / self.servers.len() as u64,
        };
        let elsewhere = self.read_only && now >= self.asked_ns + READ_ONLY_NS;
        if elsewhere || now >= self.heard_ns + patience_ns {
            return None;
        }
        if let ClientState::Open(_) = self.state {
            let burst = match &self.mode {
                ClientMode::Load => self.rng.range(1, self.depth as u64) as usize,
                ClientMode::Drain => 0,
                ClientMode::Operate(left) => left.len().min(1),
                ClientMode::Audit(left) => left.len().min(4),
            };
            // A client that only reads must not wait for the log, as a close would.
            let goodbye = if self.workload.writes_percent == 0 { 4000 } else { 400 };
            for _ in 0..burst {
                if self.waiting.len() >= self.depth.max(4) {
                    break;
                }
                *next_op += 1;
                let (opcode, body) = match &mut self.mode {
                    ClientMode::Load if self.rng.one_in(goodbye) => (opcode::CLOSE_SESSION, Vec::new()),
                    ClientMode::Load => self.workload.next(*next_op, &mut self.rng),
                    ClientMode::Audit(left) | ClientMode::Operate(left) => match left.pop_front() {
                        Some(next) => next,
                        None => break,
                    },
                    ClientMode::Drain => break,
                };
                asks.push(self.ask(*next_op, opcode, body, now, &mut bytes));
                if opcode == opcode::CLOSE_SESSION {
                    break;
                }
            }
            if asks.is_empty() && now >= self.said_ns + timeout_ns / 3 {
                *next_op += 1;
                asks.push(self.ask(*next_op, opcode::PING, Vec::new(), now, &mut bytes));
            }
        }
        let pause_ns = match self.mode {
            ClientMode::Load => self.rng.below(2 * self.pause_ns) + 1_000_000,
            _ => 20_000_000,
        };
        self.next_ns = now + pause_ns.min(timeout_ns / 6);
        Some((bytes, asks))
    }

    fn ask(&mut self, op: u64, opcode: i32, body: Vec<u8>, now: u64, bytes: &mut Vec<u8>) -> Ask {
        let number = match opcode {
            opcode::PING => xid::PING,
            opcode::SET_WATCHES2 => xid::SET_WATCHES,
            opcode::AUTH => xid::AUTH,
            _ => {
                self.next_xid += 1;
                self.next_xid
            }
        };
        put_frame(bytes, |out| {
            RequestHeader { xid: number, opcode }.put(out);
            out.extend_from_slice(&body);
        });
        self.said_ns = now;
        let ask = Ask {
            op,
            xid: number,
            opcode,
            body,
            sent_ns: now,
            who: self.who.clone(),
            linearizable: self.linearizable,
            read_only: self.read_only,
        };
        self.waiting.push_back(ask.clone());
        ask
    }

    /// Decodes received bytes. The second and third value are requests that follow at once.
    pub fn received(&mut self, bytes: &[u8], now: u64, next_op: &mut u64) -> (Vec<News>, Vec<u8>, Vec<Ask>) {
        self.input.extend_from_slice(bytes);
        self.heard_ns = now;
        let (mut news, mut out, mut asks) = (Vec::new(), Vec::new(), Vec::new());
        let input = std::mem::take(&mut self.input);
        let mut left = &input[..];
        loop {
            let payload = match split(left, i32::MAX as u32) {
                Ok(Split::Frame { payload, rest }) => {
                    left = rest;
                    payload
                }
                Ok(Split::Incomplete { .. }) => break,
                Err(e) => {
                    news.push(News::Nonsense(format!("no frame: {e}")));
                    break;
                }
            };
            match self.state {
                ClientState::Opening(wire) => {
                    self.take_session(wire, payload, now, next_op, &mut news, &mut out, &mut asks)
                }
                ClientState::Open(_) => self.take_message(payload, &mut news),
                _ => news.push(News::Nonsense("a message before the session".to_owned())),
            }
            if self.state == ClientState::Away {
                break;
            }
        }
        self.input = left.to_vec();
        (news, out, asks)
    }

    #[expect(clippy::too_many_arguments, reason = "where what came goes, and what follows")]
    fn take_session(
        &mut self,
        wire: WireId,
        payload: &[u8],
        now: u64,
        next_op: &mut u64,
        news: &mut Vec<News>,
        out: &mut Vec<u8>,
        asks: &mut Vec<Ask>,
    ) {
        let Ok(response) = ConnectResponse::decode(payload, Limits::NONE) else {
            news.push(News::Nonsense("a ConnectResponse that cannot be read".to_owned()));
            return;
        };
        if response.timeout_ms <= 0 {
            news.push(News::Refused { session: self.session });
            self.die();
            return;
        }
        self.read_only = response.read_only == Some(true);
        let read_only = self.read_only;
        let again = self.session == response.session_id;
        self.borrowed = read_only && !again;
        if self.session != 0 && !again {
            news.push(News::Nonsense("another session than the one asked for".to_owned()));
        }
        if !again {
            self.book = Book::default();
        }
        (self.session, self.timeout_ms) = (response.session_id, response.timeout_ms);
        self.password = response.password.and_then(|p| p.try_into().ok()).unwrap_or_default();
        self.state = ClientState::Open(wire);
        let (session, timeout_ms, asked_ns) = (self.session, self.timeout_ms, self.asked_ns);
        news.push(News::Opened { session, timeout_ms, asked_ns, again, read_only });
        if let Some(user) = self.user {
            let auth = Request::Auth { kind: 0, scheme: Some("digest".into()), auth: Some(user.as_bytes()) };
            let (opcode, body) = encode(&auth, None);
            *next_op += 1;
            asks.push(self.ask(*next_op, opcode, body, now, out));
        }
        let book = self.book.clone();
        let all = [&book.data, &book.exist, &book.child, &book.persistent, &book.recursive];
        if again && all.iter().any(|list| !list.is_empty()) {
            let lists = all.map(|l| l.iter().map(|p| Text::Borrowed(p.as_str())).collect::<Vec<_>>());
            let list = |n: usize| paddock_transport::wire::List::new(&lists[n]);
            let request = Request::SetWatches2(SetWatches {
                relative_zxid: self.zxid,
                data: list(0),
                exist: list(1),
                child: list(2),
                persistent: list(3),
                persistent_recursive: list(4),
            });
            let (opcode, body) = encode(&request, None);
            *next_op += 1;
            asks.push(self.ask(*next_op, opcode, body, now, out));
        }
        self.next_ns = now;
    }

    fn take_message(&mut self, payload: &[u8], news: &mut Vec<News>) {
        let Ok((ReplyHeader { xid: number, zxid, err }, body)) = ReplyHeader::split(payload) else {
            news.push(News::Nonsense("a message without a header".to_owned()));
            return;
        };
        if number == xid::NOTIFICATION {
            match WatcherEvent::decode(body, Limits::NONE) {
                Ok(told) => {
                    self.zxid = self.zxid.max(zxid);
                    self.book.fired(told.kind, &told.path);
                    let path = told.path.into_owned();
                    news.push(News::Notified { zxid, kind: told.kind, path });
                }
                Err(e) => news.push(News::Nonsense(format!("a notification that cannot be read: {e:?}"))),
            }
            return;
        }
        // One reply may overtake another: that of a ping right after a reconfiguration.
        let is = |n: usize, code| self.waiting.get(n).is_some_and(|ask: &Ask| ask.opcode == code);
        let overtakes = number == xid::PING && is(0, opcode::RECONFIG) && is(1, opcode::PING);
        let Some(ask) = self.waiting.remove(usize::from(overtakes)) else {
            news.push(News::Nonsense(format!("an answer to nothing: xid {number}")));
            return;
        };
        if ask.xid != number {
            let what = format!("the answer to xid {number} where that to {} was due", ask.xid);
            news.push(News::Nonsense(what));
            return;
        }
        if zxid > 0 {
            self.zxid = self.zxid.max(zxid);
        }
        self.note(&ask, err, body);
        if ask.opcode == opcode::CLOSE_SESSION && err == 0 {
            self.die();
        }
        news.push(News::Answered { ask, zxid, err, body: body.to_vec() });
    }

    /// Records armed and removed watches, and learns names and versions.
    fn note(&mut self, ask: &Ask, err: i32, body: &[u8]) {
        let Ok(request) = Request::decode(ask.opcode, &ask.body, Limits::NONE) else { return };
        self.book.note(&request, err);
        if err != 0 {
            return;
        }
        match Response::decode(ask.opcode, body, Limits::NONE) {
            Ok(Response::Path(path)) if ask.opcode == opcode::CREATE => self.workload.hear(&path),
            Ok(Response::PathStat(path, _)) => self.workload.hear(&path),
            Ok(Response::Data(_, stat) | Response::Stat(stat)) => {
                if let Request::GetData { path, .. }
                | Request::Exists { path, .. }
                | Request::SetData { path, .. } = &request
                {
                    self.workload.versions.insert(path.to_string(), stat.version);
                }
            }
            _ => {}
        }
    }
}

fn shuffled(count: usize, rng: &mut Rng) -> Vec<usize> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        order.push(left.swap_remove(rng.below(left.len() as u64) as usize));
    }
    order
}
