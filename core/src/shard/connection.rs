//! One client connection as its shard keeps it.
//!
//! Owns what is held for a connection between turns: unserved input, writes on their way, identities, its session.
//! Never holds a reply: those go straight into the loop's output. It stays bounded because input above
//! [`INPUT_HIGH_WATER_BYTES`](super::config::INPUT_HIGH_WATER_BYTES) pauses the socket, writes in flight are counted, and
//! an empty buffer is given back.

use super::config::INPUT_KEEP_BYTES;
use crate::command::Identity;
use crate::session::PASSWORD_BYTES;
use paddock_transport::engine::{Address, ConnId, Origin};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Places for writes in flight that an idle connection keeps (under 2 KiB).
const PENDING_KEEP: usize = 16;

/// Where a connection stands in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing but a four-letter word or a ConnectRequest is expected.
    Fresh,
    /// A four-letter word came and waits for what other shards say.
    Asking,
    /// The session was asked for; what the client sent behind is kept, and no more is read.
    Opening,
    /// Bound to a session.
    Open,
    /// Being closed: what still comes is dropped.
    Closing,
}

/// What waits for the consensus core.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A session, opened (`new`) or attached; `Some` when the client knows the readOnly field.
    Session { read_only: Option<bool>, new: bool },
    /// Whether this node knows the session that a read-only client goes on with, and its password.
    Recall { session: i64, timeout_ms: i32, password: [u8; PASSWORD_BYTES] },
    /// A write.
    Write,
    /// A reconfiguration.
    Reconfig,
    /// closeSession: after its reply the connection is closed.
    Close,
    /// A sync and the path that it echoes.
    Sync { path: Box<str> },
}

/// One submission of this connection, in order.
#[derive(Debug)]
pub(super) struct Pending {
    /// The low half of its ticket's token.
    pub number: u32,
    pub xid: i32,
    pub what: Waiting,
    /// Bytes counted against [`super::config::WRITE_BYTES_IN_FLIGHT_MAX`].
    pub bytes: usize,
    /// When it was forwarded.
    pub since_ns: u64,
    /// Its result, when it came before an earlier one's.
    pub result: Option<crate::commit::Reply>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnId,
    pub phase: Phase,
    /// Frames that were not served yet, the last one perhaps not whole.
    pub input: Vec<u8>,
    /// Bytes that the frame at the input's head needs, when it is not whole.
    pub needed_bytes: usize,
    pub pending: VecDeque<Pending>,
    pub pending_bytes: usize,
    pub session: i64,
    pub attachment: u32,
    pub timeout_ms: i32,
    pub identities: Arc<[Identity]>,
    /// Remote address, if it has one.
    pub ip: Option<IpAddr>,
    pub peer: Box<str>,
    pub established_ms: i64,
    pub received: u64,
    pub sent: u64,
    /// Highest zxid of the results that were told here.
    pub told_zxid: i64,
    /// The beat in which its session was last noted as heard from.
    pub touched_beat: u64,
    /// Stands in the shard's list of connections to look at.
    pub ready: bool,
    /// The loop was told not to read it.
    pub paused: bool,
    /// Waits until its output has drained.
    pub stalled: bool,
    /// A sync, a closeSession or a reconfig is on its way: nothing behind it moves.
    pub barrier: bool,
    /// The peer sends no more.
    pub eof: bool,
    /// Until when it may be served without the quorum confirming its session again, and the bucket in which it lies.
    /// On a group of one: from when on the core may have let its session die.
    pub lease_ns: u64,
    pub lease_bucket: u64,
    /// Waits for the node's first confirmation.
    pub early: bool,
    /// A read-only client: what it asks is ordered nowhere, and its session, if others know it, is not kept alive by it.
    pub read_only: bool,
    /// Its session is the ensemble's, not this shard's own.
    pub global: bool,
    /// Came through a listener whose reads are linearizable.
    pub linearizable: bool,
    /// Leading bytes of the input that were there before a round of the quorum that is confirmed.
    pub covered_bytes: usize,
    /// The same for the round that it waits for; 0: it waits for none.
    pub asked_bytes: usize,
}

impl Connection {
    pub fn new(id: ConnId, origin: &Origin, wall_ms: i64) -> Self {
        let (ip, peer) = match &origin.peer {
            // A listener on every interface sees IPv4 in IPv6's clothes; operators and their scripts, like ACLs, do not.
            Address::Tcp(at) => {
                let ip = at.ip().to_canonical();
                (Some(ip), SocketAddr::new(ip, at.port()).to_string())
            }
            Address::Unix(path) => (None, path.display().to_string()),
        };
        // A unix socket's peer is a process on this machine: it gets what it would have over loopback.
        let text = ip.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
        Self {
            id,
            phase: Phase::Fresh,
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

    /// The session's timeout.
    pub fn timeout_ns(&self) -> u64 {
        u64::try_from(self.timeout_ms).unwrap_or(0) * 1_000_000
    }

    /// Gives back the room of a long queue of writes once it is empty.
    pub fn trim_pending(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > PENDING_KEEP {
            self.pending = VecDeque::new();
        }
    }

    /// Puts the input back after its first `served` bytes were served. An empty buffer keeps little.
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
            // A large frame's room is not kept for the few bytes behind it.
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
    /// By id: a stale id finds nothing.
    pub fn find(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.slot(id.index() as u32).filter(|c| c.id == id)
    }
    /// By slot, whoever is there now.
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
