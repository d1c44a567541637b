//! Checkpoint thread.
//!
//! Owns one thread of the lowest priority, which writes one checkpoint at a time. Without a thread
//! ([`Checkpointer::inline`]) a job waits until the caller runs [`Checkpointer::run`].
//!
//! Never holds a version longer than it writes: the hold is dropped before the outcome is sent.
//!
//! Correct across a stop because a cancelled write leaves no snapshot.

use super::write::{Job, WriteError, write};
use paddock_storage::Snapshots;
use paddock_storage::snapshot::Finished;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Niceness of the thread, the lowest priority: it takes only idle time.
const NICENESS: i32 = 19;

/// End of one checkpoint.
#[derive(Debug)]
pub struct CheckpointOutcome {
    /// Index of the last log entry that the checkpoint contains.
    pub index: u64,
    /// The finished file, or why there is none.
    pub result: Result<Finished, WriteError>,
}

/// Callback that runs after a checkpoint has ended, on the thread that wrote it.
pub type Wake = Box<dyn Fn() + Send>;

/// Writes jobs and reports how they ended.
struct Writer {
    snapshots: Snapshots,
    cancelled: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
    ended: Sender<CheckpointOutcome>,
    wake: Wake,
}

impl Writer {
    /// Writes one job and sends its outcome. `false`: the receiver is gone.
    fn run(&self, job: Job) -> bool {
        let index = job.meta.index;
        let result = write(&self.snapshots, &job, &self.cancelled);
        drop(job);
        if self.ended.send(CheckpointOutcome { index, result }).is_err() {
            return false;
        }
        self.told.store(true, Ordering::Release);
        (self.wake)();
        true
    }
}

/// Handle of the checkpoint thread. See the module.
pub struct Checkpointer {
    jobs: Option<Sender<Job>>,
    /// Without a thread: the writer, and the jobs that wait.
    inline: Option<(Writer, Receiver<Job>)>,
    outcomes: Receiver<CheckpointOutcome>,
    cancel: Arc<AtomicBool>,
    /// Set after an outcome was sent, cleared by [`Checkpointer::take`].
    news: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread. It calls `wake` after each checkpoint.
    pub fn start(snapshots: Snapshots, wake: Wake) -> io::Result<Self> {
        let mut this = Self::inline(snapshots, wake)?;
        let Some((writer, waiting)) = this.inline.take() else { return Ok(this) };
        let thread = std::thread::Builder::new().name("paddock-checkpoint".to_owned()).spawn(move || {
            // On Linux this is the priority of the calling thread alone. Without it a checkpoint competes
            // with the cores.
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

    /// Makes a checkpointer without a thread. Never fails; the signature is that of
    /// [`Checkpointer::start`].
    pub fn inline(snapshots: Snapshots, wake: Wake) -> io::Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let (ended, outcomes) = channel();
        let (cancel, news) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cancelled, told) = (cancel.clone(), news.clone());
        let writer = Writer { snapshots, cancelled, told, ended, wake };
        Ok(Self { jobs: Some(jobs), inline: Some((writer, waiting)), outcomes, cancel, news, thread: None })
    }

    /// Without a thread: writes the jobs that wait.
    pub fn run(&mut self) {
        if let Some((writer, waiting)) = &self.inline {
            while let Ok(job) = waiting.try_recv() {
                writer.run(job);
            }
        }
    }

    /// Starts a job. One at a time: the caller waits for the outcome of the last one.
    pub fn begin(&mut self, job: Job) {
        self.cancel.store(false, Ordering::Relaxed);
        if let Some(jobs) = &self.jobs {
            // A thread that is gone has sent its last outcome or panicked; `take` finds out.
            let _ = jobs.send(job);
        }
    }

    /// Cancels the running job: it ends with [`WriteError::Cancelled`].
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Takes the outcome of the last job, once.
    pub fn take(&mut self) -> Option<CheckpointOutcome> {
        self.news.store(false, Ordering::Relaxed);
        self.outcomes.try_recv().ok()
    }

    /// Whether an outcome waits to be taken.
    pub fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.cancel();
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and a drop has no caller to return it to.
            let _ = thread.join();
        }
    }
}
