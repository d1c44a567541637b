//! Serving: rounds of parsing, one batch of lookups, answering.
//!
//! Owns the order in which a connection's requests are looked at. In a round each ready connection is parsed from the
//! head of its input for as long as its requests may go together: writes are forwarded at once, reads are gathered; a read
//! stops at a write that is on its way, a write stops at a read that was gathered in the same round. Then all gathered
//! reads are looked up together and answered. It ends because each round moves every connection that is still in it,
//! and no connection moves further in a turn than [`REQUESTS_PER_TURN_MAX`] requests.

use super::Shard;
use super::config::{
    INPUT_HIGH_WATER_BYTES, INPUT_IN_TURN_MAX_BYTES, REQUESTS_PER_TURN_MAX, VISITS_PER_TURN_MAX,
};
use super::connection::{Connection, Phase};
use super::local::{Ended, Local};
use super::reads::{Read, View};
use super::watching::refuse_watches;
use paddock_transport::engine::Now;
use paddock_transport::io::{Io, OUTPUT_HIGH_WATER_BYTES, OutBuf};
use paddock_transport::wire::{
    DecodeError, REPLY_HEADER_BYTES, ReplyHeader, Request, Text, error, put_frame, put_multi_end, reply,
};
use std::cell::Cell;

/// Reads looked up and answered at a time: enough to hide the memory's latency, few enough that what was fetched is still
/// in the first cache when it is answered.
const LOOKUPS_TOGETHER: usize = 32;

/// One connection that is being served in this turn.
#[derive(Default)]
pub(super) struct Work {
    pub slot: u32,
    /// Bytes of its input that are done with.
    pub done_bytes: usize,
    /// Requests begun in this turn.
    pub begun: usize,
    /// Nothing more happens to it in this turn.
    pub over: bool,
    /// It could go on at once: look again in the next turn.
    pub again: bool,
    /// It waits for room in the ring to the consensus core.
    pub retry: bool,
    pub close: bool,
    /// The turn's visits were spent by others: it comes first in the next turn.
    pub first: bool,
}

/// A request that is answered here, in the order of the connection.
pub(super) struct Item<'i> {
    /// Index of its connection among the works.
    pub work: u32,
    pub xid: i32,
    /// Where the input goes on behind it.
    pub end: usize,
    pub what: What<'i>,
}

/// What it asks for.
pub(super) enum What<'i> {
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
    /// A write or sync of a read-only client: -119.
    NotReadOnly,
    /// closeSession of a read-only client.
    Goodbye,
    /// An opcode that does not exist for clients: -6 with zxid -1, then closed.
    Unknown,
    /// A frame that cannot be: closed without a reply.
    Reject,
}

impl What<'_> {
    /// Whether it may cost more than a lookup: such requests share a budget in each turn, all others pass them by.
    fn looks_at_many(&self) -> bool {
        match self {
            What::Read { read, .. } => {
                matches!(read, Read::GetChildren | Read::GetChildren2 | Read::GetAllChildrenNumber)
            }
            What::Local { .. } => true,
            _ => false,
        }
    }
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
    if matches!(connection.phase, Phase::Opening | Phase::Closing | Phase::Asking) {
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
                // A read-only client is admitted at once, and what it sent behind is served in this turn.
                if self.connections.slot(slot).is_none_or(|c| c.phase != Phase::Open) {
                    self.settle(now, slot, io);
                    continue;
                }
            }
            let Some(connection) = self.connections.slot(slot) else { continue };
            if connection.phase == Phase::Open {
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
            for together in batch.chunks(LOOKUPS_TOGETHER) {
                paths = self.answer(together, &mut works, paths, io);
            }
            items = reuse(batch);
        }
        debug_assert!(rounds <= 2 * REQUESTS_PER_TURN_MAX + 2, "each round begins at least one request");

        let mut more = false;
        // Whoever had to wait for the expensive requests of others comes before them next time.
        for work in works.iter().filter(|w| w.first && !w.close) {
            if let Some(connection) = self.connections.slot(work.slot) {
                Self::mark_ready(&mut self.ready, connection);
            }
        }
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
        if connection.eof && !matches!(connection.phase, Phase::Closing | Phase::Asking) {
            self.close(now, slot, io);
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
        let mut paths: Vec<&str> = reuse(paths);
        paths.extend(batch.iter().filter_map(|item| match &item.what {
            What::Read { path, .. } => Some(&**path),
            _ => None,
        }));
        let mut found = Vec::with_capacity(paths.len());
        self.reader.get_batch(&paths, &mut found);
        let mut found = found.into_iter();
        let view = View {
            reader: &self.reader,
            zxid: self.zxid,
            policy: self.config.policy,
            visited: Cell::new(self.visited),
            multi_read_bytes_max: self.config.multi_read_reply_max_bytes(),
        };
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
            if view.visited.get() >= VISITS_PER_TURN_MAX && item.what.looks_at_many() {
                work.over = true;
                work.again = true;
                work.first = work.done_bytes == 0;
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
                What::NotReadOnly => reply::put_error(out.bytes(), xid, view.zxid, error::NOT_READ_ONLY),
                What::Goodbye => {
                    reply::put_empty(out.bytes(), xid, view.zxid);
                    work.close = true;
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
        self.visited = view.visited.get();
        cells.packets_received.add(served);
        cells.reads_served.add(reads);
        cells.latency_count.add(served);
        cells.packets_sent.add(sent);
        reuse(paths)
    }
}

/// ZooKeeper sends a terminator behind the refusal of a multiRead that holds writes; clients skip what follows an error.
fn quirk_of_multi_read(out: &mut OutBuf, xid: i32, zxid: i64) {
    let bytes = out.bytes();
    let header = 4 + REPLY_HEADER_BYTES;
    bytes.truncate(bytes.len().saturating_sub(header));
    put_frame(bytes, |out| {
        ReplyHeader { xid, zxid, err: error::MARSHALLING_ERROR }.put(out);
        put_multi_end(out);
    });
}
