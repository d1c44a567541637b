//! What is known of one other node, and of one connection.
//!
//! Owns addresses, the state of dialling, and what was last said about a node in the log. Never sends anything.

#![forbid(unsafe_code)]

use super::config::{BACKOFF_MAX_NS, BACKOFF_MIN_NS, LINE_PAUSE_NS, PeerAddress, SAME_LINE_PAUSE_NS};
use super::frame::{FrameError, Inbox};
use super::greeting::{Greeting, GreetingError, Hex, Refusal};
use crate::complaint::Complaint;
use crate::random::splitmix;
use paddock_transport::engine::{Address, ConnId};
use thiserror::Error;

/// Why a connection ended, or a dial did not succeed.
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
    #[error("too many connections that do not say who they are")]
    Crowded,
    #[error("it is not a member here, and those that are not have sent too much at once; it may dial again")]
    CrowdedNewcomers,
}

/// The same for both ends, as far as both know the same.
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
        // Who refuses does not say which ensemble is his.
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

/// Which end a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// We dialled this node.
    Dialled(u8),
    /// Somebody dialled us.
    Accepted,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkState {
    /// Not established.
    Connecting,
    /// The other end's greeting is to come.
    Greeting,
    /// A link with this node.
    Up(u8),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub side: Side,
    pub state: LinkState,
    pub remote: Address,
    pub inbox: Inbox,
    /// Since when it is in this state.
    pub since_ns: u64,
    pub heard_ns: u64,
    pub sent_ns: u64,
    /// It is in doubt and must be heard from before.
    pub probe_ns: Option<u64>,
    /// Input is left in the kernel.
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

/// How far dialling a node is, while there is no link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dial {
    /// Nothing was tried yet.
    New,
    /// The next time.
    At(u64),
    /// Its address is asked for, until then.
    Resolving(u64),
    /// On its way.
    Connecting(ConnId),
}

/// Who stood at the other end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub identity: [u8; 16],
    pub incarnation: u64,
    /// What it drew at this start; 0: not said.
    pub life: u16,
    /// Its latest dial that was a link; 0: we dialled.
    pub attempt: u64,
    /// The version of the membership that it knew.
    pub members_version: i64,
    /// By that version it was a member.
    pub member: bool,
    /// The number of the ensemble that it named; all zero: none.
    pub cluster: [u8; 16],
}

/// What the last meeting with a node told. A node that cannot be reached any more has told nothing new.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Contact {
    /// There was none since this node's start.
    #[default]
    None,
    /// Nor so far, but it takes connections: it is starting, or hangs.
    Silent,
    /// It has nothing and belongs to nothing.
    Empty,
    /// It belongs to an ensemble, or has data.
    Settled,
    /// One of both refused the other.
    Refused(Refusal),
}

/// One other node.
#[derive(Debug)]
pub(super) struct Peer {
    pub address: Option<PeerAddress>,
    /// It belongs to the membership in force.
    pub member: bool,
    pub link: Option<ConnId>,
    /// Links of which the core has not heard yet.
    pub ups_untaken: usize,
    pub dial: Dial,
    /// Dials in a row without a steady link.
    pub failures: u32,
    pub known: Option<Known>,
    pub contact: Contact,
    /// It belongs to the ensemble no more: when its link ends, and what it is told then.
    pub leaving: Option<(u64, Refusal)>,
    pub log_throttle: PeerLogThrottle,
    /// What was said of links that came to stand.
    pub arrivals: PeerLogThrottle,
    /// Why its last link ended or its last dial did not succeed.
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

/// What was last said in the log, so that it is not said in a loop.
#[derive(Debug, Default)]
pub(super) struct PeerLogThrottle {
    text: String,
    said: Complaint,
}

impl PeerLogThrottle {
    /// Whether the log shall have it; the count of lines that it did not get.
    pub(super) fn admit(&mut self, now_ns: u64, text: &str) -> Option<u64> {
        let pause = if self.text == text { SAME_LINE_PAUSE_NS } else { LINE_PAUSE_NS };
        let more = self.said.admit(now_ns, pause)?;
        text.clone_into(&mut self.text);
        Some(more)
    }
}

/// The pause before the next dial: doubled with each failure, and somewhere in its upper half.
pub(super) fn backoff(failures: u32, random: &mut u64) -> u64 {
    let full = (BACKOFF_MIN_NS << failures.min(16)).min(BACKOFF_MAX_NS);
    full / 2 + splitmix(random) % (full / 2 + 1)
}
