//! Who has room on its disk, and what follows when too few have.
//!
//! Owns what each node said of its own disk (when it changes, and again with each of its rounds), and whether writes are shut: so many voters
//! have no room that nothing can be made durable on a majority. While they are, a command that was never handed to anybody is
//! refused at once, on every node, as a standalone server refuses it; what the leader took and did not propose is given back to its
//! node, which refuses it then; what may have been ordered is waited for, for [`UNDECIDED_NS`], and then its connection is closed.
//! Never stops reads: rounds need no disk. It stays correct because only the leader judges, from what it hears itself, and the others take its
//! word for no longer than its term; a wrong judgement refuses a write that could have been done, never answers one that was.
//!
//! That nobody can order any more what comes back: earlier leaders cannot, since this one has applied an entry of its own term, and
//! what is not in front of that is in no log that counts; this one has forgotten it, and takes nothing more of the node until that has
//! answered, behind everything that it sent before; a later one only gets what the node still has, which is in the term in which it is told.

use crate::consensus::config::AWAY_PATIENCE_NS;
use std::collections::BTreeMap;

/// What a node said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DiskReport {
    full: bool,
    at_ns: u64,
}

/// Writes are shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WritesStopped {
    /// By the leader of this term.
    term: u64,
    since_ns: u64,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct DiskSpace {
    /// When the log of this node ran out of room; `None` while it has some.
    pub(in crate::consensus) own_full_since: Option<u64>,
    /// Bounded by the node ids.
    said: BTreeMap<u8, DiskReport>,
    shut: Option<WritesStopped>,
    /// On the leader, in this term: since when voters that are away are missing beside those without room.
    missing: Option<(u64, u64)>,
    /// What all were told last: that this node's disk is full; that it leads and writes are shut.
    told: (bool, bool),
}

/// How many of the voters could log something now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) enum RoomForMajority {
    /// A majority, or so few without any full disk that it is not the disks that are missing.
    Enough,
    /// A majority if those come back that are away, perhaps for a moment: a restart, a lost connection.
    Missing,
    /// Too few have room, whoever comes back.
    TooFew,
}

impl RoomForMajority {
    /// Of so many voters, some full, some others away.
    pub(in crate::consensus) fn of(voters: usize, full: usize, away: usize) -> RoomForMajority {
        let majority = voters / 2 + 1;
        if full == 0 || voters - full - away >= majority {
            RoomForMajority::Enough
        } else if voters - full >= majority {
            RoomForMajority::Missing
        } else {
            RoomForMajority::TooFew
        }
    }
}

impl DiskSpace {
    /// A node says whether its disk is full.
    pub(in crate::consensus) fn heard(&mut self, node: u8, full: bool, now_ns: u64) {
        self.said.insert(node, DiskReport { full, at_ns: now_ns });
    }

    /// There is no link to the node any more.
    pub(in crate::consensus) fn link_down(&mut self, node: u8) {
        self.said.remove(&node);
    }

    /// Since when writes are shut.
    pub(in crate::consensus) fn writes_stopped_since(&self) -> Option<u64> {
        self.shut.map(|shut| shut.since_ns)
    }

    /// Whether the node has said that its disk is full.
    pub(in crate::consensus) fn is_full(&self, node: u8) -> bool {
        self.said.get(&node).is_some_and(|word| word.full)
    }

    /// Whether the node has said later than `since_ns` that it has room: disks of the same size fill up at the same time, and
    /// what it said before may have been its last word before that.
    pub(in crate::consensus) fn has_room_since(&self, node: u8, since_ns: u64) -> bool {
        self.said.get(&node).is_some_and(|word| !word.full && word.at_ns > since_ns)
    }

    /// The judgement of `term`. What waits in the shards' rings is refused or taken with the next look into them.
    pub(in crate::consensus) fn judge(&mut self, shut: bool, term: u64, now_ns: u64) {
        let since_ns = self.shut.map_or(now_ns, |shut| shut.since_ns);
        self.shut = shut.then_some(WritesStopped { term, since_ns });
    }

    /// On a node that does not lead: whether the leader of `term` says that writes are shut.
    pub(in crate::consensus) fn is_shut_by(&self, term: u64) -> bool {
        self.shut.is_some_and(|shut| shut.term == term)
    }

    /// Notes what all nodes are told now; whether that is news.
    pub(in crate::consensus) fn is_news(&mut self, full: bool, shut: bool) -> bool {
        std::mem::replace(&mut self.told, (full, shut)) != (full, shut)
    }

    /// No disk is full: the wait for voters that are away is over.
    pub(in crate::consensus) fn forget_missing(&mut self) {
        self.missing = None;
    }

    /// On the leader of `term`, in whose two halves of the voters (one of them empty, mostly) so many are able: whether nothing is made
    /// durable any more, for good or for too long.
    pub(in crate::consensus) fn is_hopeless(
        &mut self,
        able: [RoomForMajority; 2],
        term: u64,
        now_ns: u64,
    ) -> bool {
        if able.contains(&RoomForMajority::TooFew) {
            return true;
        }
        if !able.contains(&RoomForMajority::Missing) {
            self.missing = None;
            return false;
        }
        // What an earlier term of this leader had to wait for is over.
        let since_ns = self.missing.filter(|(of, _)| *of == term).map_or(now_ns, |(_, since_ns)| since_ns);
        self.missing = Some((term, since_ns));
        now_ns.saturating_sub(since_ns) >= AWAY_PATIENCE_NS
    }

    /// Nodes that have said that their disks are full.
    pub(in crate::consensus) fn full_nodes(&self) -> impl Iterator<Item = u8> {
        self.said.iter().filter(|(_, word)| word.full).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_that_is_away_is_waited_for_and_full_disks_alone_are_not() {
        assert_eq!(RoomForMajority::of(3, 0, 2), RoomForMajority::Enough, "that is no matter of disks");
        assert_eq!(RoomForMajority::of(3, 1, 0), RoomForMajority::Enough);
        assert_eq!(RoomForMajority::of(3, 1, 1), RoomForMajority::Missing);
        assert_eq!(
            (RoomForMajority::of(3, 2, 0), RoomForMajority::of(3, 2, 1)),
            (RoomForMajority::TooFew, RoomForMajority::TooFew)
        );
        assert_eq!(
            (RoomForMajority::of(5, 2, 0), RoomForMajority::of(5, 2, 1), RoomForMajority::of(5, 3, 0)),
            (RoomForMajority::Enough, RoomForMajority::Missing, RoomForMajority::TooFew)
        );
        assert_eq!(
            (RoomForMajority::of(1, 1, 0), RoomForMajority::of(0, 0, 0)),
            (RoomForMajority::TooFew, RoomForMajority::Enough)
        );
    }

    #[test]
    fn a_word_from_before_the_own_disk_was_full_is_no_word() {
        let mut room = DiskSpace::default();
        room.heard(2, false, 100);
        assert!(!room.has_room_since(2, 100) && room.has_room_since(2, 99) && !room.is_full(2));
        room.heard(2, true, 150);
        assert!(!room.has_room_since(2, 99) && room.is_full(2));
        room.link_down(2);
        assert!(!room.is_full(2) && room.full_nodes().next().is_none());
    }

    #[test]
    fn a_leader_waits_anew_for_who_is_away_when_it_leads_again() {
        let mut room = DiskSpace::default();
        let of_one = |able| [able, RoomForMajority::Enough];
        assert!(!room.is_hopeless(of_one(RoomForMajority::Missing), 1, 100));
        assert!(room.is_hopeless(of_one(RoomForMajority::Missing), 1, 100 + AWAY_PATIENCE_NS));
        assert!(!room.is_hopeless(of_one(RoomForMajority::Missing), 3, 100 + 9 * AWAY_PATIENCE_NS));
        assert!(!room.is_hopeless(of_one(RoomForMajority::Enough), 3, 100 + 10 * AWAY_PATIENCE_NS));
        assert!(!room.is_hopeless(of_one(RoomForMajority::Missing), 3, 100 + 10 * AWAY_PATIENCE_NS));
        assert!(room.is_hopeless(
            [RoomForMajority::Enough, RoomForMajority::TooFew],
            3,
            100 + 10 * AWAY_PATIENCE_NS
        ));
    }

    #[test]
    fn a_judgement_that_is_repeated_counts_from_the_first_time() {
        let mut room = DiskSpace::default();
        room.judge(true, 1, 10);
        // Another leader finds the same.
        room.judge(true, 2, 20);
        assert_eq!(room.writes_stopped_since(), Some(10));
        room.judge(false, 2, 30);
        assert_eq!(room.writes_stopped_since(), None);
        room.judge(true, 2, 40);
        assert_eq!(room.writes_stopped_since(), Some(40));
    }
}
