//! Loading: the newest usable snapshot, and the log behind it.
//!
//! Owns no state. Never removes a damaged snapshot: that waits until the log has been replayed behind an
//! older one. Correct because the digest of the loaded state is compared with the digest in the snapshot's
//! header.

use super::first_start;
use crate::checkpoint::load;
use crate::consensus::config::ConsensusConfig;
use crate::consensus::control::StopReason;
use crate::consensus::raft::Membership;
use crate::consensus::recovery::StartError;
use crate::machine::Machine;
use crate::tree;
use paddock_storage::log::Flushing;
use paddock_storage::snapshot::Skipped;
use paddock_storage::{DataDir, Log, LogOptions, Recovery, SnapshotError, Snapshots};
use paddock_transport::wake::Waker;
use std::sync::Arc;

/// The state of a snapshot, or an empty one: where replay begins.
pub(in crate::consensus) struct LoadedState {
    pub(in crate::consensus) machine: Machine,
    pub(in crate::consensus) index: u64,
    pub(in crate::consensus) term: u64,
    pub(in crate::consensus) membership: Membership,
    /// Damaged snapshots that were passed over.
    pub(in crate::consensus) skipped: Vec<Skipped>,
}

/// The writer of the tree that a snapshot fills, and the readers of the shards.
pub(in crate::consensus) type Tree = (tree::Writer, Vec<tree::Reader>);

/// Loads the newest snapshot that can be loaded. A snapshot with good checksums and unusable contents is
/// passed over like a damaged one. Whether the log reaches back to the snapshot before it is found out when
/// the log is opened.
pub(in crate::consensus) fn from_snapshot(
    snapshots: &Snapshots,
    config: &ConsensusConfig,
    dir: &DataDir,
) -> Result<(LoadedState, Tree), StartError> {
    let shards = config.shards;
    let Some(opened) = snapshots.open_newest()? else {
        let tree = tree::tree(shards);
        let membership = first_start::membership(dir, config)?;
        let machine = Machine::new(&tree.0);
        return Ok((LoadedState { machine, index: 0, term: 0, membership, skipped: Vec::new() }, tree));
    };
    let mut skipped = opened.skipped;
    let mut reader = opened.reader;
    // If no snapshot can be used, the operator needs the error of the newest one.
    let mut newest_error = None;
    let (loaded, tree) = loop {
        // A tree that was filled in part cannot be used again.
        let mut tree = tree::tree(shards);
        match load(&reader, &mut tree.0) {
            Ok(loaded) => break (loaded, tree),
            Err(error) => {
                let path = reader.path().to_owned();
                let what = "its blocks are whole and cannot be loaded";
                let damage = SnapshotError::Damaged { path: path.clone(), offset: 0, what };
                tracing::error!("{}: {error}", path.display());
                skipped.push(Skipped { path: path.clone(), error: damage });
                let newest = newest_error.take().unwrap_or(StartError::Load { path, error });
                let at = (reader.header().index, reader.header().term);
                reader = match snapshots.open_before(at, &mut skipped)? {
                    Some(older) => older,
                    None => return Err(newest),
                };
                newest_error = Some(newest);
            }
        }
    };
    for skipped in &skipped {
        tracing::error!(
            "{}; the snapshot before it is used, and the damaged one removed once the log has been replayed behind it",
            skipped.error
        );
    }
    let path = || reader.path().to_owned();
    let header = reader.header();
    let membership = Membership::decode(&header.conf_state)
        .map_err(|e| StartError::Membership { path: path(), what: e.to_string() })?;
    let digest = loaded.machine.digest();
    if digest != header.digest {
        return Err(StartError::Replay(StopReason::Diverged {
            zxid: header.zxid,
            found: digest,
            logged: header.digest,
            index: header.index,
        }));
    }
    let (index, term) = (header.index, header.term);
    Ok((LoadedState { machine: loaded.machine, index, term, membership, skipped }, tree))
}

/// Opens the log behind the loaded state. `waker` is raised when the log has synced something.
pub(in crate::consensus) fn open_log(
    config: &ConsensusConfig,
    dir: &DataDir,
    from: &LoadedState,
    waker: Arc<Waker>,
) -> Result<(Log, Recovery), StartError> {
    let mut options = LogOptions::new(dir.log_dir(), config.log_salt);
    options.disk = dir.disk();
    options.force_sync = config.force_sync;
    options.snapshot = (from.index, from.term);
    options.wake = Arc::new(move || waker.wake());
    if let Some(bytes) = config.segment_bytes {
        options.segment_bytes = bytes;
    }
    if config.inline {
        options.flushing = Flushing::Manual;
    }
    Ok(Log::open(options)?)
}
