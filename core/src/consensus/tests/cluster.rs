//! A cluster of Raft groups in memory: logs on model disks, messages in one bag, every choice from a seed.
//!
//! Invariants, checked at every step:
//!
//! - one leader per term;
//! - one entry per index, on every node and for ever;
//! - while the membership does not change, a committed entry is durable on a majority.

use crate::consensus::raft::log_window::Span;
use crate::consensus::raft::node::{GroupStart, RaftNode};
use crate::consensus::raft::{Effects, EntryKind, Fetch, LogEntry, Membership, MembershipStep, Role, Vote};
use crate::consensus::recovery::replay::known_committed;
use crate::peers::message::RaftMessage;
use std::collections::{BTreeMap, VecDeque};

/// The records of one drain, and the messages that wait until they are durable.
pub struct Drain {
    number: u64,
    vote: Option<Vote>,
    commit: Option<u64>,
    entries: Vec<LogEntry>,
    after: Vec<RaftMessage>,
}

/// The durable state of a node.
pub struct Disk {
    pub vote: Vote,
    pub commit: u64,
    pub entries: BTreeMap<u64, LogEntry>,
    /// Index, term and membership with which the log begins.
    pub base: (u64, u64, Membership),
}

pub struct Peer {
    pub group: Option<RaftNode>,
    pub disk: Disk,
    pub drains: VecDeque<Drain>,
    pub applied: u64,
    pub reads: Vec<(u64, u64)>,
    pub snapshots: Vec<u64>,
    fetches: Vec<Fetch>,
    pub fetched: u64,
}

pub struct Cluster {
    pub peers: BTreeMap<u64, Peer>,
    pub bag: Vec<RaftMessage>,
    pub truth: BTreeMap<u64, LogEntry>,
    leaders: BTreeMap<u64, u64>,
    /// Whether quorums are checked. Off in tests that change the membership.
    pub steady: bool,
    pub rng: u64,
    starts: u64,
}

impl Cluster {
    pub fn new(voters: &[u64], learners: &[u64], seed: u64) -> Self {
        let membership = Membership::new(voters.to_vec(), learners.to_vec());
        let mut cluster = Self {
            peers: BTreeMap::new(),
            bag: Vec::new(),
            truth: BTreeMap::new(),
            leaders: BTreeMap::new(),
            steady: true,
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            starts: 0,
        };
        for node in membership.nodes() {
            cluster.add(node, &membership);
        }
        cluster
    }

    /// A new node with an empty log.
    pub fn add(&mut self, node: u64, membership: &Membership) {
        let base = (0, 0, membership.clone());
        let disk = Disk { vote: Vote::default(), commit: 0, entries: BTreeMap::new(), base };
        self.peers.insert(
            node,
            Peer {
                group: None,
                disk,
                drains: VecDeque::new(),
                applied: 0,
                reads: Vec::new(),
                snapshots: Vec::new(),
                fetches: Vec::new(),
                fetched: 0,
            },
        );
        self.start(node);
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        (self.rng >> 11) % below
    }

    /// Recovers a node from its disk, as `open` does.
    pub fn start(&mut self, node: u64) {
        self.starts += 1;
        let seed = self.rng ^ (self.starts << 32) ^ node;
        let peer = self.peers.get_mut(&node).unwrap();
        let disk = &peer.disk;
        let (mut applied, first_term, mut membership) = disk.base.clone();
        let changes = disk.entries.values().filter(|e| e.kind == EntryKind::Membership).map(|e| e.index);
        let commit = disk.commit.max(known_committed(changes));
        let span = Span::new(applied + 1, first_term, runs(disk));
        let mut tail = Vec::new();
        for entry in disk.entries.values() {
            if tail.is_empty() && (entry.index <= commit || membership.is_sole_voter(node)) {
                if entry.kind == EntryKind::Membership {
                    membership.apply(&entry.payload).unwrap();
                }
                applied = entry.index;
            } else {
                tail.push(entry.clone());
            }
        }
        let vote = disk.vote;
        let start = GroupStart { node, membership, vote, applied, span, tail, seed, ..GroupStart::default() };
        let mut group = RaftNode::new(start).unwrap();
        if disk.base.0 > 0 {
            group.set_snapshot(disk.base.0, disk.base.1);
        }
        if group.is_sole_voter() {
            group.campaign().unwrap();
        }
        peer.applied = applied;
        peer.group = Some(group);
        self.pump(node);
    }

    /// Crashes a node. A random prefix of its unsynced records stays, and the last of them may be torn.
    pub fn crash(&mut self, node: u64) {
        let keep = self.random(4);
        let torn = self.random(3) as usize;
        let peer = self.peers.get_mut(&node).unwrap();
        peer.group = None;
        for _ in 0..keep {
            let Some(mut drain) = peer.drains.pop_front() else { break };
            drain.entries.truncate(drain.entries.len().saturating_sub(torn));
            peer.disk.write(drain);
            if torn > 0 {
                break;
            }
        }
        peer.drains.clear();
        peer.fetches.clear();
    }

    /// Makes the oldest drain of a node durable.
    pub fn persist(&mut self, node: u64) {
        let peer = self.peers.get_mut(&node).unwrap();
        let Some(group) = &mut peer.group else { return };
        let Some(mut drain) = peer.drains.pop_front() else { return };
        let number = drain.number;
        let after = std::mem::take(&mut drain.after);
        peer.disk.write(drain);
        group.persisted(number);
        self.bag.extend(after);
        self.pump(node);
    }

    pub fn tick(&mut self, node: u64) {
        if let Some(group) = &mut self.peers.get_mut(&node).unwrap().group {
            group.tick();
            self.pump(node);
        }
    }

    /// Delivers the message at position `at` of the bag; it is lost if its receiver is down.
    pub fn deliver(&mut self, at: usize) {
        let message = self.bag.swap_remove(at);
        let to = message.to;
        if let Some(group) = self.peers.get_mut(&to).and_then(|p| p.group.as_mut()) {
            group.step(message);
            self.pump(to);
        }
    }

    pub fn with<T>(&mut self, node: u64, act: impl FnOnce(&mut RaftNode) -> T) -> T {
        let done = act(self.peers.get_mut(&node).unwrap().group.as_mut().unwrap());
        self.pump(node);
        done
    }

    pub fn group(&self, node: u64) -> &RaftNode {
        self.peers[&node].group.as_ref().unwrap()
    }

    /// The leader of the newest term that has one.
    pub fn leader(&self) -> Option<u64> {
        let leads = |(node, p): (&u64, &Peer)| {
            let group = p.group.as_ref().filter(|g| g.role() == Role::Leader)?;
            Some((group.term(), *node))
        };
        self.peers.iter().filter_map(leads).max().map(|(_, node)| node)
    }

    /// Runs all nodes for some ticks, without loss or reordering.
    pub fn calm(&mut self, ticks: usize) {
        for _ in 0..ticks {
            let nodes: Vec<u64> = self.peers.keys().copied().collect();
            for &node in &nodes {
                self.tick(node);
            }
            for _ in 0..20 {
                for &node in &nodes {
                    while !self.peers[&node].drains.is_empty() && self.peers[&node].group.is_some() {
                        self.persist(node);
                    }
                    self.serve_fetches(node);
                }
                if self.bag.is_empty() {
                    break;
                }
                for message in std::mem::take(&mut self.bag) {
                    let to = message.to;
                    if let Some(group) = self.peers.get_mut(&to).and_then(|p| p.group.as_mut()) {
                        group.step(message);
                        self.pump(to);
                    }
                }
            }
        }
    }

    /// Runs all nodes until a leader can order entries.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..50 {
            self.calm(10);
            if let Some(leader) = self.leader().filter(|l| self.group(*l).is_ready_to_order()) {
                return leader;
            }
        }
        panic!("nobody leads");
    }

    /// Serves the cold reads of a node.
    pub fn serve_fetches(&mut self, node: u64) {
        loop {
            let peer = self.peers.get_mut(&node).unwrap();
            let (Some(group), Some(fetch)) = (&mut peer.group, peer.fetches.pop()) else { return };
            let mut bytes = 0;
            let found = peer.disk.entries.range(fetch.low..fetch.high).map(|(_, e)| e.clone());
            let fits = |e: &LogEntry| {
                bytes += e.payload.len() as u64;
                bytes <= fetch.bytes_max
            };
            let found = found.take_while(fits).collect();
            peer.fetched += 1;
            group.fetched(fetch, found);
            self.pump(node);
        }
    }

    fn pump(&mut self, node: u64) {
        let mut effects = Effects::default();
        loop {
            let peer = self.peers.get_mut(&node).unwrap();
            let Some(group) = &mut peer.group else { return };
            if group.role() == Role::Leader {
                let first = *self.leaders.entry(group.term()).or_insert(node);
                assert_eq!(first, node, "two leaders in term {}", group.term());
            }
            if !group.drain(&mut effects) {
                return;
            }
            let vote = effects.vote.or(effects.note);
            let commit = vote.map(|_| peer.applied);
            let entries = std::mem::take(&mut effects.entries);
            let after = std::mem::take(&mut effects.after);
            peer.drains.push_back(Drain { number: effects.number, vote, commit, entries, after });
            peer.reads.append(&mut effects.reads);
            peer.fetches.append(&mut effects.fetches);
            peer.snapshots.append(&mut effects.snapshots);
            self.bag.append(&mut effects.messages);
            for entry in std::mem::take(&mut effects.committed) {
                self.apply(node, entry);
            }
        }
    }

    fn apply(&mut self, node: u64, entry: LogEntry) {
        let index = entry.index;
        let group = self.peers[&node].group.as_ref().unwrap();
        if self.steady && !self.truth.contains_key(&index) {
            let voters = group.membership().voters;
            let holds = |v: &&u64| self.peers[v].disk.entries.get(&index) == Some(&entry);
            let durable = voters.iter().filter(holds).count();
            assert!(durable > voters.len() / 2, "entry {index} is committed and durable on {durable}");
        }
        let known = self.truth.entry(index).or_insert_with(|| entry.clone());
        assert_eq!(*known, entry, "node {node} differs at {index}");
        let peer = self.peers.get_mut(&node).unwrap();
        assert_eq!(index, peer.applied + 1);
        peer.applied = index;
        let group = peer.group.as_mut().unwrap();
        if entry.kind == EntryKind::Membership {
            let step = group.apply_membership(&entry.payload).unwrap();
            assert_eq!(step == MembershipStep::Left, entry.payload.is_empty());
        }
        group.applied(index);
    }
}

impl Disk {
    fn write(&mut self, drain: Drain) {
        if let Some(vote) = drain.vote {
            self.vote = vote;
        }
        self.commit = self.commit.max(drain.commit.unwrap_or(0));
        if let Some(first) = drain.entries.first() {
            self.entries.split_off(&first.index);
        }
        self.entries.extend(drain.entries.into_iter().map(|e| (e.index, e)));
    }
}

fn runs(disk: &Disk) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for entry in disk.entries.values() {
        if runs.last().is_none_or(|r| r.1 != entry.term) {
            runs.push((entry.index, entry.term));
        }
    }
    runs
}
