//! Linearizable reads: a round of the quorum before each read.
//!
//! Owns the connections that wait for each round. Never requests more than one round in a turn: all
//! waiting reads of the turn share it, and the consensus core merges the rounds of all shards.
//!
//! Correct because a round is requested after the input was read, and covers only the bytes that the
//! connection had then. A later request waits for a later round. The result of a round arrives in a
//! commit at or above its read index, and its reads are served after that commit was taken.

use super::Shard;
use super::connection::Connection;
use super::request_class::RequestKind;
use super::submit_queue;
use crate::commit::{Outcome, Reply};
use crate::submit::Submit;
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;
use std::collections::VecDeque;

/// Slot in the tickets of rounds, which belong to no connection.
pub(super) const ROUND_SLOT: u32 = u32::MAX;

/// The waiting connections. Bounded by the open connections, because each waits for one round at most.
#[derive(Debug, Default)]
pub(super) struct ReadRounds {
    /// Connections that wait for the round that this turn requests.
    joined: Vec<ConnId>,
    /// Number and connections of each requested round, in order.
    asked: VecDeque<(u32, Vec<ConnId>)>,
}

impl ReadRounds {
    /// Whether a request that ends at `end` of the connection's input must wait for a round. If so, the
    /// connection joins the next round, unless it waits for one already.
    #[inline]
    pub fn must_wait(
        &mut self,
        connection: &mut Connection,
        request: &RequestKind<'_>,
        end: usize,
        input_bytes: usize,
    ) -> bool {
        let waits = end > connection.covered_bytes && request.reads_the_tree();
        if waits && connection.asked_bytes == 0 {
            // The round begins after now, so it covers all input received so far.
            connection.asked_bytes = input_bytes;
            self.joined.push(connection.id);
        }
        waits
    }

    /// Whether no requested round lacks its result.
    pub fn none_asked(&self) -> bool {
        self.asked.is_empty()
    }
}

impl Shard {
    /// Requests a round if a connection joined it in this turn.
    pub(super) fn ask_round(&mut self) {
        if self.read_rounds.joined.is_empty() {
            return;
        }
        if let Some(number) = self.submit_queue.push(ROUND_SLOT, |ticket| Submit::Sync { ticket }) {
            let members = std::mem::take(&mut self.read_rounds.joined);
            self.read_rounds.asked.push_back((number, members));
            self.cells().read_rounds.add(1);
        }
    }

    /// Handles the result of a round: its connections become ready, or close if no round is possible.
    pub(super) fn take_round(&mut self, now: Now, reply: &Reply, io: &mut Io) {
        let (_, number) = submit_queue::split_token(reply.ticket.token);
        let Some(at) = self.read_rounds.asked.iter().position(|(n, _)| *n == number) else { return };
        let Some((_, members)) = self.read_rounds.asked.remove(at) else { return };
        for id in members {
            let Some(connection) = self.connections.find(id) else { continue };
            if reply.outcome == Outcome::Synced {
                connection.covered_bytes = std::mem::take(&mut connection.asked_bytes);
                Self::mark_ready(&mut self.ready, connection);
            } else {
                // This node cannot complete a round: the client must connect to another node.
                self.close(now, id.index() as u32, io);
            }
        }
    }
}
