//! Rounds of the quorum before linearizable reads.
//!
//! Owns which connections wait for which round. Never asks for more than one round in a turn: all reads that wait in it share
//! one, and the consensus core joins those of all shards. It stays correct because a round is asked for after the input was
//! read, and covers just the bytes that the connection had then: a request that came later waits for a later round. The
//! round is answered in a commit at or above its read index, and is served after that commit was taken.

use super::Shard;
use super::serve::What;
use super::uplink;
use crate::commit::{Outcome, Reply};
use crate::submit::Submit;
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;
use paddock_transport::wire::opcode;
use std::collections::VecDeque;

/// The slot of tickets that are the shard's own.
pub(super) const ROUND_SLOT: u32 = u32::MAX;

/// See the module's doc. Bounded by the connections: each waits for one round at most.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Wait for the round that this turn will ask for.
    joined: Vec<ConnId>,
    /// Asked for, in order.
    asked: VecDeque<(u32, Vec<ConnId>)>,
}

impl Rounds {
    /// A connection waits for the next round.
    pub fn join(&mut self, connection: ConnId) {
        self.joined.push(connection);
    }

    /// Whether no result is awaited.
    pub fn none_asked(&self) -> bool {
        self.asked.is_empty()
    }
}

impl Shard {
    /// Asks for a round if anybody joined it in this turn.
    pub(super) fn ask_round(&mut self) {
        if self.rounds.joined.is_empty() {
            return;
        }
        if let Some(number) = self.uplink.push(ROUND_SLOT, |ticket| Submit::Sync { ticket }) {
            let members = std::mem::take(&mut self.rounds.joined);
            self.rounds.asked.push_back((number, members));
            self.cells().read_rounds.add(1);
        }
    }

    /// A round was answered: those who waited for it may be served.
    pub(super) fn take_round(&mut self, now: Now, reply: &Reply, io: &mut Io) {
        let (_, number) = uplink::split_token(reply.ticket.token);
        let Some(at) = self.rounds.asked.iter().position(|(n, _)| *n == number) else { return };
        let Some((_, members)) = self.rounds.asked.remove(at) else { return };
        for id in members {
            let Some(connection) = self.connections.find(id) else { continue };
            if reply.outcome == Outcome::Synced {
                connection.covered_bytes = std::mem::take(&mut connection.asked_bytes);
                Self::mark_ready(&mut self.ready, connection);
            } else {
                // No round will come from this node: the client asks elsewhere.
                self.close(now, id.index() as u32, io);
            }
        }
    }
}

/// Whether a request is answered from the tree, or arms watches on it.
pub(super) fn looks_at_the_tree(what: &What<'_>) -> bool {
    match what {
        What::Read { .. } => true,
        What::Local { opcode, .. } => matches!(
            *opcode,
            opcode::MULTI_READ
                | opcode::SET_WATCHES
                | opcode::SET_WATCHES2
                | opcode::ADD_WATCH
                | opcode::GET_EPHEMERALS
        ),
        _ => false,
    }
}
