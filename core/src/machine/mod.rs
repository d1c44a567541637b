//! The deterministic state machine: a batch of commands and the tree before become the tree after, results and
//! changes.
//!
//! Owns the session table, the numbered streams of commands, the zxid counter and the digests, and is the only
//! caller of the tree's writer. Never reads a clock or a configuration, draws nothing at random, does no I/O: time,
//! policy, identities, session ids and passwords come with the command. It stays correct because it is a function of the
//! log: every node applies the same batches in the same order with the same outcome, failures included, and a
//! command that comes twice is recognised by its number in its node's stream and skipped.
//!
//! | part | does |
//! |---|---|
//! | [`request`] | a client's request to an outcome |
//! | [`write`] | the single operations, each validated in ZooKeeper's order |
//! | [`multi`] | several of them, all or none |
//! | [`sessions`] | open, attach, close, expire |
//! | [`membership`] | who belongs to the ensemble, and a change of it under way |
//! | [`reconfig`] | a client's request to the members that it wants |
//! | [`stream`] | once and in order |
//! | [`digest`] | sums that must be equal on all nodes |
//! | [`image`] | the machine in a snapshot |
//! | [`stat`] | what clients see of a stat |
#![forbid(unsafe_code)]

mod digest;
mod image;
mod membership;
mod multi;
mod reconfig;
mod request;
mod sessions;
mod stream;
mod write;

pub use digest::{AT_ZXIDS_MAX, DigestMismatch, Sums};
pub use image::{MachineImage, SessionImage};
pub use membership::{Joint, MembershipCommand, MembershipEffect, MembershipState, Pending};
pub use reconfig::{ReconfigRequest, plan_reconfig};
pub use stream::StreamPosition;

use crate::acl::{AclList, AclRef, Interner};
use crate::command::{ArchivedBatch, ArchivedCommand, ArchivedOp, NO_STREAM, SEMANTICS};
use crate::commit::{Change, Outcome, SessionEvent};
use crate::session::SessionTable;
use crate::tree::{Writer, Znode};
use digest::History;
use stream::{Streams, Turn};

/// The state beside the tree.
#[derive(Debug, Default)]
pub struct Machine {
    zxid: i64,
    sessions: SessionTable,
    streams: Streams,
    interner: Interner,
    sums: Sums,
    history: History,
    membership: MembershipState,
}

/// What a batch did. Reused from batch to batch: [`Machine::apply`] appends.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes of the tree, in order.
    pub changes: Vec<Change>,
    /// What connections must know, in order.
    pub sessions: Vec<SessionEvent>,
    /// One per command that was not skipped, in order; [`Outcome::Deferred`] for one that is decided later, and then its
    /// result among those of others.
    pub results: Vec<CommandResult>,
    /// What happened to the membership.
    pub membership: MembershipEffect,
}

impl Applied {
    /// Empties it and keeps its room.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.sessions.clear();
        self.results.clear();
        self.membership = MembershipEffect::default();
    }
}

/// How one command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandResult {
    /// Node whose stream it is of.
    pub node: u8,
    /// Incarnation of that node.
    pub incarnation: u64,
    /// Its number in the stream.
    pub seq: u64,
    /// Its zxid, or the last one where it took none: for the reply's header.
    pub zxid: i64,
    /// How it ended.
    pub outcome: Outcome,
}

/// The log holds what no correct leader writes. What stands before it in the batch is applied; the node must stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// A command of a stream is missing.
    #[error("stream of node {node}, incarnation {incarnation}: command {expected} was due, {found} came")]
    StreamGap {
        /// The stream's node.
        node: u8,
        /// The incarnation in the command.
        incarnation: u64,
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The batch follows rules that this build does not know.
    #[error("the batch needs semantics version {needed}, this build knows {SEMANTICS}")]
    Semantics {
        /// The batch's version.
        needed: u32,
    },
}

impl Machine {
    /// The machine of an ensemble that never did anything, beside a fresh tree.
    pub fn new(tree: &Writer) -> Machine {
        let mut machine = Machine::default();
        for path in [crate::path::ROOT, crate::path::ZOOKEEPER, crate::path::QUOTA, crate::path::CONFIG] {
            if let Some(znode) = tree.get(path) {
                machine.sums.add_node(&znode);
            }
        }
        machine.seal();
        machine
    }

    /// Applies a batch of the log to the tree: `term` is that of its entry. Does not publish.
    pub fn apply(
        &mut self,
        tree: &mut Writer,
        term: u64,
        batch: &ArchivedBatch,
        out: &mut Applied,
    ) -> Result<(), ApplyError> {
        let semantics = batch.semantics.to_native();
        if semantics > SEMANTICS {
            return Err(ApplyError::Semantics { needed: semantics });
        }
        for command in batch.commands.iter() {
            if command.node == NO_STREAM {
                if let ArchivedOp::Membership { body } = &command.op {
                    self.apply_membership(tree, term, batch.time_ms.to_native(), body, out);
                }
                continue;
            }
            match self.streams.take(command, &mut self.sums)? {
                Turn::Skip => {}
                Turn::Apply => self.apply_command(tree, term, batch, command, out),
            }
        }
        self.history.note();
        Ok(())
    }

    /// Last zxid taken.
    pub fn zxid(&self) -> i64 {
        self.zxid
    }

    /// Digest of the whole state: the tree, ACLs, sessions and streams.
    pub fn digest(&self) -> u64 {
        self.sums.combined()
    }

    /// ZooKeeper's digest of the tree (spec 02 §12).
    pub fn tree_digest(&self) -> u64 {
        self.sums.tree()
    }

    /// The last zxid with the digest just after its command: what a proposer stamps into its batches. (Commands
    /// that take no zxid change the state too, so the present digest belongs to no zxid.)
    pub fn stamp(&self) -> (i64, u64) {
        self.history.last()
    }

    /// The digest just after the command of `zxid`, if that was the last one of one of the recent batches.
    pub fn digest_at(&self, zxid: i64) -> Option<u64> {
        self.history.at(zxid)
    }

    /// Makes this node's state another one than it should be, as a defect of its memory would.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self) {
        self.sums.add_part(1);
    }

    /// The sessions.
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// Where each node's stream stands, by node.
    pub fn streams(&self) -> impl Iterator<Item = (u8, StreamPosition)> + '_ {
        self.streams.iter()
    }

    /// Where one node's stream stands: nothing was ever applied of it if `None`.
    pub fn stream(&self, node: u8) -> Option<StreamPosition> {
        self.streams.get(node)
    }

    /// The shared list equal to `list`: for whoever restores znodes from a snapshot.
    pub fn intern_acl(&mut self, list: AclList) -> AclRef {
        self.interner.intern(list)
    }

    /// The machine for a snapshot, taken at the same version as the tree's.
    pub fn image(&self) -> MachineImage {
        image::take(self)
    }

    /// The machine of a snapshot.
    pub fn from_image(image: MachineImage) -> Machine {
        image::restore(image)
    }

    /// Whether the digests are those of this tree: each znode is read once. For a snapshot just loaded.
    pub fn verify<'t>(&self, nodes: impl IntoIterator<Item = Znode<'t>>) -> Result<(), DigestMismatch> {
        self.sums.verify(nodes)
    }

    fn apply_command(
        &mut self,
        tree: &mut Writer,
        term: u64,
        batch: &ArchivedBatch,
        command: &ArchivedCommand,
        out: &mut Applied,
    ) {
        let before = self.zxid;
        let outcome = match &command.op {
            ArchivedOp::Request { opcode, body } => {
                self.apply_request(tree, term, batch, command, opcode.to_native(), body, out)
            }
            ArchivedOp::OpenSession { timeout_ms, password } => {
                self.open_session(term, command.session.to_native(), timeout_ms.to_native(), *password)
            }
            ArchivedOp::AttachSession { timeout_ms, password, last_zxid_seen } => self.attach_session(
                command.session.to_native(),
                timeout_ms.to_native(),
                password,
                last_zxid_seen.to_native(),
                &mut out.sessions,
            ),
            ArchivedOp::CloseSession => self.close_session(tree, term, batch, command, out),
            ArchivedOp::ExpireSession => self.expire_session(tree, term, batch, command, out),
            // The leader's alone, which stand in no stream.
            ArchivedOp::Membership { .. } => Outcome::Drop,
        };
        if self.zxid != before {
            self.seal();
        }
        out.results.push(CommandResult {
            node: command.node,
            incarnation: command.incarnation.to_native(),
            seq: command.seq.to_native(),
            zxid: self.zxid,
            outcome,
        });
    }

    /// Looks like ZooKeeper's, always grows, and a full counter carries on into the next epoch's half.
    fn take_zxid(&mut self, term: u64) -> i64 {
        self.zxid = ((term << 32) as i64 | 1).max(self.zxid.saturating_add(1));
        self.zxid
    }

    fn seal(&mut self) {
        self.history.seal(self.zxid, self.sums.combined());
    }
}

#[cfg(test)]
mod tests;
