//! Replicas that differ: which node computed which digest.
//!
//! Owns, for a few recent zxids, the digest that each node reported, and what a majority reported. Never
//! reads the state itself. Correct because a node that finds a difference applies nothing more until a
//! majority of the voters has reported. Then a node that differs from the majority stops, the leader too, and
//! the rest goes on. A node that has applied the entry and keeps no digest so old counts for the digest in
//! the log. Every read round also tells the leader the digest of its sender.

use std::collections::{BTreeMap, BTreeSet};

/// Zxids that are remembered; the oldest is dropped first. A node that differs has one at a time.
const DIVERGENCES_MAX: usize = 8;

/// Entries whose proposers differed from the majority: many times what one leader has in flight before it
/// stops.
pub(in crate::consensus) const ACCEPTED_MAX: usize = 1024;

/// Time after which a node that waits for the majority asks again.
pub(in crate::consensus) const ASK_AGAIN_NS: u64 = 500_000_000;

/// An entry that this node does not apply until a majority has reported. `logged` is the digest just after
/// the command of `zxid` as the entry's proposer recorded it; `found` is the digest of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Divergence {
    pub(in crate::consensus) index: u64,
    pub(in crate::consensus) zxid: i64,
    pub(in crate::consensus) logged: u64,
    pub(in crate::consensus) found: u64,
}

/// How a digest compares with the majority's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) enum Verdict {
    /// The majority has the same digest.
    Right,
    /// The majority has this other digest.
    Different(u64),
    /// No digest has a majority yet.
    Open,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Divergences {
    /// By zxid, until a majority agrees: the digest of each node.
    pub(in crate::consensus) opinions: BTreeMap<i64, BTreeMap<u8, u64>>,
    /// By zxid: the digest of a majority. Later reports change nothing.
    settled: BTreeMap<i64, u64>,
    /// The entry that this node does not apply, and when it last asked, ns.
    pub(in crate::consensus) own: Option<(Divergence, u64)>,
    /// Entries that were applied although their proposers differed from the majority.
    pub(in crate::consensus) accepted: BTreeSet<u64>,
}

impl Divergences {
    /// Whether this node waits for a majority.
    pub(in crate::consensus) fn is_waiting(&self) -> bool {
        self.own.is_some()
    }

    /// Takes the report that `node` has `digest` at `zxid`.
    pub(in crate::consensus) fn hear(&mut self, zxid: i64, node: u8, digest: u64) {
        if self.settled.contains_key(&zxid) {
            return;
        }
        self.opinions.entry(zxid).or_default().insert(node, digest);
        while self.opinions.len() > DIVERGENCES_MAX {
            self.opinions.pop_first();
        }
    }

    /// Compares `own` with the digest of a majority of `voters`.
    pub(in crate::consensus) fn verdict(&self, zxid: i64, own: u64, voters: &BTreeSet<u8>) -> Verdict {
        match self.majority(zxid, voters) {
            Some(digest) if digest == own => Verdict::Right,
            Some(digest) => Verdict::Different(digest),
            None => Verdict::Open,
        }
    }

    /// The digest that a majority of `voters` has.
    pub(in crate::consensus) fn majority(&self, zxid: i64, voters: &BTreeSet<u8>) -> Option<u64> {
        if let Some(digest) = self.settled.get(&zxid) {
            return Some(*digest);
        }
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, digest) in self.opinions.get(&zxid)?.iter().filter(|(node, _)| voters.contains(node)) {
            *counts.entry(*digest).or_default() += 1;
        }
        counts.into_iter().find(|(_, count)| *count > voters.len() / 2).map(|(digest, _)| digest)
    }

    /// Records the digest of a majority; later reports for `zxid` are ignored.
    pub(in crate::consensus) fn settle(&mut self, zxid: i64, digest: u64) {
        self.opinions.remove(&zxid);
        self.settled.insert(zxid, digest);
        while self.settled.len() > DIVERGENCES_MAX {
            self.settled.pop_first();
        }
    }

    /// The zxids without a majority.
    pub(in crate::consensus) fn zxids(&self) -> Vec<i64> {
        self.opinions.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_is_wrong_also_where_it_leads() {
        let mut d = Divergences::default();
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(d.verdict(5, 7, &voters), Verdict::Open);
        d.hear(5, 1, 7);
        // An observer's report does not count.
        d.hear(5, 9, 8);
        d.hear(5, 2, 8);
        assert_eq!(d.verdict(5, 7, &voters), Verdict::Open);
        d.hear(5, 3, 8);
        assert_eq!(
            (d.verdict(5, 7, &voters), d.verdict(5, 8, &voters)),
            (Verdict::Different(8), Verdict::Right)
        );
    }

    #[test]
    fn a_settled_zxid_costs_no_later_turn_and_late_reports_change_nothing() {
        let mut d = Divergences::default();
        let voters = BTreeSet::from([1, 2, 3]);
        d.hear(5, 1, 7);
        d.hear(5, 2, 7);
        assert_eq!(d.majority(5, &voters), Some(7));
        d.settle(5, 7);
        d.hear(5, 3, 8);
        assert!(d.zxids().is_empty());
        // It is remembered for an entry that says otherwise.
        assert_eq!(
            (d.verdict(5, 7, &voters), d.verdict(5, 8, &voters)),
            (Verdict::Right, Verdict::Different(7))
        );
        (0..100).for_each(|zxid| d.settle(zxid, 7));
        assert_eq!(d.settled.len(), DIVERGENCES_MAX);
    }

    #[test]
    fn old_divergences_are_forgotten() {
        let mut d = Divergences::default();
        for zxid in 0..100 {
            d.hear(zxid, 1, 7);
        }
        assert_eq!(d.zxids().len(), DIVERGENCES_MAX);
        assert_eq!(d.zxids()[0], 92);
    }
}
