//! From a data directory to a running core.
//!
//! Owns the order of recovery: the directory's lock, the newest good snapshot, the log from there, replay, the group.
//! Never serves before everything known to be committed is applied: the parts it hands out begin at the recovered version.
//! It stays correct because storage has made all it reports durable again, because a sole voter's log is committed once it
//! is durable while others apply only what they recorded as committed, and because replay takes the way that every entry takes: the same check, the same comparison of digests.

use super::apply::Applier;
use super::bootstrap;
use super::checkpoints::Checkpoints;
use super::cold_reader::ColdReader;
use super::config::{ConsensusConfig, READ_ROUND_RETRY_NS};
use super::control::{Control, StopReason};
use super::deadlines::Deadlines;
use super::disputes::Disputes;
use super::engine::{Consensus, Phase};
use super::feed::Feed;
use super::founding::Founding;
use super::group::{Effects, Group, GroupError, Membership, Vote};
use super::installing::Installing;
use super::intake::{Intake, batch_bytes_max};
use super::journal::Journal;
use super::links::Links;
use super::outbound::Outbound;
use super::raft_group::{GroupStart, RaftGroup};
use super::reads::Reads;
use super::replay::replay;
use super::report::Report;
use super::room::Room;
use super::rounds::Rounds;
use super::shards::{Armed, Shards};
use super::steward::Steward;
use super::streams::Streams;
use super::transfer::{Mode, Transfers};
use super::window::Span;
use crate::beats::touch_beat_ns;
use crate::checkpoint::{Checkpointer, LoadError, load};
use crate::freshness::Freshness;
use crate::machine::Machine;
use crate::members::Member;
use crate::peers::{self, InlineResolver, PeerAddress, Peers, PeersConfig, Resolver, ThreadResolver};
use crate::ring::{self, CommitReceiver};
use crate::session::{IdBlocks, first_block};
use crate::stats::Stats;
use crate::submit::{Inquiries, SUBMIT_RING_ENTRIES, Submit};
use crate::tree;
use paddock_storage::log::{Flushing, OpenError};
use paddock_storage::snapshot::Skipped;
use paddock_storage::{
    DataDir, DataDirError, HardState, Log, LogOptions, ReadError, Recovery, SnapshotError, Snapshots,
};
use paddock_transport::engine::Now;
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
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
        /// The file.
        path: PathBuf,
        /// Why.
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
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

/// What a shard needs of the core.
pub struct ShardParts {
    /// Its eyes on the tree. They stand on an empty version until the first commit is taken.
    pub reader: tree::Reader,
    /// Commits. The first one is already there: the recovered state.
    pub commits: CommitReceiver,
    /// The way to the core; then [`Parts::waker`].
    pub submits: rtrb::Producer<Submit>,
    /// To be raised while the shard must see every commit at once: it has watches armed.
    pub armed: Armed,
}

/// What was found at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the snapshot; 0 without one.
    pub snapshot_index: u64,
    /// Entries replayed.
    pub entries: u64,
    /// Last zxid.
    pub zxid: i64,
    /// Znodes, as ZooKeeper counts them.
    pub znodes: u64,
    /// Sessions that live on, each with its full timeout.
    pub sessions: u64,
    /// This start's number.
    pub incarnation: u64,
    /// The directory's identity.
    pub identity: [u8; 16],
    /// Bytes cut off the log's end, which had never been durable.
    pub cut_bytes: u64,
}

/// Everything that is not the core itself.
pub struct Parts {
    /// One for each shard.
    pub shards: Vec<ShardParts>,
    /// To stop the core and to learn why it did.
    pub control: Arc<Control>,
    /// How fresh the node is: for the shards.
    pub freshness: Arc<Freshness>,
    /// The shards' questions about sessions.
    pub inquiries: Arc<Inquiries>,
    /// Where the shards take their session ids from.
    pub ids: Arc<IdBlocks>,
    /// The waker of the core's loop: after a submission.
    pub waker: Arc<Waker>,
    /// What was found.
    pub recovered: Recovered,
}

impl Consensus {
    /// Recovers `config.data_dir` and sets up the core and the ends of its shards. `waker` is that of the loop that will
    /// run it, `shard_wakers` those of the shards' loops, `config.shards` of them; with one loop for all they are the
    /// same.
    pub fn open(
        config: ConsensusConfig,
        waker: Arc<Waker>,
        shard_wakers: &[Arc<Waker>],
        stats: Arc<Stats>,
    ) -> Result<(Consensus, Parts), StartError> {
        assert_eq!(shard_wakers.len(), config.shards, "a waker for each shard");
        let mut dir = DataDir::open_on(config.disk.clone(), &config.data_dir, config.new_identity)?;
        dir.check_node(config.node)?;
        let snapshots = Snapshots::on(dir.disk(), dir.snapshot_dir());
        let (sender, receivers) = ring::with_capacity(config.shards, config.commit_ring_entries);
        let (from, (writer, readers)) = from_snapshot(&snapshots, &config, &dir)?;

        let (log, recovery) = open_log(&config, &dir, &from, waker.clone())?;
        let mut applier = Applier::new(from.machine, writer, sender, config.retired_bytes_max);
        (applier.index, applier.term) = (from.index, from.term);
        let mut membership = from.membership;
        if (from.index, recovery.last_index, recovery.hard_state) == (0, 0, HardState::default()) {
            membership = bootstrap::renew(&dir, &config, membership)?;
        }
        let node = u64::from(config.node);
        let replayed = replay(&log, &recovery, &mut applier, &mut membership, node)?;
        bootstrap::compare(&config, &membership)?;
        if let Some(other) = whose(&applier.machine, config.node, &dir.identity()) {
            return Err(dir.other_node(other, config.node).into());
        }
        dir.claim(config.node)?;
        let ids =
            Arc::new(IdBlocks::new(config.node, first_block(dir.ids_end(), &dir.identity(), config.seed)));
        let end = ids.wanted();
        dir.allow_ids(end)?;
        ids.allow(end);
        // Only now: had anything been wrong with the way back, the damaged ones would still be there to look at.
        for skipped in &from.skipped {
            snapshots.discard(skipped)?;
        }

        let span = Span::new(recovery.first_index, recovery.term_before, recovery.terms);
        let mut group = RaftGroup::new(GroupStart {
            node,
            membership,
            vote: Vote { term: recovery.hard_state.term, node: recovery.hard_state.vote },
            applied: applier.index,
            span,
            tail: replayed.tail,
            seed: config.seed,
            clock: config.raft,
        })?;
        let newest = (from.index, from.term);
        if from.index > 0 {
            group.set_snapshot(from.index, from.term);
        }
        let others = (config.members.iter().flat_map(|members| members.members.keys()))
            .filter(|other| **other != config.node)
            .copied();
        let founding = Founding::new(group.last_index() == 0, others.collect());
        if group.is_sole_voter() && !founding.holds() {
            group.campaign()?;
        }

        let entry_bytes_max = log.entry_bytes_max();
        let told = waker.clone();
        let cold = ColdReader::new(log.reader(), config.inline, Box::new(move || told.wake()));
        let journal = Journal::new(log);
        let (producers, consumers): (Vec<_>, Vec<_>) =
            (0..config.shards).map(|_| rtrb::RingBuffer::new(SUBMIT_RING_ENTRIES)).unzip();
        let intake = Intake::new(consumers, entry_bytes_max);
        let mut outbound = Outbound::new(config.node, dir.incarnation());
        let armed: Vec<Armed> = (0..config.shards).map(|_| Armed::default()).collect();
        let mut shards = Shards::new(shard_wakers.iter().cloned().zip(armed.iter().cloned()).collect());
        // The recovered state is the first commit of every shard.
        applier.publish(&mut outbound, &mut Vec::new(), &mut shards.marked);

        // A node without peers sends nobody anything: it needs no thread for that.
        let needs_thread = config.members.is_some() && !config.inline;
        let mode = if needs_thread { Mode::Thread(waker.clone()) } else { Mode::Inline };
        let transfers = Transfers::new(snapshots.clone(), mode).map_err(StartError::Thread)?;
        let told = waker.clone();
        let start = if config.inline { Checkpointer::inline } else { Checkpointer::start };
        let thread = start(snapshots, config.checkpoint_bytes_per_second, Box::new(move || told.wake()))
            .map_err(StartError::Thread)?;
        let checkpoints =
            Checkpoints::new(thread, &config, newest, &group.membership()).behind(replayed.bytes);
        let tick_ns = u64::from(config.tick_time_ms) * 1_000_000;
        let beat_ns = touch_beat_ns(config.tick_time_ms, config.max_staleness_ns);
        let links = Links::new(config.members.as_ref().map(|members| {
            let linked = applier.machine.membership().linked();
            let members = if linked.members.is_empty() { members } else { &linked };
            let address = |(node, m): (&u8, &Member)| PeerAddress {
                node: *node,
                host: m.host.clone(),
                port: m.peer_port,
            };
            let peers = PeersConfig {
                node: config.node,
                cluster: members.cluster,
                identity: dir.identity(),
                incarnation: dir.incarnation(),
                data: group.last_index() > 0,
                founders: founders(&config, &group),
                members: members.members.iter().map(address).collect(),
                seed: config.seed,
            };
            let resolver: Box<dyn Resolver + Send> = match config.inline {
                true => Box::new(InlineResolver::default()),
                false => Box::new(ThreadResolver::new(waker.clone())),
            };
            let mut peers = Peers::new(peers, resolver);
            peers.update(&linked);
            peers
        }));
        let freshness = Arc::new(Freshness::new(config.shards));
        let inquiries = Arc::<Inquiries>::default();
        let recovered = Recovered {
            snapshot_index: from.index,
            entries: replayed.entries,
            zxid: applier.machine.zxid(),
            znodes: applier.tree.node_count(),
            sessions: applier.machine.sessions().len() as u64,
            incarnation: dir.incarnation(),
            identity: dir.identity(),
            cut_bytes: recovery.cut_bytes,
        };
        let control = Arc::new(Control::new(waker.clone()));
        let identity = dir.identity();
        let mut consensus = Consensus {
            node: config.node,
            incarnation: dir.incarnation(),
            policy: config.policy,
            batches_in_flight: config.batches_in_flight,
            tick_ns: config.raft.tick_ns(),
            entry_bytes_max,
            batch_bytes_max: batch_bytes_max(usize::try_from(entry_bytes_max).unwrap_or(usize::MAX)),
            group,
            effects: Effects::default(),
            journal,
            cold,
            feed: Feed::default(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            applier,
            intake,
            outbound,
            streams: Streams::default(),
            rounds: Rounds::new(beat_ns, READ_ROUND_RETRY_NS, dir.incarnation() << 32),
            reads: Reads::default(),
            links,
            freshness: freshness.clone(),
            inquiries: inquiries.clone(),
            disputes: Disputes::default(),
            deadlines: Deadlines::new(tick_ns, beat_ns),
            shards,
            checkpoints,
            installing: Installing::new(transfers),
            control: control.clone(),
            stats,
            phase: Phase::default(),
            report: Report::new(config.init_limit_ns),
            room: Room::default(),
            steward: Steward::new(
                config.node,
                identity,
                // Random already, and this directory's alone: good for the ensemble that it founds.
                identity,
                config.members.map_or_else(Default::default, |members| members.members),
            ),
            founding,
            ids: ids.clone(),
            dir,
        };
        consensus.tell(Now::default());
        let shards = readers
            .into_iter()
            .zip(receivers)
            .zip(producers.into_iter().zip(armed))
            .map(|((reader, commits), (submits, armed))| ShardParts { reader, commits, submits, armed })
            .collect();
        Ok((consensus, Parts { shards, control, freshness, inquiries, ids, waker, recovered }))
    }
}

/// The other node whose directory this is, as the ensemble knows it: for directories that do not say themselves whose they are.
fn whose(machine: &Machine, node: u8, identity: &[u8; 16]) -> Option<u8> {
    let state = machine.membership();
    let others = state.members.members.keys().filter(|_| state.recorded(node) != Some(identity));
    others.copied().find(|other| *other != node && state.recorded(*other) == Some(identity))
}

/// What a node without an ensemble says of those with whom it would found one; 0 if it would not.
fn founders(config: &ConsensusConfig, group: &RaftGroup) -> u64 {
    let (node, membership) = (u64::from(config.node), group.membership());
    let founds = membership.voters.contains(&node) && !membership.is_alone(node);
    if founds { peers::founders(&membership.voters) } else { 0 }
}

/// Where replay begins.
pub(super) struct From {
    pub(super) machine: Machine,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) membership: Membership,
    /// Damaged snapshots that were passed over.
    skipped: Vec<Skipped>,
}

/// A tree that is being filled, and its readers.
pub(super) type Tree = (tree::Writer, Vec<tree::Reader>);

/// The newest snapshot that can be loaded. One whose checksums are good and whose contents are not is passed over like a
/// damaged one: whether the log reaches back to the one before it is found out when it is opened.
pub(super) fn from_snapshot(
    snapshots: &Snapshots,
    config: &ConsensusConfig,
    dir: &DataDir,
) -> Result<(From, Tree), StartError> {
    let shards = config.shards;
    let Some(opened) = snapshots.open_newest()? else {
        let tree = tree::tree(shards);
        let membership = bootstrap::membership(dir, config)?;
        let machine = Machine::new(&tree.0);
        return Ok((From { machine, index: 0, term: 0, membership, skipped: Vec::new() }, tree));
    };
    let mut skipped = opened.skipped;
    let mut reader = opened.reader;
    // What is wrong with the newest one is what the operator must know if none can be used.
    let mut newest_error = None;
    let (loaded, tree) = loop {
        // A tree that was half filled is of no use to the next attempt.
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
    Ok((From { machine: loaded.machine, index, term, membership, skipped }, tree))
}

pub(super) fn open_log(
    config: &ConsensusConfig,
    dir: &DataDir,
    from: &From,
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
