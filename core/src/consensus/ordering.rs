//! From commands to entries: what is taken from the shards, and on the leader what becomes the next batch.
//!
//! Owns the decision when to take, when to propose and when to refuse. Never proposes before this node orders (see
//! `leading`), and never more batches than may be in flight, so that what waits gathers into one. It stays correct
//! because every command, the leader's own too, comes through its node's stream in order, and because only what was
//! never handed to anybody, or came back unproposed (see `room`), is ever refused.

use super::config::*;
use super::control::StopReason;
use super::engine::Consensus;
use super::group::Group;
use super::intake::Gathered;
use crate::command::{Batch, Command, Op, SEMANTICS};
use crate::commit::{Outcome, Reply, Ticket};
use crate::session::password_matches;
use paddock_transport::engine::Now;

/// ZooKeeper's SystemError: the code of a write that was refused before it was ordered.
const SYSTEM_ERROR: i32 = -1;

impl Consensus {
    /// Takes what waits, orders it, or refuses it.
    pub(super) fn admit(&mut self, now: Now) -> Result<(), StopReason> {
        let now_ns = now.mono_ns;
        let shut = self.room.shut_since().is_some();
        let stopping = self.control.is_asked();
        let writable = self.is_writable();
        self.deadlines.pause(!writable || self.phase.blocked || stopping, now_ns);
        // Not where it is blocked, which may be often and for moments: nobody would ever come to the front.
        if !writable && self.deadlines.spare() {
            self.take_own_back();
        }
        self.yield_to_room(now_ns);
        let room = self.may_propose();
        // A leader lets a batch gather while others are under way; whoever forwards sends at once.
        let wanted = if shut {
            true
        } else if self.group.alone() {
            room
        } else if self.phase.leading != 0 {
            room && self.outbound.has_room()
        } else {
            self.outbound.has_room()
        };
        self.phase.admitting = wanted && !stopping && !self.phase.blocked;
        if self.phase.admitting {
            self.deadlines.listen(now_ns);
            self.gather();
        }
        if room && !stopping && !self.phase.blocked {
            self.propose_next(now)?;
        }
        Ok(())
    }

    /// Whether another batch may be proposed at once and there is something for it.
    pub(super) fn can_propose_more(&self) -> bool {
        let waiting = self.streams.has_more() || self.outbound.has_unsent();
        waiting && self.may_propose() && !self.phase.blocked && !self.control.is_asked()
    }

    pub(super) fn may_propose(&self) -> bool {
        self.phase.in_flight < self.batches_in_flight && self.is_writable()
    }

    pub(super) fn is_writable(&self) -> bool {
        let able = self.phase.full_since.is_none() && self.room.shut_since().is_none();
        able && !self.journal.is_refusing() && self.phase.leading != 0 && self.group.is_ready_to_order()
    }

    fn gather(&mut self) {
        let mut got = Gathered::default();
        self.intake.gather(&mut got, &mut self.outbound);
        self.outbound.disarm(std::mem::take(&mut got.withdrawn));
        for (shard, sessions, at_ns) in &got.touched {
            if self.group.alone() {
                self.deadlines.touched(sessions, *at_ns);
            } else {
                self.rounds.report(*shard, *at_ns, sessions);
            }
        }
        for shard in got.relieved.drain(..) {
            self.shards.marked[shard] = true;
        }
        self.phase.wants_to_lead |= got.lead;
        self.refuse(got.oversized.drain(..));
        self.rounds.arrive(&mut got.syncs);
        if self.room.shut_since().is_some() {
            let refused = self.outbound.withdraw();
            self.refuse(refused);
            self.rounds.withdrawn(self.outbound.last_seq());
        }
    }

    /// Proposes what waits in all nodes' streams as one batch.
    fn propose_next(&mut self, now: Now) -> Result<(), StopReason> {
        // Who comes back is noted before anybody is found dead.
        let mut own = self.lend_own(BATCH_COMMANDS_MAX, now.mono_ns);
        let complete = !self.outbound.has_unsent();
        let outbound = &mut self.outbound;
        self.deadlines.expired(now.mono_ns, |session| {
            outbound.push(None, session, 0, Vec::new(), Op::ExpireSession);
        });
        if complete && own.len() < BATCH_COMMANDS_MAX {
            own.append(&mut self.lend_own(BATCH_COMMANDS_MAX - own.len(), now.mono_ns));
        }
        if self.streams.pass(self.node, &own) {
            return self.propose(own, now);
        }
        self.take_own(own, now.mono_ns);
        let taken = self.streams.fill(BATCH_COMMANDS_MAX, self.batch_bytes_max);
        if taken.is_empty() { Ok(()) } else { self.propose(taken, now) }
    }

    fn lend_own(&mut self, count: usize, now_ns: u64) -> Vec<Command> {
        let own = self.outbound.lend(count, self.batch_bytes_max);
        self.note_returning(&own, now_ns);
        own
    }

    /// Puts this node's own commands beside those of the others.
    fn take_own(&mut self, own: Vec<Command>, now_ns: u64) {
        let Some(first) = own.first().map(|command| command.seq) else { return };
        if let Err(own) = self.streams.take_all(self.node, own) {
            // Its own stream is always where the leader expects it: both were set when it began to lead.
            let wanted = self.streams.wanted(self.node);
            tracing::error!(
                "the leader's own command {first} is out of order, {wanted:?} is wanted; it gives up leading"
            );
            self.outbound.give_back(own, false);
            self.hand_over(now_ns);
        }
    }

    /// On the leader: what waits of this node's own and was not proposed was never ordered. Expiries among it lose their effect: when
    /// something can be proposed again, they are found anew.
    pub(super) fn take_own_back(&mut self) {
        if let Some((own, next)) = self.streams.withdraw(self.node) {
            self.outbound.give_back(own, false);
            self.outbound.take_back(next);
        }
    }

    fn propose(&mut self, commands: Vec<Command>, now: Now) -> Result<(), StopReason> {
        let batch = Batch { commands, ..self.frame(now) };
        let payload = encode(&batch)?;
        let bytes = payload.len() as u64;
        if bytes > self.entry_bytes_max {
            // The intake of each node bounds everything; a node with other bounds is configured differently.
            let why = format!(
                "{bytes} bytes of commands fit no entry of the log; do all nodes have the same limits?"
            );
            return Err(StopReason::LogFailed(why));
        }
        match self.group.propose(payload) {
            Ok(()) => {
                self.phase.in_flight += 1;
                self.feed.proposed(bytes, now.mono_ns);
                self.stats.note_proposal(bytes);
                for command in batch.commands.iter().filter(|c| c.op == Op::ExpireSession) {
                    self.deadlines.ordered(command.session);
                }
                if !self.group.alone() {
                    let node = self.node;
                    self.outbound.give_back(batch.commands.into_iter().filter(|c| c.node == node), true);
                }
            }
            Err(why) => {
                tracing::debug!("{} commands wait: {why}", batch.commands.len());
                self.streams.untake(batch.commands);
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
                self.deadlines.returning(command.session, *timeout_ms, now_ns);
            }
        }
    }

    fn refuse(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        let zxid = self.applier.machine.zxid();
        let outcome = Outcome::NotOrdered(SYSTEM_ERROR);
        let replies = tickets.into_iter().map(|ticket| Reply { ticket, zxid, outcome: outcome.clone() });
        self.phase.extra.extend(replies);
    }
}

/// A batch as it goes into the log.
pub(super) fn encode(batch: &Batch) -> Result<Vec<u8>, StopReason> {
    rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(batch, Vec::new())
        .map_err(|e| StopReason::LogFailed(format!("a batch cannot be written down: {e}")))
}
