//! Who orders: the moments in which this node begins and ceases to lead, and what it asks of whoever does.
//!
//! Owns the term in which this node orders, and on a follower the term whose leader has said where this node's stream
//! stands. Never orders in a term before an entry of that term is applied here: until then the streams' positions might be
//! older than what a former leader ordered. It stays correct because everything that belongs to a term is dropped with it,
//! and because a follower sends nothing to a leader that has not told it the next number.

use super::Consensus;
use crate::beats::MAX_STALENESS_NS;
use crate::consensus::raft::Role;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;

/// How soon leadership is offered again after nobody took it, by a leader that stops.
const OFFER_RETRY_NS: u64 = 300_000_000;

/// The same for a leader whose disk is full. The disks of an ensemble tend to fill at the same time: whoever takes the place may have
/// to offer it, too, and each election is a time in which no round is confirmed.
const OFFER_RETRY_FULL_NS: u64 = 5_000_000_000;

const _: () = assert!(OFFER_RETRY_FULL_NS < MAX_STALENESS_NS);

/// This node's leadership, if it has it or wants it.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Leadership {
    /// The term in which this node orders; 0 while it does not.
    pub(in crate::consensus) term: u64,
    /// Batches proposed in this term and not applied.
    pub(in crate::consensus) in_flight: usize,
    /// An operator wants this node to lead.
    pub(in crate::consensus) wanted: bool,
    /// When leadership was last offered to another node.
    pub(super) offered_ns: Option<u64>,
}

impl Consensus {
    /// Notices that the node's part has changed.
    pub(super) fn lead_or_follow(&mut self, now: Now, io: &mut Io) {
        // One that offers its place goes on in the same term if nobody takes it: until then it proposes nothing.
        let goes_on = self.leadership.term == self.raft.term();
        let leads = self.raft.role() == Role::Leader && (goes_on || self.raft.is_ready_to_order());
        let term = if leads { self.raft.term() } else { 0 };
        if term != self.leadership.term {
            self.change_part(term, now, io);
        }
    }

    /// This node orders from now on, in `term`, or does so no longer (0).
    fn change_part(&mut self, term: u64, now: Now, io: &mut Io) {
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
        self.rounds.lose();
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
            // The machine has seen commands of this start that were never given out: only a copied directory does that.
            tracing::error!("this node's own stream stands at {next} in the log, and not here");
        }
        for (node, incarnation) in self.links.up() {
            self.expect(node, incarnation, io);
        }
    }

    /// Offers leadership to the voter that is nearest, unless it was just offered: to one with room, if the own disk is what is
    /// wrong with this node.
    pub(super) fn hand_over(&mut self, now_ns: u64) {
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

    /// The voter to whom leadership is best offered: the nearest of those with room. `None`: there is none, or none with room
    /// and this node only looks for that.
    pub(super) fn transferee(&self, for_room: bool) -> Option<u64> {
        let since_ns = self.disk_space.own_full_since.unwrap_or(0);
        let others = self.raft.progress().into_iter().filter(|p| {
            p.active && !p.learner && p.node != u64::from(self.node) && self.links.is_up(p.node as u8)
        });
        let ranked = others.map(|p| {
            let node = p.node as u8;
            let room = if for_room {
                self.disk_space.has_room_since(node, since_ns)
            } else {
                !self.disk_space.is_full(node)
            };
            (room, p.matched, p.node)
        });
        let (room, _, node) =
            ranked.max_by_key(|(room, matched, node)| (*room, *matched, std::cmp::Reverse(*node)))?;
        (room || !for_room).then_some(node)
    }

    /// Whether anybody else votes, who could lead: a sole voter has no heir, however many observers follow it.
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
