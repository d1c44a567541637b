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

use super::config::{AWAY_PATIENCE_NS, UNDECIDED_NS};
use super::engine::Consensus;
use super::group::{Group, Role};
use super::streams::Return;
use crate::commit::{Outcome, Reply};
use crate::peers::Message;
use paddock_transport::io::Io;
use std::collections::BTreeMap;

/// What a node said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word {
    full: bool,
    at_ns: u64,
}

/// Writes are shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shut {
    /// By the leader of this term.
    term: u64,
    since_ns: u64,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bounded by the node ids.
    said: BTreeMap<u8, Word>,
    shut: Option<Shut>,
    /// On the leader, in this term: since when voters that are away are missing beside those without room.
    missing: Option<(u64, u64)>,
    /// What all were told last: that this node's disk is full; that it leads and writes are shut.
    told: (bool, bool),
}

/// How many of the voters could log something now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Able {
    /// A majority, or so few without any full disk that it is not the disks that are missing.
    Enough,
    /// A majority if those come back that are away, perhaps for a moment: a restart, a lost connection.
    Missing,
    /// Too few have room, whoever comes back.
    TooFew,
}

impl Able {
    /// Of so many voters, some full, some others away.
    fn of(voters: usize, full: usize, away: usize) -> Able {
        let majority = voters / 2 + 1;
        if full == 0 || voters - full - away >= majority {
            Able::Enough
        } else if voters - full >= majority {
            Able::Missing
        } else {
            Able::TooFew
        }
    }
}

impl Room {
    /// A node says whether its disk is full.
    pub(super) fn heard(&mut self, node: u8, full: bool, now_ns: u64) {
        self.said.insert(node, Word { full, at_ns: now_ns });
    }

    /// There is no link to the node any more.
    pub(super) fn link_down(&mut self, node: u8) {
        self.said.remove(&node);
    }

    /// Since when writes are shut.
    pub(super) fn shut_since(&self) -> Option<u64> {
        self.shut.map(|shut| shut.since_ns)
    }

    /// Whether the node has said that its disk is full.
    pub(super) fn is_full(&self, node: u8) -> bool {
        self.said.get(&node).is_some_and(|word| word.full)
    }

    /// Whether the node has said later than `since_ns` that it has room: disks of the same size fill up at the same time, and
    /// what it said before may have been its last word before that.
    fn has_room_since(&self, node: u8, since_ns: u64) -> bool {
        self.said.get(&node).is_some_and(|word| !word.full && word.at_ns > since_ns)
    }

    /// The judgement of `term`. What waits in the shards' rings is refused or taken with the next look into them.
    fn judge(&mut self, shut: bool, term: u64, now_ns: u64) {
        let since_ns = self.shut.map_or(now_ns, |shut| shut.since_ns);
        self.shut = shut.then_some(Shut { term, since_ns });
    }

    /// On the leader of `term`, in whose two halves of the voters (one of them empty, mostly) so many are able: whether nothing is made
    /// durable any more, for good or for too long.
    fn is_hopeless(&mut self, able: [Able; 2], term: u64, now_ns: u64) -> bool {
        if able.contains(&Able::TooFew) {
            return true;
        }
        if !able.contains(&Able::Missing) {
            self.missing = None;
            return false;
        }
        // What an earlier term of this leader had to wait for is over.
        let since_ns = self.missing.filter(|(of, _)| *of == term).map_or(now_ns, |(_, since_ns)| since_ns);
        self.missing = Some((term, since_ns));
        now_ns.saturating_sub(since_ns) >= AWAY_PATIENCE_NS
    }

    /// Nodes that have said that their disks are full.
    pub(super) fn full_nodes(&self) -> impl Iterator<Item = u8> {
        self.said.iter().filter(|(_, word)| word.full).map(|(node, _)| *node)
    }
}

impl Consensus {
    /// Looks who has room, and tells from it whether anything can be written.
    pub(super) fn look_at_room(&mut self, now_ns: u64, io: &mut Io) {
        let term = self.group.term();
        let shut = if self.group.alone() {
            self.phase.full_since.is_some()
        } else if self.group.role() == Role::Leader {
            self.is_shut_by_disks(now_ns)
        } else {
            // The leader's word, for as long as it leads.
            self.group.leader() != 0 && self.room.shut.is_some_and(|shut| shut.term == term)
        };
        self.room.judge(shut, term, now_ns);
        // At once, so that little is on its way to a leader that cannot order it.
        let word = (self.phase.full_since.is_some(), shut && self.group.role() == Role::Leader);
        if std::mem::replace(&mut self.room.told, word) != word {
            let (full, shut) = word;
            for (node, _) in self.links.up() {
                self.links.send(node, &Message::Room { full, shut }, io);
            }
        }
        if shut && self.phase.leading != 0 {
            self.give_back_unproposed(io);
        }
    }

    /// On the leader, while writes are shut: what was taken and not proposed goes back to those who can refuse it.
    fn give_back_unproposed(&mut self, io: &mut Io) {
        self.take_own_back();
        for node in self.streams.waiting() {
            self.streams.give_back(node);
            // If it does not get there, the node asks.
            self.give_back_again(node, io);
        }
    }

    /// Says once more to a node what it got back, if it has not answered that. `false`: there is nothing to answer.
    pub(super) fn give_back_again(&mut self, node: u8, io: &mut Io) -> bool {
        let Some(Return { incarnation, seq, number }) = self.streams.returned(node) else { return false };
        self.links.send(node, &Message::Return { term: self.phase.leading, incarnation, seq, number }, io);
        true
    }

    /// The leader gives commands back, or a node says that it has heard of that.
    pub(super) fn hear_of_return(&mut self, from: u8, term: u64, back: Return, io: &mut Io) {
        let Return { incarnation, seq, number } = back;
        if term != 0 && term == self.phase.leading {
            if self.streams.answered(from, back) {
                self.links.send(from, &Message::Expect { term, incarnation, seq }, io);
            }
            return;
        }
        if self.is_word_of_leader(from, term, incarnation) {
            self.outbound.take_back(seq);
            // Nothing more is sent before the answer.
            self.links.ungrant();
            self.links.send(from, &Message::Return { term, incarnation, seq, number }, io);
        }
    }

    /// The leader says, with its confirmation of a round, whether writes are shut.
    pub(super) fn hear_of_room(&mut self, from: u8, shut: bool, now_ns: u64) {
        if u64::from(from) == self.group.leader() && self.group.role() != Role::Leader {
            self.room.judge(shut, self.group.term(), now_ns);
        }
    }

    /// On the leader: whether so many disks are full that nothing is made durable on a majority, for good or for too long.
    fn is_shut_by_disks(&mut self, now_ns: u64) -> bool {
        let own_full = self.phase.full_since.is_some();
        if !own_full && self.room.full_nodes().next().is_none() {
            self.room.missing = None;
            return false;
        }
        let membership = self.group.membership();
        let able = [&membership.voters, &membership.outgoing].map(|voters| {
            let nodes = || voters.iter().map(|voter| *voter as u8);
            let is_full = |node: &u8| if *node == self.node { own_full } else { self.room.is_full(*node) };
            let is_away = |node: &u8| *node != self.node && !self.links.is_up(*node);
            Able::of(voters.len(), nodes().filter(is_full).count(), nodes().filter(is_away).count())
        });
        self.room.is_hopeless(able, self.group.term(), now_ns)
    }

    /// Disks without room: a leader whose own is full hands over to somebody who has some; where too few have, what is undecided
    /// for too long is given up.
    pub(super) fn yield_to_room(&mut self, now_ns: u64) {
        match (self.room.shut_since(), self.phase.full_since) {
            (Some(since_ns), _) if now_ns.saturating_sub(since_ns) >= UNDECIDED_NS => {
                let zxid = self.applier.machine.zxid();
                let given_up =
                    self.outbound.abandon().map(|ticket| Reply { ticket, zxid, outcome: Outcome::Drop });
                self.phase.extra.extend(given_up);
            }
            (None, Some(_)) if self.group.role() == Role::Leader => self.hand_over(now_ns),
            _ => {}
        }
    }

    /// The voter to whom leadership is best offered: the nearest of those with room. `None`: there is none, or none with room
    /// and this node only looks for that.
    pub(super) fn heir(&self, for_room: bool) -> Option<u64> {
        let since_ns = self.phase.full_since.unwrap_or(0);
        let others = self.group.progress().into_iter().filter(|p| {
            p.active && !p.learner && p.node != u64::from(self.node) && self.links.is_up(p.node as u8)
        });
        let ranked = others.map(|p| {
            let node = p.node as u8;
            let room =
                if for_room { self.room.has_room_since(node, since_ns) } else { !self.room.is_full(node) };
            (room, p.matched, p.node)
        });
        let (room, _, node) =
            ranked.max_by_key(|(room, matched, node)| (*room, *matched, std::cmp::Reverse(*node)))?;
        (room || !for_room).then_some(node)
    }

    /// For operators, while writes are shut.
    pub(super) fn why_writes_are_shut(&self, voters: usize) -> String {
        if self.group.alone() {
            return "the disk of the data directory is full".to_owned();
        }
        if self.group.role() != Role::Leader {
            return "the leader says that the disks of too many voters are full".to_owned();
        }
        let own = self.phase.full_since.map(|_| self.node);
        let mut full: Vec<u8> = self.room.full_nodes().chain(own).collect();
        full.sort_unstable();
        full.dedup();
        let full: Vec<String> = full.iter().map(u8::to_string).collect();
        format!(
            "the disks of nodes {} are full; {} of {voters} voters with room are needed",
            full.join(", "),
            voters / 2 + 1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_that_is_away_is_waited_for_and_full_disks_alone_are_not() {
        assert_eq!(Able::of(3, 0, 2), Able::Enough, "that is no matter of disks");
        assert_eq!(Able::of(3, 1, 0), Able::Enough);
        assert_eq!(Able::of(3, 1, 1), Able::Missing);
        assert_eq!((Able::of(3, 2, 0), Able::of(3, 2, 1)), (Able::TooFew, Able::TooFew));
        assert_eq!(
            (Able::of(5, 2, 0), Able::of(5, 2, 1), Able::of(5, 3, 0)),
            (Able::Enough, Able::Missing, Able::TooFew)
        );
        assert_eq!((Able::of(1, 1, 0), Able::of(0, 0, 0)), (Able::TooFew, Able::Enough));
    }

    #[test]
    fn a_word_from_before_the_own_disk_was_full_is_no_word() {
        let mut room = Room::default();
        room.heard(2, false, 100);
        assert!(!room.has_room_since(2, 100) && room.has_room_since(2, 99) && !room.is_full(2));
        room.heard(2, true, 150);
        assert!(!room.has_room_since(2, 99) && room.is_full(2));
        room.link_down(2);
        assert!(!room.is_full(2) && room.full_nodes().next().is_none());
    }

    #[test]
    fn a_leader_waits_anew_for_who_is_away_when_it_leads_again() {
        let mut room = Room::default();
        let of_one = |able| [able, Able::Enough];
        assert!(!room.is_hopeless(of_one(Able::Missing), 1, 100));
        assert!(room.is_hopeless(of_one(Able::Missing), 1, 100 + AWAY_PATIENCE_NS));
        assert!(!room.is_hopeless(of_one(Able::Missing), 3, 100 + 9 * AWAY_PATIENCE_NS));
        assert!(!room.is_hopeless(of_one(Able::Enough), 3, 100 + 10 * AWAY_PATIENCE_NS));
        assert!(!room.is_hopeless(of_one(Able::Missing), 3, 100 + 10 * AWAY_PATIENCE_NS));
        assert!(room.is_hopeless([Able::Enough, Able::TooFew], 3, 100 + 10 * AWAY_PATIENCE_NS));
    }

    #[test]
    fn a_judgement_that_is_repeated_counts_from_the_first_time() {
        let mut room = Room::default();
        room.judge(true, 1, 10);
        // Another leader finds the same.
        room.judge(true, 2, 20);
        assert_eq!(room.shut_since(), Some(10));
        room.judge(false, 2, 30);
        assert_eq!(room.shut_since(), None);
        room.judge(true, 2, 40);
        assert_eq!(room.shut_since(), Some(40));
    }
}
