//! Event loops: choose a kind, make one, reach it from other threads, and run an engine on it.
//!
//! Owns the choice of transport, the options with their bounds, and the way in from other threads
//! ([`LoopHandle`]: wake-ups and adopted connections). Never knows a protocol. Correct because an engine
//! sees no difference between the loops: `tests/loops.rs` runs one list of tests against each.

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

/// The event loops that carry sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoopKind {
    /// Completion-based: io_uring, Linux 6.1 or later.
    Uring,
    /// Readiness-based: epoll with nonblocking reads and writes.
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

/// The transport that a user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Choice {
    /// io_uring where the kernel allows it, epoll elsewhere.
    #[default]
    Auto,
    /// io_uring; an error where the kernel denies it.
    Uring,
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

/// Why a loop could not be made, or ended without being asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The kernel or its configuration does not allow this transport here.
    #[error("transport {kind} is not available: {reason}; {advice}, or choose another transport")]
    Unavailable {
        kind: LoopKind,
        /// The kernel's error, with its cause in words.
        reason: String,
        /// The change of configuration that would allow it.
        advice: &'static str,
    },
    /// A system call that cannot fail in a healthy process failed.
    #[error("{doing}: {source}")]
    Failed {
        /// The attempted action, for the message.
        doing: &'static str,
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
    /// Most bytes taken from one connection in one turn, so that a peer that streams does not delay the
    /// others. With 64 KiB a turn of the largest burst stays in the tens of microseconds. io_uring
    /// delivers beyond this bound what has arrived already.
    pub input_bytes_per_turn_max: usize,
    /// Most connections handed over by other threads and not yet taken. Beyond it the acceptor tries the
    /// next loop. The default is one listen backlog.
    pub adoptions_max: usize,
    /// How long a closing connection may wait for its peer to take the written output, before the loop
    /// aborts it. A live peer takes the output within a few round trips. A dead one must not hold memory
    /// for ever.
    pub close_flush: Duration,
    /// How long output may still leave after [`crate::engine::Next::Stop`]. Short, because a supervisor
    /// waits for the process to end.
    pub stop_flush: Duration,
    /// io_uring: submission entries (rounded up to a power of two). A turn with more is submitted in
    /// several parts.
    pub ring_entries: u32,
    /// io_uring: receive buffers shared by all connections of the loop, a power of two. While all are
    /// full, a connection without a buffer waits for the next turn.
    pub receive_buffers: u16,
    /// io_uring: size of one receive buffer. One page: requests are small, and the engine reassembles
    /// large ones anyway.
    pub receive_buffer_bytes: u32,
    /// epoll: size of the one buffer that every receive reads into.
    pub read_buffer_bytes: usize,
    /// epoll: most events taken by one `epoll_wait`.
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

/// Picks a transport by setting it up once. `Auto` falls back to epoll, logs the reason in one line and
/// returns it. A transport asked for by name that is not available is an error that says what to change.
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

/// A connection refused by a loop, because too many wait already or because the loop has ended.
#[derive(Debug, thiserror::Error)]
#[error("the loop takes no more connections")]
pub struct AdoptError {
    /// The refused descriptor, still open.
    pub fd: OwnedFd,
    pub origin: Origin,
}

/// Access to a loop from any thread.
#[derive(Clone, Debug)]
pub struct LoopHandle {
    waker: Arc<Waker>,
    counters: Arc<LoopCounters>,
    adoptions: Sender<Adoption>,
}

impl LoopHandle {
    /// The waker that ends the loop's sleep.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub fn counters(&self) -> &LoopCounters {
        &self.counters
    }

    /// Gives the loop a connected stream socket. The loop announces it with [`Engine::opened`].
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

/// An event loop that does not run yet. One thread may make it and another run it.
#[derive(Debug)]
pub struct EventLoop {
    kind: LoopKind,
    options: LoopOptions,
    handle: LoopHandle,
    adoptions: Receiver<Adoption>,
    acceptor: Option<Acceptor>,
}

impl EventLoop {
    /// Makes a loop of the kind that [`choose`] returned.
    pub fn new(kind: LoopKind, options: LoopOptions) -> Result<EventLoop, LoopError> {
        let waker = Waker::new().map_err(LoopError::failed("making an eventfd"))?;
        let (sender, adoptions) = bounded(options.adoptions_max);
        let handle = LoopHandle { waker, counters: Arc::default(), adoptions: sender };
        Ok(EventLoop { kind, options, handle, adoptions, acceptor: None })
    }

    pub fn kind(&self) -> LoopKind {
        self.kind
    }

    /// A handle for other threads. Any number may exist.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }

    /// Lets this loop accept connections, for itself and for the acceptor's other targets.
    pub fn accept_with(&mut self, acceptor: Acceptor) {
        self.acceptor = Some(acceptor);
    }

    /// Runs `engine` on the calling thread until it returns [`crate::engine::Next::Stop`]. All connections
    /// are closed by then.
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
