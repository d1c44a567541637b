//! Free space on the disks of all nodes, and whether writes are stopped because too few voters have some.
//!
//! Owns each node's last disk report, and the leader's judgement. A node reports when its disk fills up or
//! has room again, and with each of its rounds. Writes are stopped while so many voters have no room that
//! nothing becomes durable on a majority. Then every node refuses at once a command that never left it. The
//! leader returns what it took and did not propose, and the command's node refuses it. A command that may
//! have been ordered waits for [`UNDECIDED_NS`](crate::consensus::config::UNDECIDED_NS); then its connection
//! is closed.
//!
//! Never stops reads: rounds need no disk.
//!
//! Correct because only the leader judges, from what it hears itself, and the other nodes take its judgement
//! for no longer than its term. A wrong judgement refuses a write that could have been done. It never answers
//! one that was ordered.
//!
//! A returned command can never commit later:
//!
//! - Earlier leaders cannot order it. This leader has applied an entry of its own term, so an older entry
//!   that is not before that one is lost.
//! - This leader dropped the command. It ignores forwards from the node until the node acknowledges the
//!   return.
//! - Later leaders receive only what the node still holds, in the term in which the node sends it.

use crate::consensus::config::AWAY_PATIENCE_NS;
use std::collections::BTreeMap;

/// The last report of a node about its own disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DiskReport {
    full: bool,
    at_ns: u64,
}

/// A judgement of the leader that writes are stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WritesStopped {
    /// Term of the leader that judged so.
    term: u64,
    since_ns: u64,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct DiskSpace {
    /// When the log of this node ran out of room; `None` while it has some.
    pub(in crate::consensus) own_full_since: Option<u64>,
    /// Last report of each node with a link. Bounded by the node ids.
    reports: BTreeMap<u8, DiskReport>,
    stopped: Option<WritesStopped>,
    /// On the leader, (term, time): when voters without a link first made up, with the full ones, too many
    /// for a majority.
    missing: Option<(u64, u64)>,
    /// Last message to all nodes: (this disk is full, this node leads and writes are stopped).
    told: (bool, bool),
}

/// Whether a majority of the voters could log something now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) enum RoomForMajority {
    /// A majority has room, or no disk is full and other things are missing.
    Enough,
    /// A majority has room once the voters without a link are back. They may be restarting.
    Missing,
    /// Too many disks are full, even with every voter back.
    TooFew,
}

impl RoomForMajority {
    /// Counts `voters`, of which `full` have a full disk and `away` other ones have no link.
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
    /// Takes the report of a node about its disk.
    pub(in crate::consensus) fn heard(&mut self, node: u8, full: bool, now_ns: u64) {
        self.reports.insert(node, DiskReport { full, at_ns: now_ns });
    }

    /// Forgets the report of a node without a link.
    pub(in crate::consensus) fn link_down(&mut self, node: u8) {
        self.reports.remove(&node);
    }

    /// When writes were stopped, ns; `None` while they go on.
    pub(in crate::consensus) fn writes_stopped_since(&self) -> Option<u64> {
        self.stopped.map(|stopped| stopped.since_ns)
    }

    /// Whether the node has said that its disk is full.
    pub(in crate::consensus) fn is_full(&self, node: u8) -> bool {
        self.reports.get(&node).is_some_and(|report| report.full)
    }

    /// Whether the node has reported room later than `since_ns`. Disks of the same size fill up at the same
    /// time. An earlier report may be the last one before that disk filled up too.
    pub(in crate::consensus) fn has_room_since(&self, node: u8, since_ns: u64) -> bool {
        self.reports.get(&node).is_some_and(|report| !report.full && report.at_ns > since_ns)
    }

    /// Takes the judgement of the leader of `term`. Commands in the shards' rings are refused or taken in the
    /// next turn.
    pub(in crate::consensus) fn judge(&mut self, shut: bool, term: u64, now_ns: u64) {
        let since_ns = self.stopped.map_or(now_ns, |stopped| stopped.since_ns);
        self.stopped = shut.then_some(WritesStopped { term, since_ns });
    }

    /// On a node that does not lead: whether the leader of `term` says that writes are shut.
    pub(in crate::consensus) fn is_shut_by(&self, term: u64) -> bool {
        self.stopped.is_some_and(|stopped| stopped.term == term)
    }

    /// Notes what all nodes are told now. Returns whether it differs from what they were told last.
    pub(in crate::consensus) fn is_news(&mut self, full: bool, shut: bool) -> bool {
        std::mem::replace(&mut self.told, (full, shut)) != (full, shut)
    }

    /// No disk is full: the wait for voters that are away is over.
    pub(in crate::consensus) fn forget_missing(&mut self) {
        self.missing = None;
    }

    /// On the leader of `term`: whether nothing becomes durable on a majority any more, for good or for too
    /// long. `able` has one value for each half of a joint membership; outside a change one half is empty.
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
        // A wait of an earlier term of this leader does not count.
        let since_ns = self.missing.filter(|(of, _)| *of == term).map_or(now_ns, |(_, since_ns)| since_ns);
        self.missing = Some((term, since_ns));
        now_ns.saturating_sub(since_ns) >= AWAY_PATIENCE_NS
    }

    /// Nodes whose last report is a full disk.
    pub(in crate::consensus) fn full_nodes(&self) -> impl Iterator<Item = u8> {
        self.reports.iter().filter(|(_, report)| report.full).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_that_is_away_is_waited_for_and_full_disks_alone_are_not() {
        assert_eq!(RoomForMajority::of(3, 0, 2), RoomForMajority::Enough, "no disk is full");
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
    fn a_report_from_before_this_disk_was_full_does_not_count() {
        let mut room = DiskSpace::default();
        room.heard(2, false, 100);
        assert!(!room.has_room_since(2, 100) && room.has_room_since(2, 99) && !room.is_full(2));
        room.heard(2, true, 150);
        assert!(!room.has_room_since(2, 99) && room.is_full(2));
        room.link_down(2);
        assert!(!room.is_full(2) && room.full_nodes().next().is_none());
    }

    #[test]
    fn a_leader_that_leads_again_waits_again_for_voters_without_a_link() {
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
