//! The membership changes, and not all nodes know it at the same time.

use super::*;
use crate::peers::config::*;

/// A greeting of a member of [`members`]'s ensemble, as of `version`.
fn of_member(node: u8, version: i64) -> Greeting {
    Greeting { cluster: [7; 16], member: true, members_version: version, ..hello(node) }
}

fn rig_at(version: i64, nodes: &[u8]) -> Rig {
    let mut rig = Rig::new(vec![config(1, nodes)]);
    rig.node(1).peers.update(&members(version, nodes));
    rig
}

#[test]
fn a_node_that_lags_behind_takes_a_member_that_it_does_not_know_yet() {
    let mut rig = rig_at(5, &[1, 2]);
    let wire = rig.wire(&of_member(9, 6));
    assert!(!rig.inproc.is_closed(wire));
    assert_eq!(rig.told(1), ["up 9.1 9"]);
    // A change in between does not make the node count as removed.
    rig.node(1).peers.update(&members(5, &[1, 2, 3]));
    assert_eq!(rig.node(1).peers.peers[&9].leaving, None);
}

#[test]
fn a_joining_node_is_not_told_that_it_was_removed() {
    let mut rig = rig_at(5, &[1, 2]);
    for (version, member) in [(0, false), (4, false), (5, false), (6, false)] {
        let joining = Greeting { member, ..of_member(9, version) };
        let wire = rig.wire(&joining);
        assert_eq!(rig.refusal(wire), Some(Refusal::UnknownNode), "{version} {member}");
    }
    rig.node(1).peers.update(&members(6, &[1, 2, 9]));
    let joining = Greeting { cluster: [0; 16], member: false, ..of_member(9, 0) };
    rig.wire(&joining);
    assert_eq!(rig.told(1), ["up 9.1 9"]);
}

#[test]
fn a_joining_node_is_linked_before_the_version_grows_and_a_later_change_does_not_push_it_out() {
    let mut rig = rig_at(5, &[1, 2]);
    rig.wire(&of_member(9, 5));
    assert_eq!(rig.told(1), ["up 9.1 9"]);
    rig.node(1).peers.update(&members(5, &[1, 2, 3]));
    assert_eq!(rig.node(1).peers.peers[&9].leaving, None, "it may know more than we do");
    rig.node(1).peers.update(&members(5, &[1, 2, 3, 9]));
    rig.node(1).peers.update(&members(6, &[1, 2, 3]));
    assert!(matches!(rig.node(1).peers.peers[&9].leaving, Some((_, Refusal::Removed))));
}

#[test]
fn a_node_that_was_only_configured_is_not_told_that_it_was_removed() {
    let mut rig = Rig::new(vec![config(1, &[1, 2, 3])]);
    rig.link(3);
    rig.node(1).peers.update(&members(5, &[1, 2]));
    assert!(matches!(rig.node(1).peers.peers[&3].leaving, Some((_, Refusal::UnknownNode))));
}

#[test]
fn a_removed_node_is_told_so() {
    let mut rig = rig_at(6, &[1, 2]);
    let wire = rig.wire(&of_member(9, 5));
    assert_eq!(rig.refusal(wire), Some(Refusal::Removed));
    // A node that names no ensemble is not told of a removal.
    let wire = rig.wire(&Greeting { cluster: [0; 16], ..of_member(9, 5) });
    assert_eq!(rig.refusal(wire), Some(Refusal::UnknownNode));
}

#[test]
fn a_removed_node_keeps_its_link_for_a_while_and_is_then_told() {
    let mut rig = Rig::ensemble(3);
    for node in 1..=3 {
        rig.node(node).peers.update(&members(5, &[1, 2, 3]));
    }
    rig.run();
    rig.told(2);
    for node in [1, 3] {
        rig.node(node).peers.update(&members(6, &[1, 3]));
    }
    rig.pass(REMOVED_GRACE_NS - SECOND);
    assert!(rig.send(1, 2, &message(1)), "it learns of it by the log");
    rig.pass(SECOND);
    assert_eq!(rig.node(2).messages, [message(1)]);
    let told = rig.told(2);
    assert!(told.contains(&"removed by 1".into()) && !told.contains(&"removed by 3".into()), "{told:?}");
    // The removal is believed once node 2 dials node 3, which had dialled node 2 before.
    rig.pass(5 * SECOND);
    let told = rig.told(2);
    assert!(told.contains(&"removed by 3".into()), "{told:?}");
    assert!(told.iter().all(|t| t.starts_with("removed by")) && told.len() > 2, "{told:?}");
    assert!(!rig.node(1).peers.is_up(2) && rig.node(1).peers.is_up(3));
}

#[test]
fn a_node_that_comes_back_into_the_membership_gets_its_link_again() {
    let mut rig = Rig::ensemble(2);
    (1..=2).for_each(|n| rig.node(n).peers.update(&members(5, &[1, 2])));
    rig.run();
    (1..=2).for_each(|n| rig.node(n).peers.update(&members(6, &[n])));
    rig.pass(2 * REMOVED_GRACE_NS);
    assert!(!rig.node(1).peers.is_up(2));
    (1..=2).for_each(|n| rig.node(n).peers.update(&members(7, &[1, 2])));
    rig.pass(2 * SECOND);
    assert!(rig.node(1).peers.is_up(2) && rig.node(2).peers.is_up(1));
}

#[test]
fn a_node_without_a_place_is_taken_in_by_whoever_is_a_member() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    rig.wire(&of_member(9, 6));
    assert_eq!(rig.told(1), ["up 9.1 9"]);
    let wire = rig.wire(&hello(8));
    assert_eq!(rig.refusal(wire), Some(Refusal::UnknownNode), "neither node knows the other");
}

#[test]
fn a_member_that_moved_is_dialled_at_its_new_address() {
    let mut rig = Rig::new(vec![config(1, &[1, 2]), config(2, &[1, 2])]);
    let mut moved = members(5, &[1, 2]);
    moved.members.get_mut(&1).unwrap().host = "10.0.0.77".into();
    rig.node(2).peers.update(&moved);
    rig.pass(PATIENCE_NS / 2);
    assert!(rig.node(2).error(1).contains("cannot be reached"));
    rig.node(2).peers.update(&members(6, &[1, 2]));
    rig.pass(BACKOFF_MAX_NS);
    assert!(rig.node(2).peers.is_up(1));
}

#[test]
fn a_stranger_who_dials_cannot_tell_a_node_that_it_was_removed() {
    let mut rig = rig_at(5, &[1, 2]);
    let wire = rig.wire(&of_member(9, 6));
    let mut goodbye = Vec::new();
    frame::put(FrameKind::Goodbye, &[Refusal::Removed.code()], &mut goodbye);
    rig.inproc.send(wire, &goodbye);
    rig.run();
    assert!(rig.inproc.is_closed(wire));
    assert_eq!(rig.told(1), ["up 9.1 9", "down 9"]);
}

#[test]
fn a_refusal_tells_a_stranger_nothing_with_which_he_could_come_back() {
    let mut rig = rig_at(5, &[1, 2]);
    for stranger in
        [Greeting { cluster: [0; 16], ..of_member(9, 5) }, Greeting { cluster: [8; 16], ..of_member(2, 5) }]
    {
        let wire = rig.wire(&stranger);
        let bytes = rig.inproc.received(wire);
        let answer = Greeting::decode(&bytes).unwrap().unwrap();
        assert!(answer.refusal.is_some());
        assert_eq!((answer.cluster, answer.identity), ([0; 16], [0; 16]));
    }
}

#[test]
fn newcomers_share_the_room_of_one_large_frame_and_members_do_not() {
    let mut rig = rig_at(5, &[1, 2]);
    let part = |wire, rig: &mut Rig| {
        let frame = frame_of(&large(1, FRAME_BYTES_MAX / 2));
        rig.inproc.send(wire, &frame[..frame.len() - 1]);
        rig.run();
    };
    let wires: Vec<Wire> = (7..10).map(|node| rig.wire(&of_member(node, 6))).collect();
    for wire in &wires {
        part(*wire, &mut rig);
    }
    let member = rig.wire(&of_member(2, 5));
    part(member, &mut rig);
    let closed: Vec<bool> = wires.iter().map(|wire| rig.inproc.is_closed(*wire)).collect();
    assert_eq!(closed, [false, false, true]);
    assert!(!rig.inproc.is_closed(member));
}

#[test]
fn a_member_that_only_says_every_interface_is_dialled_where_the_own_configuration_has_it() {
    let mut rig = Rig::ensemble(3);
    let mut recorded = members(5, &[1, 2, 3]);
    recorded.members.get_mut(&2).unwrap().host = "0.0.0.0".to_owned();
    rig.node(1).peers.update(&recorded);
    assert_eq!(rig.node(1).peers.peers[&2].address, Some(address(2)));
    // Another port is another address: the replicated one counts.
    recorded.members.get_mut(&2).unwrap().peer_port = PORT + 1;
    rig.node(1).peers.update(&recorded);
    assert_eq!(rig.node(1).peers.peers[&2].address.as_ref().unwrap().host, "0.0.0.0");
}

#[test]
fn nodes_that_would_count_other_votes_have_no_link_before_they_belong_to_something() {
    let founding = |voters: &[u64]| PeersConfig { founders: founders(voters), ..config(1, &[1, 2, 3]) };
    let mut rig = Rig::new(vec![founding(&[1, 2, 3])]);
    let other = Greeting { founders: founders(&[2, 3, 4]), ..hello(2) };
    let wire = rig.wire(&other);
    assert_eq!(rig.refusal(wire), Some(Refusal::OtherFounders));
    assert_eq!(rig.node(1).peers.contact(2), Contact::Refused(Refusal::OtherFounders));
    assert!(rig.node(1).error(2).contains("server.N lines"), "{}", rig.node(1).error(2));
    // A node without voters, or in an ensemble, bootstraps nothing.
    for welcome in [
        Greeting { founders: founders(&[1, 2, 3]), ..hello(2) },
        Greeting { attempt: 2, ..hello(2) },
        Greeting { attempt: 3, cluster: [7; 16], member: true, members_version: 5, ..hello(2) },
    ] {
        let wire = rig.wire(&welcome);
        assert!(!rig.inproc.is_closed(wire), "{welcome:?}");
    }
    let mut rig = Rig::new(vec![founding(&[1, 2, 3])]);
    rig.node(1).peers.update(&members(5, &[1, 2, 3]));
    let wire = rig.wire(&other);
    assert!(!rig.inproc.is_closed(wire), "a joining node has the server lines of the day");
}

#[test]
fn what_the_last_meeting_told_outlasts_the_link() {
    let mut rig = Rig::new(vec![config(1, &[1, 2, 3])]);
    assert_eq!(rig.node(1).peers.contact(2), Contact::None);
    let wire = rig.wire(&Greeting { data: true, ..hello(2) });
    rig.inproc.reset(wire);
    rig.run();
    assert_eq!(rig.node(1).peers.contact(2), Contact::Settled);
    // A dial that crossed ours says nothing about the node. A node without its data does.
    rig.wire(&Greeting { data: true, ..hello(2) });
    assert_eq!(rig.node(1).peers.contact(2), Contact::Settled);
    rig.wire(&Greeting { identity: [22; 16], incarnation: 1, ..hello(2) });
    assert_eq!(rig.node(1).peers.contact(2), Contact::Empty);
    rig.wire(&Greeting { cluster: [7; 16], member: true, ..hello(3) });
    assert_eq!(rig.node(1).peers.contact(3), Contact::Settled);
}

#[test]
fn a_link_from_before_the_ensemble_ends_if_the_other_belongs_elsewhere() {
    let mut rig = Rig::new(vec![config(1, &[1, 2, 3])]);
    let stranger = rig.wire(&Greeting { cluster: [9; 16], member: true, members_version: 3, ..hello(2) });
    let member = rig.wire(&hello(3));
    rig.inproc.received(stranger);
    rig.node(1).peers.update(&members(5, &[1, 2, 3]));
    rig.node(1).peers.update(&members(5, &[1, 2, 3]));
    rig.run();
    assert!(rig.inproc.is_closed(stranger) && !rig.inproc.is_closed(member));
    assert!(rig.node(1).error(2).contains("another ensemble"), "{}", rig.node(1).error(2));
}

#[test]
fn who_takes_connections_and_says_nothing_is_told_from_who_is_not_there() {
    let mut rig = Rig::new(vec![config(1, &[1, 2]), config(2, &[1, 2])]);
    // The node's process has bound its port, and still reads its data.
    rig.node(1).mute = true;
    rig.run();
    assert_eq!(rig.node(2).peers.contact(1), Contact::Silent, "from the first moment on");
    rig.pass(HANDSHAKE_NS + SECOND);
    assert_eq!(rig.node(2).peers.contact(1), Contact::Silent);
    rig.node(1).mute = false;
    rig.pass(HANDSHAKE_NS + SECOND);
    assert_eq!(rig.node(2).peers.contact(1), Contact::Empty);

    let mut rig = Rig::new(vec![config(2, &[1, 2])]);
    rig.pass(HANDSHAKE_NS + SECOND);
    assert_eq!(rig.node_at(0).peers.contact(1), Contact::None);
}

#[test]
fn who_has_nothing_and_does_not_know_us_is_no_ensemble() {
    for (data, version, expected) in [
        (false, 0, Contact::Empty),
        (true, 0, Contact::Refused(Refusal::UnknownNode)),
        (false, 5, Contact::Refused(Refusal::UnknownNode)),
    ] {
        let other = PeersConfig { data, ..config(1, &[1, 3]) };
        let mut rig = Rig::new(vec![other, config(2, &[1, 2])]);
        if version > 0 {
            rig.node(1).peers.update(&members(version, &[1, 3]));
        }
        rig.pass(SECOND);
        assert_eq!(rig.node(2).peers.contact(1), expected);
    }
}
