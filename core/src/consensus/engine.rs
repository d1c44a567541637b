//! The engine of the consensus core: one turn after the other.
//!
//! Owns the order in which things happen in a turn, and nothing else: what is durable is told to the group, what the
//! group gives out goes to the log and to apply, what waits in the shards' rings becomes the next batch, who may be
//! answered is answered, and whoever needs it is woken. Never waits for the disk or a shard: a full commit ring or
//! too much retired memory pauses apply and admission, while drains, appends and ticks go on. It stays correct because
//! each part keeps its own promise (see their modules) and only this one connects them.
//!
//! On a full disk writes are answered with SystemError (-1), which says that nothing happened. Closing the connection
//! instead would take the client's reads away too: coming back to a session needs the log.

use super::apply::Applier;
use super::checkpoints::Checkpoints;
use super::config::*;
use super::control::{Control, StopReason};
use super::deadlines::Deadlines;
use super::group::{Effects, EntryKind, Group, LogEntry, Role};
use super::intake::{Gathered, Intake};
use super::journal::Journal;
use super::raft_group::{RaftGroup, TICK_NS};
use super::shards::Shards;
use super::syncs::Syncs;
use crate::command::{Batch, Command, Op, SEMANTICS};
use crate::commit::{Outcome, Reply, Ticket};
use crate::session::password_matches;
use crate::stats::{Mode, Stats};
use paddock_storage::{DataDir, State};
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use std::collections::VecDeque;
use std::sync::Arc;

/// ZooKeeper's SystemError: the code of a write that was refused before it was ordered.
const SYSTEM_ERROR: i32 = -1;

/// See the module doc.
pub struct Consensus {
    pub(super) policy: u32,
    pub(super) batches_in_flight: usize,
    pub(super) entry_bytes_max: u64,
    pub(super) group: RaftGroup,
    pub(super) effects: Effects,
    pub(super) journal: Journal,
    /// Committed, not applied.
    pub(super) backlog: VecDeque<LogEntry>,
    pub(super) applier: Applier,
    pub(super) intake: Intake,
    pub(super) syncs: Syncs,
    pub(super) deadlines: Deadlines,
    pub(super) shards: Shards,
    pub(super) checkpoints: Checkpoints,
    pub(super) control: Arc<Control>,
    pub(super) stats: Arc<Stats>,
    pub(super) phase: Phase,
    /// Keeps the data directory locked. Last: the log's thread ends before.
    pub(super) _dir: DataDir,
}

/// What changes from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// Batches proposed and not applied.
    in_flight: usize,
    /// Replies that belong to no entry.
    extra: Vec<Reply>,
    /// Apply waits for readers.
    blocked: bool,
    /// What waits in the rings may be taken.
    admitting: bool,
    /// Since when the log has no room.
    full_since: Option<u64>,
    /// Since when a stop is under way.
    stopping_since: Option<u64>,
    next_tick_ns: u64,
}

impl Consensus {
    fn work(&mut self, now: Now) -> Result<Next, StopReason> {
        let now_ns = now.mono_ns;
        if self.deadlines.turn(now_ns, &self.applier.machine) {
            self.shards.forgive();
        }
        self.tick(now_ns);
        self.look_at_log(now_ns)?;
        self.drain();
        self.apply(now_ns)?;
        self.admit(now);
        if let Some(round) = self.syncs.begin(now_ns) {
            self.group.read_index(round);
        }
        self.drain();
        self.answer();
        self.checkpoints.turn(now_ns, &mut self.applier, &mut self.journal);
        self.tell();
        if self.phase.blocked {
            self.shards.mark_all();
        }
        self.shards.wake(self.applier.ring(), now_ns);
        if let Some(stuck) = self.shards.stuck(self.applier.ring(), now_ns) {
            tracing::error!(
                "shard {} has not moved for {} s with {} commits waiting: the process is aborted, since clients there \
                 would wait for ever. Nothing acknowledged is lost; please report it with a stack of all threads",
                stuck.shard,
                SHARD_STUCK_NS / 1_000_000_000,
                stuck.lag
            );
            std::process::abort();
        }
        if self.may_stop(now_ns) {
            return Err(StopReason::Asked);
        }
        let next = self.next(now_ns);
        self.deadlines.expect(match next {
            Next::Again => Some(now_ns),
            Next::Sleep { deadline_ns } => deadline_ns,
            Next::Stop => None,
        });
        Ok(next)
    }

    /// A group of one needs no clock.
    fn tick(&mut self, now_ns: u64) {
        if !self.group.alone() && now_ns >= self.phase.next_tick_ns {
            self.group.tick();
            self.phase.next_tick_ns = now_ns + TICK_NS;
        }
    }

    fn look_at_log(&mut self, now_ns: u64) -> Result<(), StopReason> {
        if let Some(number) = self.journal.poll() {
            self.group.persisted(number);
        }
        match self.journal.look() {
            State::Running => {
                if self.phase.full_since.take().is_some() {
                    tracing::info!("the log has room again: writes go on");
                }
            }
            State::WritesStopped { reason } => {
                if self.phase.full_since.is_none() {
                    tracing::error!(
                        "writes are refused: {reason}. Reads go on. Free space on the disk of the data directory; \
                         writes go on by themselves"
                    );
                    self.phase.full_since = Some(now_ns);
                }
            }
            State::Failed { reason } => return Err(StopReason::LogFailed(reason.to_string())),
        }
        Ok(())
    }

    /// Takes everything that the group gives out.
    fn drain(&mut self) {
        while self.group.drain(&mut self.effects) {
            self.journal.append(&mut self.effects, self.applier.index);
            self.backlog.extend(self.effects.committed.drain(..));
            for (round, index) in self.effects.reads.drain(..) {
                self.syncs.confirm(round, index);
            }
            // What needed no record is durable already.
            if let Some(number) = self.journal.poll() {
                self.group.persisted(number);
            }
        }
    }

    /// Applies what is committed, as far as readers follow.
    fn apply(&mut self, now_ns: u64) -> Result<(), StopReason> {
        for _ in 0..APPLY_PER_TURN_MAX {
            self.phase.blocked = self.applier.is_blocked(self.checkpoints.held_bytes());
            if self.phase.blocked {
                return Ok(());
            }
            let Some(entry) = self.backlog.pop_front() else { return Ok(()) };
            let applied = self.applier.apply(&entry)?;
            self.deadlines.applied(applied, now_ns);
            if entry.kind == EntryKind::Batch && !entry.payload.is_empty() {
                self.phase.in_flight = self.phase.in_flight.saturating_sub(1);
                self.applier.publish(&mut self.intake, &mut self.phase.extra, &mut self.shards.marked);
            }
            self.group.applied(entry.index);
            self.journal.applied(entry.index);
        }
        Ok(())
    }

    /// Takes what waits, orders it, or refuses it.
    fn admit(&mut self, now: Now) {
        let now_ns = now.mono_ns;
        let full = self.phase.full_since.is_some();
        let writable = !full && !self.journal.is_refusing() && self.group.role() == Role::Leader;
        let stopping = self.control.is_asked();
        self.deadlines.pause(!writable || self.phase.blocked || stopping, now_ns);
        if full && self.phase.full_since.is_some_and(|since| now_ns.saturating_sub(since) >= UNDECIDED_NS) {
            let zxid = self.applier.machine.zxid();
            let dropped = self.intake.abandon().map(|ticket| Reply { ticket, zxid, outcome: Outcome::Drop });
            self.phase.extra.extend(dropped);
        }
        let room = self.phase.in_flight < self.batches_in_flight && writable;
        self.phase.admitting = !stopping && !self.phase.blocked && (room || full);
        if !self.phase.admitting {
            return;
        }

        let mut got = Gathered::default();
        self.intake.gather(&mut got);
        for (sessions, at_ns) in &got.touched {
            self.deadlines.touched(sessions, *at_ns);
        }
        for shard in got.relieved.drain(..) {
            self.shards.marked[shard] = true;
        }
        self.refuse(got.oversized.drain(..));
        if full {
            let refused = self.intake.withdraw(&got.commands);
            self.refuse(refused);
        } else {
            self.note_returning(&got.commands, now_ns);
            let mut commands = std::mem::take(&mut got.commands);
            let intake = &mut self.intake;
            self.deadlines.expired(now_ns, |session| commands.push(intake.own(session, Op::ExpireSession)));
            if !commands.is_empty() {
                self.propose(commands, now);
            }
        }
        let last = self.intake.last_seq();
        for (_, behind) in &mut got.syncs {
            *behind = (*behind).min(last);
        }
        self.syncs.arrive(&mut got.syncs);
    }

    fn propose(&mut self, commands: Vec<Command>, now: Now) {
        let (applied_zxid, applied_digest) = self.applier.machine.stamp();
        let batch = Batch {
            semantics: SEMANTICS,
            policy: self.policy,
            time_ms: now.wall_ms,
            applied_zxid,
            applied_digest,
            commands,
        };
        let done = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(&batch, Vec::new())
            .map_err(|e| e.to_string())
            .and_then(|payload| match payload.len() as u64 {
                // Identities beyond all reason: the intake bounds everything else.
                bytes if bytes > self.entry_bytes_max => {
                    Err(format!("{bytes} bytes fit no entry of the log"))
                }
                _ => Ok(payload),
            })
            .and_then(|payload| self.group.propose(payload).map_err(|e| e.to_string()));
        match done {
            Ok(()) => self.phase.in_flight += 1,
            Err(why) => {
                tracing::warn!("{} commands were not ordered: {why}", batch.commands.len());
                let refused = self.intake.withdraw(&batch.commands);
                for command in &batch.commands {
                    if let Op::ExpireSession = command.op {
                        self.deadlines.not_proposed(command.session);
                    }
                }
                self.refuse(refused);
            }
        }
    }

    /// Sessions to which somebody with the right password is coming back must not expire meanwhile.
    fn note_returning(&mut self, commands: &[Command], now_ns: u64) {
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

    /// Publishes the replies that belong to no entry.
    fn answer(&mut self) {
        let zxid = self.applier.machine.zxid();
        let synced = self.syncs.ready(self.applier.index, self.intake.resolved());
        self.phase.extra.extend(synced.map(|ticket| Reply { ticket, zxid, outcome: Outcome::Synced }));
        if self.phase.extra.is_empty() {
            return;
        }
        if self.applier.is_blocked(self.checkpoints.held_bytes()) {
            self.phase.blocked = true;
        } else {
            self.applier.publish(&mut self.intake, &mut self.phase.extra, &mut self.shards.marked);
        }
    }

    /// Tells the counters.
    pub(super) fn tell(&self) {
        let (machine, tree) = (&self.applier.machine, &self.applier.tree);
        self.stats.set_zxid(machine.zxid());
        let node = self.stats.node();
        node.znodes.set(tree.node_count());
        node.ephemerals.set(tree.ephemeral_count());
        node.data_bytes.set(tree.approximate_data_bytes());
        node.global_sessions.set(machine.sessions().len() as u64);
        self.stats.set_mode(match (self.group.alone(), self.group.role()) {
            (true, Role::Leader) => Mode::Standalone,
            (false, Role::Leader) => Mode::Leader,
            (false, Role::Follower) => Mode::Follower,
            _ => Mode::NotServing,
        });
    }

    /// A clean stop waits until everything proposed is decided and told, within a bound.
    fn may_stop(&mut self, now_ns: u64) -> bool {
        if !self.control.is_asked() {
            return false;
        }
        let since = *self.phase.stopping_since.get_or_insert(now_ns);
        let settled = !self.journal.is_behind() && self.backlog.is_empty() && self.phase.extra.is_empty();
        settled || now_ns.saturating_sub(since) >= STOP_PATIENCE_NS
    }

    fn next(&self, now_ns: u64) -> Next {
        // What became durable late in this turn stands in the backlog already.
        let more = !self.backlog.is_empty() && !self.phase.blocked;
        if more || (self.phase.admitting && self.has_room() && self.intake.has_more()) {
            return Next::Again;
        }
        let undecided = self.phase.full_since.filter(|_| self.intake.undecided() > 0);
        let deadlines = [
            self.phase.blocked.then_some(now_ns + PAUSED_POLL_NS),
            self.has_room().then(|| self.deadlines.next_ns()).flatten(),
            self.syncs.deadline_ns(),
            self.shards.deadline_ns(),
            self.checkpoints.deadline_ns(),
            self.phase.stopping_since.map(|since| since + STOP_PATIENCE_NS),
            undecided.map(|since| since + UNDECIDED_NS).filter(|&at| at > now_ns),
            (!self.group.alone()).then_some(self.phase.next_tick_ns),
        ];
        Next::Sleep { deadline_ns: deadlines.into_iter().flatten().min() }
    }

    #[cfg(test)]
    pub(super) fn phase_is_full(&self) -> bool {
        self.phase.full_since.is_some()
    }

    #[cfg(test)]
    pub(super) fn is_blocked(&self) -> bool {
        self.phase.blocked
    }

    fn has_room(&self) -> bool {
        self.phase.in_flight < self.batches_in_flight || self.phase.full_since.is_some()
    }
}

/// What threads do elsewhere, for a node without any ([`super::ConsensusConfig::inline`]).
impl Consensus {
    /// Whether [`Consensus::disk_turn`] has something to write.
    pub fn has_disk_work(&self) -> bool {
        self.journal.is_behind() || self.checkpoints.is_writing()
    }

    /// Writes and syncs what waits for the disk.
    pub fn disk_turn(&mut self) {
        self.journal.flush();
        self.checkpoints.write();
    }
}

impl Engine for Consensus {
    fn opened(&mut self, _now: Now, conn: ConnId, _origin: &Origin, io: &mut Io) {
        // Nobody talks to a standalone core.
        io.abort(conn);
    }

    fn received(&mut self, _now: Now, conn: ConnId, _bytes: &[u8], io: &mut Io) {
        io.abort(conn);
    }

    fn closed(&mut self, _now: Now, _conn: ConnId, _why: Closed, _io: &mut Io) {}

    fn turn(&mut self, now: Now, _io: &mut Io) -> Next {
        if self.control.reason().is_some() {
            return Next::Stop;
        }
        self.work(now).unwrap_or_else(|why| {
            if why.is_failure() {
                tracing::error!("the node stops: {why}");
            }
            self.stats.set_mode(Mode::NotServing);
            self.control.stopped(why);
            Next::Stop
        })
    }

    fn park(&mut self) -> bool {
        let submitted = self.phase.admitting && self.has_room() && self.intake.has_more();
        let stopped = self.control.reason().is_some();
        let asked = stopped || (self.control.is_asked() && self.phase.stopping_since.is_none());
        !submitted && !asked && !self.journal.has_news() && !self.checkpoints.has_news()
    }
}
