//! Who has room on its disk, and what follows when too few have.
//!
//! Owns what each node said of its own disk (it says so with each of its rounds), and whether writes are shut: so many voters
//! have no room that nothing can be made durable on a majority. While they are, a command that was never handed to anybody is
//! refused at once, on every node, as a standalone server refuses it; what may have been ordered is waited for, for
//! [`UNDECIDED_NS`], and then its connection is closed. Never decides that anything was or was not ordered, and never stops reads:
//! rounds need no disk. It stays correct because only the leader judges, from what it hears itself, and the others take its
//! word for no longer than its term; a wrong judgement refuses a write that could have been done, never answers one that was.

use super::config::UNDECIDED_NS;
use super::engine::Consensus;
use super::group::{Group, Role};
use crate::commit::{Outcome, Reply};
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

    /// The judgement of `term`; `true` if it is another one than before.
    fn judge(&mut self, shut: bool, term: u64, now_ns: u64) -> bool {
        let before = self.shut;
        let since_ns = before.map_or(now_ns, |shut| shut.since_ns);
        self.shut = shut.then_some(Shut { term, since_ns });
        before.is_some() != shut
    }

    /// Nodes that have said that their disks are full.
    pub(super) fn full_nodes(&self) -> impl Iterator<Item = u8> {
        self.said.iter().filter(|(_, word)| word.full).map(|(node, _)| *node)
    }
}

impl Consensus {
    /// Looks who has room, and tells from it whether anything can be written.
    pub(super) fn look_at_room(&mut self, now_ns: u64) {
        let term = self.group.term();
        let shut = if self.group.alone() {
            self.phase.full_since.is_some()
        } else if self.group.role() == Role::Leader {
            self.too_few_have_room()
        } else {
            // The leader's word, for as long as it leads.
            self.group.leader() != 0 && self.room.shut.is_some_and(|shut| shut.term == term)
        };
        if self.room.judge(shut, term, now_ns) {
            // Those who wait in the rings are refused now, or taken again.
            self.shards.mark_all();
        }
    }

    /// The leader says, with its confirmation of a round, whether writes are shut.
    pub(super) fn hear_of_room(&mut self, from: u8, shut: bool, now_ns: u64) {
        if u64::from(from) == self.group.leader() && self.group.role() != Role::Leader {
            self.room.judge(shut, self.group.term(), now_ns);
        }
    }

    /// On the leader: whether the voters with a link and with room are no majority. Without any full disk it is not the disks that
    /// are missing, and whoever is away may be back in a moment.
    fn too_few_have_room(&self) -> bool {
        let own_full = self.phase.full_since.is_some();
        if !own_full && self.room.full_nodes().next().is_none() {
            return false;
        }
        let membership = self.group.membership();
        let too_few = |voters: &[u64]| {
            let (full, room) = voters.iter().fold((0, 0), |(full, room), &voter| {
                let node = voter as u8;
                let own = node == self.node;
                if if own { own_full } else { self.room.is_full(node) } {
                    (full + 1, room)
                } else {
                    (full, room + usize::from(own || self.links.is_up(node)))
                }
            });
            full > 0 && room < voters.len() / 2 + 1
        };
        too_few(&membership.voters) || (!membership.outgoing.is_empty() && too_few(&membership.outgoing))
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
    fn a_judgement_that_is_repeated_counts_from_the_first_time() {
        let mut room = Room::default();
        assert!(!room.judge(false, 1, 5));
        assert!(room.judge(true, 1, 10));
        // Another leader finds the same.
        assert!(!room.judge(true, 2, 20));
        assert_eq!(room.shut_since(), Some(10));
        assert!(room.judge(false, 2, 30) && room.shut_since().is_none());
    }
}
