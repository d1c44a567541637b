//! Shards as the core sees them: which must be woken, and which do not move.
//!
//! Owns each shard's waker, the flag that it has armed watches, and the time since it was woken with commits
//! to take. Never waits for a shard. Correct because the core wakes a shard after the commit is in the ring,
//! and the waker's fence orders the two. Only a shard that was woken can count as stuck.

use crate::consensus::config::SHARD_STUCK_NS;
use crate::ring::CommitSender;
use crossbeam_utils::CachePadded;
use paddock_transport::wake::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Raised by a shard while it has armed watches and must see every commit at once.
pub type Armed = Arc<CachePadded<AtomicBool>>;

struct Shard {
    waker: Arc<Waker>,
    armed: Armed,
    /// Set when the shard was woken with commits to take.
    owes: Option<Owes>,
}

#[derive(Clone, Copy)]
struct Owes {
    since_ns: u64,
    position: u64,
}

/// See the module doc.
pub(in crate::consensus) struct Shards {
    shards: Vec<Shard>,
    /// Shards that must be woken; [`Shards::wake`] clears the marks.
    pub(in crate::consensus) marked: Vec<bool>,
    published: u64,
}

/// A shard that was woken and has not moved for [`SHARD_STUCK_NS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Stuck {
    pub(in crate::consensus) shard: usize,
    pub(in crate::consensus) lag: u64,
}

impl Shards {
    pub(in crate::consensus) fn new(shards: Vec<(Arc<Waker>, Armed)>) -> Self {
        let marked = vec![false; shards.len()];
        let shards = shards.into_iter().map(|(waker, armed)| Shard { waker, armed, owes: None }).collect();
        Self { shards, marked, published: 0 }
    }

    /// Wakes the marked shards. If anything was published since the last call, also wakes the shards with
    /// armed watches and those half a ring behind.
    pub(in crate::consensus) fn wake(&mut self, ring: &CommitSender, now_ns: u64) {
        let news = ring.published() != self.published;
        self.published = ring.published();
        if news {
            // The commits are in the ring: a shard that arms its first watch now either sees them before it
            // sleeps, or its flag is seen here.
            fence(Ordering::SeqCst);
        }
        let half = ring.capacity() as u64 / 2;
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let lag = ring.lag(at);
            let armed = news && shard.armed.load(Ordering::Relaxed);
            if std::mem::take(&mut self.marked[at]) || armed || (news && lag >= half) {
                shard.waker.wake();
                if lag > 1 {
                    shard.owes.get_or_insert(Owes { since_ns: now_ns, position: ring.published() - lag });
                }
            }
        }
    }

    pub(in crate::consensus) fn mark_all(&mut self) {
        self.marked.fill(true);
    }

    /// Restarts the time of every woken shard, after a stop of the whole process.
    pub(in crate::consensus) fn forgive(&mut self) {
        for shard in &mut self.shards {
            shard.owes = None;
        }
    }

    /// Clears the time of shards that have moved. Returns a shard that has not moved for too long.
    pub(in crate::consensus) fn stuck(&mut self, ring: &CommitSender, now_ns: u64) -> Option<Stuck> {
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let Some(owes) = shard.owes else { continue };
            let lag = ring.lag(at);
            if lag <= 1 || ring.published() - lag > owes.position {
                shard.owes = None;
            } else if now_ns.saturating_sub(owes.since_ns) >= SHARD_STUCK_NS {
                return Some(Stuck { shard: at, lag });
            }
        }
        None
    }

    /// When [`Shards::stuck`] can next find something, ns.
    pub(in crate::consensus) fn deadline_ns(&self) -> Option<u64> {
        self.shards.iter().filter_map(|s| s.owes).map(|o| o.since_ns + SHARD_STUCK_NS).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Commit;
    use crate::ring::{CommitReceiver, Published, with_capacity};
    use crate::tree;

    fn shards(ring: usize) -> (Shards, CommitSender, Vec<CommitReceiver>, tree::Writer, Vec<Armed>) {
        let (tx, rx) = with_capacity(2, ring);
        let (writer, _) = tree::tree(2);
        let armed: Vec<Armed> = (0..2).map(|_| Armed::default()).collect();
        let parts = armed.iter().map(|a| (Waker::new().unwrap(), a.clone())).collect();
        (Shards::new(parts), tx, rx, writer, armed)
    }

    fn push(tx: &mut CommitSender, writer: &mut tree::Writer) {
        let published = Published { commit: Commit::default(), version: writer.publish() };
        assert!(tx.try_push(published).is_ok());
    }

    #[test]
    fn a_shard_that_owes_nothing_is_never_stuck() {
        let (mut s, mut tx, _rx, mut w, _armed) = shards(64);
        for _ in 0..4 {
            push(&mut tx, &mut w);
        }
        s.wake(&tx, 0);
        assert_eq!((s.deadline_ns(), s.stuck(&tx, 10 * SHARD_STUCK_NS)), (None, None));
    }

    #[test]
    fn a_shard_that_was_woken_and_does_not_move_is_stuck() {
        let (mut s, mut tx, mut rx, mut w, armed) = shards(64);
        armed[1].store(true, Ordering::Relaxed);
        for _ in 0..4 {
            push(&mut tx, &mut w);
        }
        s.wake(&tx, 5);
        assert_eq!(s.deadline_ns(), Some(5 + SHARD_STUCK_NS));
        assert_eq!(s.stuck(&tx, 4 + SHARD_STUCK_NS), None);
        assert_eq!(s.stuck(&tx, 5 + SHARD_STUCK_NS), Some(Stuck { shard: 1, lag: 4 }));
        // Two commits taken: the shard moves.
        rx[1].next();
        rx[1].next();
        assert_eq!(s.stuck(&tx, 5 + SHARD_STUCK_NS), None);
        assert_eq!(s.deadline_ns(), None);
    }

    #[test]
    fn a_sleeper_half_a_ring_behind_is_woken() {
        let (mut s, mut tx, _rx, mut w, _armed) = shards(4);
        push(&mut tx, &mut w);
        s.wake(&tx, 0);
        assert_eq!(s.deadline_ns(), None);
        push(&mut tx, &mut w);
        s.wake(&tx, 0);
        assert!(s.deadline_ns().is_some());
        s.forgive();
        assert!(s.deadline_ns().is_none());
    }
}
