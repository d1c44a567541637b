//! The engine of the consensus core: one turn after the other.
//!
//! Owns the order of steps within a turn, and the parts as fields. A turn takes messages and finished disk
//! work, drains Raft, applies, takes submissions, proposes or forwards, confirms rounds, publishes replies,
//! and wakes shards.
//!
//! Never waits for a shard, and for a disk only in `allow_ids`. A full commit ring or too much retired
//! memory pauses apply and the taking of submissions. Drains, appends and ticks go on.
//!
//! Correct because each part keeps its own invariants (see their modules) and only this module connects
//! them.
//!
//! While writes are stopped, a write gets SystemError (-1), which means that the write did not happen.
//! Closing the connection instead would also take the client's reads away, since reattaching to a session
//! needs the log.

mod bootstrap;
mod compare_digests;
mod disk_full;
mod forwarding;
mod housekeeping;
pub(super) mod leadership;
pub(super) mod membership_step;
mod peers;
mod persist;
mod propose;
mod read_rounds;
pub(super) mod report;
mod snapshots;

use crate::commit::{Outcome, Reply};
use crate::consensus::apply::Applier;
use crate::consensus::apply::checkpoints::Checkpoints;
use crate::consensus::apply::divergence::{Divergence, Divergences};
use crate::consensus::apply::entry;
use crate::consensus::apply::shard_wakers::Shards;
use crate::consensus::catch_up::install::Installation;
use crate::consensus::catch_up::throttle::CatchUpThrottle;
use crate::consensus::commands::leader_queue::LeaderQueues;
use crate::consensus::commands::pending::PendingCommands;
use crate::consensus::commands::submissions::Submissions;
use crate::consensus::config::*;
use crate::consensus::control::{Control, StopReason};
use crate::consensus::durable::disk_space::DiskSpace;
use crate::consensus::durable::entry_fetcher::EntryFetcher;
use crate::consensus::durable::journal::Journal;
use crate::consensus::membership::MembershipPlanner;
use crate::consensus::membership::bootstrap_guard::BootstrapGuard;
use crate::consensus::peer_links::Links;
use crate::consensus::raft::node::RaftNode;
use crate::consensus::raft::{Effects, EntryKind, LogEntry, Role};
use crate::consensus::reads::read_index::Reads;
use crate::consensus::reads::rounds::Rounds;
use crate::consensus::session_expiry::SessionExpiry;
use crate::freshness::{ALWAYS, Freshness};
use crate::machine::MembershipEffect;
use crate::session::{IdBlocks, password_matches};
use crate::stats::{ServerState, Stats};
use crate::submit::{Inquiries, Inquiry};
use leadership::Leadership;
use membership_step::Removal;
use paddock_storage::DataDir;
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use report::Report;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module doc.
pub struct Consensus {
    pub(super) node: u8,
    pub(super) incarnation: u64,
    pub(super) policy: u32,
    pub(super) batches_in_flight: usize,
    /// Length of a tick of Raft's clock, ns.
    pub(super) tick_ns: u64,
    pub(super) entry_bytes_max: u64,
    /// Bytes of commands in one batch. The rest of the entry is left for what surrounds them.
    pub(super) batch_bytes_max: usize,
    pub(super) raft: RaftNode,
    pub(super) effects: Effects,
    pub(super) journal: Journal,
    pub(super) entry_fetcher: EntryFetcher,
    pub(super) throttle: CatchUpThrottle,
    /// Entries that are committed and not applied.
    pub(super) backlog: VecDeque<LogEntry>,
    pub(super) backlog_bytes: usize,
    pub(super) applier: Applier,
    pub(super) submissions: Submissions,
    pub(super) pending: PendingCommands,
    pub(super) leader_queues: LeaderQueues,
    pub(super) rounds: Rounds,
    pub(super) reads: Reads,
    pub(super) links: Links,
    pub(super) freshness: Arc<Freshness>,
    pub(super) inquiries: Arc<Inquiries>,
    pub(super) divergences: Divergences,
    pub(super) session_expiry: SessionExpiry,
    pub(super) shards: Shards,
    pub(super) checkpoints: Checkpoints,
    pub(super) installation: Installation,
    pub(super) control: Arc<Control>,
    pub(super) stats: Arc<Stats>,
    pub(super) leadership: Leadership,
    pub(super) removal: Removal,
    pub(super) ticks: RaftTicks,
    /// Replies that belong to no entry.
    pub(super) replies: Vec<Reply>,
    /// Whether apply waits for readers of the commit ring or of old tree versions.
    pub(super) apply_blocked: bool,
    /// Whether submissions may be taken from the shards' rings.
    pub(super) admitting: bool,
    /// When a clean stop was requested, ns.
    pub(super) stopping_since: Option<u64>,
    /// When the record of a block of session ids failed last.
    pub(super) id_blocks_failed_ns: Option<u64>,
    pub(super) report: Report,
    pub(super) disk_space: DiskSpace,
    pub(super) planner: MembershipPlanner,
    pub(super) bootstrap_guard: BootstrapGuard,
    pub(super) ids: Arc<IdBlocks>,
    /// Keeps the data directory locked. The last field, so that the log's thread ends before the lock is
    /// released.
    pub(super) dir: DataDir,
}

/// Raft's clock within the turns of the core.
#[derive(Debug, Default)]
pub(super) struct RaftTicks {
    /// When Raft's next tick is due.
    next_ns: u64,
    /// Ticks skipped without a leader since the last tick that Raft got.
    let_pass: u64,
}

impl Consensus {
    fn work(&mut self, now: Now, io: &mut Io) -> Result<Next, StopReason> {
        let now_ns = now.mono_ns;
        if self.session_expiry.turn(now_ns) {
            self.shards.forgive();
        }
        let links_ns = self.take_peer_events(now, io);
        self.tick(now_ns);
        self.poll_log(now_ns, io)?;
        self.drain(io);
        self.apply(now_ns)?;
        self.allow_ids(now_ns);
        self.settle_divergences(now_ns, io)?;
        self.lead_or_follow(now, io);
        self.update_writes_stopped(now_ns, io);
        self.membership_step(now, io)?;
        self.admit(now)?;
        self.forward(now_ns, io);
        let install_ns = self.install(now_ns, io)?;
        self.begin_rounds(now_ns, io);
        self.report_to_raft(now_ns);
        self.drain(io);
        self.answer_inquiries();
        self.publish_replies();
        self.publish_freshness(now);
        self.checkpoints.turn(now_ns, &mut self.applier, &mut self.journal);
        self.report_counters(now);
        if self.apply_blocked {
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
        self.session_expiry.expect_next_turn(match next {
            Next::Again => Some(now_ns),
            Next::Sleep { deadline_ns } => deadline_ns,
            Next::Stop => None,
        });
        Ok(next)
    }

    /// Advances Raft's clock. A standalone node needs none. A node whose disk is full becomes a candidate
    /// later than the others: it cannot order writes. Where all disks are full, such a leader still
    /// confirms reads.
    fn tick(&mut self, now_ns: u64) {
        if self.raft.alone() || now_ns < self.ticks.next_ns {
            return;
        }
        self.ticks.next_ns = now_ns + self.tick_ns;
        if self.bootstrap_guard.holds() {
            self.raft.tick_without_campaign();
            return;
        }
        if self.disk_space.own_full_since.is_some() && self.raft.leader() == 0 {
            self.ticks.let_pass = (self.ticks.let_pass + 1) % FULL_TICKS;
            if self.ticks.let_pass != 0 {
                return;
            }
        }
        self.raft.tick();
    }

    /// Applies committed entries, as far as readers keep up.
    fn apply(&mut self, now_ns: u64) -> Result<(), StopReason> {
        for _ in 0..APPLY_PER_TURN_MAX {
            self.apply_blocked = self.applier.is_blocked(self.checkpoints.held_bytes());
            if self.apply_blocked {
                return Ok(());
            }
            if self.divergences.is_waiting() {
                return Ok(());
            }
            let Some(entry) = self.backlog.pop_front() else { return Ok(()) };
            let applied = match entry::apply(&mut self.raft, &mut self.applier, &mut self.checkpoints, &entry)
            {
                Err(StopReason::Diverged { zxid, found, logged, index }) if !self.raft.alone() => {
                    self.backlog.push_front(entry);
                    self.note_divergence(Divergence { index, zxid, logged, found });
                    return Ok(());
                }
                applied => applied?,
            };
            self.backlog_bytes -= entry.payload.len();
            self.session_expiry.applied(applied, now_ns);
            if applied.membership != MembershipEffect::default() {
                let effect = applied.membership.clone();
                self.follow_membership(&effect, now_ns);
            }
            let is_batch = entry.kind == EntryKind::Batch;
            if is_batch && !entry.payload.is_empty() && entry.term == self.leadership.term {
                self.leadership.in_flight = self.leadership.in_flight.saturating_sub(1);
                self.throttle.committed(now_ns);
            }
            if !is_batch {
                self.planner.changed();
            }
            if !is_batch || !entry.payload.is_empty() {
                self.applier.publish(&mut self.pending, &mut self.replies, &mut self.shards.marked);
            }
            self.raft.applied(entry.index);
        }
        Ok(())
    }

    /// Answers the shards' inquiries about sessions from the applied state.
    fn answer_inquiries(&mut self) {
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
        self.replies.extend(self.inquiries.take().into_iter().map(answer));
    }

    /// Publishes the replies that belong to no entry.
    fn publish_replies(&mut self) {
        let zxid = self.applier.machine.zxid();
        if self.rounds.has_confirmed_syncs() {
            let synced = self.rounds.ready(self.applier.index, self.pending.answered());
            self.replies.extend(synced.map(|ticket| Reply { ticket, zxid, outcome: Outcome::Synced }));
        }
        if self.replies.is_empty() {
            return;
        }
        if self.applier.is_blocked(self.checkpoints.held_bytes()) {
            self.apply_blocked = true;
        } else {
            self.applier.publish(&mut self.pending, &mut self.replies, &mut self.shards.marked);
        }
    }

    /// Publishes to the shards how fresh this node is. Everything applied is already in the commit ring.
    fn publish_freshness(&mut self, now: Now) {
        if self.raft.alone() && self.leadership.term != 0 {
            self.rounds.forget_freshness();
            if self.freshness.fresh_ns() != ALWAYS {
                self.freshness.confirm(ALWAYS);
                self.shards.mark_all();
            }
            return;
        }
        if self.freshness.fresh_ns() == ALWAYS && !self.raft.membership().is_alone(u64::from(self.node)) {
            // The group has other members from now on. Freshness without a quorum's confirmation ends
            // within its bounds, even if no round ever succeeds.
            self.freshness.confirm(now.mono_ns);
            self.shards.mark_all();
        }
        while let Some(fresh) = self.rounds.fresh(self.applier.index) {
            if self.freshness.fresh_ns() == 0 {
                // Shards wait for the first confirmation before they accept clients.
                self.shards.mark_all();
            }
            self.freshness.confirm(fresh.at_ns);
            for (shard, at_ns) in fresh.reports {
                self.freshness.confirm_reports(shard, at_ns);
            }
        }
    }

    /// Whether a clean stop is complete. A leader first offers leadership to another voter. Then the core
    /// waits, within a bound, until every proposal is decided and its reply is published.
    fn may_stop(&mut self, now_ns: u64) -> bool {
        if !self.control.is_asked() {
            return false;
        }
        let since = *self.stopping_since.get_or_insert(now_ns);
        let waited_ns = now_ns.saturating_sub(since);
        if self.raft.role() == Role::Leader && self.has_other_voters() && waited_ns < HAND_OVER_NS {
            self.offer_leadership(now_ns);
            return false;
        }
        let settled = !self.journal.is_behind() && self.backlog.is_empty() && self.replies.is_empty();
        settled || waited_ns >= STOP_PATIENCE_NS
    }

    fn next(&self, now_ns: u64, links_ns: Option<u64>) -> Next {
        // Entries that became durable late in this turn are already in the backlog.
        let more = !self.backlog.is_empty() && !self.apply_blocked && !self.divergences.is_waiting();
        let frees = self.applier.tree.has_more_to_reclaim();
        if more || frees || (self.admitting && self.submissions.has_more()) || self.can_propose_more() {
            return Next::Again;
        }
        let alone = self.raft.alone();
        let undecided = self.disk_space.writes_stopped_since().filter(|_| self.pending.undecided() > 0);
        // Only where a round can be begun. Otherwise an overdue round would keep the core awake for
        // nothing.
        let asks = self.leadership.term != 0 || self.leader_to_ask().is_some();
        let deadlines = [
            links_ns,
            self.apply_blocked.then_some(now_ns + PAUSED_POLL_NS),
            self.may_propose().then(|| self.session_expiry.next_ns()).flatten(),
            asks.then(|| self.rounds.deadline_ns(!alone)).flatten(),
            self.reads.deadline_ns(),
            self.throttle.deadline_ns(),
            self.planner.deadline_ns().filter(|_| self.leadership.term != 0 && self.is_writable()),
            self.removal.since_ns.map(|since| since + REMOVED_PATIENCE_NS),
            self.shards.deadline_ns(),
            self.checkpoints.deadline_ns(),
            self.stopping_since.map(|since| since + STOP_PATIENCE_NS),
            undecided.map(|since| since + UNDECIDED_NS).filter(|&at| at > now_ns),
            (!alone).then_some(self.ticks.next_ns),
        ];
        Next::Sleep { deadline_ns: deadlines.into_iter().flatten().min() }
    }

    #[cfg(test)]
    pub(super) fn phase_is_full(&self) -> bool {
        self.disk_space.own_full_since.is_some()
    }

    #[cfg(test)]
    pub(super) fn is_blocked(&self) -> bool {
        self.apply_blocked
    }
}

/// The work of the disk threads, for a node without threads ([`super::ConsensusConfig::inline`]).
impl Consensus {
    /// Whether [`Consensus::disk_turn`] has anything to write.
    pub fn has_disk_work(&self) -> bool {
        self.journal.wants_flush() || self.checkpoints.is_writing()
    }

    /// Writes and syncs everything that is queued for the disk.
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
        let submitted = self.admitting && self.submissions.has_more();
        let stopped = self.control.reason().is_some();
        let asked = stopped || (self.control.is_asked() && self.stopping_since.is_none());
        !submitted
            && !asked
            && !self.journal.has_news()
            && !self.checkpoints.has_news()
            && !self.links.is_ready()
            && !self.installation.has_news()
            && !self.entry_fetcher.has_news()
            && !self.inquiries.has_any()
    }
}
