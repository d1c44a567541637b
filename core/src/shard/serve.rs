//! Serving: rounds of parsing, one batch of lookups, answering.
//!
//! Owns the order in which a connection's requests are looked at. In a round each ready connection is parsed from the
//! head of its input for as long as its requests may go together: writes are forwarded at once, reads are gathered; a read
//! stops at a write that is on its way, a write stops at a read that was gathered in the same round. Then all gathered
//! reads are looked up together and answered. It ends because each round moves every connection that is still in it,
//! and no connection moves further in a turn than [`REQUESTS_PER_TURN_MAX`] requests.

use super::config::{
    INPUT_HIGH_WATER_BYTES, INPUT_IN_TURN_MAX_BYTES, REQUESTS_PER_TURN_MAX, WRITE_BYTES_IN_FLIGHT_MAX,
    WRITES_IN_FLIGHT_MAX,
};
use super::connection::{Connection, Pending, Phase, Waiting};
use super::reads::{Read, View};
use super::{Shard, auth, watching};
use crate::command::Op;
use crate::submit::Submit;
use crate::watch::{Watches, WatchesFull};
use paddock_transport::engine::Now;
use paddock_transport::io::{Io, OUTPUT_HIGH_WATER_BYTES, OutBuf};
use paddock_transport::wire::opcode::{self, Class};
use paddock_transport::wire::{
    DecodeError, Reader, ReplyHeader, Request, RequestHeader, Response, Split, Text, error, put_frame,
    put_multi_end, reply, split,
};

/// One connection that is being served in this turn.
#[derive(Default)]
pub(super) struct Work {
    slot: u32,
    /// Bytes of its input that are done with.
    done_bytes: usize,
    /// Requests begun in this turn.
    begun: usize,
    /// Nothing more happens to it in this turn.
    over: bool,
    /// It could go on at once: look again in the next turn.
    again: bool,
    /// It waits for room in the ring to the consensus core.
    retry: bool,
    close: bool,
}

/// A request that is answered here, in the order of the connection.
pub(super) struct Item<'i> {
    /// Index of its connection among the works.
    work: u32,
    xid: i32,
    /// Where the input goes on behind it.
    end: usize,
    what: What<'i>,
}

enum What<'i> {
    /// A read of one path: its znode is the next of the batch.
    Read {
        read: Read,
        path: Text<'i>,
        watch: bool,
    },
    Ping,
    /// Anything else that is answered here.
    Local {
        opcode: i32,
        body: &'i [u8],
    },
    /// A request that cannot be decoded or is not offered: this error, and the connection lives on.
    Fault(i32),
    /// An opcode that does not exist for clients: -6 with zxid -1, then closed.
    Unknown,
    /// A frame that cannot be: closed without a reply.
    Reject,
}

/// Vectors that are filled and emptied in every turn and keep their memory.
#[derive(Default)]
pub(super) struct Benches {
    works: Vec<Work>,
    inputs: Vec<Vec<u8>>,
    items: Vec<Item<'static>>,
    paths: Vec<&'static str>,
}

/// The same memory for items of another lifetime.
fn reuse<A, B>(mut from: Vec<A>) -> Vec<B> {
    from.clear();
    from.into_iter().filter_map(|_| None).collect()
}

/// Stops reading a connection that holds as much unserved input as it may, and reads it again when it holds less.
fn pace(connection: &mut Connection, max_bytes: usize, io: &mut Io) {
    if matches!(connection.phase, Phase::Opening | Phase::Closing) {
        return;
    }
    let full = connection.input.len() >= max_bytes.max(connection.needed_bytes);
    if full != connection.paused {
        connection.paused = full;
        if full { io.pause_input(connection.id) } else { io.resume_input(connection.id) }
    }
}

/// While input comes in: the turn that follows will serve most of it, so this bound is the wider one.
pub(super) fn pace_input(connection: &mut Connection, io: &mut Io) {
    if !connection.paused {
        pace(connection, INPUT_IN_TURN_MAX_BYTES, io);
    }
}

impl Shard {
    /// Serves every ready connection; whether one of them could go on at once.
    pub(super) fn serve(&mut self, now: Now, io: &mut Io) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let Benches { mut works, mut inputs, mut items, mut paths } = std::mem::take(&mut self.benches);
        let mut ready = std::mem::take(&mut self.ready);
        for slot in ready.drain(..) {
            let Some(connection) = self.connections.slot(slot) else { continue };
            connection.ready = false;
            if connection.phase == Phase::Fresh {
                self.handshake(now, slot, io);
                self.settle(now, slot, io);
            } else if connection.phase == Phase::Open {
                inputs.push(std::mem::take(&mut connection.input));
                works.push(Work { slot, ..Work::default() });
            }
        }
        // Connections that became ready again meanwhile are in the new list; keep the old one's memory.
        ready.append(&mut self.ready);
        self.ready = ready;

        let mut rounds = 0;
        while works.iter().any(|w| !w.over) && self.standing {
            rounds += 1;
            let mut batch: Vec<Item<'_>> = reuse(items);
            for (n, input) in inputs.iter().enumerate() {
                if !works[n].over {
                    self.gather(now, n as u32, &mut works[n], input, &mut batch);
                }
            }
            paths = self.answer(&batch, &mut works, paths, io);
            items = reuse(batch);
        }
        debug_assert!(rounds <= 2 * REQUESTS_PER_TURN_MAX + 2, "each round begins at least one request");

        let mut more = false;
        for (work, input) in works.drain(..).zip(inputs.drain(..)) {
            let Some(connection) = self.connections.slot(work.slot) else { continue };
            connection.put_back(input, work.done_bytes);
            if work.close {
                self.close(now, work.slot, io);
                continue;
            }
            if work.again || work.retry {
                more |= work.again;
                Self::mark_ready(&mut self.ready, connection);
            }
            self.settle(now, work.slot, io);
        }
        self.benches = Benches { works, inputs, items, paths };
        more
    }

    /// After a connection was looked at: read it or not, and let it go if its peer is gone.
    fn settle(&mut self, now: Now, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        pace(connection, INPUT_HIGH_WATER_BYTES, io);
        if connection.eof && connection.phase != Phase::Closing {
            self.close(now, slot, io);
        }
    }

    /// Parses from where the connection stands: forwards writes, gathers reads.
    fn gather<'i>(&mut self, now: Now, n: u32, work: &mut Work, input: &'i [u8], batch: &mut Vec<Item<'i>>) {
        let Some(connection) = self.connections.slot(work.slot) else {
            work.over = true;
            return;
        };
        let max = self.config.jute_max_buffer_bytes;
        let mut at = work.done_bytes;
        let mut gathered = false;
        // Whatever ends the loop without setting `over` waits for the reads gathered before it.
        loop {
            if connection.stalled || connection.barrier || connection.phase != Phase::Open {
                work.over = !gathered;
                return;
            }
            let (header, body, end) = match split(&input[at..], max) {
                Ok(Split::Incomplete { needed_bytes }) => {
                    connection.needed_bytes = needed_bytes;
                    work.over = !gathered;
                    return;
                }
                Ok(Split::Frame { payload, rest }) => match RequestHeader::split(payload) {
                    Ok((header, body)) => (header, body, input.len() - rest.len()),
                    Err(_) => return gather_end(connection, n, work, What::Reject, 0, gathered, batch),
                },
                Err(_) => return gather_end(connection, n, work, What::Reject, 0, gathered, batch),
            };
            connection.needed_bytes = 0;
            if connection.touched_beat != self.touched.beat {
                connection.touched_beat = self.touched.beat;
                self.touched.sessions.push(connection.session);
            }
            if work.begun >= REQUESTS_PER_TURN_MAX {
                work.again = true;
                work.over = !gathered;
                return;
            }
            let RequestHeader { xid, opcode } = header;
            let what = match classify(opcode, body, self.limits) {
                Kind::Here(what) => what,
                Kind::Forward(op) => {
                    // Behind a read of this round: the next round takes it, when the read was served.
                    if gathered {
                        return;
                    }
                    let bytes = body.len();
                    let room = connection.pending.len() < WRITES_IN_FLIGHT_MAX
                        && (connection.pending_bytes == 0
                            || connection.pending_bytes + bytes <= WRITE_BYTES_IN_FLIGHT_MAX);
                    // A sync waits for the writes before it.
                    let early = matches!(op, Forward::Sync(_)) && !connection.pending.is_empty();
                    if !room || early {
                        work.over = true;
                        return;
                    }
                    let (session, attachment) = (connection.session, connection.attachment);
                    let identities = &connection.identities;
                    let command = |ticket, op| Submit::Command {
                        ticket,
                        session,
                        attachment,
                        identities: identities.clone(),
                        op,
                    };
                    if !self.uplink.has_room() {
                        work.retry = true;
                        work.over = true;
                        return;
                    }
                    let (number, waiting) = match op {
                        Forward::Write => {
                            let op = Op::Request { opcode, body: body.to_vec() };
                            (self.uplink.push(work.slot, |ticket| command(ticket, op)), Waiting::Write)
                        }
                        Forward::Close => {
                            (self.uplink.push(work.slot, |t| command(t, Op::CloseSession)), Waiting::Close)
                        }
                        Forward::Sync(path) => {
                            let path = path.into_owned().into();
                            (
                                self.uplink.push(work.slot, |ticket| Submit::Sync { ticket }),
                                Waiting::Sync { path },
                            )
                        }
                    };
                    let Some(number) = number else {
                        work.over = true;
                        return;
                    };
                    connection.barrier = !matches!(waiting, Waiting::Write);
                    connection.pending_bytes += bytes;
                    let (what, since_ns) = (waiting, now.mono_ns);
                    connection.pending.push_back(Pending {
                        number,
                        xid,
                        what,
                        bytes,
                        since_ns,
                        result: None,
                    });
                    connection.received += 1;
                    self.outstanding += 1;
                    let cells = self.stats.shard(self.config.id);
                    cells.packets_received.add(1);
                    cells.writes_forwarded.add(1);
                    work.begun += 1;
                    work.done_bytes = end;
                    at = end;
                    continue;
                }
            };
            // Answered here: after everything that was forwarded.
            if !connection.pending.is_empty() {
                work.over = true;
                return;
            }
            let last = matches!(what, What::Unknown);
            batch.push(Item { work: n, xid, end, what });
            work.begun += 1;
            gathered = true;
            at = end;
            if last {
                return;
            }
        }
    }

    /// Looks everything up together and answers in order.
    fn answer<'i>(
        &mut self,
        batch: &'i [Item<'i>],
        works: &mut [Work],
        paths: Vec<&'static str>,
        io: &mut Io,
    ) -> Vec<&'static str> {
        if batch.is_empty() {
            return paths;
        }
        let mut paths: Vec<&str> = reuse(paths);
        paths.extend(batch.iter().filter_map(|item| match &item.what {
            What::Read { path, .. } => Some(&**path),
            _ => None,
        }));
        let mut found = Vec::with_capacity(paths.len());
        self.reader.get_batch(&paths, &mut found);
        let mut found = found.into_iter();
        let view = View { reader: &self.reader, zxid: self.zxid, policy: self.config.policy };
        let cells = self.stats.shard(self.config.id);
        let (mut served, mut sent, mut reads) = (0, 0, 0);
        for item in batch {
            let znode = if let What::Read { .. } = item.what { found.next().flatten() } else { None };
            let work = &mut works[item.work as usize];
            if work.over {
                continue;
            }
            let Some(connection) = self.connections.slot(work.slot) else { continue };
            if io.unsent(connection.id) > OUTPUT_HIGH_WATER_BYTES {
                // Its peer does not read: nothing more before it has.
                connection.stalled = true;
                work.over = true;
                work.again = false;
                cells.output_stalls.add(1);
                continue;
            }
            let Some(out) = io.out(connection.id) else {
                work.over = true;
                continue;
            };
            work.done_bytes = item.end;
            connection.received += 1;
            served += 1;
            let xid = item.xid;
            match &item.what {
                What::Read { read, path, watch } => {
                    let err = view.answer(*read, xid, path, znode, &connection.identities, out);
                    reads += 1;
                    if *watch && let Some(mode) = read.arms(err) {
                        let armed = self.watches.add(work.slot, path, mode);
                        work.close |= refuse_watches(armed, connection);
                    }
                }
                What::Ping => reply::put_ping(out.bytes(), view.zxid),
                What::Local { opcode, body } => {
                    let mut local = Local {
                        view: &view,
                        watches: &mut self.watches,
                        connection,
                        super_digest: self.config.super_digest.as_deref(),
                        xid,
                    };
                    match Request::decode(*opcode, body, self.limits) {
                        Ok(request) => match local.answer(*opcode, request, out) {
                            Ended::Open { events } => {
                                sent += events;
                                cells.watch_events.add(events);
                            }
                            Ended::AuthFailed => {
                                cells.auth_failed.add(1);
                                work.close = true;
                            }
                            Ended::Close => work.close = true,
                        },
                        Err(fault) => {
                            cells.requests_malformed.add(1);
                            reply::put_error(out.bytes(), xid, view.zxid, fault.code());
                            if matches!(fault, DecodeError::WriteInMultiRead(_)) {
                                quirk_of_multi_read(out, xid, view.zxid);
                            }
                        }
                    }
                }
                What::Fault(code) => {
                    cells.requests_malformed.add(1);
                    reply::put_error(out.bytes(), xid, view.zxid, *code);
                }
                What::Unknown => {
                    reply::put_error(out.bytes(), xid, -1, error::UNIMPLEMENTED);
                    work.close = true;
                }
                What::Reject => {
                    cells.frames_rejected.add(1);
                    work.close = true;
                    work.over = true;
                    continue;
                }
            }
            connection.sent += 1;
            sent += 1;
            work.over |= work.close;
        }
        cells.packets_received.add(served);
        cells.reads_served.add(reads);
        cells.latency_count.add(served);
        cells.packets_sent.add(sent);
        reuse(paths)
    }
}

/// What is to be done with a request.
enum Kind<'i> {
    Here(What<'i>),
    Forward(Forward<'i>),
}

enum Forward<'i> {
    Write,
    Close,
    Sync(Text<'i>),
}

#[inline]
fn classify(opcode: i32, body: &[u8], limits: paddock_transport::wire::Limits) -> Kind<'_> {
    if let Some(read) = Read::of(opcode) {
        let mut r = Reader::new(body, limits);
        let record = r.text().and_then(|path| Ok((path, read.has_watch() && r.boolean()?)));
        return Kind::Here(match record {
            Ok((path, watch)) => What::Read { read, path, watch },
            Err(fault) => What::Fault(fault.code()),
        });
    }
    match opcode {
        opcode::PING => Kind::Here(What::Ping),
        opcode::CLOSE_SESSION => Kind::Forward(Forward::Close),
        // Meant for the server's own container manager.
        opcode::DELETE_CONTAINER => Kind::Here(What::Fault(error::UNIMPLEMENTED)),
        // Exists for multi only.
        opcode::CHECK => Kind::Here(What::Unknown),
        _ => match opcode::class(opcode) {
            None => Kind::Here(What::Unknown),
            Some(Class::Read | Class::Local) => Kind::Here(What::Local { opcode, body }),
            Some(Class::Write) => match Request::decode(opcode, body, limits) {
                Ok(_) => Kind::Forward(Forward::Write),
                Err(fault) => Kind::Here(What::Fault(fault.code())),
            },
            Some(Class::Sync) => match Request::decode(opcode, body, limits) {
                Ok(Request::Sync { path }) => Kind::Forward(Forward::Sync(path)),
                Ok(_) => Kind::Here(What::Unknown),
                Err(fault) => Kind::Here(What::Fault(fault.code())),
            },
        },
    }
}

/// A frame that ends the connection: after all before it.
fn gather_end<'i>(
    connection: &Connection,
    n: u32,
    work: &mut Work,
    what: What<'i>,
    xid: i32,
    gathered: bool,
    batch: &mut Vec<Item<'i>>,
) {
    if connection.pending.is_empty() {
        batch.push(Item { work: n, xid, end: work.done_bytes, what });
    } else {
        work.over = !gathered;
    }
}

/// A watch that cannot be armed must not look armed.
fn refuse_watches(armed: Result<(), WatchesFull>, connection: &Connection) -> bool {
    armed.is_err_and(|full| {
        tracing::warn!(peer = %connection.peer, session = connection.session, %full, "connection closed");
        true
    })
}

/// ZooKeeper sends a terminator behind the refusal of a multiRead that holds writes; clients skip what follows an error.
fn quirk_of_multi_read(out: &mut OutBuf, xid: i32, zxid: i64) {
    let bytes = out.bytes();
    let header = 4 + paddock_transport::wire::REPLY_HEADER_BYTES;
    bytes.truncate(bytes.len().saturating_sub(header));
    put_frame(bytes, |out| {
        ReplyHeader { xid, zxid, err: error::MARSHALLING_ERROR }.put(out);
        put_multi_end(out);
    });
}

/// How a local request leaves the connection.
enum Ended {
    Open { events: u64 },
    AuthFailed,
    Close,
}

/// Answers what neither reads one path nor is written.
struct Local<'s, 'v> {
    view: &'s View<'v>,
    watches: &'s mut Watches,
    connection: &'s mut Connection,
    super_digest: Option<&'s str>,
    xid: i32,
}

impl Local<'_, '_> {
    fn answer(&mut self, opcode: i32, request: Request<'_>, out: &mut OutBuf) -> Ended {
        let (xid, zxid) = (self.xid, self.view.zxid);
        let slot = self.connection.id.index() as u32;
        let bytes = out.bytes();
        match request {
            Request::MultiRead(ops) => self.view.multi_read(xid, ops, &self.connection.identities, bytes),
            Request::SetWatches(lists) | Request::SetWatches2(lists) => {
                match watching::set_watches(self.view, self.watches, slot, &lists, bytes) {
                    Ok(events) => {
                        reply::put_empty(bytes, xid, zxid);
                        return Ended::Open { events };
                    }
                    Err(full) => {
                        refuse_watches(Err(full), self.connection);
                        return Ended::Close;
                    }
                }
            }
            Request::AddWatch { path, mode } => {
                let armed = self.watches.add(slot, &path, watching::mode(mode));
                if refuse_watches(armed, self.connection) {
                    return Ended::Close;
                }
                reply::put_response(bytes, xid, zxid, &Response::WatchAdded(0));
            }
            Request::CheckWatches { path, kind } => {
                let there = self.watches.has(slot, &path, watching::kind(kind));
                reply::put_error(bytes, xid, zxid, if there { 0 } else { error::NO_WATCHER });
            }
            Request::RemoveWatches { path, kind } => {
                let there = self.watches.remove(slot, &path, watching::kind(kind));
                reply::put_error(bytes, xid, zxid, if there { 0 } else { error::NO_WATCHER });
            }
            Request::WhoAmI => auth::who_am_i(self.connection, |r| reply::put_response(bytes, xid, zxid, r)),
            Request::Auth { scheme, auth, .. } => {
                let known = auth::authenticate(self.connection, self.super_digest, scheme.as_deref(), auth);
                reply::put_error(bytes, xid, 0, if known { 0 } else { error::AUTH_FAILED });
                if !known {
                    return Ended::AuthFailed;
                }
            }
            // Without a SASL configuration: no token, and the connection goes on.
            Request::Sasl { .. } => reply::put_response(bytes, xid, 0, &Response::Token(None)),
            // The index of a session's ephemerals is the machine's.
            Request::GetEphemerals { .. } => reply::put_error(bytes, xid, zxid, error::UNIMPLEMENTED),
            // `classify` sends nothing else here; an opcode that it does not know has no answer.
            _ => {
                debug_assert!(false, "opcode {opcode} is not answered here");
                reply::put_error(bytes, xid, zxid, error::UNIMPLEMENTED);
            }
        }
        Ended::Open { events: 0 }
    }
}
