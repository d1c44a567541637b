//! Steps beside the path of entries: cold reads, session ids, snapshots and the log's first index.
//!
//! Owns no state. Never waits for the disk, except to record a block of session ids, once in a hundred
//! million sessions. Correct because Raft learns of a shorter log and of a newer snapshot in the turn in
//! which they exist.

use super::Consensus;
use crate::consensus::config::ALLOW_IDS_RETRY_NS;

impl Consensus {
    /// Queues Raft's cold reads in the throttle until they are due.
    pub(super) fn queue_cold_fetches(&mut self) {
        for fetch in self.effects.fetches.drain(..) {
            self.throttle.fetch(fetch);
        }
    }

    /// Records more blocks of session ids in the data directory before the last ones are used. The core
    /// waits for the disk here, once in a hundred million sessions.
    pub(super) fn allow_ids(&mut self, now_ns: u64) {
        let pauses = |at: u64| now_ns.saturating_sub(at) < ALLOW_IDS_RETRY_NS;
        if !self.ids.is_low() || self.id_blocks_failed_ns.is_some_and(pauses) {
            return;
        }
        let end = self.ids.wanted();
        self.id_blocks_failed_ns = match self.dir.allow_ids(end) {
            Ok(()) => {
                self.ids.allow(end);
                None
            }
            Err(error) => {
                tracing::error!(
                    "the next block of session ids could not be recorded: {error}. The record is tried again. Until it \
                     succeeds, this node may run out of ids for new sessions"
                );
                Some(now_ns)
            }
        };
    }

    /// Starts the cold reads that are due. Passes entries that were read, the newest snapshot and the log's
    /// first index to Raft.
    pub(super) fn report_to_raft(&mut self, now_ns: u64) {
        while let Some(fetch) = self.throttle.next_fetch(now_ns) {
            self.entry_fetcher.request(fetch);
        }
        while let Some((fetch, entries)) = self.entry_fetcher.take() {
            self.raft.fetched(fetch, entries);
        }
        let (index, term) = self.checkpoints.newest();
        if index > 0 {
            self.raft.set_snapshot(index, term);
        }
        if let Some(first) = self.journal.take_truncated() {
            self.raft.truncated(first);
        }
    }
}
