//! The table between an engine and its loop: what is to be sent, opened, closed and no longer read.
//!
//! Owns each connection's unsent output and the engine's wishes. Never does I/O. It stays correct because a slot's
//! generation changes with each use: a wish for a connection that is gone is dropped.

use crate::engine::{Address, ConnId};
use bytes::Bytes;
use std::collections::VecDeque;

/// Output of a connection above which an engine should serve nothing more to it until [`crate::engine::Engine::drained`].
/// One reply may exceed it; a second is not begun. 256 KiB: several socket buffers, so that a draining peer
/// never waits for us, and 10 000 stuck peers stay below 3 GiB.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 256 * 1024;

/// Values at least this long travel as shared bytes ([`OutBuf::push_shared`]) instead of being copied.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;

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
        self.full_bytes + self.tail.len()
    }
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    close: CloseWish,
    dirty: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum CloseWish {
    #[default]
    None,
    AfterOutput,
    Now,
}

/// The table itself. One per loop.
#[derive(Debug, Default)]
pub struct Io {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<ConnId>,
    connects: Vec<(ConnId, Address)>,
}

impl Io {
    /// Where to write output for `conn`; `None` when it is gone or being closed. Marks it for sending this turn.
    pub fn out(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        self.mark(conn)?;
        let slot = &mut self.slots[conn.index()];
        (slot.close == CloseWish::None).then_some(&mut slot.out)
    }
    /// Bytes that the engine wrote and the kernel has not accepted yet; 0 when the connection is gone.
    pub fn unsent(&self, conn: ConnId) -> usize {
        self.slot(conn).map_or(0, |s| s.out.len() + s.in_flight_bytes)
    }
    /// Whether the connection exists and is not being closed.
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.slot(conn).is_some_and(|s| s.close == CloseWish::None)
    }
    /// Close once everything written so far is sent; nothing more is read.
    pub fn close(&mut self, conn: ConnId) {
        self.wish(conn, CloseWish::AfterOutput);
    }
    /// Close at once, dropping unsent output.
    pub fn abort(&mut self, conn: ConnId) {
        self.wish(conn, CloseWish::Now);
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
    fn wish(&mut self, conn: ConnId, wish: CloseWish) {
        if self.mark(conn).is_some() {
            let slot = &mut self.slots[conn.index()];
            if slot.close != CloseWish::Now {
                slot.close = wish;
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
