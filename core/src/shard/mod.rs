//! A shard: the engine of one core that serves clients.
//!
//! Owns the client connections of its core, the order of each session's requests, and the watches of its
//! clients.
//!
//! Never writes the tree, never blocks, and never locks on the path of a request. Reads are answered from
//! the tree version to which the shard's reader is pinned. Writes go through a ring to the consensus
//! core, and their results return in commits.
//!
//! A turn, after the loop has delivered all input:
//!
//! ```text
//!   load the quorum's confirmation ──► close the connections that may not be served any more
//!   take commits: fire watches ──► session moves ──► results, in each connection's order ──► session ends
//!   at the newest version: parse every ready connection, look up all reads together, answer
//!      a request behind a write waits for its result; a write behind a read waits for the next pass
//! ```
//!
//! Correct because:
//! - *Events precede data.* All commits of a turn fire their watches before any request is served, and no
//!   request is served in between.
//! - *A read and its watch are atomic.* The version does not change while requests are served.
//! - *Requests of a session keep their order.* Only the head of a connection's input is parsed. A read
//!   waits for all forwarded writes. A write behind an unanswered read is not forwarded, because one
//!   commit may contain it together with an earlier write of the session. So each request sees all
//!   requests before it and none behind it.
//! - *No stale node serves.* See [`serving_mode`] and [`leases`].
//! - *Memory is bounded.* See [`config`]: at each bound the socket is not read, or the connection closes.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod address_limit;
mod auth;
mod commits;
pub mod config;
mod connection;
mod four_letter_words;
mod handshake;
pub mod ids;
mod leases;
mod linearizable;
mod local_requests;
pub mod mailboxes;
mod parse;
mod read_only;
mod read_replies;
mod request_class;
mod serve;
mod serving_mode;
mod submit_queue;
mod touched;
mod watch_requests;

pub use config::ShardConfig;
pub use ids::{CountedIds, SessionIds};
pub use mailboxes::Mailboxes;

use crate::freshness::Freshness;
use crate::ring::CommitReceiver;
use crate::stats::{ShardCells, Stats};
use crate::submit::{Inquiries, Submit};
use crate::tree::Reader;
use crate::watch::{Hits, Watches};
use config::{CLOSE_LINGER_NS, HANDSHAKE_TIMEOUT_NS, SUBMIT_RETRY_NS, WATCHES_PER_CONNECTION_MAX};
use connection::{Connection, ConnectionPhase, Connections, PendingKind};
use crossbeam_utils::CachePadded;
use foldhash::fast::RandomState;
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use paddock_transport::wire::Limits;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use submit_queue::SubmitQueue;
use touched::Touched;

/// The inputs from which a shard is built.
pub struct ShardParts {
    /// The parameters of this shard; [`ShardConfig::id`] differs from shard to shard.
    pub config: ShardConfig,
    /// The shard's reader of the tree.
    pub reader: Reader,
    /// The shard's end of the commit ring. No session is served before the first commit arrives.
    pub commits: CommitReceiver,
    /// The shard's ring to the consensus core.
    pub submit: rtrb::Producer<Submit>,
    /// The consensus core's waker, used after each turn that pushed a submission.
    pub consensus: Arc<Waker>,
    /// Source of session ids and passwords.
    pub ids: Box<dyn SessionIds + Send>,
    /// Counters of the node; a shard writes its own cells only.
    pub stats: Arc<Stats>,
    /// Set while watches are armed. The consensus core wakes only such shards for changes of the tree.
    pub armed: Arc<CachePadded<AtomicBool>>,
    /// Messages between the shards of the node.
    pub mailboxes: Arc<Mailboxes>,
    /// The quorum's confirmations, written by the consensus core.
    pub freshness: Arc<Freshness>,
    /// Questions to the consensus core about sessions of read-only clients.
    pub inquiries: Arc<Inquiries>,
}

/// Slot of the connection in [`ConnectionPhase::Open`] that has the session. Sessions of read-only
/// clients are included if the node's session table has them.
type Sessions = HashMap<i64, u32, RandomState>;

/// The engine of one core; see the module documentation.
pub struct Shard {
    config: ShardConfig,
    limits: Limits,
    reader: Reader,
    commits: CommitReceiver,
    submit_queue: SubmitQueue,
    ids: Box<dyn SessionIds + Send>,
    stats: Arc<Stats>,
    armed: Arc<CachePadded<AtomicBool>>,
    mailboxes: Arc<Mailboxes>,
    freshness: Arc<Freshness>,
    inquiries: Arc<Inquiries>,

    connections: Connections,
    sessions: Sessions,
    watches: Watches,
    hits: Hits,
    touched: Touched,
    serving: serving_mode::ServingState,
    leases: leases::Leases,
    read_rounds: linearizable::ReadRounds,
    /// Slots to serve in the next pass over the connections.
    ready: Vec<u32>,
    /// Last applied zxid at the version to which the reader is pinned.
    zxid: i64,
    /// The reader is pinned to a version; false before the first commit and after a sleep.
    pinned: bool,
    /// Deadlines of connections without a session. Sorted, because the delay is constant.
    handshakes: VecDeque<(u64, ConnId)>,
    /// Deadlines of closing connections. Sorted, because the delay is constant.
    lingering: VecDeque<(u64, ConnId)>,
    /// Words that wait for client lists, sorted by deadline.
    pending_words: VecDeque<four_letter_words::PendingWord>,
    /// Submissions without a result.
    outstanding: u64,
    /// Znodes visited in this turn, at most [`config::VISITS_PER_TURN_MAX`] plus those of one request.
    visited: u64,
    /// The frame of a notification, built once for all its receivers.
    notification: Vec<u8>,
    scratch: serve::Scratch,
}

impl Shard {
    /// A shard without connections.
    pub fn new(parts: ShardParts) -> Self {
        let ShardParts { config, reader, commits, submit, consensus, ids, stats, armed, .. } = parts;
        let (mailboxes, freshness, inquiries) = (parts.mailboxes, parts.freshness, parts.inquiries);
        let max = config.jute_max_buffer_bytes;
        let leases = leases::Leases::new(config.touch_beat_ns());
        Self {
            limits: Limits::new(max, max.max(1024)),
            submit_queue: SubmitQueue::new(config.id, submit, consensus),
            config,
            reader,
            commits,
            ids,
            stats,
            armed,
            mailboxes,
            freshness,
            inquiries,
            connections: Connections::default(),
            sessions: HashMap::default(),
            watches: Watches::new(WATCHES_PER_CONNECTION_MAX),
            hits: Hits::default(),
            touched: Touched::new(),
            serving: serving_mode::ServingState::default(),
            leases,
            read_rounds: linearizable::ReadRounds::default(),
            ready: Vec::new(),
            zxid: 0,
            pinned: false,
            handshakes: VecDeque::new(),
            lingering: VecDeque::new(),
            pending_words: VecDeque::new(),
            outstanding: 0,
            visited: 0,
            notification: Vec::new(),
            scratch: serve::Scratch::default(),
        }
    }

    fn cells(&self) -> &ShardCells {
        self.stats.shard(self.config.id)
    }

    /// Lists the connection among those to serve next.
    fn mark_ready(ready: &mut Vec<u32>, connection: &mut Connection) {
        if !connection.ready {
            connection.ready = true;
            ready.push(connection.id.index() as u32);
        }
    }

    /// Closes the connection after its output is sent. If the peer does not read it within
    /// [`CLOSE_LINGER_NS`], the connection is aborted.
    fn close(&mut self, now: Now, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        if connection.phase == ConnectionPhase::Closing {
            return;
        }
        let id = connection.id;
        connection.phase = ConnectionPhase::Closing;
        connection.input = Vec::new();
        self.release(slot);
        io.close(id);
        self.lingering.push_back((now.mono_ns + CLOSE_LINGER_NS, id));
    }

    /// Closes the connection at once and discards its unsent output.
    fn abort(&mut self, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let id = connection.id;
        connection.phase = ConnectionPhase::Closing;
        connection.input = Vec::new();
        self.release(slot);
        io.abort(id);
    }

    /// Unbinds the connection in `slot` from its session, its watches and its pending results.
    fn release(&mut self, slot: u32) {
        self.watches.drop_connection(slot);
        if let Some(connection) = self.connections.slot(slot) {
            let session = std::mem::take(&mut connection.session);
            if session != 0 && self.sessions.get(&session) == Some(&slot) {
                self.sessions.remove(&session);
            }
            let asked = connection.pending.front().filter(|p| matches!(p.kind, PendingKind::Session { .. }));
            if let Some(asked) = asked {
                self.submit_queue.withdraw(slot, asked.number);
            }
            self.outstanding -= connection.pending.len() as u64;
            connection.pending.clear();
        }
    }

    /// Closes connections that have no session in time, and aborts closing ones that do not read their
    /// output in time.
    fn expire(&mut self, now: Now, io: &mut Io) {
        use ConnectionPhase::{AwaitingClientList, Fresh, Opening};
        while let Some((deadline, id)) = self.handshakes.front().copied() {
            let waiting = self
                .connections
                .find(id)
                .is_some_and(|c| matches!(c.phase, Fresh | AwaitingClientList | Opening));
            if waiting && deadline > now.mono_ns {
                break;
            }
            self.handshakes.pop_front();
            if waiting {
                self.cells().handshakes_timed_out.add(1);
                self.close(now, id.index() as u32, io);
            }
        }
        while let Some((deadline, id)) = self.lingering.front().copied() {
            let there = self.connections.find(id).is_some();
            if there && deadline > now.mono_ns {
                break;
            }
            self.lingering.pop_front();
            if there {
                io.abort(id);
            }
        }
    }

    /// Publishes whether watches are armed, and the gauges of this shard.
    fn publish_gauges(&self) {
        let armed = !self.watches.is_empty();
        if self.armed.load(Ordering::Relaxed) != armed {
            self.armed.store(armed, Ordering::Relaxed);
        }
        let cells = self.cells();
        cells.watches.set(self.watches.armed() as u64);
        cells.watched_paths.set(self.watches.paths() as u64);
        cells.watching_connections.set(self.watches.watching() as u64);
        cells.sessions.set(self.sessions.len() as u64);
        cells.outstanding.set(self.outstanding);
    }

    /// When the next turn is due although no input comes.
    fn deadline(&self, now: Now) -> Option<u64> {
        let touched = self.touched.deadline_ns(now, self.config.touch_beat_ns());
        let retry = self.submit_queue.full.then(|| now.mono_ns + SUBMIT_RETRY_NS);
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        let linger = self.lingering.front().map(|(deadline, _)| *deadline);
        let word = self.pending_words.front().map(|word| word.until_ns);
        let mode = self.serving_deadline_ns(now);
        let early = self.serving.wait_deadline_ns();
        [touched, retry, handshake, linger, word, mode, early].into_iter().flatten().min()
    }
}

impl Engine for Shard {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        let mut connection = Connection::new(conn, origin, now.wall_ms);
        let listener = origin.listener.map(usize::from);
        connection.linearizable =
            listener.and_then(|n| self.config.linearizable.get(n)).is_some_and(|linearizable| *linearizable);
        if let Some(ip) = connection.ip
            && !self.mailboxes.addresses.admit(ip)
        {
            self.cells().connections_rejected.add(1);
            tracing::warn!(%ip, "connection refused: its address has as many as maxClientCnxns allows");
            io.abort(conn);
            return;
        }
        self.connections.insert(connection);
        self.handshakes.push_back((now.mono_ns + HANDSHAKE_TIMEOUT_NS, conn));
        let cells = self.cells();
        cells.connections.add(1);
        cells.connections_accepted.add(1);
    }

    fn received(&mut self, _now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        self.stats.shard(self.config.id).bytes_received.add(bytes.len() as u64);
        let Some(connection) = self.connections.find(conn) else { return };
        // Input behind a four-letter word is discarded.
        if matches!(connection.phase, ConnectionPhase::Closing | ConnectionPhase::AwaitingClientList)
            || connection.eof
        {
            return;
        }
        connection.input.extend_from_slice(bytes);
        serve::pace_input(connection, io);
        Self::mark_ready(&mut self.ready, connection);
    }

    fn eof(&mut self, _now: Now, conn: ConnId, io: &mut Io) {
        // Earlier input is still served in this turn: netcat closes its side right behind a four-letter word.
        match self.connections.find(conn) {
            Some(connection) => {
                connection.eof = true;
                Self::mark_ready(&mut self.ready, connection);
            }
            None => io.close(conn),
        }
    }

    fn drained(&mut self, _now: Now, conn: ConnId, _io: &mut Io) {
        if let Some(connection) = self.connections.find(conn) {
            connection.stalled = false;
            Self::mark_ready(&mut self.ready, connection);
        }
    }

    fn closed(&mut self, _now: Now, conn: ConnId, _why: Closed, _io: &mut Io) {
        if self.connections.find(conn).is_none() {
            return;
        }
        self.release(conn.index() as u32);
        if let Some(connection) = self.connections.remove(conn) {
            if let Some(ip) = connection.ip {
                self.mailboxes.addresses.leave(ip);
            }
            self.cells().connections.sub(1);
        }
    }

    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        self.submit_queue.full = false;
        self.visited = 0;
        // Before commits are taken: those of the confirmed index are among them, and connections that may
        // not be served get nothing of them.
        self.update_serving_mode(now, io);
        self.take_commits(now, io);
        self.take_mail(now, io);
        self.answer_pending_words(now, io);
        let more = self.serve(now, io);
        self.ask_round();
        self.expire(now, io);
        self.report_touched(now);
        self.submit_queue.push_withdrawals();
        self.submit_queue.wake();
        self.publish_gauges();
        if self.submit_queue.full {
            self.cells().submit_ring_full.add(1);
        }
        if more { Next::Again } else { Next::Sleep { deadline_ns: self.deadline(now) } }
    }

    fn late(&mut self, now: Now, io: &mut Io) {
        self.recheck_before_output(now, io);
    }

    fn park(&mut self) -> bool {
        if self.commits.has_more() || self.mailboxes.has_mail(self.config.id) {
            return false;
        }
        self.reader.park();
        self.pinned = false;
        true
    }

    fn unpark(&mut self) {
        self.reader.unpark();
    }
}

#[cfg(test)]
mod tests;
