//! Commits: what a batch became, as every shard sees it.
//!
//! Owns the shape of a published commit.
//!
//! Never carries tree content: a shard reads that at the version it moves to.
//!
//! Correct because a commit is immutable once it is in the commit ring. A shard handles all of it (watches,
//! then session events, then replies) before it serves anything at its version.

use crate::acl::AclRef;
use std::sync::Arc;

/// Kind of a change to a znode, as in ZooKeeper's watch events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ChangeKind {
    Created,
    DataChanged,
    Deleted,
}

/// One change of the tree. A commit lists them in the order of application.
#[derive(Clone, Debug)]
pub struct Change {
    /// Zxid of the command that made it.
    pub zxid: i64,
    pub kind: ChangeKind,
    pub path: Arc<str>,
    /// ACL of the znode (for a deleted one, its last): filters delivery of the znode's own event.
    pub acl: AclRef,
    /// ACL of the parent, present for `Created` and `Deleted`: filters NodeChildrenChanged.
    pub parent_acl: Option<AclRef>,
}

/// Return address of a request on this node: the shard sends it with the command and receives it with the
/// reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Ticket {
    pub shard: u16,
    /// Number that the shard gave the request. Results of ordered commands come in the order of submission.
    pub token: u64,
}

/// Outcome of one command, for the shard that submitted it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub ticket: Ticket,
    /// Zxid for the reply header: the command's own, or the last applied one if the command took none.
    pub zxid: i64,
    pub outcome: Outcome,
}

/// Result of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Success, or a multi with its per-op results: header err 0, then this record in wire form (may be
    /// empty).
    Ok(Vec<u8>),
    /// Header with this error code, no body.
    Err(i32),
    /// Close the connection without a reply (SessionMoved, session gone).
    Drop,
    /// A session was opened, or a client attached to it.
    Attached {
        session: i64,
        /// Attachment number from now on: goes into each later command of this connection.
        attachment: u32,
        /// Negotiated session timeout, ms.
        timeout_ms: i32,
        password: [u8; 16],
    },
    /// Attach refused: unknown or expired session, or wrong password. Answered with timeout 0, then closed.
    Refused,
    /// Never ordered (log full, node stopping …), so it had no effect and never will. The error code is for
    /// the client.
    NotOrdered(i32),
    /// Accepted, and decided later under the same number (a reconfiguration). Never sent to a shard.
    Deferred,
    /// The sync is complete: this commit is at or above its read index.
    Synced,
    /// Answer to a [`crate::submit::Inquiry`]: the password is not wrong, as far as this node knows.
    Recalled {
        /// Whether this node's session table has the session.
        known: bool,
    },
}

/// Session change that shards act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEvent {
    /// Closed or expired: the shard that has the connection closes it after the replies of this commit.
    Closed { session: i64 },
    /// Attached again: connections with an older attachment number are closed.
    Moved {
        session: i64,
        /// Attachment number that is valid now.
        attachment: u32,
    },
}

/// A published commit. The tree's version travels beside it (see `ring`).
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Last applied zxid after this commit.
    pub zxid: i64,
    /// Changes for watches, in order of application.
    pub changes: Vec<Change>,
    /// Session changes for the shards' connections, in order.
    pub sessions: Vec<SessionEvent>,
    /// Results for this node's shards, in stream order.
    pub replies: Vec<Reply>,
}
