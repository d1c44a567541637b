//! Which nodes may bootstrap an ensemble, when none may, and how an ensemble with lost disks recovers.

use super::place::*;
use crate::consensus::membership::bootstrap_guard::FOUNDING_GRACE_NS;
use crate::consensus::recovery::force_new_ensemble::{RefoundError, refound};
use crate::consensus::{Consensus, ConsensusConfig};
use crate::members::MemberRole;
use crate::stats::Stats;
use paddock_transport::wake::Waker;
use std::sync::Arc;
#[test]
fn a_first_start_does_not_wait_when_all_servers_are_there() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    let begun = place.now.mono_ns;
    place.until_founded(&[1, 2, 3]);
    assert!(place.now.mono_ns - begun < FOUNDING_GRACE_NS / 2);
}

#[test]
fn a_first_start_without_one_server_waits_for_it_a_while_and_goes_on() {
    let mut place = Place::three();
    place.start(&[1, 3]);
    place.pass(FOUNDING_GRACE_NS - SECOND);
    assert!(!place.led(&[1, 3]));
    assert!(place.words(1).contains("waits up to 5 s for server 2"), "{}", place.words(1));
    place.until_founded(&[1, 3]);
}

#[test]
fn a_server_that_was_late_at_the_first_start_votes_for_one_with_the_log() {
    let mut place = Place::three();
    place.start(&[1, 2]);
    place.until_founded(&[1, 2]);
    place.kill(&[1]);
    place.start(&[3]);
    place.until("a leader by the vote of the late one", |place| place.core(2).raft.leader() == 2);
    place.until_founded(&[2, 3]);
}

#[test]
fn two_emptied_servers_of_three_found_nothing_beside_the_third() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let before = place.cluster(3);
    place.kill(&[1, 2]);
    let kept = place.slot(1).config.clone();
    for node in [1, 2] {
        place.slot(node).new_disk();
    }
    place.start(&[1, 2]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2, 3]));
    assert!(place.words(1).contains("server 3 has data"), "{}", place.words(1));
    assert!(place.words(3).contains("no leader can be elected: servers 1 and 2"), "{}", place.words(3));

    // A restart of server 3 changes nothing.
    place.kill(&[3]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2]));
    place.start(&[3]);

    // With one more of the old directories the ensemble continues, and the other server catches up.
    place.kill(&[1]);
    place.slot(1).config = kept;
    place.start(&[1]);
    place.until_founded(&[1, 2, 3]);
    assert_eq!(place.cluster(2), before);
}

#[test]
fn to_begin_anew_without_the_one_that_has_data_takes_a_restart_without_it() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let before = place.cluster(3);
    place.kill(&[1, 2]);
    for node in [1, 2] {
        place.slot(node).new_disk();
    }
    place.start(&[1, 2]);
    place.pass(SECOND);
    place.kill(&[1, 2, 3]);
    place.start(&[1, 2]);
    place.until_founded(&[1, 2]);
    assert_ne!(place.cluster(1), before);
    // The old member does not join the new ensemble, and reports why.
    place.start(&[3]);
    place.pass(LONG_NS);
    assert_eq!(place.cluster(3), before);
    assert!(place.words(3).contains("no leader can be elected: servers 1 and 2"), "{}", place.words(3));
    assert_ne!(place.core(3).raft.leader(), place.core(1).raft.leader());
}

#[test]
fn a_server_that_is_left_alone_with_the_data_goes_on_when_it_is_told_to() {
    const SESSION: i64 = 3 << 56 | 77;
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let before = place.cluster(3);
    place.open_session(3, SESSION);
    // Far more than one message holds. A node that catches up must pass the log's entries about the former
    // ensemble.
    for n in 0..20 {
        place.write(3, n, 100_000);
    }
    place.kill(&[1, 2]);
    let old = place.slot(1).config.clone();
    for node in [1, 2] {
        place.slot(node).new_disk();
    }
    place.start(&[1, 2]);
    place.pass(SECOND);
    place.kill(&[3]);
    let config = place.slot(3).config.clone();
    refound(config.clone(), [0xaa; 16], 0).unwrap();
    assert!(matches!(refound(config, [0xbb; 16], 0), Err(RefoundError::Alone(3))));
    place.start(&[3]);
    place.until_founded(&[1, 2, 3]);
    assert_eq!(place.cluster(1), [0xaa; 16]);
    place.until("its data everywhere", |place| (1..=3).all(|node| place.knows(node, SESSION)));
    place.until("all votes", |place| {
        (1..=3).all(|node| {
            let membership = place.core(node).raft.membership();
            membership.voters == [1, 2, 3] && !membership.is_joint()
        })
    });
    // Two of three voters are a quorum again.
    place.kill(&[3]);
    place.until("another leader", |place| matches!(place.core(1).raft.leader(), 1 | 2));
    // A directory of the former ensemble belongs to no member any more.
    place.kill(&[1]);
    place.slot(1).config = old;
    place.start(&[1, 3]);
    place.until("a leader", |place| place.led(&[2]) && place.led(&[3]));
    place.pass(LONG_NS);
    assert_eq!(place.cluster(1), before);
    assert!(place.words(1).contains("no leader can be elected: servers 2 and 3"), "{}", place.words(1));
    assert!(place.led(&[2, 3]) && !place.led(&[1]));
}

#[test]
fn an_observer_has_the_data_of_an_ensemble_whose_voters_are_gone_and_votes_from_then_on() {
    const SESSION: i64 = 2 << 56 | 77;
    let mut place = Place::new(&[&[1, 2], &[1, 2]]);
    for node in [1, 2] {
        let lines = place.slot(node).config.members.as_mut().unwrap();
        lines.members.get_mut(&2).unwrap().role = MemberRole::Observer;
    }
    place.start(&[1, 2]);
    place.until_founded(&[1, 2]);
    place.open_session(2, SESSION);
    place.kill(&[1]);
    place.slot(1).new_disk();
    place.start(&[1]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2]), "a sole voter that forgot everything begins nothing beside its observer");
    assert!(place.words(2).contains("no leader can be elected: server 1 came without"), "{}", place.words(2));
    place.kill(&[2]);
    let config = place.slot(2).config.clone();
    refound(config, [0xaa; 16], 0).unwrap();
    place.start(&[2]);
    place.until_founded(&[1, 2]);
    place.until("its data", |place| place.knows(1, SESSION));
    place.until("both votes", |place| place.core(1).raft.membership().voters == [1, 2]);
    let text = place.core(1).applier.machine.members().config_text();
    assert!(text.contains("server.2=127.0.0.1:2002:3000:participant"), "{text}");
}

/// A place in which all nodes are down. The returned leader has a last entry that no follower received.
fn a_leader_with_an_entry_that_no_other_node_has() -> (Place, u8) {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let leader = place.core(1).raft.leader() as u8;
    let others: Vec<u8> = (1..=3).filter(|node| *node != leader).collect();
    place.kill(&others);
    let last = place.core(leader).raft.last_index();
    place.submit(leader, 7, 100);
    place.until("an entry of its own", |place| place.core(leader).raft.last_index() > last);
    place.pass(10 * STEP_NS);
    place.kill(&[leader]);
    (place, leader)
}

#[test]
fn a_refounding_that_was_cut_short_makes_nothing_count_as_committed() {
    const SESSION: i64 = 9 << 56 | 77;
    let (mut place, node) = a_leader_with_an_entry_that_no_other_node_has();
    let (config, disk) = (place.slot(node).config.clone(), place.slot(node).disk.clone());
    let before = disk.operations();
    refound(config, [0xaa; 16], 0).unwrap();
    let whole = disk.operations() - before;

    // The last operation makes the snapshot's name durable. It is left out, since the name exists by then.
    for cut in 0..whole - 1 {
        let (mut place, node) = a_leader_with_an_entry_that_no_other_node_has();
        let (config, disk) = (place.slot(node).config.clone(), place.slot(node).disk.clone());
        disk.break_at(disk.operations() + cut);
        refound(config, [0xaa; 16], 0).unwrap_err();
        disk.kill();
        // The other nodes start again.
        let others: Vec<u8> = (1..=3).filter(|other| *other != node).collect();
        place.start(&others);
        place.until("a leader", |place| place.led(&others));
        place.open_session(others[0], SESSION);
        place.start(&[node]);
        place.until("the log of the others", |place| place.knows(node, SESSION));
    }
}

#[test]
fn a_refounding_that_may_not_last_says_so_and_lasts_when_done_again() {
    let (mut place, node) = a_leader_with_an_entry_that_no_other_node_has();
    let (config, disk) = (place.slot(node).config.clone(), place.slot(node).disk.clone());
    let before = disk.operations();
    refound(config, [0xaa; 16], 0).unwrap();
    let whole = disk.operations() - before;
    for (cut, seed) in (0..whole).map(|cut| (cut, 0)).chain((1..8).map(|seed| (whole - 1, seed))) {
        let (mut place, node) = a_leader_with_an_entry_that_no_other_node_has();
        let (config, disk) = (place.slot(node).config.clone(), place.slot(node).disk.clone());
        disk.break_at(disk.operations() + cut);
        let error = refound(config.clone(), [0xaa; 16], 0).unwrap_err();
        disk.kill();
        let again = refound(config.clone(), [0xbb; 16], 0);
        if cut < whole - 1 {
            assert!(!matches!(error, RefoundError::Unsure { .. }), "{cut}: {error}");
            assert!(again.is_ok(), "{cut}: nothing was changed");
            continue;
        }
        let text = error.to_string();
        assert!(text.contains("may not last") && text.contains("again"), "{text}");
        assert!(matches!(again, Err(RefoundError::Alone(_))), "{again:?}");
        disk.power_cut(seed);
        let still = refound(config, [0xcc; 16], 0);
        assert!(matches!(still, Err(RefoundError::Alone(_))), "seed {seed}: {still:?}");
    }
}

#[test]
fn a_directory_put_back_as_it_was_before_the_last_start_is_not_listened_to() {
    const SESSION: i64 = 3 << 56 | 77;
    const OTHER: i64 = 1 << 56 | 77;
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    place.kill(&[3]);
    let disk = place.slot(3).disk.clone();
    let copy: Vec<_> = disk.paths().into_iter().map(|path| (path.clone(), disk.contents(&path))).collect();
    place.slot(3).config.seed = 33;
    place.start(&[3]);
    place.until("a link", |place| place.core(1).links.is_up(3) && place.core(2).links.is_up(3));
    place.open_session(3, SESSION);
    place.kill(&[3]);

    for (path, contents) in copy {
        disk.corrupt(&path, |bytes| *bytes = contents.unwrap_or_default());
    }
    place.slot(3).config.seed = 333;
    place.start(&[3]);
    // The number of this start is that of the start that the copy does not know.
    place.pass(LONG_NS);
    assert!(!place.core(1).links.is_up(3) && !place.core(2).links.is_up(3));
    assert!(place.led(&[1, 2]));
    // With an empty directory the node catches up again.
    place.kill(&[3]);
    place.slot(3).new_disk();
    place.start(&[3]);
    place.open_session(1, OTHER);
    place.until("its data", |place| place.knows(3, OTHER));
    place.until("its vote", |place| place.core(1).raft.membership().voters == [1, 2, 3]);
}

#[test]
fn only_a_member_with_data_can_be_left_alone() {
    let mut place = Place::three();
    let config = place.slot(1).config.clone();
    assert!(matches!(refound(config, [0xaa; 16], 0), Err(RefoundError::NoEnsemble(_))));
    place.slot(1).new_disk();
    place.slot(1).config.members = None;
    place.start(&[1]);
    place.kill(&[1]);
    let config = place.slot(1).config.clone();
    assert!(matches!(refound(config, [0xaa; 16], 0), Err(RefoundError::NoEnsemble(_))));
}

/// Bootstraps three servers, of which one was standalone before and starts `late_ns` after the others. With
/// `reading` its process takes connections meanwhile, without an answer.
fn a_standalone_servers_data_leads(late_ns: u64, reading: bool) {
    const SESSION: i64 = 1 << 56 | 77;
    let mut place = Place::three();
    place.slot(1).config.members = None;
    place.start(&[1]);
    place.open_session(1, SESSION);
    place.kill(&[1]);
    place.slot(1).config.members = members(&[1, 2, 3]);
    place.start(&[2, 3]);
    place.slot(1).starting = reading;
    place.pass(late_ns);
    assert!(!place.led(&[2, 3]));
    place.start(&[1]);
    place.until_founded(&[1, 2, 3]);
    place.until("its data everywhere", |place| (1..=3).all(|node| place.knows(node, SESSION)));
    place.until("all votes", |place| place.core(2).raft.membership().voters == [1, 2, 3]);
}

#[test]
fn two_empty_servers_beside_one_that_was_standalone_take_its_data() {
    a_standalone_servers_data_leads(STEP_NS, false);
    a_standalone_servers_data_leads(FOUNDING_GRACE_NS - SECOND, false);
    // The others wait however long the server reads its data.
    a_standalone_servers_data_leads(LONG_NS, true);
}

#[test]
fn servers_that_would_count_other_votes_found_nothing_until_their_lines_agree() {
    let mut place = Place::new(&[&[1, 2, 3], &[1, 2, 3], &[2, 3, 4], &[2, 3, 4]]);
    place.start(&[1, 2, 3, 4]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2, 3, 4]));
    for (node, at_odds) in [(1, 3), (2, 3), (3, 2), (4, 2)] {
        let words = place.words(node);
        assert!(words.contains(&format!("server {at_odds} begins with other voters")), "{node}: {words}");
    }
    // Corrected server lines are enough.
    place.kill(&[1, 2, 3, 4]);
    for node in 1..=4 {
        place.slot(node).config.members = members(&[1, 2, 3, 4]);
    }
    place.start(&[1, 2, 3, 4]);
    place.until_founded(&[1, 2, 3, 4]);
}

#[test]
fn a_directory_of_another_server_is_refused_by_name() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    place.until("it is known everywhere", |place| {
        place.core(1).applier.machine.membership().recorded(1).is_some()
    });
    place.kill(&[1, 2]);
    let config = place.slot(1).config.clone();
    let open = |config: &ConsensusConfig| {
        let waker = Waker::new().unwrap();
        let opened = Consensus::open(config.clone(), waker.clone(), &[waker], Arc::new(Stats::new(1, 0)));
        opened.map(|_| ()).map_err(|error| error.to_string())
    };
    let as_two = ConsensusConfig { node: 2, ..config.clone() };
    let refused = open(&as_two).unwrap_err();
    assert!(refused.contains("is that of server 1, and this is to be server 2"), "{refused}");
    assert!(refound(as_two.clone(), [0xaa; 16], 0).unwrap_err().to_string().contains("server 1"));

    // A directory without a recorded node id: the ensemble knows the node of its identity.
    let meta = std::path::Path::new("/data/meta");
    place.slot(1).disk.corrupt(meta, |bytes| {
        bytes[40] = 0;
        bytes[12..16].fill(0);
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    });
    let refused = open(&as_two).unwrap_err();
    assert!(refused.contains("is that of server 1, and this is to be server 2"), "{refused}");
    open(&config).unwrap();
    assert!(open(&as_two).is_err());
}
