//! How the rest of the process stops the core and learns why the core stopped.
//!
//! Owns one flag and one reason. Never stops anything itself. Correct because the reason is written once:
//! the first reason counts.

use crate::machine::ApplyError;
use paddock_transport::wake::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// Why the consensus core stopped.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StopReason {
    #[error("asked to stop")]
    Asked,
    /// A snapshot from another node is durable. The same process opens the data directory again.
    #[error("the data directory is opened again, with the snapshot at index {index}")]
    Reopen {
        /// Index of the snapshot.
        index: u64,
    },
    /// A reconfiguration removed this node from the ensemble.
    #[error(
        "this node was removed from the ensemble by a reconfiguration (version {version:x}). It holds no data that others \
         lack; to let it join again, add it with reconfig and start it"
    )]
    Removed {
        /// Version of the membership without this node.
        version: i64,
    },
    /// The log cannot be written any more. Nothing acknowledged is lost.
    #[error(
        "the log failed ({0}). Nothing that was acknowledged is lost. Check the disk under the data directory \
         (kernel log, SMART), then start the node again: it recovers what is durable"
    )]
    LogFailed(String),
    /// The state that a batch's proposer had differs from the state of this node.
    #[error(
        "this node's state differs from the one its log was written against: at zxid 0x{zxid:x} the digest is \
         {found:016x}, the log says {logged:016x} (entry {index}). Do not delete anything; keep a copy of the data \
         directory and report it. A start from the snapshot and the log may tell which of the two is wrong"
    )]
    Diverged {
        /// The zxid that was compared.
        zxid: i64,
        /// Digest as computed by this node.
        found: u64,
        /// Digest as written in the log.
        logged: u64,
        /// Index of the entry that carries the other digest.
        index: u64,
    },
    /// The log holds a batch that cannot be applied.
    #[error("entry {index} of the log cannot be applied: {error}")]
    CannotApply { index: u64, error: ApplyError },
    /// The log holds an entry that does not decode as a batch.
    #[error("entry {index} of the log does not hold a batch of commands: {what}")]
    Undecodable {
        index: u64,
        /// Message of the failed check.
        what: String,
    },
}

impl StopReason {
    /// Whether the process must end with an error.
    pub fn is_failure(&self) -> bool {
        !matches!(self, StopReason::Asked | StopReason::Reopen { .. })
    }
}

/// The flag and the reason, shared by the core and its owner.
#[derive(Debug)]
pub struct Control {
    asked: AtomicBool,
    reason: OnceLock<StopReason>,
    waker: Arc<Waker>,
}

impl Control {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { asked: AtomicBool::new(false), reason: OnceLock::new(), waker }
    }

    /// Asks the core to stop once all proposals are decided, or after [`super::config::STOP_PATIENCE_NS`].
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Stops the core at once, so that its data directory is opened again, as after an installed snapshot.
    /// Durable state stays. Clients that wait for a reply lose their connections.
    pub fn reopen(&self, index: u64) {
        self.stopped(StopReason::Reopen { index });
        self.waker.wake();
    }

    /// Why the core stopped, or `None` while it runs.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.get()
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    pub(super) fn stopped(&self, why: StopReason) {
        // A second reason is only a consequence of the first.
        let _ = self.reason.set(why);
    }
}
