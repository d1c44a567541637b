//! The checkers: each keeps one promise, and nothing else decides whether a run was right.
//!
//! Owns what is known for certain of a run ([`Facts`]: the committed log as nodes applied it, and the model's reading of it),
//! the [`Event`]s that checkers see, and the list of them. A checker is an object with a name that sees every event and says
//! what is wrong. None looks into a node.

mod durability;
mod ephemerals;
mod expiry;
mod history;
mod leases;
mod liveness;
mod membership;
mod order;
mod progress;
mod reading;
mod replicas;
mod sequences;
mod session;
mod watches;

use super::model::{Done, Model};
use super::workload::Ask;
use crate::mutation::AppliedEntry;

pub use liveness::BOUND_NS as LIVENESS_BOUND_NS;

/// One entry of the committed log.
#[derive(Clone, Debug)]
pub struct Fact {
    /// When it was first applied by a node.
    pub at_ns: u64,
    /// Its term.
    pub term: u64,
    /// Its payload.
    pub payload: bytes::Bytes,
    /// Zxid behind it.
    pub zxid: i64,
    /// Digest behind it.
    pub digest: u64,
}

/// What is known for certain.
pub struct Facts {
    /// True time.
    pub now: u64,
    /// The entries from index 1 on.
    pub log: Vec<Fact>,
    /// What they mean.
    pub model: Model,
    /// Whether every read must see every write that was acknowledged before it was sent: there is one node.
    pub fresh_reads: bool,
    /// How old a state may be that is served.
    pub max_staleness_ns: u64,
    /// When the faults ended.
    pub calm_since: Option<u64>,
    /// Since when the disks of a majority are full, or filling up, and nothing else goes wrong.
    pub full_since: Option<u64>,
}

/// A node as the world finds it at a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeState {
    /// The node's number.
    pub node: u8,
    /// Which of its processes runs.
    pub life: u64,
    /// The only node that says that it leads. `None` if there is none or more than one, if this node is no member or cannot work, if the
    /// leader cannot work, or if messages do not pass between the two in both directions. A node can work that runs, is not
    /// paused, and has a disk that is neither full nor slow.
    pub leader: Option<u8>,
    /// The last entry that it applied.
    pub applied: u64,
}

/// What happened.
pub enum Event<'e> {
    /// A node applied an entry. `done`: what it did, when it is the first to apply it.
    Applied {
        /// The node.
        node: u8,
        /// The entry.
        entry: &'e AppliedEntry,
        /// Whether it did so while it started, from its disk.
        replayed: bool,
        /// What it did.
        done: Option<&'e [Done]>,
    },
    /// A node started from its disk.
    Started {
        /// The node.
        node: u8,
        /// Zxid that it recovered.
        zxid: i64,
    },
    /// A node's process is gone, for whatever reason.
    Gone {
        /// The node.
        node: u8,
    },
    /// A node stopped because it is no member any more.
    Removed {
        /// The node.
        node: u8,
    },
    /// A client sent a request.
    Sent {
        /// The client.
        client: usize,
        /// The request.
        ask: &'e Ask,
    },
    /// A client was answered.
    Answered {
        /// The client.
        client: usize,
        /// The node that answered.
        node: u8,
        /// Its session when it asked.
        session: i64,
        /// The request.
        ask: &'e Ask,
        /// Of the header.
        zxid: i64,
        /// Of the header.
        err: i32,
        /// Behind it.
        body: &'e [u8],
    },
    /// A client was notified.
    Notified {
        /// The client.
        client: usize,
        /// Of the header.
        zxid: i64,
        /// Type.
        kind: i32,
        /// Path.
        path: &'e str,
    },
    /// A client has a session.
    Opened {
        /// The client.
        client: usize,
        /// The session.
        session: i64,
        /// Its timeout.
        timeout_ms: i32,
        /// When it was asked for.
        asked_ns: u64,
        /// Whether it is for reads alone, while there is no quorum: that node's own, or one of before.
        read_only: bool,
    },
    /// A client's connection is gone, with what was on its way.
    Lost {
        /// The client.
        client: usize,
        /// The node that let it go; none where it gave up itself.
        by: Option<u8>,
    },
    /// What came makes no sense.
    Nonsense {
        /// The client.
        client: usize,
        /// What.
        what: &'e str,
    },
    /// The world looked at the nodes, as it does a few times a second.
    Looked {
        /// All nodes.
        nodes: &'e [NodeState],
    },
    /// All is over, everything is quiet.
    Ended {
        /// Every member with the last entry that it applied.
        applied: &'e [(u8, u64)],
        /// Requests without an answer: (client, sent at).
        unanswered: &'e [(usize, u64)],
    },
}

/// Keeps one promise.
pub trait Checker {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Sees everything that happens, and says what is wrong.
    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(replicas::Replicas),
        Box::new(progress::Progress::default()),
        Box::new(durability::Durability::default()),
        Box::new(session::SessionOrder::default()),
        Box::new(watches::Watches::default()),
        Box::new(history::History::default()),
        Box::new(order::Order::default()),
        Box::new(sequences::Sequences::default()),
        Box::new(ephemerals::Ephemerals::default()),
        Box::new(expiry::Expiry::default()),
        Box::new(leases::Leases::default()),
        Box::new(reading::Reading::default()),
        Box::new(membership::Membership::default()),
        Box::new(liveness::Liveness::default()),
    ]
}
