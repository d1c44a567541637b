//! Whether answers are right: what one thread knows about each key, and what a new answer must agree with.
//!
//! Owns the kinds of wrong answers ([`ViolationKind`]), a thread's table of keys ([`Checker`]) and the run's list of writes that were
//! never acknowledged ([`UnknownWrites`]). Never sends anything and never reads a clock. It is as strict as ZooKeeper's guarantees
//! allow and no stricter, so that it accuses no correct server:
//!
//! - A value must verify, belong to the key asked for, and its length must be the one in its stat.
//! - Each key has one writer, so the order of its sequence numbers is the order of its writes, hence of their zxids:
//!   a later zxid with an earlier value, or one zxid with two values, is wrong on any replica. This holds across lost
//!   connections too: what a session had in flight is fenced once the session is attached elsewhere, or has expired.
//! - A session never goes back: once it was answered at zxid Z, on whichever server, it must not read a value that is older
//!   than a write known to lie at or below Z. It may read old values of writes above Z: replicas lag.
//! - The session that writes a key sees each of its writes once they are acknowledged.
//! - Between two writes that were applied, a znode's version grows by the writes between them; only those in doubt may be missing,
//!   and one that was refused must not be there at the end.
//! - At the end ([`Checker::verify`]) every server has, for every key, the last acknowledged write or a later one of
//!   unknown outcome, nothing older than what anybody was shown, and the same as every other server.
//!
//! What it can miss: for each key a thread remembers the newest write it knows, and the newest that lay at or below the
//! zxid of *all* its connections when a newer one replaced it ([`Checker::settle`]). Writes between these two are forgotten, so a
//! connection to a lagging replica is held to the older one.

mod checker;
mod unknown_writes;

pub use checker::{Checker, Facts};
pub use unknown_writes::{UnknownWrites, WriteOutcome};

use std::fmt;

/// The ways in which an answer can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ViolationKind {
    /// The value was never written by this run, or is torn.
    CorruptValue,
    /// The value belongs to another key.
    WrongKey,
    /// The value is older than what this connection must see.
    StaleValue,
    /// The value was never sent.
    FutureValue,
    /// Value and stat disagree: one zxid with two values, or values in another order than their zxids.
    OrderDisagrees,
    /// The znode's version does not count its writes: one was lost or applied twice.
    VersionDisagrees,
    /// The znode exists and the server said it does not.
    MissingZnode,
    /// A reply's zxid is lower than one before it in the same session.
    ZxidWentBack,
    /// A reply to another request than the oldest one that waits.
    UnexpectedXid,
    /// The reply's body cannot be read.
    MalformedReply,
    /// No reply came although the connection stayed open.
    MissingReply,
    /// An acknowledged write, or one that had been read, is not there any more.
    LostWrite,
    /// A write that the server refused is there.
    RefusedWriteApplied,
    /// Two servers answer differently although nobody writes any more.
    NodesDisagree,
    /// A session expired that the server had heard from recently (an error on demand only).
    ExpiredEarly,
}

impl ViolationKind {
    /// All kinds.
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

/// A wrong answer and what it was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub kind: ViolationKind,
    /// Which key it concerns.
    pub key: u32,
    /// What the reply said (a sequence number, zxid, version or xid, after its kind).
    pub got: i64,
    /// What it had to be, or had to be at least.
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
                    "key {key}: mzxid {got:#x} here, {wanted:#x} on a server read before, and nobody writes"
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

/// Where a wrong answer was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the server in the run's list.
    pub target: usize,
    /// The session's id; 0 while there is none.
    pub session: i64,
}
