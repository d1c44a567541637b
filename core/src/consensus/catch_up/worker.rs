//! The worker: every access of a transfer to a disk.
//!
//! Owns one thread, the file that is being received, and the queues between the thread and the core. In the
//! simulation the same jobs run at once, on the caller's thread.
//!
//! Never decides anything: the worker runs one job after the other and returns the result of each.
//!
//! Correct because jobs and results carry the number of their transfer, so that late ones are recognised. A
//! received file that is not finished is removed when it is dropped.

use super::{CHUNK_BYTES, OUTGOING_TRANSFERS_MAX, WINDOW_CHUNKS_MAX};
use crossbeam_channel::{Receiver, Sender, bounded};
use paddock_storage::snapshot::SnapshotReceiver;
use paddock_storage::{SnapshotError, SnapshotReader, Snapshots};
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Jobs that wait for the thread: a window for each transfer, and some that begin and end it. A further job
/// is refused, and its transfer resends or fails.
const JOBS_MAX: usize = (OUTGOING_TRANSFERS_MAX + 1) * (WINDOW_CHUNKS_MAX + 4);

/// Niceness of the thread. Its priority is below that of threads that serve clients, and above that of
/// checkpoints, since a node waits for the snapshot.
const NICENESS: i32 = 10;

/// The thread that runs the worker's jobs.
pub enum WorkerMode {
    /// A thread of its own, which wakes the core's loop after each result.
    Thread(Arc<Waker>),
    /// The caller's thread, at once, for the simulation.
    Inline,
}

/// A job of the worker.
pub(super) enum Job {
    /// Open the newest undamaged snapshot, or reuse one of `known`, which are open already.
    Open {
        transfer: u64,
        known: Vec<SnapshotReader>,
    },
    Read {
        transfer: u64,
        round: u64,
        reader: SnapshotReader,
        offset: u64,
    },
    /// Drop a reader. The worker does it, since unmapping the file would delay the core.
    Release(#[expect(dead_code, reason = "the worker only drops the reader")] SnapshotReader),
    /// Create a file. An unfinished file of an earlier transfer is removed.
    Create {
        transfer: u64,
        index: u64,
        term: u64,
        bytes: u64,
    },
    /// Write the next bytes of the file.
    Write {
        transfer: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Sync and verify the file, which has all its bytes, and give it its name.
    Finish {
        transfer: u64,
    },
    /// Remove the file that is being received.
    Discard,
}

/// The result of a job. Errors are texts, since both ends write them to their logs.
pub(super) enum Done {
    Opened { transfer: u64, result: Result<SnapshotReader, String> },
    Read { transfer: u64, round: u64, offset: u64, bytes: Vec<u8> },
    Created { transfer: u64, result: Result<(), JobError> },
    Written { transfer: u64, result: Result<u64, JobError> },
    Finished { transfer: u64, result: Result<(), JobError> },
}

/// See the module doc.
pub(super) enum TransferWorker {
    Thread(Remote),
    Inline { worker: Box<Worker>, done: VecDeque<Done> },
}

/// The core's end of the thread.
pub(super) struct Remote {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    /// Set after each result, cleared before results are taken.
    news: Arc<AtomicBool>,
    /// When set, the thread ends without the jobs that wait.
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TransferWorker {
    pub(super) fn new(snapshots: Snapshots, mode: WorkerMode) -> io::Result<Self> {
        let mut worker = Worker { snapshots, receiver: None };
        let waker = match mode {
            WorkerMode::Inline => {
                return Ok(Self::Inline { worker: Box::new(worker), done: VecDeque::new() });
            }
            WorkerMode::Thread(waker) => waker,
        };
        let (jobs, waiting) = bounded(JOBS_MAX);
        // One result for each job at most, and one that the thread is about to send.
        let (tell, done) = bounded(JOBS_MAX + 1);
        let (news, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (news.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("paddock-transfer".to_owned()).spawn(move || {
            // On Linux this is the priority of the calling thread alone. Without it transfers only disturb
            // clients more.
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!("the transfer thread keeps its weight: {error}");
            }
            for job in waiting {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Some(result) = worker.work(job) else { continue };
                if tell.send(result).is_err() {
                    return;
                }
                told.store(true, Ordering::Release);
                waker.wake();
            }
        })?;
        Ok(Self::Thread(Remote { jobs: Some(jobs), done, news, stop, thread: Some(thread) }))
    }

    /// Submits a job; `false`: too many wait, or the thread has ended.
    pub(super) fn submit(&mut self, job: Job) -> bool {
        match self {
            Self::Thread(remote) => remote.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok()),
            Self::Inline { worker, done } => {
                done.extend(worker.work(job));
                true
            }
        }
    }

    pub(super) fn take(&mut self) -> Option<Done> {
        match self {
            Self::Thread(remote) => {
                remote.news.store(false, Ordering::Relaxed);
                remote.done.try_recv().ok()
            }
            Self::Inline { done, .. } => done.pop_front(),
        }
    }

    pub(super) fn has_news(&self) -> bool {
        match self {
            Self::Thread(remote) => remote.news.load(Ordering::Acquire),
            Self::Inline { done, .. } => !done.is_empty(),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        // Otherwise a thread that waits for room for its result would wait for ever.
        self.done = bounded(0).1;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// The worker's end: runs the jobs.
pub(super) struct Worker {
    snapshots: Snapshots,
    /// The number of the incoming transfer, and its file.
    receiver: Option<(u64, SnapshotReceiver)>,
}

impl Worker {
    fn work(&mut self, job: Job) -> Option<Done> {
        match job {
            Job::Open { transfer, known } => Some(Done::Opened { transfer, result: self.open(&known) }),
            Job::Read { transfer, round, reader, offset } => {
                let bytes = reader.chunk(offset, CHUNK_BYTES).map(|b| b.to_vec()).unwrap_or_default();
                Some(Done::Read { transfer, round, offset, bytes })
            }
            Job::Release(_) => None,
            Job::Create { transfer, index, term, bytes } => {
                // The old file is removed first, since the new one may need its disk space.
                self.receiver = None;
                let created = self.snapshots.receive(index, term, bytes);
                let result = created.map(|r| self.receiver = Some((transfer, r))).map_err(JobError::from);
                Some(Done::Created { transfer, result })
            }
            Job::Write { transfer, offset, bytes } => {
                let receiver = self.receiver.as_mut().filter(|(of, _)| *of == transfer);
                // There is no file after a failure, which was reported.
                let (_, receiver) = receiver?;
                let result =
                    receiver.chunk(offset, &bytes).map(|()| receiver.received()).map_err(JobError::from);
                if result.is_err() {
                    self.receiver = None;
                }
                Some(Done::Written { transfer, result })
            }
            Job::Finish { transfer } => {
                let (_, receiver) = self.receiver.take_if(|(of, _)| *of == transfer)?;
                let result = receiver.finish().map(drop).map_err(JobError::from);
                Some(Done::Finished { transfer, result })
            }
            Job::Discard => {
                self.receiver = None;
                None
            }
        }
    }

    fn open(&self, known: &[SnapshotReader]) -> Result<SnapshotReader, String> {
        let listed = self.snapshots.list().map_err(text)?;
        let mut wrong = None;
        for found in listed.iter().rev() {
            if let Some(open) = known.iter().find(|reader| reader.path() == found.path) {
                return Ok(open.clone());
            }
            match self.snapshots.open(&found.path) {
                Ok(reader) => return Ok(reader),
                // The next start handles a damaged file. A checkpoint may just have removed this one.
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        Err(wrong.map_or_else(|| "there is no snapshot yet".to_owned(), text))
    }
}

/// Why a received file could not be kept.
pub(super) struct JobError {
    /// The error in words: for the logs of both ends.
    pub(super) why: String,
    /// Whether the disk has no room for the file.
    pub(super) no_room: bool,
}

impl From<SnapshotError> for JobError {
    fn from(error: SnapshotError) -> Self {
        let full = |source: &io::Error| source.kind() == io::ErrorKind::StorageFull;
        let no_room = matches!(&error, SnapshotError::Io { source, .. } if full(source));
        Self { why: error.to_string(), no_room }
    }
}

fn text(error: SnapshotError) -> String {
    error.to_string()
}
