//! Session expiry on the leader, with deadlines that are corrected for stalls of this process.
//!
//! Owns the expiry wheel, the sessions that are due and not yet proposed, and the measurement of stalls.
//!
//! Never expires a session itself: it proposes commands. Never confirms a report of a session at an index
//! below the entry that expires the session ([`SessionExpiry::touched`]). A session whose expiry is under
//! way may still be reported, by this node or another.
//!
//! Correct because deadlines exclude the time in which reports could not arrive:
//!
//! - Time in which nothing could be logged does not count ([`SessionExpiry::pause`]).
//! - A turn that begins at least [`STALL_NS`] late shifts all deadlines by the delay.
//! - After a long time without reading the shards' rings, every shard first gets time to report. The
//!   process may have been stopped, or a stuck disk may have blocked all submissions.
//! - A new leader gives all sessions their full timeout.

use crate::commit::{Outcome, SessionEvent};
use crate::consensus::config::{EXPIRIES_PER_BATCH_MAX, STALL_NS};
use crate::machine::{Applied, Machine};
use crate::mutation::{Mutation, mutated};
use crate::session::Expiry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Time that a shard's report may take beyond its beat: scheduling, and a full turn.
const REPORT_SLACK_NS: u64 = 100_000_000;

/// State of the sessions in a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TouchOutcome {
    /// No session of the report expires.
    AllLive,
    /// The log holds the expiry of one session. The report counts from that entry on at the earliest.
    ExpiryLogged,
    /// The expiry of one session will be proposed at an unknown index. The report does not count yet.
    ExpiryUnlogged,
}

/// See the module doc.
pub(super) struct SessionExpiry {
    expiry: Expiry,
    /// Sessions past their deadline whose expiry is not proposed yet.
    due: VecDeque<i64>,
    /// Time within which every shard reports, ns.
    report_ns: u64,
    leading: bool,
    /// Sessions whose expiry was passed on and is not applied, and whether the log holds it.
    expiring: BTreeMap<i64, bool>,
    last_turn_ns: u64,
    /// When the shards' rings were read last.
    listened_ns: u64,
    /// When the next turn was due at the latest, ns.
    expected_ns: Option<u64>,
    paused_since: Option<u64>,
    /// No session expires before this time, because the rings were not read for long.
    grace_until: u64,
}

impl SessionExpiry {
    /// `tick_ns`: the unit of expiry. `beat_ns`: the period of the shards' reports.
    pub(super) fn new(tick_ns: u64, beat_ns: u64) -> Self {
        Self {
            expiry: Expiry::new(tick_ns),
            due: VecDeque::new(),
            report_ns: beat_ns + REPORT_SLACK_NS,
            leading: false,
            expiring: BTreeMap::new(),
            last_turn_ns: 0,
            listened_ns: 0,
            expected_ns: None,
            paused_since: None,
            grace_until: 0,
        }
    }

    /// This node begins to lead: all sessions get their full timeout.
    pub(super) fn lead(&mut self, now_ns: u64, machine: &Machine) {
        self.leading = true;
        self.paused_since = None;
        self.due.clear();
        self.expiring.clear();
        // By id, since the order in which sessions of one deadline expire is visible in the log.
        let sessions = machine.sessions().sorted();
        self.expiry.restart(sessions.into_iter().map(|(id, s)| (id, s.timeout_ms)), now_ns);
    }

    /// This node does not lead any more, and has no deadlines.
    pub(super) fn follow(&mut self) {
        self.leading = false;
        self.due.clear();
        self.expiring.clear();
        self.expiry.restart([], 0);
    }

    /// A turn begins. `true`: the process was stalled before it.
    pub(super) fn turn(&mut self, now_ns: u64) -> bool {
        let mut stalled = false;
        if let Some(expected) = self.expected_ns {
            let late = now_ns.saturating_sub(expected);
            stalled = late >= STALL_NS;
            if stalled && self.paused_since.is_none() && !self.expiry.is_empty() {
                tracing::warn!(
                    "the consensus core was stopped for {} ms; sessions get that time",
                    late / 1_000_000
                );
                self.expiry.shift(late);
            }
        }
        self.last_turn_ns = now_ns;
        stalled
    }

    /// The shards' rings are read now.
    pub(super) fn note_rings_read(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.listened_ns) > 2 * self.report_ns {
            self.grace_until = self.grace_until.max(now_ns + self.report_ns);
        }
        self.listened_ns = now_ns;
    }

    /// A turn ends, and the next one is due at `expected_ns` at the latest. Overdue work, such as more due
    /// sessions than one batch takes, is due now: its age is no stall.
    pub(super) fn expect_next_turn(&mut self, expected_ns: Option<u64>) {
        self.expected_ns = expected_ns.map(|at| at.max(self.last_turn_ns));
    }

    /// Nothing can be proposed for now. Sessions whose expiry is not logged become due again, and reports
    /// of them count again. `true`: there are such, and the caller must drop their expiries.
    pub(super) fn requeue_unlogged(&mut self) -> bool {
        let before = self.due.len();
        let spared = self.expiring.iter().filter(|(_, logged)| !**logged).map(|(session, _)| *session);
        self.due.extend(spared);
        self.expiring.retain(|_, logged| *logged);
        self.due.len() > before
    }

    /// A node reported these sessions. Due sessions whose expiry was not passed on live on.
    pub(super) fn touched(&mut self, sessions: &[i64], at_ns: u64) -> TouchOutcome {
        if mutated(Mutation::ExpireEarly) {
            return TouchOutcome::AllLive;
        }
        if !self.due.is_empty() {
            let heard: BTreeSet<i64> = sessions.iter().copied().collect();
            let expiry = &mut self.expiry;
            self.due.retain(|session| {
                let lives = heard.contains(session);
                if lives {
                    expiry.revive(*session, at_ns);
                }
                !lives
            });
        }
        for &session in sessions {
            self.expiry.touch(session, at_ns);
        }
        let expiring = sessions.iter().filter_map(|session| self.expiring.get(session));
        match expiring.copied().min() {
            None => TouchOutcome::AllLive,
            Some(true) => TouchOutcome::ExpiryLogged,
            Some(false) => TouchOutcome::ExpiryUnlogged,
        }
    }

    /// The log holds the expiry of a session.
    pub(super) fn expiry_logged(&mut self, session: i64) {
        if let Some(logged) = self.expiring.get_mut(&session) {
            *logged = true;
        }
    }

    /// A client with the right password is about to reattach to the session, which must not expire
    /// meanwhile.
    pub(super) fn reattaching(&mut self, session: i64, timeout_ms: i32, now_ns: u64) {
        self.due.retain(|&s| s != session);
        self.expiry.arm(session, timeout_ms, now_ns);
    }

    /// A batch was applied: sessions were opened, attached or closed.
    pub(super) fn applied(&mut self, applied: &Applied, now_ns: u64) {
        if !self.leading {
            return;
        }
        for event in &applied.sessions {
            if let SessionEvent::Closed { session } = event {
                self.expiry.remove(*session);
                self.expiring.remove(session);
                // Closed by its client while it was due.
                self.due.retain(|due| due != session);
            }
        }
        for result in &applied.results {
            if let Outcome::Attached { session, timeout_ms, .. } = result.outcome {
                self.reattaching(session, timeout_ms, now_ns);
            }
        }
    }

    /// While nothing can be logged, no session expires, and the time does not count.
    pub(super) fn pause(&mut self, paused: bool, now_ns: u64) {
        if !self.leading {
            return;
        }
        match (self.paused_since, paused) {
            (None, true) => self.paused_since = Some(now_ns),
            (Some(since), false) => {
                self.paused_since = None;
                let paused_ns = now_ns.saturating_sub(since);
                // Shorter pauses are normal under load. If they counted, a loaded server would never expire
                // a session.
                if paused_ns >= STALL_NS {
                    self.expiry.shift(paused_ns);
                    // Shards could not report either, since their rings were not read.
                    self.grace_until = self.grace_until.max(now_ns + self.report_ns);
                }
            }
            _ => {}
        }
    }

    /// Passes the sessions that expire with the next batch to `propose`.
    pub(super) fn expired(&mut self, now_ns: u64, mut propose: impl FnMut(i64)) {
        if !self.leading
            || self.paused_since.is_some()
            || now_ns < self.grace_until
            || mutated(Mutation::NeverExpire)
        {
            return;
        }
        self.due.extend(self.expiry.expired(now_ns));
        for session in self.due.drain(..self.due.len().min(EXPIRIES_PER_BATCH_MAX)) {
            self.expiring.insert(session, false);
            propose(session);
        }
    }

    /// Sessions whose expiry was passed on and is in no entry.
    #[cfg(test)]
    pub(super) fn unlogged_expiries(&self) -> usize {
        self.expiring.values().filter(|logged| !**logged).count()
    }

    /// When the next session may have to expire. `None` while paused or without sessions.
    pub(super) fn next_ns(&self) -> Option<u64> {
        if !self.leading || self.paused_since.is_some() {
            return None;
        }
        let due = (!self.due.is_empty()).then_some(0);
        due.or_else(|| self.expiry.next_deadline()).map(|at| at.max(self.grace_until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_mass_expiry_is_no_stall_and_extends_no_session() {
        // Long after the boot of the machine, where a deadline of 0 lies days back.
        let begin = 90_000_000 * MS;
        let (tree, _) = crate::tree::tree(1);
        let machine = Machine::new(&tree);
        let mut tracker = SessionExpiry::new(2000 * MS, 1000 * MS);
        tracker.turn(begin);
        tracker.lead(begin, &machine);
        let many = 3 * EXPIRIES_PER_BATCH_MAX as i64;
        for session in 0..many {
            tracker.expiry.arm(session, 4000, begin);
        }
        tracker.expiry.arm(many, 10_000, begin);
        let mut died = Vec::new();
        for ms in (0..13_000).step_by(200) {
            let now_ns = begin + ms * MS;
            assert!(!tracker.turn(now_ns), "no turn came late");
            tracker.expired(now_ns, |session| died.push((session, ms)));
            tracker.expect_next_turn(tracker.next_ns());
        }
        assert_eq!(died.len() as i64, many + 1);
        let (last, at_ms) = *died.last().expect("some died");
        assert_eq!(last, many);
        assert!((10_000..=12_000).contains(&at_ms), "died after {at_ms} ms");
    }

    #[test]
    fn a_session_touched_before_its_expiry_is_logged_never_counts_as_live() {
        let (tree, _) = crate::tree::tree(1);
        let mut tracker = SessionExpiry::new(2000 * MS, 1000 * MS);
        tracker.turn(0);
        tracker.lead(0, &Machine::new(&tree));
        let many = 2 * EXPIRIES_PER_BATCH_MAX as i64;
        for session in 0..many {
            tracker.expiry.arm(session, 4000, 0);
        }
        tracker.grace_until = 0;
        let mut died = Vec::new();
        tracker.expired(6000 * MS, |session| died.push(session));
        assert_eq!(died.len(), EXPIRIES_PER_BATCH_MAX);
        // Passed on, but in no entry yet: no index exists from which the report may count.
        assert_eq!(tracker.touched(&died[..1], 6000 * MS), TouchOutcome::ExpiryUnlogged);
        died.iter().for_each(|session| tracker.expiry_logged(*session));
        assert_eq!(tracker.touched(&died[..1], 6000 * MS), TouchOutcome::ExpiryLogged);
        // Due, and not passed on: the session lives on, and expires a whole timeout later.
        let saved = (0..many).find(|s| !died.contains(s)).expect("half are left");
        assert_eq!(tracker.touched(&[saved], 6000 * MS), TouchOutcome::AllLive);
        let mut later = Vec::new();
        tracker.expired(6000 * MS, |session| later.push(session));
        assert!(!later.contains(&saved) && later.len() == EXPIRIES_PER_BATCH_MAX - 1);
        tracker.expired(12_000 * MS, |session| later.push(session));
        assert!(later.contains(&saved));
    }

    #[test]
    fn an_expiry_that_cannot_be_proposed_is_due_again() {
        let (tree, _) = crate::tree::tree(1);
        let mut tracker = SessionExpiry::new(2000 * MS, 1000 * MS);
        tracker.turn(0);
        tracker.lead(0, &Machine::new(&tree));
        (1..=3).for_each(|session| tracker.expiry.arm(session, 4000, 0));
        tracker.grace_until = 0;
        tracker.expired(6000 * MS, |_| ());
        tracker.expiry_logged(3);
        assert!(tracker.requeue_unlogged() && !tracker.requeue_unlogged());
        // One of them is reported, and one expires with the next batch.
        assert_eq!(tracker.touched(&[1], 6000 * MS), TouchOutcome::AllLive);
        assert_eq!(tracker.touched(&[3], 6000 * MS), TouchOutcome::ExpiryLogged);
        let mut died = Vec::new();
        tracker.expired(6000 * MS, |session| died.push(session));
        assert_eq!(died, [2]);
    }

    #[test]
    fn a_session_closed_while_it_was_due_is_not_expired() {
        let (tree, _) = crate::tree::tree(1);
        let mut tracker = SessionExpiry::new(2000 * MS, 1000 * MS);
        tracker.turn(0);
        tracker.lead(0, &Machine::new(&tree));
        let many = EXPIRIES_PER_BATCH_MAX as i64 + 1;
        (0..many).for_each(|session| tracker.expiry.arm(session, 4000, 0));
        tracker.grace_until = 0;
        let mut died = Vec::new();
        tracker.expired(6000 * MS, |session| died.push(session));
        let left = (0..many).find(|s| !died.contains(s)).expect("one more than a batch takes");
        let closed = SessionEvent::Closed { session: left };
        tracker.applied(&Applied { sessions: vec![closed], ..Applied::default() }, 6000 * MS);
        tracker.expired(6000 * MS, |session| panic!("{session:x} is gone already"));
    }
}
