//! Syncs: read rounds of the group, shared by all who wait.
//!
//! Owns who waits for which round and for which of the node's own commands. Never answers from a round that began
//! before a sync arrived. It stays correct because a sync joins a round before the group is asked, and is answered only
//! once this node has applied the round's index and knows the result of every command that was submitted before it. A
//! round that the group lost (Raft drops them without a word while it has no leader) is begun again under another number.

use super::config::READ_ROUND_RETRY_NS;
use crate::commit::Ticket;
use crate::sim::{Mutation, mutated};

/// Who waits, and for which number of the node's stream.
type Waiting = (Ticket, u64);

#[derive(Debug)]
struct Round {
    number: u64,
    begun_ns: u64,
    members: Vec<Waiting>,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    arrived: Vec<Waiting>,
    round: Option<Round>,
    /// With the index at which they may be answered, in the order of rounds.
    confirmed: Vec<(Waiting, u64)>,
    last_round: u64,
}

impl Syncs {
    /// Syncs arrived, each behind a number of the stream.
    pub(super) fn arrive(&mut self, syncs: &mut Vec<Waiting>) {
        self.arrived.append(syncs);
    }

    /// The number of a round to begin now, if one is due: its members are all that arrived before.
    pub(super) fn begin(&mut self, now_ns: u64) -> Option<u64> {
        match &mut self.round {
            None if self.arrived.is_empty() => None,
            Some(round) if now_ns < round.begun_ns.saturating_add(READ_ROUND_RETRY_NS) => None,
            lost => {
                // Those who came since the lost round began came before the new one: they join it.
                let mut members = lost.take().map_or_else(Vec::new, |r| r.members);
                members.append(&mut self.arrived);
                self.last_round += 1;
                self.round = Some(Round { number: self.last_round, begun_ns: now_ns, members });
                Some(self.last_round)
            }
        }
    }

    /// The group confirmed a round: its members may be answered from `index` on.
    pub(super) fn confirm(&mut self, number: u64, index: u64) {
        if self.round.as_ref().is_some_and(|r| r.number == number) {
            let members = self.round.take().map_or_else(Vec::new, |r| r.members);
            self.confirmed.extend(members.into_iter().map(|m| (m, index)));
        }
    }

    /// Takes those who may be answered: everything up to `applied` is applied, and every command up to `resolved` has
    /// its result in this commit or an earlier one.
    pub(super) fn ready(&mut self, applied: u64, resolved: u64) -> impl Iterator<Item = Ticket> {
        self.confirmed
            .extract_if(.., move |((_, behind), index)| {
                (*index <= applied || mutated(Mutation::StaleSync)) && *behind <= resolved
            })
            .map(|((ticket, _), _)| ticket)
    }

    /// When a round must be begun again at the latest.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.round.as_ref().map(|r| r.begun_ns.saturating_add(READ_ROUND_RETRY_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(token: u64) -> Ticket {
        Ticket { shard: 0, token }
    }

    fn ready(s: &mut Syncs, applied: u64, resolved: u64) -> Vec<u64> {
        s.ready(applied, resolved).map(|t| t.token).collect()
    }

    #[test]
    fn a_round_begun_before_a_sync_does_not_serve_it() {
        let mut s = Syncs::default();
        s.arrive(&mut vec![(ticket(1), 0)]);
        assert_eq!(s.begin(0), Some(1));
        s.arrive(&mut vec![(ticket(2), 0)]);
        assert_eq!(s.begin(1), None);
        s.confirm(1, 5);
        assert_eq!(ready(&mut s, 5, 0), [1]);
        assert_eq!(s.begin(2), Some(2));
        s.confirm(2, 6);
        assert!(ready(&mut s, 5, 0).is_empty());
        assert_eq!(ready(&mut s, 6, 0), [2]);
        assert_eq!((s.begin(3), s.deadline_ns()), (None, None));
    }

    #[test]
    fn a_lost_round_is_begun_again_and_its_late_answer_counts_for_nothing() {
        let mut s = Syncs::default();
        s.arrive(&mut vec![(ticket(1), 0)]);
        s.begin(0);
        s.arrive(&mut vec![(ticket(2), 0)]);
        assert_eq!(s.begin(READ_ROUND_RETRY_NS), Some(2));
        s.confirm(1, 5);
        assert!(ready(&mut s, 9, 0).is_empty());
        s.confirm(2, 6);
        assert_eq!(ready(&mut s, 9, 0), [1, 2]);
    }

    #[test]
    fn a_sync_waits_for_the_commands_before_it() {
        let mut s = Syncs::default();
        s.arrive(&mut vec![(ticket(1), 7)]);
        s.begin(0);
        s.confirm(1, 5);
        assert!(ready(&mut s, 5, 6).is_empty());
        assert_eq!(ready(&mut s, 5, 7), [1]);
    }
}
