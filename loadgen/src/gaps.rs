//! Times without answers: gaps between successful operations of one kind, over all connections of a run.
//!
//! Owns the resolution (one millisecond) and the definition of a gap. Never reads a clock. Correct because
//! each millisecond is fed once and in order, after all threads have reported it. Memory is one running gap
//! and a bounded list.

use serde::{Deserialize, Serialize};

/// Milliseconds in the interval that threads report at once.
pub const MARKS: usize = 1000;
/// Default for the longest silence that is not yet a gap, ms. 50: two orders of magnitude above a write's
/// usual latency, and a sixth of the shortest election timeout.
pub const GAP_MS_DEFAULT: u64 = 50;
/// Gaps kept one by one; further ones only enter the sums. One every 60 ms for ten minutes.
const GAPS_MAX: usize = 10_000;

/// Operations answered without error in one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub reads: u32,
    pub writes: u32,
}

/// A time in which no operation of one kind was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Beginning, in milliseconds of the measured time.
    pub start_ms: u64,
    pub length_ms: u64,
    /// Reads answered within the gap.
    pub reads: u64,
    /// Writes answered within the gap.
    pub writes: u64,
}

/// All gaps of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    pub count: u64,
    pub longest_ms: u64,
    /// Sum of the lengths, ms.
    pub total_ms: u64,
    /// Reads answered within all gaps.
    pub reads: u64,
    /// Writes answered within all gaps.
    pub writes: u64,
    /// The first `GAPS_MAX` gaps, in order of time.
    pub list: Vec<Gap>,
}

impl Gaps {
    fn close(&mut self, running: Gap, bound_ms: u64) {
        if running.length_ms <= bound_ms {
            return;
        }
        self.count += 1;
        self.longest_ms = self.longest_ms.max(running.length_ms);
        self.total_ms += running.length_ms;
        self.reads += running.reads;
        self.writes += running.writes;
        if self.list.len() < GAPS_MAX {
            self.list.push(running);
        }
    }
}

/// Finds the gaps of reads and of writes.
#[derive(Clone, Debug)]
pub struct GapFinder {
    bound_ms: u64,
    at_ms: u64,
    reads: (Gap, Gaps),
    writes: (Gap, Gaps),
}

impl Default for GapFinder {
    fn default() -> Self {
        Self::new(GAP_MS_DEFAULT)
    }
}

impl GapFinder {
    /// A finder for which silence of up to `bound_ms` is not a gap.
    pub fn new(bound_ms: u64) -> Self {
        Self { bound_ms, at_ms: 0, reads: Default::default(), writes: Default::default() }
    }

    /// Feeds the next millisecond.
    pub fn feed(&mut self, mark: Mark) {
        let next_ms = self.at_ms + 1;
        for ((running, gaps), count) in [(&mut self.reads, mark.reads), (&mut self.writes, mark.writes)] {
            if count > 0 {
                gaps.close(*running, self.bound_ms);
                *running = Gap { start_ms: next_ms, ..Gap::default() };
            } else {
                running.length_ms += 1;
                running.reads += u64::from(mark.reads);
                running.writes += u64::from(mark.writes);
            }
        }
        self.at_ms = next_ms;
    }

    /// Gaps of reads and of writes. A gap that is still running ends here.
    pub fn finish(mut self) -> (Gaps, Gaps) {
        for (running, gaps) in [&mut self.reads, &mut self.writes] {
            gaps.close(*running, self.bound_ms);
        }
        (self.reads.1, self.writes.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gaps of a timeline. Each element is a number of milliseconds, with the reads and writes answered in
    /// each of them.
    fn found(timeline: &[(u64, u32, u32)]) -> (Gaps, Gaps) {
        let mut finder = GapFinder::default();
        for &(ms, reads, writes) in timeline {
            (0..ms).for_each(|_| finder.feed(Mark { reads, writes }));
        }
        finder.finish()
    }

    #[test]
    fn a_gap_has_its_beginning_its_length_and_what_was_answered_meanwhile() {
        let (reads, writes) = found(&[(100, 9, 1), (400, 5, 0), (100, 9, 1), (60, 0, 0), (10, 1, 1)]);
        let first = Gap { start_ms: 100, length_ms: 400, reads: 2000, writes: 0 };
        let second = Gap { start_ms: 600, length_ms: 60, reads: 0, writes: 0 };
        assert_eq!(writes.list, [first, second]);
        assert_eq!((writes.count, writes.longest_ms, writes.total_ms, writes.reads), (2, 400, 460, 2000));
        assert_eq!(reads.list, [second]);
    }

    #[test]
    fn a_short_silence_is_none_and_one_at_either_end_is() {
        let (_, writes) = found(&[(1, 0, 1), (GAP_MS_DEFAULT, 0, 0), (1, 0, 1)]);
        assert_eq!(writes.count, 0);
        let (_, writes) = found(&[(GAP_MS_DEFAULT + 1, 1, 0), (1, 0, 1), (70, 1, 0)]);
        let starts: Vec<_> = writes.list.iter().map(|gap| (gap.start_ms, gap.length_ms)).collect();
        assert_eq!(starts, [(0, GAP_MS_DEFAULT + 1), (GAP_MS_DEFAULT + 2, 70)]);
    }

    #[test]
    fn however_many_gaps_there_are_memory_is_bounded_and_sums_are_whole() {
        let mut finder = GapFinder::default();
        for _ in 0..GAPS_MAX + 5 {
            (0..=GAP_MS_DEFAULT).for_each(|_| finder.feed(Mark::default()));
            finder.feed(Mark { reads: 1, writes: 1 });
        }
        let (_, writes) = finder.finish();
        assert_eq!((writes.count, writes.list.len()), (GAPS_MAX as u64 + 5, GAPS_MAX));
    }
}
