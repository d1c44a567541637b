//! The assembly: threads, cores, listeners; from a [`Config`] to a running server and back.
//!
//! Owns the threads and the order of start and stop. Never looks into a request. It stays correct because nothing is
//! accepted before recovery is over, shards stop before the consensus core that they wait for, and a thread that
//! ends by itself stops the whole server with its reason. After an installed snapshot that stop is followed by another
//! start, the same one as at first: there is no second way to load state.

#![forbid(unsafe_code)]

pub mod cores;
mod dynamic;
mod reopen;
mod settings;
mod single;
mod stop;

pub use reopen::{REOPENINGS_MAX, REOPENINGS_WINDOW};
pub use stop::stop_signal;

use crate::config::{Config, PeerAddressError};
use crate::consensus::refound::{RefoundError, Refounded};
use crate::consensus::{
    self, Consensus, Control, Parts, Recovered, StartError as ConsensusStartError, StopReason,
};
use crate::shard::{CountedIds, Mailboxes, Shard, ShardParts};
use crate::stats::Stats;
use cores::Placement;
use crossbeam_channel::{Receiver, Sender, unbounded};
use dynamic::DynamicFile;
use paddock_transport::accept::{Acceptor, ListenError, Listener};
use paddock_transport::engine::{Address, Engine};
use paddock_transport::event_loop::{
    Choice, EventLoop, LoopError, LoopHandle, LoopKind, LoopOptions, choose,
};
use reopen::Reopenings;
use settings::{consensus_config, draw_password, random_bytes, shard_config};
use single::Pair;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use stop::Stoppable;

/// How to start.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The settings.
    pub config: Config,
    /// Which event loop.
    pub transport: Choice,
    /// Number of shards; `None`: one for each usable core but the first.
    pub shards: Option<usize>,
    /// Cores to use; `None`: the inherited affinity mask.
    pub cores: Option<Vec<usize>>,
}

impl ServerOptions {
    /// `config` with everything else chosen by the server.
    pub fn new(config: Config) -> Self {
        Self { config, transport: Choice::Auto, shards: None, cores: None }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory holds ZooKeeper's own files and none of ours: starting empty beside them would look like
    /// the loss of everything.
    #[error(
        "{} holds a ZooKeeper database (version-2) that this version does not read; choose another directory with \
         --data-dir, or move version-2 away", dir.display()
    )]
    ZooKeeperData {
        /// The directory.
        dir: PathBuf,
    },
    /// The address of this server's own line cannot be listened on.
    #[error(transparent)]
    PeerAddress(#[from] PeerAddressError),
    /// The consensus core did not come up: directory, log or snapshots.
    #[error(transparent)]
    Consensus(#[from] ConsensusStartError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address of this server's own line is there, and cannot be listened on.
    #[error(
        "{0} (this is the address in this server's own server.N line; quorumListenOnAllIPs=true listens on every interface \
         instead)"
    )]
    ListenForPeers(#[source] ListenError),
    /// The transport is not available.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The kernel refused something that a healthy system grants.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

impl StartError {
    fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
        move |source| StartError::System { doing, source }
    }
}

/// Why a running server stopped by itself.
#[derive(Debug, thiserror::Error)]
#[error("{thread} stopped: {reason}")]
pub struct RunError {
    /// Which thread.
    pub thread: String,
    /// Why.
    pub reason: String,
    /// The node was removed from its ensemble: nothing is wrong, and starting it again changes nothing.
    pub removed: bool,
}

/// The end of a thread that nothing went wrong with.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    /// It was told to.
    Told,
    /// The data directory is to be opened again; why.
    Reopen(String),
}

/// The end of a thread.
type Ended = Result<End, RunError>;

/// A running server. Dropping it stops it.
pub struct Server {
    /// As given, to open the data directory again.
    options: ServerOptions,
    /// Held besides the acceptor's: whoever connects while the data directory is opened again waits instead of being
    /// refused, and nobody else takes the address.
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    stats: Arc<Stats>,
    kind: LoopKind,
    recovered: Recovered,
    ended: Receiver<Ended>,
    /// Up: the shards' loops end.
    stop_shards: Arc<AtomicBool>,
    shard_loops: Vec<LoopHandle>,
    shard_threads: Vec<JoinHandle<()>>,
    core: Arc<Control>,
    core_thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Recovers the data directory, binds the listeners, and serves.
    pub fn start(options: ServerOptions) -> Result<Server, StartError> {
        refuse_zookeeper_data(&options.config)?;
        // Bound before recovery, so that an address in use is told at once; accepted from only afterwards.
        let mut listeners = options.config.listeners().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
        if let Some(ensemble) = &options.config.ensemble {
            let bound = Listener::bind(&ensemble.peer_listener()?);
            listeners.push(bound.map_err(StartError::ListenForPeers)?);
        }
        Self::open(options, listeners)
    }

    /// Recovers the data directory and serves on `listeners`; in an ensemble the last one is for peers.
    fn open(options: ServerOptions, listeners: Vec<Listener>) -> Result<Server, StartError> {
        let ServerOptions { mut config, transport, shards, cores } = options.clone();
        let (kind, _) = choose(transport)?;
        let usable = match cores {
            Some(cores) => cores,
            None => cores::usable().map_err(StartError::system("reading the affinity mask"))?,
        };
        let placement = cores::place(&usable, shards);
        let shared = listeners.iter().map(Listener::share).collect::<Result<Vec<_>, _>>();
        let mut shared: Vec<Listener> = shared.map_err(StartError::system("sharing a listening socket"))?;
        let peers = if config.ensemble.is_some() { shared.pop() } else { None };
        let addresses: Vec<Address> = shared.iter().map(|l| l.local_address().clone()).collect();
        // A port 0 was a free one: `conf` tells which, as ZooKeeper's does.
        let (listen, linearizable) = addresses.split_at(config.listen.len());
        (config.listen, config.listen_linearizable) = (listen.to_vec(), linearizable.to_vec());
        let mut loops = Loops::new(kind, &placement)?;
        let wakers: Vec<_> = loops.shard_handles.iter().map(LoopHandle::waker).collect();
        let started_ms = wall_ms();
        let stats = Arc::new(Stats::new(placement.shards.len(), started_ms));
        let settings = consensus_config(&config, &placement)?;
        let (consensus, parts) =
            Consensus::open(settings, loops.core.handle().waker(), &wakers, Arc::clone(&stats))?;
        let Parts { shards, control, freshness, inquiries, ids, waker, recovered } = parts;
        let mailboxes = Mailboxes::new(wakers, config.max_client_cnxns);
        let mut engines = Vec::new();
        for (id, ends) in (0u16..).zip(shards) {
            engines.push(Shard::new(ShardParts {
                config: shard_config(&config, id),
                reader: ends.reader,
                commits: ends.commits,
                submit: ends.submits,
                consensus: Arc::clone(&waker),
                ids: Box::new(CountedIds::new(Arc::clone(&ids), draw_password)),
                stats: Arc::clone(&stats),
                armed: ends.armed,
                mailboxes: Arc::clone(&mailboxes),
                freshness: Arc::clone(&freshness),
                inquiries: Arc::clone(&inquiries),
            }));
        }
        let peers = loops.accept(shared, peers);
        let shard_loops = loops.shard_handles.clone();
        let (tell, ended) = unbounded();
        let mut server = Server {
            options,
            listeners,
            addresses,
            stats,
            kind,
            recovered,
            ended,
            stop_shards: Arc::default(),
            shard_loops,
            shard_threads: Vec::new(),
            core: control,
            core_thread: None,
        };
        server.spawn(loops, consensus, engines, peers, &placement, &tell)?;
        let found = &server.recovered;
        tracing::info!(
            "recovered zxid 0x{:x}: {} znodes, {} sessions, {} entries replayed behind snapshot {}, {} bytes cut; start \
             number {}",
            found.zxid,
            found.znodes,
            found.sessions,
            found.entries,
            found.snapshot_index,
            found.cut_bytes,
            found.incarnation
        );
        for address in &server.addresses {
            tracing::info!("listening on {address}");
        }
        Ok(server)
    }

    /// Where clients connect, ports filled in.
    pub fn client_addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Which event loop was chosen.
    pub fn transport(&self) -> LoopKind {
        self.kind
    }

    /// What the data directory held.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The core's ends: to stop it, or to have the data directory opened again.
    pub fn control(&self) -> &Arc<Control> {
        &self.core
    }

    /// Serves until a message comes from `stop`, or a thread fails. When a snapshot of another node is in place, everything
    /// is stopped, all clients are closed, and the server goes on with the data directory as it is then, on the same addresses.
    pub fn run_until(mut self, stop: &Receiver<i32>) -> Result<(), RunError> {
        let mut reopenings = Reopenings::default();
        let mut dynamic = DynamicFile::new(&self.options.config);
        let look = dynamic.ticks();
        loop {
            let end = crossbeam_channel::select! {
                recv(look) -> _ => {
                    dynamic.look(self.stats.membership());
                    continue;
                }
                recv(stop) -> _ => {
                    tracing::info!("stopping");
                    Ok(End::Told)
                }
                recv(self.ended) -> end => end.unwrap_or_else(|_| Err(RunError {
                    thread: "a server thread".to_owned(),
                    reason: "it panicked; its message is above".to_owned(),
                    removed: false,
                })),
            };
            let why = match end {
                Ok(End::Reopen(why)) => why,
                Ok(End::Told) => return self.stop(),
                Err(error) => {
                    let removed = matches!(self.core.reason(), Some(StopReason::Removed { .. }));
                    let _ = self.stop();
                    return Err(RunError { removed, ..error });
                }
            };
            tracing::info!("all clients are closed for a moment: {why}");
            self.stop_threads()?;
            if stop.try_recv().is_ok() {
                return Ok(());
            }
            if !reopenings.admit(Instant::now()) {
                let reason = format!(
                    "{why}; that is more than {REOPENINGS_MAX} times within {REOPENINGS_WINDOW:?}. This node does not \
                     catch up: see the messages above, and those of the leader"
                );
                return Err(RunError { thread: "the server".to_owned(), reason, removed: false });
            }
            let (options, listeners) = (self.options.clone(), std::mem::take(&mut self.listeners));
            // Its end of the data directory goes before the new one comes.
            drop(self);
            self = Self::open(options, listeners).map_err(|error| RunError {
                thread: "the server".to_owned(),
                reason: format!("its data directory could not be opened again: {error}"),
                removed: false,
            })?;
        }
    }

    /// Stops cleanly: clients are closed, what was ordered is made durable.
    pub fn stop(mut self) -> Result<(), RunError> {
        // From now on connecting is refused.
        self.listeners.clear();
        self.stop_threads()
    }

    fn stop_threads(&mut self) -> Result<(), RunError> {
        if self.shard_threads.is_empty() {
            // Core and shard are one: the core says when what is ordered is settled.
            self.core.stop();
            self.core_thread.take().map(JoinHandle::join);
        }
        self.stop_shards.store(true, Ordering::Release);
        self.shard_loops.iter().for_each(|l| l.waker().wake());
        // A thread that panicked has said so on standard error.
        self.shard_threads.drain(..).for_each(|thread| drop(thread.join()));
        self.core.stop();
        self.core_thread.take().map(JoinHandle::join);
        self.ended.try_iter().try_for_each(|ended| ended.map(drop))
    }

    fn spawn(
        &mut self,
        loops: Loops,
        consensus: Consensus,
        mut shards: Vec<Shard>,
        peers: Option<u16>,
        placement: &Placement,
        tell: &Sender<Ended>,
    ) -> Result<(), StartError> {
        let control = Arc::clone(&self.core);
        let core_ended = move || match control.reason() {
            None | Some(StopReason::Asked) => Ok(End::Told),
            Some(reason @ StopReason::Reopen { .. }) => Ok(End::Reopen(reason.to_string())),
            Some(reason) => Err(reason.to_string()),
        };
        let flag = &self.stop_shards;
        let Some(core) = placement.consensus else {
            let shard = shards.remove(0);
            // One thread for both: the flag stops it, and the core's own reason is looked at when it has ended.
            let pair = Stoppable::new(Pair::new(consensus, shard, peers), Arc::clone(flag));
            let thread = run("paddock", placement.shards[0], loops.core, pair, core_ended, tell.clone())?;
            self.core_thread = Some(thread);
            return Ok(());
        };
        self.core_thread = Some(run("paddock-core", core, loops.core, consensus, core_ended, tell.clone())?);
        for (n, ((engine, on), core)) in
            shards.into_iter().zip(loops.shards).zip(&placement.shards).enumerate()
        {
            let engine = Stoppable::new(engine, Arc::clone(flag));
            self.shard_threads.push(run(
                &format!("paddock-{n}"),
                *core,
                on,
                engine,
                || Ok(End::Told),
                tell.clone(),
            )?);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop_threads();
    }
}

/// The loops that will carry core and shards. With one thread for both, the core's carries the shard's connections.
struct Loops {
    core: EventLoop,
    shards: Vec<EventLoop>,
    /// The ways to each shard, in order.
    shard_handles: Vec<LoopHandle>,
}

impl Loops {
    fn new(kind: LoopKind, placement: &Placement) -> Result<Self, LoopError> {
        let core = EventLoop::new(kind, LoopOptions::default())?;
        let own = if placement.consensus.is_some() { placement.shards.len() } else { 0 };
        let shards: Vec<_> =
            (0..own).map(|_| EventLoop::new(kind, LoopOptions::default())).collect::<Result<_, _>>()?;
        let shard_handles = if shards.is_empty() {
            vec![core.handle()]
        } else {
            shards.iter().map(EventLoop::handle).collect()
        };
        Ok(Self { core, shards, shard_handles })
    }

    /// Lets clients come to the shards and peers to the core. With one loop for both, the number of the peers' listener is
    /// what tells their connections apart.
    fn accept(&mut self, mut clients: Vec<Listener>, peers: Option<Listener>) -> Option<u16> {
        let own = vec![self.core.handle()];
        match self.shards.first_mut() {
            Some(first) => {
                first.accept_with(Acceptor::new(clients, self.shard_handles.clone()));
                if let Some(peers) = peers {
                    self.core.accept_with(Acceptor::new(vec![peers], own));
                }
                None
            }
            None => {
                let number = peers.is_some().then_some(clients.len() as u16);
                clients.extend(peers);
                self.core.accept_with(Acceptor::new(clients, own));
                number
            }
        }
    }
}

/// Runs `engine` on a thread of its own, bound to `core`, and tells how it ended.
fn run(
    name: &str,
    core: usize,
    on: EventLoop,
    mut engine: impl Engine + Send + 'static,
    reason: impl FnOnce() -> Result<End, String> + Send + 'static,
    tell: Sender<Ended>,
) -> Result<JoinHandle<()>, StartError> {
    let thread = name.to_owned();
    let body = move || {
        if let Err(error) = cores::pin(core) {
            tracing::warn!("{thread} cannot be bound to core {core}: {error}");
        }
        let ended = on.run(&mut engine).map_err(|e| e.to_string()).and_then(|()| reason());
        let _ = tell.send(ended.map_err(|reason| RunError { thread, reason, removed: false }));
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(StartError::system("starting a thread"))
}

fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Makes the server that `config` describes, and that does not run, the beginning of its ensemble.
pub fn refound(config: &Config) -> Result<Refounded, RefoundError> {
    let settings = consensus_config(config, &cores::place(&[], None)).and_then(|settings| {
        refuse_zookeeper_data(config)?;
        Ok((settings, random_bytes()?))
    });
    let (settings, cluster) = settings.map_err(|e| RefoundError::Server(e.to_string()))?;
    consensus::refound::refound(settings, cluster, wall_ms())
}

fn refuse_zookeeper_data(config: &Config) -> Result<(), StartError> {
    let dir = &config.data_dir;
    let theirs = dir.join("version-2").is_dir();
    let ours = dir.join("meta").exists();
    if theirs && !ours { Err(StartError::ZooKeeperData { dir: dir.clone() }) } else { Ok(()) }
}
