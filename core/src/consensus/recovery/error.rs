//! Why a node cannot start.

use crate::checkpoint::LoadError;
use crate::consensus::control::StopReason;
use crate::consensus::raft::GroupError;
use paddock_storage::log::OpenError;
use paddock_storage::{DataDirError, ReadError, SnapshotError};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a node cannot start. Each says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// No snapshot can be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot with good checksums does not hold what it should.
    #[error("{} cannot be loaded: {error}", path.display())]
    Load {
        /// The snapshot.
        path: PathBuf,
        /// The reason.
        error: LoadError,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// An entry of the log cannot be read.
    #[error("the log cannot be read: {0}")]
    Read(#[from] ReadError),
    /// An entry of the log cannot be applied.
    #[error("recovery stopped: {0}")]
    Replay(StopReason),
    /// Consensus cannot be set up.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A snapshot's membership is unreadable, or does not contain this node.
    #[error("the membership in {} is not usable: {what}", path.display())]
    Membership {
        /// The snapshot.
        path: PathBuf,
        /// The reason.
        what: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}
