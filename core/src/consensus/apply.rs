//! From committed entry to published commit.
//!
//! Owns the machine, the tree's writer and the commit ring. Never applies when the ring has no room for the commit or
//! the tree holds too much that is retired: it says so beforehand, and the core waits. It stays correct because an
//! entry is checked before it is looked into, is compared with what its proposer knew of the state, and becomes one
//! version, one commit and one slot of the ring, in that order.

use super::control::StopReason;
use super::group::{EntryKind, LogEntry, MembershipStep};
use super::outbound::Outbound;
use crate::command::ArchivedBatch;
use crate::commit::{Commit, Outcome, Reply};
use crate::machine::{Applied, Machine};
use crate::mutation::{self, AppliedEntry};
use crate::ring::{CommitSender, Published};
use crate::tree;
// The crate's usual error keeps no text in a release build.
use rkyv::rancor::BoxedError as CheckError;
use rkyv::util::AlignedVec;

/// Alignment that an archived batch needs, and that the log and the allocator usually give.
const ARCHIVE_ALIGN: usize = 16;

/// See the module doc.
pub(super) struct Applier {
    pub(super) machine: Machine,
    pub(super) tree: tree::Writer,
    ring: CommitSender,
    retired_bytes_max: u64,
    applied: Applied,
    /// Last entry applied, and its term.
    pub(super) index: u64,
    pub(super) term: u64,
    /// An entry whose proposer was wrong about the state, as a majority says: its commands count all the same.
    pub(super) accepted: u64,
    /// Commands applied since the last checkpoint was begun.
    pub(super) commands: u64,
    scratch: AlignedVec<ARCHIVE_ALIGN>,
}

impl Applier {
    /// Behind entry (`index`, `term`).
    pub(super) fn new(
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

    /// Whether the next entry must wait for readers to move on. `held_bytes` may be retired beyond the bound because a
    /// checkpoint holds it.
    pub(super) fn is_blocked(&mut self, held_bytes: u64) -> bool {
        if self.ring.is_full() {
            self.ring.sweep();
        }
        if self.tree.retired_bytes() > self.retired_bytes_max + held_bytes {
            self.tree.reclaim();
        }
        self.ring.is_full() || self.tree.retired_bytes() > self.retired_bytes_max + held_bytes
    }

    /// Applies an entry without publishing it; what it did is kept for [`Applier::publish`].
    pub(super) fn apply(&mut self, entry: &LogEntry) -> Result<&Applied, StopReason> {
        let index = entry.index;
        self.applied.clear();
        if entry.kind == EntryKind::Batch && !entry.payload.is_empty() {
            let bytes = aligned(&entry.payload, &mut self.scratch);
            let batch = rkyv::access::<ArchivedBatch, CheckError>(bytes)
                .map_err(|e| StopReason::Undecodable { index, what: e.to_string() })?;
            let (zxid, logged) = (batch.applied_zxid.to_native(), batch.applied_digest.to_native());
            // Unknown: older than the snapshot that this node started from, or than what is remembered.
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

    /// Applies an entry that changed the membership, as the group understood it: what rides in it waits in the machine until
    /// the joint state is left.
    pub(super) fn apply_change(
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

    /// Lets a simulation see the entry; free in a release build.
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

    /// Lets go of what replay did: nobody was there to see it.
    pub(super) fn forget_applied(&mut self) {
        self.applied.clear();
    }

    /// Publishes what was applied, with the results that this node's shards wait for and `extra` replies. The caller has
    /// asked [`Applier::is_blocked`] just before. Marks in `wake` the shards that must see it.
    pub(super) fn publish(&mut self, stream: &mut Outbound, extra: &mut Vec<Reply>, wake: &mut [bool]) {
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

    /// The ring, to look at its readers.
    pub(super) fn ring(&self) -> &CommitSender {
        &self.ring
    }
}

/// The payload, where an archive may be looked at: its own bytes if they are aligned, else a copy.
fn aligned<'a>(payload: &'a [u8], scratch: &'a mut AlignedVec<ARCHIVE_ALIGN>) -> &'a [u8] {
    if payload.as_ptr().addr().is_multiple_of(ARCHIVE_ALIGN) {
        return payload;
    }
    scratch.clear();
    scratch.extend_from_slice(payload);
    scratch
}
