//! Who is wrong when two nodes differ about the state.
//!
//! Owns, for a few recent disputes, which node computed which digest at the disputed zxid. Never looks at the state itself. It
//! stays correct because a node that finds a difference applies nothing more until a majority of the voters has said
//! what it computed: then whoever is not of the majority's opinion stops, a leader like any other, and the rest goes on.
//! A node that has applied the disputed entry without complaint, and remembers no digest so old, is of the opinion that
//! stands in the log. Beside the entries, every read round tells the leader what its sender has.

use super::control::StopReason;
use super::engine::Consensus;
use super::group::Group;
use crate::peers::Message;
use paddock_transport::io::Io;
use std::collections::{BTreeMap, BTreeSet};

/// Disputes remembered; each is of one zxid, and the oldest goes first. One node that is wrong has one at a time.
const DISPUTES_MAX: usize = 8;

/// Entries remembered whose proposers were wrong: what one leader has under way before it stops, many times over.
const ACCEPTED_MAX: usize = 1024;

/// How often a node that waits for a verdict asks again.
const ASK_AGAIN_NS: u64 = 500_000_000;

/// An entry that this node does not apply until a majority has spoken: what its proposer wrote about the state just after
/// the command of `zxid`, and what was found here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dispute {
    pub(super) index: u64,
    pub(super) zxid: i64,
    pub(super) logged: u64,
    pub(super) found: u64,
}

/// What a majority thinks of a node's own digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is the majority's.
    Right,
    /// The majority has this one.
    Wrong(u64),
    /// No majority has spoken.
    Open,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Disputes {
    /// By zxid: who has which digest, as long as it is not settled.
    opinions: BTreeMap<i64, BTreeMap<u8, u64>>,
    /// By zxid: what a majority has. Whoever comes to speak later changes nothing.
    settled: BTreeMap<i64, u64>,
    /// The one that holds up this node, and when it last asked.
    own: Option<(Dispute, u64)>,
    /// Entries that were applied although their proposers were wrong.
    accepted: BTreeSet<u64>,
}

impl Disputes {
    /// Whether this node waits for a verdict.
    pub(super) fn is_waiting(&self) -> bool {
        self.own.is_some()
    }

    /// A node computed `digest` at `zxid`.
    pub(super) fn hear(&mut self, zxid: i64, node: u8, digest: u64) {
        if self.settled.contains_key(&zxid) {
            return;
        }
        self.opinions.entry(zxid).or_default().insert(node, digest);
        while self.opinions.len() > DISPUTES_MAX {
            self.opinions.pop_first();
        }
    }

    /// What a majority of `voters` thinks of `own`.
    pub(super) fn verdict(&self, zxid: i64, own: u64, voters: &BTreeSet<u8>) -> Verdict {
        match self.majority(zxid, voters) {
            Some(digest) if digest == own => Verdict::Right,
            Some(digest) => Verdict::Wrong(digest),
            None => Verdict::Open,
        }
    }

    /// What a majority of `voters` has.
    fn majority(&self, zxid: i64, voters: &BTreeSet<u8>) -> Option<u64> {
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
    fn settle(&mut self, zxid: i64, digest: u64) {
        self.opinions.remove(&zxid);
        self.settled.insert(zxid, digest);
        while self.settled.len() > DISPUTES_MAX {
            self.settled.pop_first();
        }
    }

    /// The zxids in dispute and not settled.
    pub(super) fn zxids(&self) -> Vec<i64> {
        self.opinions.keys().copied().collect()
    }
}

impl Consensus {
    /// The next entry says something else about the state than this node: it waits for a majority's opinion.
    pub(super) fn dispute(&mut self, dispute: Dispute) {
        let Dispute { index, zxid, logged, found } = dispute;
        tracing::error!(
            "entry {index} of the log says that the digest at zxid 0x{zxid:x} is {logged:016x}; here it is {found:016x}. \
             Nothing is applied until a majority has said what it has"
        );
        self.disputes.hear(zxid, self.node, found);
        self.disputes.own = Some((dispute, 0));
    }

    /// A peer disputes an entry: it is told what this node has.
    pub(super) fn answer_dispute(&mut self, from: u8, dispute: Dispute, io: &mut Io) {
        let Dispute { index, zxid, logged, found } = dispute;
        self.disputes.hear(zxid, from, found);
        let agreed = self.applier.index >= index && !self.disputes.accepted.contains(&index);
        if let Some(digest) = self.applier.machine.digest_at(zxid).or(agreed.then_some(logged)) {
            self.disputes.hear(zxid, self.node, digest);
            // To all: who is wrong must hear it from a majority, and may not be the one who asks.
            for (node, _) in self.links.up() {
                self.links.send(node, &Message::Computed { zxid, digest }, io);
            }
        }
    }

    /// A read round tells what its sender has: if this node has something else, everybody is asked.
    pub(super) fn compare(&mut self, from: u8, zxid: i64, digest: u64, io: &mut Io) {
        let Some(own) = self.applier.machine.digest_at(zxid).filter(|own| *own != digest) else { return };
        tracing::error!(
            "node {from} has digest {digest:016x} at zxid 0x{zxid:x}, this node {own:016x}: whoever is not of the majority's \
             opinion stops"
        );
        self.disputes.hear(zxid, from, digest);
        self.disputes.hear(zxid, self.node, own);
        // Of no entry: nobody has accepted it yet.
        let question = Message::Disputed { index: u64::MAX, zxid, logged: own, digest: own };
        for (node, _) in self.links.up() {
            self.links.send(node, &question, io);
        }
    }

    /// Asks, and draws the consequences of what was answered.
    pub(super) fn settle_disputes(&mut self, now_ns: u64, io: &mut Io) -> Result<(), StopReason> {
        if self.disputes.opinions.is_empty() && self.disputes.own.is_none() {
            return Ok(());
        }
        let voters: BTreeSet<u8> = self.group.membership().voters.iter().map(|&v| v as u8).collect();
        for zxid in self.disputes.zxids() {
            let Some(logged) = self.disputes.majority(zxid, &voters) else { continue };
            match self.applier.machine.digest_at(zxid) {
                Some(found) if found != logged => {
                    let index = self.applier.index;
                    return Err(StopReason::Diverged { zxid, found, logged, index });
                }
                // This node has yet to come there.
                None if zxid > self.applier.machine.zxid() => {}
                Some(_) | None => self.disputes.settle(zxid, logged),
            }
        }
        let Some((dispute, asked_ns)) = self.disputes.own else { return Ok(()) };
        let Dispute { index, zxid, logged, found } = dispute;
        // Told even if the others have said enough already: whoever is wrong must hear it from a majority.
        if asked_ns == 0 || now_ns.saturating_sub(asked_ns) >= ASK_AGAIN_NS {
            self.disputes.own = Some((dispute, now_ns));
            for (node, _) in self.links.up() {
                self.links.send(node, &Message::Disputed { index, zxid, logged, digest: found }, io);
            }
        }
        if self.disputes.verdict(zxid, found, &voters) == Verdict::Right {
            tracing::warn!("a majority has the same state at zxid 0x{zxid:x} as this node, which goes on");
            self.applier.accepted = index;
            self.disputes.accepted.insert(index);
            while self.disputes.accepted.len() > ACCEPTED_MAX {
                self.disputes.accepted.pop_first();
            }
            self.disputes.own = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_is_wrong_whoever_leads() {
        let mut d = Disputes::default();
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(d.verdict(5, 7, &voters), Verdict::Open);
        d.hear(5, 1, 7);
        // An observer's opinion does not count.
        d.hear(5, 9, 8);
        d.hear(5, 2, 8);
        assert_eq!(d.verdict(5, 7, &voters), Verdict::Open);
        d.hear(5, 3, 8);
        assert_eq!((d.verdict(5, 7, &voters), d.verdict(5, 8, &voters)), (Verdict::Wrong(8), Verdict::Right));
    }

    #[test]
    fn what_a_majority_has_decided_costs_no_later_turn_whoever_speaks_late() {
        let mut d = Disputes::default();
        let voters = BTreeSet::from([1, 2, 3]);
        d.hear(5, 1, 7);
        d.hear(5, 2, 7);
        assert_eq!(d.majority(5, &voters), Some(7));
        d.settle(5, 7);
        d.hear(5, 3, 8);
        assert!(d.zxids().is_empty());
        // It is remembered for an entry that says otherwise.
        assert_eq!((d.verdict(5, 7, &voters), d.verdict(5, 8, &voters)), (Verdict::Right, Verdict::Wrong(7)));
        (0..100).for_each(|zxid| d.settle(zxid, 7));
        assert_eq!(d.settled.len(), DISPUTES_MAX);
    }

    #[test]
    fn old_disputes_are_forgotten() {
        let mut d = Disputes::default();
        for zxid in 0..100 {
            d.hear(zxid, 1, 7);
        }
        assert_eq!(d.zxids().len(), DISPUTES_MAX);
        assert_eq!(d.zxids()[0], 92);
    }
}
