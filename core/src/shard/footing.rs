//! On what footing clients are served: judged anew at the top of every turn.
//!
//! Owns the step from what the quorum confirmed to who may be here: everybody, read-only clients, or nobody. Never decides
//! what is fresh: the consensus core confirms. It stays correct because the confirmation is loaded before commits are
//! taken, so whoever is served by it is served at a version that contains what it confirms; and because connections are
//! closed before anything is served or taken in that turn, so a node that slept, was cut off or followed a deposed leader
//! says nothing more to anybody. A turn that takes long is judged again before its output leaves ([`Shard::look_again`]). On a group of one the confirmation is [`ALWAYS`] and nothing of this is done.

use super::Shard;
use super::config::{CLOSE_LINGER_NS, READ_ONLY_AFTER_MIN_NS, START_PATIENCE_NS};
use super::connection::{Connection, Phase};
use crate::freshness::ALWAYS;
use crate::mutation::{Mutation, mutated};
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;

/// Who is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Footing {
    /// Nobody: the quorum has not confirmed this node, or too long ago. Four-letter words are answered.
    Closed = 1,
    /// As before, but clients that accept a read-only server get one.
    ReadOnly = 2,
    /// Everybody.
    Full = 3,
}

/// What the judgement remembers.
#[derive(Debug)]
pub(super) struct Judge {
    pub footing: Footing,
    /// By what confirmation this turn was judged, and when.
    judged: (u64, u64),
    /// When the first turn was.
    began_ns: Option<u64>,
    /// Until when clients wait for the first confirmation; 0: it came, or none needs to.
    starting_until_ns: u64,
    /// Those who wait for it. Bounded by the connections.
    early: Vec<ConnId>,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            footing: Footing::Closed,
            judged: (0, 0),
            began_ns: None,
            starting_until_ns: 0,
            early: Vec::new(),
        }
    }
}

impl Judge {
    /// Whether a client that came now may wait for the node's first confirmation; it is looked at again then.
    pub fn lets_wait(&mut self, now: Now, connection: ConnId, noted: &mut bool) -> bool {
        let waits = self.footing == Footing::Closed && now.mono_ns < self.starting_until_ns;
        if waits && !std::mem::replace(noted, true) {
            self.early.push(connection);
        }
        waits
    }

    /// When those who wait are looked at again.
    pub fn deadline_ns(&self) -> Option<u64> {
        (!self.early.is_empty()).then_some(self.starting_until_ns)
    }
}

impl Shard {
    /// Closes those who may not be served any more. Before commits are taken.
    pub(super) fn find_footing(&mut self, now: Now, io: &mut Io) {
        let fresh_ns = self.freshness.fresh_ns();
        let reports_ns = self.freshness.reports_ns(self.config.id);
        self.judge.judged = (fresh_ns, now.mono_ns);
        let found = self.footing_at(now, fresh_ns);
        if found != self.judge.footing {
            self.step_over(now, found, fresh_ns, io);
        }
        if found != Footing::Closed || now.mono_ns >= self.judge.starting_until_ns {
            for id in std::mem::take(&mut self.judge.early) {
                if let Some(connection) = self.connections.find(id) {
                    Self::mark_ready(&mut self.ready, connection);
                }
            }
        }
        if fresh_ns == ALWAYS {
            self.leases.rest(now.mono_ns);
            return;
        }
        self.leases.begin(&mut self.connections);
        self.leases.confirmed(reports_ns, &mut self.connections);
        let ended = self.leases.ended(now.mono_ns, &mut self.connections);
        for slot in ended.into_iter().filter(|_| !mutated(Mutation::IgnoreLease)) {
            self.cells().leases_run_out.add(1);
            self.close(now, slot, io);
        }
    }

    /// The turn took long, and none of its output has left ([`Engine::late`]): nobody gets any of it who would not have been
    /// served now. What was confirmed meanwhile says nothing about what was read before, and does not count.
    ///
    /// [`Engine::late`]: paddock_transport::engine::Engine::late
    pub(super) fn look_again(&mut self, now: Now, io: &mut Io) {
        let (fresh_ns, judged_ns) = self.judge.judged;
        if self.judge.footing != Footing::Full || fresh_ns == ALWAYS || mutated(Mutation::IgnoreLease) {
            return;
        }
        let mut late = self.leases.ended(now.mono_ns, &mut self.connections);
        self.cells().leases_run_out.add(late.len() as u64);
        if self.is_stale(now, fresh_ns) {
            let unsent = self.connections.iter().filter(|c| io.unsent(c.id) > 0);
            late.extend(unsent.map(|c| c.id.index() as u32));
        } else {
            // Those that this very turn closes, with its output before the end.
            let closed = self
                .lingering
                .iter()
                .rev()
                .map_while(|(until_ns, id)| (*until_ns == judged_ns + CLOSE_LINGER_NS).then_some(*id));
            for id in closed {
                let ran_out = |c: &mut Connection| c.lease_ns != 0 && c.lease_ns <= now.mono_ns;
                if self.connections.find(id).is_some_and(ran_out) {
                    late.push(id.index() as u32);
                }
            }
        }
        for slot in late {
            self.cut(slot, io);
        }
    }

    fn footing_at(&mut self, now: Now, fresh_ns: u64) -> Footing {
        let began_ns = *self.judge.began_ns.get_or_insert(now.mono_ns);
        let never = fresh_ns == 0;
        self.judge.starting_until_ns = if never { began_ns.saturating_add(START_PATIENCE_NS) } else { 0 };
        if fresh_ns == ALWAYS || (!never && !self.is_stale(now, fresh_ns)) {
            return Footing::Full;
        }
        // A node that has just started gets some time to find its quorum before it takes read-only clients.
        let patience_ns = READ_ONLY_AFTER_MIN_NS.max(u64::from(self.config.tick_time_ms) * 1_000_000);
        let patient = never && now.mono_ns < began_ns.saturating_add(patience_ns);
        if self.config.read_only_mode && !patient { Footing::ReadOnly } else { Footing::Closed }
    }

    fn is_stale(&self, now: Now, fresh_ns: u64) -> bool {
        now.mono_ns.saturating_sub(fresh_ns) > self.config.max_staleness_ns
    }

    /// All who were served on the old footing leave: ordinary clients when it ends, and read-only ones when the quorum is
    /// back, so that they come back as ordinary ones.
    fn step_over(&mut self, now: Now, to: Footing, fresh_ns: u64, io: &mut Io) {
        let from = std::mem::replace(&mut self.judge.footing, to);
        let leaving: Vec<u32> = self
            .connections
            .iter()
            .filter(|c| matches!(c.phase, Phase::Open | Phase::Opening))
            .map(|c| c.id.index() as u32)
            .collect();
        if from == Footing::Full {
            self.cells().stale_closed.add(leaving.len() as u64);
        }
        for slot in leaving {
            self.close(now, slot, io);
        }
        self.leases.forget_reports();
        if !self.neighbours.announce(to as u8) || fresh_ns == ALWAYS {
            return;
        }
        let node = self.config.node;
        match to {
            Footing::Full => tracing::info!("node {node}: the quorum confirms this node; clients are served"),
            Footing::Closed | Footing::ReadOnly => {
                let whom = if to == Footing::ReadOnly {
                    "only read-only clients are served"
                } else {
                    "no client is served"
                };
                let since = match fresh_ns {
                    0 => "not since the start".to_owned(),
                    at => format!("last {} ms ago", now.mono_ns.saturating_sub(at) / 1_000_000),
                };
                let bound_ms = self.config.max_staleness_ns / 1_000_000;
                let reason = match self.stats.write_block() {
                    why if why.is_empty() => why,
                    why => format!(": {why}"),
                };
                tracing::warn!(
                    "node {node}: {whom}: the quorum confirmed this node {since} (maxStaleness {bound_ms} ms){reason}"
                );
            }
        }
    }

    /// When the footing or a lease may change although nothing comes; `None` while no connection depends on it.
    pub(super) fn footing_deadline(&self, now: Now) -> Option<u64> {
        let fresh_ns = self.freshness.fresh_ns();
        if fresh_ns == ALWAYS
            || (self.sessions.is_empty() && self.outstanding == 0 && !self.leases.holds_any())
        {
            return None;
        }
        let change = match self.judge.footing {
            Footing::Full => fresh_ns.saturating_add(self.config.max_staleness_ns).saturating_add(1),
            // Read-only clients leave soon after the quorum is back; nobody tells a sleeping shard.
            Footing::ReadOnly | Footing::Closed => now.mono_ns + self.config.touch_beat_ns(),
        };
        Some(self.leases.deadline_ns().map_or(change, |lease| change.min(lease)))
    }
}
