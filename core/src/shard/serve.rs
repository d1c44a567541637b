//! Serving: passes of parsing, batched lookup and answering over every ready connection.
//!
//! Owns the order in which requests of all connections are served. In a pass each ready connection is
//! parsed from the head of its input for as long as its requests may share the pass ([`super::parse`]).
//! Then all reads of the pass are looked up together and answered.
//!
//! Never forwards a write ([`super::parse`] does) and never sleeps.
//!
//! Correct because each pass answers or forwards at least one request of every connection still in it. No
//! connection begins more than [`REQUESTS_PER_TURN_MAX`] requests in a turn, so serving ends.

use super::Shard;
use super::config::{
    INPUT_HIGH_WATER_BYTES, INPUT_IN_TURN_MAX_BYTES, REQUESTS_PER_TURN_MAX, VISITS_PER_TURN_MAX,
};
use super::connection::{Connection, ConnectionPhase};
use super::local_requests::{LocalOutcome, LocalRequest};
use super::read_replies::ReadView;
use super::request_class::RequestKind;
use super::watch_requests::refuse_watches;
use crate::stats::ShardCells;
use crate::tree::Znode;
use crate::watch::Watches;
use paddock_transport::engine::Now;
use paddock_transport::io::{Io, OUTPUT_HIGH_WATER_BYTES, OutBuf};
use paddock_transport::wire::{
    DecodeError, Limits, REPLY_HEADER_BYTES, ReplyHeader, Request, error, put_frame, put_multi_end, reply,
};
use std::cell::Cell;

/// Reads looked up and answered at a time: enough to hide memory latency, few enough that the fetched
/// znodes are still in the first-level cache when they are answered.
const LOOKUPS_TOGETHER: usize = 32;

/// One connection's progress through the current turn.
#[derive(Default)]
pub(super) struct ConnectionTurn {
    pub slot: u32,
    /// Bytes of the input that are answered or forwarded.
    pub done_bytes: usize,
    /// Requests begun, at most [`REQUESTS_PER_TURN_MAX`].
    pub begun: usize,
    /// Nothing more is done for the connection in this turn.
    pub over: bool,
    /// More could be served at once: the connection is ready again in the next turn, and the loop does
    /// not sleep.
    pub again: bool,
    /// The ring to the consensus core was full.
    pub retry: bool,
    pub close: bool,
    /// Other connections spent the turn's visits before this one was served: it goes first in the next turn.
    pub first: bool,
}

/// A request that the shard answers, in the order of its connection.
pub(super) struct ParsedRequest<'i> {
    /// Index of the connection's [`ConnectionTurn`].
    pub turn: u32,
    pub xid: i32,
    /// Offset in the input behind the request.
    pub end: usize,
    pub kind: RequestKind<'i>,
}

/// Vectors that are filled and emptied in every turn and keep their allocation.
#[derive(Default)]
pub(super) struct Scratch {
    turns: Vec<ConnectionTurn>,
    inputs: Vec<Vec<u8>>,
    requests: Vec<ParsedRequest<'static>>,
    paths: Vec<&'static str>,
}

/// Empties a vector and keeps its allocation for items of another lifetime.
fn reuse<A, B>(mut from: Vec<A>) -> Vec<B> {
    from.clear();
    from.into_iter().filter_map(|_| None).collect()
}

/// Pauses a connection whose unserved input reaches `max_bytes`, and resumes it below that. A single
/// larger frame is still read to its end.
fn pace(connection: &mut Connection, max_bytes: usize, io: &mut Io) {
    use ConnectionPhase::{AwaitingClientList, Closing, Opening};
    if matches!(connection.phase, Opening | Closing | AwaitingClientList) {
        return;
    }
    let full = connection.input.len() >= max_bytes.max(connection.needed_bytes);
    if full != connection.paused {
        connection.paused = full;
        if full { io.pause_input(connection.id) } else { io.resume_input(connection.id) }
    }
}

/// Paces a connection while input arrives. The bound is the wider one, because the turn that follows
/// serves most of it.
pub(super) fn pace_input(connection: &mut Connection, io: &mut Io) {
    if !connection.paused {
        pace(connection, INPUT_IN_TURN_MAX_BYTES, io);
    }
}

impl Shard {
    /// Serves every ready connection. `true`: more could be served at once.
    pub(super) fn serve(&mut self, now: Now, io: &mut Io) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let Scratch { mut turns, mut inputs, mut requests, mut paths } = std::mem::take(&mut self.scratch);
        self.begin_turns(now, &mut turns, &mut inputs, io);
        let mut passes = 0;
        while turns.iter().any(|turn| !turn.over) && self.pinned {
            passes += 1;
            let mut batch: Vec<ParsedRequest<'_>> = reuse(requests);
            for (n, input) in inputs.iter().enumerate() {
                if !turns[n].over {
                    self.parse(now, n as u32, &mut turns[n], input, &mut batch);
                }
            }
            for together in batch.chunks(LOOKUPS_TOGETHER) {
                paths = self.answer(together, &mut turns, paths, io);
            }
            requests = reuse(batch);
        }
        debug_assert!(passes <= 2 * REQUESTS_PER_TURN_MAX + 2, "each pass begins at least one request");
        let more = self.end_turns(now, &mut turns, &mut inputs, io);
        self.scratch = Scratch { turns, inputs, requests, paths };
        more
    }

    /// Takes the input of every ready connection that is open. Connections without a session go through
    /// the handshake.
    fn begin_turns(
        &mut self,
        now: Now,
        turns: &mut Vec<ConnectionTurn>,
        inputs: &mut Vec<Vec<u8>>,
        io: &mut Io,
    ) {
        let mut ready = std::mem::take(&mut self.ready);
        for slot in ready.drain(..) {
            let Some(connection) = self.connections.slot(slot) else { continue };
            connection.ready = false;
            if connection.phase == ConnectionPhase::Fresh {
                self.handshake(now, slot, io);
                // The handshake may open a read-only session at once; the requests behind it are served
                // in this turn.
                if self.connections.slot(slot).is_none_or(|c| c.phase != ConnectionPhase::Open) {
                    self.settle(now, slot, io);
                    continue;
                }
            }
            let Some(connection) = self.connections.slot(slot) else { continue };
            if connection.phase == ConnectionPhase::Open {
                inputs.push(std::mem::take(&mut connection.input));
                turns.push(ConnectionTurn { slot, ..ConnectionTurn::default() });
            }
        }
        // Connections that became ready meanwhile are in the new list. The old list keeps its allocation.
        ready.append(&mut self.ready);
        self.ready = ready;
    }

    /// Puts unserved input back and closes, re-queues or paces each connection. `true`: more could be
    /// served at once.
    fn end_turns(
        &mut self,
        now: Now,
        turns: &mut Vec<ConnectionTurn>,
        inputs: &mut Vec<Vec<u8>>,
        io: &mut Io,
    ) -> bool {
        let mut more = false;
        // Connections delayed by the expensive requests of others are served before them in the next turn.
        for turn in turns.iter().filter(|turn| turn.first && !turn.close) {
            if let Some(connection) = self.connections.slot(turn.slot) {
                Self::mark_ready(&mut self.ready, connection);
            }
        }
        for (turn, input) in turns.drain(..).zip(inputs.drain(..)) {
            let Some(connection) = self.connections.slot(turn.slot) else { continue };
            connection.put_back(input, turn.done_bytes);
            if turn.close {
                self.close(now, turn.slot, io);
                continue;
            }
            if turn.again || turn.retry {
                more |= turn.again;
                Self::mark_ready(&mut self.ready, connection);
            }
            self.settle(now, turn.slot, io);
        }
        more
    }

    /// Paces a connection after it was served, and closes it if its peer sends no more.
    fn settle(&mut self, now: Now, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        pace(connection, INPUT_HIGH_WATER_BYTES, io);
        let leaving =
            matches!(connection.phase, ConnectionPhase::Closing | ConnectionPhase::AwaitingClientList);
        if connection.eof && !leaving {
            self.close(now, slot, io);
        }
    }

    /// Looks up the paths of `batch` together and answers its requests in order. Takes `paths` for its
    /// allocation and returns it.
    fn answer<'i>(
        &mut self,
        batch: &'i [ParsedRequest<'i>],
        turns: &mut [ConnectionTurn],
        paths: Vec<&'static str>,
        io: &mut Io,
    ) -> Vec<&'static str> {
        let mut paths: Vec<&str> = reuse(paths);
        paths.extend(batch.iter().filter_map(|request| match &request.kind {
            RequestKind::Read { path, .. } => Some(&**path),
            _ => None,
        }));
        let mut found = Vec::with_capacity(paths.len());
        self.reader.get_batch(&paths, &mut found);
        let mut found = found.into_iter();
        let view = ReadView {
            reader: &self.reader,
            zxid: self.zxid,
            policy: self.config.policy,
            visited: Cell::new(self.visited),
            multi_read_bytes_max: self.config.multi_read_reply_max_bytes(),
        };
        let mut answers = Answers {
            view: &view,
            watches: &mut self.watches,
            cells: self.stats.shard(self.config.id),
            super_digest: self.config.super_digest.as_deref(),
            limits: self.limits,
            received: 0,
            sent: 0,
            reads: 0,
        };
        for request in batch {
            let znode =
                if let RequestKind::Read { .. } = request.kind { found.next().flatten() } else { None };
            let turn = &mut turns[request.turn as usize];
            if turn.over {
                continue;
            }
            let Some(connection) = self.connections.slot(turn.slot) else { continue };
            if answers.must_wait(request, turn, connection, io) {
                continue;
            }
            let Some(out) = io.out(connection.id) else {
                turn.over = true;
                continue;
            };
            answers.answer(request, znode, turn, connection, out);
        }
        answers.count();
        self.visited = view.visited.get();
        reuse(paths)
    }
}

/// Answers the requests of one batch at one version, and counts them.
struct Answers<'s, 'v> {
    view: &'s ReadView<'v>,
    watches: &'s mut Watches,
    cells: &'s ShardCells,
    super_digest: Option<&'s str>,
    limits: Limits,
    received: u64,
    sent: u64,
    reads: u64,
}

impl Answers<'_, '_> {
    /// Whether the request must wait: its peer does not read, or the turn's visits are spent.
    #[inline]
    fn must_wait(
        &self,
        request: &ParsedRequest<'_>,
        turn: &mut ConnectionTurn,
        connection: &mut Connection,
        io: &Io,
    ) -> bool {
        if io.unsent(connection.id) > OUTPUT_HIGH_WATER_BYTES {
            connection.stalled = true;
            turn.over = true;
            turn.again = false;
            self.cells.output_stalls.add(1);
            return true;
        }
        if self.view.visited.get() >= VISITS_PER_TURN_MAX && request.kind.looks_at_many() {
            turn.over = true;
            turn.again = true;
            turn.first = turn.done_bytes == 0;
            return true;
        }
        false
    }

    /// Answers one request. `znode` is the result of the lookup, for reads.
    #[inline]
    fn answer(
        &mut self,
        request: &ParsedRequest<'_>,
        znode: Option<Znode<'_>>,
        turn: &mut ConnectionTurn,
        connection: &mut Connection,
        out: &mut OutBuf,
    ) {
        turn.done_bytes = request.end;
        connection.received += 1;
        self.received += 1;
        let (xid, zxid) = (request.xid, self.view.zxid);
        match &request.kind {
            RequestKind::Read { read, path, watch } => {
                let err = self.view.answer(*read, xid, path, znode, &connection.identities, out);
                self.reads += 1;
                if *watch && let Some(mode) = read.arms(err) {
                    let armed = self.watches.add(turn.slot, path, mode);
                    turn.close |= refuse_watches(armed, connection);
                }
            }
            RequestKind::Ping => reply::put_ping(out.bytes(), zxid),
            RequestKind::Local { opcode, body } => {
                turn.close |= self.answer_local(xid, *opcode, body, connection, out);
            }
            RequestKind::Fault(code) => {
                self.cells.requests_malformed.add(1);
                reply::put_error(out.bytes(), xid, zxid, *code);
            }
            RequestKind::NotReadOnly => reply::put_error(out.bytes(), xid, zxid, error::NOT_READ_ONLY),
            RequestKind::CloseLocalSession => {
                reply::put_empty(out.bytes(), xid, zxid);
                turn.close = true;
            }
            RequestKind::Unknown => {
                reply::put_error(out.bytes(), xid, -1, error::UNIMPLEMENTED);
                turn.close = true;
            }
            RequestKind::Reject => {
                self.cells.frames_rejected.add(1);
                (turn.close, turn.over) = (true, true);
                return;
            }
        }
        connection.sent += 1;
        self.sent += 1;
        turn.over |= turn.close;
    }

    /// Answers a request of [`RequestKind::Local`]. `true`: the connection closes behind the reply.
    fn answer_local(
        &mut self,
        xid: i32,
        opcode: i32,
        body: &[u8],
        connection: &mut Connection,
        out: &mut OutBuf,
    ) -> bool {
        let request = match Request::decode(opcode, body, self.limits) {
            Ok(request) => request,
            Err(fault) => {
                self.cells.requests_malformed.add(1);
                reply::put_error(out.bytes(), xid, self.view.zxid, fault.code());
                if matches!(fault, DecodeError::WriteInMultiRead(_)) {
                    end_refused_multi_read(out, xid, self.view.zxid);
                }
                return false;
            }
        };
        let (view, super_digest) = (self.view, self.super_digest);
        let mut local = LocalRequest { view, watches: &mut *self.watches, connection, super_digest, xid };
        match local.answer(opcode, request, out) {
            LocalOutcome::Open { events } => {
                self.sent += events;
                self.cells.watch_events.add(events);
                false
            }
            LocalOutcome::AuthFailed => {
                self.cells.auth_failed.add(1);
                true
            }
            LocalOutcome::Close => true,
        }
    }

    /// Adds the batch to the shard's counters.
    fn count(self) {
        self.cells.packets_received.add(self.received);
        self.cells.reads_served.add(self.reads);
        self.cells.latency_count.add(self.received);
        self.cells.packets_sent.add(self.sent);
    }
}

/// Replaces the refusal of a multiRead that contains writes by one that ends with a terminator, as
/// ZooKeeper's does. Clients skip the bytes behind an error.
fn end_refused_multi_read(out: &mut OutBuf, xid: i32, zxid: i64) {
    let bytes = out.bytes();
    let header = 4 + REPLY_HEADER_BYTES;
    bytes.truncate(bytes.len().saturating_sub(header));
    put_frame(bytes, |out| {
        ReplyHeader { xid, zxid, err: error::MARSHALLING_ERROR }.put(out);
        put_multi_end(out);
    });
}
