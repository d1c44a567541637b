//! The state of one other node, and of one connection.
//!
//! Owns addresses, the state of dialling, and the throttle of a node's log lines. Never sends anything.

#![forbid(unsafe_code)]

use super::config::{BACKOFF_MAX_NS, BACKOFF_MIN_NS, LINE_PAUSE_NS, PeerAddress, SAME_LINE_PAUSE_NS};
use super::frame::{FrameError, Inbox};
use super::greeting::{Greeting, GreetingError, Hex, Refusal};
use crate::log_throttle::LogThrottle;
use crate::random::splitmix;
use paddock_transport::engine::{Address, ConnId};
use thiserror::Error;

/// Why a connection ended or a dial failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Greeting(#[from] GreetingError),
    #[error("no handshake within the time for it")]
    HandshakeTime,
    #[error("nothing was heard for {} ms", .0 / 1_000_000)]
    Silent(u64),
    #[error("cannot be reached: {}", std::io::Error::from_raw_os_error(*.0))]
    Connect(i32),
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Failed(i32),
    #[error("it closed the connection")]
    ByPeer,
    #[error("{0}")]
    Resolve(String),
    #[error("its name was not resolved in time; check the name service")]
    ResolveTime,
    #[error("a newer link to it took the place")]
    Replaced,
    #[error("it refused us: {}", refused_by(.0, .1))]
    RefusedBy(Refusal, Option<Box<Greeting>>),
    #[error("we refused it: {}", we_refused(.0, .1))]
    WeRefused(Refusal, Option<Box<Greeting>>),
    #[error("too many connections that send no greeting")]
    Crowded,
    #[error("it is not a member here, and those that are not have sent too much at once; it may dial again")]
    CrowdedNewcomers,
}

/// Texts that are the same whichever side refused.
fn common(why: &Refusal, said: &Option<Box<Greeting>>) -> Option<String> {
    Some(match (why, said) {
        (Refusal::WrongVersion, Some(it)) => {
            format!(
                "it speaks version {} of the peer protocol; run the same release on all nodes",
                it.version
            )
        }
        (Refusal::WrongVersion, None) => {
            "it speaks another version of the peer protocol; run the same release on all nodes".to_owned()
        }
        // A refusing node does not name its ensemble.
        (Refusal::WrongCluster, Some(it)) if it.refusal.is_none() => {
            format!("another ensemble (cluster {}); check its configuration", Hex(&it.cluster))
        }
        (Refusal::WrongCluster, _) => "another ensemble; check its configuration".to_owned(),
        (Refusal::OtherFounders, _) => {
            "it begins with other voters than this node does: each list could elect a leader of its \
             own. Make the server.N lines of all servers the same and start those again that had others"
                .to_owned()
        }
        (Refusal::OldCopy, _) => {
            "it ran under the same start number before, from a data directory that knew more: an older copy was put back, and may \
             have forgotten votes and writes. Stop that node, empty its data directory except for myid, and start it \
             again: it is fed anew"
                .to_owned()
        }
        (Refusal::Other(code), _) => format!("reason {code}, which this version does not know"),
        _ => return None,
    })
}

fn refused_by(why: &Refusal, said: &Option<Box<Greeting>>) -> String {
    let text = match (why, said) {
        (Refusal::NotForMe, Some(it)) => {
            return format!("it is node {}; check the server lines and its myid", it.node);
        }
        (Refusal::UnknownNode, _) => "this node is not a member of its ensemble; add it with reconfig",
        (Refusal::NotForMe, None) => "it is another node; check the server lines and its myid",
        (Refusal::Removed, _) => "this node was removed from the ensemble",
        (Refusal::Duplicate, _) => {
            "it has a link with this node's number already; if this stays, two nodes run with the same myid"
        }
        (Refusal::OldCopy, _) => {
            "this node runs from an older copy of its data directory, and may have forgotten votes and writes. Stop it, empty \
             the directory except for myid, and start it again: it is fed anew"
        }
        _ => return common(why, said).unwrap_or_default(),
    };
    text.to_owned()
}

fn we_refused(why: &Refusal, said: &Option<Box<Greeting>>) -> String {
    let text = match (why, said) {
        (Refusal::NotForMe, Some(it)) => {
            return format!(
                "node {} looked for node {} here; check its server lines and our myid",
                it.node, it.wanted
            );
        }
        (Refusal::UnknownNode, Some(it)) => {
            return format!("node {} is not a member of this ensemble; add it with reconfig", it.node);
        }
        (Refusal::UnknownNode, None) => "it is not a member of this ensemble; add it with reconfig",
        (Refusal::NotForMe, None) => "it looked for another node here",
        (Refusal::Removed, _) => "it was removed from this ensemble",
        (Refusal::Duplicate, _) => "there is a link with a node of this number already",
        _ => return common(why, said).unwrap_or_default(),
    };
    text.to_owned()
}

/// The side of a connection that this node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// This node dialled that node.
    Dialled(u8),
    /// The other end dialled this node.
    Accepted,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkState {
    /// The transport is still connecting.
    Connecting,
    /// The other end's greeting has not arrived.
    Greeting,
    /// The connection is the link with this node.
    Up(u8),
}

/// One connection to or from a peer.
#[derive(Debug)]
pub(super) struct Link {
    pub side: Side,
    pub state: LinkState,
    pub remote: Address,
    pub inbox: Inbox,
    /// Time at which the present state began.
    pub since_ns: u64,
    pub heard_ns: u64,
    pub sent_ns: u64,
    /// Deadline of a probe: input must arrive before.
    pub probe_ns: Option<u64>,
    /// Whether input is left in the kernel.
    pub paused: bool,
}

impl Link {
    pub(super) fn new(side: Side, state: LinkState, remote: Address, now_ns: u64) -> Self {
        Self {
            side,
            state,
            remote,
            inbox: Inbox::default(),
            since_ns: now_ns,
            heard_ns: now_ns,
            sent_ns: now_ns,
            probe_ns: None,
            paused: false,
        }
    }
}

/// The state of dialling a node, while there is no link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dial {
    /// No dial was tried yet.
    New,
    /// The next dial is at this time.
    At(u64),
    /// The address is being resolved, until this deadline.
    Resolving(u64),
    /// The connection is being established.
    Connecting(ConnId),
}

/// The other end of the last link with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub identity: [u8; 16],
    pub incarnation: u64,
    /// Random number of the node's start; 0 if not given.
    pub life: u16,
    /// Count of the node's latest dial that became a link; 0 if this node dialled.
    pub attempt: u64,
    /// Version of the membership that the node knew.
    pub members_version: i64,
    /// Whether the node was a member by that version.
    pub member: bool,
    /// Id of the node's ensemble; all zero if unknown.
    pub cluster: [u8; 16],
}

/// Result of the last contact with a node. An unreachable node changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Contact {
    /// No contact since this node's start.
    #[default]
    None,
    /// The node accepts connections but sends no greeting: it is starting, or hangs.
    Silent,
    /// The node has no data and belongs to no ensemble.
    Empty,
    /// The node belongs to an ensemble, or has data.
    Settled,
    /// One of the two nodes refused the other.
    Refused(Refusal),
}

/// One other node of the ensemble.
#[derive(Debug)]
pub(super) struct Peer {
    pub address: Option<PeerAddress>,
    /// Whether the node is in the membership in force.
    pub member: bool,
    pub link: Option<ConnId>,
    /// Number of `Up` events that the core has not taken.
    pub ups_untaken: usize,
    pub dial: Dial,
    /// Consecutive dials without a steady link.
    pub failures: u32,
    pub known: Option<Known>,
    pub contact: Contact,
    /// For a node that was removed: when its link ends, and the refusal sent then.
    pub leaving: Option<(u64, Refusal)>,
    pub log_throttle: PeerLogThrottle,
    /// Throttle of log lines about new links.
    pub arrivals: PeerLogThrottle,
    /// Why the last link ended or the last dial failed.
    #[cfg(test)]
    pub last_error: Option<String>,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            address: None,
            member: false,
            link: None,
            ups_untaken: 0,
            dial: Dial::New,
            failures: 0,
            known: None,
            contact: Contact::None,
            leaving: None,
            log_throttle: PeerLogThrottle::default(),
            arrivals: PeerLogThrottle::default(),
            #[cfg(test)]
            last_error: None,
        }
    }

    pub(super) fn place(&self) -> String {
        self.address
            .as_ref()
            .map_or_else(|| "an unknown address".to_owned(), |a| format!("{}:{}", a.host, a.port))
    }
}

/// Throttles log lines about one peer: the same text less often than another.
#[derive(Debug, Default)]
pub(super) struct PeerLogThrottle {
    text: String,
    said: LogThrottle,
}

impl PeerLogThrottle {
    /// Whether to log the text now. Returns the number of lines suppressed since the last one.
    pub(super) fn admit(&mut self, now_ns: u64, text: &str) -> Option<u64> {
        let pause = if self.text == text { SAME_LINE_PAUSE_NS } else { LINE_PAUSE_NS };
        let more = self.said.admit(now_ns, pause)?;
        text.clone_into(&mut self.text);
        Some(more)
    }
}

/// Pause before the next dial, in ns. Doubles with each failure, and is random within its upper half.
pub(super) fn backoff(failures: u32, random: &mut u64) -> u64 {
    let full = (BACKOFF_MIN_NS << failures.min(16)).min(BACKOFF_MAX_NS);
    full / 2 + splitmix(random) % (full / 2 + 1)
}
