//! A limit on how often a server opens its data directory again. Beyond it the server stops with an error,
//! since it would otherwise repeat for ever.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most reopenings within [`REOPENINGS_WINDOW`], since each closes all clients. A node that is far behind
/// needs one. It needs a second or third if the leader truncated its log before the node had caught up.
pub const REOPENINGS_MAX: usize = 5;

/// See [`REOPENINGS_MAX`].
pub const REOPENINGS_WINDOW: Duration = Duration::from_secs(60);

/// Times of the admitted reopenings within the window.
#[derive(Debug, Default)]
pub(super) struct Reopenings {
    times: VecDeque<Instant>,
}

impl Reopenings {
    /// Whether one more is admitted at `now`. A refused one does not count.
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
