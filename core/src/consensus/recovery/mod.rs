//! From a data directory to a running core.
//!
//! Owns the order of recovery: the directory's lock, the newest good snapshot, the log from there, replay,
//! Raft. Never serves before everything that is known to be committed is applied: the parts that it returns
//! begin at the recovered version.
//!
//! Correct because storage has made everything that it reports durable again. A sole voter's log is committed
//! once it is durable; other nodes apply only what they recorded as committed. Replay uses the code that
//! applies every entry, with the same checks and the same comparison of digests.

mod error;
mod first_start;
pub mod force_new_ensemble;
mod load;
pub(super) mod replay;

pub use error::StartError;

use crate::beats::touch_beat_ns;
use crate::checkpoint::Checkpointer;
use crate::consensus::apply::Applier;
use crate::consensus::apply::checkpoints::Checkpoints;
use crate::consensus::apply::divergence::Divergences;
use crate::consensus::apply::shard_wakers::{Armed, Shards};
use crate::consensus::catch_up::install::Installation;
use crate::consensus::catch_up::throttle::CatchUpThrottle;
use crate::consensus::catch_up::{Transfers, WorkerMode};
use crate::consensus::commands::leader_queue::LeaderQueues;
use crate::consensus::commands::pending::PendingCommands;
use crate::consensus::commands::submissions::{Submissions, batch_bytes_max};
use crate::consensus::config::{ConsensusConfig, READ_ROUND_RETRY_NS};
use crate::consensus::control::Control;
use crate::consensus::durable::disk_space::DiskSpace;
use crate::consensus::durable::entry_fetcher::EntryFetcher;
use crate::consensus::durable::journal::Journal;
use crate::consensus::engine::leadership::Leadership;
use crate::consensus::engine::membership_step::Removal;
use crate::consensus::engine::report::Report;
use crate::consensus::engine::{Consensus, RaftTicks};
use crate::consensus::membership::MembershipPlanner;
use crate::consensus::membership::bootstrap_guard::BootstrapGuard;
use crate::consensus::peer_links::Links;
use crate::consensus::raft::log_window::Span;
use crate::consensus::raft::node::{GroupStart, RaftNode};
use crate::consensus::raft::{Effects, LogEntry, Membership, Vote};
use crate::consensus::reads::read_index::Reads;
use crate::consensus::reads::rounds::Rounds;
use crate::consensus::recovery::load::{from_snapshot, open_log};
use crate::consensus::recovery::replay::{Replayed, replay};
use crate::consensus::session_expiry::SessionExpiry;
use crate::freshness::Freshness;
use crate::machine::Machine;
use crate::members::Member;
use crate::peers::{self, InlineResolver, PeerAddress, Peers, PeersConfig, Resolver, ThreadResolver};
use crate::ring::{self, CommitReceiver, CommitSender};
use crate::session::{IdBlocks, first_block};
use crate::stats::Stats;
use crate::submit::{Inquiries, SUBMIT_RING_ENTRIES, Submit};
use crate::tree;
use paddock_storage::snapshot::Skipped;
use paddock_storage::{DataDir, HardState, Log, Recovery, Snapshots};
use paddock_transport::engine::Now;
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::sync::Arc;

/// The parts of the core that one shard needs.
pub struct ShardParts {
    /// Reads the tree. It has an empty version until the shard takes the first commit.
    pub reader: tree::Reader,
    /// The shard's end of the commit ring. The first commit, the recovered state, is in it.
    pub commits: CommitReceiver,
    /// Commands to the core. After a submission the shard raises [`Parts::waker`].
    pub submits: rtrb::Producer<Submit>,
    /// Raised by the shard while it has armed watches and must see every commit at once.
    pub armed: Armed,
}

/// The state that recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the snapshot; 0 without one.
    pub snapshot_index: u64,
    /// Number of entries that were replayed.
    pub entries: u64,
    /// Zxid of the last command that was applied.
    pub zxid: i64,
    /// Znodes, as ZooKeeper counts them.
    pub znodes: u64,
    /// Number of sessions. Each has its full timeout.
    pub sessions: u64,
    /// Incarnation: the number of this start.
    pub incarnation: u64,
    /// Identity of the data directory.
    pub identity: [u8; 16],
    /// Bytes that were cut off the end of the log. They had never been durable.
    pub cut_bytes: u64,
}

/// Everything beside the core itself.
pub struct Parts {
    /// Parts of each shard.
    pub shards: Vec<ShardParts>,
    /// Stops the core, and tells why it stopped.
    pub control: Arc<Control>,
    /// The quorum's confirmation of this node, for the shards.
    pub freshness: Arc<Freshness>,
    /// Inquiries of the shards about sessions.
    pub inquiries: Arc<Inquiries>,
    /// Blocks of session ids for the shards.
    pub ids: Arc<IdBlocks>,
    /// The waker of the core's loop.
    pub waker: Arc<Waker>,
    /// The state that recovery found.
    pub recovered: Recovered,
}

impl Consensus {
    /// Recovers `config.data_dir` and sets up the core and the ends of its shards. `waker` is that of the
    /// loop that will run the core. `shard_wakers` are those of the shards' loops, `config.shards` of them.
    /// With one loop for all they are the same.
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
        let state = replay_state(&config, &dir, &snapshots, sender, &waker)?;
        if let Some(other) = whose(&state.applier.machine, config.node, &dir.identity()) {
            return Err(dir.other_node(other, config.node).into());
        }
        dir.claim(config.node)?;
        let ids = first_ids(&config, &mut dir)?;
        // Only now: had recovery failed, the damaged snapshots would still be there to look at.
        for skipped in &state.skipped {
            snapshots.discard(skipped)?;
        }
        let recovered = state.recovered(&dir);
        let ReplayedState { mut applier, readers, log, recovery, membership, replayed, snapshot, .. } = state;
        let mut raft = set_up_raft(&config, &recovery, membership, applier.index, replayed.tail, snapshot)?;
        let bootstrap_guard = bootstrap_guard(&config, raft.last_index() == 0);
        if raft.is_sole_voter() && !bootstrap_guard.holds() {
            raft.campaign()?;
        }

        let entry_bytes_max = log.entry_bytes_max();
        let told = waker.clone();
        let entry_fetcher = EntryFetcher::new(log.reader(), config.inline, Box::new(move || told.wake()));
        let (producers, consumers): (Vec<_>, Vec<_>) =
            (0..config.shards).map(|_| rtrb::RingBuffer::new(SUBMIT_RING_ENTRIES)).unzip();
        let mut pending = PendingCommands::new(config.node, dir.incarnation());
        let armed: Vec<Armed> = (0..config.shards).map(|_| Armed::default()).collect();
        let mut shards = Shards::new(shard_wakers.iter().cloned().zip(armed.iter().cloned()).collect());
        // The recovered state is the first commit of every shard.
        applier.publish(&mut pending, &mut Vec::new(), &mut shards.marked);

        let transfers = start_transfers(&config, &snapshots, &waker)?;
        let checkpoints = start_checkpoints(&config, snapshots, &waker, snapshot, &raft.membership())?;
        let links = set_up_links(&config, &dir, &applier.machine, &raft, &waker);
        let tick_ns = u64::from(config.tick_time_ms) * 1_000_000;
        let beat_ns = touch_beat_ns(config.tick_time_ms, config.max_staleness_ns);
        let freshness = Arc::new(Freshness::new(config.shards));
        let inquiries = Arc::<Inquiries>::default();
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
            raft,
            effects: Effects::default(),
            journal: Journal::new(log),
            entry_fetcher,
            throttle: CatchUpThrottle::default(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            applier,
            submissions: Submissions::new(consumers, entry_bytes_max),
            pending,
            leader_queues: LeaderQueues::default(),
            rounds: Rounds::new(beat_ns, READ_ROUND_RETRY_NS, dir.incarnation() << 32),
            reads: Reads::default(),
            links,
            freshness: freshness.clone(),
            inquiries: inquiries.clone(),
            divergences: Divergences::default(),
            session_expiry: SessionExpiry::new(tick_ns, beat_ns),
            shards,
            checkpoints: checkpoints.behind(replayed.bytes),
            installation: Installation::new(transfers),
            control: control.clone(),
            stats,
            leadership: Leadership::default(),
            removal: Removal::default(),
            ticks: RaftTicks::default(),
            replies: Vec::new(),
            apply_blocked: false,
            admitting: false,
            stopping_since: None,
            id_blocks_failed_ns: None,
            report: Report::new(config.init_limit_ns),
            disk_space: DiskSpace::default(),
            planner: MembershipPlanner::new(
                config.node,
                identity,
                // The identity is random and unique to this directory, so it can number the ensemble that
                // this node founds.
                identity,
                config.members.map_or_else(Default::default, |members| members.members),
            ),
            bootstrap_guard,
            ids: ids.clone(),
            dir,
        };
        consensus.report_counters(Now::default());
        let shards = readers
            .into_iter()
            .zip(receivers)
            .zip(producers.into_iter().zip(armed))
            .map(|((reader, commits), (submits, armed))| ShardParts { reader, commits, submits, armed })
            .collect();
        Ok((consensus, Parts { shards, control, freshness, inquiries, ids, waker, recovered }))
    }
}

/// The data directory's state, applied as far as the log is known to be committed.
struct ReplayedState {
    applier: Applier,
    readers: Vec<tree::Reader>,
    log: Log,
    recovery: Recovery,
    membership: Membership,
    replayed: Replayed,
    /// Index and term of the snapshot that was loaded; (0, 0) without one.
    snapshot: (u64, u64),
    /// Damaged snapshots that were passed over.
    skipped: Vec<Skipped>,
}

impl ReplayedState {
    fn recovered(&self, dir: &DataDir) -> Recovered {
        Recovered {
            snapshot_index: self.snapshot.0,
            entries: self.replayed.entries,
            zxid: self.applier.machine.zxid(),
            znodes: self.applier.tree.node_count(),
            sessions: self.applier.machine.sessions().len() as u64,
            incarnation: dir.incarnation(),
            identity: dir.identity(),
            cut_bytes: self.recovery.cut_bytes,
        }
    }
}

/// Loads the newest usable snapshot and replays the log behind it. `sender` is the commit ring's end for the
/// applier.
fn replay_state(
    config: &ConsensusConfig,
    dir: &DataDir,
    snapshots: &Snapshots,
    sender: CommitSender,
    waker: &Arc<Waker>,
) -> Result<ReplayedState, StartError> {
    let (loaded, (writer, readers)) = from_snapshot(snapshots, config, dir)?;
    let (log, recovery) = open_log(config, dir, &loaded, waker.clone())?;
    let mut applier = Applier::new(loaded.machine, writer, sender, config.retired_bytes_max);
    (applier.index, applier.term) = (loaded.index, loaded.term);
    let mut membership = loaded.membership;
    if (loaded.index, recovery.last_index, recovery.hard_state) == (0, 0, HardState::default()) {
        membership = first_start::renew(dir, config, membership)?;
    }
    let replayed = replay(&log, &recovery, &mut applier, &mut membership, u64::from(config.node))?;
    first_start::compare(config, &membership)?;
    let (snapshot, skipped) = ((loaded.index, loaded.term), loaded.skipped);
    Ok(ReplayedState { applier, readers, log, recovery, membership, replayed, snapshot, skipped })
}

/// The session ids of this start. Their end is durable before the first of them is given to a client.
fn first_ids(config: &ConsensusConfig, dir: &mut DataDir) -> Result<Arc<IdBlocks>, StartError> {
    let ids = IdBlocks::new(config.node, first_block(dir.ids_end(), &dir.identity(), config.seed));
    let end = ids.wanted();
    dir.allow_ids(end)?;
    ids.allow(end);
    Ok(Arc::new(ids))
}

/// Sets Raft up behind what was applied. `tail` is what the log holds beyond `applied`.
fn set_up_raft(
    config: &ConsensusConfig,
    recovery: &Recovery,
    membership: Membership,
    applied: u64,
    tail: Vec<LogEntry>,
    snapshot: (u64, u64),
) -> Result<RaftNode, StartError> {
    let vote = Vote { term: recovery.hard_state.term, node: recovery.hard_state.vote };
    let span = Span::new(recovery.first_index, recovery.term_before, recovery.terms.iter().copied());
    let (node, seed, clock) = (u64::from(config.node), config.seed, config.raft);
    let mut raft = RaftNode::new(GroupStart { node, membership, vote, applied, span, tail, seed, clock })?;
    let (index, term) = snapshot;
    if index > 0 {
        raft.set_snapshot(index, term);
    }
    Ok(raft)
}

/// The guard of a node that may found an ensemble. `blank`: the log has no entry.
fn bootstrap_guard(config: &ConsensusConfig, blank: bool) -> BootstrapGuard {
    let configured = config.members.iter().flat_map(|members| members.members.keys());
    BootstrapGuard::new(blank, configured.filter(|other| **other != config.node).copied().collect())
}

/// Starts the worker of snapshot transfers. A node without peers sends no snapshot: it needs no thread for
/// that.
fn start_transfers(
    config: &ConsensusConfig,
    snapshots: &Snapshots,
    waker: &Arc<Waker>,
) -> Result<Transfers, StartError> {
    let needs_thread = config.members.is_some() && !config.inline;
    let mode = if needs_thread { WorkerMode::Thread(waker.clone()) } else { WorkerMode::Inline };
    Transfers::new(snapshots.clone(), mode).map_err(StartError::Thread)
}

/// Starts the writer of checkpoints.
fn start_checkpoints(
    config: &ConsensusConfig,
    snapshots: Snapshots,
    waker: &Arc<Waker>,
    newest: (u64, u64),
    membership: &Membership,
) -> Result<Checkpoints, StartError> {
    let told = waker.clone();
    let start = if config.inline { Checkpointer::inline } else { Checkpointer::start };
    let thread = start(snapshots, Box::new(move || told.wake())).map_err(StartError::Thread)?;
    Ok(Checkpoints::new(thread, config, newest, membership))
}

/// Sets up the links to the members that the log names, or to the configured ones where it names none.
fn set_up_links(
    config: &ConsensusConfig,
    dir: &DataDir,
    machine: &Machine,
    raft: &RaftNode,
    waker: &Arc<Waker>,
) -> Links {
    let peers = config.members.as_ref().map(|configured| {
        let linked = machine.membership().linked();
        let members = if linked.members.is_empty() { configured } else { &linked };
        let address = |(node, member): (&u8, &Member)| PeerAddress {
            node: *node,
            host: member.host.clone(),
            port: member.peer_port,
        };
        let peers = PeersConfig {
            node: config.node,
            cluster: members.cluster,
            identity: dir.identity(),
            incarnation: dir.incarnation(),
            data: raft.last_index() > 0,
            founders: founders(config, raft),
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
    });
    Links::new(peers)
}

/// The other node to which the ensemble assigns this directory. For directories that do not record their
/// node.
fn whose(machine: &Machine, node: u8, identity: &[u8; 16]) -> Option<u8> {
    let state = machine.membership();
    let others = state.members.members.keys().filter(|_| state.recorded(node) != Some(identity));
    others.copied().find(|other| *other != node && state.recorded(*other) == Some(identity))
}

/// Digest of the voters of the ensemble that this node would found; 0 if it would not.
fn founders(config: &ConsensusConfig, group: &RaftNode) -> u64 {
    let (node, membership) = (u64::from(config.node), group.membership());
    let founds = membership.voters.contains(&node) && !membership.is_alone(node);
    if founds { peers::founders(&membership.voters) } else { 0 }
}
