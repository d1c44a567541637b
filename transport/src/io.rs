//! The table between an engine and its loop: what is to be sent, opened, closed and no longer read.
//!
//! Owns each connection's unsent output and the engine's wishes. Never does I/O. It stays correct because a slot's
//! generation changes with each use: a wish for a connection that is gone is dropped.

#![forbid(unsafe_code)]

use crate::engine::{Address, ConnId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Output of a connection above which an engine should serve nothing more to it until [`crate::engine::Engine::drained`].
/// One reply may exceed it; a second is not begun. 256 KiB: several socket buffers, so that a draining peer
/// never waits for us, and 10 000 stuck peers stay below 3 GiB.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 256 * 1024;

/// Values at least this long travel as shared bytes ([`OutBuf::push_shared`]) instead of being copied.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Buffers kept for the next connection with output: with a turn's worth of them at hand, a connection
/// without output owns no buffer at all, and those in use stay in the cache.
const SPARE_BUFFERS: usize = 256;

/// Buffers that grew beyond this are given back to the allocator after use: one large reply must not be paid for ever.
const SPARE_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What a new buffer can hold before it grows: a handful of small replies.
const NEW_BUFFER_BYTES: usize = 1024;

/// One stretch of output.
#[derive(Debug)]
pub enum Segment {
    /// Bytes written by the engine.
    Owned(Vec<u8>),
    /// A large value shared with its owner.
    Shared(Bytes),
}

impl Segment {
    /// The bytes.
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
    /// How much of the first stretch has been sent; not counted in `len`.
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
    /// Bytes held.
    pub fn len(&self) -> usize {
        self.full_bytes + self.tail.len() - self.sent
    }
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The unsent stretches, in order: as many as `into` has room for. Returns how many were filled in.
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

    /// Forgets `count` bytes from the front: they were sent. Buffers that are empty now go to `spare`.
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

/// Empty buffers waiting for their next use; the one used last is taken first.
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

/// One connection as the engine and the loop see it.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    live: bool,
    out: OutBuf,
    /// Bytes the loop took and the kernel has not accepted yet.
    in_flight_bytes: usize,
    input_paused: bool,
    close: CloseRequest,
    dirty: bool,
    /// Was over the high water since it was last empty: the engine is owed a `drained`.
    high: bool,
}

impl Slot {
    fn unsent(&self) -> usize {
        self.out.len() + self.in_flight_bytes
    }
    /// Called wherever `unsent` is about to shrink, so that no peak is missed.
    fn note_high(&mut self) {
        self.high |= self.unsent() > OUTPUT_HIGH_WATER_BYTES;
    }
}

/// How an engine wants a connection to end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum CloseRequest {
    /// Not at all.
    #[default]
    None,
    /// Once everything written is sent.
    AfterOutput,
    /// At once.
    Now,
}

/// What the engine wants of one connection, as the loop sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRequests {
    /// Whether and how to close it.
    pub close: CloseRequest,
    /// Whether to leave its input in the kernel.
    pub input_paused: bool,
    /// Whether there is output that the loop has not taken.
    pub output: bool,
}

/// The table itself. One per loop.
#[derive(Debug, Default)]
pub struct Io {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<ConnId>,
    connects: Vec<(ConnId, Address)>,
    spare: Spare,
}

/// The engine's half.
impl Io {
    /// Where to write output for `conn`; `None` when it is gone or being closed. Marks it for sending this turn.
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
    /// Close once everything written so far is sent; nothing more is read.
    pub fn close(&mut self, conn: ConnId) {
        self.request_close(conn, CloseRequest::AfterOutput);
    }
    /// Close at once, dropping unsent output.
    pub fn abort(&mut self, conn: ConnId) {
        self.request_close(conn, CloseRequest::Now);
    }
    /// Stop reading `conn`. Bytes that the loop already holds may still be delivered once.
    pub fn pause_input(&mut self, conn: ConnId) {
        self.set_paused(conn, true);
    }
    /// Read `conn` again.
    pub fn resume_input(&mut self, conn: ConnId) {
        self.set_paused(conn, false);
    }
    /// Open a connection; `Engine::opened` or `Engine::closed` tells how it went.
    pub fn connect(&mut self, address: Address) -> ConnId {
        let conn = self.allocate();
        self.connects.push((conn, address));
        conn
    }
    /// Connections in use.
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

/// The loop's half: for whoever drives engines (the socket loops, the in-process loop, a simulator).
impl Io {
    /// A slot for a connection that was accepted.
    pub fn open(&mut self) -> ConnId {
        self.allocate()
    }

    /// Moves the connections that were written to, or of which something is wished, to the end of `into`. Some may be gone by now.
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

    /// Moves the connections that are to be opened to the end of `into`.
    pub fn take_connects(&mut self, into: &mut Vec<(ConnId, Address)>) {
        into.append(&mut self.connects);
    }

    /// Whether a wish of the engine is waiting to be looked at.
    pub fn has_requests(&self) -> bool {
        !self.dirty.is_empty() || !self.connects.is_empty()
    }

    /// What the engine wants of `conn`; `None` when it is gone.
    pub fn requests(&self, conn: ConnId) -> Option<PendingRequests> {
        self.slot(conn).map(|s| PendingRequests {
            close: s.close,
            input_paused: s.input_paused,
            output: !s.out.is_empty(),
        })
    }

    /// Output to be sent from where it lies; follow with [`Io::sent`].
    pub fn output(&self, conn: ConnId) -> Option<&OutBuf> {
        self.slot(conn).map(|s| &s.out)
    }

    /// The kernel accepted `count` bytes of [`Io::output`]. `true`: the engine is owed a
    /// [`crate::engine::Engine::drained`].
    pub fn sent(&mut self, conn: ConnId, count: usize) -> bool {
        if self.slot(conn).is_none() {
            return false;
        }
        let slot = &mut self.slots[conn.index()];
        slot.note_high();
        slot.out.consume(count, &mut self.spare);
        slot.unsent() == 0 && std::mem::take(&mut slot.high)
    }

    /// Takes all output, for a loop that must keep it where it is while the kernel reads it. Follow with
    /// [`Io::sent_of`].
    pub fn take_output(&mut self, conn: ConnId) -> Option<OutBuf> {
        self.slot(conn)?;
        let slot = &mut self.slots[conn.index()];
        slot.in_flight_bytes += slot.out.len();
        Some(std::mem::take(&mut slot.out))
    }

    /// The kernel accepted `count` bytes of what [`Io::take_output`] had given. `true`: the engine is owed a
    /// [`crate::engine::Engine::drained`].
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

    /// Ends the use of a slot after the engine was told with [`crate::engine::Engine::closed`]: unsent output is
    /// dropped, and ids of this generation reach nothing any more.
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
