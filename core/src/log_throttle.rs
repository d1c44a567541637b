//! A limit on the rate of one recurring log line. The caller decides which events are the same, and passes
//! the time. Suppressed lines are counted, and the count is reported with the next line.

#![forbid(unsafe_code)]

/// The last admission, and the lines suppressed since.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    said_at: Option<u64>,
    held_back: u64,
}

impl LogThrottle {
    /// Admits a line if the last one is at least `pause` ago. Gives the number of lines suppressed in
    /// between; `None`: suppress this line. `now` and `pause` share any unit.
    pub(crate) fn admit(&mut self, now: u64, pause: u64) -> Option<u64> {
        if self.said_at.is_some_and(|at| now < at.saturating_add(pause)) {
            self.held_back += 1;
            return None;
        }
        self.said_at = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_and_again_is_said_once_each_pause_with_its_count() {
        let mut complaint = LogThrottle::default();
        assert_eq!(complaint.admit(0, 10), Some(0));
        assert_eq!((complaint.admit(1, 10), complaint.admit(9, 10)), (None, None));
        assert_eq!((complaint.admit(10, 10), complaint.admit(20, 10)), (Some(2), Some(0)));
    }
}
