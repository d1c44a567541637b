//! The leader's read indexes, shared by the rounds of all nodes that wait.
//!
//! Owns who asked for which round while Raft asks the quorum. Never answers from a read index that was begun before the
//! question came. It stays correct because questions gather while others are under way and go with the next one, and
//! because what Raft lost is forgotten after a while: whoever asked asks again.

use crate::consensus::config::{READ_ROUND_RETRY_NS, READS_IN_FLIGHT_MAX};
use crate::mutation::{Mutation, mutated};
use std::collections::VecDeque;

/// One node's round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Asked {
    pub(in crate::consensus) node: u8,
    /// The node's own number.
    pub(in crate::consensus) number: u64,
    /// The round must not count before this entry is applied, whatever Raft says: it touches a session whose expiry
    /// stands there.
    pub(in crate::consensus) floor: u64,
}

#[derive(Debug)]
struct Read {
    number: u64,
    begun_ns: u64,
    asked: Vec<Asked>,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Reads {
    waiting: Vec<Asked>,
    reads: VecDeque<Read>,
    last: u64,
}

impl Reads {
    /// Forgets everybody: this node does not lead any more.
    pub(in crate::consensus) fn clear(&mut self) {
        self.waiting.clear();
        self.reads.clear();
    }

    /// A node asks. An older question of the same node is worth nothing any more: it asked again because it had no answer.
    pub(in crate::consensus) fn ask(&mut self, asked: Asked) {
        self.waiting.retain(|w| w.node != asked.node);
        self.waiting.push(asked);
    }

    /// The node's link is gone. Its next start may come with another disk and ask under the same numbers: what was asked before
    /// must not be taken for an answer to that.
    pub(in crate::consensus) fn forget(&mut self, node: u8) {
        let asked = self.reads.iter_mut().map(|read| &mut read.asked);
        asked.chain([&mut self.waiting]).for_each(|asked| asked.retain(|a| a.node != node));
    }

    /// The read index to begin now, if one is due.
    pub(in crate::consensus) fn begin(&mut self, now_ns: u64) -> Option<u64> {
        while self.reads.pop_front_if(|r| now_ns >= r.begun_ns.saturating_add(READ_ROUND_RETRY_NS)).is_some()
        {
        }
        if self.waiting.is_empty() || self.reads.len() >= READS_IN_FLIGHT_MAX {
            return None;
        }
        self.last += 1;
        let read = Read { number: self.last, begun_ns: now_ns, asked: std::mem::take(&mut self.waiting) };
        self.reads.push_back(read);
        Some(self.last)
    }

    /// Raft confirmed one: (node, its number, the index from which on its round counts).
    pub(in crate::consensus) fn confirm(&mut self, number: u64, index: u64) -> Vec<(u8, u64, u64)> {
        let Some(at) = self.reads.iter().position(|r| r.number == number) else { return Vec::new() };
        let index = if mutated(Mutation::WrongReadIndex) { index.saturating_sub(8) } else { index };
        let read = self.reads.remove(at);
        let asked = read.map_or_else(Vec::new, |r| r.asked);
        asked.into_iter().map(|a| (a.node, a.number, index.max(a.floor))).collect()
    }

    /// When one under way is given up.
    pub(in crate::consensus) fn deadline_ns(&self) -> Option<u64> {
        let waits = !self.waiting.is_empty();
        self.reads.front().filter(|_| waits).map(|r| r.begun_ns.saturating_add(READ_ROUND_RETRY_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(node: u8, number: u64) -> Asked {
        Asked { node, number, floor: 0 }
    }

    #[test]
    fn a_question_is_never_answered_by_an_index_that_was_asked_for_before_it() {
        let mut r = Reads::default();
        r.ask(asked(1, 1));
        assert_eq!(r.begin(0), Some(1));
        r.ask(asked(2, 1));
        assert_eq!(r.confirm(1, 9), [(1, 1, 9)]);
        assert_eq!(r.begin(1), Some(2));
        assert_eq!(r.confirm(2, 9), [(2, 1, 9)]);
        assert!(r.confirm(2, 9).is_empty());
    }

    #[test]
    fn an_answer_to_a_lost_disk_is_none_to_the_next_one_of_the_node() {
        let mut r = Reads::default();
        r.ask(asked(1, 1));
        r.ask(asked(2, 1));
        assert_eq!(r.begin(0), Some(1));
        r.ask(asked(2, 2));
        r.forget(2);
        assert_eq!(r.confirm(1, 9), [(1, 1, 9)]);
        assert_eq!(r.begin(1), None);
    }

    #[test]
    fn what_raft_lost_does_not_hold_up_the_rest() {
        let mut r = Reads::default();
        for node in 1..=READS_IN_FLIGHT_MAX as u8 {
            r.ask(asked(node, 1));
            assert!(r.begin(0).is_some());
        }
        r.ask(asked(1, 2));
        assert_eq!((r.begin(1), r.deadline_ns()), (None, Some(READ_ROUND_RETRY_NS)));
        assert!(r.begin(READ_ROUND_RETRY_NS).is_some());
    }

    #[test]
    fn a_round_that_touches_a_dying_session_counts_from_its_death_on() {
        let mut r = Reads::default();
        r.ask(Asked { node: 1, number: 1, floor: 12 });
        r.begin(0);
        assert_eq!(r.confirm(1, 9), [(1, 1, 12)]);
    }
}
