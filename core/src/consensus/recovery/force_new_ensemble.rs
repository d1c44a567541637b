//! A new ensemble with the data of one server, after a majority of the data directories was lost.
//!
//! Owns that one step: what is written into the data directory of the remaining server, while the server does
//! not run. It computes the state after an ordinary change of the membership that leaves this server as the
//! only voter of an ensemble with a new number. It writes that state as a snapshot behind the log. Never runs
//! by itself: an operator has seen that the other directories are gone for good.
//!
//! Correct because:
//!
//! - Everything in the log is kept and counts as committed. Some of it may not have been, but nothing is
//!   missing that was acknowledged and reached this server.
//! - Members stay members, and this server becomes a voter if it was an observer. A member with an empty
//!   directory is fed and gets its vote back, as after any lost disk. It is fed from this snapshot on, since
//!   the log begins behind it, and never sees the old number.
//! - A directory from before has the old number. No node with such a directory is admitted again, whatever it
//!   promised.
//! - The snapshot takes effect when its name is durable. Before that only a term was skipped. If the name
//!   exists and may not be durable, the command says so, and a second run makes it durable.

use crate::checkpoint::{Job, WriteError, write};
use crate::command::{Batch, SEMANTICS};
use crate::consensus::apply::Applier;
use crate::consensus::commands::encode_batch;
use crate::consensus::config::ConsensusConfig;
use crate::consensus::membership::batch_of;
use crate::consensus::raft::{EntryKind, LogEntry, MembershipStep, Target};
use crate::consensus::recovery::StartError;
use crate::consensus::recovery::load::{from_snapshot, open_log};
use crate::consensus::recovery::replay::replay;
use crate::machine::MembershipCommand;
use crate::ring;
use bytes::Bytes;
use paddock_storage::{DataDir, HardState, Record, SnapshotMeta, Snapshots, State};
use paddock_transport::wake::Waker;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use thiserror::Error;

/// Why no new ensemble can be forced. Each message says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RefoundError {
    /// The data directory cannot be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The configuration names no data directory of a Paddock server.
    #[error("{0}")]
    Server(String),
    /// The directory has no membership in force.
    #[error("{} belongs to no ensemble: there is nothing to go on with. Take a server that has data", .0.display())]
    NoEnsemble(PathBuf),
    /// The server was removed, or has not joined.
    #[error("server {0} is no member of its ensemble; take one of the servers {1:?}")]
    NoMember(u8, Vec<u8>),
    /// The server is the only voter already.
    #[error("server {0} is the only voter of its ensemble already: start it")]
    Alone(u8),
    /// The snapshot was not written completely; nothing has changed.
    #[error("nothing is changed: {0}")]
    Write(String),
    /// The snapshot was written, and may not be durable.
    #[error(
        "it may be done, and may not last: {reason}. Do not start the server yet: put its disk right and run this command \
         again, until it says that it is done or that server {node} is the only voter of its ensemble already"
    )]
    Unsure {
        /// The server.
        node: u8,
        /// The sync or write that failed.
        reason: String,
    },
}

/// The new ensemble.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refounded {
    /// Last zxid that is kept.
    pub zxid: i64,
    /// Znodes that are kept.
    pub znodes: u64,
}

/// Makes the node in `config`'s data directory the only voter of its ensemble, under the random number
/// `cluster`.
pub fn refound(
    mut config: ConsensusConfig,
    cluster: [u8; 16],
    now_ms: i64,
) -> Result<Refounded, RefoundError> {
    // No other thread runs.
    (config.inline, config.shards) = (true, 1);
    let node = u64::from(config.node);
    let dir = DataDir::open_on(config.disk.clone(), &config.data_dir, config.new_identity)
        .map_err(StartError::from)?;
    dir.check_node(config.node).map_err(StartError::from)?;
    let snapshots = Snapshots::on(dir.disk(), dir.snapshot_dir());
    let (sender, _receivers) = ring::with_capacity(config.shards, config.commit_ring_entries);
    let (from, (writer, _readers)) = from_snapshot(&snapshots, &config, &dir)?;
    let waker = Waker::new().map_err(StartError::Thread)?;
    let (mut log, mut recovery) = open_log(&config, &dir, &from, waker)?;
    let term_before = recovery.hard_state.term.max(recovery.last_term);
    // For the new ensemble every entry counts as committed. The recorded commit index stays as it was, in
    // case this run is interrupted.
    let commit_before = std::mem::replace(&mut recovery.hard_state.commit, recovery.last_index);
    let mut applier = Applier::new(from.machine, writer, sender, config.retired_bytes_max);
    (applier.index, applier.term) = (from.index, from.term);
    let mut voters = from.membership;
    replay(&log, &recovery, &mut applier, &mut voters, node)?;

    let members = applier.machine.members();
    if members.cluster == [0; 16] {
        return Err(RefoundError::NoEnsemble(config.data_dir));
    }
    if members.get(config.node).is_none() {
        return Err(RefoundError::NoMember(config.node, members.members.keys().copied().collect()));
    }
    if voters.is_sole_voter(node) {
        // A run that was interrupted may have written the snapshot. Opening the directory made it durable.
        return Err(RefoundError::Alone(config.node));
    }
    let unwritten = |what: &dyn ToString| RefoundError::Write(what.to_string());
    let mut steps = Vec::new();
    if voters.is_joint() {
        steps.push(MembershipStep::Left);
        voters = voters.leave().map_err(|e| unwritten(&e))?;
    }
    let (applied_zxid, applied_digest) = applier.machine.stamp();
    let (policy, time_ms) = (config.policy, now_ms);
    let frame =
        Batch { semantics: SEMANTICS, policy, time_ms, applied_zxid, applied_digest, commands: Vec::new() };
    let command = encode_batch(&batch_of(&MembershipCommand::Refound { cluster, node: config.node }, frame))
        .map_err(|e| unwritten(&e))?;
    steps.extend([MembershipStep::Entered { command }, MembershipStep::Left]);
    let target = Target { voters: vec![node], learners: Vec::new() };
    let alone = voters.enter(&target).and_then(|joint| joint.leave()).map_err(|e| unwritten(&e))?;

    let term = term_before + 1;
    for step in steps {
        let (index, kind) = (applier.index + 1, EntryKind::Membership);
        let entry = LogEntry { index, term, kind, payload: Bytes::new() };
        applier.apply_change(&entry, &step).map_err(StartError::Replay)?;
    }
    // The new term comes first: the votes of a log that is reset to a snapshot stay, and no other node may
    // lead in this term.
    let passed_over = HardState { term, vote: node, commit: commit_before };
    log.append(vec![Record::HardState(passed_over)]).map_err(|e| unwritten(&e))?;
    if let State::WritesStopped { reason } | State::Failed { reason } = log.close() {
        return Err(unwritten(&reason));
    }
    applier.tree.publish();
    let held = applier.tree.hold();
    let machine = &applier.machine;
    let meta = SnapshotMeta {
        zxid: machine.zxid(),
        index: applier.index,
        term,
        digest: machine.digest(),
        node_count: held.len(),
        conf_state: alone.encode().into(),
    };
    let name = (meta.index, meta.term);
    let job = Job { held, image: machine.image(), membership: machine.membership().clone(), meta };
    write(&snapshots, &job, &AtomicBool::new(false)).map_err(|e: WriteError| {
        let named = snapshots.list().map(|all| all.iter().any(|found| (found.index, found.term) == name));
        match named.unwrap_or(true) {
            true => RefoundError::Unsure { node: config.node, reason: e.to_string() },
            false => unwritten(&e),
        }
    })?;
    Ok(Refounded { zxid: machine.zxid(), znodes: applier.tree.node_count() })
}
