//! Wake-ups: a thread with work for a loop ends the loop's sleep, with at most one system call per sleep.
//!
//! Owns one flag and one eventfd per loop. Never carries the work itself, which is in a ring or channel
//! beside it.
//!
//! Correct because no wake-up is lost. The sleeper raises the flag, executes a full fence, and then checks
//! its rings a last time ([`crate::engine::Engine::park`]). The producer pushes, executes a full fence,
//! and then reads the flag. The fences are totally ordered, so the sleeper sees the push or the producer
//! sees the flag.
//!
//! Of several producers, the one that lowers the flag writes the eventfd. A write that arrives after the
//! sleeper woke for another reason costs one empty turn.

#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The sleeping flag of a loop and the eventfd that ends the sleep.
#[derive(Debug)]
pub struct Waker {
    sleeping: CachePadded<AtomicBool>,
    event: OwnedFd,
}

impl Waker {
    /// A waker whose owner is awake.
    pub fn new() -> io::Result<Arc<Waker>> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Waker { sleeping: CachePadded::new(AtomicBool::new(false)), event }))
    }

    /// Ends the owner's sleep, if the owner sleeps or is about to. Call this after pushing the work.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            // The only possible error is a counter at its maximum, which leaves the eventfd readable.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Announces the owner's sleep. The owner must check for work once more afterwards, before it sleeps.
    pub fn raise(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether the owner sleeps or is about to. The simulator checks this instead of the eventfd.
    pub fn is_raised(&self) -> bool {
        self.sleeping.load(Ordering::Acquire)
    }

    /// Ends an announced sleep, whether or not the owner slept. Producers that find the flag down do not
    /// write the eventfd.
    pub fn lower(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// The eventfd that the owner waits on. Loops never read it: they watch it edge-triggered, so each
    /// write wakes once. The counter cannot overflow in the lifetime of a machine.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::atomic::AtomicU64;

    fn written(waker: &Waker) -> u64 {
        let mut counter = [0u8; 8];
        match rustix::io::read(&waker.event, &mut counter) {
            Ok(_) => u64::from_ne_bytes(counter),
            Err(rustix::io::Errno::AGAIN) => 0,
            Err(e) => panic!("eventfd: {e}"),
        }
    }

    #[test]
    fn an_awake_owner_costs_no_system_call() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.raise();
        waker.lower();
        waker.wake();
        assert_eq!(written(&waker), 0);
    }

    #[test]
    fn many_producers_write_once_per_sleep() {
        let waker = Waker::new().unwrap();
        waker.raise();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..1000).for_each(|_| waker.wake()));
            }
        });
        assert_eq!(written(&waker), 1);
    }

    #[test]
    fn no_push_is_slept_through() {
        const ITEMS: u64 = 20_000;
        let waker = Waker::new().unwrap();
        let pushed = Arc::new(AtomicU64::new(0));
        let producer = std::thread::spawn({
            let (waker, pushed) = (Arc::clone(&waker), Arc::clone(&pushed));
            move || {
                for _ in 0..ITEMS {
                    pushed.fetch_add(1, Ordering::Release);
                    waker.wake();
                }
            }
        });
        let mut seen = 0;
        while seen < ITEMS {
            waker.raise();
            if pushed.load(Ordering::Acquire) == seen {
                let mut fds = [PollFd::new(&waker.event, PollFlags::IN)];
                let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
                assert_ne!(poll(&mut fds, Some(&patience)).unwrap(), 0, "a push was slept through");
            }
            waker.lower();
            written(&waker);
            seen = pushed.load(Ordering::Acquire);
        }
        producer.join().unwrap();
    }
}
