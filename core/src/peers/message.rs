//! The messages between nodes.
//!
//! Owns the shapes of messages between the consensus cores. Never trusts one: `rkyv` checks each when it
//! arrives, and the receiver compares node, term and numbers with its own. Never uses protobuf.

use crate::command::Command;
use rkyv::{Archive, Deserialize, Serialize};

/// Names of the variants of [`Message`], in order, for log lines about unreadable messages.
pub(super) const KINDS: [&str; 11] = [
    "Raft",
    "Forward",
    "Expect",
    "Round",
    "RoundConfirmed",
    "Disputed",
    "Computed",
    "Lead",
    "Snapshot",
    "Room",
    "Return",
];

/// One message of a link. A link keeps the order of messages; a new link starts empty.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum Message {
    /// A message of the Raft protocol.
    Raft(RaftMessage),
    /// To the leader: consecutive commands of the sender's stream.
    Forward {
        /// The leader's term as the sender knows it. A leader of another term ignores the commands.
        term: u64,
        commands: Vec<Command>,
    },
    /// From the leader: the next number of the receiver's stream that it accepts. Sent when it begins to
    /// lead, on each new link, and whenever another number arrived.
    ///
    /// From any node, on a new link to a node that runs from an older copy of its directory: the position
    /// of that node's stream, in a later incarnation than its own.
    Expect { term: u64, incarnation: u64, seq: u64 },
    /// To the leader: a read round, with the sessions heard from since the sender's last confirmed round.
    Round {
        /// The leader's term, as the sender knows it.
        term: u64,
        /// The sender's own number of the round.
        number: u64,
        /// Sessions heard from since the sender's last confirmed round.
        touched: Vec<i64>,
        /// Index of the last entry that the sender applied.
        applied: u64,
        /// Whether the sender's disk is full, so that it can log only empty entries.
        full: bool,
        /// Zxid of the last command of the sender's last batch, for comparison.
        zxid: i64,
        /// The machine's digest just after `zxid`.
        digest: u64,
    },
    /// From the leader: a quorum confirmed the round, and everything up to `index`.
    RoundConfirmed {
        number: u64,
        /// The round counts once this entry is applied.
        index: u64,
        /// Whether so many voters' disks are full that no write can commit.
        shut: bool,
    },
    /// To all: the state digest in the entry differs from the sender's. The sender applies nothing more
    /// until a majority has reported its digest.
    Disputed {
        /// Index of the entry.
        index: u64,
        /// The zxid whose digests are compared.
        zxid: i64,
        logged: u64,
        digest: u64,
    },
    /// Answers `Disputed`: the digest that the sender computed, or that it accepted.
    Computed {
        /// The zxid whose digests are compared.
        zxid: i64,
        digest: u64,
    },
    /// To the leader: an operator asks that the sender become leader.
    Lead {
        /// The leader's term, as the sender knows it.
        term: u64,
    },
    /// A step of a snapshot transfer.
    Snapshot(SnapshotMessage),
    /// To all, when it changes: the disk state that rounds and their confirmations repeat.
    Room {
        full: bool,
        /// Whether the sender leads and refuses all writes.
        shut: bool,
    },
    /// From the leader: it proposed nothing of the receiver's stream from `seq` on. It proposes nothing of
    /// it either until the receiver has sent this message back. After that, only commands sent afterwards
    /// count.
    Return {
        term: u64,
        incarnation: u64,
        /// First number that the leader returns unproposed.
        seq: u64,
        /// The leader's own number of this message.
        number: u64,
    },
}

/// A Raft message, with the fields of `eraftpb::Message`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct RaftMessage {
    /// The message's type, as in `eraftpb::MessageType`.
    pub kind: u8,
    pub to: u64,
    pub from: u64,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub entries: Vec<RaftEntry>,
    pub commit: u64,
    pub commit_term: u64,
    pub reject: bool,
    pub reject_hint: u64,
    pub context: Vec<u8>,
    pub priority: i64,
}

/// A log entry as sent to a peer.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct RaftEntry {
    pub index: u64,
    pub term: u64,
    /// Whether the entry changes the membership.
    pub membership: bool,
    /// The payload, as in [`crate::consensus::LogEntry`].
    pub payload: Vec<u8>,
}

/// The transfer of a snapshot, with only a few chunks in flight: see `consensus::catch_up`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum SnapshotMessage {
    /// From the sender: a snapshot is available.
    Offer {
        term: u64,
        index: u64,
        index_term: u64,
        /// Size of the file, in bytes.
        bytes: u64,
    },
    /// From the receiver: continue at `offset`. The file's length as `offset` says that nothing more is
    /// needed. Then the file is complete and durable, or the receiver has committed the entries up to the
    /// snapshot's index.
    Want {
        index: u64,
        /// Position in the file, in bytes.
        offset: u64,
    },
    /// From the sender: bytes of the file.
    Chunk {
        index: u64,
        /// Position of `bytes` in the file.
        offset: u64,
        bytes: Vec<u8>,
    },
    /// From either side: this transfer is over.
    Stop {
        index: u64,
        /// The reason, for the log.
        why: String,
    },
}
