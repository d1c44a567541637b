//! The serving mode: which clients this node serves, decided at the start of every turn.
//!
//! Owns the step from the quorum's confirmation to the mode, and the closing of connections that a change
//! of mode ends.
//!
//! Never decides whether the node is fresh: the consensus core confirms that in
//! [`Freshness`](crate::freshness::Freshness).
//!
//! Correct because of the order within a turn:
//! - The confirmation is loaded before commits are taken. Every reply is then at a version that includes
//!   the confirmed index.
//! - Connections are closed before commits are taken or requests served. A node that slept, was cut off
//!   or followed a deposed leader therefore sends them nothing more.
//! - After a long turn the decision is checked again before the output leaves
//!   ([`Shard::recheck_before_output`]).
//!
//! On a group of one the confirmation is [`ALWAYS`], and no connection is closed.

use super::Shard;
use super::config::{CLOSE_LINGER_NS, READ_ONLY_AFTER_MIN_NS, START_PATIENCE_NS};
use super::connection::{Connection, ConnectionPhase};
use crate::freshness::ALWAYS;
use crate::mutation::{Mutation, mutated};
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;

/// Which clients are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum ServingMode {
    /// None: the quorum never confirmed this node, or too long ago. Four-letter words are answered.
    Closed = 1,
    /// Without a fresh confirmation, only clients that accept a read-only server.
    ReadOnly = 2,
    /// Every client, because the confirmation is fresh.
    Full = 3,
}

/// The serving mode, and what its changes depend on.
#[derive(Debug)]
pub(super) struct ServingState {
    pub mode: ServingMode,
    /// The confirmation on which this turn's mode rests, and the start of the turn.
    decided: (u64, u64),
    /// Start of the shard's first turn.
    began_ns: Option<u64>,
    /// Until when clients wait for the first confirmation; 0 once it has come.
    starting_until_ns: u64,
    /// Connections that wait for the first confirmation. Bounded by the open connections.
    early: Vec<ConnId>,
}

impl Default for ServingState {
    fn default() -> Self {
        Self {
            mode: ServingMode::Closed,
            decided: (0, 0),
            began_ns: None,
            starting_until_ns: 0,
            early: Vec::new(),
        }
    }
}

impl ServingState {
    /// Whether a connecting client waits for the node's first confirmation. The connection becomes ready
    /// again when the wait ends. `noted` belongs to the connection: it is listed once.
    pub fn may_wait(&mut self, now: Now, connection: ConnId, noted: &mut bool) -> bool {
        let waits = self.mode == ServingMode::Closed && now.mono_ns < self.starting_until_ns;
        if waits && !std::mem::replace(noted, true) {
            self.early.push(connection);
        }
        waits
    }

    /// When the wait for the first confirmation ends; `None` if no connection waits.
    pub fn wait_deadline_ns(&self) -> Option<u64> {
        (!self.early.is_empty()).then_some(self.starting_until_ns)
    }
}

impl Shard {
    /// Decides the mode of this turn, and closes the connections that it or an ended lease excludes.
    /// Called before commits are taken.
    pub(super) fn update_serving_mode(&mut self, now: Now, io: &mut Io) {
        let fresh_ns = self.freshness.fresh_ns();
        let reports_ns = self.freshness.reports_ns(self.config.id);
        self.serving.decided = (fresh_ns, now.mono_ns);
        let mode = self.mode_at(now, fresh_ns);
        if mode != self.serving.mode {
            self.change_serving_mode(now, mode, fresh_ns, io);
        }
        if mode != ServingMode::Closed || now.mono_ns >= self.serving.starting_until_ns {
            for id in std::mem::take(&mut self.serving.early) {
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

    /// Checks the decision again after a long turn, of which no output has left ([`Engine::late`]).
    /// Connections that would not be served now are aborted with their output. A confirmation that
    /// arrived meanwhile does not count, because it covers nothing that was read before it.
    ///
    /// [`Engine::late`]: paddock_transport::engine::Engine::late
    pub(super) fn recheck_before_output(&mut self, now: Now, io: &mut Io) {
        let (fresh_ns, began_ns) = self.serving.decided;
        if self.serving.mode != ServingMode::Full || fresh_ns == ALWAYS || mutated(Mutation::IgnoreLease) {
            return;
        }
        let mut late = self.leases.ended(now.mono_ns, &mut self.connections);
        self.cells().leases_run_out.add(late.len() as u64);
        if self.is_stale(now, fresh_ns) {
            let unsent = self.connections.iter().filter(|c| io.unsent(c.id) > 0);
            late.extend(unsent.map(|c| c.id.index() as u32));
        } else {
            // Connections that this turn itself closed still have output to send.
            let closed = self
                .lingering
                .iter()
                .rev()
                .map_while(|(until_ns, id)| (*until_ns == began_ns + CLOSE_LINGER_NS).then_some(*id));
            for id in closed {
                let ran_out = |c: &mut Connection| c.lease_ns != 0 && c.lease_ns <= now.mono_ns;
                if self.connections.find(id).is_some_and(ran_out) {
                    late.push(id.index() as u32);
                }
            }
        }
        for slot in late {
            self.abort(slot, io);
        }
    }

    fn mode_at(&mut self, now: Now, fresh_ns: u64) -> ServingMode {
        let began_ns = *self.serving.began_ns.get_or_insert(now.mono_ns);
        let never = fresh_ns == 0;
        self.serving.starting_until_ns = if never { began_ns.saturating_add(START_PATIENCE_NS) } else { 0 };
        if fresh_ns == ALWAYS || (!never && !self.is_stale(now, fresh_ns)) {
            return ServingMode::Full;
        }
        // A node that has just started gets some time to find its quorum before it accepts read-only clients.
        let patience_ns = READ_ONLY_AFTER_MIN_NS.max(u64::from(self.config.tick_time_ms) * 1_000_000);
        let patient = never && now.mono_ns < began_ns.saturating_add(patience_ns);
        if self.config.read_only_mode && !patient { ServingMode::ReadOnly } else { ServingMode::Closed }
    }

    fn is_stale(&self, now: Now, fresh_ns: u64) -> bool {
        now.mono_ns.saturating_sub(fresh_ns) > self.config.max_staleness_ns
    }

    /// Closes every connection with a session and logs the change. Read-only clients leave when the
    /// quorum returns, so that they reconnect as ordinary ones.
    fn change_serving_mode(&mut self, now: Now, to: ServingMode, fresh_ns: u64, io: &mut Io) {
        let from = std::mem::replace(&mut self.serving.mode, to);
        let leaving: Vec<u32> = self
            .connections
            .iter()
            .filter(|c| matches!(c.phase, ConnectionPhase::Open | ConnectionPhase::Opening))
            .map(|c| c.id.index() as u32)
            .collect();
        if from == ServingMode::Full {
            self.cells().stale_closed.add(leaving.len() as u64);
        }
        for slot in leaving {
            self.close(now, slot, io);
        }
        self.leases.forget_reports();
        if !self.mailboxes.note_mode(to) || fresh_ns == ALWAYS {
            return;
        }
        let node = self.config.node;
        match to {
            ServingMode::Full => {
                tracing::info!("node {node}: the quorum confirms this node; clients are served");
            }
            ServingMode::Closed | ServingMode::ReadOnly => {
                let served = if to == ServingMode::ReadOnly {
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
                    "node {node}: {served}: the quorum confirmed this node {since} (maxStaleness {bound_ms} ms){reason}"
                );
            }
        }
    }

    /// When the mode or a lease may change although no input comes; `None` while no connection depends on
    /// either.
    pub(super) fn serving_deadline_ns(&self, now: Now) -> Option<u64> {
        let fresh_ns = self.freshness.fresh_ns();
        if fresh_ns == ALWAYS
            || (self.sessions.is_empty() && self.outstanding == 0 && !self.leases.holds_any())
        {
            return None;
        }
        let change = match self.serving.mode {
            ServingMode::Full => fresh_ns.saturating_add(self.config.max_staleness_ns).saturating_add(1),
            // Nothing wakes a sleeping shard when the quorum returns, so it looks once per beat.
            ServingMode::ReadOnly | ServingMode::Closed => now.mono_ns + self.config.touch_beat_ns(),
        };
        Some(self.leases.deadline_ns().map_or(change, |lease| change.min(lease)))
    }
}
