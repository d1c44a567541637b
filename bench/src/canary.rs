//! Detects times in which the memory of the machine was slow, because they disturb a measurement.
//!
//! Owns memory of its own, and a thread that reads it at random places, tens of thousands of times a
//! second, beside the measurement. Never touches memory of the servers. Correct because no process slows
//! many single reads of another's memory to microseconds. A busy core takes the thread away between reads,
//! which slows one read at most each time. But when the host of a virtual machine moves the machine's
//! memory, tens of reads in a row take microseconds. So does each lookup of a server.

use anyhow::Context;
use paddock_loadgen::run::wall_ms;
use std::hint::black_box;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are read from: more than any cache holds.
const MEMORY_BYTES: usize = 256 << 20;
/// Reads per burst. With a sleep of [`PAUSE`] after each burst, the thread needs one or two percent of a
/// core.
const READS: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);
/// A read that takes longer than this was slowed by more than a cache miss.
const SLOW: Duration = Duration::from_micros(5);
/// Time over which slow reads are counted.
const WINDOW: Duration = Duration::from_millis(50);
/// A window is disturbed if more than one read in this many is slow. Undisturbed machines have one in a
/// hundred at most.
const DISTURBED_PART: usize = 25;

/// A running thread that reads its own memory at random.
pub struct Canary {
    /// The thread ends when this sender is dropped.
    alive: Sender<()>,
    thread: JoinHandle<Disturbances>,
}

/// Windows in which the machine's memory was slow, as wall-clock times in ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disturbances(Vec<(i64, i64)>);

impl Disturbances {
    /// Whether a disturbance overlaps the time between two instants, in ms since the Unix epoch.
    pub fn any(&self, from_ms: i64, until_ms: i64) -> bool {
        self.0.iter().any(|&(began, ended)| began < until_ms && ended > from_ms)
    }
}

impl Canary {
    /// Starts the thread on `core`. Returns after its memory has been allocated and written.
    pub fn start(core: Option<u32>) -> anyhow::Result<Self> {
        let (alive, over) = channel();
        let (ready, wait) = channel();
        let watch = move || {
            if let Some(core) = core
                && let Err(error) = paddock_loadgen::machine::pin(core)
            {
                tracing::warn!("the canary is not pinned to core {core}: {error}");
            }
            // Not zeros: untouched zero pages all map to one page of the kernel's.
            let memory = vec![1; MEMORY_BYTES];
            // The receiver may be gone.
            let _ = ready.send(());
            watch(&memory, &over)
        };
        let thread = std::thread::Builder::new().name("canary".to_owned()).spawn(watch)?;
        wait.recv().context("the canary's thread ended")?;
        Ok(Self { alive, thread })
    }

    /// Stops the thread and returns the disturbances.
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
                // A linear congruential generator with Knuth's constants: the upper bits are random enough
                // for an index.
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
        // Measured beside a generator on the same core, and then while the host moved memory.
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
