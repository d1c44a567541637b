//! The replicated membership of an ensemble.
//!
//! Owns the shape of the membership in the log, in snapshots, on peer links and in `/zookeeper/config`.
//! Never opens a connection, and never decides which nodes may join.
//! Correct because it is a plain value: two memberships can be compared, and the larger version is the
//! newer.

#![forbid(unsafe_code)]

mod text;

pub use text::{MembersError, bracketed, is_wildcard, parse_assignment, parse_node};

use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest node number. Zero and 255 have meanings of their own in ZooKeeper's session ids.
pub const NODE_MAX: u8 = 254;

/// Part of a member in elections.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MemberRole {
    /// A voter.
    Participant,
    /// Follows the log without a vote.
    Observer,
}

/// A server of the ensemble.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Host name or numeric address of the peer link, resolved again at each connect.
    pub host: String,
    /// Port of the peer link (ZooKeeper's quorum port).
    pub peer_port: u16,
    /// ZooKeeper's election port. Kept because files and clients carry it; not used.
    pub election_port: u16,
    pub role: MemberRole,
    /// `host:port` for clients, from the part after the semicolon. The host is `0.0.0.0` where only a port
    /// is given. `None` if the part is missing.
    pub client: Option<String>,
    /// Identity of the member's data directory, once the ensemble knows it.
    pub identity: Option<[u8; 16]>,
}

/// All members of one ensemble. Empty on a standalone node.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// Random number of the ensemble, drawn once; all zero without an ensemble.
    pub cluster: [u8; 16],
    /// Zxid of the change that made this membership; clients see it as `version=`.
    pub version: i64,
    /// By node number.
    pub members: BTreeMap<u8, Member>,
}

impl Members {
    /// Numbers of the voting members.
    pub fn voters(&self) -> impl Iterator<Item = u8> + '_ {
        self.with_role(MemberRole::Participant)
    }

    /// Numbers of the members without a vote.
    pub fn observers(&self) -> impl Iterator<Item = u8> + '_ {
        self.with_role(MemberRole::Observer)
    }

    pub fn get(&self, node: u8) -> Option<&Member> {
        self.members.get(&node)
    }

    fn with_role(&self, role: MemberRole) -> impl Iterator<Item = u8> + '_ {
        self.members.iter().filter(move |(_, m)| m.role == role).map(|(node, _)| *node)
    }
}
