//! Who belongs to the ensemble: the replicated membership.
//!
//! Owns the shape of the membership as it stands in the log, in snapshots, on peers' links and in `/zookeeper/config`. Never
//! opens a connection and never decides who may join. It stays correct because it is a plain value: whoever holds two of
//! them can compare them, and the one with the larger version is the newer.

#![forbid(unsafe_code)]

mod text;

pub use text::{MembersError, bracketed, is_wildcard, parse_assignment, parse_node};

use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest node number: zero and 255 have meanings of their own in ZooKeeper's session ids.
pub const NODE_MAX: u8 = 254;

/// What a member does.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MemberRole {
    /// Votes.
    Participant,
    /// Follows and never votes.
    Observer,
}

/// One member.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Host name or numeric address of its peer link, resolved anew at each connect.
    pub host: String,
    /// Port of its peer link (ZooKeeper's quorum port).
    pub peer_port: u16,
    /// ZooKeeper's election port: kept, since files and clients carry it, and not used.
    pub election_port: u16,
    /// What it does.
    pub role: MemberRole,
    /// `host:port` where clients connect, from behind the semicolon (host `0.0.0.0` if only a port stood there); `None`: not
    /// told.
    pub client: Option<String>,
    /// Identity of its data directory, once the ensemble knows it.
    pub identity: Option<[u8; 16]>,
}

/// The whole membership. Empty on a standalone node.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// Random number of this ensemble, drawn once; all zero while it has none.
    pub cluster: [u8; 16],
    /// Zxid of the change that made it; what clients see as `version=`.
    pub version: i64,
    /// By node number.
    pub members: BTreeMap<u8, Member>,
}

impl Members {
    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = u8> + '_ {
        self.with_role(MemberRole::Participant)
    }

    /// The members that follow without a vote.
    pub fn observers(&self) -> impl Iterator<Item = u8> + '_ {
        self.with_role(MemberRole::Observer)
    }

    /// One member.
    pub fn get(&self, node: u8) -> Option<&Member> {
        self.members.get(&node)
    }

    fn with_role(&self, role: MemberRole) -> impl Iterator<Item = u8> + '_ {
        self.members.iter().filter(move |(_, m)| m.role == role).map(|(node, _)| *node)
    }
}
