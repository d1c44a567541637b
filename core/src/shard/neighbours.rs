//! What the shards of one node share beside the tree: who is connected from where, and who must let a session go.
//!
//! Owns the count of connections for each client address and a letterbox for each shard. Never is touched by a request:
//! connections open, close and bind sessions here, nothing else. Locks are held for a map operation at most. It stays
//! bounded because counts are removed at zero and a letterbox takes [`LETTERS_MAX`] sessions, beyond which the oldest
//! letters are dropped: they ask for the courtesy of closing a connection that a reattach was tried for, and the
//! attachment number guards what matters.

use paddock_transport::wake::Waker;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sessions in one letterbox: more reattachments than one turn of another shard could handle.
const LETTERS_MAX: usize = 4096;

struct Door {
    /// Something is in the box; looked at in every turn, so it is no lock.
    rung: AtomicBool,
    letters: Mutex<VecDeque<i64>>,
    waker: Arc<Waker>,
}

/// Shared by the shards of one node.
pub struct Neighbours {
    doors: Vec<Door>,
    /// Connections that one address may have on this node (`maxClientCnxns`); 0: any number.
    per_address_max: u32,
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can leave the map half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Neighbours {
    /// For shards whose loops have these wakers, in the order of their numbers.
    pub fn new(wakers: Vec<Arc<Waker>>, per_address_max: u32) -> Arc<Self> {
        let doors = wakers
            .into_iter()
            .map(|waker| Door { rung: AtomicBool::new(false), letters: Mutex::default(), waker })
            .collect();
        Arc::new(Self { doors, per_address_max, addresses: Mutex::default() })
    }

    /// Counts a connection from `ip`; `false` when that address has all it may have.
    pub(super) fn admit(&self, ip: IpAddr) -> bool {
        if self.per_address_max == 0 {
            return true;
        }
        let mut addresses = lock(&self.addresses);
        let count = addresses.entry(ip).or_insert(0);
        if *count >= self.per_address_max {
            return false;
        }
        *count += 1;
        true
    }

    /// An admitted connection from `ip` is gone.
    pub(super) fn leave(&self, ip: IpAddr) {
        if self.per_address_max == 0 {
            return;
        }
        let mut addresses = lock(&self.addresses);
        if let Some(count) = addresses.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&ip);
            }
        }
    }

    /// Asks all shards but `from` to close their connection of `session`, if they have it.
    pub(super) fn evict(&self, from: u16, session: i64) {
        for (_, door) in self.doors.iter().enumerate().filter(|(n, _)| *n != usize::from(from)) {
            let mut letters = lock(&door.letters);
            if letters.len() >= LETTERS_MAX {
                letters.pop_front();
            }
            letters.push_back(session);
            drop(letters);
            door.rung.store(true, Ordering::Release);
            door.waker.wake();
        }
    }

    /// Whether somebody asked `shard` for something.
    pub(super) fn rung(&self, shard: u16) -> bool {
        self.doors.get(usize::from(shard)).is_some_and(|d| d.rung.load(Ordering::Acquire))
    }

    /// The sessions that `shard` was asked to let go of.
    pub(super) fn letters(&self, shard: u16) -> VecDeque<i64> {
        let Some(door) = self.doors.get(usize::from(shard)) else { return VecDeque::new() };
        // Down before looking: a letter that comes in between rings again.
        door.rung.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&door.letters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_what_it_may_have_and_gets_it_back() {
        let all = Neighbours::new(Vec::new(), 2);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        assert!(all.admit(a) && all.admit(a) && !all.admit(a) && all.admit(b));
        all.leave(a);
        assert!(all.admit(a));
        for _ in 0..2 {
            all.leave(a);
        }
        all.leave(b);
        assert!(lock(&all.addresses).is_empty(), "nothing is kept for addresses that left");
    }

    #[test]
    fn letters_reach_the_others_and_never_pile_up() {
        let wakers = (0..3).map(|_| Waker::new().unwrap()).collect();
        let all = Neighbours::new(wakers, 0);
        for session in 0..LETTERS_MAX as i64 + 5 {
            all.evict(1, session);
        }
        assert!(all.rung(0) && !all.rung(1) && all.rung(2));
        let letters = all.letters(0);
        assert_eq!((letters.len(), letters[0]), (LETTERS_MAX, 5));
        assert!(!all.rung(0));
    }
}
