//! The leader's session deadlines.
//!
//! Owns one deadline for each session, rounded up to whole ticks as in ZooKeeper (spec 02 §7.2). A session
//! expires between its timeout and one tick more after its last sign of life.
//! Never expires a session itself: it names the sessions that are due, once.
//! Correct because each session lies in one valid bucket, not later than its deadline. A touch only writes
//! the new deadline; the session moves to its later bucket when the earlier one comes due. A stall of this
//! node shifts all deadlines in one addition ([`Expiry::shift`]).
#![forbid(unsafe_code)]

use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};

const NS_PER_MS: u64 = 1_000_000;

/// Deadlines of all sessions. Times are in ns of the caller's clock.
#[derive(Debug)]
pub struct Expiry {
    tick_ns: u64,
    /// Sum of all stalls. Deadlines are kept in `now - shifted_ns`.
    shifted_ns: u64,
    sessions: HashMap<i64, Armed, RandomState>,
    /// Sessions by the tick at which to check them. May name sessions that are gone or lie in another bucket
    /// by now.
    buckets: BTreeMap<u64, Vec<i64>>,
}

#[derive(Debug)]
struct Armed {
    timeout_ns: u64,
    /// Tick at which the session expires.
    deadline: u64,
    /// Bucket that holds the session, never later than `deadline`; `None` once the session was named as
    /// expired.
    bucket: Option<u64>,
}

impl Expiry {
    /// `tick_ns` is ZooKeeper's tick time; 0 counts as 1.
    pub fn new(tick_ns: u64) -> Expiry {
        Expiry {
            tick_ns: tick_ns.max(1),
            shifted_ns: 0,
            sessions: HashMap::default(),
            buckets: BTreeMap::new(),
        }
    }

    /// Gives a session its full timeout from now. For a session that was opened or attached, whose expiry
    /// could not be proposed, or that a new leader takes over.
    pub fn arm(&mut self, session: i64, timeout_ms: i32, now_ns: u64) {
        let timeout_ns = u64::try_from(timeout_ms).unwrap_or(0) * NS_PER_MS;
        let deadline = self.round(now_ns, timeout_ns);
        let bucket = match self.sessions.get(&session) {
            Some(Armed { bucket: Some(bucket), .. }) if *bucket <= deadline => *bucket,
            _ => {
                self.buckets.entry(deadline).or_default().push(session);
                deadline
            }
        };
        self.sessions.insert(session, Armed { timeout_ns, deadline, bucket: Some(bucket) });
    }

    /// Extends a session that showed a sign of life. A late report never shortens the deadline. Sessions
    /// that are unknown, or were named as expired, stay so.
    pub fn touch(&mut self, session: i64, now_ns: u64) {
        let logical_ns = now_ns.saturating_sub(self.shifted_ns);
        if let Some(armed) = self.sessions.get_mut(&session) {
            let deadline = (logical_ns.saturating_add(armed.timeout_ns)) / self.tick_ns + 1;
            armed.deadline = armed.deadline.max(deadline);
        }
    }

    /// Gives an expired session its full timeout again: it showed a sign of life before its expiry was
    /// proposed.
    pub fn revive(&mut self, session: i64, now_ns: u64) {
        let Some(timeout_ns) = self.sessions.get(&session).map(|armed| armed.timeout_ns) else { return };
        let deadline = self.round(now_ns, timeout_ns);
        if let Some(armed) = self.sessions.get_mut(&session).filter(|armed| armed.bucket.is_none()) {
            armed.deadline = armed.deadline.max(deadline);
            armed.bucket = Some(armed.deadline);
            self.buckets.entry(armed.deadline).or_default().push(session);
        }
    }

    /// Drops a session whose close or expiry was applied.
    pub fn remove(&mut self, session: i64) {
        self.sessions.remove(&session);
    }

    /// Replaces all sessions by `sessions` (id, timeout in ms), each with its full timeout from now. For a
    /// restart or an election.
    pub fn restart(&mut self, sessions: impl IntoIterator<Item = (i64, i32)>, now_ns: u64) {
        self.sessions.clear();
        self.buckets.clear();
        for (session, timeout_ms) in sessions {
            self.arm(session, timeout_ms, now_ns);
        }
    }

    /// Sessions whose deadline has passed, each named once. The caller proposes their expiry or calls
    /// [`arm`](Expiry::arm).
    pub fn expired(&mut self, now_ns: u64) -> Vec<i64> {
        let now_tick = now_ns.saturating_sub(self.shifted_ns) / self.tick_ns;
        let mut due = Vec::new();
        while let Some(first) = self.buckets.first_entry() {
            let tick = *first.key();
            if tick > now_tick {
                break;
            }
            for session in first.remove() {
                let Some(armed) = self.sessions.get_mut(&session) else { continue };
                if armed.bucket != Some(tick) {
                    continue;
                }
                if armed.deadline <= now_tick {
                    armed.bucket = None;
                    due.push(session);
                } else {
                    armed.bucket = Some(armed.deadline);
                    self.buckets.entry(armed.deadline).or_default().push(session);
                }
            }
        }
        due
    }

    /// Moves all deadlines by a time in which this node could not hear clients or not write its log.
    pub fn shift(&mut self, by_ns: u64) {
        self.shifted_ns = self.shifted_ns.saturating_add(by_ns);
    }

    /// The time to call [`expired`](Expiry::expired) again. No session expires earlier. May be too early,
    /// since a touch does not move its session.
    pub fn next_deadline(&self) -> Option<u64> {
        let (tick, _) = self.buckets.first_key_value()?;
        Some(tick.saturating_mul(self.tick_ns).saturating_add(self.shifted_ns))
    }

    /// Sessions known, including those that were named as expired and not removed yet.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// `floor((now + timeout) / tick + 1)`: later than the timeout by at most one tick.
    fn round(&self, now_ns: u64, timeout_ns: u64) -> u64 {
        now_ns.saturating_sub(self.shifted_ns).saturating_add(timeout_ns) / self.tick_ns + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 1_000 * NS_PER_MS;
    const MS: u64 = NS_PER_MS;

    fn at(ms: u64) -> u64 {
        ms * MS
    }

    #[test]
    fn a_session_dies_at_the_tick_after_its_timeout() {
        let mut expiry = Expiry::new(TICK_NS);
        expiry.arm(1, 2_000, at(90));
        assert_eq!(expiry.next_deadline(), Some(at(3_000)));
        assert!(expiry.expired(at(2_999)).is_empty());
        assert_eq!(expiry.expired(at(3_000)), [1]);
        assert!(expiry.expired(at(9_000)).is_empty(), "named once");
        // Exactly on a tick the session still gets one more tick: floor(x / tick + 1).
        expiry.arm(2, 3_000, at(1_000));
        assert!(expiry.expired(at(4_999)).is_empty());
        assert_eq!(expiry.expired(at(5_000)), [2]);
    }

    #[test]
    fn touches_keep_it_alive_and_late_news_do_not_kill() {
        let mut expiry = Expiry::new(TICK_NS);
        expiry.arm(1, 2_000, 0);
        for ms in (500..60_000).step_by(500) {
            expiry.touch(1, at(ms));
            assert!(expiry.expired(at(ms)).is_empty(), "{ms}");
        }
        expiry.touch(1, at(10));
        assert!(expiry.expired(at(61_999)).is_empty());
        assert_eq!(expiry.expired(at(62_000)), [1]);
        expiry.touch(1, at(62_100));
        assert!(expiry.expired(at(90_000)).is_empty(), "an expiry under way is not taken back by a touch");
        expiry.arm(1, 2_000, at(90_000));
        assert_eq!(expiry.expired(at(93_000)), [1], "but by an attach, or when it could not be proposed");
    }

    #[test]
    fn removed_and_unknown_sessions_never_expire() {
        let mut expiry = Expiry::new(TICK_NS);
        expiry.arm(1, 1_000, 0);
        expiry.remove(1);
        expiry.touch(1, 0);
        expiry.touch(2, 0);
        assert!(expiry.is_empty());
        assert!(expiry.expired(at(100_000)).is_empty());
        assert_eq!(expiry.next_deadline(), None);
    }

    #[test]
    fn a_shorter_timeout_at_attach_counts_from_now() {
        let mut expiry = Expiry::new(TICK_NS);
        expiry.arm(1, 20_000, 0);
        expiry.arm(1, 2_000, 0);
        assert_eq!(expiry.next_deadline(), Some(at(3_000)));
        assert_eq!(expiry.expired(at(3_000)), [1]);
        assert!(expiry.expired(at(30_000)).is_empty(), "the entry left in the old bucket is dead");
        expiry.arm(2, 2_000, at(30_000));
        expiry.arm(2, 20_000, at(30_000));
        assert!(expiry.expired(at(50_999)).is_empty());
        assert_eq!(expiry.expired(at(51_000)), [2]);
    }

    #[test]
    fn a_stall_of_ours_kills_nobody() {
        let mut expiry = Expiry::new(TICK_NS);
        expiry.arm(1, 2_000, 0);
        expiry.shift(60_000 * MS);
        assert_eq!(expiry.next_deadline(), Some(at(63_000)));
        assert!(expiry.expired(at(62_999)).is_empty());
        expiry.touch(1, at(62_000));
        assert!(expiry.expired(at(64_999)).is_empty());
        assert_eq!(expiry.expired(at(65_000)), [1]);
    }

    #[test]
    fn after_a_restart_everybody_has_a_full_timeout() {
        let mut expiry = Expiry::new(TICK_NS);
        expiry.arm(9, 1_000, 0);
        expiry.restart([(1, 2_000), (2, 5_000)], at(100_500));
        assert_eq!(expiry.len(), 2);
        assert!(expiry.expired(at(102_999)).is_empty());
        assert_eq!(expiry.expired(at(103_000)), [1]);
        assert_eq!(expiry.expired(at(106_000)), [2]);
    }

    /// Compares with the definition over random histories: no session expires early, and none lives a tick
    /// too long.
    #[test]
    fn lazy_buckets_agree_with_one_deadline_per_session() {
        use proptest::prelude::*;
        let step = (0u8..4, 0i64..6, 0u64..2_500);
        proptest!(|(steps in proptest::collection::vec(step, 1..200))| {
            let mut expiry = Expiry::new(TICK_NS);
            let mut model: HashMap<i64, (u64, u64)> = HashMap::new();
            let mut now_ms = 0;
            for (what, session, amount_ms) in steps {
                now_ms += amount_ms;
                let timeout_ms = 1_000 + 700 * session as u64;
                let deadline = |timeout_ms: u64| (now_ms + timeout_ms) / 1_000 + 1;
                match what {
                    0 => {
                        expiry.arm(session, timeout_ms as i32, at(now_ms));
                        model.insert(session, (deadline(timeout_ms), timeout_ms));
                    }
                    1 => {
                        expiry.remove(session);
                        model.remove(&session);
                    }
                    _ => {
                        expiry.touch(session, at(now_ms));
                        if let Some((at_tick, timeout_ms)) = model.get_mut(&session) {
                            *at_tick = (*at_tick).max(deadline(*timeout_ms));
                        }
                    }
                }
                let mut due = expiry.expired(at(now_ms));
                due.sort_unstable();
                let mut wanted: Vec<i64> =
                    model.iter().filter(|(_, (tick, _))| *tick <= now_ms / 1_000).map(|(id, _)| *id).collect();
                wanted.sort_unstable();
                prop_assert_eq!(&due, &wanted);
                for id in due {
                    model.remove(&id);
                    expiry.remove(id);
                }
                let next = model.values().map(|(tick, _)| at(tick * 1_000)).min();
                prop_assert!(next.is_none_or(|next| expiry.next_deadline().is_some_and(|asked| asked <= next)));
            }
        });
    }
}
