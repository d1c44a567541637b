//! ZooKeeper sessions of one thread: the client engine under every workload.
//!
//! Owns connections, handshakes, pings, reconnection with reattachment, and each session's queue of unanswered requests.
//! Never knows what a request is for: that is the [`Workload`]'s. It stays correct because replies are matched strictly:
//! the oldest unanswered request of a session must be the one that is answered, and a connection on which anything
//! else comes is given up, its requests then counting as of unknown outcome.

mod client;
mod table;

pub use client::Client;
pub use table::Sessions;

use crate::check::{Place, Violation};
use crate::config::{Auth, Target};
use paddock_transport::engine::{Next, Now};
use paddock_transport::io::Io;
use std::sync::Arc;
use thiserror::Error;

/// How long a connection may take until its session is established.
const OPEN_PATIENCE_NS: u64 = 10_000_000_000;

/// What a run of sessions needs to know.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Servers, tried in turn.
    pub targets: Arc<[Target]>,
    /// Session timeout to ask for, ms.
    pub timeout_ms: i32,
    /// Credentials for each connection.
    pub auth: Option<Auth>,
    /// No server that has not reached this zxid is accepted.
    pub first_zxid: i64,
    /// Servers are expected to fail: one that cannot be reached is never the end of the run, once sessions stood.
    pub through_failures: bool,
    /// A session that expires although its server was heard within half of its timeout is a wrong answer.
    pub sessions_must_live: bool,
}

/// What became of sessions whose connections were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Taken up again by the same or another server.
    pub reattached: u64,
    /// Opened anew in place of one that had expired.
    pub renewed: u64,
    /// Found expired.
    pub expired: u64,
    /// Of these, those whose server had been heard within half of their timeout.
    pub expired_early: u64,
}

impl Moves {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Moves) {
        self.reattached += other.reattached;
        self.renewed += other.renewed;
        self.expired += other.expired;
        self.expired_early += other.expired_early;
    }
}

/// Why sessions cannot be had at all. Each says what to do.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens, or the network is down.
    #[error(
        "cannot connect to {target}: {why}. Is a server running there? (`paddock serve` starts one; without --target a server is embedded)"
    )]
    Connect {
        /// Which server.
        target: String,
        /// The system's reason.
        why: String,
    },
    /// Something else answered.
    #[error(
        "{target} does not speak the ZooKeeper protocol: check the port (a TLS port and an admin port do not either)"
    )]
    NotZooKeeper {
        /// Which server.
        target: String,
    },
    /// The connection was taken and dropped.
    #[error(
        "{target} closes connections without an answer: either it is not serving (no quorum yet?), or it allows fewer connections per address than --connections (maxClientCnxns, 60 by default; 0 lifts it)"
    )]
    NoAnswer {
        /// Which server.
        target: String,
    },
    /// The connection was taken and nothing came.
    #[error(
        "{target} accepts connections but does not answer: it may be overloaded, or another kind of server"
    )]
    Silent {
        /// Which server.
        target: String,
    },
    /// Credentials were not accepted.
    #[error("{target} does not accept these credentials: check --auth")]
    AuthFailed {
        /// Which server.
        target: String,
    },
}

/// What happens to connections besides replies. Counted, with these names, in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// No connection.
    ConnectFailed,
    /// Taken and closed before the session stood.
    HandshakeClosed,
    /// An established connection was closed or reset.
    ConnectionLost,
    /// Nothing came for two thirds of the session timeout; given up.
    ServerSilent,
    /// The session had expired.
    SessionExpired,
}

impl Trouble {
    /// All kinds.
    pub const ALL: [Trouble; 5] = [
        Trouble::ConnectFailed,
        Trouble::HandshakeClosed,
        Trouble::ConnectionLost,
        Trouble::ServerSilent,
        Trouble::SessionExpired,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Trouble::ConnectFailed => "connect_failed",
            Trouble::HandshakeClosed => "handshake_closed",
            Trouble::ConnectionLost => "connection_lost",
            Trouble::ServerSilent => "server_silent",
            Trouble::SessionExpired => "session_expired",
        }
    }
}

/// A reply as the workload sees it.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// 0 or an error code.
    pub err: i32,
    /// The server's zxid when it answered.
    pub zxid: i64,
    /// The record; empty when there is an error.
    pub body: &'a [u8],
    /// What the session had been told before this reply: it must not see an older tree.
    pub seen: i64,
}

/// What sessions are used for.
pub trait Workload {
    /// What is remembered of a request until its reply comes.
    type Request: Copy;

    /// Session `index` is established, for the first time or again.
    fn ready(&mut self, now: Now, index: usize, sessions: &mut Sessions<Self::Request>, io: &mut Io);
    /// The oldest request of session `index` was answered. The highest zxid that the reply's record shows, for [`Reply::seen`] of
    /// later replies, is returned; 0 if none.
    fn replied(
        &mut self,
        now: Now,
        index: usize,
        request: Self::Request,
        reply: Reply<'_>,
        sessions: &mut Sessions<Self::Request>,
        io: &mut Io,
    ) -> i64;
    /// The connection of a request was lost before its reply.
    fn lost(&mut self, now: Now, request: Self::Request);
    /// The server broke the protocol.
    fn violation(&mut self, violation: Violation, place: Place);
    /// Something happened to a connection.
    fn trouble(&mut self, _trouble: Trouble) {}
    /// A ping was answered.
    fn ponged(&mut self, _now: Now, _sent_ns: u64) {}
    /// All replies of this turn are in.
    fn turn(&mut self, now: Now, sessions: &mut Sessions<Self::Request>, io: &mut Io) -> Next;
}
