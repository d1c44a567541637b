//! Rounds of reads: a node asks the leader, and the leader asks Raft.
//!
//! Owns no state. Never answers a round with a read index that was asked for before the round arrived. Correct because the leader begins
//! a read index only after the rounds that share it have come, and only while it orders.

use super::Consensus;
use crate::consensus::reads::read_index::Asked;
use crate::consensus::session_expiry::Heard;
use crate::mutation::{Mutation, mutated};
use crate::peers::Message;
use paddock_transport::io::Io;

impl Consensus {
    /// The other node that leads and can be asked.
    pub(super) fn asks_leader(&self) -> Option<u8> {
        let leader = u8::try_from(self.raft.leader()).ok()?;
        (leader != self.node && self.links.is_up(leader)).then_some(leader)
    }

    /// Begins the rounds that are due.
    pub(super) fn ask(&mut self, now_ns: u64, io: &mut Io) {
        let beats = !self.raft.alone();
        if self.leadership.term != 0 {
            if let Some(begun) = self.rounds.begin(now_ns, beats) {
                self.take_round(self.node, begun.number, &begun.touched, now_ns);
            }
            let mute = self.disk_space.own_full_since.is_some() && mutated(Mutation::MuteWhenFull);
            if let Some(read) = self.reads.begin(now_ns).filter(|_| !mute) {
                self.raft.read_index(read);
            }
        } else if let Some(leader) = self.asks_leader()
            && let Some(begun) = self.rounds.begin(now_ns, beats)
        {
            if mutated(Mutation::StaleRound) {
                return self.rounds.confirm(begun.number, self.applier.index);
            }
            let (zxid, digest) = self.applier.machine.stamp();
            let message = Message::Round {
                term: self.raft.term(),
                number: begun.number,
                touched: begun.touched,
                applied: self.applier.index,
                full: self.lacks_disk_space(),
                zxid,
                digest,
            };
            self.links.send(leader, &message, io);
        }
    }

    /// The leader notes sessions heard from by a node, and has the quorum confirm its round: not below the entry in which one of
    /// them expires, and not at all while it is not known which entry that will be. The node asks again.
    pub(super) fn take_round(&mut self, node: u8, number: u64, touched: &[i64], now_ns: u64) {
        let floor = match self.session_expiry.touched(touched, now_ns) {
            Heard::Living => 0,
            Heard::Dying => self.raft.last_index(),
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
                let shut = self.disk_space.writes_stopped_since().is_some();
                self.links.send(node, &Message::RoundConfirmed { number, index, shut }, io);
            }
        }
    }
}
