//! When checkpoints are taken, and what follows from one.
//!
//! Owns the decision and the bounds of the hold. Never writes: the thread of [`crate::checkpoint`] does.
//! Correct because a hold and the machine's image are taken together, right after a publication. The log is
//! truncated only up to what storage reports as contained in both retained snapshots.

use crate::checkpoint::{Checkpointer, Job, WriteError};
use crate::consensus::apply::Applier;
use crate::consensus::config::{
    CHECKPOINT_HOLD_BYTES_MIN, CHECKPOINT_HOLD_NS, CHECKPOINT_RETRY_NS, ConsensusConfig, RETIRED_BYTES_MAX,
    ZNODE_BYTES,
};
use crate::consensus::durable::journal::Journal;
use crate::consensus::raft::Membership;
use bytes::Bytes;
use paddock_storage::SnapshotMeta;

/// See the module doc.
pub(in crate::consensus) struct Checkpoints {
    thread: Checkpointer,
    /// Commands after which a checkpoint is due.
    commands_max: u64,
    /// Log bytes after which a checkpoint is due.
    log_bytes_max: u64,
    log_bytes: u64,
    /// Index and term of the newest snapshot.
    newest: (u64, u64),
    /// Term of the last entry in the checkpoint under way.
    term: u64,
    /// The encoded membership of the next snapshot.
    members: Bytes,
    /// The checkpoint under way.
    hold: Option<Hold>,
    /// The log is kept from this index on, because a node is being sent the snapshot there.
    keep_log_from: Option<u64>,
    retry_ns: Option<u64>,
}

#[derive(Clone, Copy)]
struct Hold {
    until_ns: u64,
    bytes_max: u64,
    cancelled: bool,
    /// Commands and log bytes that made the checkpoint due. They count again if it fails.
    commands: u64,
    log_bytes: u64,
}

impl Checkpoints {
    pub(in crate::consensus) fn new(
        thread: Checkpointer,
        config: &ConsensusConfig,
        newest: (u64, u64),
        membership: &Membership,
    ) -> Self {
        // The nodes of an ensemble have the same log. With the same bounds all disks would write snapshots at
        // the same time, and each write would wait for one of them.
        let thousandths = if config.members.is_some() { share(config.node) } else { 1000 };
        let part = |bound: u64| (u128::from(bound) * u128::from(thousandths)).div_ceil(1000) as u64;
        let (commands_max, log_bytes_max) = (part(config.snap_count), part(config.snap_log_bytes));
        let (members, term) = (membership.encode().into(), newest.1);
        let (log_bytes, hold, keep_log_from, retry_ns) = (0, None, None, None);
        Self {
            thread,
            commands_max,
            log_bytes_max,
            log_bytes,
            newest,
            term,
            members,
            hold,
            keep_log_from,
            retry_ns,
        }
    }

    /// Counts the log bytes that were replayed at the start. Without them a node that restarts often would
    /// never find a checkpoint due, and its replay would grow with each start.
    pub(in crate::consensus) fn behind(mut self, log_bytes: u64) -> Self {
        self.log_bytes = log_bytes;
        self
    }

    /// Takes the membership as of the last entry that was applied.
    pub(in crate::consensus) fn set_membership(&mut self, membership: &Membership) {
        self.members = membership.encode().into();
    }

    /// Index and term of the newest snapshot.
    pub(in crate::consensus) fn newest(&self) -> (u64, u64) {
        self.newest
    }

    /// Keeps the log from `index` on. A later checkpoint truncates what is kept for it.
    pub(in crate::consensus) fn keep_log_from(&mut self, index: Option<u64>) {
        self.keep_log_from = index;
    }

    /// Takes the outcome of a checkpoint, cancels one that holds too much, and begins one that is due.
    pub(in crate::consensus) fn turn(&mut self, now_ns: u64, applier: &mut Applier, journal: &mut Journal) {
        self.log_bytes += journal.take_bytes();
        if let Some(hold) = &mut self.hold {
            let too_much = applier.tree.retired_bytes() > hold.bytes_max + RETIRED_BYTES_MAX / 2;
            if !hold.cancelled && (too_much || now_ns >= hold.until_ns) {
                hold.cancelled = true;
                tracing::warn!(
                    "a checkpoint holds too much ({} MiB retired) or takes too long; it is given up and tried again",
                    applier.tree.retired_bytes() >> 20
                );
                self.thread.cancel();
            }
        }
        let outcome = self.thread.take();
        if outcome.is_some() || applier.tree.has_more_to_reclaim() {
            // Frees what only the hold kept, without waiting for the next write.
            applier.tree.reclaim();
        }
        if let Some(outcome) = outcome {
            let ended = self.hold.take();
            match outcome.result {
                Ok(finished) => {
                    self.newest = (outcome.index, self.term);
                    tracing::info!("checkpoint at index {}: {} bytes", outcome.index, finished.bytes);
                    if let Some(index) = finished.log_not_needed_to {
                        journal.forget(self.keep_log_from.map_or(index, |keep| keep.min(index)));
                    }
                }
                Err(why) => {
                    if !matches!(why, WriteError::Cancelled) {
                        tracing::error!(
                            "checkpoint failed: {why}. The log grows until one succeeds; nothing is lost"
                        );
                    }
                    applier.commands += ended.map_or(0, |hold| hold.commands);
                    self.log_bytes += ended.map_or(0, |hold| hold.log_bytes);
                    self.retry_ns = Some(now_ns + CHECKPOINT_RETRY_NS);
                }
            }
        }
        self.retry_ns = self.retry_ns.filter(|&at| at > now_ns);
        // On a full disk no entry makes a checkpoint due. A checkpoint frees a part of the log and an older
        // snapshot. A disk without room for a log segment may have room for it.
        let due = applier.commands >= self.commands_max
            || self.log_bytes >= self.log_bytes_max
            || journal.was_full();
        if due && self.hold.is_none() && self.retry_ns.is_none() && applier.index > self.newest.0 {
            self.begin(now_ns, applier);
        }
    }

    /// Bytes that may be retired beyond the usual bound because of a hold.
    pub(in crate::consensus) fn held_bytes(&self) -> u64 {
        self.hold.map_or(0, |h| h.bytes_max)
    }

    /// When a turn is needed at the latest.
    pub(in crate::consensus) fn deadline_ns(&self) -> Option<u64> {
        self.hold.filter(|h| !h.cancelled).map(|h| h.until_ns).or(self.retry_ns)
    }

    /// Writes the checkpoint that was begun. Only without a thread for it.
    pub(in crate::consensus) fn write(&mut self) {
        self.thread.run();
    }

    /// Whether a checkpoint is under way.
    pub(in crate::consensus) fn is_writing(&self) -> bool {
        self.hold.is_some()
    }

    /// Whether the outcome of a checkpoint waits.
    pub(in crate::consensus) fn has_news(&self) -> bool {
        self.thread.has_news()
    }

    fn begin(&mut self, now_ns: u64, applier: &mut Applier) {
        let (machine, tree) = (&applier.machine, &mut applier.tree);
        let held = tree.hold();
        let tree_bytes = tree.approximate_data_bytes() + tree.node_count() * ZNODE_BYTES;
        let meta = SnapshotMeta {
            zxid: machine.zxid(),
            index: applier.index,
            term: applier.term,
            digest: machine.digest(),
            node_count: held.len(),
            conf_state: self.members.clone(),
        };
        self.hold = Some(Hold {
            until_ns: now_ns + CHECKPOINT_HOLD_NS,
            bytes_max: tree_bytes.max(CHECKPOINT_HOLD_BYTES_MIN),
            cancelled: false,
            commands: std::mem::take(&mut applier.commands),
            log_bytes: std::mem::take(&mut self.log_bytes),
        });
        self.term = applier.term;
        let membership = machine.membership().clone();
        self.thread.begin(Job { held, image: machine.image(), membership, meta });
    }
}

/// The part of the bounds that a node takes, in thousandths, from a half to the whole. Multiples of the
/// golden section lie apart from each other for any number of nodes.
fn share(node: u8) -> u64 {
    500 + u64::from(node) * 618 % 1000 / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_an_ensemble_do_not_take_their_checkpoints_at_once() {
        for nodes in [3, 5, 11] {
            let mut shares: Vec<u64> = (1..=nodes).map(share).collect();
            shares.sort_unstable();
            assert!(shares[0] >= 500 && shares[shares.len() - 1] <= 1000, "{shares:?}");
            let nearest = shares.windows(2).map(|two| two[1] - two[0]).min().unwrap();
            assert!(nearest * 4 >= 500 / u64::from(nodes), "{shares:?}");
        }
    }
}
