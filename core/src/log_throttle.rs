//! What was said in the log of one thing, so that it is not said in a loop.
//!
//! Owns when it was said last, by whatever clock its owner has, and how often it came since. Never decides what is wrong, nor
//! what counts as the same thing. It stays correct because what it holds back is counted, and told with the next line.

#![forbid(unsafe_code)]

/// See the module doc.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    said_at: Option<u64>,
    held_back: u64,
}

impl LogThrottle {
    /// Whether the log shall have it, at least `pause` after it had it last; the count of lines that it did not get.
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
