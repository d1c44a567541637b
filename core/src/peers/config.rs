//! What the links are told, and their bounds.

#![forbid(unsafe_code)]

/// Largest payload of a frame. Covers the largest entry of the default 64 MiB log segment, which is smaller by a header
/// and the reserve for hard states; a length above it is taken for nonsense and ends the link.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Unsent bytes of a link above which nothing more is taken for it: some batches' worth, so that a slow peer costs memory
/// that can be named, and what waits for it is not older than it takes to send this much. One message may exceed it.
pub const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Unsent output is kept in stretches of about this length, each of which is freed when it is sent.
pub const STRETCH_BYTES: usize = 256 * 1024;

/// Payload of messages that the consensus core has not taken yet above which links are no longer read.
pub const UNTAKEN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Room that an empty link's input keeps: a batch's worth. A larger one goes back to the allocator.
pub const INBOX_KEEP_BYTES: usize = 2 * 1024 * 1024;

/// Bytes of frames that have not arrived whole, of all links together whose nodes are no members here: strangers among them,
/// since nobody's word is proven. One largest frame and a little, so that a newcomer that leads already can feed this node.
pub const NEWCOMERS_BYTES_MAX: usize = FRAME_BYTES_MAX + 4 * 1024 * 1024;

/// Such a link may hold this much without being counted: what comes in one read.
pub const NEWCOMER_BYTES: usize = 64 * 1024;

/// From dial or accept to the end of the handshake: several retransmissions of a lost packet, and less than a silent
/// listener may hold up the next attempt.
pub const HANDSHAKE_NS: u64 = 3_000_000_000;

/// Accepted connections that have not said who they are. A member says so with its first packet, so the oldest one goes
/// when there are too many: strangers cannot keep members out.
pub const STRANGERS_MAX: usize = 64;

/// Shortest pause before the next dial: long enough that a peer that refuses is not dialled in a loop.
pub const BACKOFF_MIN_NS: u64 = 20_000_000;

/// Longest pause before the next dial: a node that is back must not wait longer for its links than an election lasts.
pub const BACKOFF_MAX_NS: u64 = 1_000_000_000;

/// A link that stood this long was a good one: the next dial begins with the shortest pause again.
pub const STEADY_NS: u64 = 1_000_000_000;

/// How long the node with the smaller number leaves the dialling to the other one. After that it dials too: the other may
/// not know its address yet, or not reach it.
pub const PATIENCE_NS: u64 = 1_000_000_000;

/// A link on which nothing was sent for this long carries a sign of life.
pub const IDLE_NS: u64 = 1_000_000_000;

/// A pause between two turns from which on it is this node that stood still, and not its links: with a link there is a turn each
/// [`IDLE_NS`].
pub const STOOD_STILL_NS: u64 = 2 * IDLE_NS;

/// A link on which nothing was heard for this long is dead: five signs of life were lost, which TCP itself would have
/// repeated.
pub const SILENCE_NS: u64 = 5_000_000_000;

/// The same for a link that is in doubt, since its node dialled again: the time for a question and its answer.
pub const PROBE_NS: u64 = 500_000_000;

/// How long a name may take to be resolved before the dial counts as failed.
pub const RESOLVE_NS: u64 = 10_000_000_000;

/// How long a node that was removed keeps its link, so that it learns of it by the log.
pub const REMOVED_GRACE_NS: u64 = 10_000_000_000;

/// Between two log lines of the same text about the same peer.
pub const SAME_LINE_PAUSE_NS: u64 = 30_000_000_000;

/// Between two log lines of any text about the same peer, its links that come to stand apart, or about strangers.
pub const LINE_PAUSE_NS: u64 = 1_000_000_000;

const _: () = assert!(BACKOFF_MIN_NS <= BACKOFF_MAX_NS && 2 * IDLE_NS < SILENCE_NS && PROBE_NS < SILENCE_NS);
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);

/// Where a member's peer link is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Its number.
    pub node: u8,
    /// Host name or numeric address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// How to set up the links.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// This node's number, 1–254.
    pub node: u8,
    /// Number of the ensemble; all zero while it is not known.
    pub cluster: [u8; 16],
    /// Identity of this node's data directory.
    pub identity: [u8; 16],
    /// Number of this start.
    pub incarnation: u64,
    /// Whether its log or its snapshots hold something.
    pub data: bool,
    /// [`super::founders`] of the voters with whom this node would found an ensemble; 0: it would found none.
    pub founders: u64,
    /// The members as configured. In force until [`super::Peers::update`] tells of the replicated membership; this node
    /// may be among them.
    pub members: Vec<PeerAddress>,
    /// Seed of the backoff's jitter.
    pub seed: u64,
}
