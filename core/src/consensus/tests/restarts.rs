//! A node restarts with everything that it had acknowledged, however it ended. It never applies a command
//! twice.

use super::rig::*;
use crate::command::{Batch, Op, SEMANTICS};
use crate::commit::Outcome;
use crate::consensus::{StartError, StopReason};
use paddock_transport::engine::Next;

#[test]
fn a_restart_keeps_everything() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    for n in 0..50 {
        node.create(&format!("/n{n}"), PERSISTENT);
    }
    let zxid = node.create("/e", EPHEMERAL);
    node.stop();
    let mut node = Node::start(&disk);
    let found = node.parts.recovered.clone();
    assert_eq!((found.incarnation, found.zxid, found.sessions, found.znodes), (2, zxid, 1, 5 + 51));
    assert!(node.exists("/e"));
    // A new term, as after an election of ZooKeeper's.
    assert_eq!(node.create("/after", PERSISTENT), 0x2_0000_0001);
}

#[test]
fn a_killed_node_keeps_what_it_acknowledged() {
    for seed in 0..20 {
        let disk = disk();
        let mut node = Node::start(&disk);
        node.open_session(ALICE);
        let mut acknowledged = 0;
        let tickets: Vec<_> = (0..200)
            .map(|n| {
                if n % 20 == 0 {
                    // The power cut falls between the steps of writes in flight.
                    for _ in 0..seed % 5 {
                        node.turn();
                    }
                }
                node.submit(ALICE, create(&format!("/n{n}"), &[n as u8; 300], PERSISTENT))
            })
            .collect();
        let wanted = tickets[(seed * 7) as usize];
        node.until(|n| n.reply(wanted).is_some());
        while acknowledged < tickets.len() && node.reply(tickets[acknowledged]).is_some() {
            acknowledged += 1;
        }
        disk.power_cut(seed);
        drop(node);
        let mut node = Node::start(&disk);
        for n in 0..acknowledged {
            assert!(node.exists(&format!("/n{n}")), "seed {seed}: {n} of {acknowledged} is lost");
        }
        node.create("/after", PERSISTENT);
    }
}

#[test]
fn each_start_is_a_new_incarnation_and_commands_of_an_old_one_are_not_applied_again() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    node.stop();
    let mut node = Node::start(&disk);
    assert_eq!(node.parts.recovered.incarnation, 2);
    node.create("/a", PERSISTENT);
    // A batch of the former incarnation is ordered again, as after a failover.
    let Op::Request { opcode, body } = create("/b", b"x", PERSISTENT) else { unreachable!() };
    let (applied_zxid, applied_digest) = node.core.applier.machine.stamp();
    let old = |incarnation, seq| crate::command::Command {
        node: 1,
        incarnation,
        seq,
        session: ALICE,
        attachment: 1,
        identities: Vec::new(),
        op: Op::Request { opcode, body: body.clone() },
    };
    let batch = Batch {
        semantics: SEMANTICS,
        policy: 0,
        time_ms: 0,
        applied_zxid,
        applied_digest,
        commands: vec![old(1, 2), old(2, 1)],
    };
    let payload = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap().to_vec();
    node.core.raft.propose(payload).unwrap();
    let before = node.core.applier.machine.zxid();
    node.settle();
    assert!(!node.exists("/b"));
    assert_eq!(node.core.applier.machine.zxid(), before);
    let zxid = node.create("/c", PERSISTENT);
    assert_eq!(zxid, before + 1);
    node.stop();
    assert!(!Node::start(&disk).exists("/b"));
}

fn propose_diverged(node: &mut Node) {
    let (applied_zxid, digest) = node.core.applier.machine.stamp();
    let batch = Batch {
        semantics: SEMANTICS,
        policy: 0,
        time_ms: 0,
        applied_zxid,
        applied_digest: digest ^ 1,
        commands: Vec::new(),
    };
    let payload = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap().to_vec();
    node.core.raft.propose(payload).unwrap();
}

#[test]
fn a_divergent_digest_stops_the_node_and_keeps_it_from_starting_on_it() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    propose_diverged(&mut node);
    node.until(|n| n.next == Next::Stop);
    let reason = node.parts.control.reason().unwrap().clone();
    assert!(matches!(reason, StopReason::Diverged { .. }) && reason.is_failure(), "{reason}");
    drop(node);
    let error = Node::start_with(&disk, config(1)).err().unwrap();
    assert!(matches!(error, StartError::Replay(StopReason::Diverged { .. })), "{error}");
}

#[test]
fn an_entry_that_is_no_batch_stops_the_node() {
    let mut node = Node::start(&disk());
    node.settle();
    node.core.raft.propose(vec![0xff; 40]).unwrap();
    node.until(|n| n.next == Next::Stop);
    assert!(matches!(node.parts.control.reason(), Some(StopReason::Undecodable { .. })));
}

#[test]
fn a_second_process_on_the_directory_is_refused() {
    let disk = disk();
    let _node = Node::start(&disk);
    assert!(matches!(Node::start_with(&disk, config(1)).err(), Some(StartError::DataDir(_))));
}

#[test]
fn a_failed_command_is_the_same_after_replay() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    node.create("/a", PERSISTENT);
    let reply = node.run(ALICE, create("/a", b"x", PERSISTENT));
    assert_eq!(reply.outcome, Outcome::Err(-110));
    let digest = node.core.applier.machine.digest();
    node.stop();
    let node = Node::start(&disk);
    assert_eq!((node.parts.recovered.zxid, node.core.applier.machine.digest()), (reply.zxid, digest));
}
