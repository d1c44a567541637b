//! From committed entry to published commit.
//!
//! Owns the machine, the tree's writer and the commit ring. Never applies an entry while the ring has no slot
//! or the tree holds too many retired bytes: [`Applier::is_blocked`] says so beforehand, and the core waits.
//! Correct because an entry is checked before it is read and compared with the digest that its proposer
//! recorded. Then it becomes one version, one commit and one slot of the ring, in that order.

pub(super) mod checkpoints;
pub(super) mod divergence;
pub(super) mod entry;
pub(super) mod shard_wakers;

use crate::command::ArchivedBatch;
use crate::commit::{Commit, Outcome, Reply};
use crate::consensus::commands::pending::PendingCommands;
use crate::consensus::control::StopReason;
use crate::consensus::raft::{EntryKind, LogEntry, MembershipStep};
use crate::machine::{Applied, Machine};
use crate::mutation::{self, AppliedEntry};
use crate::ring::{CommitSender, Published};
use crate::tree;
use rkyv::util::AlignedVec;

// The default error of rkyv keeps no text in a release build.
use rkyv::rancor::BoxedError as CheckError;

/// Alignment of an archived batch, bytes. The log and the allocator usually give it.
const ARCHIVE_ALIGN: usize = 16;

/// See the module doc.
pub(in crate::consensus) struct Applier {
    pub(in crate::consensus) machine: Machine,
    pub(in crate::consensus) tree: tree::Writer,
    ring: CommitSender,
    retired_bytes_max: u64,
    applied: Applied,
    /// Index of the last entry that was applied; `term` is its term.
    pub(in crate::consensus) index: u64,
    pub(in crate::consensus) term: u64,
    /// Index of an entry whose proposer recorded another digest than the majority has. Its commands count all
    /// the same.
    pub(in crate::consensus) accepted: u64,
    /// Commands applied since the last checkpoint was begun.
    pub(in crate::consensus) commands: u64,
    scratch: AlignedVec<ARCHIVE_ALIGN>,
}

impl Applier {
    /// An applier behind no entry. The caller sets `index` and `term` of a loaded snapshot.
    pub(in crate::consensus) fn new(
        machine: Machine,
        tree: tree::Writer,
        ring: CommitSender,
        retired_bytes_max: u64,
    ) -> Self {
        Self {
            machine,
            tree,
            ring,
            retired_bytes_max,
            applied: Applied::default(),
            index: 0,
            term: 0,
            accepted: 0,
            commands: 0,
            scratch: AlignedVec::new(),
        }
    }

    /// Whether the next entry must wait for readers to move on. A checkpoint's hold allows `held_bytes`
    /// beyond the bound on retired bytes.
    pub(in crate::consensus) fn is_blocked(&mut self, held_bytes: u64) -> bool {
        if self.ring.is_full() {
            self.ring.sweep();
        }
        if self.tree.retired_bytes() > self.retired_bytes_max + held_bytes {
            self.tree.reclaim();
        }
        self.ring.is_full() || self.tree.retired_bytes() > self.retired_bytes_max + held_bytes
    }

    /// Applies an entry. [`Applier::publish`] publishes the changes.
    pub(in crate::consensus) fn apply(&mut self, entry: &LogEntry) -> Result<&Applied, StopReason> {
        let index = entry.index;
        self.applied.clear();
        if entry.kind == EntryKind::Batch && !entry.payload.is_empty() {
            let bytes = aligned(&entry.payload, &mut self.scratch);
            let batch = rkyv::access::<ArchivedBatch, CheckError>(bytes)
                .map_err(|e| StopReason::Undecodable { index, what: e.to_string() })?;
            let (zxid, logged) = (batch.applied_zxid.to_native(), batch.applied_digest.to_native());
            // An unknown digest is older than the snapshot of this start, or than the digests that are kept.
            if let Some(found) = self.machine.digest_at(zxid)
                && found != logged
                && self.accepted != index
            {
                return Err(StopReason::Diverged { zxid, found, logged, index });
            }
            self.machine
                .apply(&mut self.tree, entry.term, batch, &mut self.applied)
                .map_err(|error| StopReason::CannotApply { index, error })?;
            self.commands += batch.commands.len() as u64;
        }
        (self.index, self.term) = (entry.index, entry.term);
        self.record(entry);
        Ok(&self.applied)
    }

    /// Applies an entry that changes the membership. The command in the entry waits in the machine until Raft
    /// leaves the joint membership.
    pub(in crate::consensus) fn apply_change(
        &mut self,
        entry: &LogEntry,
        step: &MembershipStep,
    ) -> Result<&Applied, StopReason> {
        let index = entry.index;
        self.applied.clear();
        match step {
            MembershipStep::Entered { command } if command.is_empty() => {}
            MembershipStep::Entered { command } => {
                let batch = rkyv::access::<ArchivedBatch, CheckError>(aligned(command, &mut self.scratch))
                    .map_err(|e| StopReason::Undecodable { index, what: e.to_string() })?;
                self.machine.begin_reconfig(batch);
            }
            MembershipStep::Left => {
                self.machine.finish_reconfig(&mut self.tree, entry.term, &mut self.applied);
            }
        }
        (self.index, self.term) = (entry.index, entry.term);
        self.record(entry);
        Ok(&self.applied)
    }

    /// Shows the entry to a simulation. Does nothing in a release build.
    fn record(&self, entry: &LogEntry) {
        mutation::applied(|| AppliedEntry {
            index: entry.index,
            term: entry.term,
            membership: entry.kind == EntryKind::Membership,
            payload: entry.payload.clone(),
            zxid: self.machine.zxid(),
            digest: self.machine.digest(),
        });
    }

    /// Drops the changes of replay: no shard is there yet to see them.
    pub(in crate::consensus) fn forget_applied(&mut self) {
        self.applied.clear();
    }

    /// Publishes what was applied, with the results that this node's shards wait for and the `extra` replies.
    /// The caller must have found [`Applier::is_blocked`] false just before. Marks in `wake` the shards that
    /// must see the commit.
    pub(in crate::consensus) fn publish(
        &mut self,
        stream: &mut PendingCommands,
        extra: &mut Vec<Reply>,
        wake: &mut [bool],
    ) {
        let zxid = self.machine.zxid();
        let mut replies = Vec::with_capacity(self.applied.results.len() + extra.len());
        for result in self.applied.results.drain(..) {
            if result.outcome == Outcome::Deferred {
                stream.defer(result.node, result.incarnation, result.seq);
                continue;
            }
            if let Some(ticket) = stream.resolve(result.node, result.incarnation, result.seq) {
                replies.push(Reply { ticket, zxid: result.zxid, outcome: result.outcome });
            }
        }
        replies.append(extra);
        for reply in &replies {
            if let Some(wake) = wake.get_mut(usize::from(reply.ticket.shard)) {
                *wake = true;
            }
        }
        let commit = Commit {
            zxid,
            changes: std::mem::take(&mut self.applied.changes),
            sessions: std::mem::take(&mut self.applied.sessions),
            replies,
        };
        if !commit.sessions.is_empty() {
            wake.fill(true);
        }
        let version = self.tree.publish();
        if self.ring.try_push(Published { commit, version }).is_err() {
            unreachable!("the ring had room: the only writer asked just before");
        }
        self.tree.reclaim();
    }

    /// The commit ring, for the positions of its readers.
    pub(in crate::consensus) fn ring(&self) -> &CommitSender {
        &self.ring
    }
}

/// The payload's own bytes if they are aligned for an archive, otherwise a copy in `scratch`.
fn aligned<'a>(payload: &'a [u8], scratch: &'a mut AlignedVec<ARCHIVE_ALIGN>) -> &'a [u8] {
    if payload.as_ptr().addr().is_multiple_of(ARCHIVE_ALIGN) {
        return payload;
    }
    scratch.clear();
    scratch.extend_from_slice(payload);
    scratch
}
