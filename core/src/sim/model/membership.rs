//! The ensemble's members, and the leader's steps of a reconfiguration.
//!
//! Owns the members, the accepted but not concluded reconfiguration, and the commands that wait until
//! Raft's joint state is left.
//!
//! Never knows why the leader takes a step.
//!
//! Correct for the forms of `reconfig` that the workload sends: servers by their lines, numbers to remove,
//! or all servers at once.

use super::access::allows;
use super::{ANEW, By, Change, ChangeKind, Code, Done, Model, WriteOutcome, batch_of};
use crate::command::{Command, NO_STREAM, Op, policy};
use crate::consensus::change_command;
use crate::machine::MembershipCommand;
use crate::members::{Member, Members, parse_assignment};
use paddock_transport::wire::{DecodeError, Request, Response, error, perms};
use std::collections::BTreeMap;

/// See the module doc.
#[derive(Default)]
pub struct Ensemble {
    /// The members, with the identities of their directories; empty on a standalone node.
    pub members: Members,
    /// The accepted reconfiguration: its number, the write that asked for it, and the new members.
    pending: Option<(u64, u64, BTreeMap<u8, Member>)>,
    /// Time and bodies of the commands that take effect when the joint state is left.
    joint: Option<(i64, Vec<Vec<u8>>)>,
    number: u64,
    /// Zxids of the reconfigurations that took effect, in order.
    pub versions: Vec<i64>,
}

impl Ensemble {
    /// Whether the node's directory is known, so that another directory in its place would be noticed.
    pub fn knows(&self, node: u8) -> bool {
        self.members.get(node).is_some_and(|member| member.identity.is_some())
    }

    /// Whether a reconfiguration is in progress.
    pub fn is_changing(&self) -> bool {
        self.pending.is_some() || self.joint.is_some()
    }

    /// Whether the node is a member, or is about to become one.
    pub fn wants(&self, node: u8) -> bool {
        let joining = self.pending.as_ref().is_some_and(|(.., members)| members.contains_key(&node));
        joining || self.members.get(node).is_some()
    }
}

impl Model {
    /// Applies an entry that changes the voters. Commands in it wait for the end of the joint state.
    pub(super) fn change_voters(
        &mut self,
        term: u64,
        payload: &[u8],
        done: &mut Vec<Done>,
    ) -> Result<(), String> {
        match change_command(payload).map_err(|e| e.to_string())? {
            Some(command) if command.is_empty() => {}
            Some(command) => {
                let batch = batch_of(&command)?;
                let bodies = batch.commands.into_iter().filter_map(|command| match command.op {
                    Op::Membership { body } if command.node == NO_STREAM => Some(body),
                    _ => None,
                });
                self.ensemble.joint = Some((batch.time_ms, bodies.collect()));
            }
            None => {
                if let Some((time_ms, bodies)) = self.ensemble.joint.take() {
                    for body in bodies {
                        self.membership(term, time_ms, &body, done)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies one of the leader's steps.
    pub(super) fn membership(
        &mut self,
        term: u64,
        time_ms: i64,
        body: &[u8],
        done: &mut Vec<Done>,
    ) -> Result<(), String> {
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(body);
        let command = rkyv::from_bytes::<MembershipCommand, rkyv::rancor::Error>(&aligned);
        match command.map_err(|e| e.to_string())? {
            MembershipCommand::Bootstrap { cluster, members } if self.ensemble.members.members.is_empty() => {
                let version = ((term << 32) as i64).max(self.zxid);
                self.ensemble.members = Members { cluster, version, members };
                self.write_config(version, time_ms);
            }
            MembershipCommand::Identify { node, identity } => self.identify(node, identity, false),
            MembershipCommand::Adopt { node, identity } => self.identify(node, identity, true),
            MembershipCommand::Conclude { number } => {
                return self.conclude(term, time_ms, number, done);
            }
            MembershipCommand::Refuse { number } => {
                let Some((_, op, wanted)) = self.ensemble.pending.take_if(|pending| pending.0 == number)
                else {
                    return Ok(());
                };
                let strangers = wanted.into_keys().filter(|node| self.ensemble.members.get(*node).is_none());
                done.push(Done::Refused { strangers: strangers.collect() });
                let zxid = self.take_zxid(term);
                let err = error::NEW_CONFIG_NO_QUORUM;
                return self.conclude_write(op, WriteOutcome { zxid, err, body: Vec::new() });
            }
            // Only an operator issues this command, after the loss of a majority. The simulation has no
            // such case.
            MembershipCommand::Refound { .. } => {
                return Err("the simulation forces no new ensemble".to_owned());
            }
            MembershipCommand::Bootstrap { .. } | MembershipCommand::Forget { .. } => {}
        }
        Ok(())
    }

    fn identify(&mut self, node: u8, identity: [u8; 16], replace: bool) {
        let Ensemble { members, pending, .. } = &mut self.ensemble;
        let joining = pending.as_mut().and_then(|(.., members)| members.get_mut(&node));
        for member in [members.members.get_mut(&node), joining].into_iter().flatten() {
            if replace || member.identity.is_none() {
                member.identity = Some(identity);
            }
        }
        if replace {
            self.begin_anew(node);
        }
    }

    fn begin_anew(&mut self, node: u8) {
        if let Some(stream) = self.streams.get_mut(&node) {
            *stream = ANEW;
        }
    }

    fn conclude(&mut self, term: u64, time_ms: i64, number: u64, done: &mut Vec<Done>) -> Result<(), String> {
        let pending = self.ensemble.pending.take_if(|pending| pending.0 == number);
        let Some((_, op, mut wanted)) = pending else { return Ok(()) };
        let zxid = self.take_zxid(term);
        let mut removed = Vec::new();
        for (node, member) in std::mem::take(&mut self.ensemble.members.members) {
            match wanted.get_mut(&node) {
                Some(stays) => stays.identity = member.identity,
                None => removed.push(node),
            }
        }
        self.ensemble.members.members = wanted;
        self.ensemble.members.version = zxid;
        self.ensemble.versions.push(zxid);
        self.write_config(zxid, time_ms);
        let mut body = Vec::new();
        if let Ok(znode) = self.znode(CONFIG) {
            Response::Data(znode.data.as_deref(), znode.wire_stat()).put(&mut body);
        }
        done.push(Done::Members { removed });
        self.conclude_write(op, WriteOutcome { zxid, err: 0, body })
    }

    fn write_config(&mut self, zxid: i64, time_ms: i64) {
        let Ok(mut znode) = self.znode(CONFIG) else { return };
        let text = self.ensemble.members.config_text();
        znode.stat.data_length = text.len() as i32;
        (znode.stat.mzxid, znode.stat.mtime, znode.stat.version) = (zxid, time_ms, -1);
        znode.data = Some(text.into_bytes());
        let acl = znode.acl.clone();
        self.put(CONFIG, Some(znode), zxid);
        let (kind, path) = (ChangeKind::Changed, CONFIG.to_owned());
        self.changes.push(Change { zxid, kind, path, acl, parent_acl: None });
    }

    /// Whether a reconfiguration is accepted. It takes no zxid before it is concluded.
    pub(super) fn defer(
        &mut self,
        policy: u32,
        command: &Command,
        op: u64,
        request: &Result<Request<'_>, DecodeError>,
    ) -> bool {
        let by = By { session: command.session, zxid: 0, time_ms: 0, who: &command.identities };
        let Ok(request) = request else { return false };
        let Ok(wanted) = self.judge(policy, &by, request) else { return false };
        let strangers = wanted.keys().filter(|node| self.ensemble.members.get(**node).is_none());
        for node in strangers.copied().collect::<Vec<_>>() {
            self.begin_anew(node);
        }
        self.ensemble.number += 1;
        self.ensemble.pending = Some((self.ensemble.number, op, wanted));
        true
    }

    /// The error code with which a reconfiguration is refused; 0 if it is not.
    pub(super) fn refusal(&self, policy: u32, by: &By<'_>, request: &Request<'_>) -> Code {
        self.judge(policy, by, request).err().unwrap_or(0)
    }

    fn judge(&self, policy: u32, by: &By<'_>, request: &Request<'_>) -> Result<BTreeMap<u8, Member>, Code> {
        let Request::Reconfig { joining, leaving, new_members, config_id } = request else {
            return Err(error::UNIMPLEMENTED);
        };
        let now = &self.ensemble.members;
        if policy & policy::RECONFIG == 0 {
            return Err(error::RECONFIG_DISABLED);
        }
        if now.members.is_empty() {
            return Err(error::UNIMPLEMENTED);
        }
        if self.ensemble.pending.is_some() {
            return Err(error::RECONFIG_IN_PROGRESS);
        }
        if *config_id != -1 && *config_id != now.version {
            return Err(error::BAD_VERSION);
        }
        let lines = |text: &str| -> Result<Vec<(u8, Member)>, Code> {
            let lines = text.split(',').filter(|line| !line.is_empty());
            lines.map(|line| parse_assignment(line).map_err(|_| error::BAD_ARGUMENTS)).collect()
        };
        let mut wanted = now.members.clone();
        match new_members.as_deref() {
            Some(all) => wanted = lines(all)?.into_iter().collect(),
            None => {
                for node in leaving.as_deref().unwrap_or("").split(',').filter_map(|n| n.parse().ok()) {
                    wanted.remove::<u8>(&node);
                }
                wanted.extend(lines(joining.as_deref().unwrap_or(""))?);
            }
        }
        let voters_min = if policy & policy::ONE_VOTER == 0 { 2 } else { 1 };
        if (Members { members: wanted.clone(), ..Members::default() }).voters().count() < voters_min {
            return Err(error::BAD_ARGUMENTS);
        }
        for (node, member) in &mut wanted {
            member.identity = now.get(*node).and_then(|known| known.identity);
        }
        if !allows(&self.znode(CONFIG)?.acl, perms::WRITE, by.who) {
            return Err(error::NO_AUTH);
        }
        Ok(wanted)
    }
}

const CONFIG: &str = "/zookeeper/config";
