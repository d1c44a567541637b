//! Digests of the replicated state: sums that must be equal on all nodes at the same zxid.
//!
//! Owns ZooKeeper's digest of the tree (spec 02 §12), and Paddock's own digest of ACLs, sessions, streams
//! and membership.
//! Never walks the tree while commands are applied. Each change subtracts the znode's part before it and
//! adds the part after it. The tree caches the checksum of a znode's path and data.
//! Correct because addition commutes, so the sum does not depend on the order of past changes. A test
//! recomputes the sums after random histories. The constants belong to the semantics version: nodes that sum
//! differently appear to diverge.
#![forbid(unsafe_code)]

use super::{Joint, MembershipState, PendingReconfig, StreamPosition};
use crate::acl::{AclList, AclRef};
use crate::members::{Member, MemberRole, Members};
use crate::path::ZOOKEEPER;
use crate::session::Session;
use crate::tree::Znode;
use crc_fast::CrcAlgorithm::{Crc32IsoHdlc, Crc64Nvme};
use std::collections::VecDeque;

/// Digests of past zxids kept for comparison, one a batch: far more than the proposals that can be in
/// flight.
pub const AT_ZXIDS_MAX: usize = 1024;

/// Bytes of stat fields in a znode's part of the tree's digest.
const BLOCK_BYTES: usize = 60;

/// Running sums, updated by every change.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    tree: u64,
    acls: u64,
    sessions: u64,
    streams: u64,
    /// Zero while there is no ensemble, so that a standalone node's digest does not include it.
    membership: u64,
}

/// The digests of a loaded snapshot differ from those recorded in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "digests differ: tree {tree:016x} (recorded {recorded_tree:016x}), ACLs {acls:016x} (recorded {recorded_acls:016x})"
)]
pub struct DigestMismatch {
    pub tree: u64,
    pub recorded_tree: u64,
    pub acls: u64,
    pub recorded_acls: u64,
}

impl Sums {
    pub(super) fn from_parts(tree: u64, acls: u64) -> Sums {
        Sums { tree, acls, ..Sums::default() }
    }

    pub fn tree(&self) -> u64 {
        self.tree
    }

    pub fn acls(&self) -> u64 {
        self.acls
    }

    /// One digest of all sums. A membership of zero leaves it unchanged.
    pub fn combined(&self) -> u64 {
        let sum = [self.acls, self.sessions, self.streams].into_iter().fold(self.tree, mix);
        if self.membership == 0 { sum } else { mix(sum, self.membership) }
    }

    pub(super) fn add_node(&mut self, znode: &Znode<'_>) {
        self.add_part(part(znode));
        self.add_acl(znode.path(), znode.acl());
    }

    pub(super) fn remove_node(&mut self, znode: &Znode<'_>) {
        self.remove_part(part(znode));
        self.remove_acl(znode.path(), znode.acl());
    }

    pub(super) fn add_part(&mut self, part: u64) {
        self.tree = self.tree.wrapping_add(part);
    }

    pub(super) fn remove_part(&mut self, part: u64) {
        self.tree = self.tree.wrapping_sub(part);
    }

    pub(super) fn add_acl(&mut self, path: &str, acl: &AclRef) {
        self.acls = self.acls.wrapping_add(acl_part(path, acl));
    }

    pub(super) fn remove_acl(&mut self, path: &str, acl: &AclRef) {
        self.acls = self.acls.wrapping_sub(acl_part(path, acl));
    }

    pub(super) fn add_session(&mut self, id: i64, session: &Session) {
        self.sessions = self.sessions.wrapping_add(session_part(id, session));
    }

    pub(super) fn remove_session(&mut self, id: i64, session: &Session) {
        self.sessions = self.sessions.wrapping_sub(session_part(id, session));
    }

    pub(super) fn replace_stream(&mut self, node: u8, before: Option<StreamPosition>, after: StreamPosition) {
        let part = |p: StreamPosition| mix(mix(u64::from(node), p.incarnation), p.seq);
        self.streams = self.streams.wrapping_sub(before.map_or(0, part)).wrapping_add(part(after));
    }

    pub(super) fn set_membership(&mut self, state: &MembershipState) {
        self.membership = if *state == MembershipState::default() { 0 } else { membership_sum(state) };
    }

    pub(super) fn verify<'t>(
        &self,
        nodes: impl IntoIterator<Item = Znode<'t>>,
    ) -> Result<(), DigestMismatch> {
        let mut found = Sums::default();
        for znode in nodes {
            found.add_node(&znode);
        }
        if (found.tree, found.acls) == (self.tree, self.acls) {
            return Ok(());
        }
        Err(DigestMismatch {
            tree: found.tree,
            recorded_tree: self.tree,
            acls: found.acls,
            recorded_acls: self.acls,
        })
    }
}

/// A znode's part of the tree's digest: the CRC-32 of path, data and stat fields. Nothing below `/zookeeper`
/// is included. The root counts once, under the empty path.
pub(super) fn part(znode: &Znode<'_>) -> u64 {
    let path = znode.path();
    if path.len() > ZOOKEEPER.len() && path.starts_with(ZOOKEEPER) && path.as_bytes()[ZOOKEEPER.len()] == b'/'
    {
        return 0;
    }
    let stat = znode.stat();
    let mut block = [0; BLOCK_BYTES];
    for (at, field) in [stat.czxid, stat.mzxid, stat.pzxid, stat.ctime, stat.mtime].into_iter().enumerate() {
        block[at * 8..at * 8 + 8].copy_from_slice(&field.to_be_bytes());
    }
    block[40..44].copy_from_slice(&stat.version.to_be_bytes());
    block[44..48].copy_from_slice(&stat.cversion.to_be_bytes());
    block[48..52].copy_from_slice(&stat.aversion.to_be_bytes());
    block[52..60].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
    // Undo the final inversion of CRC-32: the checksum continues as if path and data had just been fed.
    let mut digest = crc_fast::Digest::new_with_init_state(Crc32IsoHdlc, u64::from(!znode.checksum()));
    digest.update(&block);
    digest.finalize()
}

fn acl_part(path: &str, acl: &AclList) -> u64 {
    let mut sum = mix(text(path), acl.entries.len() as u64);
    for entry in &acl.entries {
        sum = mix(sum, u64::from(entry.perms as u32));
        sum = mix(sum, text(&entry.id.scheme));
        sum = mix(sum, text(&entry.id.id));
    }
    sum
}

/// A session's part of the digest, without its ephemerals: the tree's digest covers their owners.
fn session_part(id: i64, session: &Session) -> u64 {
    let (first, second) = session.password.split_at(8);
    let mut sum = mix(id as u64, u64::from(session.timeout_ms as u32) << 32 | u64::from(session.attachment));
    for half in [first, second] {
        sum = mix(sum, half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    }
    sum
}

fn membership_sum(state: &MembershipState) -> u64 {
    let MembershipState { members, pending, leaving, joint, number } = state;
    let mut sum = mix(members_sum(members), *number);
    if let Some(PendingReconfig { number, node, incarnation, seq, members }) = pending {
        sum =
            [*number, u64::from(*node), *incarnation, *seq, members_sum(members)].into_iter().fold(sum, mix);
    }
    sum = leaving.iter().fold(sum, |sum, (node, member)| mix(sum, member_sum(*node, member)));
    if let Some(Joint { time_ms, bodies }) = joint {
        sum = mix(sum, *time_ms as u64);
        sum = bodies.iter().fold(sum, |sum, body| mix(sum, bytes(body)));
    }
    sum
}

fn members_sum(members: &Members) -> u64 {
    let start = mix(bytes(&members.cluster), members.version as u64);
    members.members.iter().fold(start, |sum, (node, member)| mix(sum, member_sum(*node, member)))
}

fn member_sum(node: u8, member: &Member) -> u64 {
    let Member { host, peer_port, election_port, role, client, identity } = member;
    let ports = u64::from(*peer_port) << 32 | u64::from(*election_port) << 16 | u64::from(node) << 8;
    [
        text(host),
        ports | u64::from(*role == MemberRole::Observer),
        client.as_deref().map_or(0, text),
        identity.as_ref().map_or(0, |identity| bytes(identity)),
    ]
    .into_iter()
    .fold(0, mix)
}

fn text(text: &str) -> u64 {
    bytes(text.as_bytes())
}

fn bytes(bytes: &[u8]) -> u64 {
    mix(bytes.len() as u64, crc_fast::checksum(Crc64Nvme, bytes))
}

/// Mixes a word into a state, so that shifted copies of parts cannot cancel each other (the finisher of
/// splitmix64).
fn mix(state: u64, word: u64) -> u64 {
    let mut z = (state.rotate_left(29) ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Digests of recent batches, found by zxid.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    last: (i64, u64),
    noted: VecDeque<(i64, u64)>,
}

impl History {
    /// Records the digest just after the command of `zxid`.
    pub(super) fn seal(&mut self, zxid: i64, digest: u64) {
        self.last = (zxid, digest);
    }

    /// Ends a batch: its last zxid can be looked up from now on.
    pub(super) fn note(&mut self) {
        if self.noted.back() != Some(&self.last) {
            if self.noted.len() == AT_ZXIDS_MAX {
                self.noted.pop_front();
            }
            self.noted.push_back(self.last);
        }
    }

    pub(super) fn last(&self) -> (i64, u64) {
        self.last
    }

    pub(super) fn at(&self, zxid: i64) -> Option<u64> {
        if self.last.0 == zxid {
            return Some(self.last.1);
        }
        let found = self.noted.binary_search_by_key(&zxid, |(noted, _)| *noted).ok()?;
        Some(self.noted[found].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_and_found_by_zxid() {
        let mut history = History::default();
        for zxid in 0..3 * AT_ZXIDS_MAX as i64 {
            history.seal(zxid * 2, zxid as u64);
            history.note();
            history.note();
        }
        assert_eq!(history.noted.len(), AT_ZXIDS_MAX);
        let newest = 3 * AT_ZXIDS_MAX as i64 - 1;
        assert_eq!(history.at(newest * 2), Some(newest as u64));
        assert_eq!(history.at(newest * 2 - 2), Some(newest as u64 - 1));
        assert_eq!(history.at(newest * 2 - 1), None);
        assert_eq!(history.at(0), None, "forgotten");
    }
}
