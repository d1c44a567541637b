//! What the log carries: commands, grouped in batches, one batch an entry.
//!
//! Owns the durable shape of a write between the shard that decoded it and the state machine that applies it.
//! Never holds anything that a machine would have to look up outside the tree and the session table: time,
//! policy, identities, session ids and passwords are inputs. It stays correct across versions because the
//! client's request travels as its own wire bytes ([`Op::Request`]), whose format is ZooKeeper's and fixed, and the
//! rest is versioned by the log segment's format version and [`Batch::semantics`].

use rkyv::{Archive, Deserialize, Serialize};

/// An authentication id of a connection: `ip`, `digest`, `super`, ….
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
#[rkyv(derive(Debug))]
pub struct Identity {
    /// The scheme's name.
    pub scheme: String,
    /// The id in the scheme's own form.
    pub id: String,
}

/// Bits of [`Batch::policy`]: what validation depends on of the proposer's configuration.
pub mod policy {
    /// `zookeeper.skipACL=yes`.
    pub const SKIP_ACL: u32 = 1;
    /// `extendedTypesEnabled`.
    pub const EXTENDED_TYPES: u32 = 1 << 1;
    /// `reconfigEnabled`.
    pub const RECONFIG: u32 = 1 << 2;
    /// `standaloneEnabled=false`: a reconfiguration may leave one voter alone.
    pub const ONE_VOTER: u32 = 1 << 3;
}

/// The semantics version this build proposes. Raised only by a log command once all members support it.
pub const SEMANTICS: u32 = 1;

/// [`Command::node`] of what the leader orders for the ensemble itself: it stands in no stream and nobody waits for it, so
/// only commands that may come twice are ordered so ([`Op::Membership`]).
pub const NO_STREAM: u8 = 0;

/// One Raft entry: commands that were waiting together.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Version of the machine's rules under which the batch was validated.
    pub semantics: u32,
    /// [`policy`] bits.
    pub policy: u32,
    /// The proposer's wall clock, ms since the Unix epoch: every znode time of this batch.
    pub time_ms: i64,
    /// Zxid of the last command that the proposer had applied.
    pub applied_zxid: i64,
    /// Digest of the proposer's state at `applied_zxid`.
    pub applied_digest: u64,
    /// In order.
    pub commands: Vec<Command>,
}

/// One command of one node's numbered stream.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Node that forwarded it (1–254; a standalone node is 1); [`NO_STREAM`]: the leader, for the ensemble.
    pub node: u8,
    /// Incarnation of that node: durable, grows at each start.
    pub incarnation: u64,
    /// Position in the stream (node, incarnation), from 1 without a gap.
    pub seq: u64,
    /// Session on whose behalf it runs.
    pub session: i64,
    /// Attachment of the session under which it was sent; an older one than the table's is SessionMoved.
    pub attachment: u32,
    /// Ids of the connection when the request was read, `ip` included.
    pub identities: Vec<Identity>,
    /// What to do.
    pub op: Op,
}

/// What a command does.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A client's write: opcode and the request record as it came, header cut off. It has been decoded once
    /// without error; trailing bytes are kept and ignored.
    Request {
        /// Opcode of spec 01 section 4.
        opcode: i32,
        /// The record's bytes.
        body: Vec<u8>,
    },
    /// A new session with the id in [`Command::session`]. Takes a zxid.
    OpenSession {
        /// Negotiated timeout, ms.
        timeout_ms: i32,
        /// What a reattach must present.
        password: [u8; 16],
    },
    /// A client came back for [`Command::session`]. Takes no zxid; raises the attachment number.
    AttachSession {
        /// Newly negotiated timeout, ms.
        timeout_ms: i32,
        /// What the client presented; empty or short never matches.
        password: Vec<u8>,
        /// Highest zxid the client saw; a node answers nothing older.
        last_zxid_seen: i64,
    },
    /// The client closed the session. Takes a zxid.
    CloseSession,
    /// The leader found the session expired. Takes a zxid. Ignored without a zxid if the session is gone.
    ExpireSession,
    /// The leader's step in the life of the membership: an archived [`crate::machine::MembershipCommand`]. Its bytes, and
    /// not its fields, so that the archived size of this enum, and with it every log, stays as it is.
    Membership {
        /// The archive.
        body: Vec<u8>,
    },
}
