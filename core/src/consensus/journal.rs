//! What Raft gives out to be made durable, on its way into the log.
//!
//! Owns the log and the order in which drains of the group become durable. Never waits: the log's own thread writes
//! and syncs. It stays correct because a drain counts as persisted only when its last record and all before it are
//! durable, and because records that the log refused (its queue or the disk is full) are handed over again, first,
//! before any later ones: nothing Raft has seen is ever skipped. What waits is bounded by the records that Raft gives out, however many
//! drains have none.

use super::group::{Effects, EntryKind, LogEntry, Vote};
use crate::mutation::{Mutation, mutated};
use paddock_storage::log::Refusal;
use paddock_storage::{Entry, HardState, Log, Record, State, Ticket};
use std::collections::VecDeque;

/// [`Entry::kind`] of a batch or an empty entry.
pub(super) const KIND_BATCH: u8 = 0;
/// [`Entry::kind`] of a change of membership.
pub(super) const KIND_MEMBERSHIP: u8 = 1;

/// See the module doc.
pub(super) struct Journal {
    log: Log,
    /// Refused, in order, with the numbers of their drains.
    refused: VecDeque<(u64, Vec<Record>)>,
    /// Taken and not durable yet.
    taken: VecDeque<(u64, Ticket)>,
    last_ticket: Ticket,
    /// As of the last [`Journal::poll`] and the last [`Journal::look`].
    seen: (Ticket, State),
    /// Payload bytes handed over since the last [`Journal::take_bytes`].
    bytes: u64,
    /// The index of commit that was recorded last.
    noted: u64,
    /// Where the log begins since it was last let go.
    truncated: Option<u64>,
}

impl Journal {
    pub(super) fn new(log: Log) -> Self {
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

    /// Hands over what a drain wants to be durable. `applied` is what is known to be committed, and recorded where that is
    /// worth it: never more, since a record of it may survive a crash that takes the entries behind it.
    pub(super) fn append(&mut self, effects: &mut Effects, applied: u64) {
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
            // A disk without room refuses for days, while rounds are confirmed: what has nothing to write takes no place of its own.
            Some((number, _)) if records.is_empty() => *number = effects.number,
            Some(_) => self.refused.push_back((effects.number, records)),
            None => {
                self.hand_over(effects.number, records);
            }
        }
    }

    /// Hands refused records over again, and tells the newest drain that is durable with all before it.
    pub(super) fn poll(&mut self) -> Option<u64> {
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

    /// Whether the log takes entries, and if not, why.
    pub(super) fn look(&mut self) -> &State {
        self.seen.1 = self.log.state();
        &self.seen.1
    }

    /// Whether the log had no room for entries when it was last looked at.
    pub(super) fn was_full(&self) -> bool {
        matches!(self.seen.1, State::WritesStopped { .. })
    }

    /// Whether [`Journal::poll`] or [`Journal::look`] would tell something: the log has got on since, or a drain with nothing to write stands
    /// behind records that were durable before it came.
    pub(super) fn has_news(&self) -> bool {
        let durable = self.log.durable().ticket;
        durable != self.seen.0
            || self.log.state() != self.seen.1
            || self.taken.front().is_some_and(|(_, ticket)| *ticket <= durable)
    }

    /// Whether it has none now.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.log.state(), State::WritesStopped { .. })
    }

    /// Whether [`Journal::flush`] has something to do: records wait, or a full disk is to be asked again.
    pub(super) fn wants_flush(&self) -> bool {
        self.is_behind() || matches!(self.log.state(), State::WritesStopped { .. })
    }

    /// Where nobody else does it: writes and syncs what waits.
    pub(super) fn flush(&mut self) {
        self.log.flush_turn();
    }

    /// Whether something handed over is not durable yet.
    pub(super) fn is_behind(&self) -> bool {
        !self.taken.is_empty() || !self.refused.is_empty()
    }

    /// Whether the log refused something that it has not taken since.
    pub(super) fn is_refusing(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Payload bytes handed over since the last call.
    pub(super) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Nobody needs entries up to `index` any more: two snapshots contain them.
    pub(super) fn forget(&mut self, index: u64) {
        self.log.truncate_prefix(index + 1);
        self.truncated = Some(index + 1);
    }

    /// Where the log begins, if that has changed since the last call.
    pub(super) fn take_truncated(&mut self) -> Option<u64> {
        self.truncated.take()
    }

    /// `false`: refused, and kept at the front.
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
                    // The intake bounds a batch by what the log takes; beyond it there is no way on.
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

/// What the log holds, as the group sees it.
pub(super) fn loaded(e: Entry) -> LogEntry {
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
