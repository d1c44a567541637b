//! When sessions die: the leader's deadlines, made fair against our own slowness.
//!
//! Owns the expiry wheel, the sessions that are due and not yet proposed, and the account of our own stalls. Never
//! expires anything itself: it proposes commands. It stays fair by four rules:
//!
//! - time in which nothing could be logged does not count ([`SessionExpiry::pause`]);
//! - a turn that comes late, measured against when it was due, shifts all deadlines by the delay;
//! - after a long silence (the shards' rings were not read: we may have been stopped without knowing, or what hangs at the disk let
//!   nothing more in), a deadline is looked at twice, with time enough in between for every shard to report whom it heard from;
//! - whoever begins to lead gives all sessions their full timeout.
//!
//! Only a leader has deadlines. A session whose expiry is on its way may still be heard from, here or through another node:
//! whoever hears of it learns how it stands with it ([`SessionExpiry::touched`]). Nobody may be told that its report counts while
//! its expiry is about to be ordered behind what it was told.

use crate::commit::{Outcome, SessionEvent};
use crate::consensus::config::{EXPIRIES_PER_BATCH_MAX, STALL_NS};
use crate::machine::{Applied, Machine};
use crate::mutation::{Mutation, mutated};
use crate::session::Expiry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a shard's report may take beyond its beat: being scheduled, a full turn.
const REPORT_SLACK_NS: u64 = 100_000_000;

/// How it stands with sessions that were heard from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// All live.
    Living,
    /// The expiry of one stands in the log: the report counts from there on at the earliest.
    Dying,
    /// The expiry of one will be proposed, nobody knows where: the report counts for nothing yet.
    Condemned,
}

/// See the module doc.
pub(super) struct SessionExpiry {
    expiry: Expiry,
    /// Named as expired, not proposed yet.
    due: VecDeque<i64>,
    /// Time within which every shard reports.
    report_ns: u64,
    leading: bool,
    /// Given out to expire, not applied; whether the expiry stands in the log.
    dying: BTreeMap<i64, bool>,
    last_turn_ns: u64,
    /// When the shards' rings were read last.
    listened_ns: u64,
    /// When the next turn was to come at the latest.
    expected_ns: Option<u64>,
    paused_since: Option<u64>,
    /// Until when nobody expires, because of a long silence.
    grace_until: u64,
}

impl SessionExpiry {
    /// `tick_ns` is the unit of expiry; shards report every `beat_ns`.
    pub(super) fn new(tick_ns: u64, beat_ns: u64) -> Self {
        Self {
            expiry: Expiry::new(tick_ns),
            due: VecDeque::new(),
            report_ns: beat_ns + REPORT_SLACK_NS,
            leading: false,
            dying: BTreeMap::new(),
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
        self.dying.clear();
        // By id: the order in which sessions that are due together expire is seen in the log.
        let sessions = machine.sessions().sorted();
        self.expiry.restart(sessions.into_iter().map(|(id, s)| (id, s.timeout_ms)), now_ns);
    }

    /// This node leads no more: deadlines are somebody else's.
    pub(super) fn follow(&mut self) {
        self.leading = false;
        self.due.clear();
        self.dying.clear();
        self.expiry.restart([], 0);
    }

    /// A turn begins. `true`: we were stopped before it.
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

    /// The shards' rings are read.
    pub(super) fn listen(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.listened_ns) > 2 * self.report_ns {
            self.grace_until = self.grace_until.max(now_ns + self.report_ns);
        }
        self.listened_ns = now_ns;
    }

    /// A turn ends; the next one is due at `expected_ns` at the latest. Work that is overdue already (more sessions are due
    /// than one batch takes) is due now: its age is no stall of ours.
    pub(super) fn expect(&mut self, expected_ns: Option<u64>) {
        self.expected_ns = expected_ns.map(|at| at.max(self.last_turn_ns));
    }

    /// Nothing can be proposed for now: sessions whose expiry stands in no entry are due as before, and may still be heard from. Nobody's
    /// round waits for what becomes of them. `true`: there are such, and whoever was given their expiries must forget them.
    pub(super) fn spare(&mut self) -> bool {
        let before = self.due.len();
        let spared = self.dying.iter().filter(|(_, ordered)| !**ordered).map(|(session, _)| *session);
        self.due.extend(spared);
        self.dying.retain(|_, ordered| *ordered);
        self.due.len() > before
    }

    /// Some node heard from these sessions. Those that are due and not given out live on.
    pub(super) fn touched(&mut self, sessions: &[i64], at_ns: u64) -> Heard {
        if mutated(Mutation::ExpireEarly) {
            return Heard::Living;
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
        let standing = sessions.iter().filter_map(|session| self.dying.get(session));
        match standing.copied().min() {
            None => Heard::Living,
            Some(true) => Heard::Dying,
            Some(false) => Heard::Condemned,
        }
    }

    /// The expiry of a session stands in the log.
    pub(super) fn ordered(&mut self, session: i64) {
        if let Some(ordered) = self.dying.get_mut(&session) {
            *ordered = true;
        }
    }

    /// A client with the right password is about to come back to a session: it must not be expired under its hands.
    pub(super) fn returning(&mut self, session: i64, timeout_ms: i32, now_ns: u64) {
        self.due.retain(|&s| s != session);
        self.expiry.arm(session, timeout_ms, now_ns);
    }

    /// A batch was applied: sessions came and went.
    pub(super) fn applied(&mut self, applied: &Applied, now_ns: u64) {
        if !self.leading {
            return;
        }
        for event in &applied.sessions {
            if let SessionEvent::Closed { session } = event {
                self.expiry.remove(*session);
                self.dying.remove(session);
                // Closed by its client while it was due: nobody is left to expire.
                self.due.retain(|due| due != session);
            }
        }
        for result in &applied.results {
            if let Outcome::Attached { session, timeout_ms, .. } = result.outcome {
                self.returning(session, timeout_ms, now_ns);
            }
        }
    }

    /// While nothing can be logged nobody expires, and the time does not count.
    pub(super) fn pause(&mut self, paused: bool, now_ns: u64) {
        if !self.leading {
            return;
        }
        match (self.paused_since, paused) {
            (None, true) => self.paused_since = Some(now_ns),
            (Some(since), false) => {
                self.paused_since = None;
                let paused_ns = now_ns.saturating_sub(since);
                // Shorter ones are part of a busy day: counting them would let sessions live for ever under load.
                if paused_ns >= STALL_NS {
                    self.expiry.shift(paused_ns);
                    // Shards could not report either: their rings were not read.
                    self.grace_until = self.grace_until.max(now_ns + self.report_ns);
                }
            }
            _ => {}
        }
    }

    /// Sessions to expire with the next batch.
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
            self.dying.insert(session, false);
            propose(session);
        }
    }

    /// Sessions whose expiry is given out and stands in no entry.
    #[cfg(test)]
    pub(super) fn condemned(&self) -> usize {
        self.dying.values().filter(|ordered| !**ordered).count()
    }

    /// When somebody may have to be expired next; `None` while paused or when there is nobody.
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
    fn a_mass_expiry_is_no_stall_and_gives_nobody_more_time() {
        // Long after the boot of the machine, where a deadline of 0 is days ago.
        let begin = 90_000_000 * MS;
        let (tree, _) = crate::tree::tree(1);
        let machine = Machine::new(&tree);
        let mut deadlines = SessionExpiry::new(2000 * MS, 1000 * MS);
        deadlines.turn(begin);
        deadlines.lead(begin, &machine);
        let many = 3 * EXPIRIES_PER_BATCH_MAX as i64;
        for session in 0..many {
            deadlines.expiry.arm(session, 4000, begin);
        }
        deadlines.expiry.arm(many, 10_000, begin);
        let mut died = Vec::new();
        for ms in (0..13_000).step_by(200) {
            let now_ns = begin + ms * MS;
            assert!(!deadlines.turn(now_ns), "no turn came late");
            deadlines.expired(now_ns, |session| died.push((session, ms)));
            deadlines.expect(deadlines.next_ns());
        }
        assert_eq!(died.len() as i64, many + 1);
        let (last, at_ms) = *died.last().expect("some died");
        assert_eq!(last, many);
        assert!((10_000..=12_000).contains(&at_ms), "died after {at_ms} ms");
    }

    #[test]
    fn a_session_heard_from_before_its_expiry_stands_in_the_log_is_never_reported_as_living() {
        let (tree, _) = crate::tree::tree(1);
        let mut deadlines = SessionExpiry::new(2000 * MS, 1000 * MS);
        deadlines.turn(0);
        deadlines.lead(0, &Machine::new(&tree));
        let many = 2 * EXPIRIES_PER_BATCH_MAX as i64;
        for session in 0..many {
            deadlines.expiry.arm(session, 4000, 0);
        }
        deadlines.grace_until = 0;
        let mut died = Vec::new();
        deadlines.expired(6000 * MS, |session| died.push(session));
        assert_eq!(died.len(), EXPIRIES_PER_BATCH_MAX);
        // Given out, but in no entry yet: no index tells when its report may count.
        assert_eq!(deadlines.touched(&died[..1], 6000 * MS), Heard::Condemned);
        died.iter().for_each(|session| deadlines.ordered(*session));
        assert_eq!(deadlines.touched(&died[..1], 6000 * MS), Heard::Dying);
        // Due, and not given out: it lives on, and dies a whole timeout later.
        let saved = (0..many).find(|s| !died.contains(s)).expect("half are left");
        assert_eq!(deadlines.touched(&[saved], 6000 * MS), Heard::Living);
        let mut later = Vec::new();
        deadlines.expired(6000 * MS, |session| later.push(session));
        assert!(!later.contains(&saved) && later.len() == EXPIRIES_PER_BATCH_MAX - 1);
        deadlines.expired(12_000 * MS, |session| later.push(session));
        assert!(later.contains(&saved));
    }

    #[test]
    fn an_expiry_that_cannot_be_proposed_condemns_nobody() {
        let (tree, _) = crate::tree::tree(1);
        let mut deadlines = SessionExpiry::new(2000 * MS, 1000 * MS);
        deadlines.turn(0);
        deadlines.lead(0, &Machine::new(&tree));
        (1..=3).for_each(|session| deadlines.expiry.arm(session, 4000, 0));
        deadlines.grace_until = 0;
        deadlines.expired(6000 * MS, |_| ());
        deadlines.ordered(3);
        assert!(deadlines.spare() && !deadlines.spare());
        // One of them is heard from, and one expires with the next batch.
        assert_eq!(deadlines.touched(&[1], 6000 * MS), Heard::Living);
        assert_eq!(deadlines.touched(&[3], 6000 * MS), Heard::Dying);
        let mut died = Vec::new();
        deadlines.expired(6000 * MS, |session| died.push(session));
        assert_eq!(died, [2]);
    }

    #[test]
    fn a_session_closed_while_it_was_due_is_not_expired() {
        let (tree, _) = crate::tree::tree(1);
        let mut deadlines = SessionExpiry::new(2000 * MS, 1000 * MS);
        deadlines.turn(0);
        deadlines.lead(0, &Machine::new(&tree));
        let many = EXPIRIES_PER_BATCH_MAX as i64 + 1;
        (0..many).for_each(|session| deadlines.expiry.arm(session, 4000, 0));
        deadlines.grace_until = 0;
        let mut died = Vec::new();
        deadlines.expired(6000 * MS, |session| died.push(session));
        let left = (0..many).find(|s| !died.contains(s)).expect("one more than a batch takes");
        let closed = SessionEvent::Closed { session: left };
        deadlines.applied(&Applied { sessions: vec![closed], ..Applied::default() }, 6000 * MS);
        deadlines.expired(6000 * MS, |session| panic!("{session:x} is gone already"));
    }
}
