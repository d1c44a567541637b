//! For tests: counts the log lines that a piece of work writes.
//!
//! Owns a subscriber that counts events from `info` up, on the calling thread alone. Never prints them.
//! Correct because it is the thread's default subscriber only while the work runs.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Subscriber for Count {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Runs `work` and returns how many lines it logged at `info` or above.
pub(crate) fn lines(work: impl FnOnce()) -> usize {
    let count = Count::default();
    tracing::subscriber::with_default(count.clone(), work);
    count.0.load(Ordering::Relaxed)
}
