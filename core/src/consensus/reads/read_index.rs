//! The leader's read indexes, shared by the waiting rounds of all nodes.
//!
//! Owns the rounds that each read index will confirm, while Raft asks the quorum. Never confirms a round by
//! a read index that began before the round arrived.
//!
//! Correct because rounds gather while others are under way, and join the next read index. A read index
//! that Raft lost expires, and its nodes ask again.

use crate::consensus::config::{READ_ROUND_RETRY_NS, READS_IN_FLIGHT_MAX};
use crate::mutation::{Mutation, mutated};
use std::collections::VecDeque;

/// One node's round, waiting for a read index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct RoundRequest {
    pub(in crate::consensus) node: u8,
    /// Number of the round, as the node counts.
    pub(in crate::consensus) number: u64,
    /// The round must not count before this entry is applied, whatever Raft confirms. It touches a session
    /// that expires in this entry.
    pub(in crate::consensus) floor: u64,
}

#[derive(Debug)]
struct Read {
    number: u64,
    begun_ns: u64,
    requests: Vec<RoundRequest>,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Reads {
    waiting: Vec<RoundRequest>,
    reads: VecDeque<Read>,
    last: u64,
}

impl Reads {
    /// Forgets all rounds and read indexes: this node does not lead any more.
    pub(in crate::consensus) fn clear(&mut self) {
        self.waiting.clear();
        self.reads.clear();
    }

    /// A node asks for a round. An older waiting round of the same node is dropped: the node gave up on it.
    pub(in crate::consensus) fn request(&mut self, request: RoundRequest) {
        self.waiting.retain(|w| w.node != request.node);
        self.waiting.push(request);
        debug_assert!(self.is_consistent());
    }

    /// The node's link is gone. Its next start may have another disk and the same numbers. A confirmation
    /// of an earlier round must not count for that start.
    pub(in crate::consensus) fn forget(&mut self, node: u8) {
        let requests = self.reads.iter_mut().map(|read| &mut read.requests);
        requests.chain([&mut self.waiting]).for_each(|requests| requests.retain(|a| a.node != node));
    }

    /// Returns the read index to begin now, if one is due.
    pub(in crate::consensus) fn begin(&mut self, now_ns: u64) -> Option<u64> {
        debug_assert!(self.is_consistent());
        while self.reads.pop_front_if(|r| now_ns >= r.begun_ns.saturating_add(READ_ROUND_RETRY_NS)).is_some()
        {
        }
        if self.waiting.is_empty() || self.reads.len() >= READS_IN_FLIGHT_MAX {
            return None;
        }
        self.last += 1;
        let read = Read { number: self.last, begun_ns: now_ns, requests: std::mem::take(&mut self.waiting) };
        self.reads.push_back(read);
        debug_assert!(self.is_consistent());
        Some(self.last)
    }

    /// Raft confirmed a read index. Returns (node, number of its round, index from which on that round
    /// counts).
    pub(in crate::consensus) fn confirm(&mut self, number: u64, index: u64) -> Vec<(u8, u64, u64)> {
        debug_assert!(self.is_consistent());
        let Some(at) = self.reads.iter().position(|r| r.number == number) else { return Vec::new() };
        let index = if mutated(Mutation::WrongReadIndex) { index.saturating_sub(8) } else { index };
        let read = self.reads.remove(at);
        debug_assert!(self.is_consistent());
        let requests = read.map_or_else(Vec::new, |r| r.requests);
        requests.into_iter().map(|a| (a.node, a.number, index.max(a.floor))).collect()
    }

    /// When the oldest read index under way expires, if rounds wait for the next.
    pub(in crate::consensus) fn deadline_ns(&self) -> Option<u64> {
        let waits = !self.waiting.is_empty();
        self.reads.front().filter(|_| waits).map(|r| r.begun_ns.saturating_add(READ_ROUND_RETRY_NS))
    }

    /// Read indexes under way are few, in the order of their numbers, and a node waits with one round only.
    fn is_consistent(&self) -> bool {
        let ordered = self.reads.iter().is_sorted_by(|a, b| a.number < b.number);
        let newest = self.reads.back().is_none_or(|read| read.number <= self.last);
        let once = |w: &RoundRequest| self.waiting.iter().filter(|other| other.node == w.node).count() == 1;
        ordered && newest && self.reads.len() <= READS_IN_FLIGHT_MAX && self.waiting.last().is_none_or(once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(node: u8, number: u64) -> RoundRequest {
        RoundRequest { node, number, floor: 0 }
    }

    #[test]
    fn a_round_is_never_confirmed_by_a_read_index_begun_before_it() {
        let mut r = Reads::default();
        r.request(request(1, 1));
        assert_eq!(r.begin(0), Some(1));
        r.request(request(2, 1));
        assert_eq!(r.confirm(1, 9), [(1, 1, 9)]);
        assert_eq!(r.begin(1), Some(2));
        assert_eq!(r.confirm(2, 9), [(2, 1, 9)]);
        assert!(r.confirm(2, 9).is_empty());
    }

    #[test]
    fn a_round_of_a_lost_disk_is_not_confirmed_to_the_next_disk_of_the_node() {
        let mut r = Reads::default();
        r.request(request(1, 1));
        r.request(request(2, 1));
        assert_eq!(r.begin(0), Some(1));
        r.request(request(2, 2));
        r.forget(2);
        assert_eq!(r.confirm(1, 9), [(1, 1, 9)]);
        assert_eq!(r.begin(1), None);
    }

    #[test]
    fn what_raft_lost_does_not_hold_up_the_rest() {
        let mut r = Reads::default();
        for node in 1..=READS_IN_FLIGHT_MAX as u8 {
            r.request(request(node, 1));
            assert!(r.begin(0).is_some());
        }
        r.request(request(1, 2));
        assert_eq!((r.begin(1), r.deadline_ns()), (None, Some(READ_ROUND_RETRY_NS)));
        assert!(r.begin(READ_ROUND_RETRY_NS).is_some());
    }

    #[test]
    fn a_round_that_touches_an_expiring_session_counts_from_its_expiry_on() {
        let mut r = Reads::default();
        r.request(RoundRequest { node: 1, number: 1, floor: 12 });
        r.begin(0);
        assert_eq!(r.confirm(1, 9), [(1, 1, 12)]);
    }
}
