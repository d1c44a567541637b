//! The in-process loop: engines in one thread, connected by byte pipes, moved on step by step.
//!
//! For tests of engines. Owns the pipes and each engine's [`Io`] table. Never opens a socket and never
//! sleeps. Correct because the test alone decides time, order and fragmentation, so that a run can be
//! repeated.
//!
//! The engines stay with the test, which passes them to each [`InProc::step`] and inspects them in
//! between. The test may also hold an end of a pipe ([`InProc::dial`]): a client made of bytes.

#![forbid(unsafe_code)]

use crate::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use crate::io::{CloseRequest, Io};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};

/// `errno` of a connection to an address without a listener.
const ECONNREFUSED: i32 = 111;

/// First of the invented ports from which the test's ends connect.
const FIRST_PORT: u16 = 40_000;

/// The test's end of a connection to an engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wire(usize);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Engine(usize, ConnId),
    Test,
}

/// One end of a pipe, with the bytes on their way to it.
#[derive(Debug)]
struct End {
    owner: Owner,
    origin: Origin,
    inbound: VecDeque<u8>,
    /// Most bytes in `inbound` before the other end's output stays with its sender.
    window: usize,
    /// The other end sends no more.
    finished: bool,
    /// The other end was aborted.
    reset: bool,
    eof_told: bool,
    opened_told: bool,
    /// Closed by its own side.
    gone: bool,
}

impl End {
    fn new(owner: Owner, origin: Origin) -> End {
        End {
            owner,
            origin,
            inbound: VecDeque::new(),
            window: usize::MAX,
            finished: false,
            reset: false,
            eof_told: false,
            opened_told: false,
            gone: false,
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    io: Io,
    /// Slot to (connection, pipe end).
    ends: Vec<Option<(ConnId, usize)>>,
    listeners: Vec<Address>,
    ended: Vec<(ConnId, Closed)>,
    drained: Vec<ConnId>,
    parked: bool,
    next: Option<Next>,
    stopped: bool,
    held_up_ns: Option<u64>,
}

/// The engines' tables and the pipes between them.
#[derive(Debug)]
pub struct InProc {
    nodes: Vec<Node>,
    /// Ends `2k` and `2k + 1` form one pipe.
    ends: Vec<End>,
    fragments: Vec<usize>,
    fragment_at: usize,
    chunks_per_step: usize,
    progress: bool,
}

impl InProc {
    /// A loop for `engines` engines, numbered from zero.
    pub fn new(engines: usize) -> InProc {
        InProc {
            nodes: (0..engines).map(|_| Node::default()).collect(),
            ends: Vec::new(),
            fragments: Vec::new(),
            fragment_at: 0,
            chunks_per_step: usize::MAX,
            progress: false,
        }
    }

    /// Cuts deliveries to these lengths, repeated cyclically. An empty list leaves them whole.
    ///
    /// # Panics
    /// If a length is zero, which would deliver nothing for ever.
    pub fn set_fragments(&mut self, lengths: &[usize]) {
        assert!(lengths.iter().all(|&l| l > 0), "a fragment has at least one byte");
        self.fragments = lengths.to_vec();
        self.fragment_at = 0;
    }

    /// Most deliveries to one connection in one step; unlimited at first.
    pub fn set_chunks_per_step(&mut self, chunks: usize) {
        self.chunks_per_step = chunks;
    }

    /// Directs connections that engines open to `address` to `engine` from now on. Returns the number of
    /// the new listener there.
    pub fn listen(&mut self, engine: usize, address: Address) -> u16 {
        let listeners = &mut self.nodes[engine].listeners;
        listeners.push(address);
        (listeners.len() - 1) as u16
    }

    /// Connects two engines. The end of `a` looks opened by `a`, the end of `b` accepted by listener 0 of
    /// `b`.
    pub fn connect(&mut self, a: usize, b: usize) -> (ConnId, ConnId) {
        let conn_a = self.nodes[a].io.open();
        let peer = self.made_up_address();
        let conn_b = self.join(Owner::Engine(a, conn_a), b, 0, peer.clone(), peer);
        (conn_a, conn_b)
    }

    /// Connects the test to `engine`, as if to its listener 0.
    pub fn dial(&mut self, engine: usize) -> Wire {
        let peer = self.made_up_address();
        self.dial_from(engine, 0, peer)
    }

    /// Connects the test to a listener of `engine`, from the address `peer`.
    pub fn dial_from(&mut self, engine: usize, listener: u16, peer: Address) -> Wire {
        let wire = Wire(self.ends.len());
        self.join(Owner::Test, engine, listener, peer.clone(), peer);
        wire
    }

    /// Sends from the test's end.
    pub fn send(&mut self, wire: Wire, bytes: &[u8]) {
        self.ends[wire.0 ^ 1].inbound.extend(bytes);
    }

    /// Takes what arrived at the test's end.
    pub fn received(&mut self, wire: Wire) -> Vec<u8> {
        self.ends[wire.0].inbound.drain(..).collect()
    }

    /// Limits the bytes on their way from the engine to the test: a peer that reads slowly, or not at all.
    pub fn set_window(&mut self, wire: Wire, bytes: usize) {
        self.ends[wire.0].window = bytes;
    }

    /// Ends the test's direction of the connection (half-close).
    pub fn finish(&mut self, wire: Wire) {
        self.ends[wire.0 ^ 1].finished = true;
    }

    /// Resets the connection from the test's end.
    pub fn reset(&mut self, wire: Wire) {
        self.ends[wire.0].gone = true;
        self.ends[wire.0 ^ 1].reset = true;
    }

    /// Whether the engine closed the connection. Bytes that it sent before may still be there to take.
    pub fn is_closed(&self, wire: Wire) -> bool {
        self.ends[wire.0].finished || self.ends[wire.0].reset
    }

    /// The engine's end of a wire; `None` once that end is gone.
    pub fn conn(&self, wire: Wire) -> Option<ConnId> {
        match self.ends[wire.0 ^ 1] {
            End { owner: Owner::Engine(_, conn), gone: false, .. } => Some(conn),
            _ => None,
        }
    }

    /// The table of an engine, for requests that a test makes in the engine's place.
    pub fn io(&mut self, engine: usize) -> &mut Io {
        &mut self.nodes[engine].io
    }

    /// The engine's result of its last turn.
    pub fn next(&self, engine: usize) -> Option<Next> {
        self.nodes[engine].next
    }

    /// Simulates a process stopped for `ns` in the engine's next turn, after [`Engine::turn`] and before
    /// its output leaves.
    pub fn hold_up(&mut self, engine: usize, ns: u64) {
        self.nodes[engine].held_up_ns = Some(ns);
    }

    /// Gives each engine, in order, one turn at the time `now`. Returns whether anything happened: a
    /// delivery, a byte sent, a connection opened or closed, or an engine that wants another turn.
    ///
    /// # Panics
    /// If the number of `engines` differs from the one given to [`InProc::new`].
    pub fn step(&mut self, now: Now, engines: &mut [&mut dyn Engine]) -> bool {
        assert_eq!(engines.len(), self.nodes.len(), "one engine for each number");
        self.progress = false;
        for (n, engine) in engines.iter_mut().enumerate() {
            if !self.nodes[n].stopped {
                self.turn(now, n, *engine);
            }
        }
        self.progress
    }

    /// Steps until nothing happens any more. Returns `false` if that takes more than `steps_max` steps.
    pub fn run_until_quiet(&mut self, now: Now, engines: &mut [&mut dyn Engine], steps_max: usize) -> bool {
        (0..steps_max).any(|_| !self.step(now, engines))
    }

    fn turn(&mut self, now: Now, n: usize, engine: &mut dyn Engine) {
        if std::mem::take(&mut self.nodes[n].parked) {
            engine.unpark();
        }
        self.tell(now, n, engine);
        for slot in 0..self.nodes[n].ends.len() {
            if let Some((conn, end)) = self.nodes[n].ends[slot] {
                self.deliver(now, n, conn, end, engine);
            }
        }
        let next = engine.turn(now, &mut self.nodes[n].io);
        self.nodes[n].next = Some(next);
        if let Some(ns) = self.nodes[n].held_up_ns.take() {
            engine.late(Now { mono_ns: now.mono_ns + ns, ..now }, &mut self.nodes[n].io);
        }
        match next {
            Next::Again => self.progress = true,
            Next::Stop => self.close_all(n),
            Next::Sleep { .. } => {}
        }
        self.submit_requests(n);
        if next == Next::Stop {
            // Windows do not delay a stop: output that was not taken is lost with the connection.
            for slot in 0..self.nodes[n].ends.len() {
                if let Some((conn, end)) = self.nodes[n].ends[slot] {
                    self.end(n, conn, end, Closed::ByEngine, false);
                }
            }
            self.tell(now, n, engine);
            self.nodes[n].stopped = true;
            self.progress = true;
        } else if matches!(next, Next::Sleep { .. })
            && self.nodes[n].ended.is_empty()
            && self.nodes[n].drained.is_empty()
        {
            match engine.park() {
                true => self.nodes[n].parked = true,
                false => self.progress = true,
            }
        }
    }

    fn tell(&mut self, now: Now, n: usize, engine: &mut dyn Engine) {
        let node = &mut self.nodes[n];
        while let Some((conn, why)) = node.ended.pop() {
            self.progress = true;
            node.io.abort(conn);
            engine.closed(now, conn, why, &mut node.io);
            node.io.release(conn);
        }
        while let Some(conn) = node.drained.pop() {
            if node.io.is_open(conn) {
                self.progress = true;
                engine.drained(now, conn, &mut node.io);
            }
        }
    }

    fn deliver(&mut self, now: Now, n: usize, conn: ConnId, end: usize, engine: &mut dyn Engine) {
        if !self.ends[end].opened_told {
            self.ends[end].opened_told = true;
            self.progress = true;
            let origin = self.ends[end].origin.clone();
            engine.opened(now, conn, &origin, &mut self.nodes[n].io);
        }
        for _ in 0..self.chunks_per_step {
            let io = &mut self.nodes[n].io;
            let reading = io.requests(conn).is_some_and(|r| r.close == CloseRequest::None && !r.input_paused)
                && !self.ends[end].reset;
            if !reading || self.ends[end].inbound.is_empty() {
                break;
            }
            let length = match self.fragments.is_empty() {
                true => usize::MAX,
                false => self.fragments[self.fragment_at % self.fragments.len()],
            };
            self.fragment_at += 1;
            let inbound = &mut self.ends[end].inbound;
            let chunk: Vec<u8> = inbound.drain(..length.min(inbound.len())).collect();
            self.progress = true;
            engine.received(now, conn, &chunk, io);
        }
        let io = &mut self.nodes[n].io;
        let state = &mut self.ends[end];
        let reading = io.requests(conn).is_some_and(|r| r.close == CloseRequest::None && !r.input_paused);
        if state.reset {
            self.end(n, conn, end, Closed::ByPeer, true);
        } else if reading && state.finished && state.inbound.is_empty() && !state.eof_told {
            state.eof_told = true;
            self.progress = true;
            engine.eof(now, conn, io);
        }
    }

    /// Opens connections, moves output and closes connections as engine `n` requested.
    fn submit_requests(&mut self, n: usize) {
        let mut connects = Vec::new();
        self.nodes[n].io.take_connects(&mut connects);
        for (conn, address) in connects {
            self.progress = true;
            if !self.nodes[n].io.is_open(conn) {
                self.nodes[n].ended.push((conn, Closed::ByEngine));
                continue;
            }
            let listener = self.nodes.iter().enumerate().find_map(|(at, node)| {
                let open = if node.stopped { &[][..] } else { &node.listeners[..] };
                open.iter().position(|l| *l == address).map(|l| (at, l as u16))
            });
            match listener {
                None => self.nodes[n].ended.push((conn, Closed::ConnectFailed(ECONNREFUSED))),
                Some((to, listener)) => {
                    let from = self.made_up_address();
                    self.join(Owner::Engine(n, conn), to, listener, from, address);
                }
            }
        }
        let mut dirty = Vec::new();
        self.nodes[n].io.take_dirty(&mut dirty);
        for slot in 0..self.nodes[n].ends.len() {
            if let Some((conn, end)) = self.nodes[n].ends[slot] {
                self.submit_requests_of(n, conn, end);
            }
        }
    }

    fn submit_requests_of(&mut self, n: usize, conn: ConnId, end: usize) {
        let Some(requests) = self.nodes[n].io.requests(conn) else { return };
        if requests.close == CloseRequest::Now {
            return self.end(n, conn, end, Closed::ByEngine, true);
        }
        if requests.output && self.ends[end ^ 1].gone {
            return self.end(n, conn, end, Closed::ByPeer, true);
        }
        if requests.output {
            self.move_output(n, conn, end);
        }
        if requests.close == CloseRequest::AfterOutput && self.nodes[n].io.unsent(conn) == 0 {
            self.end(n, conn, end, Closed::ByEngine, false);
        }
    }

    /// Moves as much output as the other end has room for.
    fn move_output(&mut self, n: usize, conn: ConnId, end: usize) {
        let io = &mut self.nodes[n].io;
        let to = &mut self.ends[end ^ 1];
        loop {
            let room = to.window.saturating_sub(to.inbound.len());
            let Some(out) = io.output(conn).filter(|out| !out.is_empty() && room > 0) else { return };
            let mut first = [IoSlice::new(&[])];
            out.slices(&mut first);
            let count = room.min(first[0].len());
            to.inbound.extend(&first[0][..count]);
            self.progress = true;
            if io.sent(conn, count) {
                self.nodes[n].drained.push(conn);
                return;
            }
        }
    }

    fn end(&mut self, n: usize, conn: ConnId, end: usize, why: Closed, abrupt: bool) {
        let asked_for = !self.nodes[n].io.is_open(conn);
        self.nodes[n].ends[conn.index()] = None;
        self.nodes[n].ended.push((conn, if asked_for { Closed::ByEngine } else { why }));
        self.ends[end].gone = true;
        self.ends[end].inbound = VecDeque::new();
        self.ends[end ^ 1].finished = true;
        self.ends[end ^ 1].reset |= abrupt;
        self.progress = true;
    }

    fn close_all(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        for (conn, _) in node.ends.iter().flatten() {
            node.io.close(*conn);
        }
    }

    /// Makes a pipe from `from` to a new connection of engine `to`.
    fn join(&mut self, from: Owner, to: usize, listener: u16, peer: Address, target: Address) -> ConnId {
        let accepted = self.nodes[to].io.open();
        let at = self.ends.len();
        self.ends.push(End::new(from, Origin { peer: target, listener: None }));
        self.ends.push(End::new(Owner::Engine(to, accepted), Origin { peer, listener: Some(listener) }));
        for end in [at, at + 1] {
            if let Owner::Engine(n, conn) = self.ends[end].owner {
                let ends = &mut self.nodes[n].ends;
                if ends.len() <= conn.index() {
                    ends.resize(conn.index() + 1, None);
                }
                ends[conn.index()] = Some((conn, end));
            }
        }
        accepted
    }

    fn made_up_address(&self) -> Address {
        let port = FIRST_PORT + (self.ends.len() / 2 % 20_000) as u16;
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Echoes, and records the calls of the loop.
    #[derive(Default)]
    struct Echo {
        told: Vec<String>,
        connect_to: Option<Address>,
        stop: bool,
    }

    impl Engine for Echo {
        fn opened(&mut self, _: Now, _: ConnId, origin: &Origin, _: &mut Io) {
            self.told.push(format!("opened {:?}", origin.listener));
        }
        fn received(&mut self, _: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
            self.told.push(format!("received {}", bytes.len()));
            if let Some(out) = io.out(conn) {
                out.bytes().extend_from_slice(bytes);
            }
        }
        fn drained(&mut self, _: Now, _: ConnId, _: &mut Io) {
            self.told.push("drained".into());
        }
        fn closed(&mut self, _: Now, _: ConnId, why: Closed, _: &mut Io) {
            self.told.push(format!("closed {why:?}"));
        }
        fn turn(&mut self, _: Now, io: &mut Io) -> Next {
            if let Some(address) = self.connect_to.take() {
                io.connect(address);
            }
            if self.stop { Next::Stop } else { Next::Sleep { deadline_ns: None } }
        }
    }

    fn settle(inproc: &mut InProc, engine: &mut Echo) {
        assert!(inproc.run_until_quiet(Now::default(), &mut [engine], 100));
    }

    #[test]
    fn bytes_come_back_under_fragmentation() {
        let (mut inproc, mut echo) = (InProc::new(1), Echo::default());
        inproc.set_fragments(&[1, 3]);
        let wire = inproc.dial(0);
        inproc.send(wire, b"0123456789");
        settle(&mut inproc, &mut echo);
        assert_eq!(inproc.received(wire), b"0123456789");
        assert_eq!(echo.told[1..4], ["received 1", "received 3", "received 1"]);
    }

    #[test]
    fn a_half_close_is_told_after_the_last_byte_and_answered_by_a_close() {
        let (mut inproc, mut echo) = (InProc::new(1), Echo::default());
        let wire = inproc.dial(0);
        inproc.send(wire, b"bye");
        inproc.finish(wire);
        settle(&mut inproc, &mut echo);
        assert_eq!(inproc.received(wire), b"bye");
        assert!(inproc.is_closed(wire));
        assert_eq!(echo.told, ["opened Some(0)", "received 3", "closed ByEngine"]);
    }

    #[test]
    fn a_peer_that_does_not_read_holds_output_until_it_drains() {
        let (mut inproc, mut echo) = (InProc::new(1), Echo::default());
        let wire = inproc.dial(0);
        inproc.set_window(wire, 10);
        let much = vec![7; crate::io::OUTPUT_HIGH_WATER_BYTES + 1];
        inproc.send(wire, &much);
        settle(&mut inproc, &mut echo);
        let conn = inproc.conn(wire).unwrap();
        assert_eq!(inproc.io(0).unsent(conn), much.len() - 10);
        inproc.set_window(wire, usize::MAX);
        settle(&mut inproc, &mut echo);
        assert_eq!(inproc.received(wire), much);
        assert_eq!(echo.told.last().unwrap(), "drained");
    }

    #[test]
    fn engines_find_each_other_by_address_or_are_refused() {
        let address: Address = "10.0.0.1:2181".parse().unwrap();
        let mut inproc = InProc::new(2);
        let (mut a, mut b) = (Echo { connect_to: Some(address.clone()), ..Echo::default() }, Echo::default());
        inproc.listen(1, address.clone());
        assert!(inproc.run_until_quiet(Now::default(), &mut [&mut a, &mut b], 100));
        assert_eq!((&a.told[..], &b.told[..]), (&["opened None".into()][..], &["opened Some(0)".into()][..]));
        b.stop = true;
        assert!(inproc.run_until_quiet(Now::default(), &mut [&mut a, &mut b], 100));
        assert_eq!(a.told.last().unwrap(), "closed ByEngine", "the peer's end was answered with a close");
        a.connect_to = Some(address);
        assert!(inproc.run_until_quiet(Now::default(), &mut [&mut a, &mut b], 100));
        assert_eq!(a.told.last().unwrap(), "closed ConnectFailed(111)");
    }

    #[test]
    fn a_reset_is_the_peers_doing() {
        let (mut inproc, mut echo) = (InProc::new(1), Echo::default());
        let wire = inproc.dial(0);
        settle(&mut inproc, &mut echo);
        inproc.reset(wire);
        settle(&mut inproc, &mut echo);
        assert_eq!(echo.told, ["opened Some(0)", "closed ByPeer"]);
    }
}
