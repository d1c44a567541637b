//! The state of one client connection.
//!
//! Owns the state kept between turns: unserved input, writes in flight, identities and the session. Never
//! holds a reply: replies go directly into the loop's output. Correct because its memory is bounded:
//! input above [`INPUT_HIGH_WATER_BYTES`](super::config::INPUT_HIGH_WATER_BYTES) pauses the socket,
//! writes in flight are counted, and an empty buffer shrinks.

use super::config::INPUT_KEEP_BYTES;
use crate::command::Identity;
use crate::session::PASSWORD_BYTES;
use paddock_transport::engine::{Address, ConnId, Origin};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Capacity for writes in flight that an idle connection keeps (under 2 KiB).
const PENDING_KEEP: usize = 16;

/// The phases in the life of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConnectionPhase {
    /// The first bytes are a four-letter word or a ConnectRequest.
    Fresh,
    /// A four-letter word waits for the client lists of other shards.
    AwaitingClientList,
    /// A session was requested. Input behind the request is kept, and the socket is not read.
    Opening,
    /// The connection is bound to a session.
    Open,
    /// The remaining output is being sent, and input is discarded.
    Closing,
}

/// The kinds of submissions that wait for a result.
#[derive(Debug)]
pub(super) enum PendingKind {
    /// A session, opened (`new`) or attached. `read_only` is `Some` if the client knows the readOnly field.
    Session {
        read_only: Option<bool>,
        new: bool,
    },
    /// A lookup in the node's session table, for a read-only client that presents a session.
    Lookup {
        session: i64,
        timeout_ms: i32,
        password: [u8; PASSWORD_BYTES],
    },
    Write,
    Reconfig,
    /// closeSession: the connection closes behind the reply.
    Close,
    /// A sync, with the path that its reply repeats.
    Sync {
        path: Box<str>,
    },
}

/// One submission without a result. A connection's results are sent in the order of its submissions.
#[derive(Debug)]
pub(super) struct Pending {
    /// Low half of the ticket's token.
    pub number: u32,
    pub xid: i32,
    pub kind: PendingKind,
    /// Bytes counted against [`super::config::WRITE_BYTES_IN_FLIGHT_MAX`].
    pub bytes: usize,
    /// Time of submission, on the monotonic clock.
    pub since_ns: u64,
    /// The result, if it arrived before the result of an earlier submission.
    pub result: Option<crate::commit::Reply>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnId,
    pub phase: ConnectionPhase,
    /// Unserved frames; the last one may be incomplete.
    pub input: Vec<u8>,
    /// Bytes of the frame at the head of the input, if that frame is incomplete.
    pub needed_bytes: usize,
    pub pending: VecDeque<Pending>,
    pub pending_bytes: usize,
    pub session: i64,
    pub attachment: u32,
    pub timeout_ms: i32,
    pub identities: Arc<[Identity]>,
    /// Remote address; `None` for unix sockets.
    pub ip: Option<IpAddr>,
    pub peer: Box<str>,
    pub established_ms: i64,
    pub received: u64,
    pub sent: u64,
    /// Highest zxid of the results sent to the client.
    pub told_zxid: i64,
    /// The beat in which the session was last noted as heard from.
    pub touched_beat: u64,
    /// The connection is in the shard's list of connections to serve.
    pub ready: bool,
    /// The loop does not read the socket.
    pub paused: bool,
    /// The connection is not served until its output has drained.
    pub stalled: bool,
    /// A sync, a closeSession or a reconfig is in flight: the requests behind it wait.
    pub barrier: bool,
    /// The peer sends no more.
    pub eof: bool,
    /// End of the lease: the connection closes then, unless the quorum confirms its session before. On a
    /// group of one: the time from which the consensus core may have expired the session.
    pub lease_ns: u64,
    /// Bucket of [`super::leases`] that contains the connection.
    pub lease_bucket: u64,
    /// The connection waits for the node's first confirmation.
    pub early: bool,
    /// A read-only client: no request is ordered, and none keeps a session of the ensemble alive.
    pub read_only: bool,
    /// The session belongs to the ensemble. `false` for a session that only this shard knows.
    pub global: bool,
    /// The listener promises linearizable reads.
    pub linearizable: bool,
    /// Leading bytes of the input that a confirmed quorum round covers.
    pub covered_bytes: usize,
    /// Leading bytes of the input that the awaited quorum round will cover; 0: no round is awaited.
    pub asked_bytes: usize,
}

impl Connection {
    pub fn new(id: ConnId, origin: &Origin, wall_ms: i64) -> Self {
        let (ip, peer) = match &origin.peer {
            // A listener on every interface sees IPv4-mapped IPv6 addresses. Operators, scripts and ACLs
            // expect IPv4.
            Address::Tcp(at) => {
                let ip = at.ip().to_canonical();
                (Some(ip), SocketAddr::new(ip, at.port()).to_string())
            }
            Address::Unix(path) => (None, path.display().to_string()),
        };
        // The peer of a unix socket is a process of this machine, so it gets the id of a loopback connection.
        let text = ip.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
        Self {
            id,
            phase: ConnectionPhase::Fresh,
            input: Vec::new(),
            needed_bytes: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            session: 0,
            attachment: 0,
            timeout_ms: 0,
            identities: [Identity { scheme: "ip".into(), id: text }].into(),
            ip,
            peer: peer.into(),
            established_ms: wall_ms,
            received: 0,
            sent: 0,
            told_zxid: 0,
            touched_beat: 0,
            ready: false,
            paused: false,
            stalled: false,
            barrier: false,
            eof: false,
            lease_ns: 0,
            lease_bucket: 0,
            early: false,
            read_only: false,
            global: false,
            linearizable: false,
            covered_bytes: 0,
            asked_bytes: 0,
        }
    }

    pub fn timeout_ns(&self) -> u64 {
        u64::try_from(self.timeout_ms).unwrap_or(0) * 1_000_000
    }

    /// Frees the memory of a long queue of writes when the queue is empty.
    pub fn trim_pending(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > PENDING_KEEP {
            self.pending = VecDeque::new();
        }
    }

    /// Puts the input back after its first `served` bytes were served. A buffer with much unused capacity
    /// shrinks.
    pub fn put_back(&mut self, mut input: Vec<u8>, served: usize) {
        self.covered_bytes = self.covered_bytes.saturating_sub(served);
        self.asked_bytes = self.asked_bytes.saturating_sub(served);
        if served == input.len() {
            input.clear();
            if input.capacity() > INPUT_KEEP_BYTES {
                input = Vec::new();
            }
        } else {
            input.drain(..served);
            // The capacity of a large frame is not kept for the few bytes behind it.
            if input.capacity() / 4 > input.len() + INPUT_KEEP_BYTES {
                input.shrink_to(input.len() + INPUT_KEEP_BYTES);
            }
        }
        self.input = input;
    }
}

/// All connections of a shard, by slot.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slots: Vec<Option<Box<Connection>>>,
}

impl Connections {
    pub fn insert(&mut self, connection: Connection) {
        let slot = connection.id.index();
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Box::new(connection));
    }
    /// The connection with this id. A stale id finds none.
    pub fn find(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.slot(id.index() as u32).filter(|c| c.id == id)
    }
    /// The connection that occupies the slot now.
    pub fn slot(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }
    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.find(id)?;
        self.slots[id.index()].take().map(|c| *c)
    }
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().filter_map(|c| c.as_deref())
    }
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|c| c.as_deref_mut())
    }
}
