//! The assembly of a server: from a [`Config`] to running threads, and the way back.
//!
//! Owns the threads, and the order of start and stop.
//! Never looks into a request.
//! Correct because connections are accepted only after recovery, and shards stop before the consensus core
//! that they wait for. A thread that ends by itself stops the whole server, with its reason. An installed
//! snapshot leads to a stop and a start of the usual kind: there is no second way to load state.

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
use crate::consensus::force_new_ensemble::{RefoundError, Refounded};
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

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub config: Config,
    pub transport: Choice,
    /// Number of shards; `None`: one for each usable core but the first.
    pub shards: Option<usize>,
    /// Cores to use; `None`: the inherited affinity mask.
    pub cores: Option<Vec<usize>>,
}

impl ServerOptions {
    /// `config`, with defaults for everything else.
    pub fn new(config: Config) -> Self {
        Self { config, transport: Choice::Auto, shards: None, cores: None }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory holds ZooKeeper's files and none of Paddock's. An empty start would look like the
    /// loss of all data.
    #[error(
        "{} holds a ZooKeeper database (version-2) that this version does not read; choose another directory with \
         --data-dir, or move version-2 away", dir.display()
    )]
    ZooKeeperData { dir: PathBuf },
    /// The address in this server's own line cannot be resolved.
    #[error(transparent)]
    PeerAddress(#[from] PeerAddressError),
    /// The consensus core did not start: directory, log or snapshots.
    #[error(transparent)]
    Consensus(#[from] ConsensusStartError),
    /// A client listener cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address in this server's own line cannot be bound.
    #[error(
        "{0} (this is the address in this server's own server.N line; quorumListenOnAllIPs=true listens on every interface \
         instead)"
    )]
    ListenForPeers(#[source] ListenError),
    /// The event loop is not available.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The kernel refused something that a healthy system grants.
    #[error("{doing}: {source}")]
    System { doing: &'static str, source: std::io::Error },
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
    /// Name of the thread that ended.
    pub thread: String,
    pub reason: String,
    /// Whether the node was removed from its ensemble. Then nothing is wrong, and a restart would end the
    /// same way.
    pub removed: bool,
}

/// The end of a thread without an error.
#[derive(Clone, PartialEq, Eq, Debug)]
enum ThreadEnd {
    /// The server is stopping.
    Told,
    /// The data directory must be opened again, for this reason.
    Reopen(String),
}

/// The end of a thread, or its error.
type Ended = Result<ThreadEnd, RunError>;

/// A running server. Dropping it stops it.
pub struct Server {
    /// Options of the start, for opening the data directory again.
    options: ServerOptions,
    /// Second handles of the listening sockets. While the data directory is opened again, connecting clients
    /// wait, and no other process takes the address.
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    stats: Arc<Stats>,
    kind: LoopKind,
    recovered: Recovered,
    ended: Receiver<Ended>,
    /// Raised to end the loops of the shards.
    stop_shards: Arc<AtomicBool>,
    shard_loops: Vec<LoopHandle>,
    shard_threads: Vec<JoinHandle<()>>,
    core: Arc<Control>,
    core_thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the listeners, recovers the data directory, and serves.
    pub fn start(options: ServerOptions) -> Result<Server, StartError> {
        refuse_zookeeper_data(&options.config)?;
        // Bound before recovery, so that an address in use is reported at once. Accepting starts after
        // recovery.
        let mut listeners = options.config.listeners().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
        if let Some(ensemble) = &options.config.ensemble {
            let bound = Listener::bind(&ensemble.peer_listener()?);
            listeners.push(bound.map_err(StartError::ListenForPeers)?);
        }
        Self::open(options, listeners)
    }

    /// Recovers the data directory and serves on `listeners`. In an ensemble the last one is for peers.
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
        // Port 0 was replaced by a free port, which `conf` reports, as ZooKeeper does.
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

    /// Addresses of the client listeners, with their actual ports.
    pub fn client_addresses(&self) -> &[Address] {
        &self.addresses
    }

    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    pub fn transport(&self) -> LoopKind {
        self.kind
    }

    /// Results of recovering the data directory.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Stops the consensus core, or makes it open the data directory again.
    pub fn control(&self) -> &Arc<Control> {
        &self.core
    }

    /// Serves until a message on `stop`, or until a thread fails. After a snapshot of another node was
    /// installed, all threads stop and all clients are closed. The server then continues with the new data
    /// directory on the same addresses.
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
                    Ok(ThreadEnd::Told)
                }
                recv(self.ended) -> end => end.unwrap_or_else(|_| Err(RunError {
                    thread: "a server thread".to_owned(),
                    reason: "it panicked; its message is above".to_owned(),
                    removed: false,
                })),
            };
            let why = match end {
                Ok(ThreadEnd::Reopen(why)) => why,
                Ok(ThreadEnd::Told) => return self.stop(),
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
            // The old server must release the data directory before the new one opens it.
            drop(self);
            self = Self::open(options, listeners).map_err(|error| RunError {
                thread: "the server".to_owned(),
                reason: format!("its data directory could not be opened again: {error}"),
                removed: false,
            })?;
        }
    }

    /// Stops cleanly: closes clients and makes proposed commands durable.
    pub fn stop(mut self) -> Result<(), RunError> {
        // From now on connections are refused.
        self.listeners.clear();
        self.stop_threads()
    }

    fn stop_threads(&mut self) -> Result<(), RunError> {
        if self.shard_threads.is_empty() {
            // Core and shard share a thread: it ends when proposed commands are settled.
            self.core.stop();
            self.core_thread.take().map(JoinHandle::join);
        }
        self.stop_shards.store(true, Ordering::Release);
        self.shard_loops.iter().for_each(|l| l.waker().wake());
        // The panic message is on standard error already.
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
            None | Some(StopReason::Asked) => Ok(ThreadEnd::Told),
            Some(reason @ StopReason::Reopen { .. }) => Ok(ThreadEnd::Reopen(reason.to_string())),
            Some(reason) => Err(reason.to_string()),
        };
        let flag = &self.stop_shards;
        let Some(core) = placement.consensus else {
            let shard = shards.remove(0);
            // One thread for both: the flag stops it. The core's own reason is read after the end.
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
                || Ok(ThreadEnd::Told),
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

/// The event loops of core and shards. With one thread for both, the core's loop also carries the shard's
/// connections.
struct Loops {
    core: EventLoop,
    shards: Vec<EventLoop>,
    /// Handles of the shards' loops, in order.
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

    /// Accepts clients for the shards and peers for the core. With one loop for both, gives the number of
    /// the peers' listener, which tells their connections apart.
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

/// Runs `engine` on its own thread, bound to `core`, and sends how it ended.
fn run(
    name: &str,
    core: usize,
    on: EventLoop,
    mut engine: impl Engine + Send + 'static,
    reason: impl FnOnce() -> Result<ThreadEnd, String> + Send + 'static,
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

/// Makes a new ensemble from the data of the server that `config` describes. That server must not run.
pub fn force_new_ensemble(config: &Config) -> Result<Refounded, RefoundError> {
    let settings = consensus_config(config, &cores::place(&[], None)).and_then(|settings| {
        refuse_zookeeper_data(config)?;
        Ok((settings, random_bytes()?))
    });
    let (settings, cluster) = settings.map_err(|e| RefoundError::Server(e.to_string()))?;
    consensus::force_new_ensemble::refound(settings, cluster, wall_ms())
}

fn refuse_zookeeper_data(config: &Config) -> Result<(), StartError> {
    let dir = &config.data_dir;
    let theirs = dir.join("version-2").is_dir();
    let ours = dir.join("meta").exists();
    if theirs && !ours { Err(StartError::ZooKeeperData { dir: dir.clone() }) } else { Ok(()) }
}
