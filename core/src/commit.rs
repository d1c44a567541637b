//! What comes back: the commit that a batch became, as every shard sees it.
//!
//! Owns the shape of a published commit. Never carries tree content: a shard reads that at the version it moves to.
//! It stays correct because a commit is immutable once it is in the commit ring, and a shard handles one wholly
//! (watches first, then session events, then replies) before it serves anything at its version.

use crate::acl::AclRef;
use std::sync::Arc;

/// What happened to a znode: the event types that watches know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ChangeKind {
    /// The znode was created.
    Created,
    /// Its data was set.
    DataChanged,
    /// It was deleted.
    Deleted,
}

/// One change of the tree, in the order of application.
#[derive(Clone, Debug)]
pub struct Change {
    /// The zxid of the command that made it.
    pub zxid: i64,
    /// What happened.
    pub kind: ChangeKind,
    /// Full path.
    pub path: Arc<str>,
    /// ACL of the znode (for a deleted one, its last): filters delivery of its own event.
    pub acl: AclRef,
    /// ACL of the parent, present for `Created` and `Deleted`: filters NodeChildrenChanged.
    pub parent_acl: Option<AclRef>,
}

/// Who waits for a result on this node: given by the shard with the command, given back with the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Ticket {
    /// The shard.
    pub shard: u16,
    /// The shard's own number for the request. Results come back in the order of submission.
    pub token: u64,
}

/// The outcome of one command, for whoever asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Who asked.
    pub ticket: Ticket,
    /// Zxid for the reply header: the command's own, or the last applied one where it took none.
    pub zxid: i64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Success, or a multi with its per-op results: header err 0, then this record in wire form (may be empty).
    Ok(Vec<u8>),
    /// Header with this error code, no body.
    Err(i32),
    /// Close the connection without a reply (SessionMoved, session gone).
    Drop,
    /// A session was opened, or a client attached to it.
    Attached {
        /// The session.
        session: i64,
        /// Its attachment number from now on: goes into each later command of this connection.
        attachment: u32,
        /// Negotiated timeout, ms.
        timeout_ms: i32,
        /// Its password.
        password: [u8; 16],
    },
    /// Attach refused: unknown or expired session, or wrong password. Answered with timeout 0, then closed.
    Refused,
    /// Never ordered (log full, node stopping …): nothing happened and nothing will. The code is for the client.
    NotOrdered(i32),
    /// Taken, and decided later under the same number (a reconfiguration). Never told to a shard.
    Deferred,
    /// A sync is complete: this commit is at or above its read index.
    Synced,
    /// The answer to a [`crate::submit::Inquiry`]: the password is not wrong, as far as this node knows.
    Recalled {
        /// Whether the session is in this node's table.
        known: bool,
    },
}

/// What shards must know about sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEvent {
    /// Closed or expired: close its connection, if this shard has it, after the replies of this commit.
    Closed {
        /// The session.
        session: i64,
    },
    /// Attached anew: a connection with an older attachment number is closed.
    Moved {
        /// The session.
        session: i64,
        /// The number that is valid now.
        attachment: u32,
    },
}

/// A published commit. The tree's version itself travels beside it (see `ring`).
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Last applied zxid after this commit.
    pub zxid: i64,
    /// For watches, in order.
    pub changes: Vec<Change>,
    /// For session tables of connections, in order.
    pub sessions: Vec<SessionEvent>,
    /// Results for this node's shards, in stream order.
    pub replies: Vec<Reply>,
}
