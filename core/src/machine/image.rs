//! The part of a snapshot that is not the tree: zxid, digests, sessions and streams. Correct because the
//! image is taken at the same version as the tree, and lists everything in order: equal machines give equal
//! bytes. The format version of the snapshot covers it.
#![forbid(unsafe_code)]

use super::digest::History;
use super::{Machine, StreamPosition, Sums};
use crate::acl::Interner;
use crate::session::{PASSWORD_BYTES, Session, SessionTable};
use rkyv::{Archive, Deserialize, Serialize};
use std::sync::Arc;

/// The machine in a snapshot, without the membership.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct MachineImage {
    /// Last zxid assigned.
    pub zxid: i64,
    pub stamped_digest: u64,
    /// ZooKeeper's digest of the tree.
    pub tree_digest: u64,
    /// Paddock's digest of all ACLs.
    pub acl_digest: u64,
    /// In the order of their ids.
    pub sessions: Vec<SessionImage>,
    /// In the order of nodes: (node, incarnation, seq) of the last command accepted.
    pub streams: Vec<(u8, u64, u64)>,
}

/// A session of the replicated table.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SessionImage {
    pub id: i64,
    /// Negotiated timeout, ms.
    pub timeout_ms: i32,
    /// A client must present this password to reattach.
    pub password: [u8; PASSWORD_BYTES],
    /// Number of the attachment that may write.
    pub attachment: u32,
    /// Paths of the session's ephemeral znodes, sorted.
    pub ephemerals: Vec<String>,
}

pub(super) fn take(machine: &Machine) -> MachineImage {
    let sessions = machine.sessions.sorted().into_iter().map(|(id, session)| SessionImage {
        id,
        timeout_ms: session.timeout_ms,
        password: session.password,
        attachment: session.attachment,
        ephemerals: session.ephemerals.iter().map(|path| path.to_string()).collect(),
    });
    MachineImage {
        zxid: machine.zxid,
        stamped_digest: machine.history.last().1,
        tree_digest: machine.sums.tree(),
        acl_digest: machine.sums.acls(),
        sessions: sessions.collect(),
        streams: machine.streams.iter().map(|(node, at)| (node, at.incarnation, at.seq)).collect(),
    }
}

pub(super) fn restore(image: MachineImage) -> Machine {
    let mut sums = Sums::from_parts(image.tree_digest, image.acl_digest);
    let mut sessions = SessionTable::default();
    for SessionImage { id, timeout_ms, password, attachment, ephemerals } in image.sessions {
        let ephemerals = ephemerals.into_iter().map(Arc::from).collect();
        let session = Session { timeout_ms, password, attachment, ephemerals };
        sums.add_session(id, &session);
        sessions.insert(id, session);
    }
    let mut machine =
        Machine { zxid: image.zxid, sessions, sums, interner: Interner::default(), ..Machine::default() };
    for (node, incarnation, seq) in image.streams {
        machine.streams.set(node, StreamPosition { incarnation, seq }, &mut machine.sums);
    }
    machine.history = History::default();
    machine.history.seal(image.zxid, image.stamped_digest);
    machine
}
