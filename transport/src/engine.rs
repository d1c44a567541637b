//! The contract between an engine (protocol, no I/O) and a loop (I/O, no protocol).
//!
//! Owns the [`Engine`] trait and the types in its calls. Never does I/O. Correct because an engine reads
//! no clock and makes no system call: its results follow from its calls alone, so the simulator can replay
//! them.
//!
//! A loop owns one core's sockets and drives one [`Engine`]. In one turn the loop:
//!
//! - hands over everything that arrived ([`Engine::opened`], [`Engine::received`], [`Engine::eof`],
//!   [`Engine::drained`], [`Engine::closed`]);
//! - calls [`Engine::turn`] once;
//! - writes each connection's output once;
//! - sleeps only if nothing came and the engine agreed ([`Engine::park`]).
//!
//! The engine leaves its output and requests in [`Io`]: bytes to send, and connections to open, close or
//! stop reading. Every loop shares this plain table: the socket loops, the in-process loop of the tests,
//! and the simulator.

#![forbid(unsafe_code)]

use crate::io::Io;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A connection of one loop: slot index in the low 32 bits, generation in the high 32.
///
/// A slot is reused with another generation, so a stale id never reaches a later connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnId(pub u64);

impl ConnId {
    /// The id of slot `index` in its `generation`th use, counted from zero.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }
    /// The slot, dense from zero: usable as an index into a table beside the loop's.
    pub const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
    /// How often the slot was used before this connection.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// An address to listen on or connect to. The address chooses between TCP and unix stream sockets. Each
/// loop carries both.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    /// A unix stream socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(at) => at.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The reverse of `Display`: `HOST:PORT` with a numeric host, or `unix:PATH`.
impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        text.parse().map(Address::Tcp).map_err(|_| {
            format!("`{text}` is no address: write IP:PORT (127.0.0.1:2181, [::1]:2181) or unix:PATH")
        })
    }
}

/// Where a connection came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The remote end. A unix peer has no address of its own and carries the listener's path.
    pub peer: Address,
    /// `Some(n)`: accepted by the loop's (or acceptor's) `n`th listener. `None`: opened by [`Io::connect`].
    pub listener: Option<u16>,
}

/// Duration from which a turn counts as long, so that the loop calls [`Engine::late`] before output
/// leaves. Few turns reach it: serving a full one takes some hundred microseconds. Engines promise time in
/// milliseconds.
pub const LONG_TURN_NS: u64 = 1_000_000;

/// The time of a turn, read once by the loop. Engines never read a clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Now {
    /// Nanoseconds of a clock that never goes back and counts suspension (`CLOCK_BOOTTIME`).
    pub mono_ns: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
}

/// Why a connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The engine asked for it ([`Io::close`], [`Io::abort`]).
    ByEngine,
    /// The peer closed or reset it.
    ByPeer,
    /// [`Io::connect`] did not succeed; the value is the `errno`.
    ConnectFailed(i32),
    /// The kernel reported another error; the value is the `errno`.
    Failed(i32),
}

/// The engine's decision at the end of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// There is more to do: poll the sockets and come back without sleeping.
    Again,
    /// Nothing to do before `deadline_ns` (on [`Now::mono_ns`]'s clock), unless input or a wake-up comes.
    Sleep {
        /// `None` sleeps without a deadline.
        deadline_ns: Option<u64>,
    },
    /// Flush what is written, close everything and return from the loop.
    Stop,
}

/// A protocol without I/O. Bytes, wake-ups and time go in. Bytes and requests come out through [`Io`],
/// deadlines through [`Next`].
pub trait Engine {
    /// A connection was accepted or adopted, or one requested with [`Io::connect`] is established.
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io);
    /// Bytes arrived. The slice is valid during the call only: the engine copies what it does not consume.
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io);
    /// The peer will send no more (half-close). By default the connection closes once its output is sent.
    fn eof(&mut self, _now: Now, conn: ConnId, io: &mut Io) {
        io.close(conn);
    }
    /// All output of a connection that had exceeded [`crate::io::OUTPUT_HIGH_WATER_BYTES`] reached the
    /// kernel.
    fn drained(&mut self, _now: Now, _conn: ConnId, _io: &mut Io) {}
    /// The connection is gone. The loop calls this exactly once for each connection that was opened or
    /// requested, also if the engine closed it. The call is never nested in another one.
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io);
    /// All input of this turn has been delivered: the engine does its work.
    fn turn(&mut self, now: Now, io: &mut Io) -> Next;
    /// At least [`LONG_TURN_NS`] have passed since the time of this turn was read, and none of its output
    /// has left. The process may have been stopped in between. `now` is a new reading. An engine whose
    /// replies become stale withdraws them here with [`Io::abort`].
    fn late(&mut self, _now: Now, _io: &mut Io) {}
    /// The loop is about to sleep and its sleeping flag is raised. Returns `false` if work came meanwhile:
    /// the loop then runs another turn instead.
    fn park(&mut self) -> bool {
        true
    }
    /// The loop woke up. Called before any input of the new turn, and only after a `park` that returned
    /// `true`.
    fn unpark(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["127.0.0.1:2181", "[::1]:0", "unix:/run/paddock.socket"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "localhost", "127.0.0.1", "/run/paddock.socket"] {
            assert!(text.parse::<Address>().unwrap_err().contains("unix:PATH"), "{text}");
        }
    }

    #[test]
    fn slot_and_generation_do_not_mix() {
        let conn = ConnId::new(u32::MAX, 1);
        assert_eq!((conn.index(), conn.generation()), (u32::MAX as usize, 1));
        assert_ne!(ConnId::new(0, 1), ConnId::new(1, 0));
    }
}
