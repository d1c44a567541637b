//! The replies to a shard come in the order of its commands, once each, and not before the entries are
//! durable. Syncs see the writes before them.

use super::rig::*;
use crate::command::Op;
use crate::commit::Outcome;
use crate::stats::ServerState;
use paddock_transport::engine::Next;

#[test]
fn the_first_zxid_of_a_fresh_node_is_zookeepers() {
    let mut node = Node::start(&disk());
    assert_eq!(node.parts.recovered.incarnation, 1);
    node.open_session(ALICE);
    assert_eq!(node.create("/a", PERSISTENT), 0x1_0000_0002);
    assert!(node.exists("/a"));
    assert_eq!(node.core.stats.mode(), ServerState::Standalone);
    assert_eq!(node.core.stats.zxid(), 0x1_0000_0002);
    assert_eq!(node.core.stats.node().znodes.get(), 6);
}

#[test]
fn results_come_in_the_order_of_submission_and_failures_take_their_zxid() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    let tickets: Vec<_> =
        (0..500).map(|n| node.submit(ALICE, create(&format!("/n{}", n % 400), b"x", PERSISTENT))).collect();
    let last = *tickets.last().unwrap();
    node.until(|n| n.reply(last).is_some());
    let replies: Vec<_> = tickets.iter().map(|t| node.reply(*t).unwrap().clone()).collect();
    for (n, pair) in replies.windows(2).enumerate() {
        assert_eq!(pair[1].zxid, pair[0].zxid + 1);
        assert!(node.place(tickets[n]) < node.place(tickets[n + 1]));
    }
    assert!(matches!(replies[399].outcome, Outcome::Ok(_)));
    assert_eq!(replies[400].outcome, Outcome::Err(-110));
    // Commands that waited together share entries, as far as an entry of this small log holds them.
    let commits = node.shards[0].commits.iter().filter(|c| c.replies.len() > 1).count();
    assert!(commits <= 5, "{commits}");
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    let ticket = node.submit(ALICE, create("/a", b"x", PERSISTENT));
    node.until(|n| n.reply(ticket).is_some());
    drop(node);
    disk.power_cut(1);
    assert!(Node::start(&disk).exists("/a"));
}

#[test]
fn a_sync_is_answered_after_the_writes_before_it_and_without_them_at_once() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    node.settle();
    let alone = node.sync();
    node.turn();
    assert_eq!(node.reply(alone).unwrap().outcome, Outcome::Synced);
    let write = node.submit(ALICE, create("/a", b"x", PERSISTENT));
    let behind = node.sync();
    node.until(|n| n.reply(behind).is_some());
    assert!(node.place(write) < node.place(behind));
    assert_eq!(node.reply(behind).unwrap().zxid, node.reply(write).unwrap().zxid);
}

#[test]
fn a_sync_in_the_first_turn_waits_for_the_first_entry_of_the_term() {
    let mut node = Node::start(&disk());
    let ticket = node.sync();
    // A round that begins before would be lost.
    node.until(|n| n.reply(ticket).is_some());
    assert!(node.core.applier.index >= 1);
}

#[test]
fn an_idle_core_asks_for_no_turn() {
    let mut node = Node::start(&disk());
    node.settle();
    assert_eq!(node.next, Next::Sleep { deadline_ns: None });
    node.open_session(ALICE);
    node.settle();
    let Next::Sleep { deadline_ns: Some(deadline) } = node.next else { panic!("{:?}", node.next) };
    assert!(deadline >= node.now.mono_ns + 4 * SECOND_NS, "nothing to do before somebody expires");
}

#[test]
fn a_clean_stop_tells_what_was_proposed() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    let ticket = node.submit(ALICE, create("/a", b"x", PERSISTENT));
    node.turn();
    node.parts.control.stop();
    node.until(|n| n.next == Next::Stop);
    assert!(node.reply(ticket).is_some());
    assert!(!node.parts.control.reason().unwrap().is_failure());
    drop(node);
    assert!(Node::start(&disk).exists("/a"));
}

#[test]
fn a_request_that_no_entry_can_hold_is_refused_and_others_go_on() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    let large = Op::Request { opcode: 5, body: vec![0; 70 << 10] };
    let large = node.submit(ALICE, large);
    let small = node.submit(ALICE, create("/a", b"x", PERSISTENT));
    node.until(|n| n.reply(small).is_some());
    assert_eq!(node.reply(large).unwrap().outcome, Outcome::NotOrdered(-1));
    assert!(matches!(node.reply(small).unwrap().outcome, Outcome::Ok(_)));
}
