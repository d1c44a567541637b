//! Who is wrong when two nodes differ about the state.
//!
//! Owns, for a few recent disputes, which node computed which digest at the disputed zxid. Never looks at the state itself. It
//! stays correct because a node that finds a difference applies nothing more until a majority of the voters has said
//! what it computed: then whoever is not of the majority's opinion stops, a leader like any other, and the rest goes on.
//! A node that has applied the disputed entry without complaint, and remembers no digest so old, is of the opinion that
//! stands in the log. Beside the entries, every read round tells the leader what its sender has.

use std::collections::{BTreeMap, BTreeSet};

/// Divergences remembered; each is of one zxid, and the oldest goes first. One node that is wrong has one at a time.
const DISPUTES_MAX: usize = 8;

/// Entries remembered whose proposers were wrong: what one leader has under way before it stops, many times over.
pub(in crate::consensus) const ACCEPTED_MAX: usize = 1024;

/// How often a node that waits for a verdict asks again.
pub(in crate::consensus) const ASK_AGAIN_NS: u64 = 500_000_000;

/// An entry that this node does not apply until a majority has spoken: what its proposer wrote about the state just after
/// the command of `zxid`, and what was found here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Divergence {
    pub(in crate::consensus) index: u64,
    pub(in crate::consensus) zxid: i64,
    pub(in crate::consensus) logged: u64,
    pub(in crate::consensus) found: u64,
}

/// What a majority thinks of a node's own digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) enum Verdict {
    /// It is the majority's.
    Right,
    /// The majority has this one.
    Different(u64),
    /// No majority has spoken.
    Open,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Divergences {
    /// By zxid: who has which digest, as long as it is not settled.
    pub(in crate::consensus) opinions: BTreeMap<i64, BTreeMap<u8, u64>>,
    /// By zxid: what a majority has. Whoever comes to speak later changes nothing.
    settled: BTreeMap<i64, u64>,
    /// The one that holds up this node, and when it last asked.
    pub(in crate::consensus) own: Option<(Divergence, u64)>,
    /// Entries that were applied although their proposers were wrong.
    pub(in crate::consensus) accepted: BTreeSet<u64>,
}

impl Divergences {
    /// Whether this node waits for a verdict.
    pub(in crate::consensus) fn is_waiting(&self) -> bool {
        self.own.is_some()
    }

    /// A node computed `digest` at `zxid`.
    pub(in crate::consensus) fn hear(&mut self, zxid: i64, node: u8, digest: u64) {
        if self.settled.contains_key(&zxid) {
            return;
        }
        self.opinions.entry(zxid).or_default().insert(node, digest);
        while self.opinions.len() > DISPUTES_MAX {
            self.opinions.pop_first();
        }
    }

    /// What a majority of `voters` thinks of `own`.
    pub(in crate::consensus) fn verdict(&self, zxid: i64, own: u64, voters: &BTreeSet<u8>) -> Verdict {
        match self.majority(zxid, voters) {
            Some(digest) if digest == own => Verdict::Right,
            Some(digest) => Verdict::Different(digest),
            None => Verdict::Open,
        }
    }

    /// What a majority of `voters` has.
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

    /// A majority has this, and there is nothing more to be learnt of it.
    pub(in crate::consensus) fn settle(&mut self, zxid: i64, digest: u64) {
        self.opinions.remove(&zxid);
        self.settled.insert(zxid, digest);
        while self.settled.len() > DISPUTES_MAX {
            self.settled.pop_first();
        }
    }

    /// The zxids in dispute and not settled.
    pub(in crate::consensus) fn zxids(&self) -> Vec<i64> {
        self.opinions.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_is_wrong_whoever_leads() {
        let mut d = Divergences::default();
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(d.verdict(5, 7, &voters), Verdict::Open);
        d.hear(5, 1, 7);
        // An observer's opinion does not count.
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
    fn what_a_majority_has_decided_costs_no_later_turn_whoever_speaks_late() {
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
        assert_eq!(d.settled.len(), DISPUTES_MAX);
    }

    #[test]
    fn old_disputes_are_forgotten() {
        let mut d = Divergences::default();
        for zxid in 0..100 {
            d.hear(zxid, 1, 7);
        }
        assert_eq!(d.zxids().len(), DISPUTES_MAX);
        assert_eq!(d.zxids()[0], 92);
    }
}
