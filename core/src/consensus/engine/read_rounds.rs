//! Rounds of reads: a node asks the leader, and the leader asks Raft.
//!
//! Owns no state. Never confirms a round by a read index that began before the round arrived. Correct
//! because the leader begins a read index only after the rounds that share it have arrived, and only while
//! it orders.

use super::Consensus;
use crate::consensus::reads::read_index::RoundRequest;
use crate::consensus::session_expiry::TouchOutcome;
use crate::mutation::{Mutation, mutated};
use crate::peers::Message;
use paddock_transport::io::Io;

impl Consensus {
    /// The other node that leads and has a link.
    pub(super) fn leader_to_ask(&self) -> Option<u8> {
        let leader = u8::try_from(self.raft.leader()).ok()?;
        (leader != self.node && self.links.is_up(leader)).then_some(leader)
    }

    /// Begins the rounds and read indexes that are due.
    pub(super) fn begin_rounds(&mut self, now_ns: u64, io: &mut Io) {
        let beats = !self.raft.alone();
        if self.leadership.term != 0 {
            if let Some(begun) = self.rounds.begin(now_ns, beats) {
                self.accept_round(self.node, begun.number, &begun.touched, now_ns);
            }
            let mute = self.disk_space.own_full_since.is_some() && mutated(Mutation::MuteWhenFull);
            if let Some(read) = self.reads.begin(now_ns).filter(|_| !mute) {
                self.raft.read_index(read);
            }
        } else if let Some(leader) = self.leader_to_ask()
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

    /// Takes a node's round on the leader. Notes its sessions, and has the quorum confirm the round. The
    /// confirmed index is not below the entry in which one of its sessions expires. While that entry is
    /// unknown, the round is dropped, and the node asks again.
    pub(super) fn accept_round(&mut self, node: u8, number: u64, touched: &[i64], now_ns: u64) {
        let floor = match self.session_expiry.touched(touched, now_ns) {
            TouchOutcome::AllLive => 0,
            TouchOutcome::ExpiryLogged => self.raft.last_index(),
            TouchOutcome::ExpiryUnlogged => return,
        };
        self.reads.request(RoundRequest { node, number, floor });
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
