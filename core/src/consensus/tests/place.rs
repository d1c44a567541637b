//! Whole cores with their links, in one thread. A test starts and kills each of them and replaces its disk.

use super::rig::{TIMEOUT_MS, disk};
use crate::command::Op;
use crate::commit::Ticket;
use crate::consensus::{Consensus, ConsensusConfig, Parts, StopReason};
use crate::members::{Member, MemberRole, Members};
use crate::stats::Stats;
use crate::submit::Submit;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::inproc::InProc;
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use std::collections::BTreeSet;
use std::sync::Arc;

pub const STEP_NS: u64 = 10_000_000;
pub const SECOND: u64 = 1_000_000_000;
/// Longer than any grace, any backoff and several elections.
pub const LONG_NS: u64 = 30 * SECOND;

/// A place where a node may run.
pub struct Slot {
    pub config: ConsensusConfig,
    pub disk: Arc<FaultDisk>,
    pub running: Option<(Consensus, Parts, Arc<Stats>)>,
    pub conns: BTreeSet<ConnId>,
    pub disks: u8,
    /// Whether the node's process takes connections and does not answer yet.
    pub starting: bool,
}

impl Engine for Slot {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        match &mut self.running {
            Some((core, ..)) => {
                self.conns.insert(conn);
                core.opened(now, conn, origin, io);
            }
            // The process has bound its port and reads its data.
            None if self.starting => {
                self.conns.insert(conn);
            }
            None => io.abort(conn),
        }
    }
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        if let Some((core, ..)) = &mut self.running {
            core.received(now, conn, bytes, io);
        }
    }
    fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        match &mut self.running {
            Some((core, ..)) => core.eof(now, conn, io),
            None => io.abort(conn),
        }
    }
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.conns.remove(&conn);
        if let Some((core, ..)) = &mut self.running {
            core.closed(now, conn, why, io);
        }
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        match self.running.as_mut().map(|(core, ..)| core.turn(now, io)) {
            // The slot stays for the next start.
            None | Some(Next::Stop) => Next::Sleep { deadline_ns: None },
            Some(next) => next,
        }
    }
    fn park(&mut self) -> bool {
        self.running.as_mut().is_none_or(|(core, ..)| core.park())
    }
}

/// Nodes 1 to n. At first none of them runs.
pub struct Place {
    pub slots: Vec<Slot>,
    pub net: InProc,
    pub now: Now,
}

pub fn port(node: u8) -> u16 {
    2000 + u16::from(node)
}

pub fn members(nodes: &[u8]) -> Option<Members> {
    let member = |node: &u8| Member {
        host: "127.0.0.1".to_owned(),
        peer_port: port(*node),
        election_port: 3000,
        role: MemberRole::Participant,
        client: None,
        identity: None,
    };
    let members = nodes.iter().map(|node| (*node, member(node))).collect();
    Some(Members { members, ..Members::default() })
}

impl Place {
    /// One node for each element of `lines`, which are the ids in the node's own server lines.
    pub fn new(lines: &[&[u8]]) -> Place {
        let mut net = InProc::new(lines.len());
        let slots = (1..).zip(lines).map(|(node, lines)| {
            net.listen(usize::from(node) - 1, Address::Tcp(([127, 0, 0, 1], port(node)).into()));
            let mut config = ConsensusConfig::standalone("/data".into(), 1);
            (config.segment_bytes, config.inline) = (Some(1 << 20), true);
            (config.node, config.seed) = (node, u64::from(node));
            config.members = members(lines);
            let mut slot = Slot {
                config,
                disk: disk(),
                running: None,
                conns: BTreeSet::new(),
                disks: 0,
                starting: false,
            };
            slot.new_disk();
            slot
        });
        let slots = slots.collect();
        Place { slots, net, now: Now { mono_ns: 1000 * SECOND, wall_ms: 1_700_000_000_000 } }
    }

    pub fn three() -> Place {
        Place::new(&[&[1, 2, 3][..]; 3])
    }

    pub fn slot(&mut self, node: u8) -> &mut Slot {
        &mut self.slots[usize::from(node) - 1]
    }

    pub fn core(&self, node: u8) -> &Consensus {
        &self.slots[usize::from(node) - 1].running.as_ref().expect("it runs").0
    }

    pub fn start(&mut self, nodes: &[u8]) {
        for node in nodes {
            if std::mem::take(&mut self.slot(*node).starting) {
                self.kill(&[*node]);
            }
            let slot = self.slot(*node);
            let waker = Waker::new().unwrap();
            let stats = Arc::new(Stats::new(1, 0));
            let config = slot.config.clone();
            let (core, parts) = Consensus::open(config, waker.clone(), &[waker], stats.clone()).unwrap();
            slot.running = Some((core, parts, stats));
        }
    }

    pub fn kill(&mut self, nodes: &[u8]) {
        for node in nodes {
            let at = usize::from(*node) - 1;
            self.slots[at].running = None;
            for conn in std::mem::take(&mut self.slots[at].conns) {
                self.net.io(at).abort(conn);
            }
        }
        self.step();
    }

    pub fn step(&mut self) {
        self.now.mono_ns += STEP_NS;
        let mut engines: Vec<&mut dyn Engine> =
            self.slots.iter_mut().map(|slot| slot as &mut dyn Engine).collect();
        self.net.step(self.now, &mut engines);
        for (core, parts, _) in self.slots.iter_mut().filter_map(|slot| slot.running.as_mut()) {
            if core.has_disk_work() {
                core.disk_turn();
            }
            let shard = &mut parts.shards[0];
            while let Some(published) = shard.commits.next() {
                shard.reader.move_to(&published.version);
            }
            shard.commits.release();
        }
        self.reopen();
    }

    /// Restarts the nodes that stopped with [`StopReason::Reopen`], as a server does.
    pub fn reopen(&mut self) {
        let reopens = |slot: &Slot| {
            let reason = slot.running.as_ref().and_then(|(_, parts, _)| parts.control.reason());
            matches!(reason, Some(StopReason::Reopen { .. }))
        };
        let reopening: Vec<u8> =
            (1..).zip(&self.slots).filter(|(_, slot)| reopens(slot)).map(|(node, _)| node).collect();
        if !reopening.is_empty() {
            self.kill(&reopening);
            self.start(&reopening);
        }
    }

    pub fn pass(&mut self, ns: u64) {
        let end = self.now.mono_ns + ns;
        while self.now.mono_ns < end {
            self.step();
        }
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Place) -> bool) {
        let end = self.now.mono_ns + LONG_NS;
        while !done(self) {
            assert!(self.now.mono_ns < end, "{what}: not within {} s", LONG_NS / SECOND);
            self.step();
        }
    }

    pub fn cluster(&self, node: u8) -> [u8; 16] {
        self.core(node).applier.machine.members().cluster
    }

    pub fn are_one(&self, nodes: &[u8]) -> bool {
        let first = self.cluster(nodes[0]);
        first != [0; 16] && nodes.iter().all(|node| self.cluster(*node) == first)
    }

    /// Waits until these nodes belong to one ensemble that knows the directory of each of them.
    pub fn until_founded(&mut self, nodes: &[u8]) {
        self.until("one ensemble", |place| {
            let known = |on: u8| {
                let state = place.core(on).applier.machine.membership();
                nodes.iter().all(|node| state.recorded(*node).is_some())
            };
            place.are_one(nodes) && nodes.iter().all(|node| known(*node))
        });
    }

    pub fn leads(&self, node: u8) -> bool {
        self.core(node).raft.is_ready_to_order()
    }

    pub fn led(&self, nodes: &[u8]) -> bool {
        nodes.iter().any(|node| self.core(*node).raft.leader() != 0)
    }

    /// The text about writes in the four-letter words of a node.
    pub fn words(&self, node: u8) -> String {
        let (_, _, stats) = self.slots[usize::from(node) - 1].running.as_ref().expect("it runs");
        stats.write_block().to_string()
    }

    pub fn open_session(&mut self, node: u8, session: i64) {
        let (_, parts, _) = self.slot(node).running.as_mut().expect("it runs");
        let op = Op::OpenSession { timeout_ms: TIMEOUT_MS, password: [7; 16] };
        let ticket = Ticket { shard: 0, token: 1 };
        let submit = Submit::Command { ticket, session, attachment: 0, identities: [].into(), op };
        parts.shards[0].submits.push(submit).unwrap();
        self.until("a session", |place| place.knows(node, session));
    }

    /// Orders a write that fails when it is applied, and waits for its decision.
    pub fn write(&mut self, node: u8, token: u64, bytes: usize) {
        self.submit(node, token, bytes);
        self.until("a decision", |place| place.core(node).pending.undecided() == 0);
    }

    /// Submits a write that fails when it is applied.
    pub fn submit(&mut self, node: u8, token: u64, bytes: usize) {
        let (_, parts, _) = self.slot(node).running.as_mut().expect("it runs");
        let op = Op::Request { opcode: 5, body: vec![0; bytes] };
        let ticket = Ticket { shard: 0, token };
        let submit = Submit::Command { ticket, session: 1, attachment: 1, identities: [].into(), op };
        parts.shards[0].submits.push(submit).unwrap();
    }

    pub fn knows(&self, node: u8, session: i64) -> bool {
        self.core(node).applier.machine.sessions().get(session).is_some()
    }
}

impl Slot {
    pub fn new_disk(&mut self) {
        self.disks += 1;
        self.disk = disk();
        self.config.disk = self.disk.clone();
        self.config.new_identity = [self.config.node * 16 + self.disks; 16];
    }
}
