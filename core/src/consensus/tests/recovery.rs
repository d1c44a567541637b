//! A member of an ensemble restarts: entries that are recorded as committed are applied, and no others.

use super::rig::*;
use crate::consensus::membership::bootstrap_guard::FOUNDING_GRACE_NS;
use crate::consensus::raft::{Membership, Role};
use crate::consensus::{ConsensusConfig, StartError};
use crate::members::{Member, MemberRole, Members};
use crate::peers::message::{RaftEntry, RaftMessage};
use bytes::Bytes;
use paddock_storage::fault::FaultDisk;
use paddock_storage::{Entry, Flushing, HardState, Log, LogOptions, Record};
use std::sync::Arc;

fn ensemble(voters: &[u8], observers: &[u8]) -> ConsensusConfig {
    let member = |role| Member {
        host: "127.0.0.1".to_owned(),
        peer_port: 1,
        election_port: 2,
        role,
        client: None,
        identity: None,
    };
    let voters = voters.iter().map(|node| (*node, member(MemberRole::Participant)));
    let observers = observers.iter().map(|node| (*node, member(MemberRole::Observer)));
    let members = Members { members: voters.chain(observers).collect(), ..Members::default() };
    ConsensusConfig { members: Some(members), ..config(1) }
}

/// Writes to the log of a node that is not running.
fn log(disk: &Arc<FaultDisk>, records: Vec<Record>) {
    let mut options = LogOptions::new("/data/log", 0);
    options.disk = disk.clone();
    options.segment_bytes = 64 << 10;
    options.flushing = Flushing::Manual;
    let (mut log, _) = Log::open(options).unwrap();
    log.append(records).unwrap();
    log.flush_turn();
    drop(log);
}

fn empty(index: u64, term: u64) -> Record {
    Record::Entry(Entry { term, index, kind: 0, data: Bytes::new() })
}

fn three_committed_of_five(disk: &Arc<FaultDisk>) {
    drop(Node::start_with(disk, ensemble(&[1, 2, 3], &[])).unwrap());
    let mut records = vec![Record::HardState(HardState { term: 1, vote: 2, commit: 0 })];
    records.extend((1..=5).map(|index| empty(index, 1)));
    records.push(Record::HardState(HardState { term: 1, vote: 2, commit: 3 }));
    log(disk, records);
}

#[test]
fn an_uncommitted_suffix_is_not_applied_and_is_superseded_later() {
    let disk = disk();
    three_committed_of_five(&disk);
    let mut node = Node::start_with(&disk, ensemble(&[1, 2, 3], &[])).unwrap();
    assert_eq!((node.core.applier.index, node.core.raft.last_index()), (3, 5));
    assert_eq!((node.core.raft.term(), node.core.raft.role()), (1, Role::Follower));
    let entry = RaftEntry { index: 4, term: 2, membership: false, payload: Vec::new() };
    node.core.raft.step(RaftMessage {
        kind: 3,
        to: 1,
        from: 2,
        term: 2,
        index: 3,
        log_term: 1,
        entries: vec![entry],
        commit: 4,
        ..RaftMessage::default()
    });
    node.until(|n| n.core.applier.index == 4);
    assert_eq!((node.core.applier.term, node.core.raft.last_index()), (2, 4));
    drop(node);
    let node = Node::start_with(&disk, ensemble(&[1, 2, 3], &[])).unwrap();
    assert_eq!((node.core.applier.index, node.core.raft.last_index(), node.core.raft.term()), (3, 4, 2));
}

#[test]
fn the_first_membership_outlives_the_configuration() {
    let disk = disk();
    three_committed_of_five(&disk);
    let first = Membership::new(vec![1, 2, 3], Vec::new());
    for other in [ensemble(&[1], &[]), ensemble(&[1, 2, 3, 4, 5], &[6])] {
        let node = Node::start_with(&disk, other).unwrap();
        assert_eq!(node.core.raft.membership(), first);
    }
    let alone = Node::start_with(&disk, config(1));
    assert!(matches!(alone, Err(StartError::Membership { .. })), "it must not lead alone");
}

#[test]
fn a_power_cut_at_any_operation_of_the_first_start_does_not_mix_memberships() {
    for seed in 0..40 {
        let disk = disk();
        let _ = Node::start_with(&disk, ensemble(&[1, 2, 3], &[4]));
        disk.power_cut(seed);
        let node = Node::start_with(&disk, ensemble(&[1, 2, 3], &[4])).unwrap();
        assert_eq!(node.core.raft.membership(), Membership::new(vec![1, 2, 3], vec![4]));
    }
}

#[test]
fn a_node_without_a_vote_starts_and_follows() {
    for members in [ensemble(&[2, 3], &[1]), ensemble(&[2, 3], &[])] {
        let node = Node::start_with(&disk(), members).unwrap();
        assert_eq!((node.core.raft.role(), node.core.raft.leader()), (Role::Follower, 0));
    }
}

#[test]
fn a_sole_voter_leads_at_once_and_keeps_its_clock_for_its_observers() {
    let disk = disk();
    let mut node = Node::start_with(&disk, ensemble(&[1], &[2])).unwrap();
    // Its observer may have entries that this node has lost.
    assert_eq!(node.core.raft.role(), Role::Follower);
    node.pass(FOUNDING_GRACE_NS + 2 * SECOND_NS);
    node.until(|n| n.core.raft.is_ready_to_order());
    drop(node);
    let mut node = Node::start_with(&disk, ensemble(&[1], &[2])).unwrap();
    assert_eq!(node.core.raft.role(), Role::Leader);
    assert!(!node.core.raft.alone());
    node.until(|n| n.core.raft.is_ready_to_order());
}

#[test]
fn a_standalone_server_stays_alone_until_its_group_is_told_otherwise() {
    let disk = disk();
    let mut node = Node::start(&disk);
    node.open_session(ALICE);
    node.create("/a", PERSISTENT);
    node.stop();
    let node = Node::start_with(&disk, ensemble(&[1, 2, 3], &[])).unwrap();
    assert_eq!(node.core.raft.membership(), Membership::new(vec![1], Vec::new()));
    assert!(node.exists("/a"));
}
