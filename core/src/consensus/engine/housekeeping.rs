//! What keeps Raft, the log and the session ids in step beside the way of the entries.
//!
//! Owns no state. Never waits for the disk, except to record a block of session ids, once in a hundred million sessions. Correct because
//! Raft hears of a shorter log and of a newer snapshot in the turn in which they exist.

use super::Consensus;
use crate::consensus::config::ALLOW_IDS_RETRY_NS;

impl Consensus {
    /// What the group wants for peers who are behind waits until it may be read.
    pub(super) fn feed_cold(&mut self) {
        for fetch in self.effects.fetches.drain(..) {
            self.throttle.fetch(fetch);
        }
    }

    /// Has the data directory record more blocks of session ids before the last ones are used. The core waits for the disk here:
    /// once in a hundred million sessions.
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
                    "how far session ids may go could not be recorded: {error}. It is tried again; without it clients get no \
                     new sessions here before long"
                );
                Some(now_ns)
            }
        };
    }

    /// Has read for peers who are behind what is due, and tells the group what was read, what snapshot there is, and where the
    /// log begins.
    pub(super) fn inform_group(&mut self, now_ns: u64) {
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
