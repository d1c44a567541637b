//! The checkpoint thread.
//!
//! Owns one thread of the lowest weight, which writes one checkpoint at a time. Never holds a version longer than it
//! writes: the hold is dropped before the result is told. It stays correct across a stop because a cancelled write
//! leaves no snapshot.

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
pub struct Outcome {
    /// Entry of the log behind which it stands.
    pub index: u64,
    /// The file, or why there is none.
    pub result: Result<Finished, WriteError>,
}

/// See the module doc.
pub struct Checkpointer {
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Outcome>,
    cancel: Arc<AtomicBool>,
    /// Set before the news is told, taken down by [`Checkpointer::take`].
    news: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread. `wake` is called when a checkpoint has ended.
    pub fn start(
        snapshots: Snapshots,
        bytes_per_second: Option<u64>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let (ended, outcomes) = channel();
        let (cancel, news) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cancelled, told) = (cancel.clone(), news.clone());
        let thread = std::thread::Builder::new().name("paddock-checkpoint".to_owned()).spawn(move || {
            // On Linux this is the weight of the calling thread alone. Without it checkpoints are only less polite.
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!("the checkpoint thread keeps its weight: {error}");
            }
            for job in waiting {
                let index = job.meta.index;
                let result = write(&snapshots, &job, bytes_per_second, &cancelled);
                drop(job);
                if ended.send(Outcome { index, result }).is_err() {
                    return;
                }
                told.store(true, Ordering::Release);
                wake();
            }
        })?;
        Ok(Self { jobs: Some(jobs), outcomes, cancel, news, thread: Some(thread) })
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
    pub fn take(&mut self) -> Option<Outcome> {
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
