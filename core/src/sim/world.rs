//! The world: time, chance, nodes, clients and what happens between them.
//!
//! Owns the queue of events, ordered by time and number, and the one stream of chance. Never sleeps and never asks the system
//! for anything. It stays deterministic because one event is handled after the other, every list is kept in an order of its
//! own, and a run's trace (a hash over all events) is compared with that of a second run in the tests.

use super::check::{self, Checker, Event, Fact, Facts};
use super::client::{Client, Mode, News, State};
use super::faults::{FaultKind, Faults};
use super::hooks;
use super::model::{Done, Model};
use super::net::{End, Host, Net, Parcel, Weather, WireId};
use super::node::{Again, Clock, Input, Process, Setup, SimNode, Wish};
use super::rng::Rng;
use super::workload::{Ask, encode};
use crate::consensus::{ConsensusConfig, Recovered, StopReason};
use crate::members::{Member, MemberRole, Members};
use crate::shard::ShardConfig;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Address, Closed, ConnId};
use paddock_transport::wire::{Request, opcode};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// A second, ns.
pub const SECOND: u64 = 1_000_000_000;

/// `tickTime` of simulated nodes, ms: small, so that sessions live and die within a run.
const TICK_TIME_MS: u32 = 500;

/// How long a node may serve without being confirmed by the quorum.
const MAX_STALENESS_NS: u64 = 4 * SECOND;

/// A request of calm times that is not answered for so long never will be: connections are given up sooner.
const UNANSWERED_NS: u64 = 5 * SECOND;

/// Lines kept for a report.
const TRACE_LINES: usize = 80;

/// What a run is about.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Whether the last events are kept as text.
    pub trace: bool,
    /// Virtual time with faults.
    pub faulty_ns: u64,
    /// Whether a node may lose its disk.
    pub lose_disk: bool,
    /// Voters; `None`: as the seed wants it.
    pub voters: Option<usize>,
}

/// A promise was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Who found it.
    pub checker: String,
    /// What.
    pub what: String,
}

/// What a run did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Virtual time.
    pub simulated_ns: u64,
    /// Requests answered.
    pub answered: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Leaders' terms seen in the log.
    pub terms: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Events handled.
    pub events: u64,
    /// Hash over all events.
    pub trace_hash: u64,
    /// What went wrong.
    pub violation: Option<Violation>,
    /// The last events, if they were kept.
    pub last: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Happening {
    Deliver(WireId, usize),
    Run { node: usize, life: u64, engine: usize },
    Disk { node: usize, life: u64 },
    Client(usize),
    Fault,
    Undo(u64),
    Start(usize),
}

/// See the module doc.
pub struct World {
    /// True time.
    pub now: u64,
    /// The one stream of chance.
    pub rng: Rng,
    /// The network.
    pub net: Net,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What goes wrong.
    pub faults: Faults,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    queued: u64,
    facts: Facts,
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
    next_op: u64,
    applied: BTreeMap<u8, u64>,
    report: Report,
    trace: Option<VecDeque<String>>,
}

fn hash(into: &mut u64, value: u64) {
    *into = (*into ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
}

impl World {
    /// The world of a seed.
    pub fn new(plan: &Plan) -> World {
        let mut rng = Rng::new(plan.seed);
        let weather = Weather {
            delay_min_ns: rng.range(5_000, 200_000),
            delay_max_ns: rng.range(200_000, 5_000_000),
            late_one_in: *rng.pick(&[0, 50, 500]),
        };
        let clients = rng.range(3, 6);
        let nodes = ensemble(plan.voters, &mut rng);
        let clients = (0..clients).map(|_| Client::new(rng.fork())).collect();
        let facts = Facts {
            now: 0,
            log: Vec::new(),
            model: Model::new(),
            fresh_reads: nodes.len() == 1,
            max_staleness_ns: MAX_STALENESS_NS,
            calm_since: None,
        };
        World {
            now: 0,
            faults: Faults::new(&mut rng),
            rng,
            net: Net::new(weather),
            nodes,
            clients,
            queue: BinaryHeap::new(),
            queued: 0,
            facts,
            checkers: check::all(),
            violation: None,
            next_op: 0x5100_0000_0000_0000,
            applied: BTreeMap::new(),
            report: Report { seed: plan.seed, ..Report::default() },
            trace: plan.trace.then(VecDeque::new),
        }
    }

    /// Runs a plan to its end, or to the first violation.
    pub fn run(plan: &Plan) -> Report {
        hooks::watch_applied(true);
        let mut world = World::new(plan);
        world.faults.may_lose_disk = plan.lose_disk;
        world.live(plan);
        hooks::watch_applied(false);
        world.into_report()
    }

    fn live(&mut self, plan: &Plan) {
        for node in 0..self.nodes.len() {
            self.at(0, Happening::Start(node));
        }
        for client in 0..self.clients.len() {
            self.at(self.clients[client].next_ns, Happening::Client(client));
        }
        self.at(SECOND, Happening::Fault);
        self.until(plan.faulty_ns);
        self.calm();
        self.until(plan.faulty_ns + check::LIVENESS_BOUND_NS);
        self.drain();
        self.until(self.now + 3 * SECOND);
        self.audit();
        let patience = self.now + 10 * SECOND;
        while self.now < patience && !self.clients.iter().all(Client::is_done) {
            self.until(self.now + SECOND / 4);
        }
        // Long enough for the last sessions to expire.
        self.until(self.now + 20 * SECOND);
        self.end();
    }

    /// From here on nothing goes wrong any more.
    fn calm(&mut self) {
        Faults::undo_all(self);
        self.facts.calm_since = Some(self.now);
        self.note(|| "the faults end".to_owned());
    }

    fn drain(&mut self) {
        for client in &mut self.clients {
            client.mode = Mode::Drain;
        }
    }

    /// One reader of everything for each node.
    fn audit(&mut self) {
        let paths: Vec<String> = self.facts.model.paths().cloned().collect();
        for node in 0..self.nodes.len() {
            let mut reads = VecDeque::new();
            reads.push_back(encode(&Request::Sync { path: "/".into() }, None));
            for path in &paths {
                let path = || path.as_str().into();
                reads.push_back(encode(&Request::GetData { path: path(), watch: false }, None));
                reads.push_back(encode(&Request::GetChildren2 { path: path(), watch: false }, None));
                reads.push_back(encode(&Request::GetAcl { path: path() }, None));
            }
            let mut client = Client::new(self.rng.fork());
            (client.mode, client.home, client.next_ns) = (Mode::Audit(reads), Some(node), self.now);
            self.clients.push(client);
            self.at(self.now, Happening::Client(self.clients.len() - 1));
        }
    }

    fn end(&mut self) {
        let numbers: Vec<u8> = self.nodes.iter().map(|n| n.setup.consensus.node).collect();
        let applied: Vec<(u8, u64)> =
            numbers.iter().map(|n| (*n, self.applied.get(n).copied().unwrap_or(0))).collect();
        let mut unanswered: Vec<(usize, u64)> = Vec::new();
        for (n, client) in self.clients.iter().enumerate() {
            let overdue = client.waiting.iter().filter(|ask| ask.sent_ns + UNANSWERED_NS < self.now);
            unanswered.extend(overdue.map(|ask| (n, ask.sent_ns)));
            if let Mode::Audit(left) = &client.mode
                && !left.is_empty()
            {
                unanswered.push((n, self.facts.calm_since.unwrap_or(0)));
            }
        }
        self.see(&Event::Ended { applied: &applied, unanswered: &unanswered });
    }

    fn into_report(self) -> Report {
        let mut report = self.report;
        report.simulated_ns = self.now;
        report.entries = self.facts.log.len() as u64;
        report.terms = self.facts.log.windows(2).filter(|w| w[0].term != w[1].term).count() as u64 + 1;
        report.faults = self.faults.counts.clone();
        report.violation = self.violation;
        report.last = self.trace.into_iter().flatten().collect();
        report
    }

    /// Something happens later.
    fn at(&mut self, when: u64, what: Happening) {
        self.queued += 1;
        self.queue.push(Reverse((when.max(self.now), self.queued, what)));
    }

    /// A fault ends later.
    pub fn undo_at(&mut self, when: u64, number: u64) {
        self.at(when, Happening::Undo(number));
    }

    /// A node starts later.
    pub fn start_at(&mut self, when: u64, node: usize) {
        self.at(when, Happening::Start(node));
    }

    fn until(&mut self, end: u64) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse((when, ..))) if *when <= end => {}
                _ => break,
            }
            let Some(Reverse((when, _, what))) = self.queue.pop() else { break };
            self.now = when;
            self.facts.now = when;
            self.report.events += 1;
            hash(&mut self.report.trace_hash, when);
            self.handle(what);
        }
        self.now = self.now.max(end);
        self.facts.now = self.now;
    }

    fn handle(&mut self, what: Happening) {
        match what {
            Happening::Deliver(wire, end) => self.deliver(wire, end),
            Happening::Run { node, life, engine } => self.run_engine(node, life, engine),
            Happening::Disk { node, life } => self.run_disk(node, life),
            Happening::Client(client) => self.run_client(client),
            Happening::Fault => {
                if self.facts.calm_since.is_none() {
                    let next = Faults::strike(self);
                    self.at(self.now + next, Happening::Fault);
                }
            }
            Happening::Undo(number) => Faults::undo(self, number),
            Happening::Start(node) => self.start(node),
        }
    }

    /// Keeps a line for a report.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() >= TRACE_LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:>12.6} s  {}", self.now as f64 / 1e9, line()));
        }
    }

    /// A promise is broken.
    pub fn violate(&mut self, checker: &str, what: String) {
        self.violation.get_or_insert(Violation { checker: checker.to_owned(), what });
    }

    fn see(&mut self, event: &Event<'_>) {
        for checker in &mut self.checkers {
            if let Err(what) = checker.see(&self.facts, event) {
                self.violation.get_or_insert(Violation { checker: checker.name().to_owned(), what });
                return;
            }
        }
    }

    // ---- nodes ----

    fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.process.is_some() || !node.wanted {
            return;
        }
        node.life += 1;
        (node.disk_busy, node.refuses, node.paused_until) = (false, true, 0);
        let now = node.clock.now(self.now);
        hooks::set_wall_ms(now.wall_ms);
        let seed = self.rng.next();
        let node = &mut self.nodes[n];
        let started = Process::start(&node.setup, &node.disk, now, node.life, seed);
        let number = node.setup.consensus.node;
        match started {
            Ok(process) => {
                let (recovered, engines) = (process.recovered.clone(), process.loops.len());
                let zxid = recovered.zxid;
                let life = node.life;
                node.process = Some(process);
                self.note(|| format!("node {number} starts (life {life}) at zxid {zxid:x}"));
                self.see_started(number, &recovered);
                for engine in 0..engines {
                    self.schedule(n, engine, self.now);
                }
            }
            Err(error) => {
                hooks::take_applied();
                self.note(|| format!("node {number} does not start: {error}"));
                Faults::refused(self, n, &error.to_string());
            }
        }
    }

    fn see_started(&mut self, number: u8, recovered: &Recovered) {
        let zxid = recovered.zxid;
        let replayed = hooks::take_applied();
        // The snapshot alone: what was replayed behind it is looked at entry by entry.
        self.see(&Event::Started { node: number, zxid: if replayed.is_empty() { zxid } else { 0 } });
        self.take_applied_entries(number, replayed);
        self.applied.insert(number, recovered.snapshot_index + recovered.entries);
    }

    fn take_applied_entries(&mut self, number: u8, entries: Vec<hooks::AppliedEntry>) {
        for entry in entries {
            self.applied.insert(number, entry.index);
            hash(&mut self.report.trace_hash, entry.digest);
            let mut done: Option<Vec<Done>> = None;
            if entry.index == self.facts.log.len() as u64 + 1 {
                let payload = if entry.membership { &[][..] } else { &entry.payload[..] };
                match self.facts.model.apply(entry.term, payload) {
                    Ok(did) => done = Some(did),
                    Err(what) => return self.violate("history", what),
                }
                self.facts.log.push(Fact {
                    term: entry.term,
                    payload: entry.payload.clone(),
                    zxid: entry.zxid,
                    digest: entry.digest,
                });
                if self.facts.model.zxid != entry.zxid {
                    let wanted = self.facts.model.zxid;
                    let what = format!(
                        "behind entry {} node {number} stands at zxid {:x}; its log means {wanted:x}",
                        entry.index, entry.zxid
                    );
                    return self.violate("history", what);
                }
            }
            self.see(&Event::Applied { node: number, entry: &entry, done: done.as_deref() });
        }
    }

    fn schedule(&mut self, n: usize, engine: usize, when: u64) {
        let node = &mut self.nodes[n];
        let (life, paused) = (node.life, node.paused_until);
        let Some(process) = &mut node.process else { return };
        let when = when.max(self.now).max(paused);
        let this = &mut process.loops[engine];
        if this.next_run.is_none_or(|next| when < next) {
            this.next_run = Some(when);
            self.at(when, Happening::Run { node: n, life, engine });
        }
    }

    fn run_engine(&mut self, n: usize, life: u64, engine: usize) {
        let node = &mut self.nodes[n];
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else { return };
        if process.loops[engine].next_run != Some(self.now) {
            return;
        }
        process.loops[engine].next_run = None;
        if node.paused_until > self.now {
            let until = node.paused_until;
            return self.schedule(n, engine, until);
        }
        let now = node.clock.now(self.now);
        hooks::set_wall_ms(now.wall_ms);
        let wires = &self.net.wires;
        let turned = process.turn(engine, now, |wire, end| wires.get(&wire).is_some_and(|w| !w.gone[end]));
        hash(
            &mut self.report.trace_hash,
            (n as u64) << 32 | (engine as u64) << 16 | turned.wishes.len() as u64,
        );
        let number = node.setup.consensus.node;
        let entries = hooks::take_applied();
        // What is applied is known before anything that tells of it travels.
        self.take_applied_entries(number, entries);
        for wish in turned.wishes {
            self.carry_out(n, engine, wish);
        }
        let cost = self.rng.range(1_000, 20_000);
        match turned.next {
            Again::Now => self.schedule(n, engine, self.now + cost),
            Again::At(Some(deadline)) => {
                let when = self.nodes[n].clock.when(deadline).max(self.now + cost);
                self.schedule(n, engine, when);
            }
            Again::At(None) => {}
            Again::Never => return self.stopped(n),
        }
        self.wake(n);
        if engine == 0 {
            self.schedule_disk(n, false);
        }
    }

    /// Lets all engines of a node run soon: something was done to it from outside.
    pub fn wake_all(&mut self, n: usize) {
        let engines = self.nodes[n].process.as_ref().map_or(0, |p| p.loops.len());
        for engine in 0..engines {
            self.schedule(n, engine, self.now);
        }
        self.schedule_disk(n, false);
    }

    /// Lets those run that were woken.
    fn wake(&mut self, n: usize) {
        let engines = self.nodes[n].process.as_ref().map_or(0, |p| p.loops.len());
        for engine in 0..engines {
            let awake = self.nodes[n].process.as_ref().is_some_and(|p| !p.loops[engine].waker.is_raised());
            if awake {
                let when = self.now + self.rng.range(500, 8_000);
                self.schedule(n, engine, when);
            }
        }
    }

    fn schedule_disk(&mut self, n: usize, again: bool) {
        let node = &self.nodes[n];
        let wants = node.process.as_ref().is_some_and(Process::has_disk_work);
        if !wants || node.disk_busy {
            return;
        }
        let mut takes = self.rng.range(node.disk_ns / 2, node.disk_ns * 2);
        if self.nodes[n].slow_until > self.now {
            takes *= 100;
        }
        if again {
            takes += SECOND / 50;
        }
        let node = &mut self.nodes[n];
        node.disk_busy = true;
        let (life, paused) = (node.life, node.paused_until);
        self.at((self.now + takes).max(paused), Happening::Disk { node: n, life });
    }

    fn run_disk(&mut self, n: usize, life: u64) {
        let node = &mut self.nodes[n];
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else { return };
        if node.paused_until > self.now {
            let until = node.paused_until;
            return self.at(until, Happening::Disk { node: n, life });
        }
        node.disk_busy = false;
        process.disk_turn();
        hash(&mut self.report.trace_hash, node.disk.operations());
        self.schedule_disk(n, true);
        self.wake(n);
    }

    /// The core stopped by itself, or because it was asked to.
    fn stopped(&mut self, n: usize) {
        let reason = self.nodes[n].process.as_ref().and_then(Process::stopped);
        let number = self.nodes[n].setup.consensus.node;
        self.note(|| format!("node {number} stopped: {reason:?}"));
        match &reason {
            Some(StopReason::Asked | StopReason::LogFailed(_) | StopReason::Reopen { .. }) => {}
            Some(other) => self.violate("replicas", format!("node {number} stopped: {other}")),
            None => self.violate("replicas", format!("node {number} stopped without a reason")),
        }
        self.end_process(n, true);
        let when = self.now + self.rng.range(1, 500) * 1_000_000;
        self.at(when, Happening::Start(n));
    }

    /// The process is gone; `told`: its connections are torn down, as the kernel does for a dead process.
    pub fn end_process(&mut self, n: usize, told: bool) {
        let node = &mut self.nodes[n];
        node.process = None;
        node.refuses = told;
        node.disk.kill();
        let mut torn = Vec::new();
        for (id, wire) in &self.net.wires {
            for end in 0..2 {
                if matches!(wire.ends[end], End::Engine { node, .. } if node == n) && !wire.gone[end] {
                    torn.push((*id, end));
                }
            }
        }
        for (id, end) in torn {
            if let Some(wire) = self.net.wires.get_mut(&id) {
                wire.gone[end] = true;
            }
            if told {
                self.send(id, end ^ 1, Parcel::Reset);
            }
            self.net.sweep(id);
        }
    }

    fn carry_out(&mut self, n: usize, engine: usize, wish: Wish) {
        let from = self.nodes[n].end(n, engine);
        match wish {
            Wish::Took(wire) => self.send(wire, 0, Parcel::Accepted),
            Wish::Send(wire, bytes) => self.send_from(wire, from, Parcel::Bytes(bytes)),
            Wish::End(wire) => self.let_go(wire, from, Parcel::End),
            Wish::Abort(wire) => self.let_go(wire, from, Parcel::Reset),
            Wish::Connect(conn, address) => {
                let to = self.nodes.iter().position(|node| node.address.as_ref() == Some(&address));
                let Some(to) = to else {
                    return self.tell(n, engine, Input::Closed(conn, Closed::ConnectFailed(111)));
                };
                let end = self.nodes[to].end(to, 0);
                let wire = self.net.wire(from, end);
                if let Some(process) = &mut self.nodes[n].process {
                    process.loops[engine].wires.insert(conn.0, wire);
                }
                self.send(wire, 1, Parcel::Open);
            }
        }
    }

    fn end_of(&self, wire: WireId, holder: End) -> Option<usize> {
        self.net.wires.get(&wire)?.ends.iter().position(|end| *end == holder)
    }

    fn send_from(&mut self, wire: WireId, from: End, parcel: Parcel) {
        if let Some(end) = self.end_of(wire, from) {
            self.send(wire, end ^ 1, parcel);
        }
    }

    /// An end lets its wire go; the other one hears it.
    fn let_go(&mut self, wire: WireId, from: End, parcel: Parcel) {
        let Some(end) = self.end_of(wire, from) else { return };
        if let Some(wire) = self.net.wires.get_mut(&wire) {
            wire.gone[end] = true;
        }
        self.send(wire, end ^ 1, parcel);
        self.net.sweep(wire);
    }

    /// Puts a parcel on its way.
    pub fn send(&mut self, wire: WireId, end: usize, parcel: Parcel) {
        match parcel {
            Parcel::Bytes(bytes) if bytes.len() > 1 && self.rng.one_in(8) => {
                let cut = self.rng.range(1, bytes.len() as u64 - 1) as usize;
                self.send_one(wire, end, Parcel::Bytes(bytes[..cut].to_vec()));
                self.send_one(wire, end, Parcel::Bytes(bytes[cut..].to_vec()));
            }
            parcel => self.send_one(wire, end, parcel),
        }
    }

    fn send_one(&mut self, wire: WireId, end: usize, parcel: Parcel) {
        if let Some(at) = self.net.send(wire, end, parcel, self.now, &mut self.rng) {
            self.at(at, Happening::Deliver(wire, end));
        }
    }

    fn tell(&mut self, n: usize, engine: usize, input: Input) {
        if let Some(process) = &mut self.nodes[n].process {
            process.loops[engine].inbox.push_back(input);
            self.schedule(n, engine, self.now);
        }
    }

    // ---- the network ----

    fn deliver(&mut self, id: WireId, end: usize) {
        loop {
            let Some(wire) = self.net.wires.get_mut(&id) else { return };
            let (from, to) = (wire.ends[end ^ 1].host(), wire.ends[end].host());
            match wire.flight[end].front_mut() {
                Some((at, _)) if *at <= self.now => {}
                _ => return,
            }
            if self.net.is_cut(from, to) {
                let again = self.now + self.rng.range(20, 250) * 1_000_000;
                if let Some((at, _)) = self.net.wires.get_mut(&id).and_then(|w| w.flight[end].front_mut()) {
                    *at = again;
                }
                return self.at(again, Happening::Deliver(id, end));
            }
            let Some(wire) = self.net.wires.get_mut(&id) else { return };
            let Some((_, parcel)) = wire.flight[end].pop_front() else { return };
            let (holder, gone) = (wire.ends[end], wire.gone[end]);
            if gone {
                if matches!(parcel, Parcel::Bytes(_) | Parcel::Open) {
                    self.bounce(id, end);
                }
                continue;
            }
            match holder {
                End::Client(client) => self.reach_client(id, client, parcel),
                End::Engine { node, life, engine } => {
                    self.reach_engine(id, end, (node, life, engine), parcel)
                }
            }
        }
    }

    /// Nobody is there any more: the sender hears it, unless the whole host is silent.
    fn bounce(&mut self, id: WireId, end: usize) {
        let Some(wire) = self.net.wires.get(&id) else { return };
        if let End::Engine { node, .. } = wire.ends[end]
            && self.nodes[node].process.is_none()
            && !self.nodes[node].refuses
        {
            return;
        }
        if !wire.gone[end ^ 1] {
            self.send(id, end ^ 1, Parcel::Reset);
        }
    }

    fn reach_engine(&mut self, id: WireId, end: usize, to: (usize, u64, usize), parcel: Parcel) {
        let (n, life, engine) = to;
        let there = self.nodes[n].process.is_some() && self.nodes[n].life == life;
        let conn = match (&parcel, self.nodes[n].process.as_ref().filter(|_| there)) {
            (Parcel::Open, Some(_)) => Some(ConnId(0)),
            (_, Some(process)) => process.loops[engine].conn_of(id),
            (_, None) => None,
        };
        let Some(conn) = conn else {
            // A wire opened and not yet taken by its engine keeps what follows in the kernel: there is nothing before the
            // engine has accepted, so this one is gone.
            if let Some(wire) = self.net.wires.get_mut(&id) {
                wire.gone[end] = true;
            }
            if matches!(parcel, Parcel::Bytes(_) | Parcel::Open) {
                self.bounce(id, end);
            }
            return self.net.sweep(id);
        };
        let input = match parcel {
            Parcel::Open => Input::Open(id),
            Parcel::Accepted => Input::Accepted(conn),
            Parcel::Bytes(bytes) => Input::Bytes(conn, bytes),
            Parcel::End => Input::End(conn),
            Parcel::Reset => {
                if let Some(wire) = self.net.wires.get_mut(&id) {
                    wire.gone[end] = true;
                }
                if let Some(process) = &mut self.nodes[n].process {
                    process.loops[engine].wires.remove(&conn.0);
                }
                Input::Closed(conn, Closed::ByPeer)
            }
        };
        self.tell(n, engine, input);
        self.net.sweep(id);
    }

    // ---- clients ----

    fn reach_client(&mut self, id: WireId, c: usize, parcel: Parcel) {
        if self.clients[c].wire() != Some(id) {
            return;
        }
        match parcel {
            Parcel::Open => {}
            Parcel::Accepted => {
                let bytes = self.clients[c].connected(self.now);
                self.send_from(id, End::Client(c), Parcel::Bytes(bytes));
            }
            Parcel::Bytes(bytes) => {
                for byte in bytes.chunks(64) {
                    hash(
                        &mut self.report.trace_hash,
                        byte.iter().fold(7, |h, b| h * 31 % 0xffff_fffb + u64::from(*b)),
                    );
                }
                let session = self.clients[c].session;
                let (news, out, asks) = self.clients[c].received(&bytes, self.now, &mut self.next_op);
                for news in news {
                    self.hear(c, session, news);
                }
                self.say(c, id, out, &asks);
                self.at(self.clients[c].next_ns, Happening::Client(c));
            }
            Parcel::End | Parcel::Reset => self.lose(c, false),
        }
    }

    fn say(&mut self, c: usize, wire: WireId, bytes: Vec<u8>, asks: &[Ask]) {
        for ask in asks {
            self.see(&Event::Sent { client: c, ask });
        }
        if !bytes.is_empty() {
            self.send_from(wire, End::Client(c), Parcel::Bytes(bytes));
        }
    }

    fn hear(&mut self, c: usize, session: i64, news: News) {
        match news {
            News::Opened { session, timeout_ms, asked_ns, again } => {
                self.note(|| format!("client {c} has session {session:x} (again: {again})"));
                self.see(&Event::Opened { client: c, session, timeout_ms, asked_ns });
            }
            News::Refused { session } => {
                self.note(|| format!("client {c} lost session {session:x}"));
            }
            News::Answered { ask, zxid, err, body } => {
                self.report.answered += 1;
                let name = opcode::name(ask.opcode).unwrap_or("?");
                self.note(|| format!("client {c}: {name} ({}) answered at {zxid:x} with {err}", ask.xid));
                // Of the handshake's own turn the session is known only afterwards.
                let session = if session == 0 { self.clients[c].session } else { session };
                self.see(&Event::Answered { client: c, session, ask: &ask, zxid, err, body: &body });
            }
            News::Notified { zxid, kind, path } => {
                self.note(|| format!("client {c}: event {kind} of {path} at {zxid:x}"));
                self.see(&Event::Notified { client: c, zxid, kind, path: &path });
            }
            News::Nonsense(what) => self.see(&Event::Nonsense { client: c, what: &what }),
        }
    }

    /// A client's connection is gone; `gives_up`: by its own will.
    pub fn lose(&mut self, c: usize, gives_up: bool) {
        let Some(wire) = self.clients[c].wire() else { return };
        if gives_up {
            self.let_go(wire, End::Client(c), Parcel::Reset);
        } else if let Some(end) = self.end_of(wire, End::Client(c)) {
            let other_gone = self.net.wires.get_mut(&wire).is_some_and(|w| {
                w.gone[end] = true;
                w.gone[end ^ 1]
            });
            if !other_gone {
                self.send(wire, end ^ 1, Parcel::End);
            }
            self.net.sweep(wire);
        }
        self.clients[c].lost(self.now);
        self.note(|| format!("client {c} lost its connection"));
        self.see(&Event::Lost { client: c });
        self.at(self.clients[c].next_ns, Happening::Client(c));
    }

    fn run_client(&mut self, c: usize) {
        if self.clients[c].next_ns > self.now {
            return;
        }
        if self.clients[c].state == State::Away {
            if self.clients[c].is_done() {
                return;
            }
            let n = self.clients[c].home.unwrap_or_else(|| self.rng.below(self.nodes.len() as u64) as usize);
            let engine = 1 + self.rng.below(self.nodes[n].setup.shards as u64) as usize;
            let wire = self.net.wire(End::Client(c), self.nodes[n].end(n, engine));
            self.clients[c].dial(wire, self.now);
            self.send(wire, 1, Parcel::Open);
        }
        let Some(wire) = self.clients[c].wire() else { return };
        match self.clients[c].turn(self.now, &mut self.next_op) {
            Some((bytes, asks)) => {
                self.say(c, wire, bytes, &asks);
                self.at(self.clients[c].next_ns, Happening::Client(c));
            }
            None => self.lose(c, true),
        }
    }

    /// Hosts of nodes and clients.
    pub fn hosts(&self) -> Vec<Host> {
        let nodes = (0..self.nodes.len()).map(Host::Node);
        nodes.chain((0..self.clients.len()).map(Host::Client)).collect()
    }

    /// Counts a fault.
    pub fn count(&mut self, kind: FaultKind) {
        *self.faults.counts.entry(kind.name()).or_insert(0) += 1;
        hash(&mut self.report.trace_hash, kind as u64);
    }
}

/// One node, or several voters and observers.
fn ensemble(voters: Option<usize>, rng: &mut Rng) -> Vec<SimNode> {
    let voters = voters.unwrap_or_else(|| *rng.pick(&[1, 1, 3, 3, 3, 5]));
    let observers = if voters > 1 { *rng.pick(&[0, 0, 0, 1, 2]) } else { 0 };
    if voters == 1 {
        return vec![node(1, None, rng)];
    }
    let member = |number: u8| Member {
        host: format!("10.0.1.{number}"),
        peer_port: 2888,
        election_port: 3888,
        role: if usize::from(number) <= voters { MemberRole::Participant } else { MemberRole::Observer },
        client: None,
        identity: None,
    };
    let all = (voters + observers) as u8;
    let members = (1..=all).map(|number| (number, member(number))).collect();
    let members = Members { members, ..Members::default() };
    (1..=all).map(|number| node(number, Some(&members), rng)).collect()
}

fn node(number: u8, members: Option<&Members>, rng: &mut Rng) -> SimNode {
    let shards = rng.range(1, 3) as usize;
    let mut consensus = ConsensusConfig::standalone("/data".into(), shards);
    consensus.node = number;
    consensus.members = members.cloned();
    consensus.max_staleness_ns = MAX_STALENESS_NS;
    consensus.inline = true;
    consensus.tick_time_ms = TICK_TIME_MS;
    consensus.segment_bytes = Some(64 << 10);
    consensus.snap_count = rng.range(40, 600);
    consensus.batches_in_flight = rng.range(1, 3) as usize;
    consensus.commit_ring_entries = *rng.pick(&[4, 64, 1024]);
    let shard = ShardConfig {
        tick_time_ms: TICK_TIME_MS,
        max_staleness_ns: MAX_STALENESS_NS,
        session_timeout_min_ms: 2 * TICK_TIME_MS as i32,
        session_timeout_max_ms: 20 * TICK_TIME_MS as i32,
        ..ShardConfig::default()
    };
    SimNode {
        setup: Setup { shards, consensus, shard },
        disk: FaultDisk::new(),
        clock: Clock::new(rng.range(1, 1000) * SECOND, rng.range(0, 40_000) as i64 - 20_000),
        process: None,
        life: 0,
        paused_until: 0,
        disk_ns: rng.range(50_000, 3_000_000),
        slow_until: 0,
        disk_busy: false,
        refuses: true,
        wanted: true,
        address: members.map(|_| Address::Tcp(([10, 0, 1, number], 2888).into())),
    }
}
