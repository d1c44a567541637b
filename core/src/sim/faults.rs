//! Faults: crashes, disks, clocks, networks.
//!
//! Owns the choice of faults, their ends, and the count of each.
//!
//! Never injects a fault after the world asked for calm.
//!
//! Correct (fair) because each fault is one that a node survives by design. After corruption of durable
//! data a node must refuse to start. The simulation waits for that refusal, and then repairs the disk.

mod disks;

use super::client::ClientState;
use super::net::Host;
use super::node::{Process, SimNode};
use super::rng::Rng;
use super::world::{SECOND, TICK_TIME_MS, World};
use paddock_storage::fault::FaultDisk;
use std::collections::BTreeMap;
use std::path::PathBuf;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $weight:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum FaultKind { $($(#[doc = $doc])* $name),* }

        impl FaultKind {
            /// All kinds, with their weights.
            pub const ALL: &'static [(FaultKind, u64)] = &[$((FaultKind::$name, $weight)),*];

            /// The kind's name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(FaultKind::$name => $text),* }
            }
        }
    };
}

kinds! {
    /// The power fails. Unsynced sectors and names are lost or torn.
    PowerCut = "power cut", 6;
    /// The power fails during a write.
    TornWrite = "power cut within a write", 4;
    /// The power of all nodes fails at once.
    Blackout = "power cut of all", 1;
    Kill = "kill", 4;
    CleanStop = "clean stop", 2;
    /// The process is paused.
    Pause = "pause", 4;
    SlowDisk = "slow disk", 3;
    /// The disk is full.
    FullDisk = "full disk", 3;
    /// The disks of a majority, or of all nodes, fill up at about the same time.
    FullDisks = "full disks of a majority", 5;
    FailedSync = "failed sync", 2;
    /// Nothing gets from one host to another, or in either direction.
    Cut = "network cut", 6;
    /// The hosts are split into two parts.
    Partition = "partition", 4;
    /// A node and the clients that it serves are cut off from all other hosts.
    Island = "node cut off with its clients", 5;
    /// A client is silent for about as long as its session's timeout. Then it is back, and the leader is
    /// cut off from the other nodes.
    Hush = "leader cut off as a session is due", 6;
    /// A client's connection is reset.
    Reset = "connection reset", 6;
    /// A node's calendar jumps.
    WallJump = "calendar jump", 2;
    /// A node's clock changes its pace.
    Drift = "clock pace", 2;
    /// A client's process dies and leaves its session open.
    ClientDeath = "client death", 4;
    /// The newest snapshot is damaged while the node is down.
    BadSnapshot = "damaged snapshot", 1;
    /// A node's disk is lost, at most once in a run. The node returns under its number with an empty disk.
    LostDisk = "lost disk", 2;
    /// Durable data in the log is damaged. The node must refuse to start.
    BadLog = "damaged log", 1;
}

/// A fault in progress.
enum Ongoing {
    FullDisk(usize),
    /// No other fault until disks fill up, for this many ns.
    Settling(u64),
    /// Disks are full while nothing else is wrong.
    FullAlone,
    Cut(Host, Host),
    Partition(Vec<(Host, Host)>),
    /// A client that is cut off from all nodes.
    Hush(usize),
}

/// Timeouts of the sessions used by [`FaultKind::Hush`], ms. With longer ones other faults interfere.
/// Shorter ones have expired again before the deposed leader is back.
const HUSHED_MS: std::ops::RangeInclusive<i32> = 1500..=4000;

/// Usual time until a client's last contact reaches the leader: with a heartbeat, and the round that
/// carries it.
const REPORTED_NS: u64 = 200_000_000;

/// See the module doc.
pub struct Faults {
    /// Number of faults of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Mean time between two faults, ns.
    pause_ns: u64,
    ongoing: BTreeMap<u64, Ongoing>,
    next: u64,
    /// Nodes whose disk is damaged, with the file's path and former content.
    damaged: BTreeMap<usize, (PathBuf, Vec<u8>)>,
    /// Whether a disk was lost. Losing another might lose a majority.
    lost: bool,
    /// True time before which no other fault begins.
    quiet_until: u64,
}

impl Faults {
    /// Draws the settings of a run's faults.
    pub fn new(rng: &mut Rng) -> Faults {
        Faults {
            counts: BTreeMap::new(),
            pause_ns: rng.range(300, 4000) * 1_000_000,
            ongoing: BTreeMap::new(),
            next: 0,
            damaged: BTreeMap::new(),
            lost: false,
            quiet_until: 0,
        }
    }

    /// Forgets damage, because the node has another disk.
    pub fn forget_damage(&mut self, n: usize) {
        self.damaged.remove(&n);
    }

    fn begin(world: &mut World, what: Ongoing, for_ns: u64) {
        world.faults.next += 1;
        let number = world.faults.next;
        world.faults.ongoing.insert(number, what);
        world.undo_at(world.now + for_ns, number);
    }

    /// Injects a fault. Returns the time until the next, in ns.
    pub fn strike(world: &mut World) -> u64 {
        let total: u64 = FaultKind::ALL.iter().map(|(_, weight)| weight).sum();
        let mut drawn = world.rng.below(total);
        let mut kind = FaultKind::Kill;
        for (of, weight) in FaultKind::ALL {
            if drawn < *weight {
                kind = *of;
                break;
            }
            drawn -= weight;
        }
        let n = world.rng.below(world.nodes.len() as u64) as usize;
        if Self::apply(world, kind, n) {
            world.count(kind);
            let number = world.nodes[n].setup.consensus.node;
            world.note(|| format!("fault: {} (node {number})", kind.name()));
        }
        let pause = world.faults.pause_ns;
        let pause = world.rng.range(pause / 4, pause * 2);
        pause.max(world.faults.quiet_until.saturating_sub(world.now))
    }

    /// Injects a fault. Returns whether the fault was possible.
    fn apply(world: &mut World, kind: FaultKind, n: usize) -> bool {
        let ms = |world: &mut World, low: u64, high: u64| world.rng.range(low, high) * 1_000_000;
        let running = world.nodes[n].process.is_some();
        match kind {
            FaultKind::PowerCut | FaultKind::TornWrite | FaultKind::Kill if running => {
                Self::crash(world, n, kind);
                let after = ms(world, 1, 3000);
                world.start_at(world.now + after, n);
            }
            FaultKind::Blackout if world.nodes.len() > 1 => {
                // The power is back for all hosts at once, or each host takes its own time.
                let (after, apart) = (ms(world, 1, 3000), world.rng.one_in(2));
                for n in 0..world.nodes.len() {
                    if world.nodes[n].process.is_some() {
                        Self::crash(world, n, FaultKind::PowerCut);
                        let after = if apart { ms(world, 1, 3000) } else { after };
                        world.start_at(world.now + after, n);
                    }
                }
            }
            FaultKind::CleanStop if running => {
                if let Some(process) = &world.nodes[n].process {
                    process.ask_to_stop();
                }
                world.wake_all(n);
            }
            FaultKind::Pause if running => {
                let until = world.now + ms(world, 10, 6000);
                world.nodes[n].paused_until = until;
            }
            FaultKind::SlowDisk => world.nodes[n].slow_until = world.now + ms(world, 100, 5000),
            FaultKind::FullDisk => {
                let room = world.rng.below(100_000);
                let disk = &world.nodes[n].disk;
                disk.set_capacity(Some(disk.used_bytes() + room));
                let long = ms(world, 300, 14_000);
                Self::begin(world, Ongoing::FullDisk(n), long);
            }
            FaultKind::FullDisks if world.nodes.len() > 1 => Self::fill(world),
            FaultKind::FailedSync if running => {
                let good = world.rng.below(4);
                world.nodes[n].disk.fail_sync_after(good);
            }
            FaultKind::Cut => {
                let hosts = world.hosts();
                let (from, to) = (*world.rng.pick(&hosts), *world.rng.pick(&hosts));
                if from == to || !matches!((from, to), (Host::Node(_), _) | (_, Host::Node(_))) {
                    return false;
                }
                world.net.cut(from, to);
                if world.rng.one_in(2) {
                    world.net.cut(to, from);
                }
                let long = ms(world, 100, 6000);
                Self::begin(world, Ongoing::Cut(from, to), long);
            }
            FaultKind::Partition if world.nodes.len() > 1 => {
                let (mut here, mut there) = (Vec::new(), Vec::new());
                for host in world.hosts() {
                    if world.rng.one_in(2) { here.push(host) } else { there.push(host) }
                }
                let long = ms(world, 200, 8000);
                Self::part(world, &here, &there, long);
            }
            FaultKind::Island if running && world.nodes.len() > 1 => {
                let served = world.served_by(n);
                let long = ms(world, 1000, 8000);
                Self::isolate(world, n, &served, long);
            }
            FaultKind::Hush if world.nodes.len() > 1 => {
                let short = |c: &usize| {
                    let client = &world.clients[*c];
                    matches!(client.state, ClientState::Open(_)) && HUSHED_MS.contains(&client.timeout_ms)
                };
                let open: Vec<usize> = (0..world.clients.len()).filter(short).collect();
                let Some(leader) = Self::leader(world).filter(|_| !open.is_empty()) else { return false };
                let c = *world.rng.pick(&open);
                for node in 0..world.nodes.len() {
                    world.net.cut(Host::Client(c), Host::Node(node));
                    world.net.cut(Host::Node(node), Host::Client(c));
                }
                let due_ns = world.now + world.clients[c].timeout_ms as u64 * 1_000_000 + REPORTED_NS;
                // The leader checks sessions once a tick of its own clock. Cut off, it still leads for
                // about an election timeout.
                let (clock, tick_ns) = (&world.nodes[leader].clock, u64::from(TICK_TIME_MS) * 1_000_000);
                let due_ns = clock.when(clock.now(due_ns).mono_ns.next_multiple_of(tick_ns));
                let long = due_ns - world.now - ms(world, 50, 300);
                Self::begin(world, Ongoing::Hush(c), long);
            }
            FaultKind::Reset => {
                let c = world.rng.below(world.clients.len() as u64) as usize;
                world.lose(c, true);
            }
            FaultKind::WallJump => {
                let off = world.rng.range(0, 20_000_000) as i64 - 10_000_000;
                world.nodes[n].clock.wall_off_ms = off;
            }
            FaultKind::Drift => {
                let ppm = world.rng.range(0, 40_000) as i64 - 20_000;
                let now = world.now;
                world.nodes[n].clock.set_drift(now, ppm);
            }
            FaultKind::ClientDeath => {
                let c = world.rng.below(world.clients.len() as u64) as usize;
                world.lose(c, true);
                world.clients[c].die();
            }
            FaultKind::LostDisk if running && !world.faults.lost => {
                let number = world.nodes[n].setup.consensus.node;
                if !world.can_lose_a_disk(number) || !world.faults.ongoing.is_empty() {
                    return false;
                }
                world.faults.lost = true;
                Self::crash(world, n, FaultKind::Kill);
                world.nodes[n].disk = FaultDisk::new();
                world.nodes[n].founder = false;
                world.start_at(world.now + SECOND / 2, n);
            }
            FaultKind::BadSnapshot | FaultKind::BadLog if running => return Self::damage(world, n, kind),
            _ => return false,
        }
        true
    }

    /// Whether no lasting fault is in progress.
    pub fn is_none_ongoing(&self) -> bool {
        self.ongoing.is_empty()
    }

    /// Whether the node's disk has a limit, reached or not.
    pub fn is_full(&self, n: usize) -> bool {
        self.ongoing.values().any(|ongoing| matches!(ongoing, Ongoing::FullDisk(at) if *at == n))
    }

    /// Cuts all pairs of hosts between two sets, in both directions.
    fn part(world: &mut World, here: &[Host], there: &[Host], for_ns: u64) {
        let pairs: Vec<_> = here.iter().flat_map(|a| there.iter().map(|b| (*a, *b))).collect();
        for (a, b) in &pairs {
            world.net.cut(*a, *b);
            world.net.cut(*b, *a);
        }
        Self::begin(world, Ongoing::Partition(pairs), for_ns);
    }

    fn crash(world: &mut World, n: usize, kind: FaultKind) {
        let seed = world.rng.next();
        let after = world.rng.below(8);
        let node = &mut world.nodes[n];
        if kind == FaultKind::TornWrite {
            node.disk.break_at(node.disk.operations() + after);
            if let Some(process) = &mut node.process {
                process.disk_turn();
            }
        }
        if kind != FaultKind::Kill {
            node.disk.power_cut(seed);
        }
        // A host without power is silent until it is back. The kernel answers for a killed process.
        world.end_process(n, kind == FaultKind::Kill);
    }

    /// Ends a fault, and begins the fault that waited for that.
    pub fn undo(world: &mut World, number: u64) {
        match Self::end(world, number) {
            Some(Ongoing::Hush(client)) => Self::depose(world, client),
            Some(Ongoing::Settling(long)) => {
                let alone = world.is_in_order();
                let first = Self::fill_now(world, long);
                if alone {
                    world.fill_up(true);
                    Self::begin(world, Ongoing::FullAlone, first - world.now);
                }
            }
            _ => {}
        }
    }

    /// Ends a fault, and returns it.
    fn end(world: &mut World, number: u64) -> Option<Ongoing> {
        let ended = world.faults.ongoing.remove(&number)?;
        match &ended {
            Ongoing::FullDisk(n) => {
                if !world.faults.is_full(*n) {
                    world.nodes[*n].disk.set_capacity(None);
                }
            }
            Ongoing::Settling(_) => {}
            Ongoing::FullAlone => world.fill_up(false),
            Ongoing::Cut(a, b) => world.net.mend(*a, *b),
            Ongoing::Partition(pairs) => pairs.iter().for_each(|(a, b)| world.net.mend(*a, *b)),
            Ongoing::Hush(client) => {
                let nodes = 0..world.nodes.len();
                nodes.for_each(|node| world.net.mend(Host::Client(*client), Host::Node(node)));
            }
        }
        Some(ended)
    }

    /// Cuts the leader off until another one is elected, with the clients that it serves except `client`.
    /// The leader's decision to expire that client's session is then lost, or delayed.
    fn depose(world: &mut World, client: usize) {
        let Some(leader) = Self::leader(world) else { return };
        let mut served = world.served_by(leader);
        served.retain(|c| *c != client);
        let long = world.rng.range(900, 1800) * 1_000_000;
        Self::isolate(world, leader, &served, long);
    }

    /// The first node that claims to be the leader.
    fn leader(world: &World) -> Option<usize> {
        let leads = |node: &SimNode| node.process.as_ref().is_some_and(Process::leads);
        world.nodes.iter().position(leads)
    }

    /// Cuts a node off from all hosts except these clients.
    fn isolate(world: &mut World, n: usize, clients: &[usize], for_ns: u64) {
        let is_here = |host: &Host| match host {
            Host::Node(node) => *node == n,
            Host::Client(client) => clients.contains(client),
        };
        let (here, there): (Vec<Host>, Vec<Host>) = world.hosts().into_iter().partition(is_here);
        Self::part(world, &here, &there, for_ns);
    }

    /// Ends all faults, and starts every node.
    pub fn undo_all(world: &mut World) {
        let ongoing: Vec<u64> = world.faults.ongoing.keys().copied().collect();
        for number in ongoing {
            Self::end(world, number);
        }
        world.net.mend_all();
        for n in 0..world.nodes.len() {
            (world.nodes[n].paused_until, world.nodes[n].slow_until) = (0, 0);
            world.wake_all(n);
            world.start_at(world.now, n);
        }
    }
}
