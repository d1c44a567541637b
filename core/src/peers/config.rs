//! The configuration of the links, and their bounds.

#![forbid(unsafe_code)]

/// Largest payload of a frame. Covers the largest entry of the default 64 MiB log segment, which is
/// smaller by a header and the reserve for hard states. A greater length is not trusted and ends the link.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Unsent bytes of a link above which it accepts no more messages. Some batches' worth: a slow peer costs
/// bounded memory, and a queued message waits no longer than it takes to send this much. One message may
/// exceed the bound.
pub const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Approximate length of the buffers that hold unsent output. Each is freed once it is sent.
pub const STRETCH_BYTES: usize = 256 * 1024;

/// Payload of messages that the consensus core has not taken yet, above which links are no longer read.
pub const UNTAKEN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Capacity that an empty input buffer keeps: a batch's worth. A larger buffer goes back to the allocator.
pub const INBOX_KEEP_BYTES: usize = 2 * 1024 * 1024;

/// Bytes of incomplete frames, over all links whose nodes are no members here. Unproven strangers count
/// too. One largest frame and a little more, so that a newcomer that already leads can send entries to
/// this node.
pub const NEWCOMERS_BYTES_MAX: usize = FRAME_BYTES_MAX + 4 * 1024 * 1024;

/// Bytes that one link to a non-member may hold without being counted: about one read.
pub const NEWCOMER_BYTES: usize = 64 * 1024;

/// Time from dial or accept to the end of the handshake. Allows several retransmissions of a lost packet,
/// and bounds how long a silent listener delays the next attempt.
pub const HANDSHAKE_NS: u64 = 3_000_000_000;

/// Accepted connections that have not sent a greeting. A member's greeting is its first packet, so above
/// this bound the oldest connection is closed. Strangers therefore cannot keep members out.
pub const STRANGERS_MAX: usize = 64;

/// Shortest pause before the next dial. Long enough that a refusing peer is not dialled in a tight loop.
pub const BACKOFF_MIN_NS: u64 = 20_000_000;

/// Longest pause before the next dial. A returning node must not wait longer for its links than an
/// election takes.
pub const BACKOFF_MAX_NS: u64 = 1_000_000_000;

/// After a link that was up for this long, the next dial starts again with the shortest pause.
pub const STEADY_NS: u64 = 1_000_000_000;

/// How long the node with the smaller number leaves the dialling to the other node. Then it dials too,
/// because the other node may not know its address yet, or may not reach it.
pub const PATIENCE_NS: u64 = 1_000_000_000;

/// A link on which nothing was sent for this long carries a keep-alive frame.
pub const IDLE_NS: u64 = 1_000_000_000;

/// A gap between two turns from which on this node itself was stopped, not its links. With a link up there
/// is a turn every [`IDLE_NS`].
pub const STOOD_STILL_NS: u64 = 2 * IDLE_NS;

/// A link on which nothing was received for this long is dead. Five keep-alives were lost, although TCP
/// repeats lost packets.
pub const SILENCE_NS: u64 = 5_000_000_000;

/// Time that a probed link has to answer. A link is probed when its node dials again.
pub const PROBE_NS: u64 = 500_000_000;

/// Time limit for resolving a name. Then the dial counts as failed.
pub const RESOLVE_NS: u64 = 10_000_000_000;

/// How long a removed node keeps its link, so that it can still receive its removal through the log.
pub const REMOVED_GRACE_NS: u64 = 10_000_000_000;

/// Least time between two log lines of the same text about the same peer.
pub const SAME_LINE_PAUSE_NS: u64 = 30_000_000_000;

/// Least time between two log lines about the same peer, or about strangers. Lines about new links are
/// counted separately.
pub const LINE_PAUSE_NS: u64 = 1_000_000_000;

const _: () = assert!(BACKOFF_MIN_NS <= BACKOFF_MAX_NS && 2 * IDLE_NS < SILENCE_NS && PROBE_NS < SILENCE_NS);
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);

/// Address of a member's peer port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    pub node: u8,
    /// Host name or numeric address.
    pub host: String,
    pub port: u16,
}

/// Settings of the links.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// This node's number: 1 to 254.
    pub node: u8,
    /// Id of the ensemble; all zero while it is unknown.
    pub cluster: [u8; 16],
    /// Identity of this node's data directory.
    pub identity: [u8; 16],
    /// Counts the starts of this node's directory.
    pub incarnation: u64,
    /// Whether the log or the snapshots hold anything.
    pub data: bool,
    /// [`super::founders`] of the voters with which this node would bootstrap an ensemble; 0 if it would
    /// bootstrap none.
    pub founders: u64,
    /// The configured members, in force until [`super::Peers::update`] brings the replicated membership.
    /// This node may be among them.
    pub members: Vec<PeerAddress>,
    /// Seed of the backoff's jitter and of [`super::Peers`]' start number.
    pub seed: u64,
}
