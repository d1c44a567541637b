//! The deterministic state machine. From the tree and a batch of commands it computes the next tree, the
//! results and the changes.
//!
//! Owns the session table, the streams of commands, the zxid counter and the digests. Only the machine calls
//! the tree's writer.
//! Never reads a clock or a configuration, draws random numbers, or does I/O. Time, policy, identities,
//! session ids and passwords come with the command.
//! Correct because it is a function of the log: every node applies the same batches in the same order with
//! the same outcome, failures included. The number of a command in its node's stream reveals a repetition,
//! which is skipped.
//!
//! | part | does |
//! |---|---|
//! | [`request`] | a client's request to an outcome |
//! | [`write`] | the single operations, each validated in ZooKeeper's order |
//! | [`multi`] | several of them, all or none |
//! | [`sessions`] | open, attach, close, expire |
//! | [`membership`] | the members of the ensemble, and a reconfiguration in progress |
//! | [`reconfig`] | from a `reconfig` request to the new members |
//! | [`stream`] | every command once and in order |
//! | [`digest`] | sums that must be equal on all nodes |
//! | [`image`] | the machine in a snapshot |
//! | [`stat`] | what clients see of a stat |

#![deny(clippy::disallowed_methods)]
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
pub use membership::{Joint, MembershipCommand, MembershipEffect, MembershipState, PendingReconfig};
pub use reconfig::{ReconfigRequest, plan_reconfig};
pub use stream::StreamPosition;

use crate::acl::{AclList, AclRef, Interner};
use crate::command::{ArchivedBatch, ArchivedCommand, ArchivedOp, NO_STREAM, SEMANTICS};
use crate::commit::{Change, Outcome, SessionEvent};
use crate::session::SessionTable;
use crate::tree::{Writer, Znode};
use digest::History;
use stream::{CommandStreams, Turn};

/// The replicated state beside the tree.
#[derive(Debug, Default)]
pub struct Machine {
    zxid: i64,
    sessions: SessionTable,
    streams: CommandStreams,
    interner: Interner,
    sums: Sums,
    history: History,
    membership: MembershipState,
}

/// Effects of a batch. Reused for the next one: [`Machine::apply`] appends.
#[derive(Debug, Default)]
pub struct Applied {
    /// In the order of the log.
    pub changes: Vec<Change>,
    /// Session events that connections must learn of, in order.
    pub sessions: Vec<SessionEvent>,
    /// One for each command that was not skipped, in order. A command with [`Outcome::Deferred`] gets a
    /// second result, in a later batch.
    pub results: Vec<CommandResult>,
    pub membership: MembershipEffect,
}

impl Applied {
    /// Empties the lists and keeps their capacity.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.sessions.clear();
        self.results.clear();
        self.membership = MembershipEffect::default();
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandResult {
    /// Node that submitted the command.
    pub node: u8,
    /// Incarnation of that node.
    pub incarnation: u64,
    /// Number of the command in the node's stream.
    pub seq: u64,
    /// Zxid for the reply's header: that of the command, or the last one if the command has none.
    pub zxid: i64,
    pub outcome: Outcome,
}

/// The log holds something that no correct leader writes. The commands before it in the batch are applied;
/// the node must stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The log skips a command of a stream.
    #[error("stream of node {node}, incarnation {incarnation}: command {expected} was due, {found} came")]
    StreamGap {
        node: u8,
        /// Incarnation in the command.
        incarnation: u64,
        /// Number that had to come next.
        expected: u64,
        /// Number that came.
        found: u64,
    },
    /// The batch follows rules that this build does not know.
    #[error("the batch needs semantics version {needed}, this build knows {SEMANTICS}")]
    Semantics {
        /// Semantics version of the batch.
        needed: u32,
    },
}

impl Machine {
    /// The machine beside a fresh tree, before any command.
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

    /// Applies a batch of the log to the tree, where `term` is the term of its entry. Does not publish a
    /// version of the tree.
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

    /// Last zxid assigned.
    pub fn zxid(&self) -> i64 {
        self.zxid
    }

    /// Digest of the whole state: tree, ACLs, sessions, streams and membership.
    pub fn digest(&self) -> u64 {
        self.sums.combined()
    }

    /// ZooKeeper's digest of the tree (spec 02 §12).
    pub fn tree_digest(&self) -> u64 {
        self.sums.tree()
    }

    /// The last zxid and the digest just after its command, which a proposer stamps into its batches.
    /// Commands without a zxid change the state too, so the current digest may belong to no zxid.
    pub fn stamp(&self) -> (i64, u64) {
        self.history.last()
    }

    /// The digest just after the command of `zxid`, if that command ended one of the recent batches.
    pub fn digest_at(&self, zxid: i64) -> Option<u64> {
        self.history.at(zxid)
    }

    /// Corrupts the digest, as a memory error would.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self) {
        self.sums.add_part(1);
    }

    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// Positions of all streams, in the order of nodes.
    pub fn streams(&self) -> impl Iterator<Item = (u8, StreamPosition)> + '_ {
        self.streams.iter()
    }

    /// Position of a node's stream; `None`: no command of it was ever applied.
    pub fn stream(&self, node: u8) -> Option<StreamPosition> {
        self.streams.get(node)
    }

    /// The shared list equal to `list`, for znodes that are restored from a snapshot.
    pub fn intern_acl(&mut self, list: AclList) -> AclRef {
        self.interner.intern(list)
    }

    /// The image for a snapshot, taken at the same version as the tree's.
    pub fn image(&self) -> MachineImage {
        image::take(self)
    }

    /// The machine of a snapshot, without the membership.
    pub fn from_image(image: MachineImage) -> Machine {
        image::restore(image)
    }

    /// Compares the digests of a loaded snapshot with its tree. Reads each znode once.
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
            // Membership commands belong to no stream.
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

    /// Assigns the next zxid: the term above a counter, as ZooKeeper's epoch. A counter that is full carries
    /// into the upper half, so zxids always grow.
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
