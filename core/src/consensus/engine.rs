//! The engine of the consensus core: one turn after the other.
//!
//! Owns the order in which things happen in a turn, and nothing else: what peers said and what is durable is told
//! to the group, what the group gives out goes to peers, to the log and to apply, what waits in the shards' rings becomes
//! the next batch or goes to the leader, who may be answered is answered, and whoever needs it is woken. Never waits for the disk or a shard: a full commit ring or
//! too much retired memory pauses apply and admission, while drains, appends and ticks go on. It stays correct because
//! each part keeps its own promise (see their modules) and only this one connects them.
//!
//! On a full disk writes are answered with SystemError (-1), which says that nothing happened. Closing the connection
//! instead would take the client's reads away too: coming back to a session needs the log.

use super::apply::Applier;
use super::checkpoints::Checkpoints;
use super::cold_reader::ColdReader;
use super::config::*;
use super::control::{Control, StopReason};
use super::deadlines::Deadlines;
use super::disputes::{Dispute, Disputes};
use super::feed::Feed;
use super::founding::Founding;
use super::group::{Effects, EntryKind, Group, LogEntry, Role};
use super::installing::Installing;
use super::intake::Intake;
use super::journal::Journal;
use super::links::Links;
use super::outbound::Outbound;
use super::raft_group::RaftGroup;
use super::reads::Reads;
use super::report::Report;
use super::room::Room;
use super::rounds::Rounds;
use super::shards::Shards;
use super::steward::Steward;
use super::streams::Streams;
use super::upkeep;
use crate::commit::{Outcome, Reply};
use crate::freshness::{ALWAYS, Freshness};
use crate::machine::MembershipEffect;
use crate::session::{IdBlocks, password_matches};
use crate::stats::{ServerState, Stats};
use crate::submit::{Inquiries, Inquiry};
use paddock_storage::{DataDir, State};
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module doc.
pub struct Consensus {
    pub(super) node: u8,
    pub(super) incarnation: u64,
    pub(super) policy: u32,
    pub(super) batches_in_flight: usize,
    /// Length of a tick of Raft's clock.
    pub(super) tick_ns: u64,
    pub(super) entry_bytes_max: u64,
    /// Bytes of commands in one batch, reckoned with room for what surrounds them.
    pub(super) batch_bytes_max: usize,
    pub(super) group: RaftGroup,
    pub(super) effects: Effects,
    pub(super) journal: Journal,
    pub(super) cold: ColdReader,
    pub(super) feed: Feed,
    /// Committed, not applied.
    pub(super) backlog: VecDeque<LogEntry>,
    pub(super) backlog_bytes: usize,
    pub(super) applier: Applier,
    pub(super) intake: Intake,
    pub(super) outbound: Outbound,
    pub(super) streams: Streams,
    pub(super) rounds: Rounds,
    pub(super) reads: Reads,
    pub(super) links: Links,
    pub(super) freshness: Arc<Freshness>,
    pub(super) inquiries: Arc<Inquiries>,
    pub(super) disputes: Disputes,
    pub(super) deadlines: Deadlines,
    pub(super) shards: Shards,
    pub(super) checkpoints: Checkpoints,
    pub(super) installing: Installing,
    pub(super) control: Arc<Control>,
    pub(super) stats: Arc<Stats>,
    pub(super) phase: Phase,
    pub(super) report: Report,
    pub(super) room: Room,
    pub(super) steward: Steward,
    pub(super) founding: Founding,
    pub(super) ids: Arc<IdBlocks>,
    /// Keeps the data directory locked. Last: the log's thread ends before.
    pub(super) dir: DataDir,
}

/// What changes from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// The term in which this node orders; 0 while it does not.
    pub(super) leading: u64,
    /// Batches proposed in this term and not applied.
    pub(super) in_flight: usize,
    /// Replies that belong to no entry.
    pub(super) extra: Vec<Reply>,
    /// Apply waits for readers.
    pub(super) blocked: bool,
    /// What waits in the rings may be taken.
    pub(super) admitting: bool,
    /// An operator wants this node to lead.
    pub(super) wants_to_lead: bool,
    /// Since when the log has no room.
    pub(super) full_since: Option<u64>,
    /// Since when a stop is under way.
    pub(super) stopping_since: Option<u64>,
    /// Since when this node knows that it is no member any more.
    pub(super) removed_since: Option<u64>,
    /// Another node said so, with whom it has no link any more: its own log may never tell. The version of the membership
    /// that was known here then.
    pub(super) told_removed: Option<i64>,
    /// When the end of the session ids could not be recorded.
    pub(super) ids_failed_ns: Option<u64>,
    /// When leadership was last offered to somebody.
    pub(super) offered_ns: Option<u64>,
    next_tick_ns: u64,
    /// Ticks without a leader that were let pass since the last one that was not.
    ticks_let_pass: u64,
}

impl Consensus {
    fn work(&mut self, now: Now, io: &mut Io) -> Result<Next, StopReason> {
        let now_ns = now.mono_ns;
        if self.deadlines.turn(now_ns) {
            self.shards.forgive();
        }
        let links_ns = self.listen(now, io);
        self.tick(now_ns);
        self.look_at_log(now_ns, io)?;
        self.drain(io);
        self.apply(now_ns)?;
        self.allow_ids(now_ns);
        self.settle_disputes(now_ns, io)?;
        self.lead_or_follow(now, io);
        self.look_at_room(now_ns, io);
        self.tend(now, io)?;
        self.admit(now)?;
        self.forward(now_ns, io);
        let install_ns = self.install(now_ns, io)?;
        self.ask(now_ns, io);
        self.inform_group(now_ns);
        self.drain(io);
        self.recall();
        self.answer();
        self.refresh(now);
        self.checkpoints.turn(now_ns, &mut self.applier, &mut self.journal);
        self.tell(now);
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
        let next = self.next(now_ns, links_ns.into_iter().chain(install_ns).min());
        self.deadlines.expect(match next {
            Next::Again => Some(now_ns),
            Next::Sleep { deadline_ns } => deadline_ns,
            Next::Stop => None,
        });
        Ok(next)
    }

    /// A group of one needs no clock. A node whose disk is full stands for election later than the others: it could order
    /// nothing, but where nobody has room it can have reads confirmed.
    fn tick(&mut self, now_ns: u64) {
        if self.group.alone() || now_ns < self.phase.next_tick_ns {
            return;
        }
        self.phase.next_tick_ns = now_ns + self.tick_ns;
        if self.founding.holds() {
            self.group.tick_without_standing();
            return;
        }
        if self.phase.full_since.is_some() && self.group.leader() == 0 {
            self.phase.ticks_let_pass = (self.phase.ticks_let_pass + 1) % FULL_TICKS;
            if self.phase.ticks_let_pass != 0 {
                return;
            }
        }
        self.group.tick();
    }

    fn look_at_log(&mut self, now_ns: u64, io: &mut Io) -> Result<(), StopReason> {
        if let Some(number) = self.journal.poll() {
            self.persisted(number, io);
        }
        match self.journal.look() {
            State::Running => {
                if self.phase.full_since.take().is_some() {
                    tracing::info!("the log has room again");
                }
            }
            State::WritesStopped { reason } => {
                if self.phase.full_since.is_none() {
                    let alone = "writes are refused";
                    let whose = if self.group.alone() { alone } else { "this node can log nothing more" };
                    tracing::error!(
                        "{whose}: {reason}. Reads go on. Free space on the disk of the data directory; the rest happens by \
                         itself"
                    );
                    self.phase.full_since = Some(now_ns);
                }
            }
            State::Failed { reason } => return Err(StopReason::LogFailed(reason.to_string())),
        }
        Ok(())
    }

    /// Takes everything that the group gives out.
    fn drain(&mut self, io: &mut Io) {
        while self.group.drain(&mut self.effects) {
            self.speak(io);
            self.installing.want(&mut self.effects.snapshots);
            self.feed_cold();
            self.journal.append(&mut self.effects, self.applier.index);
            for entry in self.effects.committed.drain(..) {
                self.backlog_bytes += entry.payload.len();
                self.backlog.push_back(entry);
            }
            for (read, index) in std::mem::take(&mut self.effects.reads) {
                self.confirm_read(read, index, io);
            }
            // What needed no record is durable already.
            if let Some(number) = self.journal.poll() {
                self.persisted(number, io);
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
            if self.disputes.is_waiting() {
                return Ok(());
            }
            let Some(entry) = self.backlog.pop_front() else { return Ok(()) };
            let applied =
                match upkeep::apply(&mut self.group, &mut self.applier, &mut self.checkpoints, &entry) {
                    Err(StopReason::Diverged { zxid, found, logged, index }) if !self.group.alone() => {
                        self.backlog.push_front(entry);
                        self.dispute(Dispute { index, zxid, logged, found });
                        return Ok(());
                    }
                    applied => applied?,
                };
            self.backlog_bytes -= entry.payload.len();
            self.deadlines.applied(applied, now_ns);
            if applied.membership != MembershipEffect::default() {
                let effect = applied.membership.clone();
                self.follow_members(&effect, now_ns);
            }
            let is_batch = entry.kind == EntryKind::Batch;
            if is_batch && !entry.payload.is_empty() && entry.term == self.phase.leading {
                self.phase.in_flight = self.phase.in_flight.saturating_sub(1);
                self.feed.committed(now_ns);
            }
            if !is_batch {
                self.steward.changed();
            }
            if !is_batch || !entry.payload.is_empty() {
                self.applier.publish(&mut self.outbound, &mut self.phase.extra, &mut self.shards.marked);
            }
            self.group.applied(entry.index);
        }
        Ok(())
    }

    /// Answers the shards' questions about sessions from what is applied here.
    fn recall(&mut self) {
        if !self.inquiries.has_any() {
            return;
        }
        let (zxid, sessions) = (self.applier.machine.zxid(), self.applier.machine.sessions());
        let answer = |Inquiry { ticket, session, password }| {
            let outcome = match sessions.get(session) {
                Some(found) if !password_matches(&found.password, &password) => Outcome::Refused,
                found => Outcome::Recalled { known: found.is_some() },
            };
            Reply { ticket, zxid, outcome }
        };
        self.phase.extra.extend(self.inquiries.take().into_iter().map(answer));
    }

    /// Publishes the replies that belong to no entry.
    fn answer(&mut self) {
        let zxid = self.applier.machine.zxid();
        let synced = self.rounds.ready(self.applier.index, self.outbound.resolved());
        self.phase.extra.extend(synced.map(|ticket| Reply { ticket, zxid, outcome: Outcome::Synced }));
        if self.phase.extra.is_empty() {
            return;
        }
        if self.applier.is_blocked(self.checkpoints.held_bytes()) {
            self.phase.blocked = true;
        } else {
            self.applier.publish(&mut self.outbound, &mut self.phase.extra, &mut self.shards.marked);
        }
    }

    /// Tells the shards how fresh the node is: everything applied is in the commit ring by now.
    fn refresh(&mut self, now: Now) {
        if self.group.alone() && self.phase.leading != 0 {
            self.rounds.forget_freshness();
            if self.freshness.fresh_ns() != ALWAYS {
                self.freshness.confirm(ALWAYS);
                self.shards.mark_all();
            }
            return;
        }
        if self.freshness.fresh_ns() == ALWAYS && !self.group.membership().is_alone(u64::from(self.node)) {
            // Others belong to the group from now on: what no quorum confirms ends within its bounds, even if no round ever
            // succeeds.
            self.freshness.confirm(now.mono_ns);
            self.shards.mark_all();
        }
        while let Some(fresh) = self.rounds.fresh(self.applier.index) {
            if self.freshness.fresh_ns() == 0 {
                // Shards wait for this to let clients in.
                self.shards.mark_all();
            }
            self.freshness.confirm(fresh.at_ns);
            for (shard, at_ns) in fresh.reports {
                self.freshness.confirm_reports(shard, at_ns);
            }
        }
    }

    /// A clean stop hands leadership over if there is somebody, and waits until everything proposed is decided and told,
    /// within a bound.
    fn may_stop(&mut self, now_ns: u64) -> bool {
        if !self.control.is_asked() {
            return false;
        }
        let since = *self.phase.stopping_since.get_or_insert(now_ns);
        let waited_ns = now_ns.saturating_sub(since);
        if self.group.role() == Role::Leader && self.may_have_heir() && waited_ns < HAND_OVER_NS {
            self.hand_over(now_ns);
            return false;
        }
        let settled = !self.journal.is_behind() && self.backlog.is_empty() && self.phase.extra.is_empty();
        settled || waited_ns >= STOP_PATIENCE_NS
    }

    /// Whether anybody else votes, who could lead: a sole voter has no heir, however many observers follow it.
    fn may_have_heir(&self) -> bool {
        let membership = self.group.membership();
        membership.voters.iter().chain(&membership.outgoing).any(|voter| *voter != u64::from(self.node))
    }

    fn next(&self, now_ns: u64, links_ns: Option<u64>) -> Next {
        // What became durable late in this turn stands in the backlog already.
        let more = !self.backlog.is_empty() && !self.phase.blocked && !self.disputes.is_waiting();
        let frees = self.applier.tree.has_more_to_reclaim();
        if more || frees || (self.phase.admitting && self.intake.has_more()) || self.can_propose_more() {
            return Next::Again;
        }
        let alone = self.group.alone();
        let undecided = self.room.shut_since().filter(|_| self.outbound.undecided() > 0);
        // Only where it can ask: what is overdue and cannot be done must not keep the core awake.
        let asks = self.phase.leading != 0 || self.asks_leader().is_some();
        let deadlines = [
            links_ns,
            self.phase.blocked.then_some(now_ns + PAUSED_POLL_NS),
            self.may_propose().then(|| self.deadlines.next_ns()).flatten(),
            asks.then(|| self.rounds.deadline_ns(!alone)).flatten(),
            self.reads.deadline_ns(),
            self.feed.deadline_ns(),
            self.steward.deadline_ns().filter(|_| self.phase.leading != 0 && self.is_writable()),
            self.phase.removed_since.map(|since| since + REMOVED_PATIENCE_NS),
            self.shards.deadline_ns(),
            self.checkpoints.deadline_ns(),
            self.phase.stopping_since.map(|since| since + STOP_PATIENCE_NS),
            undecided.map(|since| since + UNDECIDED_NS).filter(|&at| at > now_ns),
            (!alone).then_some(self.phase.next_tick_ns),
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
}

/// What threads do elsewhere, for a node without any ([`super::ConsensusConfig::inline`]).
impl Consensus {
    /// Whether [`Consensus::disk_turn`] has something to write.
    pub fn has_disk_work(&self) -> bool {
        self.journal.wants_flush() || self.checkpoints.is_writing()
    }

    /// Writes and syncs what waits for the disk.
    pub fn disk_turn(&mut self) {
        self.journal.flush();
        self.checkpoints.write();
    }
}

impl Engine for Consensus {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        self.links.opened(now, conn, origin, io);
    }

    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        self.links.received(now, conn, bytes, io);
    }

    fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        self.links.eof(now, conn, io);
    }

    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.links.closed(now, conn, why, io);
    }

    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        if self.control.reason().is_some() {
            return Next::Stop;
        }
        self.work(now, io).unwrap_or_else(|why| {
            if why.is_failure() {
                tracing::error!("the node stops: {why}");
            }
            self.stats.set_mode(ServerState::NotServing);
            self.control.stopped(why);
            Next::Stop
        })
    }

    fn park(&mut self) -> bool {
        let submitted = self.phase.admitting && self.intake.has_more();
        let stopped = self.control.reason().is_some();
        let asked = stopped || (self.control.is_asked() && self.phase.stopping_since.is_none());
        !submitted
            && !asked
            && !self.journal.has_news()
            && !self.checkpoints.has_news()
            && !self.links.is_ready()
            && !self.installing.has_news()
            && !self.cold.has_news()
            && !self.inquiries.has_any()
    }
}
