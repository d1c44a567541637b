//! From submissions to entries: what is taken from the shards, and on the leader what becomes the next
//! batch.
//!
//! Owns the decision when to take, when to propose and when to refuse.
//!
//! Never proposes before this node orders (see `leadership`), and never more batches than may be in flight.
//! Commands that wait gather into one batch.
//!
//! Correct because every command, the leader's own too, passes through its node's stream in order. A
//! command is refused only if it was never sent, or was returned unproposed (see `disk_space`).

use super::Consensus;
use crate::command::{Batch, Command, Op, SEMANTICS};
use crate::commit::{Outcome, Reply, Ticket};
use crate::consensus::commands::encode_batch;
use crate::consensus::commands::submissions::Gathered;
use crate::consensus::config::*;
use crate::consensus::control::StopReason;
use crate::session::password_matches;
use paddock_transport::engine::Now;

/// ZooKeeper's SystemError: the code of a write that was refused before it was ordered.
const SYSTEM_ERROR: i32 = -1;

impl Consensus {
    /// Takes submissions, and proposes or refuses their commands.
    pub(super) fn admit(&mut self, now: Now) -> Result<(), StopReason> {
        let now_ns = now.mono_ns;
        let writes_stopped = self.disk_space.writes_stopped_since().is_some();
        let stopping = self.control.is_asked();
        let writable = self.is_writable();
        self.session_expiry.pause(!writable || self.apply_blocked || stopping, now_ns);
        // Not while apply is blocked, which can be frequent and short. Requeued at the back each time, a
        // session would never reach the front.
        if !writable && self.session_expiry.requeue_unlogged() {
            self.withdraw_own();
        }
        self.act_on_full_disks(now_ns);
        let may_propose = self.may_propose();
        // A leader lets a batch gather while others are in flight. A follower forwards at once.
        let wanted = if writes_stopped {
            true
        } else if self.raft.alone() {
            may_propose
        } else if self.leadership.term != 0 {
            may_propose && self.pending.has_room()
        } else {
            self.pending.has_room()
        };
        self.admitting = wanted && !stopping && !self.apply_blocked;
        if self.admitting {
            self.session_expiry.note_rings_read(now_ns);
            self.gather();
        }
        if may_propose && !stopping && !self.apply_blocked {
            self.propose_next(now)?;
        }
        Ok(())
    }

    /// Whether another batch may be proposed at once and commands for it exist.
    pub(super) fn can_propose_more(&self) -> bool {
        let waiting = self.leader_queues.has_more() || self.pending.has_unsent();
        waiting && self.may_propose() && !self.apply_blocked && !self.control.is_asked()
    }

    pub(super) fn may_propose(&self) -> bool {
        self.leadership.in_flight < self.batches_in_flight && self.is_writable()
    }

    pub(super) fn is_writable(&self) -> bool {
        let able =
            self.disk_space.own_full_since.is_none() && self.disk_space.writes_stopped_since().is_none();
        able && !self.journal.is_refusing() && self.leadership.term != 0 && self.raft.is_ready_to_order()
    }

    fn gather(&mut self) {
        let mut got = Gathered::default();
        self.submissions.gather(&mut got, &mut self.pending);
        self.pending.disarm(std::mem::take(&mut got.withdrawn));
        for (shard, sessions, at_ns) in &got.touched {
            if self.raft.alone() {
                self.session_expiry.touched(sessions, *at_ns);
            } else {
                self.rounds.report(*shard, *at_ns, sessions);
            }
        }
        for shard in got.relieved.drain(..) {
            self.shards.marked[shard] = true;
        }
        self.leadership.wanted |= got.lead;
        self.refuse(got.oversized.drain(..));
        self.rounds.add_syncs(&mut got.syncs);
        if self.disk_space.writes_stopped_since().is_some() {
            let refused = self.pending.withdraw();
            self.refuse(refused);
            self.rounds.withdrawn(self.pending.last_seq());
        }
    }

    /// Proposes the waiting commands of all nodes' streams as one batch.
    fn propose_next(&mut self, now: Now) -> Result<(), StopReason> {
        // Reattaching sessions are noted before any session expires.
        let mut own = self.take_own_for_send(BATCH_COMMANDS_MAX, now.mono_ns);
        let complete = !self.pending.has_unsent();
        let pending = &mut self.pending;
        self.session_expiry.expired(now.mono_ns, |session| {
            pending.push(None, session, 0, Vec::new(), Op::ExpireSession);
        });
        if complete && own.len() < BATCH_COMMANDS_MAX {
            own.append(&mut self.take_own_for_send(BATCH_COMMANDS_MAX - own.len(), now.mono_ns));
        }
        if self.leader_queues.pass(self.node, &own) {
            return self.propose(own, now);
        }
        self.queue_own(own, now.mono_ns);
        let taken = self.leader_queues.fill(BATCH_COMMANDS_MAX, self.batch_bytes_max);
        if taken.is_empty() { Ok(()) } else { self.propose(taken, now) }
    }

    fn take_own_for_send(&mut self, count: usize, now_ns: u64) -> Vec<Command> {
        let own = self.pending.take_for_send(count, self.batch_bytes_max);
        self.note_reattaching(&own, now_ns);
        own
    }

    /// Puts this node's own commands into its leader queue.
    fn queue_own(&mut self, own: Vec<Command>, now_ns: u64) {
        let Some(first) = own.first().map(|command| command.seq) else { return };
        if let Err(own) = self.leader_queues.take_all(self.node, own) {
            // The own stream is always where the leader expects it: both were set when this node began to
            // lead.
            let wanted = self.leader_queues.wanted(self.node);
            tracing::error!(
                "the leader's own command {first} is out of order, {wanted:?} is expected; it offers leadership"
            );
            self.pending.restore(own, false);
            self.offer_leadership(now_ns);
        }
    }

    /// On the leader: takes back this node's own commands that were not proposed, hence never ordered.
    /// Expiries among them lose their effect, and are found again when proposing is possible.
    pub(super) fn withdraw_own(&mut self) {
        if let Some((own, next)) = self.leader_queues.withdraw(self.node) {
            self.pending.restore(own, false);
            self.pending.accept_return(next);
        }
    }

    fn propose(&mut self, commands: Vec<Command>, now: Now) -> Result<(), StopReason> {
        let batch = Batch { commands, ..self.frame(now) };
        let payload = encode_batch(&batch)?;
        let bytes = payload.len() as u64;
        if bytes > self.entry_bytes_max {
            // The submission queue of each node bounds its commands. A larger batch means that a node has
            // other limits.
            let why = format!(
                "{bytes} bytes of commands fit no entry of the log; do all nodes have the same limits?"
            );
            return Err(StopReason::LogFailed(why));
        }
        match self.raft.propose(payload) {
            Ok(()) => {
                self.leadership.in_flight += 1;
                self.throttle.proposed(bytes, now.mono_ns);
                self.stats.note_proposal(bytes);
                for command in batch.commands.iter().filter(|c| c.op == Op::ExpireSession) {
                    self.session_expiry.expiry_logged(command.session);
                }
                if !self.raft.alone() {
                    let node = self.node;
                    self.pending.restore(batch.commands.into_iter().filter(|c| c.node == node), true);
                }
            }
            Err(why) => {
                tracing::debug!("{} commands wait: {why}", batch.commands.len());
                self.leader_queues.requeue(batch.commands);
            }
        }
        Ok(())
    }

    /// A batch without commands, with time, policy bits and the applied state.
    pub(super) fn frame(&self, now: Now) -> Batch {
        let (applied_zxid, applied_digest) = self.applier.machine.stamp();
        Batch {
            semantics: SEMANTICS,
            policy: self.policy,
            time_ms: now.wall_ms,
            applied_zxid,
            applied_digest,
            commands: Vec::new(),
        }
    }

    /// Sessions to which a client with the right password reattaches must not expire meanwhile.
    pub(super) fn note_reattaching(&mut self, commands: &[Command], now_ns: u64) {
        for command in commands {
            if let Op::AttachSession { timeout_ms, password, .. } = &command.op
                && let Some(session) = self.applier.machine.sessions().get(command.session)
                && password_matches(&session.password, password)
            {
                self.session_expiry.reattaching(command.session, *timeout_ms, now_ns);
            }
        }
    }

    fn refuse(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        let zxid = self.applier.machine.zxid();
        let outcome = Outcome::NotOrdered(SYSTEM_ERROR);
        let replies = tickets.into_iter().map(|ticket| Reply { ticket, zxid, outcome: outcome.clone() });
        self.replies.extend(replies);
    }
}
