//! Schedule of an open loop: the instants at which it intends to send.
//!
//! Owns the schedule of one thread. Never reads a clock and never learns the fate of a request. Correct
//! because the schedule does not wait for the server. A request that leaves late keeps its intended
//! instant, and its latency counts from there. So a stalled server is charged for every request that was
//! due during the stall.

use crate::config::Arrivals;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp1};

/// Open loop of a run, and one thread's part of it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests per second of all threads together.
    pub rate: f64,
    pub arrivals: Arrivals,
    /// Index of this thread among the threads of the run.
    pub thread: usize,
    /// Number of threads of the run.
    pub threads: usize,
    /// Seed of this thread's random gaps.
    pub seed: u64,
}

/// One thread's share of an open loop's instants.
#[derive(Debug)]
pub struct Pacer {
    start_ns: u64,
    gap_ns: f64,
    /// Offset of the next instant from `start_ns`.
    next_ns: f64,
    sent: u64,
    spread: Spread,
}

#[derive(Debug)]
enum Spread {
    /// Offset of this thread from the first one, so that the threads alternate.
    Constant {
        phase_ns: f64,
    },
    Poisson(Box<SmallRng>),
}

impl Pacer {
    /// A schedule that begins at `start_ns`.
    pub fn new(start_ns: u64, pace: Pace) -> Self {
        let Pace { rate, arrivals, thread, threads, seed } = pace;
        let gap_ns = 1e9 * threads as f64 / rate;
        let spread = match arrivals {
            Arrivals::Constant => Spread::Constant { phase_ns: gap_ns * thread as f64 / threads as f64 },
            Arrivals::Poisson => Spread::Poisson(Box::new(SmallRng::seed_from_u64(seed))),
        };
        let mut pacer = Self { start_ns, gap_ns, next_ns: 0.0, sent: 0, spread };
        pacer.plan();
        pacer
    }

    /// The next intended instant.
    pub fn intended_ns(&self) -> u64 {
        self.start_ns + self.next_ns as u64
    }

    /// Moves on to the next instant, once the present one was used.
    pub fn advance(&mut self) {
        self.sent += 1;
        self.plan();
    }

    fn plan(&mut self) {
        match &mut self.spread {
            // Computed from the count and not from the previous instant, so that rounding errors do not add
            // up.
            Spread::Constant { phase_ns } => self.next_ns = *phase_ns + self.sent as f64 * self.gap_ns,
            Spread::Poisson(rng) => {
                let gap: f64 = Exp1.sample(rng);
                self.next_ns += gap * self.gap_ns;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(
        start_ns: u64,
        rate: f64,
        arrivals: Arrivals,
        thread: usize,
        threads: usize,
        seed: u64,
    ) -> Pacer {
        Pacer::new(start_ns, Pace { rate, arrivals, thread, threads, seed })
    }

    fn instants(pacer: &mut Pacer, count: usize) -> Vec<u64> {
        let next = |pacer: &mut Pacer| {
            let at = pacer.intended_ns();
            pacer.advance();
            at
        };
        (0..count).map(|_| next(pacer)).collect()
    }

    #[test]
    fn a_metronome_does_not_drift() {
        // Three per second have no exact gap in nanoseconds.
        let mut pacer = pacer(1_000, 3.0, Arrivals::Constant, 0, 1, 0);
        let at = instants(&mut pacer, 3_000_001);
        assert_eq!(at[0], 1_000);
        assert_eq!(at[3], 1_000_001_000);
        assert_eq!(at[3_000_000], 1_000 + 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn threads_share_the_metronome_evenly() {
        let mut all: Vec<u64> =
            (0..4).flat_map(|t| instants(&mut pacer(0, 4000.0, Arrivals::Constant, t, 4, 0), 100)).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|w| w[1] - w[0] == 250_000), "{all:?}");
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_users() {
        let rate = 50_000.0;
        let mut pacer = pacer(0, rate, Arrivals::Poisson, 0, 1, 11);
        let count = 500_000;
        let at = instants(&mut pacer, count);
        let seconds = *at.last().unwrap() as f64 / 1e9;
        assert!((count as f64 / seconds / rate - 1.0).abs() < 0.01);
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        // Exponential gaps: the deviation equals the mean, and a share of 1/e is longer than the mean.
        assert!((deviation / mean - 1.0).abs() < 0.02, "{deviation} against {mean}");
        let longer = gaps.iter().filter(|&&g| g > mean).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1f64).exp()).abs() < 0.01, "{longer}");
    }

    #[test]
    fn the_schedule_does_not_wait_for_anyone() {
        let mut pacer = pacer(0, 1000.0, Arrivals::Constant, 0, 1, 0);
        // However late the caller asks, the next instant follows the last one used.
        assert_eq!(pacer.intended_ns(), 0);
        pacer.advance();
        assert_eq!(pacer.intended_ns(), 1_000_000);
    }
}
