//! Event loops: how to choose one, make one, reach it from other threads, and run an engine on it.
//!
//! Owns the choice of transport, the options with their bounds, and the way in from other threads
//! ([`LoopHandle`]: wake-ups and adopted connections). Never knows a protocol. An engine sees no difference
//! between the loops: one list of tests is run against each (`tests/loops.rs`).

#![forbid(unsafe_code)]

mod counters;
mod loop_state;

pub use counters::LoopCounters;
pub(crate) use loop_state::{LoopState, Wait};

use crate::accept::Acceptor;
use crate::engine::{Engine, Origin};
use crate::wake::Waker;
use crate::{epoll, uring};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The loops that carry sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoopKind {
    /// io_uring.
    Uring,
    /// epoll and nonblocking reads and writes.
    Epoll,
}

impl fmt::Display for LoopKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LoopKind::Uring => "uring",
            LoopKind::Epoll => "epoll",
        })
    }
}

/// What a user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Choice {
    /// io_uring where the kernel allows it, epoll elsewhere.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

impl FromStr for Choice {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Choice::Auto),
            "uring" => Ok(Choice::Uring),
            "epoll" => Ok(Choice::Epoll),
            other => Err(format!("`{other}` is no transport: choose auto, uring or epoll")),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Auto => "auto",
            Choice::Uring => "uring",
            Choice::Epoll => "epoll",
        })
    }
}

/// Why a loop cannot be made or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The kernel, or who configured it, does not allow this transport here.
    #[error("transport {kind} is not available: {reason}; {advice}, or choose another transport")]
    Unavailable {
        /// Which.
        kind: LoopKind,
        /// What the kernel said.
        reason: String,
        /// What to change.
        advice: &'static str,
    },
    /// A system call that cannot fail in a healthy process failed.
    #[error("{doing}: {source}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LoopError {
    pub(crate) fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> LoopError {
        move |source| LoopError::Failed { doing, source }
    }
}

/// Bounds of one loop. The defaults fit a server with some ten thousand clients.
#[derive(Clone, Debug)]
pub struct LoopOptions {
    /// Most bytes taken from one connection in one turn: a peer that streams must not hold up the others. 64 KiB: a
    /// turn of the largest burst stays in the tens of microseconds. With io_uring what has arrived already is
    /// delivered beyond it.
    pub input_bytes_per_turn_max: usize,
    /// Connections handed over by other threads and not yet taken; beyond, the acceptor tries the next loop. One
    /// listen backlog's worth.
    pub adoptions_max: usize,
    /// How long a connection that the engine closes may wait for its peer to take what was written; then it is
    /// aborted. A peer that lives takes it within round trips, one that does not must not hold memory for ever.
    pub close_flush: Duration,
    /// The same for [`crate::engine::Next::Stop`], after which somebody waits for the process to end.
    pub stop_flush: Duration,
    /// io_uring: submission entries (rounded up to a power of two); a turn with more is submitted in several parts.
    pub ring_entries: u32,
    /// io_uring: receive buffers shared by all connections of the loop, a power of two. When all are full the
    /// connections that found none wait for the next turn.
    pub receive_buffers: u16,
    /// io_uring: size of one of them. A page: requests are small, and large ones are put together by the engine anyway.
    pub receive_buffer_bytes: u32,
    /// epoll: size of the one buffer that is read into.
    pub read_buffer_bytes: usize,
    /// epoll: most events taken at a time.
    pub events_per_wait: usize,
}

impl Default for LoopOptions {
    fn default() -> Self {
        LoopOptions {
            input_bytes_per_turn_max: 64 * 1024,
            adoptions_max: 4096,
            close_flush: Duration::from_secs(10),
            stop_flush: Duration::from_secs(1),
            ring_entries: 1024,
            receive_buffers: 1024,
            receive_buffer_bytes: 4096,
            read_buffer_bytes: 64 * 1024,
            events_per_wait: 512,
        }
    }
}

/// Decides for a transport, trying it out once. `Auto` falls back to epoll, logs why in one line and returns the
/// reason; a transport asked for by name that is not available is an error that says what to change.
pub fn choose(choice: Choice) -> Result<(LoopKind, Option<String>), LoopError> {
    match choice {
        Choice::Epoll => Ok((LoopKind::Epoll, None)),
        Choice::Uring => uring::probe(&LoopOptions::default()).map(|()| (LoopKind::Uring, None)),
        Choice::Auto => match uring::probe(&LoopOptions::default()) {
            Ok(()) => Ok((LoopKind::Uring, None)),
            Err(e) => {
                let reason = match e {
                    LoopError::Unavailable { reason, advice, .. } => format!("{reason} ({advice})"),
                    other => other.to_string(),
                };
                tracing::warn!("io_uring is not available, using epoll: {reason}");
                Ok((LoopKind::Epoll, Some(reason)))
            }
        },
    }
}

/// A connection on its way into a loop.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) fd: OwnedFd,
    pub(crate) origin: Origin,
}

/// A connection that a loop did not take, because too many wait already or because it has ended.
#[derive(Debug, thiserror::Error)]
#[error("the loop takes no more connections")]
pub struct AdoptError {
    /// The descriptor, back.
    pub fd: OwnedFd,
    /// Where it came from.
    pub origin: Origin,
}

/// The way into a loop from any thread.
#[derive(Clone, Debug)]
pub struct LoopHandle {
    waker: Arc<Waker>,
    counters: Arc<LoopCounters>,
    adoptions: Sender<Adoption>,
}

impl LoopHandle {
    /// What wakes the loop.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// What the loop has done so far.
    pub fn counters(&self) -> &LoopCounters {
        &self.counters
    }

    /// Gives the loop a connected stream socket; its engine hears of it by `opened`.
    pub fn adopt(&self, fd: OwnedFd, origin: Origin) -> Result<(), AdoptError> {
        self.try_adopt(Adoption { fd, origin })
            .map_err(|back| AdoptError { fd: back.fd, origin: back.origin })
    }

    pub(crate) fn try_adopt(&self, adoption: Adoption) -> Result<(), Adoption> {
        match self.adoptions.try_send(adoption) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => Err(back),
        }
    }
}

/// An event loop that does not run yet. Made on any thread, run on its own.
#[derive(Debug)]
pub struct EventLoop {
    kind: LoopKind,
    options: LoopOptions,
    handle: LoopHandle,
    adoptions: Receiver<Adoption>,
    acceptor: Option<Acceptor>,
}

impl EventLoop {
    /// A loop of the kind that [`choose`] returned.
    pub fn new(kind: LoopKind, options: LoopOptions) -> Result<EventLoop, LoopError> {
        let waker = Waker::new().map_err(LoopError::failed("making an eventfd"))?;
        let (sender, adoptions) = bounded(options.adoptions_max);
        let handle = LoopHandle { waker, counters: Arc::default(), adoptions: sender };
        Ok(EventLoop { kind, options, handle, adoptions, acceptor: None })
    }

    /// Which transport it uses.
    pub fn kind(&self) -> LoopKind {
        self.kind
    }

    /// The way in from other threads.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }

    /// Lets this loop accept connections, for itself and for the others that the acceptor deals to.
    pub fn accept_with(&mut self, acceptor: Acceptor) {
        self.acceptor = Some(acceptor);
    }

    /// Runs `engine` on the calling thread until it returns [`crate::engine::Next::Stop`]. All connections are closed then.
    pub fn run(self, engine: &mut impl Engine) -> Result<(), LoopError> {
        let EventLoop { kind, options, handle, adoptions, acceptor } = self;
        let loop_state = LoopState::new(options, handle.waker, handle.counters, adoptions, acceptor);
        // The handle's sender is dropped here: a loop must not keep its own queue open.
        drop(handle.adoptions);
        match kind {
            LoopKind::Uring => uring::run(loop_state, engine),
            LoopKind::Epoll => epoll::run(loop_state, engine),
        }
    }
}
