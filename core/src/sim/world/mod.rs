//! The world: time, randomness, nodes, clients, and the events between them.
//!
//! Owns the queue of events, ordered by time and number, and the only random stream.
//!
//! Never sleeps, and never asks the system for anything.
//!
//! Correct (deterministic) because events are handled one after the other and every collection is ordered.
//! The tests compare a run's trace, a hash over all events, with that of a second run.

mod hosting;
mod operator;
mod serving;
mod setting;
mod wiring;

use super::check::{self, Checker, Event, Facts};
use super::client::{Client, ClientMode};
use super::faults::{FaultKind, Faults};
use super::model::Model;
use super::net::{Host, Net, Weather, WireId};
use super::node::SimNode;
use super::rng::Rng;
use super::workload::encode;
use crate::mutation;
use paddock_transport::wire::Request;
use setting::ensemble;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// One second, in ns.
pub const SECOND: u64 = 1_000_000_000;

/// `tickTime` of simulated nodes, ms. Small, so that sessions begin and end within a run.
pub const TICK_TIME_MS: u32 = 500;

/// How long a node may serve without confirmation by the quorum.
const MAX_STALENESS_NS: u64 = 4 * SECOND;

/// A request that waits this long after the faults have ended will never be answered: clients give
/// connections up sooner.
const UNANSWERED_NS: u64 = 5 * SECOND;

/// Time between two checks of the nodes' progress.
const LOOK_NS: u64 = SECOND / 4;

/// Number of trace lines kept for a report.
const TRACE_LINES: usize = 80;

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Whether the last events are kept as text.
    pub trace: bool,
    /// Virtual time with faults, ns.
    pub faulty_ns: u64,
    /// Number of voters; `None` lets the seed decide.
    pub voters: Option<usize>,
}

/// A promise that a checker found broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Name of the checker that found it.
    pub checker: String,
    /// The description, for the report.
    pub what: String,
}

/// The result of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunReport {
    pub seed: u64,
    pub simulated_ns: u64,
    pub answered: u64,
    /// Writes among `answered` that were refused because disks were full.
    pub refused: u64,
    /// Length of the log, in entries.
    pub entries: u64,
    /// Number of terms that appear in the log.
    pub terms: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub events: u64,
    pub trace_hash: u64,
    pub violation: Option<Violation>,
    /// The last events, if the plan keeps them.
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
    Reconfigure,
    Look,
}

/// See the module doc.
pub struct World {
    /// True time since the start of the run, ns.
    pub now: u64,
    /// The only random stream.
    pub rng: Rng,
    pub net: Net,
    pub nodes: Vec<SimNode>,
    pub clients: Vec<Client>,
    pub faults: Faults,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    queued: u64,
    facts: Facts,
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
    next_op: u64,
    applied: BTreeMap<u8, u64>,
    report: RunReport,
    trace: Option<VecDeque<String>>,
    /// The client that reconfigures the ensemble, in runs with reconfigurations.
    operator: Option<usize>,
}

fn hash(into: &mut u64, value: u64) {
    *into = (*into ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
}

impl World {
    /// Creates the world of a seed.
    pub fn new(plan: &Plan) -> World {
        let mut rng = Rng::new(plan.seed);
        let weather = Weather {
            delay_min_ns: rng.range(5_000, 200_000),
            delay_max_ns: rng.range(200_000, 5_000_000),
            late_one_in: *rng.pick(&[0, 50, 500]),
        };
        let clients = rng.range(3, 6);
        let changes = rng.one_in(2);
        let nodes = ensemble(plan.voters, changes, &mut rng);
        let mut clients: Vec<Client> = (0..clients).map(|_| Client::new(rng.fork(), nodes.len())).collect();
        let operator = (changes && nodes.len() > 1).then_some(clients.len());
        if operator.is_some() {
            let mut client = Client::operator(rng.fork(), nodes.len());
            client.mode = ClientMode::Operate(VecDeque::new());
            clients.push(client);
        }
        let facts = Facts {
            now: 0,
            log: Vec::new(),
            model: Model::new(),
            fresh_reads: nodes.len() == 1,
            max_staleness_ns: MAX_STALENESS_NS,
            calm_since: None,
            full_since: None,
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
            report: RunReport { seed: plan.seed, ..RunReport::default() },
            trace: plan.trace.then(VecDeque::new),
            operator,
        }
    }

    /// Runs a plan to its end, or to the first violation.
    pub fn run(plan: &Plan) -> RunReport {
        mutation::watch_applied(true);
        let mut world = World::new(plan);
        world.live(plan);
        mutation::watch_applied(false);
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
        self.at(2 * SECOND, Happening::Reconfigure);
        self.at(LOOK_NS, Happening::Look);
        self.until(plan.faulty_ns);
        self.calm();
        self.until(plan.faulty_ns + check::LIVENESS_BOUND_NS);
        self.drain();
        self.until(self.now + 3 * SECOND);
        self.audit();
        let patience = self.now + 10 * SECOND;
        while self.violation.is_none() && self.now < patience && !self.clients.iter().all(Client::is_done) {
            self.until(self.now + SECOND / 4);
        }
        // Long enough for the last sessions to expire.
        self.until(self.now + 20 * SECOND);
        self.end();
    }

    /// Ends all faults; no new ones follow.
    fn calm(&mut self) {
        self.want_members();
        Faults::undo_all(self);
        if let Some(operator) = self.operator {
            self.clients[operator].mode = ClientMode::Load;
        }
        self.facts.calm_since = Some(self.now);
        self.note(|| "the faults end".to_owned());
    }

    fn drain(&mut self) {
        for client in &mut self.clients {
            client.mode = ClientMode::Drain;
        }
    }

    /// Adds a client for each node that reads every path there.
    fn audit(&mut self) {
        let paths: Vec<String> = self.facts.model.paths().cloned().collect();
        self.want_members();
        for node in 0..self.nodes.len() {
            if !self.nodes[node].wanted {
                continue;
            }
            let mut reads = VecDeque::new();
            reads.push_back(encode(&Request::Sync { path: "/".into() }, None));
            for path in &paths {
                let path = || path.as_str().into();
                reads.push_back(encode(&Request::GetData { path: path(), watch: false }, None));
                reads.push_back(encode(&Request::GetChildren2 { path: path(), watch: false }, None));
                reads.push_back(encode(&Request::GetAcl { path: path() }, None));
            }
            let mut client = Client::operator(self.rng.fork(), self.nodes.len());
            (client.mode, client.home, client.next_ns) = (ClientMode::Audit(reads), Some(node), self.now);
            self.clients.push(client);
            self.at(self.now, Happening::Client(self.clients.len() - 1));
        }
    }

    fn end(&mut self) {
        self.want_members();
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let (number, runs, wanted) = (node.setup.consensus.node, node.process.is_some(), node.wanted);
            let applied = self.applied.get(&number).copied().unwrap_or(0);
            self.note(|| {
                format!("node {number} runs: {runs}, wanted: {wanted}, has applied {applied} entries")
            });
        }
        let members = self.nodes.iter().filter(|n| n.wanted);
        let numbers: Vec<u8> = members.map(|n| n.setup.consensus.node).collect();
        let applied: Vec<(u8, u64)> =
            numbers.iter().map(|n| (*n, self.applied.get(n).copied().unwrap_or(0))).collect();
        let mut unanswered: Vec<(usize, u64)> = Vec::new();
        for (n, client) in self.clients.iter().enumerate() {
            let overdue = client.waiting.iter().filter(|ask| ask.sent_ns + UNANSWERED_NS < self.now);
            unanswered.extend(overdue.map(|ask| (n, ask.sent_ns)));
            if let ClientMode::Audit(left) = &client.mode
                && !left.is_empty()
            {
                unanswered.push((n, self.facts.calm_since.unwrap_or(0)));
            }
        }
        self.see(&Event::Ended { applied: &applied, unanswered: &unanswered });
    }

    fn into_report(self) -> RunReport {
        let mut report = self.report;
        report.simulated_ns = self.now;
        report.entries = self.facts.log.len() as u64;
        report.terms = self.facts.log.windows(2).filter(|w| w[0].term != w[1].term).count() as u64 + 1;
        report.faults = self.faults.counts.clone();
        report.violation = self.violation;
        report.last = self.trace.into_iter().flatten().collect();
        report
    }

    /// Queues an event, for now if `when` has passed.
    fn at(&mut self, when: u64, what: Happening) {
        self.queued += 1;
        self.queue.push(Reverse((when.max(self.now), self.queued, what)));
    }

    /// Plans the end of a fault.
    pub fn undo_at(&mut self, when: u64, number: u64) {
        self.at(when, Happening::Undo(number));
    }

    /// Plans the start of a node.
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
        // Time stands still at the moment of a violation.
        if self.violation.is_none() {
            self.now = self.now.max(end);
            self.facts.now = self.now;
        }
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
            Happening::Reconfigure => self.reconfigure(),
            Happening::Look => {
                let nodes = self.node_states();
                self.see(&Event::Looked { nodes: &nodes });
                self.at(self.now + LOOK_NS, Happening::Look);
            }
        }
    }

    /// Keeps a trace line for the report.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() >= TRACE_LINES {
                trace.pop_front();
            }
            let line = format!("{:>12.6} s  {}", self.now as f64 / 1e9, line());
            tracing::info!("{line}");
            trace.push_back(line);
        }
    }

    /// Records a violation, if it is the first.
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

    /// All hosts: nodes, then clients.
    pub fn hosts(&self) -> Vec<Host> {
        let nodes = (0..self.nodes.len()).map(Host::Node);
        nodes.chain((0..self.clients.len()).map(Host::Client)).collect()
    }

    /// Counts a reconfiguration among the faults.
    fn count_change(&mut self) {
        *self.faults.counts.entry("change of members").or_insert(0) += 1;
    }

    /// Counts a fault of this kind.
    pub fn count(&mut self, kind: FaultKind) {
        *self.faults.counts.entry(kind.name()).or_insert(0) += 1;
        hash(&mut self.report.trace_hash, kind as u64);
    }
}
