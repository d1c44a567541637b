//! Full disks: what the leader concludes from them, and what happens to commands meanwhile.
//!
//! Owns no state. Never stops reads, which need no disk. Correct because only the leader decides, from the
//! disk reports that it receives. Other nodes follow its decision for no longer than its term.

use super::Consensus;
use crate::commit::{Outcome, Reply};
use crate::consensus::commands::leader_queue::Return;
use crate::consensus::config::UNDECIDED_NS;
use crate::consensus::durable::disk_space::RoomForMajority;
use crate::consensus::raft::Role;
use crate::peers::Message;
use paddock_transport::io::Io;

impl Consensus {
    /// Whether this node can take no further entry for want of disk space. Either its log has no room, or it
    /// needs a snapshot for which there is none.
    pub(super) fn lacks_disk_space(&self) -> bool {
        self.disk_space.own_full_since.is_some() || self.installation.lacks_room()
    }

    /// Decides whether writes are stopped, from the disk reports of the voters.
    pub(super) fn update_writes_stopped(&mut self, now_ns: u64, io: &mut Io) {
        let term = self.raft.term();
        let stopped = if self.raft.alone() {
            self.disk_space.own_full_since.is_some()
        } else if self.raft.role() == Role::Leader {
            self.has_too_few_disks(now_ns)
        } else {
            // The leader's decision, as long as it leads.
            self.raft.leader() != 0 && self.disk_space.is_shut_by(term)
        };
        self.disk_space.judge(stopped, term, now_ns);
        // Sent at once, so that few commands are on their way to a leader that cannot order them.
        let (full, stopped_here) = (self.lacks_disk_space(), stopped && self.raft.role() == Role::Leader);
        if self.disk_space.is_news(full, stopped_here) {
            for (node, _) in self.links.up() {
                self.links.send(node, &Message::Room { full, shut: stopped_here }, io);
            }
        }
        if stopped && self.leadership.term != 0 {
            self.return_unproposed(io);
        }
    }

    /// On the leader, while writes are stopped: returns all commands that were taken and not proposed.
    /// Their nodes can refuse them.
    pub(super) fn return_unproposed(&mut self, io: &mut Io) {
        self.withdraw_own();
        for node in self.leader_queues.waiting() {
            self.leader_queues.return_unproposed(node);
            // If the message is lost, the node asks.
            self.repeat_return(node, io);
        }
    }

    /// Sends a node its unacknowledged return again. `false`: there is none.
    pub(super) fn repeat_return(&mut self, node: u8, io: &mut Io) -> bool {
        let Some(Return { incarnation, seq, number }) = self.leader_queues.returned(node) else {
            return false;
        };
        self.links.send(node, &Message::Return { term: self.leadership.term, incarnation, seq, number }, io);
        true
    }

    /// Handles a return from the leader, or on the leader a node's acknowledgement of one.
    pub(super) fn handle_return(&mut self, from: u8, term: u64, back: Return, io: &mut Io) {
        let Return { incarnation, seq, number } = back;
        if term != 0 && term == self.leadership.term {
            if self.leader_queues.acknowledge_return(from, back) {
                self.links.send(from, &Message::Expect { term, incarnation, seq }, io);
            }
            return;
        }
        if self.is_from_leader(from, term, incarnation) {
            self.pending.accept_return(seq);
            // Nothing more is sent before the leader's next `Expect`.
            self.links.stop_forwarding();
            self.links.send(from, &Message::Return { term, incarnation, seq, number }, io);
        }
    }

    /// The leader reports, with its confirmation of a round, whether writes are stopped.
    pub(super) fn handle_disk_report(&mut self, from: u8, stopped: bool, now_ns: u64) {
        if u64::from(from) == self.raft.leader() && self.raft.role() != Role::Leader {
            self.disk_space.judge(stopped, self.raft.term(), now_ns);
        }
    }

    /// On the leader: whether too many disks are full to make anything durable on a majority, for good or
    /// for too long.
    pub(super) fn has_too_few_disks(&mut self, now_ns: u64) -> bool {
        let own_full = self.disk_space.own_full_since.is_some();
        if !own_full && self.disk_space.full_nodes().next().is_none() {
            self.disk_space.forget_missing();
            return false;
        }
        let membership = self.raft.membership();
        let able = [&membership.voters, &membership.outgoing].map(|voters| {
            let nodes = || voters.iter().map(|voter| *voter as u8);
            let is_full =
                |node: &u8| if *node == self.node { own_full } else { self.disk_space.is_full(*node) };
            let is_away = |node: &u8| *node != self.node && !self.links.is_up(*node);
            RoomForMajority::of(
                voters.len(),
                nodes().filter(is_full).count(),
                nodes().filter(is_away).count(),
            )
        });
        self.disk_space.is_hopeless(able, self.raft.term(), now_ns)
    }

    /// Acts on full disks. A leader whose own disk is full offers leadership to a voter with disk space.
    /// While writes are stopped for too long, the connections of undecided writes are closed.
    pub(super) fn act_on_full_disks(&mut self, now_ns: u64) {
        match (self.disk_space.writes_stopped_since(), self.disk_space.own_full_since) {
            (Some(since_ns), _) if now_ns.saturating_sub(since_ns) >= UNDECIDED_NS => {
                let zxid = self.applier.machine.zxid();
                let given_up =
                    self.pending.abandon().map(|ticket| Reply { ticket, zxid, outcome: Outcome::Drop });
                self.replies.extend(given_up);
            }
            (None, Some(_)) if self.raft.role() == Role::Leader => self.offer_leadership(now_ns),
            _ => {}
        }
    }

    /// A text for operators, while writes are stopped.
    pub(in crate::consensus) fn why_writes_are_stopped(&self, voters: usize) -> String {
        if self.raft.alone() {
            return "the disk of the data directory is full".to_owned();
        }
        if self.raft.role() != Role::Leader {
            return "the leader says that the disks of too many voters are full".to_owned();
        }
        let own = self.disk_space.own_full_since.map(|_| self.node);
        let mut full: Vec<u8> = self.disk_space.full_nodes().chain(own).collect();
        full.sort_unstable();
        full.dedup();
        let full: Vec<String> = full.iter().map(u8::to_string).collect();
        format!(
            "the disks of nodes {} are full; {} of {voters} voters with room are needed",
            full.join(", "),
            voters / 2 + 1
        )
    }
}
