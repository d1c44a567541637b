//! Commands, grouped in batches: one batch is one entry of the log.
//!
//! Owns the durable shape of a write, between the shard that decoded it and the state machine that applies
//! it.
//!
//! Never needs anything at apply outside the tree and the session table. Time, policy, identities, session
//! ids and passwords are inputs.
//!
//! Correct across versions because a client's request travels as its own wire bytes ([`Op::Request`]), in
//! ZooKeeper's fixed format. The rest is versioned by the log segment's format version and
//! [`Batch::semantics`].

use rkyv::{Archive, Deserialize, Serialize};

/// An authentication id of a connection: `ip`, `digest`, `super`, ….
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
#[rkyv(derive(Debug))]
pub struct Identity {
    pub scheme: String,
    /// Id in the scheme's own form.
    pub id: String,
}

/// Bits of [`Batch::policy`]: the part of the proposer's configuration that validation depends on.
pub mod policy {
    /// `zookeeper.skipACL=yes`: no ACL is checked.
    pub const SKIP_ACL: u32 = 1;
    /// `extendedTypesEnabled`: TTL nodes may be created.
    pub const EXTENDED_TYPES: u32 = 1 << 1;
    /// `reconfigEnabled`: clients may reconfigure the ensemble.
    pub const RECONFIG: u32 = 1 << 2;
    /// `standaloneEnabled=false`: a reconfiguration may leave one voter alone.
    pub const ONE_VOTER: u32 = 1 << 3;
}

/// Semantics version that this build proposes. Raised only by a log command once all members support it.
pub const SEMANTICS: u32 = 1;

/// [`Command::node`] of commands that the leader orders for the ensemble itself. They belong to no stream
/// and no client waits for them. So only commands that may be applied twice are ordered so
/// ([`Op::Membership`]).
pub const NO_STREAM: u8 = 0;

/// One Raft entry: commands that waited together.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Version of the machine's rules under which the proposer validated the batch.
    pub semantics: u32,
    /// Bits of [`policy`], by the proposer's configuration.
    pub policy: u32,
    /// The proposer's wall clock, ms since the Unix epoch: every znode time of this batch.
    pub time_ms: i64,
    /// Zxid of the last command that the proposer had applied.
    pub applied_zxid: i64,
    /// Digest of the proposer's state at `applied_zxid`.
    pub applied_digest: u64,
    /// Commands in the order of application.
    pub commands: Vec<Command>,
}

/// One command of one node's numbered stream.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Node that forwarded it (1–254; a standalone node is 1), or [`NO_STREAM`].
    pub node: u8,
    /// Incarnation of that node: durable, grows at each start.
    pub incarnation: u64,
    /// Position in the stream (node, incarnation), from 1 without a gap.
    pub seq: u64,
    /// Session that issued it.
    pub session: i64,
    /// Attachment number under which it was sent. An older one than the session table's gets SessionMoved.
    pub attachment: u32,
    /// Identities of the connection when the request was read, `ip` included.
    pub identities: Vec<Identity>,
    pub op: Op,
}

/// Operation of a command.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A client's write: opcode and the request record as it came, without the header. It was decoded once
    /// without error; trailing bytes are kept and ignored.
    Request {
        /// Opcode, as in spec 01 section 4.
        opcode: i32,
        body: Vec<u8>,
    },
    /// A new session with the id in [`Command::session`]. Takes a zxid.
    OpenSession {
        /// Negotiated session timeout, ms.
        timeout_ms: i32,
        /// Password that a reattach must present.
        password: [u8; 16],
    },
    /// A client came back for [`Command::session`]. Takes no zxid; raises the attachment number.
    AttachSession {
        /// Newly negotiated session timeout, ms.
        timeout_ms: i32,
        /// Password that the client presented. An empty or short one never matches.
        password: Vec<u8>,
        /// Highest zxid that the client saw. A node answers nothing older.
        last_zxid_seen: i64,
    },
    /// The client closed the session. Takes a zxid.
    CloseSession,
    /// The leader found the session expired. Takes a zxid. Ignored without a zxid if the session is gone.
    ExpireSession,
    /// The leader's step of a membership change: an archived [`crate::machine::MembershipCommand`]. Bytes
    /// instead of fields keep the archived size of this enum, and with it every log, as it is.
    Membership { body: Vec<u8> },
}
