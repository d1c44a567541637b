//! ZooKeeper sessions of one thread: the client engine under every workload.
//!
//! Owns connections, handshakes, pings, reconnection with reattachment, and each session's queue of
//! unanswered requests. Never knows what a request is for: that is the business of the [`Workload`].
//! Correct because replies are matched strictly: each must answer the oldest unanswered request of its
//! session. A connection on which anything else arrives is given up, and its requests then have an unknown
//! outcome.

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

/// Longest time from connecting until the session is established.
const OPEN_PATIENCE_NS: u64 = 10_000_000_000;

/// Settings that all sessions of a run share.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Servers, tried in turn.
    pub targets: Arc<[Target]>,
    /// Session timeout to ask for, ms.
    pub timeout_ms: i32,
    /// Credentials sent on each connection.
    pub auth: Option<Auth>,
    /// Sent as `lastZxidSeen`: servers that have not reached this zxid refuse the session.
    pub first_zxid: i64,
    /// Servers are expected to fail. With several targets, a server then has less time to accept a session.
    pub through_failures: bool,
    /// A session that expires although its server answered within the last half of its timeout is a
    /// violation.
    pub sessions_must_live: bool,
}

/// Sessions that were attached again, replaced or expired after their connections were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Attached again by the same or another server.
    pub reattached: u64,
    /// Opened in place of an expired session.
    pub renewed: u64,
    /// Expired when they were to be attached again.
    pub expired: u64,
    /// Expired although the server had answered within the last half of the timeout.
    pub expired_early: u64,
}

impl Moves {
    pub fn merge(&mut self, other: &Moves) {
        self.reattached += other.reattached;
        self.renewed += other.renewed;
        self.expired += other.expired;
        self.expired_early += other.expired_early;
    }
}

/// Why no session can be established. Each message says what to do.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection was refused, or the network is down.
    #[error(
        "cannot connect to {target}: {why}. Is a server running there? (`paddock serve` starts one; without --target a server is embedded)"
    )]
    Connect {
        target: String,
        /// Error text of the operating system.
        why: String,
    },
    /// The answer was no message of the ZooKeeper protocol.
    #[error(
        "{target} does not speak the ZooKeeper protocol: check the port (a TLS port and an admin port do not either)"
    )]
    NotZooKeeper { target: String },
    /// The server accepted the connection and closed it.
    #[error(
        "{target} closes connections without an answer: either it is not serving (no quorum yet?), or it allows fewer connections per address than --connections (maxClientCnxns, 60 by default; 0 lifts it)"
    )]
    NoAnswer { target: String },
    /// The server accepted the connection and sent nothing.
    #[error(
        "{target} accepts connections but does not answer: it may be overloaded, or another kind of server"
    )]
    Silent { target: String },
    /// The server refused the credentials.
    #[error("{target} does not accept these credentials: check --auth")]
    AuthFailed { target: String },
}

/// Events of connections. Reports count them under the names of [`Trouble::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// The connection could not be established.
    ConnectFailed,
    /// The connection was closed before its session was established.
    HandshakeClosed,
    /// An established connection was closed or reset.
    ConnectionLost,
    /// Nothing arrived for two thirds of the session timeout, so the connection was given up.
    ServerSilent,
    /// The server refused the session as expired.
    SessionExpired,
}

impl Trouble {
    pub const ALL: [Trouble; 5] = [
        Trouble::ConnectFailed,
        Trouble::HandshakeClosed,
        Trouble::ConnectionLost,
        Trouble::ServerSilent,
        Trouble::SessionExpired,
    ];

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

/// A reply, as the workload gets it.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// ZooKeeper error code; 0 for success.
    pub err: i32,
    /// Zxid in the reply's header.
    pub zxid: i64,
    /// Record of the reply; empty for an error.
    pub body: &'a [u8],
    /// Highest zxid that the session had been shown before this reply. The reply must not be from an older
    /// tree.
    pub seen: i64,
}

/// A use of sessions: decides what to send, and gets the replies.
pub trait Workload {
    /// Kept with each request until its reply arrives.
    type Request: Copy;

    /// Session `index` is established, for the first time or again.
    fn ready(&mut self, now: Now, index: usize, sessions: &mut Sessions<Self::Request>, io: &mut Io);
    /// The oldest request of session `index` was answered. Returns the highest zxid in the reply's record,
    /// or 0. The caller uses it for [`Reply::seen`] of later replies.
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
    /// A connection event was counted.
    fn trouble(&mut self, _trouble: Trouble) {}
    /// A ping was answered.
    fn ponged(&mut self, _now: Now, _sent_ns: u64) {}
    /// All replies of this turn have been handed over.
    fn turn(&mut self, now: Now, sessions: &mut Sessions<Self::Request>, io: &mut Io) -> Next;
}
