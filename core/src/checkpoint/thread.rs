//! The checkpoint thread.
//!
//! Owns one thread of the lowest weight, which writes one checkpoint at a time. Never holds a version longer than it
//! writes: the hold is dropped before the result is told. It stays correct across a stop because a cancelled write
//! leaves no snapshot. Without a thread ([`Checkpointer::inline`]) the job waits until somebody calls [`Checkpointer::run`].

use super::write::{Job, WriteError, write};
use paddock_storage::Snapshots;
use paddock_storage::snapshot::Finished;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Niceness of the thread: it takes what nobody else wants.
const NICENESS: i32 = 19;

/// How a checkpoint ended.
#[derive(Debug)]
pub struct CheckpointOutcome {
    /// Entry of the log behind which it stands.
    pub index: u64,
    /// The file, or why there is none.
    pub result: Result<Finished, WriteError>,
}

/// What is called when a checkpoint has ended.
pub type Wake = Box<dyn Fn() + Send>;

/// Writes jobs and tells how they ended.
struct Writer {
    snapshots: Snapshots,
    bytes_per_second: Option<u64>,
    cancelled: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
    ended: Sender<CheckpointOutcome>,
    wake: Wake,
}

impl Writer {
    /// `false`: nobody listens any more.
    fn run(&self, job: Job) -> bool {
        let index = job.meta.index;
        let result = write(&self.snapshots, &job, self.bytes_per_second, &self.cancelled);
        drop(job);
        if self.ended.send(CheckpointOutcome { index, result }).is_err() {
            return false;
        }
        self.told.store(true, Ordering::Release);
        (self.wake)();
        true
    }
}

/// See the module doc.
pub struct Checkpointer {
    jobs: Option<Sender<Job>>,
    /// Without a thread: who writes, and what waits.
    inline: Option<(Writer, Receiver<Job>)>,
    outcomes: Receiver<CheckpointOutcome>,
    cancel: Arc<AtomicBool>,
    /// Set before the news is told, taken down by [`Checkpointer::take`].
    news: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread. `wake` is called when a checkpoint has ended.
    pub fn start(snapshots: Snapshots, bytes_per_second: Option<u64>, wake: Wake) -> io::Result<Self> {
        let mut this = Self::inline(snapshots, bytes_per_second, wake)?;
        let Some((writer, waiting)) = this.inline.take() else { return Ok(this) };
        let thread = std::thread::Builder::new().name("paddock-checkpoint".to_owned()).spawn(move || {
            // On Linux this is the weight of the calling thread alone. Without it checkpoints are only less polite.
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!("the checkpoint thread keeps its weight: {error}");
            }
            for job in waiting {
                if !writer.run(job) {
                    return;
                }
            }
        })?;
        this.thread = Some(thread);
        Ok(this)
    }

    /// Without a thread. Never fails; it has the form of [`Checkpointer::start`].
    pub fn inline(snapshots: Snapshots, bytes_per_second: Option<u64>, wake: Wake) -> io::Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let (ended, outcomes) = channel();
        let (cancel, news) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cancelled, told) = (cancel.clone(), news.clone());
        let writer = Writer { snapshots, bytes_per_second, cancelled, told, ended, wake };
        Ok(Self { jobs: Some(jobs), inline: Some((writer, waiting)), outcomes, cancel, news, thread: None })
    }

    /// Without a thread: writes what waits.
    pub fn run(&mut self) {
        if let Some((writer, waiting)) = &self.inline {
            while let Ok(job) = waiting.try_recv() {
                writer.run(job);
            }
        }
    }

    /// Hands over a job. One at a time: the caller waits for the outcome of the last one.
    pub fn begin(&mut self, job: Job) {
        self.cancel.store(false, Ordering::Relaxed);
        if let Some(jobs) = &self.jobs {
            // A thread that is gone has told its last outcome or panicked; `take` finds out.
            let _ = jobs.send(job);
        }
    }

    /// Tells the thread to give up what it writes.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// How the last job ended, once.
    pub fn take(&mut self) -> Option<CheckpointOutcome> {
        self.news.store(false, Ordering::Relaxed);
        self.outcomes.try_recv().ok()
    }

    /// Whether an outcome waits.
    pub fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.cancel();
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}
