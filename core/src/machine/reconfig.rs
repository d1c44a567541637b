//! From a client's `reconfig` request to the new members (spec 02 §9).
//!
//! Owns the order and the codes of ZooKeeper's refusals.
//! Never changes the membership. The leader and every node that applies the request call the same function.
//! Correct because the result depends only on the members, the request and the batch's policy. All texts are
//! read by the one grammar of [`crate::members`].
//!
//! Three differences from ZooKeeper. A client that may not write `/zookeeper/config` gets -102 at once,
//! without waiting for a quorum of the new members (-13). Numbers are 1 to 254. Two servers may not share an
//! address on the loopback interface, which ZooKeeper allows: -8.
#![forbid(unsafe_code)]

use super::write::Code;
use super::{Applied, Machine};
use crate::acl::{allowed, perms};
use crate::command::{ArchivedBatch, ArchivedCommand, policy};
use crate::commit::Outcome;
use crate::members::{Member, Members, MembersError};
use crate::path;
use crate::tree::Writer;
use paddock_transport::wire::error;

/// The fields of a `reconfig` request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReconfigRequest<'a> {
    /// Servers to add or change, as `server.N=…` separated by commas.
    pub joining: Option<&'a str>,
    /// Numbers of servers to remove, separated by commas.
    pub leaving: Option<&'a str>,
    /// All servers of the new membership, as `server.N=…` separated by commas or lines.
    pub new_members: Option<&'a str>,
    /// Version that the client means to change; -1: any.
    pub config_id: i64,
}

/// The members that `request` makes of `current`, or the error code. `policy` as in
/// [`crate::command::policy`]. The version stays the current one: when the change takes effect, it becomes
/// that zxid.
pub fn plan_reconfig(current: &Members, request: &ReconfigRequest<'_>, policy: u32) -> Result<Members, Code> {
    if request.config_id != -1 && request.config_id != current.version {
        return Err(error::BAD_VERSION);
    }
    let mut planned = match request.new_members {
        Some(text) => whole(text, policy)?,
        None => incremental(current, request)?,
    };
    // ZooKeeper needs two voters for an ensemble, unless standaloneEnabled=false.
    let voters_min = if policy & policy::ONE_VOTER == 0 { 2 } else { 1 };
    if planned.voters().count() < voters_min {
        return Err(error::BAD_ARGUMENTS);
    }
    for (node, member) in &mut planned.members {
        member.identity = current.get(*node).and_then(|known| known.identity);
    }
    Ok(Members { cluster: current.cluster, version: current.version, members: planned.members })
}

fn whole(text: &str, policy: u32) -> Result<Members, Code> {
    let planned = Members::parse_text(&text.replace(',', "\n")).map_err(|e| code_of(&e))?;
    let one_voter = policy & policy::ONE_VOTER != 0;
    match (planned.voters().count(), planned.observers().count()) {
        // ZooKeeper throws here, and answers as for a request that it cannot decode.
        (0, 0) if one_voter => Err(error::MARSHALLING_ERROR),
        (0, 1..) => Err(error::MARSHALLING_ERROR),
        (1, 1..) if !one_voter => Err(error::MARSHALLING_ERROR),
        _ => Ok(planned),
    }
}

fn incremental(current: &Members, request: &ReconfigRequest<'_>) -> Result<Members, Code> {
    let mut planned = current.clone();
    for leaving in items(request.leaving) {
        // Any number is accepted, even one of no member. A text that is no number fails as in `whole`.
        let node: i64 = leaving.parse().map_err(|_| error::MARSHALLING_ERROR)?;
        if let Ok(node) = u8::try_from(node) {
            planned.members.remove(&node);
        }
    }
    for joining in items(request.joining) {
        let mut parts = joining.split('=').map(str::trim).filter(|part| !part.is_empty());
        let (Some(key), Some(spec), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(error::BAD_ARGUMENTS);
        };
        let number = key.rsplit('.').next().unwrap_or(key);
        number.parse::<i64>().map_err(|_| error::MARSHALLING_ERROR)?;
        let member = Member::parse(spec).map_err(|e| code_of(&e))?;
        let node = crate::members::parse_node(number).map_err(|e| code_of(&e))?;
        if member.client.is_none() {
            return Err(error::BAD_ARGUMENTS);
        }
        planned.members.remove(&node);
        planned.add(node, member).map_err(|e| code_of(&e))?;
    }
    Ok(planned)
}

/// The items of a comma-separated list, trimmed and without empty ones, as in ZooKeeper.
fn items(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// ZooKeeper's code for a text that names no member. ZooKeeper throws on unreadable numbers and impossible
/// ports, and answers as for a request that it cannot decode.
fn code_of(error: &MembersError) -> Code {
    match error {
        MembersError::Number { text } if text.trim().parse::<i64>().is_err() => error::MARSHALLING_ERROR,
        MembersError::Port { text } if text.parse::<i32>().is_ok_and(|port| port != 0) => {
            error::MARSHALLING_ERROR
        }
        MembersError::Version { .. } | MembersError::Escape(_) => error::MARSHALLING_ERROR,
        _ => error::BAD_ARGUMENTS,
    }
}

impl Machine {
    /// Applies a client's reconfig, whose session was checked. An accepted request gets no zxid yet.
    pub(super) fn apply_reconfig(
        &mut self,
        tree: &Writer,
        term: u64,
        batch: &ArchivedBatch,
        command: &ArchivedCommand,
        request: &ReconfigRequest<'_>,
        out: &mut Applied,
    ) -> Outcome {
        let policy = batch.policy.to_native();
        match self.judge_reconfig(tree, policy, command, request) {
            Ok(members) => {
                let (incarnation, seq) = (command.incarnation.to_native(), command.seq.to_native());
                self.defer_reconfig(command.node, incarnation, seq, members, out);
                Outcome::Deferred
            }
            Err(code) => {
                self.take_zxid(term);
                Outcome::Err(code)
            }
        }
    }

    fn judge_reconfig(
        &self,
        tree: &Writer,
        policy: u32,
        command: &ArchivedCommand,
        request: &ReconfigRequest<'_>,
    ) -> Result<Members, Code> {
        if policy & policy::RECONFIG == 0 {
            return Err(error::RECONFIG_DISABLED);
        }
        self.may_reconfigure()?;
        let planned = plan_reconfig(self.members(), request, policy)?;
        let config = tree.get(path::CONFIG).ok_or(error::NO_NODE)?;
        match allowed(config.acl(), perms::WRITE, &command.identities, policy) {
            true => Ok(planned),
            false => Err(error::NO_AUTH),
        }
    }
}
