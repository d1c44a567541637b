//! Commands are applied once and in order, even when a leader proposes them twice.

use super::rig::*;
use crate::command::{Batch, Command, Op};
use crate::machine::{ApplyError, StreamPosition};

fn numbered(rig: &Rig, node: u8, incarnation: u64, seq: u64, path: &str) -> Command {
    Command {
        node,
        incarnation,
        seq,
        session: ALICE,
        attachment: 1,
        identities: rig.identities.clone(),
        op: op_of(&create(path, 0)),
    }
}

fn one(rig: &Rig, command: Command) -> Batch {
    rig.batch(vec![command])
}

#[test]
fn a_command_that_comes_twice_is_skipped_without_a_trace() {
    let mut rig = Rig::new();
    let command = numbered(&rig, 1, 1, 2, "/a-");
    let batch = one(&rig, command);
    assert_eq!(rig.apply(&batch).unwrap().len(), 1);
    let (zxid, digest, image) = (rig.machine.zxid(), rig.machine.digest(), rig.machine.image());
    let twice = rig.batch(vec![batch.commands[0].clone(), batch.commands[0].clone()]);
    assert_eq!(rig.apply(&twice).unwrap(), []);
    assert!(rig.applied.changes.is_empty());
    assert_eq!((rig.machine.zxid(), rig.machine.digest(), rig.machine.image()), (zxid, digest, image));
}

#[test]
fn an_older_incarnation_is_over_once_a_newer_one_was_seen() {
    let mut rig = Rig::new();
    let fresh = numbered(&rig, 1, 7, 1, "/new");
    let batch = one(&rig, fresh);
    assert_eq!(rig.apply(&batch).unwrap().len(), 1);
    let late = numbered(&rig, 1, 1, 2, "/late");
    let batch = one(&rig, late);
    assert_eq!(rig.apply(&batch).unwrap(), []);
    assert!(!rig.exists("/late"));
    assert_eq!(rig.machine.stream(1), Some(StreamPosition { incarnation: 7, seq: 1 }));
}

#[test]
fn streams_of_nodes_are_apart() {
    let mut rig = Rig::new();
    let commands = vec![
        numbered(&rig, 2, 1, 1, "/two"),
        numbered(&rig, 3, 9, 1, "/three"),
        numbered(&rig, 2, 1, 2, "/two/b"),
    ];
    let batch = rig.batch(commands);
    let results = rig.apply(&batch).unwrap();
    assert_eq!(results.iter().map(|r| (r.node, r.seq)).collect::<Vec<_>>(), [(2, 1), (3, 1), (2, 2)]);
    let zxids: Vec<_> = results.iter().map(|r| r.zxid - FIRST_ZXID).collect();
    assert_eq!(zxids, [1, 2, 3]);
    assert_eq!(rig.machine.streams().map(|(node, _)| node).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_gap_is_an_error_and_what_came_before_it_stands() {
    let mut rig = Rig::new();
    let batch = rig.batch(vec![numbered(&rig, 1, 1, 2, "/a"), numbered(&rig, 1, 1, 4, "/b")]);
    let gap = ApplyError::StreamGap { node: 1, incarnation: 1, expected: 3, found: 4 };
    assert_eq!(rig.apply(&batch).unwrap_err(), gap);
    assert!(rig.exists("/a") && !rig.exists("/b"));
    let batch = one(&rig, numbered(&rig, 1, 2, 2, "/c"));
    assert!(rig.apply(&batch).is_err(), "a new incarnation begins at 1");
    let batch = one(&rig, numbered(&rig, 9, 1, 0, "/c"));
    assert!(rig.apply(&batch).is_err(), "numbers begin at 1");
}

#[test]
fn a_dropped_command_still_advances_its_stream() {
    let mut rig = Rig::new();
    let mut command = numbered(&rig, 1, 1, 2, "/x");
    command.session = BOB;
    let batch = one(&rig, command);
    assert_eq!(rig.apply(&batch).unwrap()[0].outcome, crate::commit::Outcome::Drop);
    assert_eq!(rig.machine.stream(1), Some(StreamPosition { incarnation: 1, seq: 2 }));
}

#[test]
fn rules_of_the_future_are_not_guessed() {
    let mut rig = Rig::new();
    let mut batch = rig.batch(vec![]);
    batch.semantics += 1;
    assert_eq!(rig.apply(&batch).unwrap_err(), ApplyError::Semantics { needed: batch.semantics });
}

#[test]
fn the_stamp_is_the_digest_at_its_zxid() {
    let mut rig = Rig::new();
    let (zxid, digest) = rig.machine.stamp();
    assert_eq!((zxid, digest), (rig.machine.zxid(), rig.machine.digest()));
    // An attach changes the state and has no zxid: the stamp stays the same.
    rig.run(ALICE, Op::AttachSession { timeout_ms: 1, password: vec![ALICE as u8; 16], last_zxid_seen: 0 });
    assert_eq!(rig.machine.stamp(), (zxid, digest));
    assert_ne!(rig.machine.digest(), digest);
    rig.attachment = 2;
    rig.create("/a", 0).unwrap();
    assert_eq!(rig.machine.digest_at(zxid), Some(digest));
    assert_eq!(rig.machine.stamp().0, zxid + 1);
}
