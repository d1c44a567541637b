//! When nothing was answered: gaps between successful operations of one kind, over all connections of a run.
//!
//! Owns the resolution (a millisecond) and what counts as a gap. Fed with each millisecond once and in order, after all
//! threads have reported it, so it needs no clock and no sorting; it keeps one running gap and a bounded list.

use serde::{Deserialize, Serialize};

/// Milliseconds in the interval that threads report at once.
pub const MARKS: usize = 1000;
/// A shorter silence is no gap unless another bound is asked for: two orders of magnitude above a write's usual time, a sixth of
/// the shortest election timeout.
pub const GAP_MS_DEFAULT: u64 = 50;
/// Gaps that are kept one by one; beyond this they are only added up. One every 60 ms for ten minutes.
const GAPS_MAX: usize = 10_000;

/// Operations answered without error in one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Reads.
    pub reads: u32,
    /// Writes.
    pub writes: u32,
}

/// A time in which no operation of one kind was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began, in milliseconds of the measured time.
    pub start_ms: u64,
    /// How long it was.
    pub length_ms: u64,
    /// Reads answered meanwhile.
    pub reads: u64,
    /// Writes answered meanwhile.
    pub writes: u64,
}

/// All gaps of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    /// How many.
    pub count: u64,
    /// The longest, ms.
    pub longest_ms: u64,
    /// All together, ms.
    pub total_ms: u64,
    /// Reads answered in all of them.
    pub reads: u64,
    /// Writes answered in all of them.
    pub writes: u64,
    /// One by one (the first ten thousand).
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
    /// A silence of `bound_ms` and less is no gap.
    pub fn new(bound_ms: u64) -> Self {
        Self { bound_ms, at_ms: 0, reads: Default::default(), writes: Default::default() }
    }

    /// The next millisecond.
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

    /// Gaps of reads and of writes when nothing more comes: what still runs ends here.
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

    /// Milliseconds in a row: how many, and what was answered in each.
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
