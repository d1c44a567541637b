//! Sessions expire because their clients are silent, and never because this node was.

use super::rig::*;
use crate::command::Op;
use crate::commit::Outcome;
use crate::consensus::ConsensusConfig;
use crate::consensus::config::STALL_NS;

/// Session timeout and the tick after it, with the default tick of two seconds.
const DEAD_NS: u64 = 6 * SECOND_NS + SECOND_NS / 5;

#[test]
fn expiry_deletes_the_ephemerals() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    node.create("/e", EPHEMERAL);
    node.pass(DEAD_NS);
    assert!(node.closed(ALICE));
    assert!(!node.exists("/e"));
    assert_eq!(node.core.applier.machine.sessions().len(), 0);
}

#[test]
fn a_session_with_heartbeats_lives() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    for _ in 0..20 {
        node.pass(SECOND_NS);
        node.touch(ALICE);
    }
    assert!(!node.closed(ALICE));
    node.pass(DEAD_NS + SECOND_NS);
    assert!(node.closed(ALICE));
}

#[test]
fn sessions_survive_a_restart_with_their_full_timeout() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    node.create("/e", EPHEMERAL);
    node.pass(3 * SECOND_NS);
    node.stop();
    let mut node = Node::start(&disk);
    node.pass(3 * SECOND_NS + SECOND_NS / 2);
    assert!(!node.closed(ALICE) && node.exists("/e"));
    let attach = Op::AttachSession { timeout_ms: TIMEOUT_MS, password: vec![7; 16], last_zxid_seen: 0 };
    let reply = node.run(ALICE, attach);
    assert!(matches!(reply.outcome, Outcome::Attached { attachment: 2, .. }), "{reply:?}");
    node.pass(3 * SECOND_NS + SECOND_NS / 2);
    assert!(!node.closed(ALICE));
    node.pass(DEAD_NS);
    assert!(node.closed(ALICE) && !node.exists("/e"));
}

#[test]
fn a_stall_of_the_core_expires_no_session() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    node.settle();
    // The process was stopped for a minute: no heartbeat was read, and the clock went on.
    node.advance(60 * SECOND_NS);
    node.turn();
    node.settle();
    assert!(!node.closed(ALICE));
    node.touch(ALICE);
    node.pass(3 * SECOND_NS);
    assert!(!node.closed(ALICE));
    node.pass(DEAD_NS);
    assert!(node.closed(ALICE), "but it does not live for ever");
}

#[test]
fn a_stop_that_ends_just_at_the_deadline_is_noticed_too() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    node.settle();
    // The turn comes too soon to count as a stall, but the session has long been silent.
    node.advance(6 * SECOND_NS + STALL_NS / 2);
    node.turn();
    node.settle();
    assert!(!node.closed(ALICE));
    // The shards report heartbeats that waited in the sockets.
    node.touch(ALICE);
    node.pass(4 * SECOND_NS);
    assert!(!node.closed(ALICE));
}

#[test]
fn a_session_that_attaches_again_at_its_deadline_is_not_expired() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    node.pass(4 * SECOND_NS);
    node.advance(SECOND_NS);
    node.turn();
    let attach = Op::AttachSession { timeout_ms: TIMEOUT_MS, password: vec![7; 16], last_zxid_seen: 0 };
    let ticket = node.submit(ALICE, attach);
    // The deadline passes in the turn in which the attach is taken.
    node.advance(SECOND_NS + SECOND_NS / 5);
    node.until(|n| n.reply(ticket).is_some());
    assert!(matches!(node.reply(ticket).unwrap().outcome, Outcome::Attached { .. }));
    node.settle();
    assert!(!node.closed(ALICE));
}

#[test]
fn a_mass_expiry_goes_in_bounded_batches() {
    let mut node = Node::start(&disk());
    for n in 0..600 {
        let op = Op::OpenSession { timeout_ms: TIMEOUT_MS, password: [7; 16] };
        node.submit(ALICE + n, op);
    }
    node.settle();
    assert_eq!(node.core.applier.machine.sessions().len(), 600);
    node.pass(DEAD_NS + SECOND_NS);
    assert_eq!(node.core.applier.machine.sessions().len(), 0);
    let largest = node.shards[0].commits.iter().map(|c| c.sessions.len()).max().unwrap();
    assert!(largest <= crate::consensus::config::EXPIRIES_PER_BATCH_MAX);
}

#[test]
fn a_session_with_heartbeats_lives_while_the_disk_hangs() {
    let config = ConsensusConfig { inline: true, ..config(1) };
    let mut node = Node::start_with(&disk(), config).unwrap();
    let open = node.submit(ALICE, Op::OpenSession { timeout_ms: TIMEOUT_MS, password: [7; 16] });
    while node.reply(open).is_none() {
        node.turn();
        node.core.disk_turn();
    }
    // More writes than the batches in flight hold. Heartbeats behind them stay in the ring. Other events wake
    // the core.
    let writes: Vec<_> = (0..3000).map(|_| node.submit(ALICE, set("/", b"x"))).collect();
    for tenth in 0..200 {
        node.advance(SECOND_NS / 10);
        if tenth % 10 == 0 {
            node.touch(ALICE);
        }
        node.turn();
    }
    let last = *writes.last().unwrap();
    while node.reply(last).is_none() {
        node.core.disk_turn();
        node.turn();
    }
    assert!(!node.closed(ALICE));
    // Without heartbeats the session still expires.
    for _ in 0..70 {
        node.advance(SECOND_NS / 10);
        node.turn();
        node.core.disk_turn();
    }
    assert!(node.closed(ALICE));
}
