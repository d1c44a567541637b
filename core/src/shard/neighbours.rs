//! What the shards of one node share beside the tree: who is connected from where, who must let a session go, and the
//! roll of all clients when an operator asks for it.
//!
//! Owns the count of connections for each client address and a letterbox for each shard. Never is touched by a request:
//! connections open, close and bind sessions here, and four-letter words call the roll. Locks are held for a map
//! operation at most. It stays bounded because counts are removed at zero and a letterbox takes [`LETTERS_MAX`] letters,
//! beyond which the oldest are dropped: an eviction is the courtesy of closing a connection that a reattach was tried for
//! (the attachment number guards what matters), and a roll is answered in time with what has come.

use crate::admin::text::ClientLine;
use paddock_transport::wake::Waker;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Letters in one letterbox: more than one turn of another shard could write.
const LETTERS_MAX: usize = 4096;

/// What one shard asks of another.
pub(super) enum Letter {
    /// Close the connection of this session, if it is yours.
    Evict(i64),
    /// Say who is connected to you.
    Roll(Arc<Roll>),
}

/// The clients of all shards, gathered for one that asked.
#[derive(Debug)]
pub(super) struct Roll {
    asker: u16,
    /// Shards that have not answered.
    missing: AtomicUsize,
    lines: Mutex<Vec<ClientLine>>,
}

impl Roll {
    /// Whether everyone has answered.
    pub fn is_complete(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }
    /// Takes what has come.
    pub fn lines(&self) -> Vec<ClientLine> {
        std::mem::take(&mut *lock(&self.lines))
    }
}

struct Door {
    /// Something is in the box; looked at in every turn, so it is no lock.
    rung: AtomicBool,
    letters: Mutex<VecDeque<Letter>>,
    waker: Arc<Waker>,
}

impl Door {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Shared by the shards of one node.
pub struct Neighbours {
    doors: Vec<Door>,
    /// Connections that one address may have on this node (`maxClientCnxns`); 0: any number.
    per_address_max: u32,
    addresses: Mutex<HashMap<IpAddr, u32>>,
    /// What was last said about who is served, so that one shard says it for all.
    announced: AtomicU8,
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
        Arc::new(Self { doors, per_address_max, addresses: Mutex::default(), announced: AtomicU8::new(0) })
    }

    /// Whether `footing` is news to the node, or another shard has said so.
    pub(super) fn announce(&self, footing: u8) -> bool {
        self.announced.swap(footing, Ordering::Relaxed) != footing
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
        self.write(from, || Letter::Evict(session));
    }

    /// Asks all shards but `from` who is connected to them.
    pub(super) fn call_roll(&self, from: u16) -> Arc<Roll> {
        let missing = AtomicUsize::new(self.doors.len().saturating_sub(1));
        let roll = Arc::new(Roll { asker: from, missing, lines: Mutex::default() });
        self.write(from, || Letter::Roll(roll.clone()));
        roll
    }

    /// Answers a roll; the last answer rings at the asker's.
    pub(super) fn answer_roll(&self, roll: &Roll, lines: Vec<ClientLine>) {
        lock(&roll.lines).extend(lines);
        if roll.missing.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(door) = self.doors.get(usize::from(roll.asker))
        {
            door.ring();
        }
    }

    fn write(&self, from: u16, letter: impl Fn() -> Letter) {
        for (_, door) in self.doors.iter().enumerate().filter(|(n, _)| *n != usize::from(from)) {
            let mut letters = lock(&door.letters);
            if letters.len() >= LETTERS_MAX {
                letters.pop_front();
            }
            letters.push_back(letter());
            drop(letters);
            door.ring();
        }
    }

    /// Whether somebody asked `shard` for something.
    pub(super) fn rung(&self, shard: u16) -> bool {
        self.doors.get(usize::from(shard)).is_some_and(|d| d.rung.load(Ordering::Acquire))
    }

    /// What `shard` was asked for.
    pub(super) fn letters(&self, shard: u16) -> VecDeque<Letter> {
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
        assert!(matches!(letters[0], Letter::Evict(5)));
        assert_eq!(letters.len(), LETTERS_MAX);
        assert!(!all.rung(0));
    }
}
