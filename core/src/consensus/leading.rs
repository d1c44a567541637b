//! Who orders: the moments in which this node begins and ceases to lead, and what it asks of whoever does.
//!
//! Owns the term in which this node orders, and on a follower the term whose leader has said where this node's stream
//! stands. Never orders in a term before an entry of that term is applied here: until then the streams' positions might be
//! older than what a former leader ordered. It stays correct because everything that belongs to a term is dropped with it,
//! and because a follower sends nothing to a leader that has not told it the next number.

use super::config::{BATCH_COMMANDS_MAX, FORWARD_AHEAD_BYTES, FORWARD_RETRY_NS};
use super::deadlines::Heard;
use super::engine::Consensus;
use super::group::{Group, Role};
use super::reads::Asked;
use crate::beats::MAX_STALENESS_NS;
use crate::peers::Message;
use crate::sim::{Mutation, mutated};
use paddock_transport::engine::Now;
use paddock_transport::io::Io;

/// How soon leadership is offered again after nobody took it, by a leader that stops.
const OFFER_RETRY_NS: u64 = 300_000_000;

/// The same for a leader whose disk is full. The disks of an ensemble tend to fill at the same time: whoever takes the place may have
/// to offer it, too, and each election is a time in which no round is confirmed.
const OFFER_RETRY_FULL_NS: u64 = 5_000_000_000;

const _: () = assert!(OFFER_RETRY_FULL_NS < MAX_STALENESS_NS);

impl Consensus {
    /// Notices that the node's part has changed.
    pub(super) fn lead_or_follow(&mut self, now: Now, io: &mut Io) {
        // One that offers its place goes on in the same term if nobody takes it: until then it proposes nothing.
        let goes_on = self.phase.leading == self.group.term();
        let leads = self.group.role() == Role::Leader && (goes_on || self.group.is_ready_to_order());
        let term = if leads { self.group.term() } else { 0 };
        if term != self.phase.leading {
            self.change_part(term, now, io);
        }
    }

    /// This node orders from now on, in `term`, or does so no longer (0).
    fn change_part(&mut self, term: u64, now: Now, io: &mut Io) {
        let now_ns = now.mono_ns;
        let before = std::mem::replace(&mut self.phase.leading, term);
        if before != 0 {
            tracing::warn!("this node does not lead any more (it did in term {before})");
        }
        if term != 0 && !self.group.alone() {
            tracing::info!("this node leads in term {term}");
        }
        let own = self.streams.clear(self.node);
        self.outbound.give_back(own, true);
        self.reads.clear();
        self.rounds.lose();
        self.phase.in_flight = 0;
        self.feed.restart();
        self.stats.set_leading((term != 0).then_some(now.wall_ms));
        if term == 0 {
            self.deadlines.follow();
            return;
        }
        self.deadlines.lead(now_ns, &self.applier.machine);
        let next = self.streams.expect(self.node, self.incarnation, self.applier.machine.stream(self.node));
        if !self.outbound.rewind(next) {
            // The machine has seen commands of this start that were never given out: only a copied directory does that.
            tracing::error!("this node's own stream stands at {next} in the log, and not here");
        }
        for (node, incarnation) in self.links.up() {
            self.expect(node, incarnation, io);
        }
    }

    /// Tells a node the next number of its stream.
    pub(super) fn expect(&mut self, node: u8, incarnation: u64, io: &mut Io) {
        let term = self.phase.leading;
        if term == 0 {
            return;
        }
        if !self.admits(node) {
            self.links.note_strange(node);
            self.streams.forget(node);
            return;
        }
        let known = self.applier.machine.stream(node);
        if self.links.applied(node) < self.streams.seen_by(node, known, self.applier.index) {
            // Its next round tells.
            self.links.note_strange(node);
            return;
        }
        let seq = self.streams.expect(node, incarnation, known);
        if !self.give_back_again(node, io) {
            self.links.send(node, &Message::Expect { term, incarnation, seq }, io);
        }
    }

    /// Whether what is said of the stream of `incarnation` comes from the leader that this node follows, and means this start of it.
    pub(super) fn is_word_of_leader(&self, from: u8, term: u64, incarnation: u64) -> bool {
        incarnation == self.incarnation && term == self.group.term() && u64::from(from) == self.group.leader()
    }

    /// Sends this node's commands to the leader.
    pub(super) fn forward(&mut self, now_ns: u64, io: &mut Io) {
        let leader = self.group.leader() as u8;
        let stalled = self.outbound.is_stalled(now_ns, FORWARD_RETRY_NS);
        let wanted = std::mem::take(&mut self.phase.wants_to_lead);
        if self.group.role() == Role::Leader {
            return;
        }
        let term = self.group.term();
        if wanted && !(leader != 0 && self.links.send(leader, &Message::Lead { term }, io)) {
            tracing::warn!(
                "this node is wanted as leader, but no leader can be asked to hand over: ask again when one is known"
            );
        }
        if leader == 0 {
            return;
        }
        if !self.links.is_granted(term) {
            if self.outbound.undecided() > 0 && self.links.may_ask(now_ns, FORWARD_RETRY_NS) {
                // A question: the answer is the number that it wants.
                self.links.send(leader, &Message::Forward { term, commands: Vec::new() }, io);
            }
            return;
        }
        if stalled && self.links.may_ask(now_ns, FORWARD_RETRY_NS) {
            // Whatever was lost on the way, the commands or the leader's word that it misses some: it says where it stands.
            self.links.send(leader, &Message::Forward { term, commands: Vec::new() }, io);
        }
        // The rest is kept here, and sent by a later turn: the clock's tick is the next one at the latest.
        while self.outbound.has_unsent() && self.links.unsent(leader, io) <= FORWARD_AHEAD_BYTES {
            let commands = self.outbound.lend(BATCH_COMMANDS_MAX, self.batch_bytes_max);
            if commands.is_empty() {
                return;
            }
            let message = Message::Forward { term, commands };
            let sent = self.links.send(leader, &message, io);
            if let Message::Forward { commands, .. } = message {
                self.outbound.give_back(commands, sent);
            }
            if !sent {
                return;
            }
        }
    }

    /// The other node that leads and can be asked.
    pub(super) fn asks_leader(&self) -> Option<u8> {
        let leader = u8::try_from(self.group.leader()).ok()?;
        (leader != self.node && self.links.is_up(leader)).then_some(leader)
    }

    /// Begins the rounds that are due.
    pub(super) fn ask(&mut self, now_ns: u64, io: &mut Io) {
        let beats = !self.group.alone();
        if self.phase.leading != 0 {
            if let Some(begun) = self.rounds.begin(now_ns, beats) {
                self.take_round(self.node, begun.number, &begun.touched, now_ns);
            }
            let mute = self.phase.full_since.is_some() && mutated(Mutation::MuteWhenFull);
            if let Some(read) = self.reads.begin(now_ns).filter(|_| !mute) {
                self.group.read_index(read);
            }
        } else if let Some(leader) = self.asks_leader()
            && let Some(begun) = self.rounds.begin(now_ns, beats)
        {
            if mutated(Mutation::StaleRound) {
                return self.rounds.confirm(begun.number, self.applier.index);
            }
            let (zxid, digest) = self.applier.machine.stamp();
            let message = Message::Round {
                term: self.group.term(),
                number: begun.number,
                touched: begun.touched,
                applied: self.applier.index,
                full: self.phase.full_since.is_some(),
                zxid,
                digest,
            };
            self.links.send(leader, &message, io);
        }
    }

    /// The leader notes sessions heard from by a node, and has the quorum confirm its round: not below the entry in which one of
    /// them expires, and not at all while it is not known which entry that will be. The node asks again.
    pub(super) fn take_round(&mut self, node: u8, number: u64, touched: &[i64], now_ns: u64) {
        let floor = match self.deadlines.touched(touched, now_ns) {
            Heard::Living => 0,
            Heard::Dying => self.group.last_index(),
            Heard::Condemned => return,
        };
        self.reads.ask(Asked { node, number, floor });
    }

    /// Raft confirmed a read index.
    pub(super) fn confirm_read(&mut self, read: u64, index: u64, io: &mut Io) {
        for (node, number, index) in self.reads.confirm(read, index) {
            if node == self.node {
                self.rounds.confirm(number, index);
            } else {
                let shut = self.room.shut_since().is_some();
                self.links.send(node, &Message::RoundConfirmed { number, index, shut }, io);
            }
        }
    }

    /// Offers leadership to the voter that is nearest, unless it was just offered: to one with room, if the own disk is what is
    /// wrong with this node.
    pub(super) fn hand_over(&mut self, now_ns: u64) {
        let (full, stopping) = (self.phase.full_since.is_some(), self.phase.stopping_since.is_some());
        let pause_ns = offer_retry_ns(full, stopping);
        if self.phase.offered_ns.is_some_and(|at| now_ns.saturating_sub(at) < pause_ns) {
            return;
        }
        if let Some(to) = self.heir(full && !stopping) {
            self.phase.offered_ns = Some(now_ns);
            tracing::info!("leadership is offered to node {to}");
            self.group.transfer(to);
        }
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
