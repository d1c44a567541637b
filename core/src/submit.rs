//! What a shard sends to the consensus core.
//!
//! Owns the shape of a submission. Never blocks: the ring is bounded ([`SUBMIT_RING_ENTRIES`]) and a shard that
//! finds it full keeps the request in its session's queue and stops reading that socket. Questions about sessions go beside
//! it ([`Inquiries`]): while there is no leader the ring may be full of writes that nobody can order.

use crate::command::{Identity, Op};
use crate::commit::Ticket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Who asked for a session with this ticket is gone: whatever is not ordered yet shall have no effect, since the client may
    /// have the session elsewhere by the time it would be. Comes after the command; nobody waits for the result.
    Withdraw {
        /// Who asked.
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

/// Questions that wait at a time: far more than connections are opened between two turns of the core. A shard that finds
/// no room closes the connection; its client tries again.
pub const INQUIRIES_MAX: usize = 4096;

/// What a shard asks about a session: whether this node's table has it, and whether this is its password.
#[derive(Debug)]
pub struct Inquiry {
    /// Who asks. Answered with [`crate::commit::Outcome::Recalled`] or [`crate::commit::Outcome::Refused`].
    pub ticket: Ticket,
    /// The session.
    pub session: i64,
    /// What its client presents.
    pub password: Vec<u8>,
}

/// The shards' questions, which the core answers from what is applied here: nothing is ordered, nobody else is asked.
#[derive(Debug, Default)]
pub struct Inquiries {
    /// Something waits; looked at in every turn of the core, so it is no lock.
    rung: AtomicBool,
    waiting: Mutex<Vec<Inquiry>>,
}

impl Inquiries {
    /// Asks. The core is woken by the caller. `false`: too many wait.
    pub fn ask(&self, inquiry: Inquiry) -> bool {
        let mut waiting = self.lock();
        if waiting.len() >= INQUIRIES_MAX {
            return false;
        }
        waiting.push(inquiry);
        self.rung.store(true, Ordering::Release);
        true
    }

    /// Whether any waits.
    pub fn has_any(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// The core's: takes all.
    pub fn take(&self) -> Vec<Inquiry> {
        // Down before looking: one that comes in between rings again.
        self.rung.store(false, Ordering::Release);
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Inquiry>> {
        // A push or a take leaves the list whole whatever happens.
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
