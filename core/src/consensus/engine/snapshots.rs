//! Snapshots between nodes, as each turn moves them on.
//!
//! Owns no state. Never reads or writes a file. Correct because only a leader sends, in its own term. A
//! received snapshot has one use: the data directory is opened again.

use super::Consensus;
use crate::consensus::catch_up::{EngineState, TransferOutcome};
use crate::consensus::control::StopReason;
use crate::consensus::raft::Role;
use crate::mutation::{Mutation, mutated};
use crate::peers::message::SnapshotMessage;
use paddock_transport::io::Io;

impl Consensus {
    pub(super) fn handle_snapshot(&mut self, from: u8, message: SnapshotMessage, now_ns: u64) {
        let state = self.engine_state();
        self.installation.transfers.handle(from, message, &state, now_ns);
    }

    /// Moves transfers on. Returns when a turn is needed at the latest, or an error when the data directory
    /// is to be opened again.
    pub(super) fn install(&mut self, now_ns: u64, io: &mut Io) -> Result<Option<u64>, StopReason> {
        let state = self.engine_state();
        let leads = self.raft.role() == Role::Leader;
        if !leads {
            self.installation.wanted.clear();
            self.installation.transfers.stop_sending();
        }
        for node in std::mem::take(&mut self.installation.wanted) {
            if let Ok(node) = u8::try_from(node) {
                self.installation.transfers.begin(node, state.term, now_ns);
            }
        }
        let deadline_ns = self.installation.transfers.turn(&state, now_ns);
        // Chunks that the link does not take are sent again.
        while let Some((to, message)) = self.installation.transfers.next_out() {
            if let Some(message) = self.throttle.chunk(to, message) {
                self.links.send(to, &message, io);
            }
        }
        while let Some((to, message)) = self.throttle.next_chunk(now_ns) {
            self.links.send(to, &message, io);
        }
        while let Some(outcome) = self.installation.transfers.next_outcome() {
            match outcome {
                TransferOutcome::Sent { to, ok, index } if leads => {
                    let ok = ok && !mutated(Mutation::ForgetArrival);
                    self.raft.snapshot_sent(u64::from(to), ok.then_some(index));
                }
                TransferOutcome::Received { index, .. } if index > self.raft.commit() => {
                    return Err(StopReason::Reopen { index });
                }
                // Outdated: this node does not lead, or has caught up by the log.
                TransferOutcome::Sent { .. } | TransferOutcome::Received { .. } => {}
            }
        }
        self.checkpoints.keep_log_from(self.installation.transfers.keep_log_from(now_ns));
        Ok(deadline_ns)
    }

    fn engine_state(&self) -> EngineState {
        let (leader, term, commit) = (self.raft.leader(), self.raft.term(), self.raft.commit());
        EngineState { leader, term, commit }
    }
}
