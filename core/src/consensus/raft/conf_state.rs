//! Voters and learners as Raft counts them, and the arithmetic of a change.
//!
//! Owns the joint membership as a plain value, and its form in the log and in headers of snapshots. Never
//! decides which node may join, and never sends protobuf: the crate's form is made in memory. Correct because
//! a change follows from the membership and the target alone. So every node that applies the same entries
//! computes the same membership, running or in replay.

use crate::members::NODE_MAX;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use rkyv::rancor::BoxedError;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

/// Alignment of archives, bytes.
const ARCHIVE_ALIGN: usize = 16;

/// Voters and learners as Raft counts them. The membership is joint while `outgoing` is not empty.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Voters; the incoming half while the membership is joint.
    pub voters: Vec<u64>,
    /// Nodes that follow and do not vote.
    pub learners: Vec<u64>,
    /// The outgoing half of a joint membership: voters from before, which still vote.
    pub outgoing: Vec<u64>,
    /// Voters of `outgoing` that become learners when the joint membership is left.
    pub learners_next: Vec<u64>,
    /// Whether the leader leaves the joint membership by itself.
    pub auto_leave: bool,
}

/// The target of a change.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// All voters after the change.
    pub voters: Vec<u64>,
    /// All learners after the change.
    pub learners: Vec<u64>,
}

/// Payload of a membership entry. An empty payload leaves the joint membership.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct Change {
    target: Target,
    command: Vec<u8>,
}

/// The form in snapshots of a standalone server from before ensembles existed.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct Standalone {
    voters: Vec<u64>,
    learners: Vec<u64>,
}

/// The effect of a membership entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MembershipStep {
    /// The joint membership was entered. The command in the entry takes effect when it is left.
    Entered {
        /// An archived batch, or nothing.
        command: Vec<u8>,
    },
    /// The joint membership was left: the change is done.
    Left,
}

/// Why a membership is impossible, or cannot follow from another one.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The membership has no voter.
    #[error("a group needs at least one voter")]
    NoVoters,
    /// A number outside the range of node ids.
    #[error("{0} is not a node number (1 to {NODE_MAX})")]
    Node(u64),
    /// A node is listed twice.
    #[error("node {0} is named twice")]
    Twice(u64),
    /// A change begins while another one is under way, or ends while none is.
    #[error("a change of membership cannot begin or end now: it is joint: {joint}")]
    Order {
        /// Whether a change is under way.
        joint: bool,
    },
    /// The payload cannot be decoded.
    #[error("not a change of membership: {0}")]
    Undecodable(String),
}

impl Target {
    /// Checks that the target has a voter and lists each node once.
    pub fn check(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        distinct(self.voters.iter().chain(&self.learners))
    }
}

impl Membership {
    /// A membership of these voters and learners that is not joint.
    pub fn new(voters: Vec<u64>, learners: Vec<u64>) -> Self {
        Self { voters: sorted(voters), learners: sorted(learners), ..Self::default() }
    }

    /// Whether a decision needs two majorities.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Voters of which a majority is needed even if the change under way fails: the outgoing half while
    /// joint, else all.
    pub fn settled_voters(&self) -> &[u64] {
        if self.is_joint() { &self.outgoing } else { &self.voters }
    }

    /// Whether `node` is the only voter.
    pub fn is_sole_voter(&self, node: u64) -> bool {
        self.voters == [node] && (self.outgoing.is_empty() || self.outgoing == [node])
    }

    /// Whether `node` is the only member.
    pub fn is_alone(&self, node: u64) -> bool {
        self.is_sole_voter(node) && self.learners.is_empty() && self.learners_next.is_empty()
    }

    /// Whether the node is a voter or a learner, in either half.
    pub fn contains(&self, node: u64) -> bool {
        [&self.voters, &self.learners, &self.outgoing].iter().any(|part| part.contains(&node))
    }

    /// All voters and learners of both halves, ascending.
    pub fn nodes(&self) -> Vec<u64> {
        let mut all = [&self.voters[..], &self.learners, &self.outgoing].concat();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Checks that Raft can start from this membership.
    pub fn check(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        distinct(self.voters.iter().chain(&self.learners))?;
        distinct(self.outgoing.iter().chain(&self.learners))?;
        distinct(self.voters.iter().chain(&self.learners_next))?;
        match self.learners_next.iter().find(|node| !self.outgoing.contains(node)) {
            Some(&node) => Err(MembershipError::Node(node)),
            None if self.auto_leave && !self.is_joint() => Err(MembershipError::Order { joint: false }),
            None => Ok(()),
        }
    }

    /// The joint membership between this one and `target`.
    pub fn enter(&self, target: &Target) -> Result<Self, MembershipError> {
        target.check()?;
        if self.is_joint() {
            return Err(MembershipError::Order { joint: true });
        }
        let (later, now): (Vec<u64>, Vec<u64>) =
            target.learners.iter().partition(|node| self.voters.contains(node));
        Ok(Self {
            voters: sorted(target.voters.clone()),
            learners: sorted(now),
            outgoing: self.voters.clone(),
            learners_next: sorted(later),
            auto_leave: true,
        })
    }

    /// The membership after the joint one is left.
    pub fn leave(&self) -> Result<Self, MembershipError> {
        if !self.is_joint() {
            return Err(MembershipError::Order { joint: false });
        }
        Ok(Self::new(self.voters.clone(), [&self.learners[..], &self.learners_next].concat()))
    }

    /// Applies the payload of a membership entry.
    pub fn apply(&mut self, payload: &[u8]) -> Result<MembershipStep, MembershipError> {
        match decode(payload)? {
            Some((target, command)) => {
                *self = self.enter(&target)?;
                Ok(MembershipStep::Entered { command })
            }
            None => {
                *self = self.leave()?;
                Ok(MembershipStep::Left)
            }
        }
    }

    /// The form in a header of a snapshot.
    pub fn encode(&self) -> Vec<u8> {
        archive(self)
    }

    /// Decodes the bytes of [`Membership::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let found = unarchive::<Self>(bytes).or_else(|e| match unarchive::<Standalone>(bytes) {
            // The old form was only ever written for a single voter.
            Ok(old) if old.voters.len() == 1 && old.learners.is_empty() && bytes == archive(&old) => {
                Ok(Self::new(old.voters, Vec::new()))
            }
            _ => Err(e),
        })?;
        found.check()?;
        Ok(found)
    }

    /// The form of the `raft` crate.
    pub(in crate::consensus) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }

    /// The inverse of [`Membership::conf_state`]; the crate keeps no particular order.
    pub(in crate::consensus) fn from_conf_state(state: ConfState) -> Self {
        Self {
            voters: sorted(state.voters),
            learners: sorted(state.learners),
            outgoing: sorted(state.voters_outgoing),
            learners_next: sorted(state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    /// The change to `target` in the form of the `raft` crate: always joint, left by the leader itself.
    pub(in crate::consensus) fn conf_change(&self, target: &Target) -> ConfChangeV2 {
        let single = |kind, node: u64| ConfChangeSingle {
            change_type: kind,
            node_id: node,
            ..ConfChangeSingle::default()
        };
        let learners = target.learners.iter().filter(|node| !self.learners.contains(node));
        let voters = target.voters.iter().filter(|node| !self.voters.contains(node));
        let known = self.voters.iter().chain(&self.learners);
        let gone = known.filter(|node| !target.voters.contains(node) && !target.learners.contains(node));
        let mut changes: Vec<_> = voters
            .map(|&node| single(ConfChangeType::AddNode, node))
            .chain(learners.map(|&node| single(ConfChangeType::AddLearnerNode, node)))
            .chain(gone.map(|&node| single(ConfChangeType::RemoveNode, node)))
            .collect();
        if changes.is_empty() {
            // The crate reads an empty change as the end of a joint membership. It ignores node 0.
            changes.push(single(ConfChangeType::AddNode, 0));
        }
        ConfChangeV2 {
            transition: ConfChangeTransition::Implicit,
            changes: changes.into(),
            ..ConfChangeV2::default()
        }
    }
}

/// Encodes the payload of an entry that changes the membership and carries a command.
pub(in crate::consensus) fn encode(target: &Target, command: Vec<u8>) -> Vec<u8> {
    archive(&Change { target: target.clone(), command })
}

/// Decodes the bytes of [`encode`]. `None`: the joint membership is left.
pub(in crate::consensus) fn decode(payload: &[u8]) -> Result<Option<(Target, Vec<u8>)>, MembershipError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let change: Change = unarchive(payload)?;
    Ok(Some((change.target, change.command)))
}

/// The command in an entry that changes the membership. `None`: the joint membership is left. For the
/// simulation's reading of the log.
#[cfg(any(test, feature = "sim"))]
pub fn change_command(payload: &[u8]) -> Result<Option<Vec<u8>>, MembershipError> {
    Ok(decode(payload)?.map(|(_, command)| command))
}

fn archive<T>(value: &T) -> Vec<u8>
where
    T: for<'a> Serialize<
        rkyv::api::high::HighSerializer<
            AlignedVec,
            rkyv::ser::allocator::ArenaHandle<'a>,
            rkyv::rancor::Error,
        >,
    >,
{
    match rkyv::to_bytes::<rkyv::rancor::Error>(value) {
        Ok(bytes) => bytes.into_vec(),
        Err(e) => unreachable!("plain lists of numbers always have an archive: {e}"),
    }
}

fn unarchive<T>(bytes: &[u8]) -> Result<T, MembershipError>
where
    T: Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, BoxedError>>
        + Deserialize<T, rkyv::api::high::HighDeserializer<BoxedError>>,
{
    let mut aligned = AlignedVec::<ARCHIVE_ALIGN>::new();
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, BoxedError>(&aligned).map_err(|e| MembershipError::Undecodable(e.to_string()))
}

fn sorted(mut nodes: Vec<u64>) -> Vec<u64> {
    nodes.sort_unstable();
    nodes
}

fn distinct<'a>(nodes: impl Iterator<Item = &'a u64>) -> Result<(), MembershipError> {
    let mut seen = [false; NODE_MAX as usize + 1];
    for &node in nodes {
        match seen.get_mut(node as usize) {
            Some(known) if node > 0 => {
                if std::mem::replace(known, true) {
                    return Err(MembershipError::Twice(node));
                }
            }
            _ => return Err(MembershipError::Node(node)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Membership {
        Membership::new(vec![1, 2, 3], vec![4])
    }

    #[test]
    fn a_change_is_joint_and_ends_at_the_target() {
        let target = Target { voters: vec![4, 2, 5], learners: vec![3, 6] };
        let joint = start().enter(&target).unwrap();
        assert_eq!(joint.voters, [2, 4, 5]);
        assert_eq!(
            (&joint.outgoing[..], &joint.learners[..], &joint.learners_next[..]),
            (&[1, 2, 3][..], &[6][..], &[3][..])
        );
        assert_eq!(joint.enter(&target), Err(MembershipError::Order { joint: true }));
        assert_eq!(joint.settled_voters(), [1, 2, 3]);
        assert_eq!(joint.leave(), Ok(Membership::new(vec![2, 4, 5], vec![3, 6])));
        assert_eq!(joint.leave().unwrap().settled_voters(), [2, 4, 5]);
        assert_eq!(start().leave(), Err(MembershipError::Order { joint: false }));
    }

    #[test]
    fn impossible_memberships_are_refused() {
        let refused = |voters: &[u64], learners: &[u64]| {
            let target = Target { voters: voters.to_vec(), learners: learners.to_vec() };
            start().enter(&target).unwrap_err()
        };
        assert_eq!(refused(&[], &[1]), MembershipError::NoVoters);
        assert_eq!(refused(&[1, 1], &[]), MembershipError::Twice(1));
        assert_eq!(refused(&[1], &[1]), MembershipError::Twice(1));
        assert_eq!(refused(&[0], &[]), MembershipError::Node(0));
        assert_eq!(refused(&[255], &[]), MembershipError::Node(255));
        assert_eq!(refused(&[u64::MAX], &[]), MembershipError::Node(u64::MAX));
    }

    #[test]
    fn every_form_is_read_back_and_nothing_else_is() {
        let joint = start().enter(&Target { voters: vec![1], learners: Vec::new() }).unwrap();
        for membership in [start(), joint] {
            let bytes = membership.encode();
            assert_eq!(Membership::decode(&bytes), Ok(membership));
            for cut in 0..bytes.len() {
                assert!(Membership::decode(&bytes[..cut]).is_err());
            }
        }
        let old = archive(&Standalone { voters: vec![1], learners: Vec::new() });
        assert_eq!(Membership::decode(&old), Ok(Membership::new(vec![1], Vec::new())));
        let change = encode(&Target { voters: vec![7], learners: Vec::new() }, b"command".to_vec());
        assert_eq!(decode(&change).unwrap().unwrap().1, b"command");
        assert!(decode(&change[1..]).is_err());
        assert_eq!(decode(&[]), Ok(None));
    }
}
