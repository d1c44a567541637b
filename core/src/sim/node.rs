//! A node: its disk, its clock, and its process while it runs.
//!
//! Owns the real engines, and gives one of them a turn at a time, as a socket loop does: input, then the
//! turn, then its output.
//!
//! Never decides when an engine runs; the world does.
//!
//! Correct because it drives the engines through the same [`Io`] table and wakers as the real loops.

use super::net::{End, WireId};
use crate::consensus::{Consensus, ConsensusConfig, Control, Parts, Recovered, StartError, StopReason};
use crate::shard::{CountedIds, Mailboxes, Shard, ShardConfig, ShardParts};
use crate::stats::{ServerState, Stats};
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::{CloseRequest, Io};
use paddock_transport::wake::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

/// The origin of a connection, as engines see it. `listener` is `None` for a dialled one.
fn origin(listener: Option<u16>) -> Origin {
    Origin { peer: Address::Tcp(([10, 0, 0, 1], 40_000).into()), listener }
}

/// A clock that may run fast or slow, and whose calendar may jump.
#[derive(Clone, Debug)]
pub struct Clock {
    base_ns: u64,
    since_ns: u64,
    /// Deviation from true time, in parts per million.
    pub drift_ppm: i64,
    /// Deviation of the calendar, ms.
    pub wall_off_ms: i64,
}

/// The Unix time at which simulations begin, ms.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock {
    /// A clock that shows `base_ns` at true time 0.
    pub fn new(base_ns: u64, drift_ppm: i64) -> Clock {
        Clock { base_ns, since_ns: 0, drift_ppm, wall_off_ms: 0 }
    }

    /// The time that the clock shows.
    pub fn now(&self, true_ns: u64) -> Now {
        let passed = (true_ns - self.since_ns) as i128;
        let mono_ns = self.base_ns + (passed + passed * self.drift_ppm as i128 / 1_000_000) as u64;
        Now { mono_ns, wall_ms: EPOCH_MS + (true_ns / 1_000_000) as i64 + self.wall_off_ms }
    }

    /// The true time at which the clock shows `mono_ns`, or a little later.
    pub fn when(&self, mono_ns: u64) -> u64 {
        let ahead = mono_ns.saturating_sub(self.base_ns) as i128;
        self.since_ns + (ahead * 1_000_000 / (1_000_000 + self.drift_ppm as i128)) as u64 + 2
    }

    /// Changes the clock's pace from now on.
    pub fn set_drift(&mut self, true_ns: u64, drift_ppm: i64) {
        self.base_ns = self.now(true_ns).mono_ns;
        (self.since_ns, self.drift_ppm) = (true_ns, drift_ppm);
    }
}

/// An engine's input for its next turn.
#[derive(Debug)]
pub enum Input {
    /// A connection request over a wire.
    Open(WireId),
    /// A dialled connection was accepted.
    Accepted(ConnId),
    Bytes(ConnId, Vec<u8>),
    /// The other end sends no more.
    End(ConnId),
    /// All output of the connection was sent.
    Drained(ConnId),
    Closed(ConnId, Closed),
}

impl Input {
    fn conn(&self) -> Option<ConnId> {
        match self {
            Input::Open(_) => None,
            Input::Accepted(c) | Input::Bytes(c, _) | Input::End(c) | Input::Drained(c) => Some(*c),
            Input::Closed(c, _) => Some(*c),
        }
    }
}

/// An engine's output to the network after its turn.
#[derive(Debug)]
pub enum Output {
    /// The engine accepts the connection.
    Took(WireId),
    Send(WireId, Vec<u8>),
    /// No more bytes follow; the engine closes the connection.
    End(WireId),
    /// The engine tears the connection down.
    Abort(WireId),
    /// The engine dials an address.
    Connect(ConnId, Address),
}

/// The loop of one engine.
pub struct Loop {
    pub waker: Arc<Waker>,
    io: Io,
    parked: bool,
    /// Time of the next turn, if one is scheduled.
    pub next_run: Option<u64>,
    /// Input for the next turn.
    pub inbox: VecDeque<Input>,
    /// Wires by the number of their connection.
    pub wires: BTreeMap<u64, WireId>,
}

/// A running server process.
pub struct Process {
    core: Consensus,
    shards: Vec<Shard>,
    control: Arc<Control>,
    stats: Arc<Stats>,
    /// Loop 0 is the core's; the shards' follow.
    pub loops: Vec<Loop>,
    /// The state found on disk at the start.
    pub recovered: Recovered,
}

/// The result of one turn.
pub struct Turned {
    pub outputs: Vec<Output>,
    pub next: Again,
}

/// The next turn of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    Now,
    /// At this time of the node's clock at the latest, or only on input.
    At(Option<u64>),
    /// Never, because the engine stopped.
    Never,
}

/// The settings of a simulated node.
#[derive(Clone)]
pub struct Setup {
    pub shards: usize,
    /// Settings of the core, with the node's number.
    pub consensus: ConsensusConfig,
    /// Settings of each shard.
    pub shard: ShardConfig,
}

impl Process {
    /// Starts a process on the disk's content.
    pub fn start(setup: &Setup, disk: &FaultDisk, now: Now, seed: u64) -> Result<Process, StartError> {
        let mut config = setup.consensus.clone();
        config.disk = Arc::new(disk.clone());
        (config.seed, config.log_salt) = (seed, seed ^ 0x5a17);
        let mut draw = super::rng::Rng::new(seed);
        config.new_identity = draw.bytes();
        let waker = || Waker::new().expect("an eventfd for each loop of the simulation");
        let wakers: Vec<_> = (0..=setup.shards).map(|_| waker()).collect();
        let stats = Arc::new(Stats::new(setup.shards, now.wall_ms));
        let (core, parts) = Consensus::open(config, wakers[0].clone(), &wakers[1..], stats.clone())?;
        let Parts { shards, control, waker, recovered, freshness, inquiries, ids } = parts;
        let mailboxes = Mailboxes::new(wakers[1..].to_vec(), 0);
        let shards = (0u16..)
            .zip(shards)
            .map(|(id, ends)| {
                let mut draw = draw.fork();
                Shard::new(ShardParts {
                    config: ShardConfig { id, ..setup.shard.clone() },
                    reader: ends.reader,
                    commits: ends.commits,
                    submit: ends.submits,
                    consensus: waker.clone(),
                    ids: Box::new(CountedIds::new(ids.clone(), move || draw.bytes())),
                    stats: stats.clone(),
                    armed: ends.armed,
                    mailboxes: mailboxes.clone(),
                    freshness: freshness.clone(),
                    inquiries: inquiries.clone(),
                })
            })
            .collect();
        let loops = wakers
            .into_iter()
            .map(|waker| Loop {
                waker,
                io: Io::default(),
                parked: false,
                next_run: None,
                inbox: VecDeque::new(),
                wires: BTreeMap::new(),
            })
            .collect();
        Ok(Process { core, shards, control, stats, loops, recovered })
    }

    /// The reason for which the core stopped, if it did.
    pub fn stopped(&self) -> Option<StopReason> {
        self.control.reason().cloned()
    }

    /// Whether the node claims to be the leader.
    pub fn leads(&self) -> bool {
        self.stats.mode() == ServerState::Leader
    }

    /// Asks the process to stop cleanly.
    pub fn ask_to_stop(&self) {
        self.control.stop();
    }

    /// Whether writes wait for the disk.
    pub fn has_disk_work(&self) -> bool {
        self.core.has_disk_work()
    }

    /// Makes the waiting writes.
    pub fn disk_turn(&mut self) {
        self.core.disk_turn();
    }

    /// Runs one turn of one engine.
    pub fn turn(&mut self, at: usize, now: Now, listener_of: impl Fn(WireId) -> Option<u16>) -> Turned {
        let (engine, this): (&mut dyn Engine, &mut Loop) = match at {
            0 => (&mut self.core, &mut self.loops[0]),
            n => (&mut self.shards[n - 1], &mut self.loops[n]),
        };
        let mut outputs = Vec::new();
        if std::mem::take(&mut this.parked) {
            engine.unpark();
        }
        this.waker.lower();
        this.take_input(engine, now, &mut outputs, listener_of);
        let next = engine.turn(now, &mut this.io);
        this.carry_out(&mut outputs);
        let next = match next {
            Next::Again => Again::Now,
            Next::Stop => Again::Never,
            Next::Sleep { .. } if this.has_input() => Again::Now,
            Next::Sleep { deadline_ns } => {
                this.waker.raise();
                this.parked = engine.park();
                if this.parked {
                    Again::At(deadline_ns)
                } else {
                    this.waker.lower();
                    Again::Now
                }
            }
        };
        Turned { outputs, next }
    }
}

impl Loop {
    fn reads(&self, conn: ConnId) -> bool {
        self.io.requests(conn).is_some_and(|w| w.close == CloseRequest::None && !w.input_paused)
    }

    /// Whether the engine could take some input of the inbox now.
    fn has_input(&self) -> bool {
        self.inbox.iter().any(|input| match input {
            Input::Bytes(conn, _) | Input::End(conn) => self.reads(*conn),
            _ => true,
        })
    }

    fn take_input(
        &mut self,
        engine: &mut dyn Engine,
        now: Now,
        outputs: &mut Vec<Output>,
        listener_of: impl Fn(WireId) -> Option<u16>,
    ) {
        let mut kept: VecDeque<Input> = VecDeque::new();
        while let Some(input) = self.inbox.pop_front() {
            if let Some(conn) = input.conn()
                && self.io.requests(conn).is_none()
            {
                continue;
            }
            match input {
                Input::Open(wire) => {
                    if let Some(listener) = listener_of(wire) {
                        let conn = self.io.open();
                        self.wires.insert(conn.0, wire);
                        outputs.push(Output::Took(wire));
                        engine.opened(now, conn, &origin(Some(listener)), &mut self.io);
                    }
                }
                Input::Accepted(conn) => engine.opened(now, conn, &origin(None), &mut self.io),
                Input::Bytes(conn, bytes) => {
                    if !self.reads(conn) || kept.iter().any(|k| k.conn() == Some(conn)) {
                        kept.push_back(Input::Bytes(conn, bytes));
                    } else {
                        engine.received(now, conn, &bytes, &mut self.io);
                    }
                }
                Input::End(conn) => {
                    if !self.reads(conn) || kept.iter().any(|k| k.conn() == Some(conn)) {
                        kept.push_back(Input::End(conn));
                    } else {
                        engine.eof(now, conn, &mut self.io);
                    }
                }
                Input::Drained(conn) => engine.drained(now, conn, &mut self.io),
                Input::Closed(conn, why) => {
                    self.wires.remove(&conn.0);
                    engine.closed(now, conn, why, &mut self.io);
                    self.io.release(conn);
                    kept.retain(|k| k.conn() != Some(conn));
                }
            }
        }
        self.inbox = kept;
    }

    fn carry_out(&mut self, outputs: &mut Vec<Output>) {
        let (mut connects, mut dirty) = (Vec::new(), Vec::new());
        self.io.take_connects(&mut connects);
        for (conn, address) in connects {
            if self.io.is_open(conn) {
                outputs.push(Output::Connect(conn, address));
            } else {
                self.inbox.push_back(Input::Closed(conn, Closed::ByEngine));
            }
        }
        self.io.take_dirty(&mut dirty);
        for conn in dirty {
            let Some(wished) = self.io.requests(conn) else { continue };
            let wire = self.wires.get(&conn.0).copied();
            if wished.close == CloseRequest::Now {
                self.let_go(conn, Closed::ByEngine);
                outputs.extend(wire.map(Output::Abort));
                continue;
            }
            let Some(wire) = wire else { continue };
            let mut bytes = Vec::new();
            while let Some(out) = self.io.output(conn).filter(|out| !out.is_empty()) {
                let mut first = [IoSlice::new(&[])];
                out.slices(&mut first);
                bytes.extend_from_slice(&first[0]);
                let count = first[0].len();
                if self.io.sent(conn, count) {
                    self.inbox.push_back(Input::Drained(conn));
                }
            }
            if !bytes.is_empty() {
                outputs.push(Output::Send(wire, bytes));
            }
            if wished.close == CloseRequest::AfterOutput {
                self.let_go(conn, Closed::ByEngine);
                outputs.push(Output::End(wire));
            }
        }
    }

    fn let_go(&mut self, conn: ConnId, why: Closed) {
        if self.wires.remove(&conn.0).is_some() {
            self.inbox.push_back(Input::Closed(conn, why));
        }
    }

    /// The connection that uses the wire.
    pub fn conn_of(&self, wire: WireId) -> Option<ConnId> {
        self.wires.iter().find(|(_, w)| **w == wire).map(|(conn, _)| ConnId(*conn))
    }
}

/// A node of the simulated world.
pub struct SimNode {
    pub setup: Setup,
    pub disk: FaultDisk,
    pub clock: Clock,
    /// The process, while one runs.
    pub process: Option<Process>,
    /// Number of processes started so far.
    pub life: u64,
    /// True time before which the process is paused.
    pub paused_until: u64,
    /// Usual duration of a write and sync, ns.
    pub disk_ns: u64,
    /// True time until which the disk is a hundred times slower.
    pub slow_until: u64,
    /// Whether a disk turn is scheduled.
    pub disk_busy: bool,
    /// Whether the host refuses connections while no process runs. Otherwise the host is silent.
    pub refuses: bool,
    /// Whether the node should run.
    pub wanted: bool,
    /// Whether the node is one of the first members, on its first disk. Its configuration names exactly
    /// those members.
    pub founder: bool,
    /// Address of the core's peer port.
    pub address: Option<Address>,
}

impl SimNode {
    /// The wire end that one of the node's engines holds now.
    pub fn end(&self, node: usize, engine: usize) -> End {
        End::Engine { node, life: self.life, engine }
    }
}
