//! The generator's threads: one engine on one event loop each, all started together.
//!
//! Owns starting, waiting and joining. Never knows what the engines do. Correct because a thread that ends
//! before all are ready stops the others, and its error becomes the run's error. A finished thread stays
//! until it is joined, so that its CPU time can still be read from `/proc`.

use crate::config::RunConfig;
use crate::machine;
use crate::session::{Client, ClientError, Workload};
use crate::workload::Control;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use paddock_transport::event_loop::{EventLoop, LoopError, LoopKind, LoopOptions};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

/// Poll interval of the main thread.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a worker thread ended before its time.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// No session could be established.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The event loop could not be made, or failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The operating system refused a thread.
    #[error("starting a thread: {0}")]
    Thread(io::Error),
    /// A core of `--cores` that the thread could not be pinned to.
    #[error("--cores: cannot use core {core}: {source}")]
    Core { core: u32, source: io::Error },
    /// The thread panicked: a defect of this program.
    #[error("a thread of the generator ended by a defect; please report it with the message above")]
    Panic,
}

/// Running threads, each with a workload of kind `W`.
#[derive(Debug)]
pub struct Workers<W: Workload> {
    handles: Vec<JoinHandle<Result<Client<W>, WorkerError>>>,
    tids: Receiver<u32>,
    done: Arc<AtomicUsize>,
    /// Dropped by `join`: finished threads wait for that before they exit.
    release: Sender<()>,
}

impl<W> Workers<W>
where
    W: Workload + Send + 'static,
    W::Request: Send,
{
    /// Starts one thread for each of `clients`.
    pub fn start(config: &RunConfig, kind: LoopKind, clients: Vec<Client<W>>) -> Result<Self, WorkerError> {
        let (told, tids) = unbounded();
        let (release, released) = bounded::<()>(0);
        let done = Arc::new(AtomicUsize::new(0));
        let mut handles = Vec::new();
        for (i, mut client) in clients.into_iter().enumerate() {
            let core = (!config.cores.is_empty()).then(|| config.cores[i % config.cores.len()]);
            let (told, released, done) = (told.clone(), released.clone(), Arc::clone(&done));
            let body = move || {
                let _ = told.send(rustix::thread::gettid().as_raw_nonzero().get() as u32);
                let ended = {
                    let _done = CountOnDrop(done);
                    drive(kind, core, &mut client)
                };
                // No message is ever sent: this returns once `release` is dropped.
                let _ = released.recv();
                ended.map(|()| client)
            };
            let thread = std::thread::Builder::new().name(format!("load-{i}"));
            handles.push(thread.spawn(body).map_err(WorkerError::Thread)?);
        }
        Ok(Self { handles, tids, done, release })
    }

    /// Kernel thread ids. Complete once all threads have announced that they are ready.
    pub fn tids(&self) -> Vec<u32> {
        self.tids.try_iter().collect()
    }

    /// Whether at least one thread has finished.
    pub fn any_finished(&self) -> bool {
        self.done.load(Ordering::Acquire) > 0
    }

    pub fn all_finished(&self) -> bool {
        self.done.load(Ordering::Acquire) == self.handles.len()
    }

    /// Waits until all sessions of all threads are established. `false`: a thread ended first, and the
    /// others are told to stop.
    pub fn wait_ready(&self, control: &Control) -> bool {
        while control.ready() < self.handles.len() {
            if self.any_finished() {
                control.stop();
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }

    /// Waits for all threads. Returns the first error of any of them.
    pub fn join(self) -> Result<Vec<Client<W>>, WorkerError> {
        drop(self.release);
        let ended: Vec<_> =
            self.handles.into_iter().map(|h| h.join().unwrap_or(Err(WorkerError::Panic))).collect();
        ended.into_iter().collect()
    }
}

/// Counts a thread as finished on every way out, a panic included.
struct CountOnDrop(Arc<AtomicUsize>);

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Body of one thread: pins it to its core and runs the event loop to the end.
fn drive<W: Workload>(kind: LoopKind, core: Option<u32>, client: &mut Client<W>) -> Result<(), WorkerError> {
    if let Some(core) = core {
        machine::pin(core).map_err(|source| WorkerError::Core { core, source })?;
    }
    // Paced sending needs sleeps that end in time, and a thread's default timer slack is 50 µs. The run
    // goes on without.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    EventLoop::new(kind, LoopOptions::default())?.run(client)?;
    match client.sessions.fatal() {
        Some(error) => Err(error.clone().into()),
        None => Ok(()),
    }
}

/// Monotonic time in ns, on the clock that the event loops hand to engines (`CLOCK_BOOTTIME`).
pub fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Sleeps until `ns` on the clock of [`mono_ns`], or until `look` returns true. Calls `look` every
/// [`LOOK_EVERY`].
pub fn sleep_until(ns: u64, mut look: impl FnMut() -> bool) {
    loop {
        let now = mono_ns();
        if now >= ns || look() {
            return;
        }
        std::thread::sleep(Duration::from_nanos(ns - now).min(LOOK_EVERY));
    }
}

/// Splits `count` connections over `threads`. Yields each thread's first connection and its number of
/// connections.
pub fn shares(count: usize, threads: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..threads).map(move |t| {
        let (first, next) = (count * t / threads, count * (t + 1) / threads);
        (first, next - first)
    })
}

/// A control for the main thread and the workers.
pub fn control() -> Arc<Control> {
    Arc::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_has_one_thread() {
        for (count, threads) in [(64, 1), (64, 3), (3, 3), (1000, 7)] {
            let all: Vec<_> = shares(count, threads).collect();
            assert_eq!(all.len(), threads);
            let mut next = 0;
            for (first, n) in all {
                assert_eq!(first, next);
                assert!(n >= count / threads);
                next += n;
            }
            assert_eq!(next, count);
        }
    }
}
