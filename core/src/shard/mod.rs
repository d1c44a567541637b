//! The engine of a reading core: requests in, replies out.
//!
//! Owns this core's client connections, their sessions' order of requests, and their watches. Never writes the tree,
//! never waits, never touches another core's memory on a request's way: a read is answered from the shard's own standing
//! on the tree, a write goes into the ring to the consensus core and comes back as the result in a commit.
//!
//! A turn, after the loop has delivered all input:
//!
//! ```text
//!   what the quorum confirmed is loaded ──► who may not be served any more is closed
//!   commits ──► fire watches ──► sessions moved ──► results, in each connection's order ──► sessions closed
//!      then, at the newest version: every ready connection's requests are parsed, all their lookups made together,
//!      and answered; what stands behind a write waits for it, what stands behind a read waits for the next round.
//! ```
//!
//! Why it stays correct:
//! - *event before data*: all commits of a turn fire before anything is served, and nothing is served in between;
//! - *a read and its watch are one*: the version does not move while requests are served;
//! - *a session's order*: the head of its input is the only request looked at. A read at the head waits for all
//!   forwarded writes; a write behind a read that was not served is not forwarded, for one commit may hold it together
//!   with an earlier one; so each request sees all before it and none behind it;
//! - *nobody is served by a node that sleeps, is cut off or follows a deposed leader*: see [`footing`] and [`leases`];
//! - *bounded memory*: see [`config`]; at each bound the socket is not read or the connection is closed.

#![forbid(unsafe_code)]

mod auth;
mod commits;
pub mod config;
mod connection;
mod footing;
mod gather;
mod handshake;
pub mod ids;
mod leases;
mod local;
pub mod neighbours;
mod read_only;
mod reads;
mod rounds;
mod serve;
mod uplink;
mod watching;
mod words;

pub use config::ShardConfig;
pub use ids::{CountedIds, SessionIds};
pub use neighbours::Neighbours;

use crate::freshness::Freshness;
use crate::ring::CommitReceiver;
use crate::stats::{ShardCells, Stats};
use crate::submit::{Inquiries, Submit};
use crate::tree::Reader;
use crate::watch::{Hits, Watches};
use config::{CLOSE_LINGER_NS, HANDSHAKE_TIMEOUT_NS, SUBMIT_RETRY_NS, WATCHES_PER_CONNECTION_MAX};
use connection::{Connection, Connections, Phase, Waiting};
use crossbeam_utils::CachePadded;
use foldhash::fast::RandomState;
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use paddock_transport::wire::Limits;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uplink::Uplink;

/// What a shard is made of.
pub struct Parts {
    /// Parameters.
    pub config: ShardConfig,
    /// Its eyes on the tree.
    pub reader: Reader,
    /// Its end of the commit ring. Nothing is served before the first commit came through it.
    pub commits: CommitReceiver,
    /// Its ring to the consensus core.
    pub submit: rtrb::Producer<Submit>,
    /// Woken after each turn that pushed something.
    pub consensus: Arc<Waker>,
    /// Where session ids and passwords come from.
    pub ids: Box<dyn SessionIds + Send>,
    /// The node's counters.
    pub stats: Arc<Stats>,
    /// Told whether watches are armed: a shard without any need not be woken for changes.
    pub armed: Arc<CachePadded<AtomicBool>>,
    /// The other shards of the node.
    pub neighbours: Arc<Neighbours>,
    /// What the quorum confirmed, as the consensus core tells it.
    pub freshness: Arc<Freshness>,
    /// Where the core is asked about sessions.
    pub inquiries: Arc<Inquiries>,
}

/// Session to slot, for connections in [`Phase::Open`]; of read-only clients those whose session the node's table has.
type Sessions = HashMap<i64, u32, RandomState>;

/// The sessions heard from since the last report.
#[derive(Default)]
struct Touched {
    /// Number of the beat, from 1: a connection noted in it carries the number.
    beat: u64,
    sessions: Vec<i64>,
    /// Their connections, while these need leases.
    connections: Vec<ConnId>,
    reported_ns: u64,
    /// One of them would have died before the next report.
    urgent: bool,
}

/// The engine. See the module's doc.
pub struct Shard {
    config: ShardConfig,
    limits: Limits,
    reader: Reader,
    commits: CommitReceiver,
    uplink: Uplink,
    ids: Box<dyn SessionIds + Send>,
    stats: Arc<Stats>,
    armed: Arc<CachePadded<AtomicBool>>,
    neighbours: Arc<Neighbours>,
    freshness: Arc<Freshness>,
    inquiries: Arc<Inquiries>,

    connections: Connections,
    sessions: Sessions,
    watches: Watches,
    hits: Hits,
    touched: Touched,
    judge: footing::Judge,
    leases: leases::Leases,
    /// Rounds of the quorum that linearizable reads wait for.
    rounds: rounds::Rounds,
    /// Slots to look at in the next serving.
    ready: Vec<u32>,
    /// Last applied zxid at the version on which the reader stands.
    zxid: i64,
    /// Whether the reader stands on a version; false before the first commit and after a sleep.
    standing: bool,
    /// Deadlines, each list in order because each has one constant delay.
    handshakes: VecDeque<(u64, ConnId)>,
    lingering: VecDeque<(u64, ConnId)>,
    /// Words that wait for other shards, in the order of their deadlines.
    asking: VecDeque<words::Asking>,
    /// Submissions without a result.
    outstanding: u64,
    /// Znodes looked at in this turn by requests that look at many.
    visited: u64,
    /// A frame being built for many connections.
    scratch: Vec<u8>,
    benches: serve::Benches,
}

impl Shard {
    /// A shard without connections.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, reader, commits, submit, consensus, ids, stats, armed, .. } = parts;
        let (neighbours, freshness, inquiries) = (parts.neighbours, parts.freshness, parts.inquiries);
        let max = config.jute_max_buffer_bytes;
        let leases = leases::Leases::new(config.touch_beat_ns());
        Self {
            limits: Limits::new(max, max.max(1024)),
            uplink: Uplink::new(config.id, submit, consensus),
            config,
            reader,
            commits,
            ids,
            stats,
            armed,
            neighbours,
            freshness,
            inquiries,
            connections: Connections::default(),
            sessions: HashMap::default(),
            watches: Watches::new(WATCHES_PER_CONNECTION_MAX),
            hits: Hits::default(),
            touched: Touched { beat: 1, ..Touched::default() },
            judge: footing::Judge::default(),
            leases,
            rounds: rounds::Rounds::default(),
            ready: Vec::new(),
            zxid: 0,
            standing: false,
            handshakes: VecDeque::new(),
            lingering: VecDeque::new(),
            asking: VecDeque::new(),
            outstanding: 0,
            visited: 0,
            scratch: Vec::new(),
            benches: serve::Benches::default(),
        }
    }

    fn cells(&self) -> &ShardCells {
        self.stats.shard(self.config.id)
    }

    /// Has the connection looked at in the next serving.
    fn mark_ready(ready: &mut Vec<u32>, connection: &mut Connection) {
        if !connection.ready {
            connection.ready = true;
            ready.push(connection.id.index() as u32);
        }
    }

    /// Lets the connection go once its output is out, or when the peer does not read it in time.
    fn close(&mut self, now: Now, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        if connection.phase == Phase::Closing {
            return;
        }
        let id = connection.id;
        connection.phase = Phase::Closing;
        connection.input = Vec::new();
        self.release(slot);
        io.close(id);
        self.lingering.push_back((now.mono_ns + CLOSE_LINGER_NS, id));
    }

    /// Lets the connection go at once, with all that was not sent to it.
    fn cut(&mut self, slot: u32, io: &mut Io) {
        let Some(connection) = self.connections.slot(slot) else { return };
        let id = connection.id;
        connection.phase = Phase::Closing;
        connection.input = Vec::new();
        self.release(slot);
        io.abort(id);
    }

    /// Unbinds the connection in `slot` from its session, its watches and its results.
    fn release(&mut self, slot: u32) {
        self.watches.drop_connection(slot);
        if let Some(connection) = self.connections.slot(slot) {
            let session = std::mem::take(&mut connection.session);
            if session != 0 && self.sessions.get(&session) == Some(&slot) {
                self.sessions.remove(&session);
            }
            let asked = connection.pending.front().filter(|p| matches!(p.what, Waiting::Session { .. }));
            if let Some(asked) = asked {
                self.uplink.withdraw(slot, asked.number);
            }
            self.outstanding -= connection.pending.len() as u64;
            connection.pending.clear();
        }
    }

    /// Cuts off connections that asked for no session in time, or do not read the last that they were sent.
    fn expire(&mut self, now: Now, io: &mut Io) {
        while let Some((deadline, id)) = self.handshakes.front().copied() {
            let waiting = self
                .connections
                .find(id)
                .is_some_and(|c| matches!(c.phase, Phase::Fresh | Phase::Asking | Phase::Opening));
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

    /// Reports the sessions heard from, once per beat or when one of them cannot wait.
    fn report_touched(&mut self, now: Now) {
        let beat_ns = self.config.touch_beat_ns();
        let touched = &mut self.touched;
        if touched.sessions.is_empty() || (!touched.urgent && now.mono_ns < touched.reported_ns + beat_ns) {
            return;
        }
        if self.uplink.has_room() {
            let sessions = std::mem::take(&mut touched.sessions);
            let connections = std::mem::take(&mut touched.connections);
            if self.leases.are_on() {
                self.leases.reported(now.mono_ns, connections);
            }
            self.uplink.push_plain(Submit::Touched { sessions, at_ns: now.mono_ns });
            (touched.reported_ns, touched.urgent) = (now.mono_ns, false);
            touched.beat += 1;
        }
    }

    /// Tells the consensus core whether changes concern this shard, and the counters how much there is.
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

    /// When to look again although nothing comes.
    fn deadline(&self, now: Now) -> Option<u64> {
        // A report that is due already, or cannot wait, found the ring full: it is tried again with everything else that did.
        let touched = (!self.touched.sessions.is_empty())
            .then(|| self.touched.reported_ns + self.config.touch_beat_ns())
            .filter(|due_ns| !self.touched.urgent && *due_ns > now.mono_ns);
        let retry = self.uplink.full.then(|| now.mono_ns + SUBMIT_RETRY_NS);
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        let linger = self.lingering.front().map(|(deadline, _)| *deadline);
        let asking = self.asking.front().map(|a| a.until_ns);
        let footing = self.footing_deadline(now);
        let early = self.judge.deadline_ns();
        [touched, retry, handshake, linger, asking, footing, early].into_iter().flatten().min()
    }
}

impl Engine for Shard {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        let mut connection = Connection::new(conn, origin, now.wall_ms);
        let listener = origin.listener.map(usize::from);
        connection.linearizable =
            listener.and_then(|n| self.config.linearizable.get(n)).is_some_and(|linearizable| *linearizable);
        if let Some(ip) = connection.ip
            && !self.neighbours.admit(ip)
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
        // Behind a word that is being answered nothing counts any more.
        if matches!(connection.phase, Phase::Closing | Phase::Asking) || connection.eof {
            return;
        }
        connection.input.extend_from_slice(bytes);
        serve::pace_input(connection, io);
        Self::mark_ready(&mut self.ready, connection);
    }

    fn eof(&mut self, _now: Now, conn: ConnId, io: &mut Io) {
        // What came before it is still answered in this turn: netcat closes its side right behind a four-letter word.
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
                self.neighbours.leave(ip);
            }
            self.cells().connections.sub(1);
        }
    }

    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        self.uplink.full = false;
        self.visited = 0;
        // Loaded before commits are taken: what is confirmed is among them. Whoever may not be served is told nothing more.
        self.find_footing(now, io);
        self.take_commits(now, io);
        self.take_letters(now, io);
        self.answer_rolls(now, io);
        let more = self.serve(now, io);
        self.ask_round();
        self.expire(now, io);
        self.report_touched(now);
        self.uplink.say_withdrawn();
        self.uplink.wake();
        self.publish_gauges();
        if self.uplink.full {
            self.cells().submit_ring_full.add(1);
        }
        if more { Next::Again } else { Next::Sleep { deadline_ns: self.deadline(now) } }
    }

    fn late(&mut self, now: Now, io: &mut Io) {
        self.look_again(now, io);
    }

    fn park(&mut self) -> bool {
        if self.commits.has_more() || self.neighbours.rung(self.config.id) {
            return false;
        }
        self.reader.park();
        self.standing = false;
        true
    }

    fn unpark(&mut self) {
        self.reader.unpark();
    }
}

#[cfg(test)]
mod tests;
