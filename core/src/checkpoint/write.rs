//! Write of a checkpoint: machine first, then membership, then every znode, parents before children.
//!
//! Owns nothing: it reads a held version and passes blocks to storage.
//!
//! Never reads a clock.
//!
//! Correct because a cancelled or failed write leaves no file with a snapshot's name.

use super::block::{BLOCK_MACHINE, BLOCK_MEMBERSHIP, BLOCK_ZNODES, BlockBuilder};
use crate::machine::{MachineImage, MembershipState};
use crate::tree::SnapshotView;
use paddock_storage::snapshot::Finished;
use paddock_storage::{SnapshotError, SnapshotMeta, Snapshots};
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

pub struct Job {
    /// Held version of the tree.
    pub held: SnapshotView,
    /// Machine at that version.
    pub image: MachineImage,
    /// Membership at that version.
    pub membership: MembershipState,
    /// Header of the snapshot: zxid, log index, term, digest, count of znodes and membership at that
    /// version.
    pub meta: SnapshotMeta,
}

/// Why there is no new snapshot.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Storage could not write the file.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A block could not be archived.
    #[error("a block of the snapshot could not be archived: {0}")]
    Archive(#[from] rkyv::rancor::Error),
    /// The caller cancelled: the hold lasted too long, or the node stops.
    #[error("the checkpoint was cancelled")]
    Cancelled,
}

/// Writes `job` and returns when the snapshot is durable. Checks `cancel` between blocks.
pub fn write(snapshots: &Snapshots, job: &Job, cancel: &AtomicBool) -> Result<Finished, WriteError> {
    let mut writer = snapshots.create(&job.meta)?;
    writer.block(BLOCK_MACHINE, &rkyv::to_bytes::<rkyv::rancor::Error>(&job.image)?)?;
    if job.membership != MembershipState::default() {
        writer.block(BLOCK_MEMBERSHIP, &rkyv::to_bytes::<rkyv::rancor::Error>(&job.membership)?)?;
    }
    let mut builder = BlockBuilder::default();
    let mut bytes = Vec::new();
    for znode in &job.held {
        if builder.push(znode) {
            if cancel.load(Ordering::Relaxed) {
                return Err(WriteError::Cancelled);
            }
            bytes = builder.finish(bytes)?;
            writer.block(BLOCK_ZNODES, &bytes)?;
            bytes.clear();
        }
    }
    if !builder.is_empty() {
        writer.block(BLOCK_ZNODES, &builder.finish(bytes)?)?;
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(WriteError::Cancelled);
    }
    Ok(writer.finish()?)
}
