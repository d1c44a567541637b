//! A node: its disk, its clock, and the process that runs on them, if one does.
//!
//! Owns the real engines and gives each one turn at a time, as a socket loop does: input first, then the turn, then what it
//! wished for. Never decides when; that is the world's. It stays faithful because it drives the engines through the same
//! [`Io`] table and the same wakers as the loops do.

use super::net::{End, WireId};
use crate::consensus::{Consensus, ConsensusConfig, Control, Parts, Recovered, StartError, StopReason};
use crate::shard::{CountedIds, Mailboxes, Shard, ShardConfig, ShardParts};
use crate::stats::{Mode, Stats};
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::{CloseWish, Io};
use paddock_transport::wake::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

/// Where a client's connections come from, as nodes see it.
fn origin(listener: Option<u16>) -> Origin {
    Origin { peer: Address::Tcp(([10, 0, 0, 1], 40_000).into()), listener }
}

/// A clock that may run fast or slow and whose calendar may jump.
#[derive(Clone, Debug)]
pub struct Clock {
    base_ns: u64,
    since_ns: u64,
    /// Parts per million by which it differs from true time.
    pub drift_ppm: i64,
    /// Milliseconds by which the calendar is off.
    pub wall_off_ms: i64,
}

/// The Unix time at which simulations begin, ms.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock {
    /// A clock that shows `base_ns` now.
    pub fn new(base_ns: u64, drift_ppm: i64) -> Clock {
        Clock { base_ns, since_ns: 0, drift_ppm, wall_off_ms: 0 }
    }

    /// What it shows.
    pub fn now(&self, true_ns: u64) -> Now {
        let passed = (true_ns - self.since_ns) as i128;
        let mono_ns = self.base_ns + (passed + passed * self.drift_ppm as i128 / 1_000_000) as u64;
        Now { mono_ns, wall_ms: EPOCH_MS + (true_ns / 1_000_000) as i64 + self.wall_off_ms }
    }

    /// The true time at which it will show `mono_ns`, or a little later.
    pub fn when(&self, mono_ns: u64) -> u64 {
        let ahead = mono_ns.saturating_sub(self.base_ns) as i128;
        self.since_ns + (ahead * 1_000_000 / (1_000_000 + self.drift_ppm as i128)) as u64 + 2
    }

    /// Runs at another pace from now on.
    pub fn set_drift(&mut self, true_ns: u64, drift_ppm: i64) {
        self.base_ns = self.now(true_ns).mono_ns;
        (self.since_ns, self.drift_ppm) = (true_ns, drift_ppm);
    }
}

/// What an engine is told at its next turn.
#[derive(Debug)]
pub enum Input {
    /// Somebody connects over a wire.
    Open(WireId),
    /// A connection that it asked for stands.
    Accepted(ConnId),
    /// Bytes came.
    Bytes(ConnId, Vec<u8>),
    /// No more will come.
    End(ConnId),
    /// All output is out.
    Drained(ConnId),
    /// The connection is gone.
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

/// What an engine wants of the network after its turn.
#[derive(Debug)]
pub enum Wish {
    /// It takes the connection that came over the wire.
    Took(WireId),
    /// Bytes to the other end.
    Send(WireId, Vec<u8>),
    /// No more bytes, and the connection is let go.
    End(WireId),
    /// Torn down.
    Abort(WireId),
    /// A new connection.
    Connect(ConnId, Address),
}

/// One engine's loop.
pub struct Loop {
    /// Wakes it.
    pub waker: Arc<Waker>,
    io: Io,
    parked: bool,
    /// When it runs next.
    pub next_run: Option<u64>,
    /// What it is told then.
    pub inbox: VecDeque<Input>,
    /// Its connections' wires.
    pub wires: BTreeMap<u64, WireId>,
}

/// A running process.
pub struct Process {
    core: Consensus,
    shards: Vec<Shard>,
    control: Arc<Control>,
    stats: Arc<Stats>,
    /// The core's, then the shards'.
    pub loops: Vec<Loop>,
    /// What the start found.
    pub recovered: Recovered,
}

/// How one turn ended.
pub struct Turned {
    /// What the engine wants now.
    pub wishes: Vec<Wish>,
    /// When it wants to run again: at once, or at a time of the node's clock.
    pub next: Again,
}

/// When an engine runs again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// At once.
    Now,
    /// At this time of its clock at the latest, if at any.
    At(Option<u64>),
    /// Never: it stopped.
    Never,
}

/// How a node of the simulation is set up.
#[derive(Clone)]
pub struct Setup {
    /// Number of shards.
    pub shards: usize,
    /// The core's settings, with the node's number.
    pub consensus: ConsensusConfig,
    /// The shards'.
    pub shard: ShardConfig,
}

impl Process {
    /// Starts a process on what the disk holds.
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

    /// Why the core stopped, if it did.
    pub fn stopped(&self) -> Option<StopReason> {
        self.control.reason().cloned()
    }

    /// Whether it says that it leads the others.
    pub fn leads(&self) -> bool {
        self.stats.mode() == Mode::Leader
    }

    /// Asks it to stop cleanly.
    pub fn ask_to_stop(&self) {
        self.control.stop();
    }

    /// Whether something waits for the disk.
    pub fn has_disk_work(&self) -> bool {
        self.core.has_disk_work()
    }

    /// Writes what waits for the disk.
    pub fn disk_turn(&mut self) {
        self.core.disk_turn();
    }

    /// One turn of one engine.
    pub fn turn(&mut self, at: usize, now: Now, listener_of: impl Fn(WireId) -> Option<u16>) -> Turned {
        let (engine, this): (&mut dyn Engine, &mut Loop) = match at {
            0 => (&mut self.core, &mut self.loops[0]),
            n => (&mut self.shards[n - 1], &mut self.loops[n]),
        };
        let mut wishes = Vec::new();
        if std::mem::take(&mut this.parked) {
            engine.unpark();
        }
        this.waker.lower();
        this.take_input(engine, now, &mut wishes, listener_of);
        let next = engine.turn(now, &mut this.io);
        this.carry_out(&mut wishes);
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
        Turned { wishes, next }
    }
}

impl Loop {
    fn reads(&self, conn: ConnId) -> bool {
        self.io.wishes(conn).is_some_and(|w| w.close == CloseWish::None && !w.input_paused)
    }

    /// Whether something in the inbox could be told now.
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
        wishes: &mut Vec<Wish>,
        listener_of: impl Fn(WireId) -> Option<u16>,
    ) {
        let mut kept: VecDeque<Input> = VecDeque::new();
        while let Some(input) = self.inbox.pop_front() {
            if let Some(conn) = input.conn()
                && self.io.wishes(conn).is_none()
            {
                continue;
            }
            match input {
                Input::Open(wire) => {
                    if let Some(listener) = listener_of(wire) {
                        let conn = self.io.open();
                        self.wires.insert(conn.0, wire);
                        wishes.push(Wish::Took(wire));
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

    fn carry_out(&mut self, wishes: &mut Vec<Wish>) {
        let (mut connects, mut dirty) = (Vec::new(), Vec::new());
        self.io.take_connects(&mut connects);
        for (conn, address) in connects {
            if self.io.is_open(conn) {
                wishes.push(Wish::Connect(conn, address));
            } else {
                self.inbox.push_back(Input::Closed(conn, Closed::ByEngine));
            }
        }
        self.io.take_dirty(&mut dirty);
        for conn in dirty {
            let Some(wished) = self.io.wishes(conn) else { continue };
            let wire = self.wires.get(&conn.0).copied();
            if wished.close == CloseWish::Now {
                self.let_go(conn, Closed::ByEngine);
                wishes.extend(wire.map(Wish::Abort));
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
                wishes.push(Wish::Send(wire, bytes));
            }
            if wished.close == CloseWish::AfterOutput {
                self.let_go(conn, Closed::ByEngine);
                wishes.push(Wish::End(wire));
            }
        }
    }

    fn let_go(&mut self, conn: ConnId, why: Closed) {
        if self.wires.remove(&conn.0).is_some() {
            self.inbox.push_back(Input::Closed(conn, why));
        }
    }

    /// The connection whose wire this is.
    pub fn conn_of(&self, wire: WireId) -> Option<ConnId> {
        self.wires.iter().find(|(_, w)| **w == wire).map(|(conn, _)| ConnId(*conn))
    }
}

/// A node of the world.
pub struct SimNode {
    /// How it is set up.
    pub setup: Setup,
    /// Its disk.
    pub disk: FaultDisk,
    /// Its clock.
    pub clock: Clock,
    /// Its process.
    pub process: Option<Process>,
    /// Counts its processes.
    pub life: u64,
    /// Nothing of it runs before.
    pub paused_until: u64,
    /// Usual time of a write and sync.
    pub disk_ns: u64,
    /// Until when the disk is a hundred times slower.
    pub slow_until: u64,
    /// Whether a disk turn is on its way.
    pub disk_busy: bool,
    /// While it is down: whether its host answers connections with a refusal.
    pub refuses: bool,
    /// Whether it shall be running.
    pub wanted: bool,
    /// Whether it is one of the ensemble's first members, on its first disk: configured with those and no others.
    pub founder: bool,
    /// Where its core can be reached by others.
    pub address: Option<Address>,
}

impl SimNode {
    /// The end that one of its engines holds now.
    pub fn end(&self, node: usize, engine: usize) -> End {
        End::Engine { node, life: self.life, engine }
    }
}
