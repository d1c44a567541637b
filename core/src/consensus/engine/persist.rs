//! Raft's output on its way to the log and to the peers.
//!
//! Owns no state. Never sends a message that promises something before the promise is durable. Correct
//! because messages of a drain leave after that drain is persisted, unless Raft marks them as safe to send
//! at once.

use super::Consensus;
use crate::consensus::control::StopReason;
use crate::consensus::raft::codec;
use crate::peers::Message;
use crate::peers::message::RaftMessage;
use paddock_storage::State;
use paddock_transport::io::Io;

impl Consensus {
    pub(super) fn poll_log(&mut self, now_ns: u64, io: &mut Io) -> Result<(), StopReason> {
        if let Some(number) = self.journal.poll() {
            self.persisted(number, io);
        }
        match self.journal.look() {
            State::Running => {
                if self.disk_space.own_full_since.take().is_some() {
                    tracing::info!("the log has room again");
                }
            }
            State::WritesStopped { reason } => {
                if self.disk_space.own_full_since.is_none() {
                    let alone = "writes are refused";
                    let whose = if self.raft.alone() { alone } else { "this node can log nothing more" };
                    tracing::error!(
                        "{whose}: {reason}. Reads go on. Free space on the disk of the data directory; the rest happens by \
                         itself"
                    );
                    self.disk_space.own_full_since = Some(now_ns);
                }
            }
            State::Failed { reason } => return Err(StopReason::LogFailed(reason.to_string())),
        }
        Ok(())
    }

    /// Takes all output of Raft.
    pub(super) fn drain(&mut self, io: &mut Io) {
        while self.raft.drain(&mut self.effects) {
            self.send_or_hold(io);
            self.installation.want(&mut self.effects.snapshots);
            self.queue_cold_fetches();
            self.journal.append(&mut self.effects, self.applier.index);
            for entry in self.effects.committed.drain(..) {
                self.backlog_bytes += entry.payload.len();
                self.backlog.push_back(entry);
            }
            for (read, index) in std::mem::take(&mut self.effects.reads) {
                self.confirm_read(read, index, io);
            }
            // A drain without a record is durable already.
            if let Some(number) = self.journal.poll() {
                self.persisted(number, io);
            }
        }
    }

    /// Sends the messages that may leave at once, and holds those that wait for the disk.
    pub(super) fn send_or_hold(&mut self, io: &mut Io) {
        let messages = std::mem::take(&mut self.effects.messages);
        self.send_raft(messages, io);
        if !self.effects.after.is_empty() {
            let after = std::mem::take(&mut self.effects.after);
            self.links.hold(self.effects.number, after);
        }
    }

    /// All drains up to `number` are durable.
    pub(super) fn persisted(&mut self, number: u64, io: &mut Io) {
        self.raft.persisted(number);
        while let Some(messages) = self.links.take_held(number) {
            self.send_raft(messages, io);
        }
    }

    pub(super) fn send_raft(&mut self, messages: Vec<RaftMessage>, io: &mut Io) {
        for message in messages {
            let to = message.to;
            let answers = to == self.raft.leader() && codec::is_answer_to_leader(&message);
            if !(answers || self.admits(to as u8)) || !self.links.send(to as u8, &Message::Raft(message), io)
            {
                self.raft.unreachable(to);
            }
        }
    }
}
