//! From commands to entries: what is taken from the shards, and on the leader what becomes the next batch.
//!
//! Owns the decision when to take, when to propose and when to refuse. Never proposes before this node orders (see
//! `leading`), and never more batches than may be in flight, so that what waits gathers into one. It stays correct
//! because every command, the leader's own too, comes through its node's stream in order, and because only what was
//! never handed to anybody, or came back unproposed (see `room`), is ever refused.

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
    /// Takes what waits, orders it, or refuses it.
    pub(super) fn admit(&mut self, now: Now) -> Result<(), StopReason> {
        let now_ns = now.mono_ns;
        let shut = self.disk_space.writes_stopped_since().is_some();
        let stopping = self.control.is_asked();
        let writable = self.is_writable();
        self.session_expiry.pause(!writable || self.apply_blocked || stopping, now_ns);
        // Not where it is blocked, which may be often and for moments: nobody would ever come to the front.
        if !writable && self.session_expiry.spare() {
            self.withdraw_own();
        }
        self.act_on_full_disks(now_ns);
        let room = self.may_propose();
        // A leader lets a batch gather while others are under way; whoever forwards sends at once.
        let wanted = if shut {
            true
        } else if self.raft.alone() {
            room
        } else if self.leadership.term != 0 {
            room && self.pending.has_room()
        } else {
            self.pending.has_room()
        };
        self.admitting = wanted && !stopping && !self.apply_blocked;
        if self.admitting {
            self.session_expiry.listen(now_ns);
            self.gather();
        }
        if room && !stopping && !self.apply_blocked {
            self.propose_next(now)?;
        }
        Ok(())
    }

    /// Whether another batch may be proposed at once and there is something for it.
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
        self.rounds.arrive(&mut got.syncs);
        if self.disk_space.writes_stopped_since().is_some() {
            let refused = self.pending.withdraw();
            self.refuse(refused);
            self.rounds.withdrawn(self.pending.last_seq());
        }
    }

    /// Proposes what waits in all nodes' streams as one batch.
    fn propose_next(&mut self, now: Now) -> Result<(), StopReason> {
        // Who comes back is noted before anybody is found dead.
        let mut own = self.take_own_for_send(BATCH_COMMANDS_MAX, now.mono_ns);
        let complete = !self.pending.has_unsent();
        let outbound = &mut self.pending;
        self.session_expiry.expired(now.mono_ns, |session| {
            outbound.push(None, session, 0, Vec::new(), Op::ExpireSession);
        });
        if complete && own.len() < BATCH_COMMANDS_MAX {
            own.append(&mut self.take_own_for_send(BATCH_COMMANDS_MAX - own.len(), now.mono_ns));
        }
        if self.leader_queues.pass(self.node, &own) {
            return self.propose(own, now);
        }
        self.order_own(own, now.mono_ns);
        let taken = self.leader_queues.fill(BATCH_COMMANDS_MAX, self.batch_bytes_max);
        if taken.is_empty() { Ok(()) } else { self.propose(taken, now) }
    }

    fn take_own_for_send(&mut self, count: usize, now_ns: u64) -> Vec<Command> {
        let own = self.pending.take_for_send(count, self.batch_bytes_max);
        self.note_returning(&own, now_ns);
        own
    }

    /// Puts this node's own commands beside those of the others.
    fn order_own(&mut self, own: Vec<Command>, now_ns: u64) {
        let Some(first) = own.first().map(|command| command.seq) else { return };
        if let Err(own) = self.leader_queues.take_all(self.node, own) {
            // Its own stream is always where the leader expects it: both were set when it began to lead.
            let wanted = self.leader_queues.wanted(self.node);
            tracing::error!(
                "the leader's own command {first} is out of order, {wanted:?} is wanted; it gives up leading"
            );
            self.pending.restore(own, false);
            self.hand_over(now_ns);
        }
    }

    /// On the leader: what waits of this node's own and was not proposed was never ordered. Expiries among it lose their effect: when
    /// something can be proposed again, they are found anew.
    pub(super) fn withdraw_own(&mut self) {
        if let Some((own, next)) = self.leader_queues.withdraw(self.node) {
            self.pending.restore(own, false);
            self.pending.take_back(next);
        }
    }

    fn propose(&mut self, commands: Vec<Command>, now: Now) -> Result<(), StopReason> {
        let batch = Batch { commands, ..self.frame(now) };
        let payload = encode_batch(&batch)?;
        let bytes = payload.len() as u64;
        if bytes > self.entry_bytes_max {
            // The intake of each node bounds everything; a node with other bounds is configured differently.
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
                    self.session_expiry.ordered(command.session);
                }
                if !self.raft.alone() {
                    let node = self.node;
                    self.pending.restore(batch.commands.into_iter().filter(|c| c.node == node), true);
                }
            }
            Err(why) => {
                tracing::debug!("{} commands wait: {why}", batch.commands.len());
                self.leader_queues.untake(batch.commands);
            }
        }
        Ok(())
    }

    /// What goes into every batch beside its commands.
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

    /// Sessions to which somebody with the right password is coming back must not expire meanwhile.
    pub(super) fn note_returning(&mut self, commands: &[Command], now_ns: u64) {
        for command in commands {
            if let Op::AttachSession { timeout_ms, password, .. } = &command.op
                && let Some(session) = self.applier.machine.sessions().get(command.session)
                && password_matches(&session.password, password)
            {
                self.session_expiry.returning(command.session, *timeout_ms, now_ns);
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
