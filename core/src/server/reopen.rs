//! How often a server may open its data directory again.
//!
//! Owns the times of the last reopenings. Never opens anything. It stays correct because only what was admitted counts, and
//! because the server stops with an error where it would otherwise turn in a circle.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Reopenings within [`REOPENINGS_WINDOW`]. A node that is far behind needs one; a second and a third if the log was let go
/// before it had caught up. More of them mean that something does not work, and each drops all clients.
pub const REOPENINGS_MAX: usize = 5;

/// See [`REOPENINGS_MAX`].
pub const REOPENINGS_WINDOW: Duration = Duration::from_secs(60);

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Reopenings {
    times: VecDeque<Instant>,
}

impl Reopenings {
    /// Whether one more is admitted.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        self.times.retain(|&at| now.saturating_duration_since(at) < REOPENINGS_WINDOW);
        let admitted = self.times.len() < REOPENINGS_MAX;
        if admitted {
            self.times.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_turns_in_a_circle_is_stopped_and_one_that_falls_behind_now_and_then_is_not() {
        let mut reopenings = Reopenings::default();
        let begin = Instant::now();
        for _ in 0..REOPENINGS_MAX {
            assert!(reopenings.admit(begin));
        }
        assert!(!reopenings.admit(begin + REOPENINGS_WINDOW / 2));
        for n in 1..20 {
            assert!(reopenings.admit(begin + REOPENINGS_WINDOW * n));
        }
    }
}
