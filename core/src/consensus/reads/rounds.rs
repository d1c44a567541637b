//! Read rounds: confirmations by the quorum, each shared by everything on this node that waits for one.
//!
//! Owns the waiting syncs, each with the number of the last command before it. Owns also the node's own
//! freshness, and the shards' reports of sessions heard from.
//!
//! Never answers from a round that began before its waiter arrived.
//!
//! Correct because a waiter joins a round before the leader is asked. A sync is answered only when this
//! node has applied the round's index and knows the result of every command submitted before the sync. A
//! lost round is begun again under another number: at once under a new leader, otherwise after a retry
//! period. Raft drops rounds silently while it has no leader, and links break.
//!
//! A beat is a round that carries sessions. The leader notes them before it asks its quorum. So after a
//! confirmed beat, each later leader either knows these reports or was elected later and gave every session
//! a full timeout.

use crate::commit::Ticket;
use crate::mutation::{Mutation, mutated};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Confirmations kept until their indexes are applied. Above the bound the oldest one is dropped, and its
/// reports renew no lease. With beats of 1 s alone, the bound is reached only while apply is blocked for a
/// minute.
const FRESH_KEPT_MAX: usize = 64;

/// A sync's ticket, and the number in the node's stream that it waits for.
type Waiting = (Ticket, u64);

#[derive(Debug)]
struct Round {
    number: u64,
    begun_ns: u64,
    /// Whether the node that was asked does not lead.
    lost: bool,
    members: Vec<Waiting>,
    beat: Option<Beat>,
}

/// The sessions and reports in a beat.
#[derive(Debug, Default)]
struct Beat {
    touched: BTreeSet<i64>,
    /// Time of each shard's newest report in the beat, ns.
    reports: BTreeMap<u16, u64>,
}

/// A confirmed round, until its index is applied.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::consensus) struct Fresh {
    /// The time at which the node was up to date.
    pub(in crate::consensus) at_ns: u64,
    /// The leader has these shards' reports up to these times.
    pub(in crate::consensus) reports: BTreeMap<u16, u64>,
}

/// A round to be sent to the leader.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::consensus) struct Begun {
    pub(in crate::consensus) number: u64,
    pub(in crate::consensus) touched: Vec<i64>,
}

/// See the module doc.
#[derive(Debug)]
pub(in crate::consensus) struct Rounds {
    beat_ns: u64,
    /// Time after which an unanswered round is lost, ns.
    retry_ns: u64,
    /// When the last beat was begun.
    last_beat_ns: Option<u64>,
    arrived: Vec<Waiting>,
    next_beat: Beat,
    round: Option<Round>,
    /// With the index at which they may be answered, in the order of rounds.
    confirmed: Vec<(Waiting, u64)>,
    fresh: VecDeque<(u64, Fresh)>,
    /// Index of the last confirmed round.
    last_index: u64,
    last_number: u64,
}

impl Rounds {
    /// A beat begins every `beat_ns`, and an unanswered round is lost after `retry_ns`. Rounds are numbered
    /// from `start` + 1. No other start of the node may share these numbers: the leader may still confirm
    /// rounds from before a restart.
    pub(in crate::consensus) fn new(beat_ns: u64, retry_ns: u64, start: u64) -> Self {
        Self {
            beat_ns,
            retry_ns,
            last_beat_ns: None,
            arrived: Vec::new(),
            next_beat: Beat::default(),
            round: None,
            confirmed: Vec::new(),
            fresh: VecDeque::new(),
            last_index: 0,
            last_number: start,
        }
    }

    /// Adds syncs, each with the last number before it.
    pub(in crate::consensus) fn add_syncs(&mut self, syncs: &mut Vec<Waiting>) {
        self.arrived.append(syncs);
    }

    /// The commands above `last` were withdrawn and will never have a result.
    pub(in crate::consensus) fn withdrawn(&mut self, last: u64) {
        let round = self.round.iter_mut().flat_map(|r| &mut r.members);
        let confirmed = self.confirmed.iter_mut().map(|(waiting, _)| waiting);
        for (_, behind) in self.arrived.iter_mut().chain(round).chain(confirmed) {
            *behind = (*behind).min(last);
        }
        debug_assert!(self.confirmed.iter().all(|((_, behind), _)| *behind <= last));
    }

    /// A shard reports sessions heard from.
    pub(in crate::consensus) fn report(&mut self, shard: u16, at_ns: u64, sessions: &[i64]) {
        self.next_beat.touched.extend(sessions);
        let newest = self.next_beat.reports.entry(shard).or_default();
        *newest = at_ns.max(*newest);
    }

    /// Returns the round to begin now, if one is due. `beats`: the node needs freshness.
    pub(in crate::consensus) fn begin(&mut self, now_ns: u64, beats: bool) -> Option<Begun> {
        debug_assert!(self.is_consistent());
        if self.retry_at_ns().is_some_and(|at| now_ns < at) {
            return None;
        }
        let due = beats && self.last_beat_ns.is_none_or(|at| now_ns >= at.saturating_add(self.beat_ns));
        let lost = self.round.take();
        if lost.is_none() && self.arrived.is_empty() && !due {
            return None;
        }
        // Waiters that arrived after the lost round began arrived before the new one, so they join it.
        let (mut members, lost_beat) = lost.map_or_else(Default::default, |r| (r.members, r.beat));
        members.append(&mut self.arrived);
        let mut beat = lost_beat;
        if due || beat.is_some() {
            let newer = std::mem::take(&mut self.next_beat);
            let beat = beat.get_or_insert_default();
            beat.touched.extend(newer.touched);
            for (shard, at_ns) in newer.reports {
                beat.reports.insert(shard, at_ns);
            }
            self.last_beat_ns = Some(now_ns);
        }
        self.last_number += 1;
        let number = self.last_number;
        let touched = beat.as_ref().map_or_else(Vec::new, |b| b.touched.iter().copied().collect());
        self.round = Some(Round { number, begun_ns: now_ns, lost: false, members, beat });
        debug_assert!(self.is_consistent() && self.arrived.is_empty());
        Some(Begun { number, touched })
    }

    /// The leader changed since the round was sent, or the receiver did not lead. The round under way is
    /// begun again at once.
    pub(in crate::consensus) fn mark_lost(&mut self) {
        if let Some(round) = &mut self.round {
            round.lost = true;
        }
    }

    /// A round is confirmed and counts from `index` on.
    pub(in crate::consensus) fn confirm(&mut self, number: u64, index: u64) {
        debug_assert!(self.is_consistent());
        let Some(round) = self.round.take_if(|r| r.number == number) else { return };
        self.last_index = index;
        // Waiters of an earlier round arrived before this round too. A leader that died may have named an
        // index that was never committed.
        for (_, at) in &mut self.confirmed {
            *at = index.min(*at);
        }
        self.confirmed.extend(round.members.into_iter().map(|m| (m, index)));
        // Every confirmed round proves that the node was up to date when the round began. Only a beat
        // confirms reports.
        let reports = round.beat.map_or_else(BTreeMap::new, |b| b.reports);
        if self.fresh.len() >= FRESH_KEPT_MAX {
            self.fresh.pop_front();
        }
        self.fresh.push_back((index, Fresh { at_ns: round.begun_ns, reports }));
        debug_assert!(self.is_consistent() && self.round.is_none());
    }

    /// Index of the last confirmed round. A node that receives no entries learns the commit index only in
    /// this way. An index from a leader that died since may be too high, and the next round corrects it.
    pub(in crate::consensus) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// A standalone node needs no confirmation. Kept ones are dropped, since they would only be outdated
    /// later.
    pub(in crate::consensus) fn forget_freshness(&mut self) {
        self.fresh.clear();
    }

    /// Whether confirmed syncs wait for entries or for results.
    pub(in crate::consensus) fn has_confirmed_syncs(&self) -> bool {
        !self.confirmed.is_empty()
    }

    /// Takes the syncs that may be answered: all entries up to `applied` are applied, and no client waits for
    /// the result of a command up to `answered`.
    pub(in crate::consensus) fn ready(
        &mut self,
        applied: u64,
        answered: u64,
    ) -> impl Iterator<Item = Ticket> {
        self.confirmed
            .extract_if(.., move |((_, behind), index)| {
                (*index <= applied || mutated(Mutation::StaleSync)) && *behind <= answered
            })
            .map(|((ticket, _), _)| ticket)
    }

    /// Takes the next confirmation whose index is applied. Earlier ones that still wait are dropped: a
    /// leader that died may have named an index that was never committed.
    pub(in crate::consensus) fn fresh(&mut self, applied: u64) -> Option<Fresh> {
        let next = self.fresh.iter().position(|(index, _)| *index <= applied)?;
        self.fresh.drain(..next);
        self.fresh.pop_front().map(|(_, fresh)| fresh)
    }

    /// When a round must be begun at the latest.
    pub(in crate::consensus) fn deadline_ns(&self, beats: bool) -> Option<u64> {
        let beat = beats.then(|| self.last_beat_ns.map_or(0, |at| at.saturating_add(self.beat_ns)));
        self.retry_at_ns().or(beat)
    }

    /// The round under way has the last number, and the kept confirmations are bounded.
    fn is_consistent(&self) -> bool {
        let round = self.round.as_ref().is_none_or(|round| round.number == self.last_number);
        round && self.fresh.len() <= FRESH_KEPT_MAX
    }

    fn retry_at_ns(&self) -> Option<u64> {
        let round = self.round.as_ref()?;
        Some(if round.lost { round.begun_ns } else { round.begun_ns.saturating_add(self.retry_ns) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: u64 = 100;

    fn rounds() -> Rounds {
        Rounds::new(1000, RETRY, 0)
    }

    fn ticket(token: u64) -> Ticket {
        Ticket { shard: 0, token }
    }

    fn begin(s: &mut Rounds, now_ns: u64) -> Option<u64> {
        s.begin(now_ns, false).map(|b| b.number)
    }

    fn ready(s: &mut Rounds, applied: u64, resolved: u64) -> Vec<u64> {
        s.ready(applied, resolved).map(|t| t.token).collect()
    }

    #[test]
    fn a_round_begun_before_a_sync_does_not_serve_it() {
        let mut s = rounds();
        s.add_syncs(&mut vec![(ticket(1), 0)]);
        assert_eq!(begin(&mut s, 0), Some(1));
        s.add_syncs(&mut vec![(ticket(2), 0)]);
        assert_eq!(begin(&mut s, 1), None);
        s.confirm(1, 5);
        assert_eq!(ready(&mut s, 5, 0), [1]);
        assert_eq!(begin(&mut s, 2), Some(2));
        s.confirm(2, 6);
        assert!(ready(&mut s, 5, 0).is_empty());
        assert_eq!(ready(&mut s, 6, 0), [2]);
        assert_eq!((begin(&mut s, 3), s.deadline_ns(false)), (None, None));
    }

    #[test]
    fn a_lost_round_is_begun_again_and_its_late_answer_counts_for_nothing() {
        let mut s = rounds();
        s.add_syncs(&mut vec![(ticket(1), 0)]);
        begin(&mut s, 0);
        s.add_syncs(&mut vec![(ticket(2), 0)]);
        assert_eq!(begin(&mut s, RETRY), Some(2));
        s.confirm(1, 5);
        assert!(ready(&mut s, 9, 0).is_empty());
        s.confirm(2, 6);
        assert_eq!(ready(&mut s, 9, 0), [1, 2]);
    }

    #[test]
    fn a_round_sent_to_an_earlier_leader_is_begun_again_at_once_and_may_still_be_confirmed() {
        let mut s = rounds();
        s.report(1, 10, &[7]);
        s.begin(20, true);
        s.mark_lost();
        assert_eq!(s.deadline_ns(true), Some(20));
        let again = s.begin(21, true).unwrap();
        assert_eq!((again.number, again.touched, s.begin(22, true)), (2, vec![7], None));
        s.mark_lost();
        s.confirm(again.number, 1);
        assert_eq!(s.fresh(1), Some(Fresh { at_ns: 21, reports: [(1, 10)].into() }));
        assert_eq!(s.begin(23, true), None);
    }

    #[test]
    fn a_sync_waits_for_the_commands_before_it() {
        let mut s = rounds();
        s.add_syncs(&mut vec![(ticket(1), 7)]);
        begin(&mut s, 0);
        s.confirm(1, 5);
        assert!(ready(&mut s, 5, 6).is_empty());
        assert_eq!(ready(&mut s, 5, 7), [1]);
    }

    #[test]
    fn a_beat_confirms_only_the_reports_that_it_carried_and_only_when_applied() {
        let mut s = rounds();
        s.report(0, 40, &[7, 5]);
        let begun = s.begin(50, true).unwrap();
        assert_eq!(begun.touched, [5, 7]);
        s.report(0, 60, &[9]);
        s.confirm(begun.number, 3);
        assert_eq!(s.fresh(2), None);
        assert_eq!(s.fresh(3), Some(Fresh { at_ns: 50, reports: [(0, 40)].into() }));
        assert_eq!((s.begin(1049, true), s.deadline_ns(true)), (None, Some(1050)));
        assert_eq!(s.begin(1050, true).unwrap().touched, [9]);
    }

    #[test]
    fn a_lost_beat_keeps_its_sessions_and_takes_its_new_time() {
        let mut s = rounds();
        s.report(1, 10, &[7]);
        s.begin(20, true);
        s.report(1, 30, &[8]);
        let again = s.begin(20 + RETRY, true).unwrap();
        assert_eq!(again.touched, [7, 8]);
        s.confirm(again.number, 1);
        assert_eq!(s.fresh(1), Some(Fresh { at_ns: 20 + RETRY, reports: [(1, 30)].into() }));
    }

    #[test]
    fn an_answer_to_an_earlier_start_of_the_node_counts_for_nothing() {
        let (mut before, mut s) = (Rounds::new(1000, RETRY, 1 << 32), Rounds::new(1000, RETRY, 2 << 32));
        let (old, new) = (before.begin(0, true).unwrap(), s.begin(5, true).unwrap());
        s.confirm(old.number, 3);
        assert_eq!(s.fresh(9), None);
        s.confirm(new.number, 4);
        assert!(s.fresh(9).is_some());
    }

    #[test]
    fn an_index_that_was_never_committed_does_not_hold_up_later_rounds() {
        let mut s = rounds();
        s.add_syncs(&mut vec![(ticket(1), 0)]);
        let lost = s.begin(0, true).unwrap();
        s.confirm(lost.number, 105);
        s.add_syncs(&mut vec![(ticket(2), 0)]);
        let next = s.begin(1000, true).unwrap();
        s.confirm(next.number, 100);
        assert_eq!(ready(&mut s, 100, 0), [1, 2]);
        assert_eq!(s.fresh(100).map(|f| f.at_ns), Some(1000));
        assert_eq!(s.fresh(200), None);
    }

    #[test]
    fn a_sync_behind_a_withdrawn_command_is_answered() {
        let mut s = rounds();
        s.add_syncs(&mut vec![(ticket(1), 9)]);
        s.withdrawn(7);
        begin(&mut s, 0);
        s.confirm(1, 5);
        assert_eq!(ready(&mut s, 5, 7), [1]);
    }

    #[test]
    fn confirmations_that_nothing_takes_are_bounded() {
        let mut s = rounds();
        for n in 0..10 * FRESH_KEPT_MAX as u64 {
            let begun = s.begin(n * 1000, true).unwrap();
            s.confirm(begun.number, 1);
        }
        assert_eq!(s.fresh.len(), FRESH_KEPT_MAX);
        s.forget_freshness();
        assert_eq!(s.fresh(9), None);
    }
}
