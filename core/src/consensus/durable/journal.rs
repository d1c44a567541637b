//! Records that Raft wants durable, on their way into the log.
//!
//! Owns the log and the order in which Raft's drains become durable.
//!
//! Never waits: the log's own thread writes and syncs.
//!
//! Correct because a drain counts as persisted only when its last record and all records before it are
//! durable. The log refuses records when its queue or the disk is full. They are handed over again before any
//! later ones, so none is skipped. Raft bounds the records that wait. Drains without a record take no place
//! of their own.

use crate::consensus::raft::{Effects, EntryKind, LogEntry, Vote};
use crate::mutation::{Mutation, mutated};
use paddock_storage::log::Refusal;
use paddock_storage::{Entry, HardState, Log, Record, State, Ticket};
use std::collections::VecDeque;

/// [`Entry::kind`] of a batch or an empty entry.
pub(in crate::consensus) const KIND_BATCH: u8 = 0;
/// [`Entry::kind`] of a change of membership.
pub(in crate::consensus) const KIND_MEMBERSHIP: u8 = 1;

/// See the module doc.
pub(in crate::consensus) struct Journal {
    log: Log,
    /// Refused records in order, with the numbers of their drains.
    refused: VecDeque<(u64, Vec<Record>)>,
    /// Drains that the log took and that are not durable yet, with the tickets of their last records.
    taken: VecDeque<(u64, Ticket)>,
    last_ticket: Ticket,
    /// The durable ticket at the last [`Journal::poll`], and the state at the last [`Journal::look`].
    seen: (Ticket, State),
    /// Payload bytes handed over since the last [`Journal::take_bytes`].
    bytes: u64,
    /// The commit index that was recorded last.
    noted: u64,
    /// First index of the log after a truncation that Raft has not heard of.
    truncated: Option<u64>,
}

impl Journal {
    pub(in crate::consensus) fn new(log: Log) -> Self {
        let last_ticket = log.durable().ticket;
        let seen = (last_ticket, log.state());
        Self {
            log,
            refused: VecDeque::new(),
            taken: VecDeque::new(),
            last_ticket,
            seen,
            bytes: 0,
            noted: 0,
            truncated: None,
        }
    }

    /// Hands over the records of a drain. `applied` is recorded as the commit index where a record is due. A
    /// higher index must not be recorded: the record may survive a crash that takes the entries behind it.
    pub(in crate::consensus) fn append(&mut self, effects: &mut Effects, applied: u64) {
        let note = effects.note.filter(|_| applied > self.noted);
        let vote = effects.vote.or(note).map(|v| {
            self.noted = applied;
            Record::HardState(hard_state(v, applied))
        });
        let entries = effects.entries.drain(..).map(|e| {
            self.bytes += e.payload.len() as u64;
            Record::Entry(stored(e))
        });
        let records: Vec<Record> = vote.into_iter().chain(entries).collect();
        match self.refused.back_mut() {
            // A full disk may refuse for days, while rounds produce drains. A drain without records takes no
            // place of its own.
            Some((number, _)) if records.is_empty() => *number = effects.number,
            Some(_) => self.refused.push_back((effects.number, records)),
            None => {
                self.hand_over(effects.number, records);
            }
        }
    }

    /// Hands refused records over again. Returns the newest drain that is durable together with all drains
    /// before it.
    pub(in crate::consensus) fn poll(&mut self) -> Option<u64> {
        while let Some((number, records)) = self.refused.pop_front() {
            if !self.hand_over(number, records) {
                break;
            }
        }
        let mut durable = self.log.durable().ticket;
        self.seen.0 = durable;
        if mutated(Mutation::AcknowledgeUnsynced) || mutated(Mutation::CountUnsynced) {
            durable = self.last_ticket;
        }
        let mut newest = None;
        while let Some((number, ticket)) = self.taken.front().copied() {
            if ticket > durable {
                break;
            }
            self.taken.pop_front();
            newest = Some(number);
        }
        newest
    }

    /// The state of the log: whether it takes entries, and if not, why.
    pub(in crate::consensus) fn look(&mut self) -> &State {
        self.seen.1 = self.log.state();
        &self.seen.1
    }

    /// Whether the log had no room at the last [`Journal::look`].
    pub(in crate::consensus) fn was_full(&self) -> bool {
        matches!(self.seen.1, State::WritesStopped { .. })
    }

    /// Whether [`Journal::poll`] or [`Journal::look`] would return something new. That is so when the log has
    /// moved on since, and when a drain without records follows records that are durable already.
    pub(in crate::consensus) fn has_news(&self) -> bool {
        let durable = self.log.durable().ticket;
        durable != self.seen.0
            || self.log.state() != self.seen.1
            || self.taken.front().is_some_and(|(_, ticket)| *ticket <= durable)
    }

    /// Whether the log has no room now.
    pub(in crate::consensus) fn is_full(&self) -> bool {
        matches!(self.log.state(), State::WritesStopped { .. })
    }

    /// Whether [`Journal::flush`] has something to do: records wait, or a full disk may have room again.
    pub(in crate::consensus) fn wants_flush(&self) -> bool {
        self.is_behind() || matches!(self.log.state(), State::WritesStopped { .. })
    }

    /// Writes and syncs what waits. Only for a log without a thread of its own.
    pub(in crate::consensus) fn flush(&mut self) {
        self.log.flush_turn();
    }

    /// Whether a record that was handed over is not durable yet.
    pub(in crate::consensus) fn is_behind(&self) -> bool {
        !self.taken.is_empty() || !self.refused.is_empty()
    }

    /// Whether refused records wait to be handed over again.
    pub(in crate::consensus) fn is_refusing(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Payload bytes handed over since the last call.
    pub(in crate::consensus) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Truncates the log behind `index`: two snapshots contain the entries up to there.
    pub(in crate::consensus) fn forget(&mut self, index: u64) {
        self.log.truncate_prefix(index + 1);
        self.truncated = Some(index + 1);
    }

    /// First index of the log, if it has changed since the last call.
    pub(in crate::consensus) fn take_truncated(&mut self) -> Option<u64> {
        self.truncated.take()
    }

    /// Returns `false` if the log refused the records. They stay at the front of the queue then.
    fn hand_over(&mut self, number: u64, records: Vec<Record>) -> bool {
        if records.is_empty() {
            match self.taken.back_mut() {
                Some((newest, _)) => *newest = number,
                None => self.taken.push_back((number, self.last_ticket)),
            }
            return true;
        }
        match self.log.append(records) {
            Ok(ticket) => {
                self.last_ticket = ticket;
                self.taken.push_back((number, ticket));
                true
            }
            Err(refused) => {
                if let Refusal::TooLarge { .. } = refused.why {
                    // Submissions bound a batch by the largest entry of the log, so this is a defect.
                    tracing::error!("{}; the node will not get past this entry", refused.why);
                }
                self.refused.push_front((number, refused.records));
                false
            }
        }
    }
}

fn hard_state(vote: Vote, commit: u64) -> HardState {
    HardState { term: vote.term, vote: vote.node, commit }
}

/// An entry of the log in the form that Raft takes.
pub(in crate::consensus) fn loaded(e: Entry) -> LogEntry {
    let kind = if e.kind == KIND_BATCH { EntryKind::Batch } else { EntryKind::Membership };
    LogEntry { index: e.index, term: e.term, kind, payload: e.data }
}

fn stored(e: LogEntry) -> Entry {
    let kind = match e.kind {
        EntryKind::Batch => KIND_BATCH,
        EntryKind::Membership => KIND_MEMBERSHIP,
    };
    Entry { term: e.term, index: e.index, kind, data: e.payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paddock_storage::LogOptions;
    use paddock_storage::fault::FaultDisk;
    use paddock_storage::log::Flushing;
    use std::sync::Arc;

    fn journal(queue_bytes_max: u64) -> Journal {
        let mut options = LogOptions::new("/log", 1);
        (options.disk, options.flushing) = (Arc::new(FaultDisk::new()), Flushing::Manual);
        options.queue_bytes_max = queue_bytes_max;
        Journal::new(Log::open(options).unwrap().0)
    }

    fn drain(number: u64, index: Option<u64>) -> Effects {
        let entry = |index| LogEntry { index, term: 1, kind: EntryKind::Batch, payload: vec![7; 100].into() };
        Effects { number, entries: index.map(entry).into_iter().collect(), ..Effects::default() }
    }

    #[test]
    fn drains_without_a_record_do_not_gather_while_a_disk_hangs_or_refuses() {
        for queue_bytes_max in [1 << 20, 150] {
            let mut journal = journal(queue_bytes_max);
            journal.append(&mut drain(1, Some(1)), 0);
            journal.append(&mut drain(2, Some(2)), 0);
            assert_eq!(journal.is_refusing(), queue_bytes_max == 150);
            for number in 3..10_000 {
                journal.append(&mut drain(number, None), 0);
                assert_eq!(journal.poll(), None);
            }
            journal.append(&mut drain(10_000, Some(3)), 0);
            assert!(journal.taken.len() + journal.refused.len() <= 3);
            let mut persisted = Vec::new();
            while journal.is_behind() {
                journal.flush();
                persisted.extend(journal.poll());
            }
            assert_eq!(persisted.last(), Some(&10_000));
            assert!(persisted.iter().all(|number| [1, 9999, 10_000].contains(number)), "{persisted:?}");
        }
    }
}
