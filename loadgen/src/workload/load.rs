//! The load itself: reads and writes in a closed or an open loop, with every answer timed and checked.
//!
//! Owns one thread's phases (waiting, running, draining, closing), its schedule and its counts. Never reads
//! a clock. A request is timed from its intended instant (open loop) or from the turn that sent it (closed
//! loop). Its time ends with the turn that reads the reply.
//!
//! Correct because no latency is omitted. An open loop's schedule does not wait. A request that finds every
//! connection full keeps its intended instant and is sent late. Requests still waiting at the end are
//! recorded with their waiting time so far. Requests without a reply at the end are violations.

use super::{Control, START_POLL_NS};
use crate::check::{Checker, Facts, Place, Violation, ViolationKind, WriteOutcome};
use crate::counts::{Counts, Interval, Seconds};
use crate::keyspace::{Keyspace, Op, Picker, Roles};
use crate::pacing::{Pace, Pacer};
use crate::session::{Reply, Sessions, Workload};
use crate::value::Values;
use paddock_transport::engine::{Next, Now};
use paddock_transport::io::Io;
use paddock_transport::wire::primitives::{put_boolean, put_int};
use paddock_transport::wire::{Limits, Reader, RequestHeader, Stat, error, opcode, put_frame};
use std::sync::Arc;

/// Longest wait for replies after the end, ns. Longer than the queue of any server that is still alive:
/// later replies count as missing.
const DRAIN_NS: u64 = 30_000_000_000;
/// Longest wait for the server to close the sessions, ns.
const CLOSE_NS: u64 = 2_000_000_000;
/// Interval at which the checker learns the zxid that all connections have seen, ns.
const SETTLE_NS: u64 = 100_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// One thread's part of a run.
#[derive(Debug)]
pub struct LoadPlan {
    pub keyspace: Keyspace,
    pub values: Values,
    pub picker: Picker,
    /// `None`: answers are not checked.
    pub checker: Option<Checker>,
    /// The thread's open loop; `None`: closed loop.
    pub pace: Option<Pace>,
    /// Most requests in flight per connection.
    pub outstanding: usize,
    /// Number of the thread's first connection in the run.
    pub first_connection: u32,
    /// Number of connections of this thread.
    pub connections_here: u32,
    /// Number of connections of the whole run, and which of them write.
    pub roles: Roles,
    /// Time under load before the measured time, ns.
    pub warmup_ns: u64,
    /// Length of the measured time, ns.
    pub duration_ns: u64,
    /// Servers are expected to fail. Requests lost with their connections are recorded with their waiting
    /// time. Missing replies are waited for until silent servers have been given up.
    pub through_failures: bool,
    pub timeout_ns: u64,
}

/// Kept with each request until its reply arrives.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    intended_ns: u64,
    sent_ns: u64,
    key: u32,
    seq: u32,
    op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoadPhase {
    Waiting { announced: bool },
    Running,
    Draining { until_ns: u64 },
    Closing { until_ns: u64 },
}

/// Sessions that take requests in turn.
#[derive(Debug)]
struct Pool {
    sessions: Vec<usize>,
    /// Where the search for the next session begins.
    cursor: usize,
}

impl Pool {
    /// The next session with fewer than `outstanding` requests in flight.
    fn with_room(&mut self, outstanding: usize, sessions: &Sessions<InFlight>) -> Option<usize> {
        for _ in 0..self.sessions.len() {
            let index = self.sessions[self.cursor];
            self.cursor = if self.cursor + 1 == self.sessions.len() { 0 } else { self.cursor + 1 };
            if sessions.is_ready(index) && sessions.in_flight(index) < outstanding {
                return Some(index);
            }
        }
        None
    }
}

#[derive(Debug)]
pub struct Load {
    plan: LoadPlan,
    control: Arc<Control>,
    seconds: Arc<Seconds>,
    phase: LoadPhase,
    pacer: Option<Pacer>,
    /// Sessions that write, and sessions that only read. The second pool is empty if all sessions write.
    pools: [Pool; 2],
    /// For each session its number among the writers of the run; `None` if it only reads.
    writers: Vec<Option<u32>>,
    /// Operation and key that the open loop drew and could not send yet.
    drawn: Option<(Op, u32)>,
    /// Beginning of the measured time.
    from_ns: u64,
    until_ns: u64,
    settle_at_ns: u64,
    interval: Interval,
    second: u32,
    /// End of the current second.
    tick_at_ns: u64,
    counts: Counts,
}

impl Load {
    /// A load that begins at the start that `control` announces.
    pub fn new(plan: LoadPlan, control: Arc<Control>, seconds: Arc<Seconds>) -> Self {
        let writers: Vec<_> = (0..plan.connections_here)
            .map(|index| plan.roles.writer(plan.first_connection + index))
            .collect();
        let (write, read) = (0..writers.len()).partition(|&index| writers[index].is_some());
        let pools = [write, read].map(|sessions| Pool { sessions, cursor: 0 });
        Self {
            plan,
            control,
            seconds,
            phase: LoadPhase::Waiting { announced: false },
            pacer: None,
            pools,
            writers,
            drawn: None,
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            settle_at_ns: 0,
            interval: Interval::default(),
            second: 0,
            tick_at_ns: u64::MAX,
            counts: Counts::default(),
        }
    }

    /// Counts of the thread, and the checker. Call only after all threads have finished: another thread may
    /// have lost a write that explains a version seen here.
    pub fn into_counts(mut self, sessions: &Sessions<InFlight>) -> (Counts, Option<Checker>) {
        for (trouble, count) in sessions.troubles() {
            self.counts.troubles[trouble as usize] = count;
        }
        self.counts.moves = sessions.moves();
        for violation in self.plan.checker.iter_mut().flat_map(Checker::unexplained) {
            self.counts.report_violation(violation, 1, None);
        }
        (self.counts, self.plan.checker)
    }

    fn begin(&mut self, now: Now, start_ns: u64, sessions: &mut Sessions<InFlight>, io: &mut Io) {
        self.from_ns = start_ns + self.plan.warmup_ns;
        self.until_ns = self.from_ns + self.plan.duration_ns;
        self.phase = LoadPhase::Running;
        self.tick_at_ns = self.next_tick_ns();
        match self.plan.pace {
            Some(pace) => self.pacer = Some(Pacer::new(start_ns, pace)),
            None => (0..sessions.len()).for_each(|index| self.fill(now, index, sessions, io)),
        }
    }

    /// Closed loop: fills session `index` up to its number of requests in flight.
    fn fill(&mut self, now: Now, index: usize, sessions: &mut Sessions<InFlight>, io: &mut Io) {
        while sessions.in_flight(index) < self.plan.outstanding {
            if !self.issue(now, index, now.mono_ns, sessions, io) {
                return;
            }
        }
    }

    /// Open loop: sends every request that is due. Returns the instant at which the next one is due.
    /// `None`: nothing more can be sent before a reply arrives.
    fn send_due(&mut self, now: Now, sessions: &mut Sessions<InFlight>, io: &mut Io) -> Option<u64> {
        loop {
            let due_ns = self.pacer.as_ref()?.intended_ns();
            if due_ns > now.mono_ns || due_ns >= self.until_ns {
                return Some(due_ns);
            }
            let (op, key) = *self.drawn.get_or_insert_with(|| self.plan.picker.draw());
            let index = self.with_room(op, sessions)?;
            self.drawn = None;
            if !self.send(now, index, due_ns, (op, key), sessions, io) {
                return None;
            }
            if self.is_measured(due_ns) {
                self.counts.lateness.record(now.mono_ns - due_ns);
            }
            if let Some(pacer) = &mut self.pacer {
                pacer.advance();
            }
        }
    }

    /// The next session in turn that can take `op`.
    fn with_room(&mut self, op: Op, sessions: &Sessions<InFlight>) -> Option<usize> {
        let [writers, readers] = &mut self.pools;
        let apart = !readers.sessions.is_empty() && (op == Op::Get || writers.sessions.is_empty());
        (if apart { readers } else { writers }).with_room(self.plan.outstanding, sessions)
    }

    fn issue(
        &mut self,
        now: Now,
        index: usize,
        intended_ns: u64,
        sessions: &mut Sessions<InFlight>,
        io: &mut Io,
    ) -> bool {
        if !sessions.is_ready(index) {
            return false;
        }
        let drawn = self.plan.picker.draw();
        self.send(now, index, intended_ns, drawn, sessions, io)
    }

    /// Sends the drawn operation on session `index`. A session that does not write reads instead.
    fn send(
        &mut self,
        now: Now,
        index: usize,
        intended_ns: u64,
        drawn: (Op, u32),
        sessions: &mut Sessions<InFlight>,
        io: &mut Io,
    ) -> bool {
        let plan = &mut self.plan;
        let (op, key) = match (drawn, self.writers[index]) {
            ((Op::Set, key), Some(writer)) => (Op::Set, plan.picker.own(key, writer)),
            ((_, key), _) => (Op::Get, key),
        };
        let seq = match (op, &mut plan.checker) {
            (Op::Set, Some(checker)) => checker.next_seq(key),
            _ => 0,
        };
        let request = InFlight { intended_ns, sent_ns: now.mono_ns, key, seq, op };
        let (keyspace, values) = (&plan.keyspace, &plan.values);
        let sent = sessions.send(now, index, request, io, |out, xid| match op {
            Op::Get => put_get(out, xid, keyspace, key),
            Op::Set => put_set(out, xid, keyspace, values, key, seq),
        });
        if !sent && op == Op::Set {
            // The sequence number is used up although nothing was sent.
            self.not_acknowledged(key, seq, WriteOutcome::Refused);
        }
        sent
    }

    fn not_acknowledged(&mut self, key: u32, seq: u32, outcome: WriteOutcome) {
        if let Some(checker) = &mut self.plan.checker {
            checker.not_acknowledged(key, seq, outcome);
        }
    }

    fn is_measured(&self, at_ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&at_ns)
    }

    /// Reports the seconds that have ended.
    fn tick(&mut self, now: Now) {
        while now.mono_ns >= self.tick_at_ns {
            let length_ns = self.tick_at_ns - self.second_at_ns();
            self.interval.length_ms = length_ns.div_ceil(1_000_000) as usize;
            self.seconds.add(self.second, &self.interval);
            self.interval.reset();
            self.second += 1;
            self.tick_at_ns = self.next_tick_ns();
        }
    }

    /// Beginning of the current second.
    fn second_at_ns(&self) -> u64 {
        self.from_ns + u64::from(self.second) * SECOND_NS
    }

    /// End of the current second; `u64::MAX` after the last one.
    fn next_tick_ns(&self) -> u64 {
        if self.second_at_ns() >= self.until_ns {
            return u64::MAX;
        }
        (self.second_at_ns() + SECOND_NS).min(self.until_ns)
    }

    fn run(&mut self, now: Now, sessions: &mut Sessions<InFlight>, io: &mut Io) -> Next {
        if self.control.stopped() {
            self.until_ns = self.until_ns.min(now.mono_ns);
            self.tick_at_ns = self.next_tick_ns();
        }
        self.tick(now);
        if now.mono_ns >= self.settle_at_ns {
            self.settle_at_ns = now.mono_ns + SETTLE_NS;
            if let Some(checker) = &mut self.plan.checker {
                checker.settle(sessions.floor());
            }
        }
        let due_ns = if self.pacer.is_some() { self.send_due(now, sessions, io) } else { None };
        if now.mono_ns >= self.until_ns {
            self.count_unsent();
            // Through failures, a silent server is given up within the timeout. Its requests then have an
            // unknown outcome and are not missing.
            let silence_ns = if self.plan.through_failures { self.plan.timeout_ns } else { 0 };
            self.phase = LoadPhase::Draining { until_ns: now.mono_ns + DRAIN_NS.max(silence_ns) };
            return self.drain(now, sessions, io);
        }
        let wake_ns = self.tick_at_ns.min(self.settle_at_ns);
        Next::Sleep { deadline_ns: Some(due_ns.map_or(wake_ns, |due| due.min(wake_ns))) }
    }

    /// Records requests that were due and never sent, with their waiting time so far. That is a lower bound
    /// of their latency.
    fn count_unsent(&mut self) {
        let Some(mut pacer) = self.pacer.take() else { return };
        while pacer.intended_ns() < self.until_ns {
            let intended_ns = pacer.intended_ns();
            pacer.advance();
            if intended_ns >= self.from_ns {
                self.counts.unsent += 1;
                // The kind of operation is drawn now, as if the request had been sent.
                let (op, _) = self.drawn.take().unwrap_or_else(|| self.plan.picker.draw());
                self.counts.latency[op as usize].record(self.until_ns - intended_ns);
            }
        }
    }

    fn drain(&mut self, now: Now, sessions: &mut Sessions<InFlight>, io: &mut Io) -> Next {
        let LoadPhase::Draining { until_ns } = self.phase else { return Next::Again };
        let waiting = sessions.in_flight_total();
        if waiting > 0 && now.mono_ns < until_ns {
            return Next::Sleep { deadline_ns: Some(until_ns) };
        }
        if waiting > 0 {
            let violation =
                Violation { kind: ViolationKind::MissingReply, key: 0, got: waiting as i64, wanted: 0 };
            self.counts.report_violation(violation, waiting as u64, None);
        }
        sessions.close_all(now, io);
        self.phase = LoadPhase::Closing { until_ns: now.mono_ns + CLOSE_NS };
        self.close(now, sessions)
    }

    fn close(&mut self, now: Now, sessions: &Sessions<InFlight>) -> Next {
        match self.phase {
            LoadPhase::Closing { until_ns } if !sessions.all_gone() && now.mono_ns < until_ns => {
                Next::Sleep { deadline_ns: Some(until_ns) }
            }
            _ => Next::Stop,
        }
    }

    /// Checks an answer. Returns the highest zxid in its record.
    fn check(&mut self, index: usize, request: InFlight, reply: Reply<'_>, place: Place) -> i64 {
        let InFlight { op, key, seq, .. } = request;
        let mut reader = Reader::new(reply.body, Limits::NONE);
        let data = match op {
            Op::Get => reader.buffer().map(Option::unwrap_or_default),
            Op::Set => Ok(&[][..]),
        };
        let (Ok(data), Ok(stat)) = (data, Stat::read(&mut reader)) else {
            let (kind, got) = (ViolationKind::MalformedReply, reply.body.len() as i64);
            self.counts.report_violation(Violation { kind, key, got, wanted: 0 }, 1, Some(place));
            return 0;
        };
        let plan = &mut self.plan;
        let Some(checker) = &mut plan.checker else { return stat.mzxid };
        let facts = Facts { mzxid: stat.mzxid, version: stat.version, data_length: stat.data_length };
        let verdict = match op {
            Op::Get => {
                let own = self.writers[index] == Some(key % plan.roles.writers);
                checker.read(&plan.values, key, own, data, facts, reply.seen)
            }
            Op::Set => checker.written(key, seq, facts),
        };
        if let Err(violation) = verdict {
            self.counts.report_violation(violation, 1, Some(place));
        }
        stat.mzxid
    }
}

impl Workload for Load {
    type Request = InFlight;

    fn ready(&mut self, now: Now, index: usize, sessions: &mut Sessions<InFlight>, io: &mut Io) {
        if self.phase == LoadPhase::Running && self.pacer.is_none() {
            self.fill(now, index, sessions, io);
        }
    }

    fn replied(
        &mut self,
        now: Now,
        index: usize,
        request: InFlight,
        reply: Reply<'_>,
        sessions: &mut Sessions<InFlight>,
        io: &mut Io,
    ) -> i64 {
        let at_ns = now.mono_ns;
        self.tick(now);
        let place = sessions.place(index);
        let within = self.is_measured(at_ns);
        let shown = if reply.err == 0 {
            let op = request.op as usize;
            let latency_ns = at_ns.saturating_sub(request.intended_ns);
            if self.is_measured(request.intended_ns) {
                self.counts.latency[op].record(latency_ns);
                if self.plan.pace.is_some() {
                    self.counts.from_send[op].record(at_ns.saturating_sub(request.sent_ns));
                }
            }
            if within {
                self.counts.completed[op] += 1;
                let after_ns = at_ns - self.second_at_ns();
                self.interval.answered(request.op, after_ns, latency_ns);
            }
            self.check(index, request, reply, place)
        } else {
            self.interval.errors += u64::from(within);
            *self.counts.errors.entry(reply.err).or_default() += 1;
            if request.op == Op::Set {
                let outcome =
                    if tells_the_outcome(reply.err) { WriteOutcome::Refused } else { WriteOutcome::Unknown };
                self.not_acknowledged(request.key, request.seq, outcome);
            }
            if reply.err == error::NO_NODE && self.plan.checker.is_some() {
                let (key, got) = (request.key, i64::from(reply.err));
                let violation = Violation { kind: ViolationKind::MissingZnode, key, got, wanted: 0 };
                self.counts.report_violation(violation, 1, Some(place));
            }
            0
        };
        if self.phase == LoadPhase::Running && self.plan.pace.is_none() && at_ns < self.until_ns {
            self.issue(now, index, at_ns, sessions, io);
        }
        shown
    }

    fn lost(&mut self, now: Now, request: InFlight) {
        self.counts.outcome_unknown += 1;
        if request.op == Op::Set {
            self.counts.writes_unknown += 1;
            self.not_acknowledged(request.key, request.seq, WriteOutcome::Unknown);
        }
        if self.plan.through_failures && self.is_measured(request.intended_ns) {
            // The waiting time so far is a lower bound of the latency.
            self.counts.latency[request.op as usize].record(now.mono_ns.saturating_sub(request.intended_ns));
        }
    }

    fn violation(&mut self, violation: Violation, place: Place) {
        self.counts.report_violation(violation, 1, Some(place));
    }

    fn turn(&mut self, now: Now, sessions: &mut Sessions<InFlight>, io: &mut Io) -> Next {
        match self.phase {
            LoadPhase::Waiting { announced } => {
                if !announced && sessions.ready() == sessions.len() {
                    self.phase = LoadPhase::Waiting { announced: true };
                    self.control.announce_ready();
                }
                if self.control.stopped() {
                    return Next::Stop;
                }
                match self.control.start_ns() {
                    Some(start_ns) if start_ns <= now.mono_ns => {
                        self.begin(now, start_ns, sessions, io);
                        self.run(now, sessions, io)
                    }
                    _ => Next::Sleep { deadline_ns: Some(now.mono_ns + START_POLL_NS) },
                }
            }
            LoadPhase::Running => self.run(now, sessions, io),
            LoadPhase::Draining { .. } => self.drain(now, sessions, io),
            LoadPhase::Closing { .. } => self.close(now, sessions),
        }
    }
}

/// Whether a write answered with error `err` was certainly not applied.
fn tells_the_outcome(err: i32) -> bool {
    let unsure =
        [error::SYSTEM_ERROR, error::RUNTIME_INCONSISTENCY, error::CONNECTION_LOSS, error::OPERATION_TIMEOUT];
    !unsure.contains(&err)
}

pub(super) fn put_get(out: &mut Vec<u8>, xid: i32, keyspace: &Keyspace, key: u32) {
    put_frame(out, |out| {
        RequestHeader { xid, opcode: opcode::GET_DATA }.put(out);
        put_int(out, keyspace.path_bytes() as i32);
        keyspace.append_path(key, out);
        put_boolean(out, false);
    });
}

fn put_set(out: &mut Vec<u8>, xid: i32, keyspace: &Keyspace, values: &Values, key: u32, seq: u32) {
    put_frame(out, |out| {
        RequestHeader { xid, opcode: opcode::SET_DATA }.put(out);
        put_int(out, keyspace.path_bytes() as i32);
        keyspace.append_path(key, out);
        put_int(out, values.len() as i32);
        values.append(key, seq, out);
        put_int(out, -1);
    });
}
