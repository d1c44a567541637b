//! Nodes: their starts and ends, and the turns of their engines and disks.
//!
//! Owns no state of its own. Never looks at an engine's output: the bytes go to the network. Correct
//! because a node's applied entries are recorded before any message that reveals them is sent.

use super::super::check::{Event, Fact, NodeState};
use super::super::faults::Faults;
use super::super::model::Done;
use super::super::net::{End, Host, Parcel};
use super::super::node::{Again, Process, SimNode};
use super::{Happening, SECOND, World, hash};
use crate::consensus::{Recovered, StopReason};
use crate::mutation;

impl World {
    pub(super) fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.process.is_some() || !node.wanted {
            return;
        }
        node.life += 1;
        (node.disk_busy, node.refuses, node.paused_until) = (false, true, 0);
        let now = node.clock.now(self.now);
        mutation::set_wall_ms(now.wall_ms);
        let seed = self.rng.next();
        let node = &mut self.nodes[n];
        node.joins_with(&self.facts.model.ensemble.members);
        let started = Process::start(&node.setup, &node.disk, now, seed);
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
                mutation::take_applied();
                self.note(|| format!("node {number} does not start: {error}"));
                Faults::refused(self, n, &error.to_string());
            }
        }
    }

    pub(super) fn see_started(&mut self, number: u8, recovered: &Recovered) {
        let zxid = recovered.zxid;
        let replayed = mutation::take_applied();
        // With a replay, the checkers see the entries one by one instead of the zxid.
        self.see(&Event::Started { node: number, zxid: if replayed.is_empty() { zxid } else { 0 } });
        self.take_applied_entries(number, replayed, true);
        self.applied.insert(number, recovered.snapshot_index + recovered.entries);
    }

    pub(super) fn take_applied_entries(
        &mut self,
        number: u8,
        entries: Vec<mutation::AppliedEntry>,
        replayed: bool,
    ) {
        for entry in entries {
            self.applied.insert(number, entry.index);
            hash(&mut self.report.trace_hash, entry.digest);
            let mut done: Option<Vec<Done>> = None;
            if entry.index == self.facts.log.len() as u64 + 1 {
                match self.facts.model.apply(entry.term, &entry.payload, entry.membership) {
                    Ok(did) => done = Some(did),
                    Err(what) => return self.violate("history", what),
                }
                self.facts.log.push(Fact {
                    at_ns: self.now,
                    term: entry.term,
                    payload: entry.payload.clone(),
                    zxid: entry.zxid,
                    digest: entry.digest,
                });
                if self.facts.model.zxid != entry.zxid {
                    let wanted = self.facts.model.zxid;
                    let what = format!(
                        "after entry {} node {number} is at zxid {:x}; its log means {wanted:x}",
                        entry.index, entry.zxid
                    );
                    return self.violate("history", what);
                }
            }
            self.see(&Event::Applied { node: number, entry: &entry, replayed, done: done.as_deref() });
        }
    }

    pub(super) fn schedule(&mut self, n: usize, engine: usize, when: u64) {
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

    pub(super) fn run_engine(&mut self, n: usize, life: u64, engine: usize) {
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
        mutation::set_wall_ms(now.wall_ms);
        let wires = &self.net.wires;
        let turned =
            process.turn(engine, now, |wire| wires.get(&wire).filter(|w| !w.gone[1]).map(|w| w.listener));
        hash(
            &mut self.report.trace_hash,
            (n as u64) << 32 | (engine as u64) << 16 | turned.outputs.len() as u64,
        );
        let number = node.setup.consensus.node;
        let entries = mutation::take_applied();
        // Applied entries are recorded before any message that reveals them is sent.
        self.take_applied_entries(number, entries, false);
        for output in turned.outputs {
            self.carry_out(n, engine, output);
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

    /// Whether the ensemble survives the loss of this node's disk. It must notice another directory in its
    /// place. Every other member must run and have a vote that counts, and a majority must remain.
    pub fn can_lose_a_disk(&self, number: u8) -> bool {
        let ensemble = &self.facts.model.ensemble;
        let runs = |member: u8| {
            self.nodes.iter().any(|node| node.setup.consensus.node == member && node.process.is_some())
        };
        ensemble.knows(number)
            && !ensemble.is_changing()
            && ensemble.members.voters().count() >= 3
            && ensemble.members.members.keys().all(|member| runs(*member))
    }

    /// The nodes that vote. All nodes, before the log holds a membership.
    pub fn voters(&self) -> Vec<usize> {
        let members = &self.facts.model.ensemble.members;
        let votes = |n: &usize| {
            let number = self.nodes[*n].setup.consensus.node;
            members.members.is_empty() || members.voters().any(|voter| voter == number)
        };
        (0..self.nodes.len()).filter(votes).collect()
    }

    /// Whether nothing is wrong: every wanted node runs, and nothing hinders it.
    pub fn is_in_order(&self) -> bool {
        let ready = |node: &SimNode| {
            !node.wanted
                || node.process.is_some() && node.paused_until <= self.now && node.slow_until <= self.now
        };
        self.faults.is_none_ongoing() && self.nodes.iter().all(ready)
    }

    /// The progress of each node, and whether it can make any.
    pub(super) fn node_states(&self) -> Vec<NodeState> {
        let works = |n: usize| {
            let node = &self.nodes[n];
            let ready =
                node.process.is_some() && node.paused_until <= self.now && node.slow_until <= self.now;
            ready && !self.faults.is_full(n)
        };
        let claims = |n: &usize| self.nodes[*n].process.as_ref().is_some_and(Process::leads);
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(claims).collect();
        let leader = match leaders[..] {
            [leader] if works(leader) => Some(leader),
            _ => None,
        };
        let reaches = |n: usize, leader: usize| {
            let (here, there) = (Host::Node(n), Host::Node(leader));
            !self.net.is_cut(here, there) && !self.net.is_cut(there, here)
        };
        let members = &self.facts.model.ensemble.members;
        let states = self.nodes.iter().enumerate().map(|(n, node)| {
            let number = node.setup.consensus.node;
            let follows = node.wanted && members.get(number).is_some() && works(n);
            let leader = leader.filter(|leader| follows && reaches(n, *leader));
            NodeState {
                node: number,
                life: node.life,
                leader: leader.map(|leader| self.nodes[leader].setup.consensus.node),
                applied: self.applied.get(&number).copied().unwrap_or(0),
            }
        });
        states.collect()
    }

    /// Notes whether disks of a majority are full while nothing else is wrong.
    pub fn fill_up(&mut self, full: bool) {
        self.facts.full_since = full.then_some(self.now);
    }

    /// Schedules all engines of a node, after something changed it from outside.
    pub fn wake_all(&mut self, n: usize) {
        let engines = self.nodes[n].process.as_ref().map_or(0, |p| p.loops.len());
        for engine in 0..engines {
            self.schedule(n, engine, self.now);
        }
        self.schedule_disk(n, false);
    }

    /// Schedules the engines whose wakers were used.
    pub(super) fn wake(&mut self, n: usize) {
        let engines = self.nodes[n].process.as_ref().map_or(0, |p| p.loops.len());
        for engine in 0..engines {
            let awake = self.nodes[n].process.as_ref().is_some_and(|p| !p.loops[engine].waker.is_raised());
            if awake {
                let when = self.now + self.rng.range(500, 8_000);
                self.schedule(n, engine, when);
            }
        }
    }

    pub(super) fn schedule_disk(&mut self, n: usize, again: bool) {
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

    pub(super) fn run_disk(&mut self, n: usize, life: u64) {
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

    /// Handles a core that stopped, by itself or when asked to.
    pub(super) fn stopped(&mut self, n: usize) {
        let reason = self.nodes[n].process.as_ref().and_then(Process::stopped);
        let number = self.nodes[n].setup.consensus.node;
        self.note(|| format!("node {number} stopped: {reason:?}"));
        match &reason {
            Some(StopReason::Asked | StopReason::LogFailed(_) | StopReason::Reopen { .. }) => {}
            Some(StopReason::Removed { .. }) => {
                self.see(&Event::Removed { node: number });
                // An operator starts the node again when it is wanted, configured with the servers of that
                // time.
                self.nodes[n].wanted = self.facts.model.ensemble.wants(number);
            }
            Some(other) => self.violate("replicas", format!("node {number} stopped: {other}")),
            None => self.violate("replicas", format!("node {number} stopped without a reason")),
        }
        self.end_process(n, true);
        let when = self.now + self.rng.range(1, 500) * 1_000_000;
        self.at(when, Happening::Start(n));
    }

    /// Ends a process. `told` says that its connections are reset, as the kernel does for a dead process.
    pub fn end_process(&mut self, n: usize, told: bool) {
        let number = self.nodes[n].setup.consensus.node;
        self.see(&Event::Gone { node: number });
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
}
