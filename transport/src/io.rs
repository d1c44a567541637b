//! The table between an engine and its loop: output to send, and connections to open, close or stop
//! reading.
//!
//! Owns each connection's unsent output and the engine's pending requests. Never does I/O. Correct because
//! a slot's generation changes with each use: a request for a connection that is gone is dropped.

#![forbid(unsafe_code)]

use crate::engine::{Address, ConnId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Unsent output above which an engine should serve a connection nothing more until
/// [`crate::engine::Engine::drained`]. One reply may exceed it, but a second is not begun. 256 KiB is
/// several socket buffers, so a draining peer never waits for the engine. With 10 000 stuck peers that
/// stays below 3 GiB.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 256 * 1024;

/// Values at least this long travel as shared bytes ([`OutBuf::push_shared`]) instead of being copied.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Buffers kept for the next connection with output. With one turn's worth of them, a connection without
/// output owns no buffer, and used buffers stay in the CPU cache.
const SPARE_BUFFERS: usize = 256;

/// Buffers that grew beyond this are freed after use: one large reply must not hold memory for ever.
const SPARE_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Capacity of a new buffer: a handful of small replies.
const NEW_BUFFER_BYTES: usize = 1024;

/// One contiguous stretch of output.
#[derive(Debug)]
pub enum Segment {
    /// Bytes written by the engine.
    Owned(Vec<u8>),
    /// A large value shared with its owner.
    Shared(Bytes),
}

impl Segment {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Owned(v) => v,
            Segment::Shared(b) => b,
        }
    }
}

/// A connection's output that the loop has not taken yet.
#[derive(Debug, Default)]
pub struct OutBuf {
    tail: Vec<u8>,
    full: VecDeque<Segment>,
    full_bytes: usize,
    /// Bytes of the first stretch that have been sent. They do not count in `len`.
    sent: usize,
}

impl OutBuf {
    /// The buffer to append to. Bytes appended here leave in order with shared ones.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }
    /// Appends a large value without copying it.
    pub fn push_shared(&mut self, value: Bytes) {
        let head = std::mem::take(&mut self.tail);
        self.full_bytes += head.len() + value.len();
        if !head.is_empty() {
            self.full.push_back(Segment::Owned(head));
        }
        self.full.push_back(Segment::Shared(value));
    }
    /// Unsent bytes, shared ones included.
    pub fn len(&self) -> usize {
        self.full_bytes + self.tail.len() - self.sent
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The unsent stretches in order, as many as `into` has room for. Returns how many were filled in.
    pub fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let stretches = self.full.iter().map(Segment::as_slice).chain(std::iter::once(self.tail.as_slice()));
        let mut filled = 0;
        for (at, bytes) in stretches.enumerate() {
            let bytes = if at == 0 { &bytes[self.sent..] } else { bytes };
            if filled == into.len() {
                break;
            }
            if !bytes.is_empty() {
                into[filled] = IoSlice::new(bytes);
                filled += 1;
            }
        }
        filled
    }

    /// Drops `count` sent bytes from the front. Emptied buffers go to `spare`.
    pub(crate) fn consume(&mut self, count: usize, spare: &mut Spare) {
        debug_assert!(count <= self.len(), "more was sent than there was");
        self.sent += count;
        while let Some(first) = self.full.front() {
            let length = first.as_slice().len();
            if self.sent < length {
                return;
            }
            self.sent -= length;
            self.full_bytes -= length;
            if let Some(Segment::Owned(buffer)) = self.full.pop_front() {
                spare.give(buffer);
            }
        }
        if self.full.capacity() > 0 {
            self.full = VecDeque::new();
        }
        if self.sent == self.tail.len() {
            self.sent = 0;
            spare.give(std::mem::take(&mut self.tail));
        }
    }
}

/// Empty buffers for reuse, last in first out.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    buffers: Vec<Vec<u8>>,
}

impl Spare {
    fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(NEW_BUFFER_BYTES))
    }
    fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity > 0 && capacity <= SPARE_BUFFER_BYTES_MAX && self.buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// State of one connection, shared by the engine and the loop.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    live: bool,
    out: OutBuf,
    /// Bytes that the loop took and the kernel has not accepted yet.
    in_flight_bytes: usize,
    input_paused: bool,
    close: CloseRequest,
    dirty: bool,
    /// Unsent output exceeded the high-water mark since it was last zero: an `Engine::drained` call is
    /// due.
    high: bool,
}

impl Slot {
    fn unsent(&self) -> usize {
        self.out.len() + self.in_flight_bytes
    }
    /// Must be called wherever `unsent` is about to shrink, so that no peak is missed.
    fn note_high(&mut self) {
        self.high |= self.unsent() > OUTPUT_HIGH_WATER_BYTES;
    }
}

/// How an engine asks a connection to close.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum CloseRequest {
    /// No close is requested.
    #[default]
    None,
    /// Close once everything written is sent.
    AfterOutput,
    /// Close at once, dropping unsent output.
    Now,
}

/// The engine's pending requests for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRequests {
    /// Whether and how to close the connection.
    pub close: CloseRequest,
    /// Whether to leave input in the kernel.
    pub input_paused: bool,
    /// Whether there is output that the loop has not taken.
    pub output: bool,
}

/// All connections of a loop with their output and requests. One per loop.
#[derive(Debug, Default)]
pub struct Io {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<ConnId>,
    connects: Vec<(ConnId, Address)>,
    spare: Spare,
}

/// The half of the table that an engine uses.
impl Io {
    /// The output buffer of `conn`, or `None` when it is gone or being closed. Marks the connection for
    /// sending in this turn.
    pub fn out(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        self.mark(conn)?;
        let slot = &mut self.slots[conn.index()];
        if slot.close != CloseRequest::None {
            return None;
        }
        if slot.out.tail.capacity() == 0 {
            slot.out.tail = self.spare.take();
        }
        Some(&mut slot.out)
    }
    /// Bytes that the engine wrote and the kernel has not accepted yet; 0 when the connection is gone.
    pub fn unsent(&self, conn: ConnId) -> usize {
        self.slot(conn).map_or(0, Slot::unsent)
    }
    /// Whether the connection exists and is not being closed.
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.slot(conn).is_some_and(|s| s.close == CloseRequest::None)
    }
    /// Requests a close once everything written so far is sent. Nothing more is read.
    pub fn close(&mut self, conn: ConnId) {
        self.request_close(conn, CloseRequest::AfterOutput);
    }
    /// Requests a close at once, dropping unsent output.
    pub fn abort(&mut self, conn: ConnId) {
        self.request_close(conn, CloseRequest::Now);
    }
    /// Stops reading `conn`. Bytes that the loop already holds may still be delivered once.
    pub fn pause_input(&mut self, conn: ConnId) {
        self.set_paused(conn, true);
    }
    /// Resumes reading after [`Io::pause_input`].
    pub fn resume_input(&mut self, conn: ConnId) {
        self.set_paused(conn, false);
    }
    /// Requests a new connection. `Engine::opened` or `Engine::closed` reports the outcome.
    pub fn connect(&mut self, address: Address) -> ConnId {
        let conn = self.allocate();
        self.connects.push((conn, address));
        conn
    }
    /// Slots in use, including connections being opened or closed.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn slot(&self, conn: ConnId) -> Option<&Slot> {
        self.slots.get(conn.index()).filter(|s| s.live && s.generation == conn.generation())
    }
    fn mark(&mut self, conn: ConnId) -> Option<()> {
        self.slot(conn)?;
        let slot = &mut self.slots[conn.index()];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(conn);
        }
        Some(())
    }
    fn request_close(&mut self, conn: ConnId, how: CloseRequest) {
        if self.mark(conn).is_some() {
            let slot = &mut self.slots[conn.index()];
            if slot.close != CloseRequest::Now {
                slot.close = how;
            }
        }
    }
    fn set_paused(&mut self, conn: ConnId, paused: bool) {
        if self.slot(conn).is_some_and(|s| s.input_paused != paused) {
            self.slots[conn.index()].input_paused = paused;
            let _ = self.mark(conn);
        }
    }
    fn allocate(&mut self) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.live = true;
        ConnId::new(index, slot.generation)
    }
}

/// The half of the table that a driver of engines uses: a socket loop, the in-process loop, or the
/// simulator.
impl Io {
    /// Allocates a slot for a connection that was accepted or adopted.
    pub fn open(&mut self) -> ConnId {
        self.allocate()
    }

    /// Moves the connections with new output or requests to the end of `into`. Some may be gone by now.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        for conn in &self.dirty {
            let slot = &mut self.slots[conn.index()];
            if slot.generation == conn.generation() {
                slot.dirty = false;
                if slot.out.is_empty() {
                    slot.out.consume(0, &mut self.spare);
                }
            }
        }
        into.append(&mut self.dirty);
    }

    /// Moves the requested new connections to the end of `into`.
    pub fn take_connects(&mut self, into: &mut Vec<(ConnId, Address)>) {
        into.append(&mut self.connects);
    }

    /// Whether any request or output waits for the loop.
    pub fn has_requests(&self) -> bool {
        !self.dirty.is_empty() || !self.connects.is_empty()
    }

    /// The pending requests for `conn`; `None` when it is gone.
    pub fn requests(&self, conn: ConnId) -> Option<PendingRequests> {
        self.slot(conn).map(|s| PendingRequests {
            close: s.close,
            input_paused: s.input_paused,
            output: !s.out.is_empty(),
        })
    }

    /// Output to send in place. The loop reports the result with [`Io::sent`].
    pub fn output(&self, conn: ConnId) -> Option<&OutBuf> {
        self.slot(conn).map(|s| &s.out)
    }

    /// Records that the kernel accepted `count` bytes of [`Io::output`]. Returns `true` if a
    /// [`crate::engine::Engine::drained`] call is due.
    pub fn sent(&mut self, conn: ConnId, count: usize) -> bool {
        if self.slot(conn).is_none() {
            return false;
        }
        let slot = &mut self.slots[conn.index()];
        slot.note_high();
        slot.out.consume(count, &mut self.spare);
        slot.unsent() == 0 && std::mem::take(&mut slot.high)
    }

    /// Takes all output, for a loop that must keep it in place while the kernel reads it. The loop reports
    /// the result with [`Io::sent_of`].
    pub fn take_output(&mut self, conn: ConnId) -> Option<OutBuf> {
        self.slot(conn)?;
        let slot = &mut self.slots[conn.index()];
        slot.in_flight_bytes += slot.out.len();
        Some(std::mem::take(&mut slot.out))
    }

    /// Records that the kernel accepted `count` bytes of `taken`, which [`Io::take_output`] returned.
    /// Returns `true` if a [`crate::engine::Engine::drained`] call is due.
    pub fn sent_of(&mut self, conn: ConnId, taken: &mut OutBuf, count: usize) -> bool {
        taken.consume(count, &mut self.spare);
        if self.slot(conn).is_none() {
            return false;
        }
        let slot = &mut self.slots[conn.index()];
        slot.note_high();
        slot.in_flight_bytes -= count;
        slot.unsent() == 0 && std::mem::take(&mut slot.high)
    }

    /// Ends the use of a slot after [`crate::engine::Engine::closed`]. Unsent output is dropped, and ids
    /// of this generation reach nothing any more.
    pub fn release(&mut self, conn: ConnId) {
        if self.slot(conn).is_none() {
            return;
        }
        let slot = &mut self.slots[conn.index()];
        *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::default() };
        self.free.push(conn.index() as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsent_bytes(out: &OutBuf) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = out.slices(&mut slices);
        slices[..filled].iter().flat_map(|s| s.iter().copied()).collect()
    }

    #[test]
    fn a_stale_id_reaches_nothing() {
        let mut io = Io::default();
        let old = io.open();
        io.release(old);
        let new = io.open();
        assert_eq!(old.index(), new.index());
        assert_ne!(old, new);
        io.close(old);
        io.pause_input(old);
        assert!(io.out(old).is_none());
        assert_eq!(io.requests(old), None);
        assert_eq!(
            io.requests(new),
            Some(PendingRequests { close: CloseRequest::None, input_paused: false, output: false })
        );
        io.release(old);
        assert!(io.is_open(new));
    }

    #[test]
    fn a_stale_dirty_entry_does_not_hide_the_slots_next_user() {
        let mut io = Io::default();
        let old = io.open();
        io.out(old).unwrap().bytes().push(1);
        io.release(old);
        let new = io.open();
        io.out(new).unwrap().bytes().push(2);
        let mut dirty = Vec::new();
        io.take_dirty(&mut dirty);
        assert_eq!(dirty, [old, new]);
        io.out(new).unwrap().bytes().push(3);
        io.take_dirty(&mut dirty);
        assert_eq!(dirty, [old, new, new]);
    }

    #[test]
    fn stretches_leave_in_order_at_every_cut() {
        for cut in 1..12 {
            let mut io = Io::default();
            let conn = io.open();
            let out = io.out(conn).unwrap();
            out.bytes().extend_from_slice(b"abc");
            out.push_shared(Bytes::from_static(b"DEFG"));
            out.push_shared(Bytes::from_static(b"H"));
            out.bytes().extend_from_slice(b"ijk");
            let mut sent = Vec::new();
            while io.unsent(conn) > 0 {
                let rest = unsent_bytes(io.output(conn).unwrap());
                assert_eq!(rest.len(), io.unsent(conn));
                let count = cut.min(rest.len());
                sent.extend_from_slice(&rest[..count]);
                io.sent(conn, count);
            }
            assert_eq!(sent, b"abcDEFGHijk");
            assert!(!io.requests(conn).unwrap().output);
        }
    }

    #[test]
    fn drained_is_owed_once_also_when_the_peak_was_between_two_looks() {
        let mut io = Io::default();
        let conn = io.open();
        io.out(conn).unwrap().bytes().resize(OUTPUT_HIGH_WATER_BYTES, 0);
        let mut taken = io.take_output(conn).unwrap();
        io.out(conn).unwrap().bytes().push(0);
        assert!(!io.sent_of(conn, &mut taken, OUTPUT_HIGH_WATER_BYTES));
        let mut taken = io.take_output(conn).unwrap();
        assert!(io.sent_of(conn, &mut taken, 1));
        io.out(conn).unwrap().bytes().push(0);
        assert!(!io.sent(conn, 1));
    }

    #[test]
    fn idle_connections_own_no_buffer() {
        let mut io = Io::default();
        let conn = io.open();
        io.out(conn).unwrap().bytes().resize(SPARE_BUFFER_BYTES_MAX * 2, 0);
        io.sent(conn, SPARE_BUFFER_BYTES_MAX * 2);
        io.out(conn).unwrap().bytes().push(1);
        io.sent(conn, 1);
        assert_eq!(io.slots[0].out.tail.capacity(), 0);
        assert_eq!(io.spare.buffers.len(), 1, "the large one was freed, the small one is kept");
    }

    #[test]
    fn an_aborted_connection_stays_aborted() {
        let mut io = Io::default();
        let conn = io.open();
        io.abort(conn);
        io.close(conn);
        assert_eq!(io.requests(conn).unwrap().close, CloseRequest::Now);
    }
}
