//! Memory that only the machine can make slow: whether it disturbed a measurement.
//!
//! Owns memory of its own and a thread that reads it at random places, some tens of thousands of times a second, beside whatever is
//! measured. Never touches what the servers use. It stays honest because nothing that a process does slows many single reads of
//! another's memory to microseconds: a busy core takes the thread away between reads, and costs one of them at most each time.
//! Where the host of a virtual machine moves the machine's memory about, tens of reads in a row take that long, and so
//! does each look-up of a server.

use anyhow::Context;
use paddock_loadgen::run::wall_ms;
use std::hint::black_box;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes read from: more than any cache holds.
const MEMORY_BYTES: usize = 256 << 20;
/// Reads at once, and how long the thread sleeps after them: one or two percent of a core.
const READS: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);
/// A read that takes longer did not only miss the caches.
const SLOW: Duration = Duration::from_micros(5);
/// Over which time slow reads are counted.
const WINDOW: Duration = Duration::from_millis(50);
/// One slow read in so many, in a window, is a disturbance: an undisturbed machine has one in a hundred at most.
const DISTURBED_PART: usize = 25;

/// See the module doc.
pub struct Canary {
    /// The thread ends when this is gone.
    alive: Sender<()>,
    thread: JoinHandle<Disturbances>,
}

/// When the machine's memory was slow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disturbances(Vec<(i64, i64)>);

impl Disturbances {
    /// Whether there was one between two points in time, in milliseconds of the calendar.
    pub fn any(&self, from_ms: i64, until_ms: i64) -> bool {
        self.0.iter().any(|&(began, ended)| began < until_ms && ended > from_ms)
    }
}

impl Canary {
    /// Begins to read on `core`, when the memory is there.
    pub fn start(core: Option<u32>) -> anyhow::Result<Self> {
        let (alive, over) = channel();
        let (ready, wait) = channel();
        let watch = move || {
            if let Some(core) = core
                && let Err(error) = paddock_loadgen::machine::pin(core)
            {
                tracing::warn!("the canary is not pinned to core {core}: {error}");
            }
            // Not zeros: those would be one page of the kernel's until they are written.
            let memory = vec![1; MEMORY_BYTES];
            // Nobody may wait any more.
            let _ = ready.send(());
            watch(&memory, &over)
        };
        let thread = std::thread::Builder::new().name("canary".to_owned()).spawn(watch)?;
        wait.recv().context("the canary's thread ended")?;
        Ok(Self { alive, thread })
    }

    /// Ends it: when the memory was slow.
    pub fn stop(self) -> anyhow::Result<Disturbances> {
        drop(self.alive);
        self.thread.join().map_err(|_| anyhow::anyhow!("the canary's thread panicked"))
    }
}

fn watch(memory: &[u8], over: &Receiver<()>) -> Disturbances {
    let (mut found, mut place) = (Vec::new(), 1_usize);
    loop {
        let (began, began_ms) = (Instant::now(), wall_ms());
        let (mut reads, mut slow) = (0, 0);
        while began.elapsed() < WINDOW {
            for _ in 0..READS {
                // A linear congruential generator (Knuth's constants): its upper bits are random enough for a place.
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let before = Instant::now();
                black_box(memory[(place >> 20) % memory.len()]);
                slow += usize::from(before.elapsed() > SLOW);
            }
            reads += READS;
            if over.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected) {
                return Disturbances(found);
            }
        }
        if is_disturbed(slow, reads) {
            found.push((began_ms, wall_ms()));
        }
    }
}

fn is_disturbed(slow: usize, reads: usize) -> bool {
    slow * DISTURBED_PART > reads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_read_for_each_time_that_the_thread_was_away_is_no_disturbance() {
        // As measured beside a generator on the same core, and while the host moved memory.
        assert!(!is_disturbed(17, 1376));
        assert!(is_disturbed(68, 1344) && is_disturbed(201, 960));
    }

    #[test]
    fn a_disturbance_counts_for_all_times_that_it_touches() {
        let found = Disturbances(vec![(1990, 2040)]);
        assert_eq!(
            [(0, 1000), (1000, 2000), (2000, 3000), (3000, 4000)].map(|(a, b)| found.any(a, b)),
            [false, true, true, false]
        );
    }

    #[test]
    fn a_canary_ends_when_it_is_told() {
        Canary::start(None).unwrap().stop().unwrap();
    }
}
