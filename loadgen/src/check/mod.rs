//! The rules for correct answers: what one thread knows about each key, and what each new answer must agree
//! with.
//!
//! Owns the kinds of violations ([`ViolationKind`]), a thread's table of keys ([`Checker`]), and the run's
//! list of writes that were never acknowledged ([`UnknownWrites`]). Never sends anything and never reads a
//! clock. Correct because each rule is a guarantee of ZooKeeper, so a correct server breaks none:
//!
//! - A value must verify, belong to the key that was read, and have the length that its stat gives.
//! - Each key has one writer, so its sequence numbers have the order of its writes and of their zxids. A
//!   later zxid with an earlier value, or one zxid with two values, is a violation on any replica. Lost
//!   connections do not weaken this: a session's requests in flight are fenced once the session is attached
//!   elsewhere or has expired.
//! - A session never goes back in time. Once answered at zxid Z by any server, it must not read a value
//!   older than a write known to be at or below Z. Old values of writes above Z are allowed: replicas lag.
//! - A session that writes a key sees each of its writes once they are acknowledged.
//! - Between two applied writes, a znode's version grows by the number of writes between them. Only
//!   unacknowledged writes may be missing.
//! - At the end ([`Checker::verify`]) every server has, for every key, the last acknowledged write or a
//!   later one of unknown outcome. A refused write must not be there. No server has an older value than any
//!   read showed, and all servers have the same.
//!
//! Violations that can be missed: for each key a thread remembers two writes. One is the newest known. The
//! other is the newest that was at or below the zxid of *all* its connections when a newer one replaced it
//! ([`Checker::settle`]). Writes between the two are forgotten, so a connection to a lagging replica is
//! only held to the older one.

mod checker;
mod unknown_writes;

pub use checker::{Checker, Facts};
pub use unknown_writes::{UnknownWrites, WriteOutcome};

use std::fmt;

/// Kinds of violations. The names in reports are those of [`ViolationKind::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ViolationKind {
    /// This run never wrote the value, or the value is torn.
    CorruptValue,
    /// The value belongs to another key.
    WrongKey,
    /// The value is older than what this session must see.
    StaleValue,
    /// The write in the value was never sent.
    FutureValue,
    /// Value and stat disagree: one zxid with two values, or values in another order than their zxids.
    OrderDisagrees,
    /// The znode's version does not match its number of writes: one was lost, or applied twice.
    VersionDisagrees,
    /// The server reports an existing znode as missing.
    MissingZnode,
    /// The zxid of a reply is lower than that of an earlier reply in the same session.
    ZxidWentBack,
    /// The reply does not belong to the oldest unanswered request of its connection.
    UnexpectedXid,
    /// The reply's body cannot be decoded.
    MalformedReply,
    /// No reply came although the connection stayed open.
    MissingReply,
    /// An acknowledged write, or one that was read before, is gone.
    LostWrite,
    /// A write that the server refused was applied.
    RefusedWriteApplied,
    /// Two servers answer differently after all writes have ended.
    NodesDisagree,
    /// A session expired soon after its server had answered. Reported with `--sessions-must-live` only.
    ExpiredEarly,
}

impl ViolationKind {
    pub const ALL: [ViolationKind; 15] = [
        ViolationKind::CorruptValue,
        ViolationKind::WrongKey,
        ViolationKind::StaleValue,
        ViolationKind::FutureValue,
        ViolationKind::OrderDisagrees,
        ViolationKind::VersionDisagrees,
        ViolationKind::MissingZnode,
        ViolationKind::ZxidWentBack,
        ViolationKind::UnexpectedXid,
        ViolationKind::MalformedReply,
        ViolationKind::MissingReply,
        ViolationKind::LostWrite,
        ViolationKind::RefusedWriteApplied,
        ViolationKind::NodesDisagree,
        ViolationKind::ExpiredEarly,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            ViolationKind::CorruptValue => "corrupt_value",
            ViolationKind::WrongKey => "wrong_key",
            ViolationKind::StaleValue => "stale_value",
            ViolationKind::FutureValue => "future_value",
            ViolationKind::OrderDisagrees => "order_disagrees",
            ViolationKind::VersionDisagrees => "version_disagrees",
            ViolationKind::MissingZnode => "missing_znode",
            ViolationKind::ZxidWentBack => "zxid_went_back",
            ViolationKind::UnexpectedXid => "unexpected_xid",
            ViolationKind::MalformedReply => "malformed_reply",
            ViolationKind::MissingReply => "missing_reply",
            ViolationKind::LostWrite => "lost_write",
            ViolationKind::RefusedWriteApplied => "refused_write_applied",
            ViolationKind::NodesDisagree => "nodes_disagree",
            ViolationKind::ExpiredEarly => "expired_early",
        }
    }
}

/// One violation, with the value that the reply was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: ViolationKind,
    /// Number of the key; 0 if the violation concerns no key.
    pub key: u32,
    /// Value in the reply: depending on the kind a sequence number, zxid, version, xid, length or number.
    pub got: i64,
    /// Expected value, or the lowest one allowed.
    pub wanted: i64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, got, wanted, .. } = self;
        match self.kind {
            ViolationKind::CorruptValue => {
                write!(f, "key {key}: a value of {got} bytes that this run never wrote")
            }
            ViolationKind::WrongKey => write!(f, "key {key}: the value belongs to key {got}"),
            ViolationKind::StaleValue => {
                write!(f, "key {key}: write {got} read, but this session must see write {wanted}")
            }
            ViolationKind::FutureValue => {
                write!(f, "key {key}: write {got} read, but only {wanted} were sent")
            }
            ViolationKind::OrderDisagrees => {
                write!(
                    f,
                    "key {key}: write {got} read, its zxid stands on the wrong side of write {wanted}'s"
                )
            }
            ViolationKind::VersionDisagrees => write!(f, "key {key}: version {got} after {wanted} writes"),
            ViolationKind::MissingZnode => write!(f, "key {key}: the znode is gone (error {got})"),
            ViolationKind::ZxidWentBack => {
                write!(f, "reply at zxid {got:#x} after one at {wanted:#x} in the same session")
            }
            ViolationKind::UnexpectedXid => {
                write!(f, "reply to request {got}, but {wanted} is the oldest that waits")
            }
            ViolationKind::MalformedReply => {
                write!(f, "key {key}: a reply body of {got} bytes that is no answer")
            }
            ViolationKind::MissingReply => write!(f, "{got} requests without a reply on an open connection"),
            ViolationKind::LostWrite => {
                write!(
                    f,
                    "key {key}: write {got} is what is there, but write {wanted} was acknowledged or read"
                )
            }
            ViolationKind::RefusedWriteApplied => {
                write!(
                    f,
                    "key {key}: write {got} is there, but it was refused; {wanted} is the last acknowledged"
                )
            }
            ViolationKind::NodesDisagree => {
                write!(
                    f,
                    "key {key}: mzxid {got:#x} here, {wanted:#x} on a server read before, after all writes"
                )
            }
            ViolationKind::ExpiredEarly => {
                write!(
                    f,
                    "the session expired {got} ms after its server was heard; its timeout is {wanted} ms"
                )
            }
        }
    }
}

/// The server and session that a violation was observed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the server in the run's list of targets.
    pub target: usize,
    /// Session id; 0 while the session is not established.
    pub session: i64,
}
