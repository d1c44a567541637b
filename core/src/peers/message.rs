//! What nodes tell each other.
//!
//! Owns the shapes of messages between the consensus cores. Never trusts one: each is checked by `rkyv` when it arrives, and
//! whoever takes it compares node, term and numbers with what he knows. Nothing of it is ever given to protobuf.

use crate::command::Command;
use rkyv::{Archive, Deserialize, Serialize};

/// Names of the kinds of [`Message`], in their order: for a line about one that cannot be read.
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

/// One message of a link. A link keeps their order; a new link begins anew.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum Message {
    /// Raft's own.
    Raft(RaftMessage),
    /// To the leader: commands of the sender's stream, consecutive.
    Forward {
        /// The leader's term as the sender knows it: another leader takes nothing of it.
        term: u64,
        /// The commands.
        commands: Vec<Command>,
    },
    /// From the leader: the next number of the receiver's stream that it takes. Sent when it begins to lead, on each new
    /// link, and whenever another number came. From anybody, on a new link to a node that runs from an older copy of its
    /// directory: where its stream stands, in a later incarnation than its own.
    Expect {
        /// Its term.
        term: u64,
        /// Incarnation of the receiver's stream.
        incarnation: u64,
        /// The number.
        seq: u64,
    },
    /// To the leader: a read round of the sender, with the sessions it heard from since its last confirmed round.
    Round {
        /// The leader's term as the sender knows it.
        term: u64,
        /// The sender's own number.
        number: u64,
        /// Sessions heard from.
        touched: Vec<i64>,
        /// Last entry that the sender has applied.
        applied: u64,
        /// Whether the sender's disk is full: it can log no entry that holds anything.
        full: bool,
        /// Zxid of the last command of its last batch, for comparison.
        zxid: i64,
        /// Digest just after it.
        digest: u64,
    },
    /// From the leader: the round is confirmed by a quorum, and so is everything up to `index`.
    RoundConfirmed {
        /// Number of the round.
        number: u64,
        /// To be applied before the round counts.
        index: u64,
        /// Whether the disks of so many voters are full that nothing can be written.
        shut: bool,
    },
    /// To all: what the entry's proposer knew of the state is not what the sender knows. The sender applies nothing more
    /// until a majority has said what it computed.
    Disputed {
        /// The entry.
        index: u64,
        /// The zxid that was compared.
        zxid: i64,
        /// The digest in the entry.
        logged: u64,
        /// The sender's digest.
        digest: u64,
    },
    /// The answer: what the sender computed, or what it accepted.
    Computed {
        /// The zxid that was compared.
        zxid: i64,
        /// The digest.
        digest: u64,
    },
    /// To the leader: an operator wants the sender to lead.
    Lead {
        /// The leader's term as the sender knows it.
        term: u64,
    },
    /// A snapshot is offered, asked for, sent, or refused.
    Snapshot(SnapshotMessage),
    /// To all, when it changes: what rounds and their confirmations repeat.
    Room {
        /// Whether the sender's disk is full.
        full: bool,
        /// Whether the sender leads and writes are shut.
        shut: bool,
    },
    /// From the leader: of the receiver's stream nothing from `seq` on was proposed, or will be before the receiver has sent this
    /// back. Behind that, only what it sends from then on counts.
    Return {
        /// The leader's term.
        term: u64,
        /// Incarnation of the stream.
        incarnation: u64,
        /// First number that comes back.
        seq: u64,
        /// The leader's own number for this message.
        number: u64,
    },
}

/// Raft's message, field by field.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct RaftMessage {
    /// Number of its kind in `eraftpb::MessageType`.
    pub kind: u8,
    /// Receiver.
    pub to: u64,
    /// Sender.
    pub from: u64,
    /// Sender's term.
    pub term: u64,
    /// See `eraftpb`.
    pub log_term: u64,
    /// See `eraftpb`.
    pub index: u64,
    /// Entries of the log.
    pub entries: Vec<RaftEntry>,
    /// See `eraftpb`.
    pub commit: u64,
    /// See `eraftpb`.
    pub commit_term: u64,
    /// See `eraftpb`.
    pub reject: bool,
    /// See `eraftpb`.
    pub reject_hint: u64,
    /// See `eraftpb`.
    pub context: Vec<u8>,
    /// See `eraftpb`.
    pub priority: i64,
}

/// One entry of the log on its way to a peer.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct RaftEntry {
    /// Position.
    pub index: u64,
    /// Term.
    pub term: u64,
    /// Whether it changes the membership.
    pub membership: bool,
    /// The payload, as in [`crate::consensus::LogEntry`].
    pub payload: Vec<u8>,
}

/// The transfer of a snapshot. Only a few chunks are on their way at once: see `consensus::catch_up`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
pub enum SnapshotMessage {
    /// Sender: there is one, take it.
    Offer {
        /// Sender's term.
        term: u64,
        /// Index of the snapshot.
        index: u64,
        /// Term of the entry at `index`.
        index_term: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// Receiver: go on from `offset`. An offset at the end of the file says that the receiver needs nothing more of it: the file is whole
    /// and durable, or the receiver has committed the entries up to the snapshot's index.
    Want {
        /// Index of the snapshot.
        index: u64,
        /// From where.
        offset: u64,
    },
    /// Sender: bytes of the file.
    Chunk {
        /// Index of the snapshot.
        index: u64,
        /// Where they stand.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Either: this transfer is over.
    Stop {
        /// Index of the snapshot.
        index: u64,
        /// Why, for the log.
        why: String,
    },
}
