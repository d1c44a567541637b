//! Submissions: what a shard sends to the consensus core.
//!
//! Owns the shape of a submission, and the list of inquiries ([`Inquiries`]). Inquiries travel beside the
//! ring: without a leader the ring may be full of writes that cannot be ordered.
//!
//! Never blocks: the ring is bounded ([`SUBMIT_RING_ENTRIES`]). A shard that finds it full keeps the
//! request in its session's queue and stops reading that socket.

use crate::command::{Identity, Op};
use crate::commit::Ticket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries of one shard's ring to the consensus core: enough for 256 connections with 16 writes in flight
/// each.
pub const SUBMIT_RING_ENTRIES: usize = 4096;

/// One submission. Results come in commits ([`crate::commit::Commit::replies`]), matched by ticket. Those
/// of ordered commands come in the order of submission. A sync is answered after all commands that its
/// shard submitted before it, and a refusal (`Outcome::NotOrdered`) at once.
#[derive(Debug)]
pub enum Submit {
    /// A command to order.
    Command {
        ticket: Ticket,
        /// Session that issued it.
        session: i64,
        /// The connection's attachment number (0 for `OpenSession` and `AttachSession`).
        attachment: u32,
        /// Identities of the connection when the request was read.
        identities: Arc<[Identity]>,
        op: Op,
    },
    /// A `sync`, answered with `Outcome::Synced` in a commit at or above a read index taken after the
    /// submission.
    Sync { ticket: Ticket },
    /// The connection that asked for a session with this ticket is closed. What is not ordered yet must
    /// have no effect, since the client may attach elsewhere first. Comes after the command. No result is
    /// delivered.
    Withdraw { ticket: Ticket },
    /// An operator asks this node to lead.
    Lead,
    /// Sessions active since the last report of this shard.
    Touched {
        /// Session ids without duplicates.
        sessions: Vec<i64>,
        /// Time of the report, `Now::mono_ns`.
        at_ns: u64,
    },
}

/// Inquiries that wait at a time, at most: far more than connections open between two turns of the core. At
/// the bound the shard closes the connection, and its client tries again.
pub const INQUIRIES_MAX: usize = 4096;

/// A shard's question about a session: does this node's table have it, and is this its password?
#[derive(Debug)]
pub struct Inquiry {
    /// Return address of the answer, [`crate::commit::Outcome::Recalled`] or
    /// [`crate::commit::Outcome::Refused`].
    pub ticket: Ticket,
    pub session: i64,
    /// Password that the client presents.
    pub password: Vec<u8>,
}

/// Inquiries of all shards. The core answers them from its applied state: no log entry, no other node.
#[derive(Debug, Default)]
pub struct Inquiries {
    /// Whether an inquiry waits. The core checks it in every turn, so it is not behind the lock.
    rung: AtomicBool,
    waiting: Mutex<Vec<Inquiry>>,
}

impl Inquiries {
    /// Adds an inquiry. The caller wakes the core. `false`: [`INQUIRIES_MAX`] wait already.
    pub fn ask(&self, inquiry: Inquiry) -> bool {
        let mut waiting = self.lock();
        if waiting.len() >= INQUIRIES_MAX {
            return false;
        }
        waiting.push(inquiry);
        self.rung.store(true, Ordering::Release);
        true
    }

    /// Whether an inquiry waits for the core.
    pub fn has_any(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// For the core: takes every inquiry.
    pub fn take(&self) -> Vec<Inquiry> {
        // Cleared before the list is taken: an inquiry added in between sets it again.
        self.rung.store(false, Ordering::Release);
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Inquiry>> {
        // A panic cannot leave the list half changed: a push or a take is one step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_never_pile_up() {
        let all = Inquiries::default();
        let one = |session| Inquiry { ticket: Ticket { shard: 0, token: 0 }, session, password: Vec::new() };
        assert!((0..INQUIRIES_MAX as i64).all(|session| all.ask(one(session))));
        assert!(!all.ask(one(-1)) && all.has_any());
        assert_eq!(all.take().len(), INQUIRIES_MAX);
        assert!(!all.has_any() && all.take().is_empty() && all.ask(one(1)));
    }
}
