//! The floor for a server: the protocol's frames and nothing behind them.
//!
//! Owns [`Echo`], a server, and [`Driver`], its client. [`Echo`] answers every request at once from a
//! template: a handshake, a getData reply of 100 bytes to each getData, and fixed success to the other
//! requests of load generators. [`Driver`] holds a fixed number of connections with a fixed number of
//! requests in flight each. Never keeps a tree, sessions or a clock, so that a request costs what the loop
//! and the kernel cost.
//!
//! Correct because the server thread reads its own CPU clock (`CLOCK_THREAD_CPUTIME_ID`): neither the
//! client nor other processes are counted.

use paddock_transport::accept::{Acceptor, Listener};
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::event_loop::{EventLoop, LoopHandle, LoopKind, LoopOptions};
use paddock_transport::io::Io;
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of the value in each getData reply.
const VALUE_BYTES: usize = 100;
/// Longest frame of a client, bytes: ZooKeeper's `jute.maxbuffer`. A longer one closes the connection.
const FRAME_BYTES_MAX: usize = 0xfffff;
/// Path in each getData request of the driver, of a usual length.
const PATH: &str = "/bench/echo/some-znode-0000000001";
/// Time before counting begins, for caches to warm and TCP windows to open.
const WARM_UP: Duration = Duration::from_millis(300);

const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const PING: i32 = 11;
const CREATE: i32 = 1;
const DELETE: i32 = 2;
const SET_DATA: i32 = 5;
const CREATE2: i32 = 15;
const CLOSE_SESSION: i32 = -11;
/// Error code for requests that this server does not know.
const UNIMPLEMENTED: i32 = -6;

/// State that the threads of a measurement share.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Number of requests answered.
    requests: AtomicU64,
    /// Set by the measurement to ask for the CPU time; cleared by the server thread.
    ask: AtomicBool,
    /// CPU time of the server thread when it was last asked for, ns.
    cpu_ns: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Session {
    /// The part of a frame that has arrived.
    rest: Vec<u8>,
    connected: bool,
}

#[derive(Debug)]
pub struct Echo {
    sessions: Vec<Session>,
    gauge: Arc<Gauge>,
    reply: Vec<u8>,
    answered: u64,
    next_session: i64,
}

impl Echo {
    pub fn new(gauge: Arc<Gauge>) -> Echo {
        let mut reply = Vec::new();
        reply.extend_from_slice(&((16 + 4 + VALUE_BYTES + 68) as i32).to_be_bytes());
        put_header(&mut reply, 0, 0);
        reply.extend_from_slice(&(VALUE_BYTES as i32).to_be_bytes());
        reply.resize(reply.len() + VALUE_BYTES, b'v');
        put_stat(&mut reply);
        Echo { sessions: Vec::new(), gauge, reply, answered: 0, next_session: 1 }
    }

    /// Answers the whole frames at the front of `bytes` and returns their length. `None`: the connection is
    /// to be closed.
    fn answer(&mut self, conn: ConnId, bytes: &[u8], io: &mut Io) -> Option<usize> {
        let out = io.out(conn)?.bytes();
        let mut at = 0;
        while let Some(frame) = whole_frame(&bytes[at..])? {
            at += 4 + frame.len();
            if !self.sessions[conn.index()].connected {
                self.sessions[conn.index()].connected = true;
                put_connect_response(out, frame, self.next_session)?;
                self.next_session += 1;
                continue;
            }
            let xid = int(frame, 0)?;
            match int(frame, 4)? {
                GET_DATA => {
                    let start = out.len();
                    out.extend_from_slice(&self.reply);
                    out[start + 4..start + 8].copy_from_slice(&xid.to_be_bytes());
                }
                EXISTS | SET_DATA => put_reply(out, xid, 0, put_stat),
                CREATE => put_reply(out, xid, 0, |out| put_path(out, frame)),
                CREATE2 => put_reply(out, xid, 0, |out| {
                    put_path(out, frame);
                    put_stat(out);
                }),
                PING => put_reply(out, -2, 0, |_| {}),
                DELETE => put_reply(out, xid, 0, |_| {}),
                CLOSE_SESSION => {
                    put_reply(out, xid, 0, |_| {});
                    return None;
                }
                _ => put_reply(out, xid, UNIMPLEMENTED, |_| {}),
            }
            self.answered += 1;
        }
        Some(at)
    }
}

impl Engine for Echo {
    fn opened(&mut self, _: Now, conn: ConnId, _: &Origin, _: &mut Io) {
        if self.sessions.len() <= conn.index() {
            self.sessions.resize_with(conn.index() + 1, Session::default);
        }
        self.sessions[conn.index()] = Session::default();
    }

    fn received(&mut self, _: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        let mut held = std::mem::take(&mut self.sessions[conn.index()].rest);
        let input = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held
        };
        match self.answer(conn, input, io) {
            None => io.close(conn),
            Some(used) if used < input.len() => self.sessions[conn.index()].rest = input[used..].to_vec(),
            Some(_) => {}
        }
    }

    fn closed(&mut self, _: Now, conn: ConnId, _: Closed, _: &mut Io) {
        self.sessions[conn.index()] = Session::default();
    }

    fn turn(&mut self, _: Now, _: &mut Io) -> Next {
        self.gauge.requests.store(self.answered, Ordering::Relaxed);
        if self.gauge.ask.load(Ordering::Relaxed) {
            let cpu = clock_gettime(ClockId::ThreadCPUTime);
            let ns = cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64;
            self.gauge.cpu_ns.store(ns, Ordering::Relaxed);
            self.gauge.ask.store(false, Ordering::Release);
        }
        match self.gauge.stop.load(Ordering::Relaxed) {
            true => Next::Stop,
            false => Next::Sleep { deadline_ns: None },
        }
    }

    fn park(&mut self) -> bool {
        !self.gauge.ask.load(Ordering::Relaxed) && !self.gauge.stop.load(Ordering::Relaxed)
    }
}

/// The first frame; `Some(None)` while a part of it is missing. `None`: the length is invalid.
fn whole_frame(bytes: &[u8]) -> Option<Option<&[u8]>> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Some(None) };
    let length = usize::try_from(i32::from_be_bytes(*prefix)).ok().filter(|&l| l <= FRAME_BYTES_MAX)?;
    Some(bytes.get(4..4 + length))
}

fn int(frame: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

fn put_header(out: &mut Vec<u8>, xid: i32, code: i32) {
    out.extend_from_slice(&xid.to_be_bytes());
    out.extend_from_slice(&1i64.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
}

fn put_reply(out: &mut Vec<u8>, xid: i32, code: i32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put_header(out, xid, code);
    body(out);
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a stat with a data length of [`VALUE_BYTES`].
fn put_stat(out: &mut Vec<u8>) {
    for long in [1i64, 1, 0, 0] {
        out.extend_from_slice(&long.to_be_bytes());
    }
    for int in [0i32; 3] {
        out.extend_from_slice(&int.to_be_bytes());
    }
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&(VALUE_BYTES as i32).to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    out.extend_from_slice(&1i64.to_be_bytes());
}

/// Appends the path of a create request.
fn put_path(out: &mut Vec<u8>, frame: &[u8]) {
    let length = int(frame, 8).and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
    let path = frame.get(12..12 + length).unwrap_or_default();
    out.extend_from_slice(&(path.len() as i32).to_be_bytes());
    out.extend_from_slice(path);
}

fn put_connect_response(out: &mut Vec<u8>, request: &[u8], session: i64) -> Option<()> {
    let timeout = int(request, 12)?;
    // The fields are protocolVersion, lastZxidSeen, timeOut, sessionId, passwd, and perhaps readOnly.
    let password = usize::try_from(int(request, 24)?.max(0)).ok()?;
    let asks_read_only = request.len() > 28 + password;
    out.extend_from_slice(&(36 + i32::from(asks_read_only)).to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    out.extend_from_slice(&timeout.to_be_bytes());
    out.extend_from_slice(&session.to_be_bytes());
    out.extend_from_slice(&16i32.to_be_bytes());
    out.extend_from_slice(&[7; 16]);
    if asks_read_only {
        out.push(0);
    }
    Some(())
}

/// The client: keeps `depth` requests in flight on each of `connections` connections.
#[derive(Debug)]
struct Driver {
    to: Address,
    connections: usize,
    depth: usize,
    links: Vec<Link>,
    started: bool,
    gauge: Arc<Gauge>,
    failed: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Link {
    rest: Vec<u8>,
    connected: bool,
    next_sent: i32,
    next_expected: i32,
}

impl Driver {
    fn request(&mut self, conn: ConnId, io: &mut Io) {
        let link = &mut self.links[conn.index()];
        let Some(out) = io.out(conn) else { return };
        let out = out.bytes();
        out.extend_from_slice(&((8 + 4 + PATH.len() + 1) as i32).to_be_bytes());
        out.extend_from_slice(&link.next_sent.to_be_bytes());
        out.extend_from_slice(&GET_DATA.to_be_bytes());
        out.extend_from_slice(&(PATH.len() as i32).to_be_bytes());
        out.extend_from_slice(PATH.as_bytes());
        out.push(0);
        link.next_sent = link.next_sent.wrapping_add(1);
    }

    /// Takes the whole replies at the front of `bytes` and returns their length. `None`: a reply is wrong.
    fn take(&mut self, conn: ConnId, bytes: &[u8], io: &mut Io) -> Option<usize> {
        let mut at = 0;
        while let Some(frame) = whole_frame(&bytes[at..])? {
            at += 4 + frame.len();
            let link = &mut self.links[conn.index()];
            if !link.connected {
                link.connected = true;
                (0..self.depth).for_each(|_| self.request(conn, io));
                continue;
            }
            if int(frame, 0)? != link.next_expected || int(frame, 12)? != 0 {
                return None;
            }
            link.next_expected = link.next_expected.wrapping_add(1);
            self.request(conn, io);
        }
        Some(at)
    }
}

impl Engine for Driver {
    fn opened(&mut self, _: Now, conn: ConnId, _: &Origin, io: &mut Io) {
        if self.links.len() <= conn.index() {
            self.links.resize_with(conn.index() + 1, Link::default);
        }
        let Some(out) = io.out(conn) else { return };
        let out = out.bytes();
        out.extend_from_slice(&45i32.to_be_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&30_000i32.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&16i32.to_be_bytes());
        out.extend_from_slice(&[0; 17]);
    }

    fn received(&mut self, _: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        let mut held = std::mem::take(&mut self.links[conn.index()].rest);
        let input = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held
        };
        match self.take(conn, input, io) {
            None => {
                self.failed.store(true, Ordering::Relaxed);
                io.abort(conn);
            }
            Some(used) if used < input.len() => self.links[conn.index()].rest = input[used..].to_vec(),
            Some(_) => {}
        }
    }

    fn closed(&mut self, _: Now, _: ConnId, why: Closed, _: &mut Io) {
        if why != Closed::ByEngine && !self.gauge.stop.load(Ordering::Relaxed) {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    fn turn(&mut self, _: Now, io: &mut Io) -> Next {
        if !std::mem::replace(&mut self.started, true) {
            for _ in 0..self.connections {
                io.connect(self.to.clone());
            }
        }
        match self.gauge.stop.load(Ordering::Relaxed) {
            true => Next::Stop,
            false => Next::Sleep { deadline_ns: None },
        }
    }

    fn park(&mut self) -> bool {
        !self.gauge.stop.load(Ordering::Relaxed)
    }
}

/// Settings of one measurement.
#[derive(Clone, Debug)]
pub struct Run {
    /// Event loop of both ends.
    pub kind: LoopKind,
    /// Address that the server listens on. TCP port 0 takes a free one.
    pub listen: Address,
    pub connections: usize,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Length of the measurement.
    pub time: Duration,
}

/// Results of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct EchoOutcome {
    pub requests_per_second: f64,
    /// CPU time of the server thread per request.
    pub cpu_ns_per_request: f64,
    /// System calls of the server's loop per request.
    pub system_calls_per_request: f64,
    /// Requests answered per turn of the server's loop.
    pub requests_per_turn: f64,
}

impl fmt::Display for EchoOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10.0} requests/s {:>8.0} ns server CPU/request {:>7.3} system calls/request {:>6.1} requests/turn",
            self.requests_per_second,
            self.cpu_ns_per_request,
            self.system_calls_per_request,
            self.requests_per_turn
        )
    }
}

/// Serves until the process ends.
pub fn serve(kind: LoopKind, listen: &Address) -> anyhow::Result<()> {
    let listener = Listener::bind(listen)?;
    println!("echo server on {} ({kind})", listener.local_address());
    let event_loop = accepting(kind, listener)?;
    event_loop.run(&mut Echo::new(Arc::default()))?;
    Ok(())
}

/// Runs server and client in two threads and measures the server.
pub fn measure(run: &Run) -> anyhow::Result<EchoOutcome> {
    let gauge = Arc::new(Gauge::default());
    let failed = Arc::new(AtomicBool::new(false));
    let listener = Listener::bind(&run.listen)?;
    let to = listener.local_address().clone();
    let server = accepting(run.kind, listener)?;
    let client = EventLoop::new(run.kind, LoopOptions::default())?;
    let (server_handle, client_handle) = (server.handle(), client.handle());
    let mut driver = Driver {
        to,
        connections: run.connections,
        depth: run.depth,
        links: Vec::new(),
        started: false,
        gauge: Arc::clone(&gauge),
        failed: Arc::clone(&failed),
    };
    let mut echo = Echo::new(Arc::clone(&gauge));
    std::thread::scope(|s| {
        let serving = s.spawn(move || server.run(&mut echo));
        let driving = s.spawn(move || client.run(&mut driver));
        std::thread::sleep(WARM_UP);
        let before = Reading::take(&gauge, &server_handle);
        std::thread::sleep(run.time);
        let after = Reading::take(&gauge, &server_handle);
        gauge.stop.store(true, Ordering::Relaxed);
        client_handle.waker().wake();
        server_handle.waker().wake();
        for thread in [serving, driving] {
            thread.join().map_err(|_| anyhow::anyhow!("a loop panicked"))??;
        }
        anyhow::ensure!(!failed.load(Ordering::Relaxed), "a connection failed or a reply was wrong");
        after.since(&before)
    })
}

fn accepting(kind: LoopKind, listener: Listener) -> anyhow::Result<EventLoop> {
    let mut event_loop = EventLoop::new(kind, LoopOptions::default())?;
    let acceptor = Acceptor::new(vec![listener], vec![event_loop.handle()]);
    event_loop.accept_with(acceptor);
    Ok(event_loop)
}

struct Reading {
    at: std::time::Instant,
    requests: u64,
    cpu_ns: u64,
    system_calls: u64,
    turns: u64,
}

impl Reading {
    /// Asks the server thread for its CPU time and waits for the answer.
    fn take(gauge: &Gauge, server: &LoopHandle) -> Reading {
        gauge.ask.store(true, Ordering::Release);
        server.waker().wake();
        while gauge.ask.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Reading {
            at: std::time::Instant::now(),
            requests: gauge.requests.load(Ordering::Relaxed),
            cpu_ns: gauge.cpu_ns.load(Ordering::Relaxed),
            system_calls: server.counters().system_calls(),
            turns: server.counters().turns(),
        }
    }

    fn since(&self, before: &Reading) -> anyhow::Result<EchoOutcome> {
        let requests = (self.requests - before.requests) as f64;
        anyhow::ensure!(requests > 0.0, "no request was answered");
        Ok(EchoOutcome {
            requests_per_second: requests / (self.at - before.at).as_secs_f64(),
            cpu_ns_per_request: (self.cpu_ns - before.cpu_ns) as f64 / requests,
            system_calls_per_request: (self.system_calls - before.system_calls) as f64 / requests,
            requests_per_turn: requests / (self.turns - before.turns).max(1) as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paddock_transport::inproc::InProc;

    fn settle(inproc: &mut InProc, echo: &mut Echo) {
        assert!(inproc.run_until_quiet(Now::default(), &mut [echo], 10_000));
    }

    fn handshake(read_only: bool) -> Vec<u8> {
        let mut bytes = (44 + i32::from(read_only)).to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&4000i32.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&16i32.to_be_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend(read_only.then_some(0));
        bytes
    }

    fn request(xid: i32, op: i32) -> Vec<u8> {
        let mut bytes = 14i32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&xid.to_be_bytes());
        bytes.extend_from_slice(&op.to_be_bytes());
        bytes.extend_from_slice(&2i32.to_be_bytes());
        bytes.extend_from_slice(b"/a");
        bytes
    }

    #[test]
    fn replies_keep_their_xid_and_length_at_every_cut() {
        for cut in [1, 3, 7, 50, 1000] {
            let (mut inproc, mut echo) = (InProc::new(1), Echo::new(Arc::default()));
            inproc.set_fragments(&[cut]);
            let wire = inproc.dial(0);
            inproc.send(wire, &handshake(true));
            for (xid, op) in
                [(1, GET_DATA), (2, EXISTS), (3, CREATE), (-2, PING), (4, 999), (5, CLOSE_SESSION)]
            {
                inproc.send(wire, &request(xid, op));
            }
            settle(&mut inproc, &mut echo);
            let all = inproc.received(wire);
            let mut rest = &all[..];
            let mut replies = Vec::new();
            while let Some(frame) = whole_frame(rest).unwrap() {
                replies.push((frame.len(), int(frame, 0).unwrap()));
                rest = &rest[4 + frame.len()..];
            }
            assert_eq!(replies, [(37, 0), (188, 1), (84, 2), (22, 3), (16, -2), (16, 4), (16, 5)]);
            assert!(rest.is_empty() && inproc.is_closed(wire));
        }
    }

    #[test]
    fn an_absurd_length_closes_the_connection() {
        let (mut inproc, mut echo) = (InProc::new(1), Echo::new(Arc::default()));
        let wire = inproc.dial(0);
        inproc.send(wire, &[0xff; 4]);
        settle(&mut inproc, &mut echo);
        assert!(inproc.is_closed(wire));
    }

    #[test]
    fn a_measurement_counts_what_was_answered() {
        let run = Run {
            kind: LoopKind::Epoll,
            listen: "127.0.0.1:0".parse().unwrap(),
            connections: 4,
            depth: 2,
            time: Duration::from_millis(50),
        };
        let outcome = measure(&run).unwrap();
        assert!(outcome.requests_per_second > 0.0 && outcome.cpu_ns_per_request > 0.0);
    }
}
