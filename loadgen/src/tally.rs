//! What one thread counted: latencies, errors, wrong answers, and the live figures of each second.
//!
//! Owns the numbers, not their meaning: reports are made from merged tallies in `report`. A thread writes only its own
//! [`Tally`]; once a second it adds the second's figures to the shared [`Seconds`], behind a lock that nobody
//! holds for longer than such an addition.

use crate::check::{Accusation, Wrong};
use crate::histogram::Latencies;
use crate::keyspace::Op;
use crate::session::Trouble;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

/// Wrong answers that are kept word for word; the others are only counted.
pub const EXAMPLES_MAX: usize = 20;

/// Everything that one thread, or all of them together, counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
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
    /// Requests that an open loop intended to send and could not, because all connections were full or down.
    pub unsent: u64,
    /// Wrong answers by kind.
    pub wrong: BTreeMap<Wrong, u64>,
    /// The first of them.
    pub examples: Vec<Accusation>,
    /// What happened to connections, by [`Trouble`].
    pub troubles: [u64; Trouble::ALL.len()],
}

impl Tally {
    /// Notes a wrong answer that stands for `count` of its kind.
    pub fn accuse(&mut self, accusation: Accusation, count: u64) {
        *self.wrong.entry(accusation.wrong).or_default() += count;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(accusation);
        }
    }

    /// All wrong answers.
    pub fn wrong_total(&self) -> u64 {
        self.wrong.values().sum()
    }

    /// All error replies.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds another thread's counts.
    pub fn merge(&mut self, other: &Tally) {
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
        self.unsent += other.unsent;
        for (&wrong, &count) in &other.wrong {
            *self.wrong.entry(wrong).or_default() += count;
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
}

impl Default for Interval {
    fn default() -> Self {
        Self { latency: Latencies::interval(), errors: 0 }
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
}

impl Seconds {
    /// Waits for `threads` reports for each second.
    pub fn new(threads: usize) -> Self {
        Self { threads, inner: Mutex::default() }
    }

    /// A thread's figures for the next second that it has not reported: the `second`th.
    pub fn add(&self, second: u32, interval: &Interval) {
        let mut guard = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        let inner = &mut *guard;
        let Some(place) = (second as usize).checked_sub(inner.done.len()) else { return };
        while inner.open.len() <= place {
            let fresh = inner.spare.pop().unwrap_or_default();
            inner.open.push_back((0, fresh));
        }
        let (reports, sum) = &mut inner.open[place];
        *reports += 1;
        sum.latency.merge(&interval.latency);
        sum.errors += interval.errors;
        while inner.open.front().is_some_and(|(reports, _)| *reports == self.threads) {
            let Some((_, mut sum)) = inner.open.pop_front() else { break };
            inner.done.push(Second {
                second: inner.done.len() as u32,
                operations: sum.latency.count(),
                errors: sum.errors,
                p50_us: sum.latency.quantile_us(0.5),
                p99_us: sum.latency.quantile_us(0.99),
                max_us: sum.latency.max_us(),
            });
            sum.latency.reset();
            sum.errors = 0;
            inner.spare.push(sum);
        }
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
    fn tallies_add_up_and_keep_few_examples() {
        let mut one = Tally::default();
        let wrong = Accusation { wrong: Wrong::StaleValue, key: 1, got: 1, wanted: 2 };
        for _ in 0..EXAMPLES_MAX + 5 {
            one.accuse(wrong, 1);
        }
        one.errors.insert(-102, 1);
        let mut sum = Tally::default();
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!(sum.wrong_total(), 2 * (EXAMPLES_MAX as u64 + 5));
        assert_eq!(sum.examples.len(), EXAMPLES_MAX);
        assert_eq!(sum.errors_total(), 2);
    }
}
