//! Three cores whose disks fill up. A node with disk space leads. If too few voters have space, writes are
//! refused and reads go on.

use super::ensemble::Trio;
use super::rig::SECOND_NS;
use crate::beats::MAX_STALENESS_NS;
use crate::commit::Outcome;
use crate::consensus::config::{AWAY_PATIENCE_NS, HAND_OVER_NS, UNDECIDED_NS};
use crate::members::MemberRole;

const SEGMENT_BYTES: u64 = 64 << 10;
/// Bytes of a write. About thirteen writes fill a segment.
const WRITE_BYTES: usize = 5000;
/// Writes submitted at once.
const FLOOD: usize = 100;
const REFUSED: Outcome = Outcome::NotOrdered(-1);

fn trio() -> Trio {
    let mut trio = Trio::start_as(SEGMENT_BYTES, [MemberRole::Participant; 3]);
    trio.until("a first leader", |trio| trio.leader().is_some());
    for n in 0..3 {
        trio.write_through(n);
    }
    trio
}

fn no_room(trio: &Trio, n: usize) {
    let disk = &trio.nodes[n].disk;
    disk.set_capacity(Some(disk.used_bytes()));
}

fn pass(trio: &mut Trio, ns: u64) {
    let end_ns = trio.now.mono_ns + ns;
    while trio.now.mono_ns < end_ns {
        trio.step();
    }
}

/// Writes through a node until a write is refused. False if 200 writes pass without a refusal.
fn write_until_refused(trio: &mut Trio, n: usize) -> bool {
    for _ in 0..200 {
        let token = trio.submit(n, WRITE_BYTES);
        trio.until("an answer", |trio| trio.nodes[n].answers.contains_key(&token));
        match &trio.nodes[n].answers[&token] {
            Outcome::Drop => {}
            refused => {
                assert_eq!(*refused, REFUSED);
                return true;
            }
        }
    }
    false
}

fn is_refused(trio: &mut Trio, n: usize) -> bool {
    let token = trio.submit(n, 10);
    trio.until("an answer", |trio| trio.nodes[n].answers.contains_key(&token));
    trio.nodes[n].answers[&token] == REFUSED
}

fn terms(trio: &Trio) -> Vec<u64> {
    trio.nodes.iter().map(|node| node.core.raft.term()).collect()
}

#[test]
fn a_leader_without_room_hands_over_once_to_one_that_has_some() {
    let mut trio = trio();
    let (full, before) = (trio.leader().unwrap(), terms(&trio));
    let healthy = (full + 1) % 3;
    no_room(&trio, full);
    assert!(!write_until_refused(&mut trio, healthy), "a majority has room");
    assert!(trio.nodes[full].core.phase_is_full());
    pass(&mut trio, 30 * SECOND_NS);
    let leader = trio.leader().unwrap();
    assert_ne!(leader, full);
    assert_eq!(terms(&trio), vec![before[0] + 1; 3], "one election");
    // A request to lead again, from a node that does not know of the full disk, changes nothing.
    trio.nodes[full].core.leadership.wanted = true;
    pass(&mut trio, SECOND_NS);
    assert_eq!((trio.leader(), terms(&trio)), (Some(leader), vec![before[0] + 1; 3]));
    trio.nodes[full].disk.set_capacity(None);
    trio.until("room again", |trio| !trio.nodes[full].core.phase_is_full());
    trio.write_through(full);
}

#[test]
fn a_follower_that_can_log_nothing_tells_how_far_it_is_behind() {
    let mut trio = trio();
    let leader = trio.leader().unwrap();
    let (full, healthy) = ((leader + 1) % 3, (leader + 2) % 3);
    no_room(&trio, full);
    assert!(!write_until_refused(&mut trio, healthy), "a majority has room");
    assert!(trio.nodes[full].core.phase_is_full() && trio.leader() == Some(leader));
    pass(&mut trio, SECOND_NS);
    let told = |trio: &Trio, n: usize| {
        let node = trio.nodes[n].core.stats.node();
        (node.commit_index.get(), node.applied_index.get(), node.lag_entries.get())
    };
    let ((commit, applied, lag), (expected, ..)) = (told(&trio, full), told(&trio, leader));
    assert_eq!((commit, lag), (expected, expected - applied));
    assert!(lag > 0);
    trio.nodes[full].disk.set_capacity(None);
    trio.until("it is level again", |trio| told(trio, full).2 == 0 && told(trio, full).0 >= expected);
}

#[test]
fn a_leader_whose_offer_lapsed_orders_behind_what_it_proposed_before() {
    let mut trio = trio();
    let leader = trio.leader().unwrap();
    let (term, followers) = (terms(&trio)[leader], [(leader + 1) % 3, (leader + 2) % 3]);
    no_room(&trio, leader);
    // A follower that lacks entries cannot take over, so the offer lapses.
    let stick = |trio: &mut Trio, stuck| followers.iter().for_each(|n| trio.nodes[*n].stuck_disk = stuck);
    loop {
        stick(&mut trio, true);
        trio.submit(leader, WRITE_BYTES);
        (0..3).for_each(|_| trio.step());
        if trio.nodes[leader].core.phase_is_full() {
            break;
        }
        stick(&mut trio, false);
        trio.until("a decision", |trio| trio.nodes[leader].core.pending.undecided() == 0);
    }
    let offers = |trio: &Trio| !trio.nodes[leader].core.raft.is_ready_to_order();
    trio.until("the offer", offers);
    assert!(trio.nodes[leader].core.pending.resolved() < trio.nodes[leader].core.pending.last_seq());
    trio.until("the end of the offer", |trio| !offers(trio));
    pass(&mut trio, SECOND_NS);
    let age_ns = trio.now.mono_ns - trio.nodes[leader].parts.freshness.fresh_ns();
    assert!(age_ns < SECOND_NS, "reads were confirmed {age_ns} ns ago");
    stick(&mut trio, false);
    // Entries in flight are decided while the leader may not order anything.
    (0..20).for_each(|_| trio.step());
    trio.nodes[leader].disk.set_capacity(None);
    trio.until("room", |trio| !trio.nodes[leader].core.phase_is_full());
    trio.write_through(leader);
    trio.write_through(followers[0]);
    assert_eq!((trio.leader(), terms(&trio)[leader]), (Some(leader), term), "it leads in the same term");
}

#[test]
fn where_all_disks_are_full_writes_are_refused_everywhere_and_reads_go_on_under_one_leader() {
    let mut trio = trio();
    (0..3).for_each(|n| no_room(&trio, n));
    let leader = trio.leader().unwrap();
    assert!(write_until_refused(&mut trio, leader));
    let (leader, before) = (trio.leader().unwrap(), terms(&trio));
    // All nodes learn it at once, not with the next round.
    (0..4).for_each(|_| trio.step());
    assert!((0..3).all(|n| is_shut(&trio, n)));
    pass(&mut trio, 2 * MAX_STALENESS_NS);
    for n in 0..3 {
        assert!(is_refused(&mut trio, n), "node {}", n + 1);
        let node = &trio.nodes[n];
        let age_ns = trio.now.mono_ns - node.parts.freshness.fresh_ns();
        assert!(age_ns < MAX_STALENESS_NS, "node {} was confirmed {age_ns} ns ago", n + 1);
        assert_eq!(node.core.pending.undecided(), 0);
    }
    assert_eq!((trio.leader(), terms(&trio)), (Some(leader), before.clone()));
    let why = trio.nodes[leader].core.why_writes_are_stopped(3);
    assert_eq!(why, "the disks of nodes 1, 2, 3 are full; 2 of 3 voters with room are needed");
    // Space on two nodes is enough.
    for n in [(leader + 1) % 3, (leader + 2) % 3] {
        trio.nodes[n].disk.set_capacity(None);
    }
    trio.until("a leader with room", |trio| trio.leader().is_some_and(|now| now != leader));
    trio.write_through((leader + 1) % 3);
    trio.write_through((leader + 2) % 3);
}

#[test]
fn a_new_leader_with_all_disks_full_begins_its_term_and_confirms_reads() {
    let mut trio = trio();
    (0..3).for_each(|n| no_room(&trio, n));
    let leader = trio.leader().unwrap();
    assert!(write_until_refused(&mut trio, leader));
    let leader = trio.leader().unwrap();
    for _ in 0..3 {
        let next = (leader + 1) % 3;
        trio.nodes[leader].core.raft.transfer(next as u64 + 1);
        trio.until("the next leader", |trio| trio.leader() == Some(next));
        pass(&mut trio, 2 * MAX_STALENESS_NS);
        assert_eq!(trio.leader(), Some(next), "it stays");
        let age_ns = trio.now.mono_ns - trio.nodes[next].parts.freshness.fresh_ns();
        assert!(age_ns < MAX_STALENESS_NS, "confirmed {age_ns} ns ago");
        assert!(is_refused(&mut trio, next) && is_refused(&mut trio, leader));
        trio.nodes[next].core.raft.transfer(leader as u64 + 1);
        trio.until("the first leader again", |trio| trio.leader() == Some(leader));
    }
}

#[test]
fn a_majority_of_full_disks_shuts_writes_where_there_is_room_too_and_what_is_under_way_is_given_up() {
    let mut trio = trio();
    let leader = trio.leader().unwrap();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for n in followers {
        no_room(&trio, n);
    }
    // The leader has space. Its proposals may still be ordered when the others run out of space, so they are
    // not refused.
    let mut under_way = Vec::new();
    while !is_shut(&trio, leader) {
        under_way.push(trio.submit(leader, WRITE_BYTES));
        pass(&mut trio, SECOND_NS / 10);
    }
    assert!(is_refused(&mut trio, leader) && is_refused(&mut trio, followers[0]));
    trio.until("an answer to everything", |trio| {
        under_way.iter().all(|token| trio.nodes[leader].answers.contains_key(token))
    });
    pass(&mut trio, UNDECIDED_NS);
    assert_eq!(trio.leader(), Some(leader));
    trio.nodes[followers[0]].disk.set_capacity(None);
    trio.until("room for a majority", |trio| (0..3).all(|n| !is_shut(trio, n)));
    trio.write_through(leader);
    trio.write_through(followers[0]);
}

/// Submits more writes than the entries in flight hold. The leader takes them and cannot propose them all.
fn flood(trio: &mut Trio, n: usize) {
    for _ in 0..FLOOD {
        trio.submit(n, WRITE_BYTES);
    }
}

#[test]
fn what_the_leader_took_and_never_proposed_is_refused_and_its_numbers_leave_no_hole() {
    let mut trio = trio();
    let leader = trio.leader().unwrap();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for n in others {
        no_room(&trio, n);
    }
    while !is_shut(&trio, leader) {
        (0..3).for_each(|n| flood(&mut trio, n));
        (0..20).for_each(|_| trio.step());
    }
    // Each node has commands that the leader took and did not propose. They are refused before their
    // connection would be closed.
    pass(&mut trio, UNDECIDED_NS / 2);
    assert!(is_shut(&trio, leader), "the flood had room");
    let waiting: usize = (0..3).map(|n| trio.nodes[n].core.pending.undecided()).sum();
    let core = &trio.nodes[leader].core;
    let proposed = core.leadership.in_flight * core.batch_bytes_max / WRITE_BYTES;
    assert!(waiting <= proposed, "{waiting} wait, {proposed} of them may be proposed");
    for n in others {
        trio.nodes[n].disk.set_capacity(None);
    }
    trio.until("room", |trio| (0..3).all(|n| !is_shut(trio, n)));
    (0..3).for_each(|n| trio.write_through(n));
    trio.until("everything is decided everywhere", |trio| {
        let index = |n: usize| trio.nodes[n].core.applier.index;
        let undecided = |n: usize| trio.nodes[n].core.pending.undecided();
        (0..3).all(|n| undecided(n) == 0 && index(n) == index(0))
    });
    for n in 0..3 {
        let node = &trio.nodes[n];
        let done = node.answers.values().filter(|answer| **answer != REFUSED).count() as u64;
        let ordered = trio.nodes[leader].core.applier.machine.stream(n as u8 + 1).unwrap().seq;
        assert_eq!(ordered, done, "node {}: nothing that was refused is ordered, and the rest is", n + 1);
    }
}

#[test]
fn a_session_whose_expiry_was_never_proposed_delays_no_reads_while_disks_are_full() {
    let mut trio = trio();
    let leader = trio.leader().unwrap();
    let other = (leader + 1) % 3;
    // No session sends heartbeats. When the sessions are due, so many commands wait that for a while no entry
    // has their expiries.
    pass(&mut trio, 3 * SECOND_NS);
    while trio.nodes[leader].core.session_expiry.unlogged_expiries() == 0 {
        for n in 0..3 {
            if trio.nodes[n].core.pending.undecided() < FLOOD {
                flood(&mut trio, n);
            }
        }
        trio.step();
    }
    (0..3).for_each(|n| no_room(&trio, n));
    trio.until("full disks", |trio| is_shut(trio, leader));
    let leader = trio.leader().unwrap();
    assert!(!trio.nodes[leader].core.applier.machine.sessions().is_empty(), "all of them have expired");
    // Their heartbeats came in time, and the report of them comes late.
    let sessions: Vec<i64> = trio.nodes.iter().flat_map(|node| node.opened.clone()).collect();
    for _ in 0..2 * MAX_STALENESS_NS / (SECOND_NS / 10) {
        trio.touch(other, &sessions);
        pass(&mut trio, SECOND_NS / 10);
    }
    let age_ns = trio.now.mono_ns - trio.nodes[other].parts.freshness.fresh_ns();
    assert!(age_ns < MAX_STALENESS_NS, "confirmed {age_ns} ns ago");
}

#[test]
fn a_voter_that_is_away_while_another_is_full_is_waited_for_before_writes_are_refused() {
    let mut trio = trio();
    let leader = trio.leader().unwrap();
    let (full, away) = ((leader + 1) % 3, (leader + 2) % 3);
    no_room(&trio, full);
    for _ in 0..100 {
        trio.submit(leader, WRITE_BYTES);
    }
    trio.until("a full disk", |trio| trio.nodes[full].core.phase_is_full());
    pass(&mut trio, 2 * SECOND_NS);
    assert!(!is_shut(&trio, leader));
    trio.nodes[away].parts.control.stop();
    trio.until("its end", |trio| trio.reasons()[away].is_some());
    let waiting = trio.submit(leader, 10);
    pass(&mut trio, AWAY_PATIENCE_NS - SECOND_NS);
    assert!(!is_shut(&trio, leader) && !trio.nodes[leader].answers.contains_key(&waiting));
    trio.until("the end of patience, and everybody told", |trio| {
        is_shut(trio, leader) && is_shut(trio, full)
    });
    assert!(is_refused(&mut trio, full) && is_refused(&mut trio, leader));
    // This write was in flight.
    trio.until("the end of patience", |trio| {
        trio.nodes[leader].answers.get(&waiting) == Some(&Outcome::Drop)
    });
    trio.nodes[full].disk.set_capacity(None);
    trio.until("a majority with room", |trio| !is_shut(trio, leader) && !is_shut(trio, full));
    trio.write_through(full);
}

fn is_shut(trio: &Trio, n: usize) -> bool {
    trio.nodes[n].core.disk_space.writes_stopped_since().is_some()
}

#[test]
fn a_sole_voter_with_observers_stops_without_waiting_for_a_transferee() {
    use MemberRole::{Observer, Participant};
    let mut trio = Trio::start_as(SEGMENT_BYTES, [Participant, Observer, Observer]);
    trio.until("a leader", |trio| trio.leader() == Some(0));
    for n in 0..3 {
        trio.write_through(n);
    }
    let asked_ns = trio.now.mono_ns;
    trio.nodes[0].parts.control.stop();
    trio.until("its end", |trio| trio.reasons()[0].is_some());
    assert!(trio.now.mono_ns - asked_ns < HAND_OVER_NS / 2);
}
