//! The membership as replicated state.
//!
//! Owns the members, the reconfiguration that is under way, the members that are on their way out, and the command that
//! waits for the end of Raft's joint state. Never decides when anything of it happens: every step is a command of the
//! leader or of a client. It stays correct because each of the leader's commands may come twice or too late without harm: it
//! names what it is about, and does nothing where that is no longer so. Bounded by the node ids, of which there are 254,
//! and by one reconfiguration at a time.
//!
//! # The life of a reconfiguration
//!
//! 1. The client's request is ordered like any other. If [`super::plan_reconfig`] accepts it, it becomes
//!    [`MembershipState::pending`] and its result is [`Outcome::Deferred`]; otherwise it is answered with the error.
//! 2. Whoever leads sees it pending, makes the joining nodes learners, waits until enough of them are caught up, and changes the
//!    voters; [`MembershipCommand::Conclude`] rides in that entry ([`Machine::begin_reconfig`]) and takes effect when the joint
//!    state is left ([`Machine::finish_reconfig`]). If the time is over first: [`MembershipCommand::Refuse`].
//! 3. The request's result comes then, under its number in its node's stream. A new leader goes on where the old one was.
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

/// What the leader orders for the membership; see [`Op::Membership`].
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum MembershipCommand {
    /// The first leader of an ensemble names its members. Ignored where there are any.
    Bootstrap {
        /// Random number of the ensemble.
        cluster: [u8; 16],
        /// The members as configured.
        members: BTreeMap<u8, Member>,
    },
    /// A node's data directory is met for the first time. Ignored where another one is recorded.
    Identify {
        /// The node.
        node: u8,
        /// Identity of its directory.
        identity: [u8; 16],
    },
    /// A node has lost its data directory and comes with another one. Rides in the change that takes its vote.
    Adopt {
        /// The node.
        node: u8,
        /// Identity of the new directory.
        identity: [u8; 16],
    },
    /// The pending reconfiguration takes effect. Rides in the change of voters, or alone where they stay the same.
    Conclude {
        /// Its [`Pending::number`].
        number: u64,
    },
    /// No quorum of the new members was caught up in time: the pending reconfiguration ends with NewConfigNoQuorum.
    Refuse {
        /// Its [`Pending::number`].
        number: u64,
    },
    /// Nobody needs to talk to these former members any more. Rides in the change that drops them.
    Forget {
        /// The nodes.
        nodes: Vec<u8>,
    },
    /// The ensemble begins again with the data of one server, the only voter of the change in which this rides: whoever
    /// belongs to what was before is a stranger. An operator's step, see `consensus::refound`.
    Refound {
        /// The ensemble's new random number.
        cluster: [u8; 16],
        /// That server. An observer votes from now on.
        node: u8,
    },
}

impl MembershipCommand {
    /// As it goes into a batch.
    pub fn to_op(&self) -> Op {
        // Serializing to memory fails only where memory does.
        let body =
            rkyv::to_bytes::<rkyv::rancor::Error>(self).map(|bytes| bytes.to_vec()).unwrap_or_default();
        Op::Membership { body }
    }
}

/// A reconfiguration that is accepted and not concluded.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Counts the reconfigurations of the ensemble.
    pub number: u64,
    /// Node whose client asked.
    pub node: u8,
    /// Incarnation of that node.
    pub incarnation: u64,
    /// Number of the request in its stream.
    pub seq: u64,
    /// The members that are wanted; version and ensemble as they are now.
    pub members: Members,
}

/// What waits until Raft's joint state is left.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Joint {
    /// Time of the batch that came with the change.
    pub time_ms: i64,
    /// Bodies of its [`Op::Membership`] commands.
    pub bodies: Vec<Vec<u8>>,
}

/// The whole of it, as it stands in snapshots, too.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct MembershipState {
    /// Who belongs to the ensemble. Empty on a standalone node.
    pub members: Members,
    /// The reconfiguration under way.
    pub pending: Option<Pending>,
    /// Nodes that are learners without being members: removed, or joining in vain. They are still talked to, so that they
    /// hear of it.
    pub leaving: BTreeMap<u8, Member>,
    /// The command of the joint state.
    pub joint: Option<Joint>,
    /// Number of the last reconfiguration.
    pub number: u64,
}

impl MembershipState {
    /// Everybody with whom there are links: members, those that join, those that leave.
    pub fn linked(&self) -> Members {
        let mut all = self.members.clone();
        let joining = self.pending.iter().flat_map(|pending| &pending.members.members);
        for (node, member) in joining.chain(&self.leaving) {
            all.members.entry(*node).or_insert_with(|| member.clone());
        }
        all
    }

    /// Whether a node with the directory `identity` is somebody else than the member of this number: nothing of Raft goes to
    /// it or is taken from it while the node has a vote.
    pub fn is_foreign(&self, node: u8, identity: &[u8; 16]) -> bool {
        self.recorded(node).is_some_and(|known| known != identity)
    }

    /// The recorded identity of a node's directory.
    pub fn recorded(&self, node: u8) -> Option<&[u8; 16]> {
        let joining = self.pending.iter().find_map(|pending| pending.members.get(node));
        self.members.get(node).or(joining)?.identity.as_ref()
    }
}

/// What a change of the membership means for whoever runs the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MembershipEffect {
    /// Links, files and counters follow [`MembershipState`] anew.
    pub changed: bool,
    /// Members that are members no more. A node that finds itself here stops.
    pub removed: Vec<u8>,
    /// Nodes whose streams begin anew: they come with another data directory, whose starts are counted from one again.
    pub anew: Vec<u8>,
}

impl Machine {
    /// The members. Empty on a standalone node.
    pub fn members(&self) -> &Members {
        &self.membership.members
    }

    /// All that is replicated about the membership.
    pub fn membership(&self) -> &MembershipState {
        &self.membership
    }

    /// Puts the membership of a snapshot beside the machine of its image.
    pub fn restore_membership(&mut self, state: MembershipState) {
        self.membership = state;
        self.sums.set_membership(&self.membership);
    }

    /// The joint state is entered: keeps what came with the change until it is left.
    pub fn begin_reconfig(&mut self, batch: &ArchivedBatch) {
        let bodies = batch.commands.iter().filter_map(|command| match &command.op {
            ArchivedOp::Membership { body } if command.node == NO_STREAM => Some(body.to_vec()),
            _ => None,
        });
        self.membership.joint = Some(Joint { time_ms: batch.time_ms.to_native(), bodies: bodies.collect() });
        self.sums.set_membership(&self.membership);
    }

    /// The joint state is left, by an entry of `term`: what was kept takes effect.
    pub fn finish_reconfig(&mut self, tree: &mut Writer, term: u64, out: &mut Applied) {
        let Some(Joint { time_ms, bodies }) = self.membership.joint.take() else { return };
        self.sums.set_membership(&self.membership);
        for body in bodies {
            self.apply_membership(tree, term, time_ms, &body, out);
        }
        self.history.note();
    }

    /// One command of the leader. What cannot be read is nobody's command and does nothing, on every node alike.
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

    /// Takes no zxid: like in ZooKeeper the first version is the beginning of the leader's epoch.
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

    /// Accepts a reconfiguration that was validated: its result comes later.
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
            // A member of old perhaps, with another disk.
            self.streams.begin_anew(*joining, &mut self.sums);
            out.membership.anew.push(*joining);
        }
        state.number += 1;
        state.pending = Some(Pending { number: state.number, node, incarnation, seq, members });
        self.sums.set_membership(&self.membership);
        out.membership.changed = true;
    }

    /// Whether a reconfiguration may begin, apart from what it asks for.
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
        // Below /zookeeper nothing counts towards the tree's digest, and the ACL stays.
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

/// An archive inside of another one stands wherever there was room.
fn aligned(body: &[u8]) -> rkyv::util::AlignedVec {
    let mut bytes = rkyv::util::AlignedVec::with_capacity(body.len());
    bytes.extend_from_slice(body);
    bytes
}
