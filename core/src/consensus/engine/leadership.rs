//! Leadership: the beginning and the end of this node's ordering, and transfers to another node.
//!
//! Owns the term in which this node orders, and an operator's request that this node lead.
//!
//! Never orders in a term before an entry of that term is applied here. Until then the applied positions of
//! the streams may be older than what a former leader ordered.
//!
//! Correct because all state that belongs to a term is dropped with the term.

use super::Consensus;
use crate::beats::MAX_STALENESS_NS;
use crate::consensus::raft::Role;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;

/// How soon a leader that stops offers leadership again after an offer without success.
const OFFER_RETRY_NS: u64 = 300_000_000;

/// Retry period for a leader whose disk is full. The disks of an ensemble often fill at the same time, so
/// the next leader may offer leadership too. Each election is a time without confirmed rounds.
const OFFER_RETRY_FULL_NS: u64 = 5_000_000_000;

const _: () = assert!(OFFER_RETRY_FULL_NS < MAX_STALENESS_NS);

/// This node's leadership, present or requested.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Leadership {
    /// The term in which this node orders, or 0.
    pub(in crate::consensus) term: u64,
    /// Batches proposed in this term and not applied.
    pub(in crate::consensus) in_flight: usize,
    /// An operator requested that this node lead.
    pub(in crate::consensus) wanted: bool,
    /// When leadership was last offered to another node.
    pub(super) offered_ns: Option<u64>,
}

impl Consensus {
    /// Notices that this node's role has changed.
    pub(super) fn lead_or_follow(&mut self, now: Now, io: &mut Io) {
        // A leader that offers leadership goes on in the same term if the transfer fails. Until then it
        // proposes nothing.
        let goes_on = self.leadership.term == self.raft.term();
        let leads = self.raft.role() == Role::Leader && (goes_on || self.raft.is_ready_to_order());
        let term = if leads { self.raft.term() } else { 0 };
        if term != self.leadership.term {
            self.change_role(term, now, io);
        }
    }

    /// Begins to order in `term`, or ceases to order (0).
    fn change_role(&mut self, term: u64, now: Now, io: &mut Io) {
        let now_ns = now.mono_ns;
        let before = std::mem::replace(&mut self.leadership.term, term);
        if before != 0 {
            tracing::warn!("this node does not lead any more (it did in term {before})");
        }
        if term != 0 && !self.raft.alone() {
            tracing::info!("this node leads in term {term}");
        }
        let own = self.leader_queues.clear(self.node);
        self.pending.restore(own, true);
        self.reads.clear();
        self.rounds.mark_lost();
        self.leadership.in_flight = 0;
        self.throttle.restart();
        self.stats.set_leading((term != 0).then_some(now.wall_ms));
        if term == 0 {
            self.session_expiry.follow();
            return;
        }
        self.session_expiry.lead(now_ns, &self.applier.machine);
        let next =
            self.leader_queues.expect(self.node, self.incarnation, self.applier.machine.stream(self.node));
        if !self.pending.rewind(next) {
            // The machine has seen commands of this start that this node never sent. Only a copied
            // directory causes that.
            tracing::error!(
                "the log expects command {next} of this node's stream, but this node never sent the ones before it. Was \
                 the data directory copied?"
            );
        }
        for (node, incarnation) in self.links.up() {
            self.send_expect(node, incarnation, io);
        }
    }

    /// Offers leadership to the voter with the longest log, unless it was just offered. If a full disk is
    /// the only reason, the transferee needs disk space.
    pub(super) fn offer_leadership(&mut self, now_ns: u64) {
        let (full, stopping) = (self.disk_space.own_full_since.is_some(), self.stopping_since.is_some());
        let pause_ns = offer_retry_ns(full, stopping);
        if self.leadership.offered_ns.is_some_and(|at| now_ns.saturating_sub(at) < pause_ns) {
            return;
        }
        if let Some(to) = self.transferee(full && !stopping) {
            self.leadership.offered_ns = Some(now_ns);
            tracing::info!("leadership is offered to node {to}");
            self.raft.transfer(to);
        }
    }

    /// The best transferee: the voter with the longest log among those with disk space. With `needs_space`, a
    /// voter without a recent report of disk space does not count.
    pub(super) fn transferee(&self, needs_space: bool) -> Option<u64> {
        let since_ns = self.disk_space.own_full_since.unwrap_or(0);
        let others = self.raft.progress().into_iter().filter(|p| {
            p.active && !p.learner && p.node != u64::from(self.node) && self.links.is_up(p.node as u8)
        });
        let ranked = others.map(|p| {
            let node = p.node as u8;
            let has_space = if needs_space {
                self.disk_space.has_room_since(node, since_ns)
            } else {
                !self.disk_space.is_full(node)
            };
            (has_space, p.matched, p.node)
        });
        let (has_space, _, node) = ranked
            .max_by_key(|(has_space, matched, node)| (*has_space, *matched, std::cmp::Reverse(*node)))?;
        (has_space || !needs_space).then_some(node)
    }

    /// Whether another voter exists that could lead. Observers cannot.
    pub(super) fn has_other_voters(&self) -> bool {
        let membership = self.raft.membership();
        membership.voters.iter().chain(&membership.outgoing).any(|voter| *voter != u64::from(self.node))
    }
}

fn offer_retry_ns(full: bool, stopping: bool) -> u64 {
    if full && !stopping { OFFER_RETRY_FULL_NS } else { OFFER_RETRY_NS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RaftClock;

    #[test]
    fn an_ensemble_whose_disks_are_all_full_has_time_to_confirm_reads() {
        let clock = RaftClock::default();
        let election_ns = clock.election_ticks() as u64 * clock.tick_ns();
        assert!(offer_retry_ns(true, false) > 10 * election_ns);
        assert!(offer_retry_ns(true, true) <= election_ns && offer_retry_ns(false, false) <= election_ns);
    }
}
