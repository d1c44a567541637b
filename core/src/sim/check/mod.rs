//! The checkers. Each checks one promise, and only they decide whether a run was right.
//!
//! Owns the certain knowledge of a run ([`Facts`]), the [`Event`]s that checkers see, and the list of
//! checkers. [`Facts`] hold the committed log as nodes applied it, and the model's reading of that log.
//!
//! Never looks into a node: a checker has a name, sees every event, and returns what is wrong.

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

/// An entry of the committed log.
#[derive(Clone, Debug)]
pub struct Fact {
    /// True time at which a node first applied the entry.
    pub at_ns: u64,
    pub term: u64,
    pub payload: bytes::Bytes,
    /// The machine's zxid after the entry.
    pub zxid: i64,
    /// The machine's digest after the entry.
    pub digest: u64,
}

/// Certain knowledge of a run.
pub struct Facts {
    /// True time, in ns.
    pub now: u64,
    /// The committed entries, from index 1 on.
    pub log: Vec<Fact>,
    /// The effect of these entries.
    pub model: Model,
    /// Whether each read must see all writes acknowledged before it was sent. Holds for a single node.
    pub fresh_reads: bool,
    /// The bound of staleness of served state.
    pub max_staleness_ns: u64,
    /// True time at which the faults ended.
    pub calm_since: Option<u64>,
    /// True time since which disks of a majority are full, or fill up, without any other fault.
    pub full_since: Option<u64>,
}

/// The state of a node when the world checks progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeState {
    pub node: u8,
    /// Number of the node's process.
    pub life: u64,
    /// The only node that claims to lead and can serve this node as its leader. `None` in these cases:
    ///
    /// - No node claims to lead, or more than one does.
    /// - This node is no member, or this node or the leader cannot work.
    /// - Messages do not pass between the two in both directions.
    ///
    /// A node can work if it runs, is not paused, and its disk is neither full nor slow.
    pub leader: Option<u8>,
    /// Index of the last applied entry.
    pub applied: u64,
}

/// An event that checkers see.
pub enum Event<'e> {
    /// A node applied an entry.
    Applied {
        node: u8,
        entry: &'e AppliedEntry,
        /// Whether the node applied it during its start, from its disk.
        replayed: bool,
        /// The entry's effects, if the node is the first to apply it.
        done: Option<&'e [Done]>,
    },
    Started {
        node: u8,
        /// Zxid of the recovered snapshot; 0 if entries were replayed after it.
        zxid: i64,
    },
    /// A node's process ended, for any reason.
    Gone {
        node: u8,
    },
    /// A node stopped because it was removed from the ensemble.
    Removed {
        node: u8,
    },
    Sent {
        client: usize,
        ask: &'e Ask,
    },
    /// A client received an answer.
    Answered {
        client: usize,
        /// Number of the node that answered.
        node: u8,
        /// The client's session when it sent the request.
        session: i64,
        ask: &'e Ask,
        zxid: i64,
        err: i32,
        /// The record after the header.
        body: &'e [u8],
    },
    /// A client received a watch notification.
    Notified {
        client: usize,
        zxid: i64,
        /// Event type, as on the wire.
        kind: i32,
        path: &'e str,
    },
    /// A client opened or resumed a session.
    Opened {
        client: usize,
        session: i64,
        timeout_ms: i32,
        /// True time at which the client asked for the session.
        asked_ns: u64,
        /// Whether the session is read-only, for lack of a quorum: that node's own, or one of before.
        read_only: bool,
    },
    /// A client's connection ended, with open requests.
    Lost {
        client: usize,
        /// Number of the node that ended it; `None` if the client did.
        by: Option<u8>,
    },
    /// A client received bytes that break the protocol.
    Nonsense {
        client: usize,
        what: &'e str,
    },
    /// The world looked at the nodes, as it does several times a second.
    Looked {
        /// The state of all nodes.
        nodes: &'e [NodeState],
    },
    /// The run ended, and nothing is in flight.
    Ended {
        /// Index of the last applied entry, by member.
        applied: &'e [(u8, u64)],
        /// Requests without an answer: (client, time of sending).
        unanswered: &'e [(usize, u64)],
    },
}

/// A checker of one promise.
pub trait Checker {
    fn name(&self) -> &'static str;
    /// Sees every event, and returns what is wrong.
    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String>;
}

/// One checker of each kind.
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
