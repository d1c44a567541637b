//! What one thread counted: latencies, errors, wrong answers, and the live figures of each second.
//!
//! Owns the numbers, not their meaning: reports are made from merged counts in `report`. A thread writes only its own
//! [`Counts`]; once a second it adds the second's figures to the shared [`Seconds`], behind a lock that nobody
//! holds for longer than such an addition.

use crate::check::{Place, Violation, ViolationKind};
use crate::gaps::{GapFinder, Gaps, MARKS, Mark};
use crate::histogram::Latencies;
use crate::keyspace::Op;
use crate::session::{Moves, Trouble};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

/// ViolationKind answers that are kept word for word; the others are only counted.
pub const EXAMPLES_MAX: usize = 20;

/// Everything that one thread, or all of them together, counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Latency per [`Op`] from the intended instant (closed loop: from sending).
    pub latency: [Latencies; Op::ALL.len()],
    /// The same from the instant of sending; filled in an open loop only.
    pub from_send: [Latencies; Op::ALL.len()],
    /// How late requests left after their intended instants; filled in an open loop only.
    pub lateness: Latencies,
    /// Operations answered without error within the measured time.
    pub completed: [u64; Op::ALL.len()],
    /// Error replies by code.
    pub errors: BTreeMap<i32, u64>,
    /// Requests whose connection was lost before the reply: nobody knows whether they were carried out.
    pub outcome_unknown: u64,
    /// How many of them were writes.
    pub writes_unknown: u64,
    /// Requests that an open loop intended to send and could not, because all connections were full or down.
    pub unsent: u64,
    /// ViolationKind answers by kind.
    pub violations: BTreeMap<ViolationKind, u64>,
    /// The first of them.
    pub examples: Vec<(Violation, Option<Place>)>,
    /// What happened to connections, by [`Trouble`].
    pub troubles: [u64; Trouble::ALL.len()],
    /// What became of sessions.
    pub moves: Moves,
}

impl Counts {
    /// Notes a wrong answer that stands for `count` of its kind, and where it was given if that is one place.
    pub fn report_violation(&mut self, violation: Violation, count: u64, place: Option<Place>) {
        *self.violations.entry(violation.kind).or_default() += count;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push((violation, place));
        }
    }

    /// All wrong answers.
    pub fn violations_total(&self) -> u64 {
        self.violations.values().sum()
    }

    /// All error replies.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds another thread's counts.
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

/// The figures of one second of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Which one, from 0.
    pub second: u32,
    /// Operations answered in it.
    pub operations: u64,
    /// How many of them were reads.
    #[serde(default)]
    pub reads: u64,
    /// How many were writes.
    #[serde(default)]
    pub writes: u64,
    /// Error replies in it.
    pub errors: u64,
    /// Median latency of those operations, µs.
    pub p50_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
    /// Longest, µs.
    pub max_us: f64,
}

/// What a thread collects for the second that runs.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Latencies of the operations answered in it.
    pub latency: Latencies,
    /// Error replies in it.
    pub errors: u64,
    /// Each of its milliseconds. A thousand, of which the first [`Self::length_ms`] count.
    marks: Vec<Mark>,
    /// How long it is: the last one of a run may be shorter than a second.
    pub length_ms: usize,
}

impl Default for Interval {
    fn default() -> Self {
        let marks = vec![Mark::default(); MARKS];
        Self { latency: Latencies::interval(), errors: 0, marks, length_ms: MARKS }
    }
}

impl Interval {
    /// An operation was answered without error `after_ns` after the interval's beginning.
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

    /// Empty again, without a length.
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

/// The seconds of a run, put together from all threads.
#[derive(Debug)]
pub struct Seconds {
    threads: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    done: Vec<Second>,
    /// Seconds that some threads have reported and some have not; the first is number `done.len()`.
    open: VecDeque<(usize, Interval)>,
    spare: Vec<Interval>,
    gaps: GapFinder,
}

impl Seconds {
    /// Waits for `threads` reports for each second.
    pub fn new(threads: usize) -> Self {
        Self { threads, inner: Mutex::default() }
    }

    /// The same with gaps from another length on.
    pub fn with_gaps(threads: usize, bound_ms: u64) -> Self {
        let inner = Inner { gaps: GapFinder::new(bound_ms), ..Inner::default() };
        Self { threads, inner: Mutex::new(inner) }
    }

    /// A thread's figures for the next second that it has not reported: the `second`th.
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

    /// Gaps of reads and of writes in those seconds.
    pub fn gaps(&self) -> (Gaps, Gaps) {
        self.inner.lock().unwrap_or_else(|e| e.into_inner()).gaps.clone().finish()
    }

    /// The seconds that all threads have reported, from the `from`th on.
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
