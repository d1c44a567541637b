//! The membership as replicated state.
//!
//! Owns the members, the pending reconfiguration, former members that are not dropped yet, and the commands
//! that wait for the end of Raft's joint state. Bounded by the 254 node ids and by one reconfiguration at a
//! time.
//! Never decides when a step happens: each step is a command of the leader or of a client.
//! Correct because a repeated or late command of the leader does no harm. Each command names what it applies
//! to, and has no effect where that is no longer the case.
//!
//! # The life of a reconfiguration
//!
//! 1. The client's request is ordered like any other. If [`super::plan_reconfig`] accepts it, it becomes
//!    [`MembershipState::pending`] with the result [`Outcome::Deferred`]. Otherwise the result is the
//!    error.
//! 2. The leader makes the joining nodes learners, waits until enough of them have caught up, and changes
//!    the voters. [`MembershipCommand::Conclude`] travels in that entry ([`Machine::begin_reconfig`]) and
//!    takes effect when Raft leaves the joint state ([`Machine::finish_reconfig`]). If the time limit
//!    passes first, the leader orders [`MembershipCommand::Refuse`].
//! 3. Then the request gets its result, under its number in its node's stream. After a change of leader,
//!    the new leader continues from the replicated state.
#![forbid(unsafe_code)]

use super::write::Code;
use super::{Applied, CommandResult, Machine};
use crate::command::{ArchivedBatch, ArchivedOp, NO_STREAM, Op};
use crate::commit::{Change, ChangeKind, Outcome};
use crate::members::{Member, MemberRole, Members};
use crate::path;
use crate::tree::Writer;
use paddock_transport::wire::{Response, error};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A command of the leader about the membership; see [`Op::Membership`].
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum MembershipCommand {
    /// Names the members of a new ensemble. Ignored where there are members already.
    Bootstrap {
        /// Random number of the ensemble.
        cluster: [u8; 16],
        /// Members as configured on the first leader.
        members: BTreeMap<u8, Member>,
    },
    /// Records the data directory of a node seen for the first time. Ignored where an identity is recorded.
    Identify {
        node: u8,
        /// Identity of the node's data directory.
        identity: [u8; 16],
    },
    /// Replaces the recorded identity of a node that lost its data directory. Travels in the change that
    /// removes its vote.
    Adopt {
        node: u8,
        /// Identity of the new data directory.
        identity: [u8; 16],
    },
    /// Puts the pending reconfiguration into effect. Travels in the change of voters, or alone where the
    /// voters stay the same.
    Conclude {
        /// [`PendingReconfig::number`] of the reconfiguration.
        number: u64,
    },
    /// Ends the pending reconfiguration with NewConfigNoQuorum: no quorum of the new members caught up in
    /// time.
    Refuse {
        /// [`PendingReconfig::number`] of the reconfiguration.
        number: u64,
    },
    /// Drops former members that no node needs to reach any more. Travels in the change that removes them as
    /// learners.
    Forget { nodes: Vec<u8> },
    /// Makes a new ensemble from the data of one server, the only voter of the change that carries this
    /// command. Nodes of the former ensemble are rejected from then on. Written by an operator's command,
    /// see `consensus::force_new_ensemble`.
    Refound {
        /// Random number of the new ensemble.
        cluster: [u8; 16],
        /// The only voter. An observer becomes a participant.
        node: u8,
    },
}

impl MembershipCommand {
    /// The operation that carries this command in a batch.
    pub fn to_op(&self) -> Op {
        // Serializing into memory fails only when memory is exhausted.
        let body =
            rkyv::to_bytes::<rkyv::rancor::Error>(self).map(|bytes| bytes.to_vec()).unwrap_or_default();
        Op::Membership { body }
    }
}

/// A reconfiguration that was accepted and has not taken effect.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PendingReconfig {
    /// Number of the reconfiguration, counted from 1.
    pub number: u64,
    /// Node that serves the client.
    pub node: u8,
    /// Incarnation of `node` at the request.
    pub incarnation: u64,
    /// Number of the request in the node's stream.
    pub seq: u64,
    /// Members after the change, with the present version and ensemble number.
    pub members: Members,
}

/// Commands that take effect when Raft leaves the joint state.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Joint {
    /// Time of the batch that entered the joint state, ms.
    pub time_ms: i64,
    /// Bodies of its [`Op::Membership`] commands.
    pub bodies: Vec<Vec<u8>>,
}

/// The replicated membership, also as stored in snapshots.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct MembershipState {
    /// Empty on a standalone node.
    pub members: Members,
    pub pending: Option<PendingReconfig>,
    /// Learners that are not members: removed, or given up while joining. They stay connected until they
    /// learn of it.
    pub leaving: BTreeMap<u8, Member>,
    /// Present while Raft is in a joint state.
    pub joint: Option<Joint>,
    /// Number of the last reconfiguration.
    pub number: u64,
}

impl MembershipState {
    /// Nodes that this node keeps links to: members, joining nodes and leaving nodes.
    pub fn linked(&self) -> Members {
        let mut all = self.members.clone();
        let joining = self.pending.iter().flat_map(|pending| &pending.members.members);
        for (node, member) in joining.chain(&self.leaving) {
            all.members.entry(*node).or_insert_with(|| member.clone());
        }
        all
    }

    /// Whether `identity` is not the recorded data directory of the member `node`. While the node has a
    /// vote, Raft messages to and from a foreign directory are dropped.
    pub fn is_foreign(&self, node: u8, identity: &[u8; 16]) -> bool {
        self.recorded(node).is_some_and(|known| known != identity)
    }

    /// The recorded identity of a node's data directory.
    pub fn recorded(&self, node: u8) -> Option<&[u8; 16]> {
        let joining = self.pending.iter().find_map(|pending| pending.members.get(node));
        self.members.get(node).or(joining)?.identity.as_ref()
    }
}

/// Effects of a membership change on the rest of the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MembershipEffect {
    /// Links, the dynamic file and counters must be updated from [`MembershipState`].
    pub changed: bool,
    /// Nodes that ceased to be members. A node that finds itself here stops.
    pub removed: Vec<u8>,
    /// Nodes with a new data directory, which counts its starts from 1: their command streams are reset.
    pub anew: Vec<u8>,
}

impl Machine {
    /// Empty on a standalone node.
    pub fn members(&self) -> &Members {
        &self.membership.members
    }

    /// The complete replicated membership state.
    pub fn membership(&self) -> &MembershipState {
        &self.membership
    }

    /// Restores the membership of a snapshot. [`Machine::from_image`] does not.
    pub fn restore_membership(&mut self, state: MembershipState) {
        self.membership = state;
        self.sums.set_membership(&self.membership);
    }

    /// Raft enters the joint state: keeps the commands of `batch` until the joint state is left.
    pub fn begin_reconfig(&mut self, batch: &ArchivedBatch) {
        let bodies = batch.commands.iter().filter_map(|command| match &command.op {
            ArchivedOp::Membership { body } if command.node == NO_STREAM => Some(body.to_vec()),
            _ => None,
        });
        self.membership.joint = Some(Joint { time_ms: batch.time_ms.to_native(), bodies: bodies.collect() });
        self.sums.set_membership(&self.membership);
    }

    /// Raft leaves the joint state with an entry of `term`: the kept commands take effect.
    pub fn finish_reconfig(&mut self, tree: &mut Writer, term: u64, out: &mut Applied) {
        let Some(Joint { time_ms, bodies }) = self.membership.joint.take() else { return };
        self.sums.set_membership(&self.membership);
        for body in bodies {
            self.apply_membership(tree, term, time_ms, &body, out);
        }
        self.history.note();
    }

    /// Applies one command of the leader. A body that cannot be decoded has no effect, on every node alike.
    pub(super) fn apply_membership(
        &mut self,
        tree: &mut Writer,
        term: u64,
        time_ms: i64,
        body: &[u8],
        out: &mut Applied,
    ) {
        let Ok(command) = rkyv::from_bytes::<MembershipCommand, rkyv::rancor::Error>(&aligned(body)) else {
            return;
        };
        let before = self.zxid;
        match command {
            MembershipCommand::Bootstrap { cluster, members } => {
                self.bootstrap(tree, term, time_ms, cluster, members, out);
            }
            MembershipCommand::Identify { node, identity } => self.identify(node, identity, false, out),
            MembershipCommand::Adopt { node, identity } => self.identify(node, identity, true, out),
            MembershipCommand::Conclude { number } => self.conclude(tree, term, time_ms, number, out),
            MembershipCommand::Refuse { number } => self.refuse(term, number, out),
            MembershipCommand::Forget { nodes } => {
                self.membership.leaving.retain(|node, _| !nodes.contains(node));
                out.membership.changed = true;
            }
            MembershipCommand::Refound { cluster, node } => {
                self.refound(tree, term, time_ms, cluster, node, out);
            }
        }
        self.sums.set_membership(&self.membership);
        if self.zxid != before {
            self.seal();
        }
    }

    /// Assigns no zxid: as in ZooKeeper, the first version is the beginning of the leader's epoch.
    fn bootstrap(
        &mut self,
        tree: &mut Writer,
        term: u64,
        time_ms: i64,
        cluster: [u8; 16],
        members: BTreeMap<u8, Member>,
        out: &mut Applied,
    ) {
        if !self.membership.members.members.is_empty() {
            return;
        }
        let version = ((term << 32) as i64).max(self.zxid);
        self.membership.members = Members { cluster, version, members };
        self.write_config(tree, version, time_ms, out);
    }

    fn identify(&mut self, node: u8, identity: [u8; 16], replace: bool, out: &mut Applied) {
        let state = &mut self.membership;
        let joining = state.pending.as_mut().and_then(|pending| pending.members.members.get_mut(&node));
        for member in [state.members.members.get_mut(&node), joining].into_iter().flatten() {
            if replace || member.identity.is_none() {
                member.identity = Some(identity);
                out.membership.changed = true;
            }
        }
        if replace {
            self.streams.begin_anew(node, &mut self.sums);
            out.membership.anew.push(node);
        }
    }

    fn conclude(&mut self, tree: &mut Writer, term: u64, time_ms: i64, number: u64, out: &mut Applied) {
        let Some(pending) = self.membership.pending.take_if(|pending| pending.number == number) else {
            return;
        };
        let zxid = self.take_zxid(term);
        let state = &mut self.membership;
        let mut members = pending.members.members;
        for (node, member) in std::mem::take(&mut state.members.members) {
            match members.get_mut(&node) {
                Some(stays) => stays.identity = member.identity,
                None => {
                    state.leaving.insert(node, member);
                    out.membership.removed.push(node);
                }
            }
        }
        state.leaving.retain(|node, _| !members.contains_key(node));
        state.members.members = members;
        state.members.version = zxid;
        self.write_config(tree, zxid, time_ms, out);
        let mut record = Vec::new();
        if let Some(znode) = tree.get(path::CONFIG) {
            Response::Data(znode.data(), crate::client_stat::wire_stat(&znode.stat())).put(&mut record);
        }
        self.answer_deferred(pending.node, pending.incarnation, pending.seq, Outcome::Ok(record), out);
    }

    fn refound(
        &mut self,
        tree: &mut Writer,
        term: u64,
        time_ms: i64,
        cluster: [u8; 16],
        node: u8,
        out: &mut Applied,
    ) {
        self.membership.members.cluster = cluster;
        out.membership.changed = true;
        let member = self.membership.members.members.get_mut(&node);
        let Some(observer) = member.filter(|m| m.role == MemberRole::Observer) else { return };
        observer.role = MemberRole::Participant;
        let zxid = self.take_zxid(term);
        self.membership.members.version = zxid;
        self.write_config(tree, zxid, time_ms, out);
    }

    fn refuse(&mut self, term: u64, number: u64, out: &mut Applied) {
        let Some(pending) = self.membership.pending.take_if(|pending| pending.number == number) else {
            return;
        };
        self.take_zxid(term);
        for (node, member) in pending.members.members {
            if self.membership.members.get(node).is_none() {
                self.membership.leaving.insert(node, member);
            }
        }
        out.membership.changed = true;
        let outcome = Outcome::Err(error::NEW_CONFIG_NO_QUORUM);
        self.answer_deferred(pending.node, pending.incarnation, pending.seq, outcome, out);
    }

    /// Accepts a validated reconfiguration. Its result follows when the reconfiguration ends.
    pub(super) fn defer_reconfig(
        &mut self,
        node: u8,
        incarnation: u64,
        seq: u64,
        members: Members,
        out: &mut Applied,
    ) {
        let state = &mut self.membership;
        for joining in members.members.keys().filter(|node| state.members.get(**node).is_none()) {
            // A joining node may be a former member with a new data directory.
            self.streams.begin_anew(*joining, &mut self.sums);
            out.membership.anew.push(*joining);
        }
        state.number += 1;
        state.pending = Some(PendingReconfig { number: state.number, node, incarnation, seq, members });
        self.sums.set_membership(&self.membership);
        out.membership.changed = true;
    }

    /// Whether a reconfiguration may begin, whatever it requests.
    pub(super) fn may_reconfigure(&self) -> Result<(), Code> {
        match &self.membership {
            state if state.members.members.is_empty() => Err(error::UNIMPLEMENTED),
            state if state.pending.is_some() => Err(error::RECONFIG_IN_PROGRESS),
            _ => Ok(()),
        }
    }

    fn write_config(&mut self, tree: &mut Writer, zxid: i64, time_ms: i64, out: &mut Applied) {
        out.membership.changed = true;
        let text = self.membership.members.config_text();
        // Znodes below /zookeeper are not part of the tree's digest, and the ACL stays.
        tree.set_data(path::CONFIG, Some(text.as_bytes()), zxid, time_ms).expect("reserved: always there");
        tree.set_version(path::CONFIG, -1).expect("reserved: always there");
        let Some(acl) = tree.get(path::CONFIG).map(|znode| znode.acl().clone()) else { return };
        let kind = ChangeKind::DataChanged;
        out.changes.push(Change { zxid, kind, path: Arc::from(path::CONFIG), acl, parent_acl: None });
    }

    fn answer_deferred(&self, node: u8, incarnation: u64, seq: u64, outcome: Outcome, out: &mut Applied) {
        out.results.push(CommandResult { node, incarnation, seq, zxid: self.zxid, outcome });
    }
}

/// Copies an archive that lies unaligned inside another archive.
fn aligned(body: &[u8]) -> rkyv::util::AlignedVec {
    let mut bytes = rkyv::util::AlignedVec::with_capacity(body.len());
    bytes.extend_from_slice(body);
    bytes
}
