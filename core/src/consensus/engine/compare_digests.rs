//! Digests of replicas, compared with each other.
//!
//! Owns no state. Never looks at the state itself. Correct because a node that finds a difference applies nothing more until a majority of
//! the voters has said what it computed.

use super::Consensus;
use crate::consensus::apply::divergence::*;
use crate::consensus::control::StopReason;
use crate::peers::Message;
use paddock_transport::io::Io;
use std::collections::BTreeSet;

impl Consensus {
    /// The next entry says something else about the state than this node: it waits for a majority's opinion.
    pub(super) fn note_divergence(&mut self, dispute: Divergence) {
        let Divergence { index, zxid, logged, found } = dispute;
        tracing::error!(
            "entry {index} of the log says that the digest at zxid 0x{zxid:x} is {logged:016x}; here it is {found:016x}. \
             Nothing is applied until a majority has said what it has"
        );
        self.divergences.hear(zxid, self.node, found);
        self.divergences.own = Some((dispute, 0));
    }

    /// A peer disputes an entry: it is told what this node has.
    pub(super) fn answer_divergence(&mut self, from: u8, dispute: Divergence, io: &mut Io) {
        let Divergence { index, zxid, logged, found } = dispute;
        self.divergences.hear(zxid, from, found);
        let agreed = self.applier.index >= index && !self.divergences.accepted.contains(&index);
        if let Some(digest) = self.applier.machine.digest_at(zxid).or(agreed.then_some(logged)) {
            self.divergences.hear(zxid, self.node, digest);
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
        self.divergences.hear(zxid, from, digest);
        self.divergences.hear(zxid, self.node, own);
        // Of no entry: nobody has accepted it yet.
        let question = Message::Disputed { index: u64::MAX, zxid, logged: own, digest: own };
        for (node, _) in self.links.up() {
            self.links.send(node, &question, io);
        }
    }

    /// Asks, and draws the consequences of what was answered.
    pub(super) fn settle_divergences(&mut self, now_ns: u64, io: &mut Io) -> Result<(), StopReason> {
        if self.divergences.opinions.is_empty() && self.divergences.own.is_none() {
            return Ok(());
        }
        let voters: BTreeSet<u8> = self.raft.membership().voters.iter().map(|&v| v as u8).collect();
        for zxid in self.divergences.zxids() {
            let Some(logged) = self.divergences.majority(zxid, &voters) else { continue };
            match self.applier.machine.digest_at(zxid) {
                Some(found) if found != logged => {
                    let index = self.applier.index;
                    return Err(StopReason::Diverged { zxid, found, logged, index });
                }
                // This node has yet to come there.
                None if zxid > self.applier.machine.zxid() => {}
                Some(_) | None => self.divergences.settle(zxid, logged),
            }
        }
        let Some((dispute, asked_ns)) = self.divergences.own else { return Ok(()) };
        let Divergence { index, zxid, logged, found } = dispute;
        // Told even if the others have said enough already: whoever is wrong must hear it from a majority.
        if asked_ns == 0 || now_ns.saturating_sub(asked_ns) >= ASK_AGAIN_NS {
            self.divergences.own = Some((dispute, now_ns));
            for (node, _) in self.links.up() {
                self.links.send(node, &Message::Disputed { index, zxid, logged, digest: found }, io);
            }
        }
        if self.divergences.verdict(zxid, found, &voters) == Verdict::Right {
            tracing::warn!("a majority has the same state at zxid 0x{zxid:x} as this node, which goes on");
            self.applier.accepted = index;
            self.divergences.accepted.insert(index);
            while self.divergences.accepted.len() > ACCEPTED_MAX {
                self.divergences.accepted.pop_first();
            }
            self.divergences.own = None;
        }
        Ok(())
    }
}
