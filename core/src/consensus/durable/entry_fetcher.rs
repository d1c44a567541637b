//! Reads of log entries that are not in memory any more, off the core.
//!
//! Owns a thread, started with the first request, and the results until the core takes them. Never names
//! Raft: ranges come as [`Fetch`], and the core hands the results back. Correct because a fetch reads only
//! entries that are durable and applied, which never change. Bounded because Raft has only so many fetches
//! under way.

use crate::consensus::durable::journal::loaded;
use crate::consensus::raft::{Fetch, LogEntry};
use bytes::Bytes;
use paddock_storage::LogReader;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Wakes the core after a read.
pub(in crate::consensus) type Wake = Box<dyn Fn() + Send>;

/// See the module doc.
pub(in crate::consensus) struct EntryFetcher {
    reader: LogReader,
    /// Taken when the thread starts.
    wake: Option<Wake>,
    thread: Option<Running>,
    inline: bool,
    done: VecDeque<(Fetch, Vec<LogEntry>)>,
}

struct Running {
    requests: Sender<Fetch>,
    done: Receiver<(Fetch, Vec<LogEntry>)>,
    handle: JoinHandle<()>,
}

impl EntryFetcher {
    /// Reads from `reader` on a thread that calls `wake`. With `inline` the caller's thread reads at once.
    pub(in crate::consensus) fn new(reader: LogReader, inline: bool, wake: Wake) -> Self {
        Self { reader, wake: Some(wake), thread: None, inline, done: VecDeque::new() }
    }

    /// Begins a read. A read that fails ends without entries.
    pub(in crate::consensus) fn request(&mut self, fetch: Fetch) {
        if self.inline {
            let entries = read(&self.reader, fetch);
            self.done.push_back((fetch, entries));
            return;
        }
        if self.thread.is_none()
            && let Some(wake) = self.wake.take()
        {
            self.start(wake);
        }
        let sent = self.thread.as_ref().is_some_and(|t| t.requests.send(fetch).is_ok());
        if !sent {
            self.done.push_back((fetch, Vec::new()));
        }
    }

    /// The next read that has ended, with its entries.
    pub(in crate::consensus) fn take(&mut self) -> Option<(Fetch, Vec<LogEntry>)> {
        self.collect();
        self.done.pop_front()
    }

    /// Whether a read has ended.
    pub(in crate::consensus) fn has_news(&mut self) -> bool {
        self.collect();
        !self.done.is_empty()
    }

    fn collect(&mut self) {
        if let Some(thread) = &self.thread {
            self.done.extend(thread.done.try_iter());
        }
    }

    fn start(&mut self, wake: Wake) {
        let (requests, waiting) = channel::<Fetch>();
        let (ended, done) = channel();
        let reader = self.reader.clone();
        let run = move || {
            for fetch in waiting {
                if ended.send((fetch, read(&reader, fetch))).is_err() {
                    return;
                }
                wake();
            }
        };
        match std::thread::Builder::new().name("paddock-cold-log".to_owned()).spawn(run) {
            Ok(handle) => self.thread = Some(Running { requests, done, handle }),
            Err(error) => tracing::error!(
                "the thread that reads older parts of the log cannot be started: {error}. Nodes that are far behind \
                 get a snapshot instead, when one is due"
            ),
        }
    }
}

impl Drop for EntryFetcher {
    fn drop(&mut self) {
        if let Some(Running { requests, done, handle }) = self.thread.take() {
            drop((requests, done));
            // It had nothing to tell but what it read.
            let _ = handle.join();
        }
    }
}

fn read(reader: &LogReader, fetch: Fetch) -> Vec<LogEntry> {
    match reader.read_range(fetch.low, fetch.high, fetch.bytes_max) {
        // Copies: a map would be read from the disk on the core's thread, and keep its segment from being
        // recycled.
        Ok(entries) => entries
            .into_iter()
            .map(|mut e| {
                e.data = Bytes::copy_from_slice(&e.data);
                loaded(e)
            })
            .collect(),
        Err(error) => {
            tracing::warn!("entries from {} on cannot be read for node {}: {error}", fetch.low, fetch.to);
            Vec::new()
        }
    }
}
