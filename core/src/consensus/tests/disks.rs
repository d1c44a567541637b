//! A failed disk stops the node. A full disk only stops writes, until it has space again.

use super::rig::*;
use crate::commit::Outcome;
use crate::consensus::StopReason;
use crate::consensus::config::UNDECIDED_NS;
use paddock_transport::engine::Next;

#[test]
fn a_failed_disk_stops_the_node_and_acknowledges_nothing_more() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    node.create("/a", PERSISTENT);
    node.settle();
    disk.break_at(disk.operations());
    let ticket = node.submit(ALICE, create("/b", b"x", PERSISTENT));
    node.until(|n| n.next == Next::Stop);
    assert!(node.reply(ticket).is_none());
    let reason = node.parts.control.reason().unwrap().clone();
    assert!(matches!(reason, StopReason::LogFailed(_)) && reason.is_failure(), "{reason}");
}

#[test]
fn a_full_disk_stops_writes_with_an_error_and_heals_by_itself() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    node.create("/a", PERSISTENT);
    node.settle();
    disk.set_capacity(Some(disk.used_bytes()));
    // Writes succeed until the log has no space left. Then they are refused, and reads and syncs go on.
    let mut undecided = Vec::new();
    let refused = loop {
        let ticket = node.submit(ALICE, set("/a", &[1; 5000]));
        node.until(|n| n.reply(ticket).is_some() || n.core.phase_is_full());
        match node.reply(ticket).map(|r| r.outcome.clone()) {
            Some(Outcome::NotOrdered(code)) => break code,
            Some(Outcome::Ok(_)) => {}
            Some(other) => panic!("{other:?}"),
            None => undecided.push(ticket),
        }
    };
    assert_eq!(refused, -1);
    assert!(node.exists("/a"));
    // A write that was proposed and is not decided gets no error: its connection is closed.
    for ticket in undecided {
        node.until(|n| {
            n.advance(UNDECIDED_NS);
            n.reply(ticket).is_some()
        });
        let outcome = &node.reply(ticket).unwrap().outcome;
        assert!(matches!(outcome, Outcome::Drop | Outcome::Ok(_)), "{outcome:?}");
    }
    // A sync waits only for the writes before it.
    let sync = node.sync();
    node.until(|n| n.reply(sync).is_some());
    assert_eq!(node.reply(sync).unwrap().outcome, Outcome::Synced);
    // No session expires meanwhile. A write that the full disk refused may still be under way.
    node.pass_busy(20 * SECOND_NS);
    assert!(!node.closed(ALICE));
    disk.set_capacity(None);
    node.until(|n| !n.core.phase_is_full());
    node.create("/b", PERSISTENT);
    node.stop();
    assert!(Node::start(&disk).exists("/b"));
}
