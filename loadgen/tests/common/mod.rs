//! A small ZooKeeper-protocol server with faults on demand, and runs against it in virtual time.
//!
//! The server keeps a flat map of znodes and answers what the load generator asks. A [`Fault`] makes it
//! break exactly one promise. Virtual time passes only when neither side has anything to do.

#![allow(dead_code, reason = "each test file uses its own part")]

use paddock_loadgen::check::Checker;
use paddock_loadgen::config::{Arrivals, Distribution, Target};
use paddock_loadgen::counts::{Counts, Seconds};
use paddock_loadgen::keyspace::{Keyspace, Picker, Roles};
use paddock_loadgen::pacing::Pace;
use paddock_loadgen::session::{Client, ClientError, SessionOptions, Sessions, Workload};
use paddock_loadgen::value::Values;
use paddock_loadgen::workload::Control;
use paddock_loadgen::workload::load::{InFlight, Load, LoadPlan};
use paddock_loadgen::workload::preload::{PRELOAD_OUTSTANDING, Preload, Preloaded};
use paddock_loadgen::workload::verify::{VERIFY_OUTSTANDING, Verified, Verify};
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::inproc::InProc;
use paddock_transport::io::Io;
use paddock_transport::wire::reply::{
    put_connect, put_data, put_empty, put_error, put_ping, put_response, put_stat,
};
use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Limits, Request, RequestHeader, Response, Split, Stat, error, split,
};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// The promise that the server breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The server answers nothing between the two instants.
    Stall {
        from_ns: u64,
        until_ns: u64,
    },
    /// After the `nth` read of the load, one read shows the value and stat from before the last write.
    StaleRead {
        nth: u64,
    },
    /// The `nth` read shows the value of another znode.
    WrongKey {
        nth: u64,
    },
    /// The `nth` read shows bytes that were never written.
    Garbage {
        nth: u64,
    },
    /// The `nth` read reports that the znode does not exist.
    Forgotten {
        nth: u64,
    },
    /// The `nth` reply has a lower zxid than the one before.
    ZxidBack {
        nth: u64,
    },
    /// The `nth` reply and the following one are swapped.
    Swapped {
        nth: u64,
    },
    /// The `nth` reply is never sent, nor are later ones on its connection.
    Swallowed {
        nth: u64,
    },
    /// The `nth` write is applied twice.
    AppliedTwice {
        nth: u64,
    },
    /// The `nth` write is acknowledged and not applied.
    LostWrite {
        nth: u64,
    },
    /// Instead of the `nth` reply, all connections are closed. The request of that reply is executed.
    ClosedWithout {
        nth: u64,
    },
    /// Instead of the `nth` reply, all connections are closed and all sessions expire.
    Expired {
        nth: u64,
    },
    /// Every write is refused with this error.
    Refuse {
        err: i32,
    },
}

#[derive(Clone, Debug, Default)]
struct FakeZnode {
    data: Vec<u8>,
    stat: Stat,
    before: Option<Box<FakeZnode>>,
}

#[derive(Debug, Default)]
struct Peer {
    bytes: Vec<u8>,
    greeted: bool,
    /// Replies that wait until a stall is over.
    held: VecDeque<Vec<u8>>,
    swallowed: bool,
    swapped: Option<Vec<u8>>,
}

#[derive(Debug)]
pub struct FakeServer {
    pub fault: Fault,
    nodes: HashMap<String, FakeZnode>,
    peers: HashMap<ConnId, Peer>,
    zxid: i64,
    sessions: i64,
    reads: u64,
    writes: u64,
    replies: u64,
    /// Set after the preload: faults happen only from then on.
    pub armed: bool,
    pub reattached: u64,
    pub greets: bool,
    /// Sessions with ids up to this one have expired.
    expired: i64,
}

impl FakeServer {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            nodes: HashMap::new(),
            peers: HashMap::new(),
            zxid: 0x1_0000_0000,
            sessions: 0,
            reads: 0,
            writes: 0,
            replies: 0,
            armed: false,
            reattached: 0,
            greets: true,
            expired: 0,
        }
    }

    fn fault(&self) -> Fault {
        if self.armed { self.fault } else { Fault::None }
    }

    fn write(&mut self, path: &str, data: &[u8], create: bool) -> Result<Stat, i32> {
        self.zxid += 1;
        let zxid = self.zxid;
        match (self.nodes.get_mut(path), create) {
            (Some(_), true) => Err(error::NODE_EXISTS),
            (None, false) => Err(error::NO_NODE),
            (None, true) => {
                let stat =
                    Stat { czxid: zxid, mzxid: zxid, data_length: data.len() as i32, ..Stat::default() };
                self.nodes.insert(path.to_owned(), FakeZnode { data: data.to_vec(), stat, before: None });
                Ok(stat)
            }
            (Some(node), false) => {
                let before = FakeZnode { before: None, ..node.clone() };
                node.before = Some(Box::new(before));
                node.data = data.to_vec();
                node.stat.mzxid = zxid;
                node.stat.version += 1;
                node.stat.data_length = data.len() as i32;
                Ok(node.stat)
            }
        }
    }

    fn answer(&mut self, xid: i32, request: &Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        match request {
            Request::Ping => put_ping(&mut out, self.zxid),
            Request::Create(create) => {
                let path = create.path.to_string();
                match self.write(&path, create.data.unwrap_or_default(), true) {
                    Ok(_) => put_response(&mut out, xid, self.zxid, &Response::Path(path.as_str().into())),
                    Err(err) => put_error(&mut out, xid, self.zxid, err),
                }
            }
            Request::SetData { path, data, .. } => {
                self.writes += 1;
                let data = data.unwrap_or_default();
                let done = match self.fault() {
                    Fault::Refuse { err } => Err(err),
                    Fault::AppliedTwice { nth } if nth == self.writes => {
                        self.write(path, data, false).and_then(|_| self.write(path, data, false))
                    }
                    Fault::LostWrite { nth } if nth == self.writes => {
                        let kept = self.nodes.get(path.as_ref()).cloned();
                        let stat = self.write(path, data, false);
                        self.nodes.insert(path.to_string(), kept.unwrap_or_default());
                        stat
                    }
                    _ => self.write(path, data, false),
                };
                match done {
                    Ok(stat) => put_stat(&mut out, xid, self.zxid, &stat),
                    Err(err) => put_error(&mut out, xid, self.zxid, err),
                }
            }
            Request::Sync { path } => put_response(&mut out, xid, self.zxid, &Response::Path(path.clone())),
            Request::GetData { path, .. } => self.read(&mut out, xid, path),
            _ => put_error(&mut out, xid, self.zxid, error::UNIMPLEMENTED),
        }
        out
    }

    fn read(&mut self, out: &mut Vec<u8>, xid: i32, path: &str) {
        self.reads += 1;
        let reads = self.reads;
        let Some(node) = self.nodes.get(path) else {
            return put_error(out, xid, self.zxid, error::NO_NODE);
        };
        match self.fault() {
            Fault::Forgotten { nth } if nth == reads => put_error(out, xid, self.zxid, error::NO_NODE),
            Fault::Garbage { nth } if nth == reads => {
                put_data(out, xid, self.zxid, Some(&vec![7; node.data.len()]), &node.stat);
            }
            Fault::WrongKey { nth } if nth == reads => {
                let other =
                    self.nodes.iter().find(|(p, n)| p.as_str() != path && n.data.len() == node.data.len());
                let other = other.map_or(node, |(_, other)| other);
                put_data(out, xid, self.zxid, Some(&other.data), &other.stat);
            }
            // The first read from number `nth` on that can be stale: its last write was certainly
            // acknowledged by now.
            Fault::StaleRead { nth }
                if reads >= nth && node.before.is_some() && node.stat.mzxid + 20 < self.zxid =>
            {
                self.fault = Fault::None;
                let old = self.nodes[path].before.as_ref().expect("it was looked at");
                put_data(out, xid, self.zxid, Some(&old.data), &old.stat);
            }
            _ => put_data(out, xid, self.zxid, Some(&node.data), &node.stat),
        }
    }

    fn handle(&mut self, conn: ConnId, payload: &[u8], io: &mut Io) {
        let peer = self.peers.get_mut(&conn).expect("an open connection");
        if !peer.greeted {
            if !self.greets {
                return io.abort(conn);
            }
            let request = ConnectRequest::decode(payload, Limits::NONE).expect("a connect request");
            if request.last_zxid_seen > self.zxid {
                return io.abort(conn);
            }
            peer.greeted = true;
            if (1..=self.expired).contains(&request.session_id) {
                let refusal = ConnectResponse {
                    protocol_version: 0,
                    timeout_ms: 0,
                    session_id: 0,
                    password: Some(&[0; 16]),
                    read_only: Some(false),
                };
                if let Some(out) = io.out(conn) {
                    put_connect(out.bytes(), &refusal);
                }
                return io.close(conn);
            }
            if request.session_id == 0 {
                self.sessions += 1;
            } else {
                self.reattached += 1;
            }
            let response = ConnectResponse {
                protocol_version: 0,
                timeout_ms: request.timeout_ms,
                session_id: if request.session_id == 0 { self.sessions } else { request.session_id },
                password: Some(&[9; 16]),
                read_only: Some(false),
            };
            if let Some(out) = io.out(conn) {
                put_connect(out.bytes(), &response);
            }
            return;
        }
        let (header, body) = RequestHeader::split(payload).expect("a request header");
        let request = Request::decode(header.opcode, body, Limits::NONE).expect("a request");
        if matches!(request, Request::CloseSession) {
            if let Some(out) = io.out(conn) {
                put_empty(out.bytes(), header.xid, self.zxid);
            }
            return io.close(conn);
        }
        let mut reply = self.answer(header.xid, &request);
        if !self.armed || matches!(request, Request::Ping) {
            self.peers.get_mut(&conn).expect("still open").held.push_back(reply);
            return;
        }
        self.replies += 1;
        let count = self.replies;
        if matches!(self.fault, Fault::Expired { nth } if nth == count) {
            self.expired = self.sessions;
        }
        if matches!(self.fault, Fault::ClosedWithout { nth } | Fault::Expired { nth } if nth == count) {
            self.peers.keys().for_each(|&conn| io.abort(conn));
            return;
        }
        if matches!(self.fault, Fault::ZxidBack { nth } if nth == count) {
            reply[8..16].copy_from_slice(&1i64.to_be_bytes());
        }
        let peer = self.peers.get_mut(&conn).expect("still open");
        match self.fault {
            Fault::Swallowed { nth } if nth == count => peer.swallowed = true,
            Fault::Swapped { nth } if nth == count => peer.swapped = Some(reply),
            _ => {
                peer.held.push_back(reply);
                peer.held.extend(peer.swapped.take());
            }
        }
    }
}

impl Engine for FakeServer {
    fn opened(&mut self, _now: Now, conn: ConnId, _origin: &Origin, _io: &mut Io) {
        self.peers.insert(conn, Peer::default());
    }

    fn received(&mut self, _now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let mut held = std::mem::take(&mut peer.bytes);
        held.extend_from_slice(bytes);
        let mut rest = &held[..];
        while let Ok(Split::Frame { payload, rest: behind }) = split(rest, 1 << 20) {
            self.handle(conn, payload, io);
            rest = behind;
            if !io.is_open(conn) {
                return;
            }
        }
        let rest = rest.to_vec();
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.bytes = rest;
        }
    }

    fn closed(&mut self, _now: Now, conn: ConnId, _why: Closed, _io: &mut Io) {
        self.peers.remove(&conn);
    }

    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        if let Fault::Stall { from_ns, until_ns } = self.fault()
            && (from_ns..until_ns).contains(&now.mono_ns)
        {
            return Next::Sleep { deadline_ns: Some(until_ns) };
        }
        for (&conn, peer) in &mut self.peers {
            if peer.swallowed {
                continue;
            }
            while let Some(reply) = peer.held.pop_front() {
                if let Some(out) = io.out(conn) {
                    out.bytes().extend_from_slice(&reply);
                }
            }
        }
        Next::Sleep { deadline_ns: None }
    }
}

/// Settings of a run in virtual time.
#[derive(Clone, Debug)]
pub struct Scene {
    pub fault: Fault,
    pub reads: f64,
    pub connections: u32,
    pub outstanding: usize,
    pub keys: u32,
    pub rate: Option<f64>,
    pub arrivals: Arrivals,
    pub warmup_ns: u64,
    pub duration_ns: u64,
    /// Lengths that deliveries are cut into.
    pub fragments: Vec<usize>,
    /// Longest step of virtual time in a closed loop, so that the run does not stay at one instant for
    /// ever.
    pub step_ns: u64,
    pub timeout_ms: i32,
    pub sessions_must_live: bool,
    pub through_failures: bool,
    /// Whether everything is read back at the end.
    pub verify: bool,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            fault: Fault::None,
            reads: 0.5,
            connections: 4,
            outstanding: 4,
            keys: 40,
            rate: None,
            arrivals: Arrivals::Constant,
            warmup_ns: 0,
            duration_ns: SECOND / 10,
            fragments: Vec::new(),
            step_ns: MS,
            timeout_ms: 60_000,
            sessions_must_live: false,
            through_failures: false,
            verify: false,
        }
    }
}

/// Results of a scene.
pub struct Played {
    pub counts: Counts,
    pub server: FakeServer,
    pub seconds: Arc<Seconds>,
    pub fatal: Option<ClientError>,
    /// Result of reading everything back.
    pub verified: Option<Verified>,
}

fn options(target: &Target, first_zxid: i64, timeout_ms: i32) -> SessionOptions {
    SessionOptions {
        targets: Arc::new([target.clone()]),
        timeout_ms,
        auth: None,
        first_zxid,
        through_failures: false,
        sessions_must_live: false,
    }
}

/// Lets `client` and `server` run until the client stops. Each instant has a few turns. Then time moves to
/// the next deadline, at most one step further.
pub fn play<W: Workload>(
    now: &mut u64,
    step_ns: u64,
    fragments: &[usize],
    client: &mut Client<W>,
    server: &mut FakeServer,
) {
    server.peers.clear();
    let target: Target = "127.0.0.1:2181".parse().expect("an address");
    let mut pipes = InProc::new(2);
    pipes.set_fragments(fragments);
    pipes.listen(1, target.address);
    for _ in 0..5_000_000 {
        let at = Now { mono_ns: *now, wall_ms: 0 };
        for _ in 0..4 {
            if !pipes.step(at, &mut [client, server]) {
                break;
            }
        }
        let mut wake = *now + step_ns;
        for engine in 0..2 {
            match pipes.next(engine) {
                Some(Next::Stop) => return,
                Some(Next::Sleep { deadline_ns: Some(deadline) }) if deadline > *now => {
                    wake = wake.min(deadline)
                }
                _ => {}
            }
        }
        *now = wake;
    }
    panic!("the scene does not end");
}

/// Plays `scene`: the preload, then the load.
pub fn run(scene: &Scene) -> Played {
    let target: Target = "127.0.0.1:2181".parse().expect("an address");
    let mut server = FakeServer::new(scene.fault);
    let mut now = SECOND;
    let keyspace = Keyspace::new("/load", scene.keys);
    let values = Values::new(77, 32);
    let mut filling = Client {
        sessions: Sessions::new(options(&target, 0, scene.timeout_ms), 0, 2, PRELOAD_OUTSTANDING),
        workload: Preload::new(keyspace.clone(), values.clone(), Arc::new(AtomicU32::new(0))),
    };
    play(&mut now, scene.step_ns, &scene.fragments, &mut filling, &mut server);
    let Preloaded { created_all, zxid } = filling.workload.outcome().expect("a filled tree");
    assert!(created_all && zxid > 0);

    // Instants in faults count from the beginning of the load.
    let start_ns = now + 10 * MS;
    if let Fault::Stall { from_ns, until_ns } = &mut server.fault {
        *from_ns += start_ns;
        *until_ns += start_ns;
    }
    server.armed = true;
    server.reads = 0;
    let control = Arc::new(Control::default());
    control.start_at(start_ns);
    let seconds = Arc::new(Seconds::new(1));
    let plan = LoadPlan {
        keyspace: keyspace.clone(),
        values: values.clone(),
        picker: Picker::new(5, scene.keys, scene.connections, scene.reads, Distribution::Uniform),
        checker: Some(Checker::new(scene.keys, true, Arc::default())),
        pace: scene.rate.map(|rate| Pace { rate, arrivals: scene.arrivals, thread: 0, threads: 1, seed: 6 }),
        outstanding: scene.outstanding,
        first_connection: 0,
        connections_here: scene.connections,
        roles: Roles { connections: scene.connections, writers: scene.connections },
        warmup_ns: scene.warmup_ns,
        duration_ns: scene.duration_ns,
        through_failures: scene.through_failures,
        timeout_ns: scene.timeout_ms as u64 * MS,
    };
    let options = SessionOptions {
        through_failures: scene.through_failures,
        sessions_must_live: scene.sessions_must_live,
        ..options(&target, zxid, scene.timeout_ms)
    };
    let mut client = Client {
        sessions: Sessions::<InFlight>::new(
            options.clone(),
            0,
            scene.connections as usize,
            scene.outstanding,
        ),
        workload: Load::new(plan, control, Arc::clone(&seconds)),
    };
    play(&mut now, scene.step_ns, &scene.fragments, &mut client, &mut server);
    let fatal = client.sessions.fatal().cloned();
    let (counts, checker) = client.workload.into_counts(&client.sessions);
    let verified = checker.filter(|_| scene.verify).map(|checker| {
        let workload = Verify::new(keyspace, values, checker, false, Arc::default(), 2);
        let mut sessions = Sessions::new(options, 0, 2, VERIFY_OUTSTANDING);
        sessions.tolerate();
        let mut client = Client { sessions, workload };
        play(&mut now, scene.step_ns, &scene.fragments, &mut client, &mut server);
        client.workload.outcome()
    });
    Played { counts, server, seconds, fatal, verified }
}
