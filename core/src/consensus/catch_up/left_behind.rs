//! Followers that miss entries and acknowledge none, as the leader sees them.
//!
//! Owns the index that each follower last acknowledged, the time of that acknowledgement, and when the log
//! last named the follower.
//!
//! Never decides what the leader sends.
//!
//! Correct because it reads Raft's own progress. Bounded because it holds one record for each member.

use crate::consensus::raft::Progress;
use crate::log_throttle::LogThrottle;
use std::collections::BTreeMap;

/// Time without an acknowledgement, while entries are missing, after which a follower counts as left behind.
/// Longer than an election, a restart with a small tree, and the two pauses of a transfer that failed.
pub(in crate::consensus) const LEFT_BEHIND_NS: u64 = 10_000_000_000;
/// Time between two lines of the log about one follower that stays left behind.
const SAY_AGAIN_NS: u64 = 60_000_000_000;

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct LeftBehind {
    followers: BTreeMap<u64, Follower>,
}

#[derive(Debug, Default)]
struct Follower {
    /// Last index that the follower acknowledged.
    matched: u64,
    /// Time at which the follower acknowledged `matched`, or last missed no entry.
    since_ns: u64,
    /// Rate limit of the lines of the log about this follower.
    log_limit: LogThrottle,
    /// Whether the log has named the follower since it was last up to date.
    named: bool,
}

/// One follower that is left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Straggler {
    pub(in crate::consensus) node: u64,
    /// Entries of the leader's log that the follower has not acknowledged.
    pub(in crate::consensus) entries: u64,
    /// Time since the last acknowledgement, ns.
    pub(in crate::consensus) still_ns: u64,
    /// Whether the log is to name the follower now.
    pub(in crate::consensus) say: bool,
}

impl Straggler {
    /// A line about the follower for the log. `why` says what keeps entries from it.
    pub(in crate::consensus) fn text(&self, why: &str) -> String {
        format!(
            "node {} is {} entries behind and has acknowledged none for {} s: {why}",
            self.node,
            self.entries,
            self.still_ns / 1_000_000_000
        )
    }
}

impl LeftBehind {
    /// Compares the followers' progress with that of the last call. `last` is the last index of the leader's
    /// log. A node that does not lead has empty `progress`, and forgets all followers.
    pub(in crate::consensus) fn look(
        &mut self,
        progress: &[Progress],
        own: u64,
        last: u64,
        now_ns: u64,
    ) -> Vec<Straggler> {
        self.followers.retain(|node, _| progress.iter().any(|p| p.node == *node));
        let mut stragglers = Vec::new();
        for p in progress.iter().filter(|p| p.node != own) {
            let fresh = Follower { matched: p.matched, since_ns: now_ns, ..Follower::default() };
            let follower = self.followers.entry(p.node).or_insert(fresh);
            if p.matched != follower.matched || p.matched >= last {
                (follower.matched, follower.since_ns) = (p.matched, now_ns);
            }
            let still_ns = now_ns.saturating_sub(follower.since_ns);
            if still_ns < LEFT_BEHIND_NS {
                if std::mem::take(&mut follower.named) {
                    follower.log_limit = LogThrottle::default();
                    tracing::info!("node {} acknowledges entries again, up to entry {}", p.node, p.matched);
                }
                continue;
            }
            let say = follower.log_limit.admit(now_ns, SAY_AGAIN_NS).is_some();
            follower.named |= say;
            stragglers.push(Straggler { node: p.node, entries: last - p.matched, still_ns, say });
        }
        stragglers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(matched: u64) -> [Progress; 2] {
        let of = |node, matched| Progress { node, matched, active: true, learner: false, snapshot: false };
        [of(1, 900), of(2, matched)]
    }

    /// Stragglers of each second. Node 2 has then acknowledged `matched(second)`, and the leader's log ends
    /// at `last`.
    fn watch(
        behind: &mut LeftBehind,
        from: u64,
        to: u64,
        last: u64,
        matched: impl Fn(u64) -> u64,
    ) -> Vec<Straggler> {
        (from..to).flat_map(|s| behind.look(&at(matched(s)), 1, last, s * S)).collect()
    }

    #[test]
    fn a_follower_that_acknowledges_nothing_is_named_once_a_minute_with_what_it_misses() {
        let mut behind = LeftBehind::default();
        let found = watch(&mut behind, 100, 240, 900, |_| 600);
        assert_eq!(found[0], Straggler { node: 2, entries: 300, still_ns: 10 * S, say: true });
        assert_eq!(found.len(), 130, "at each look from the tenth second on");
        let said: Vec<u64> = found.iter().filter(|s| s.say).map(|s| s.still_ns / S).collect();
        assert_eq!(said, [10, 70, 130]);
        assert_eq!(
            found[0].text("no link to it"),
            "node 2 is 300 entries behind and has acknowledged none for 10 s: no link to it"
        );
    }

    #[test]
    fn a_follower_that_catches_up_slowly_or_misses_nothing_is_not_named() {
        assert_eq!(watch(&mut LeftBehind::default(), 100, 200, 900, |s| s), []);
        assert_eq!(watch(&mut LeftBehind::default(), 100, 200, 900, |_| 900), []);
    }

    #[test]
    fn the_time_of_a_follower_begins_anew_with_an_acknowledgement_and_with_another_leader() {
        let mut behind = LeftBehind::default();
        assert_eq!(watch(&mut behind, 100, 111, 900, |_| 600).len(), 1);
        assert_eq!(watch(&mut behind, 111, 121, 900, |_| 601), []);
        assert_eq!(watch(&mut behind, 121, 122, 900, |_| 601).len(), 1);
        assert_eq!(behind.look(&[], 1, 900, 122 * S), [], "it does not lead any more");
        assert_eq!(watch(&mut behind, 123, 133, 900, |_| 601), []);
    }
}
