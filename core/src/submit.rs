//! What a shard sends to the consensus core.
//!
//! Owns the shape of a submission. Never blocks: the ring is bounded ([`SUBMIT_RING_ENTRIES`]) and a shard that
//! finds it full keeps the request in its session's queue and stops reading that socket.

use crate::command::{Identity, Op};
use crate::commit::Ticket;
use std::sync::Arc;

/// Entries of one shard's ring to the consensus core: enough for 256 connections with 16 writes in flight each.
pub const SUBMIT_RING_ENTRIES: usize = 4096;

/// One submission. Results come back in commits ([`crate::commit::Commit::replies`]), told apart by their tickets. Those of
/// ordered commands come in the order of submission; a sync is answered after all commands that its shard submitted
/// before it, and a refusal (`Outcome::NotOrdered`) at once.
#[derive(Debug)]
pub enum Submit {
    /// Order this.
    Command {
        /// Who asks.
        ticket: Ticket,
        /// On whose behalf.
        session: i64,
        /// The connection's attachment number (0 for `OpenSession` and `AttachSession`).
        attachment: u32,
        /// Ids of the connection when the request was read.
        identities: Arc<[Identity]>,
        /// What.
        op: Op,
    },
    /// A `sync`: answer with `Outcome::Synced` in a commit at or above the read index taken after now.
    Sync {
        /// Who asks.
        ticket: Ticket,
    },
    /// An operator wants this node to lead.
    Lead,
    /// Sessions heard from since the last report, with the time (`Now::mono_ns`) of the report.
    Touched {
        /// Session ids, no duplicates.
        sessions: Vec<i64>,
        /// When the shard says so.
        at_ns: u64,
    },
}
