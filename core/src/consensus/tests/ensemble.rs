//! Three whole cores with their links, in one thread: a node whose state differs stops, and the others go on.

use super::rig::{TIMEOUT_MS, disk};
use crate::command::Op;
use crate::commit::{Outcome, Ticket};
use crate::consensus::config::READ_ROUND_RETRY_NS;
use crate::consensus::raft::Role;
use crate::consensus::{Consensus, ConsensusConfig, Parts, ShardParts, StopReason};
use crate::members::{Member, MemberRole, Members};
use crate::stats::Stats;
use crate::submit::Submit;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Address, Engine, Now};
use paddock_transport::inproc::InProc;
use paddock_transport::wake::Waker;
use std::collections::BTreeMap;
use std::sync::Arc;

const NODES: u8 = 3;
const STEP_NS: u64 = 5_000_000;
/// Virtual time after which a test gives up: several elections.
const PATIENCE_STEPS: usize = 4000;

pub struct Node {
    config: ConsensusConfig,
    pub disk: Arc<FaultDisk>,
    pub core: Consensus,
    pub parts: Parts,
    shard: ShardParts,
    /// Sessions opened through this node.
    pub opened: Vec<i64>,
    asked: u64,
    answered: u64,
    /// Outcomes of commands, by token.
    pub answers: BTreeMap<u64, Outcome>,
    /// When set, the disk of this node makes nothing durable.
    pub stuck_disk: bool,
}

pub struct Trio {
    pub nodes: Vec<Node>,
    net: InProc,
    pub now: Now,
}

impl Trio {
    fn start() -> Trio {
        Self::start_with(1 << 20)
    }

    fn start_with(segment_bytes: u64) -> Trio {
        Self::start_as(segment_bytes, [MemberRole::Participant; NODES as usize])
    }

    pub fn start_as(segment_bytes: u64, roles: [MemberRole; NODES as usize]) -> Trio {
        let port = |node: u8| 2000 + u16::from(node);
        let member = |node: u8| Member {
            host: "127.0.0.1".to_owned(),
            peer_port: port(node),
            election_port: 3000,
            role: roles[usize::from(node) - 1],
            client: None,
            identity: None,
        };
        let members: BTreeMap<u8, Member> = (1..=NODES).map(|node| (node, member(node))).collect();
        let mut net = InProc::new(usize::from(NODES));
        let nodes = (1..=NODES).map(|node| {
            net.listen(usize::from(node) - 1, Address::Tcp(([127, 0, 0, 1], port(node)).into()));
            let mut config = ConsensusConfig::standalone("/data".into(), 1);
            let disk = disk();
            config.disk = disk.clone();
            config.segment_bytes = Some(segment_bytes);
            config.inline = true;
            (config.node, config.seed, config.new_identity) = (node, u64::from(node), [node; 16]);
            config.members = Some(Members { members: members.clone(), ..Members::default() });
            let waker = Waker::new().unwrap();
            let stats = Arc::new(Stats::new(1, 0));
            let (core, mut parts) = Consensus::open(config.clone(), waker.clone(), &[waker], stats).unwrap();
            let shard = parts.shards.remove(0);
            let answers = BTreeMap::new();
            let (opened, stuck_disk) = (Vec::new(), false);
            Node { config, disk, core, parts, shard, opened, asked: 0, answered: 0, answers, stuck_disk }
        });
        let nodes = nodes.collect();
        Trio { nodes, net, now: Now { mono_ns: 1_000_000_000_000, wall_ms: 1_700_000_000_000 } }
    }

    pub fn step(&mut self) {
        self.now.mono_ns += STEP_NS;
        let mut cores: Vec<&mut dyn Engine> =
            self.nodes.iter_mut().map(|node| &mut node.core as &mut dyn Engine).collect();
        self.net.step(self.now, &mut cores);
        for node in &mut self.nodes {
            if !node.stuck_disk && node.core.has_disk_work() {
                node.core.disk_turn();
            }
            while let Some(published) = node.shard.commits.next() {
                node.shard.reader.move_to(&published.version);
                node.answered += published.commit.replies.len() as u64;
                for reply in &published.commit.replies {
                    node.answers.insert(reply.ticket.token, reply.outcome.clone());
                    if let Outcome::Attached { session, .. } = reply.outcome {
                        node.opened.push(session);
                    }
                }
            }
            node.shard.commits.release();
        }
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Trio) -> bool) {
        for _ in 0..PATIENCE_STEPS {
            self.step();
            if done(self) {
                return;
            }
        }
        let state: Vec<_> =
            self.nodes.iter().map(|n| (n.answered, n.core.raft.role(), n.core.pending.undecided())).collect();
        panic!(
            "{what}: not within {} virtual seconds; {state:?}, {:?}",
            PATIENCE_STEPS as u64 * STEP_NS / 1_000_000_000,
            self.reasons()
        );
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| {
            node.core.raft.role() == Role::Leader
                && node.core.leadership.term != 0
                && node.parts.control.reason().is_none()
        };
        self.nodes.iter().position(leads)
    }

    /// Submits a write of some bytes for a session that does not exist. It becomes an entry and changes
    /// nothing. Returns its token.
    pub fn submit(&mut self, n: usize, bytes: usize) -> u64 {
        let node = &mut self.nodes[n];
        node.asked += 1;
        let ticket = Ticket { shard: 0, token: node.asked };
        let op = Op::Request { opcode: 5, body: vec![0; bytes] };
        let submit = Submit::Command { ticket, session: 1, attachment: 1, identities: [].into(), op };
        node.shard.submits.push(submit).unwrap();
        ticket.token
    }

    /// Opens a session through a node, and waits until it is open.
    pub fn write_through(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.asked += 1;
        let session = (n as i64 + 1) << 56 | node.asked as i64;
        let op = Op::OpenSession { timeout_ms: TIMEOUT_MS, password: [7; 16] };
        let ticket = Ticket { shard: 0, token: node.asked };
        let submit = Submit::Command { ticket, session, attachment: 0, identities: [].into(), op };
        node.shard.submits.push(submit).unwrap();
        self.until("a write through a healthy node", |trio| trio.nodes[n].opened.contains(&session));
    }

    /// Submits a sync. Returns its token.
    fn sync(&mut self, n: usize) -> u64 {
        let node = &mut self.nodes[n];
        node.asked += 1;
        node.shard.submits.push(Submit::Sync { ticket: Ticket { shard: 0, token: node.asked } }).unwrap();
        node.asked
    }

    /// Reports heartbeats of sessions through a node.
    pub fn touch(&mut self, n: usize, sessions: &[i64]) {
        let touched = Submit::Touched { sessions: sessions.to_vec(), at_ns: self.now.mono_ns };
        self.nodes[n].shard.submits.push(touched).unwrap();
    }

    pub fn reasons(&self) -> Vec<Option<&StopReason>> {
        self.nodes.iter().map(|node| node.parts.control.reason()).collect()
    }
}

#[test]
fn what_gathered_without_a_leader_fits_the_entries_of_the_next_one() {
    let mut trio = Trio::start_with(64 << 10);
    for node in &mut trio.nodes {
        for token in 1..=100 {
            let op = Op::Request { opcode: 5, body: vec![0; 2000] };
            let ticket = Ticket { shard: 0, token };
            let submit = Submit::Command { ticket, session: 1, attachment: 1, identities: [].into(), op };
            node.shard.submits.push(submit).unwrap();
        }
    }
    trio.until("an answer to everything", |trio| trio.nodes.iter().all(|node| node.answered == 100));
    assert!(trio.reasons().iter().all(Option::is_none), "{:?}", trio.reasons());
}

#[test]
fn what_a_leader_of_before_was_asked_is_asked_of_the_next_one_at_once() {
    let mut trio = Trio::start();
    trio.until("a first leader", |trio| trio.leader().is_some());
    for n in 0..3 {
        trio.write_through(n);
    }
    for _ in 0..6 {
        let before = trio.leader().unwrap();
        let next = (before + 1) % 3;
        trio.nodes[before].core.raft.transfer(next as u64 + 1);
        let mut last = [0; 3];
        while trio.leader() != Some(next) {
            last = [0, 1, 2].map(|n| trio.sync(n));
            trio.step();
        }
        let since_ns = trio.now.mono_ns;
        trio.until("an answer to everybody", |trio| {
            (0..3).all(|n| trio.nodes[n].answers.contains_key(&last[n]))
        });
        let waited_ns = trio.now.mono_ns - since_ns;
        assert!(waited_ns < READ_ROUND_RETRY_NS / 4, "{waited_ns} ns after somebody leads");
    }
}

/// Changes the state of one node, and checks that only this node stops.
fn the_one_that_differs_stops(spoil_leader: bool) {
    let mut trio = Trio::start();
    trio.until("a first leader", |trio| trio.leader().is_some());
    for n in 0..3 {
        trio.write_through(n);
    }
    let leader = trio.leader().unwrap();
    let wrong = if spoil_leader { leader } else { (leader + 1) % 3 };
    let healthy = (wrong + 1) % 3;
    trio.nodes[wrong].core.applier.machine.spoil();
    // All nodes apply the first write. The second one carries its proposer's digest of the result.
    for _ in 0..3 {
        trio.write_through(healthy);
    }
    trio.until("a verdict", |trio| trio.nodes[wrong].parts.control.reason().is_some());
    assert!(
        matches!(trio.reasons()[wrong], Some(StopReason::Diverged { .. })),
        "{:?} of node {}",
        trio.reasons(),
        wrong + 1
    );
    trio.until("a leader among the healthy", |trio| trio.leader().is_some_and(|leader| leader != wrong));
    for n in (0..3).filter(|n| *n != wrong) {
        trio.write_through(n);
    }
    assert_eq!(trio.reasons().iter().flatten().count(), 1, "only the wrong one stops: {:?}", trio.reasons());
    // A node starts again although its log has entries of a proposer with another state.
    let Node { config, core, parts, shard, .. } = trio.nodes.swap_remove(healthy);
    drop((core, parts, shard));
    let waker = Waker::new().unwrap();
    let (_, again) = Consensus::open(config, waker.clone(), &[waker], Arc::new(Stats::new(1, 0))).unwrap();
    assert!(again.recovered.sessions >= 6, "{:?}", again.recovered);
}

#[test]
fn a_difference_shows_without_a_write() {
    let mut trio = Trio::start();
    trio.until("a first leader", |trio| trio.leader().is_some());
    let wrong = (trio.leader().unwrap() + 1) % 3;
    trio.write_through(0);
    trio.nodes[wrong].core.applier.machine.spoil();
    // All nodes apply this write, and no later entry carries a digest.
    trio.write_through((wrong + 1) % 3);
    trio.until("a verdict", |trio| trio.nodes[wrong].parts.control.reason().is_some());
    assert_eq!(trio.reasons().iter().flatten().count(), 1, "{:?}", trio.reasons());
    trio.until("the others to have it behind them", |trio| {
        (0..3).all(|n| n == wrong || trio.nodes[n].core.divergences.zxids().is_empty())
    });
}

#[test]
fn a_follower_whose_state_differs_stops_and_the_others_go_on() {
    the_one_that_differs_stops(false);
}

#[test]
fn a_leader_whose_state_differs_stops_and_the_others_go_on() {
    the_one_that_differs_stops(true);
}
