//! Digests of replicas, compared with each other.
//!
//! Owns no state. Never reads the state itself. Correct because a node that finds a difference applies
//! nothing more until a majority of the voters has reported its digest.

use super::Consensus;
use crate::consensus::apply::divergence::*;
use crate::consensus::control::StopReason;
use crate::peers::Message;
use paddock_transport::io::Io;
use std::collections::BTreeSet;

impl Consensus {
    /// The next entry carries another digest than this node computed. This node stops applying until a
    /// majority has reported.
    pub(super) fn note_divergence(&mut self, dispute: Divergence) {
        let Divergence { index, zxid, logged, found } = dispute;
        tracing::error!(
            "entry {index} of the log says that the digest at zxid 0x{zxid:x} is {logged:016x}; here it is {found:016x}. \
             Nothing is applied until a majority has reported its digest"
        );
        self.divergences.hear(zxid, self.node, found);
        self.divergences.own = Some((dispute, 0));
    }

    /// A peer reports a divergence. This node replies with its own digest at that zxid.
    pub(super) fn answer_divergence(&mut self, from: u8, dispute: Divergence, io: &mut Io) {
        let Divergence { index, zxid, logged, found } = dispute;
        self.divergences.hear(zxid, from, found);
        let agreed = self.applier.index >= index && !self.divergences.accepted.contains(&index);
        if let Some(digest) = self.applier.machine.digest_at(zxid).or(agreed.then_some(logged)) {
            self.divergences.hear(zxid, self.node, digest);
            // To all nodes: the node that diverged must receive a majority's digests, and it may not be the
            // one that asked.
            for (node, _) in self.links.up() {
                self.links.send(node, &Message::Computed { zxid, digest }, io);
            }
        }
    }

    /// A round carries its sender's digest. If this node has another one, it asks all nodes.
    pub(super) fn compare_digest(&mut self, from: u8, zxid: i64, digest: u64, io: &mut Io) {
        let Some(own) = self.applier.machine.digest_at(zxid).filter(|own| *own != digest) else { return };
        tracing::error!(
            "node {from} has digest {digest:016x} at zxid 0x{zxid:x}, this node {own:016x}: the node that differs from the \
             majority stops"
        );
        self.divergences.hear(zxid, from, digest);
        self.divergences.hear(zxid, self.node, own);
        // The difference concerns no entry, and no node has accepted it yet.
        let question = Message::Disputed { index: u64::MAX, zxid, logged: own, digest: own };
        for (node, _) in self.links.up() {
            self.links.send(node, &question, io);
        }
    }

    /// Repeats this node's question, and acts on the digests that a majority has reported.
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
                // This node has not applied that zxid yet.
                None if zxid > self.applier.machine.zxid() => {}
                Some(_) | None => self.divergences.settle(zxid, logged),
            }
        }
        let Some((dispute, asked_ns)) = self.divergences.own else { return Ok(()) };
        let Divergence { index, zxid, logged, found } = dispute;
        // Sent even if enough reports have arrived: the node that diverged must receive a majority's
        // digests.
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
