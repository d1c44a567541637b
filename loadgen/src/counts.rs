//! Counters of one thread: latencies, errors, violations, and the figures of each second.
//!
//! Owns the numbers. Never interprets them: `report` does, from the merged counts. Correct because a thread
//! writes only its own [`Counts`]. Once a second it adds that second's figures to the shared [`Seconds`],
//! under a lock held only for the addition.

use crate::check::{Place, Violation, ViolationKind};
use crate::gaps::{GapFinder, Gaps, MARKS, Mark};
use crate::histogram::Latencies;
use crate::keyspace::Op;
use crate::session::{Moves, Trouble};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

/// Violations kept with their details. Further ones are only counted, so a broken server cannot fill the
/// memory.
pub const EXAMPLES_MAX: usize = 20;

/// All counters of one thread, or the sum over threads.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Latency per [`Op`]. Open loop: from the intended instant. Closed loop: from the instant of sending.
    pub latency: [Latencies; Op::ALL.len()],
    /// Latency per [`Op`] from the instant of sending. Recorded in an open loop only.
    pub from_send: [Latencies; Op::ALL.len()],
    /// Delay between the intended instant and the instant of sending. Recorded in an open loop only.
    pub lateness: Latencies,
    /// Operations per [`Op`] answered without error within the measured time.
    pub completed: [u64; Op::ALL.len()],
    /// Error replies by ZooKeeper error code.
    pub errors: BTreeMap<i32, u64>,
    /// Requests whose connection was lost before the reply. The server may or may not have executed them.
    pub outcome_unknown: u64,
    /// Of the requests in `outcome_unknown`, the writes.
    pub writes_unknown: u64,
    /// Requests of an open loop that were due and never sent, because all connections were full or down.
    pub unsent: u64,
    /// Number of violations of each kind.
    pub violations: BTreeMap<ViolationKind, u64>,
    /// The first [`EXAMPLES_MAX`] violations. The place is `None` if a violation has no single one.
    pub examples: Vec<(Violation, Option<Place>)>,
    /// Connection events, indexed by [`Trouble`].
    pub troubles: [u64; Trouble::ALL.len()],
    pub moves: Moves,
}

impl Counts {
    /// Counts `count` violations of one kind and keeps one of them as an example. `place` is where it was
    /// observed.
    pub fn report_violation(&mut self, violation: Violation, count: u64, place: Option<Place>) {
        *self.violations.entry(violation.kind).or_default() += count;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push((violation, place));
        }
    }

    pub fn violations_total(&self) -> u64 {
        self.violations.values().sum()
    }

    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn merge(&mut self, other: &Counts) {
        for op in Op::ALL {
            let op = op as usize;
            self.latency[op].merge(&other.latency[op]);
            self.from_send[op].merge(&other.from_send[op]);
            self.completed[op] += other.completed[op];
        }
        self.lateness.merge(&other.lateness);
        for (&code, &count) in &other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.outcome_unknown += other.outcome_unknown;
        self.writes_unknown += other.writes_unknown;
        self.unsent += other.unsent;
        self.moves.merge(&other.moves);
        for (&kind, &count) in &other.violations {
            *self.violations.entry(kind).or_default() += count;
        }
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room));
        for (mine, theirs) in self.troubles.iter_mut().zip(other.troubles) {
            *mine += theirs;
        }
    }
}

/// Figures of one second of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Number of the second, from 0.
    pub second: u32,
    /// Operations answered without error.
    pub operations: u64,
    /// Of the answered operations, the reads.
    #[serde(default)]
    pub reads: u64,
    /// Of the answered operations, the writes.
    #[serde(default)]
    pub writes: u64,
    pub errors: u64,
    /// Median latency in µs.
    pub p50_us: f64,
    /// 99th percentile of latency in µs.
    pub p99_us: f64,
    /// Longest latency in µs.
    pub max_us: f64,
}

/// One thread's figures of the current second.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Latencies of the operations answered in this second.
    pub latency: Latencies,
    pub errors: u64,
    /// Answers per millisecond. The first [`Self::length_ms`] elements count.
    marks: Vec<Mark>,
    /// At most [`MARKS`]. The last second of a run may be shorter.
    pub length_ms: usize,
}

impl Default for Interval {
    fn default() -> Self {
        let marks = vec![Mark::default(); MARKS];
        Self { latency: Latencies::interval(), errors: 0, marks, length_ms: MARKS }
    }
}

impl Interval {
    /// Records an operation that was answered without error `after_ns` after the beginning of the second.
    pub fn answered(&mut self, op: Op, after_ns: u64, latency_ns: u64) {
        self.latency.record(latency_ns);
        let mark = &mut self.marks[(after_ns / 1_000_000).min(MARKS as u64 - 1) as usize];
        match op {
            Op::Get => mark.reads += 1,
            Op::Set => mark.writes += 1,
        }
    }

    fn merge(&mut self, other: &Interval) {
        self.latency.merge(&other.latency);
        self.errors += other.errors;
        self.length_ms = self.length_ms.max(other.length_ms);
        for (mine, theirs) in self.marks.iter_mut().zip(&other.marks) {
            mine.reads += theirs.reads;
            mine.writes += theirs.writes;
        }
    }

    /// Clears all figures and sets the length to 0.
    pub fn reset(&mut self) {
        self.latency.reset();
        self.errors = 0;
        self.marks.fill(Mark::default());
        self.length_ms = 0;
    }

    fn marks(&self) -> &[Mark] {
        &self.marks[..self.length_ms.min(MARKS)]
    }
}

/// The seconds of a run, summed over all threads.
#[derive(Debug)]
pub struct Seconds {
    threads: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    done: Vec<Second>,
    /// Seconds that some threads have not reported yet, with the number of reports. The first is second
    /// `done.len()`.
    open: VecDeque<(usize, Interval)>,
    spare: Vec<Interval>,
    gaps: GapFinder,
}

impl Seconds {
    /// Collects seconds from `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self { threads, inner: Mutex::default() }
    }

    /// Collects seconds from `threads` threads. Silence longer than `bound_ms` is a gap.
    pub fn with_gaps(threads: usize, bound_ms: u64) -> Self {
        let inner = Inner { gaps: GapFinder::new(bound_ms), ..Inner::default() };
        Self { threads, inner: Mutex::new(inner) }
    }

    /// Adds one thread's figures of one second. Each thread reports each second once, in order.
    pub fn add(&self, second: u32, interval: &Interval) {
        let mut guard = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        let inner = &mut *guard;
        let Some(place) = (second as usize).checked_sub(inner.done.len()) else { return };
        while inner.open.len() <= place {
            let mut fresh = inner.spare.pop().unwrap_or_default();
            fresh.reset();
            inner.open.push_back((0, fresh));
        }
        let (reports, sum) = &mut inner.open[place];
        *reports += 1;
        sum.merge(interval);
        while inner.open.front().is_some_and(|(reports, _)| *reports == self.threads) {
            let Some((_, sum)) = inner.open.pop_front() else { break };
            sum.marks().iter().for_each(|&mark| inner.gaps.feed(mark));
            let total = |of: fn(&Mark) -> u32| sum.marks.iter().map(|mark| u64::from(of(mark))).sum();
            inner.done.push(Second {
                second: inner.done.len() as u32,
                operations: sum.latency.count(),
                reads: total(|mark| mark.reads),
                writes: total(|mark| mark.writes),
                errors: sum.errors,
                p50_us: sum.latency.quantile_us(0.5),
                p99_us: sum.latency.quantile_us(0.99),
                max_us: sum.latency.max_us(),
            });
            inner.spare.push(sum);
        }
    }

    /// Gaps of reads and gaps of writes in the reported seconds.
    pub fn gaps(&self) -> (Gaps, Gaps) {
        self.inner.lock().unwrap_or_else(|e| e.into_inner()).gaps.clone().finish()
    }

    /// Seconds that all threads have reported, starting at second `from`.
    pub fn done(&self, from: usize) -> Vec<Second> {
        let inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        inner.done.get(from..).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_counts_only_once_all_threads_reported_it() {
        let seconds = Seconds::new(2);
        let mut interval = Interval::default();
        interval.latency.record(1_000_000);
        seconds.add(0, &interval);
        seconds.add(1, &interval);
        assert!(seconds.done(0).is_empty());
        seconds.add(0, &interval);
        let done = seconds.done(0);
        assert_eq!((done.len(), done[0].operations), (1, 2));
        seconds.add(1, &Interval { errors: 3, ..Interval::default() });
        let done = seconds.done(1);
        assert_eq!((done[0].second, done[0].operations, done[0].errors), (1, 1, 3));
    }

    #[test]
    fn counts_add_up_and_keep_few_examples() {
        let mut one = Counts::default();
        let violation = Violation { kind: ViolationKind::StaleValue, key: 1, got: 1, wanted: 2 };
        for _ in 0..EXAMPLES_MAX + 5 {
            one.report_violation(violation, 1, None);
        }
        one.errors.insert(-102, 1);
        let mut sum = Counts::default();
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!(sum.violations_total(), 2 * (EXAMPLES_MAX as u64 + 5));
        assert_eq!(sum.examples.len(), EXAMPLES_MAX);
        assert_eq!(sum.errors_total(), 2);
    }
}
