//! Invariants of Raft groups while messages are lost and reordered and nodes crash with torn tails.

use super::cluster::Cluster;
use crate::consensus::raft::{Membership, ProposeError, Role, Target};
use crate::peers::message::{RaftEntry, RaftMessage};

/// Runs some random steps: ticks, syncs, deliveries, losses, proposals, crashes, starts and cold reads.
fn chaos(c: &mut Cluster, steps: usize, mut also: impl FnMut(&mut Cluster, u64)) {
    for n in 0..steps {
        let nodes: Vec<u64> = c.peers.keys().copied().collect();
        let node = nodes[c.random(nodes.len() as u64) as usize];
        match c.random(40) {
            0..8 => c.tick(node),
            8..16 => c.persist(node),
            16..30 if !c.bag.is_empty() => {
                let at = c.random(c.bag.len() as u64) as usize;
                c.deliver(at);
            }
            30 if !c.bag.is_empty() => {
                let at = c.random(c.bag.len() as u64) as usize;
                c.bag.swap_remove(at);
            }
            31..35 => {
                if let Some(leader) = c.leader() {
                    let _ = c.with(leader, |g| g.propose(n.to_le_bytes().to_vec()));
                }
            }
            35 if c.random(6) == 0 => match c.peers[&node].group.is_some() {
                true => c.crash(node),
                false => c.start(node),
            },
            36 => c.serve_fetches(node),
            37 => also(c, node),
            _ => {}
        }
    }
}

/// Starts all nodes, and checks that they elect a leader and apply one log.
fn settle(c: &mut Cluster) {
    let down: Vec<u64> = c.peers.iter().filter(|(_, p)| p.group.is_none()).map(|(n, _)| *n).collect();
    for node in down {
        c.start(node);
    }
    let leader = c.elect();
    c.with(leader, |g| g.propose(b"the end".to_vec())).unwrap();
    c.calm(60);
    let last = *c.truth.keys().last().unwrap();
    assert_eq!(&c.truth[&last].payload[..], b"the end");
    let members = c.group(leader).membership();
    for node in members.nodes() {
        let g = c.group(node);
        let at = (g.term(), g.leader(), g.last_index(), g.commit());
        assert_eq!(
            c.peers[&node].applied,
            last,
            "node {node} is behind: {at:?} {:?}",
            c.group(leader).progress()
        );
    }
}

#[test]
fn any_chaos_leaves_one_leader_per_term_and_one_log() {
    for seed in 0..60 {
        let mut c = Cluster::new(&[1, 2, 3, 4, 5][..3 + 2 * (seed as usize % 2)], &[8], seed);
        chaos(&mut c, 6000, |_, _| {});
        settle(&mut c);
    }
}

#[test]
fn members_change_under_load_and_chaos() {
    let mut changes = 0;
    for seed in 0..400 {
        let mut c = Cluster::new(&[1, 2, 3], &[], seed);
        c.steady = false;
        let start = Membership::new(vec![1, 2, 3], Vec::new());
        c.add(4, &start);
        c.add(5, &start);
        chaos(&mut c, 8000, |c, _| {
            let Some(leader) = c.leader() else { return };
            let mut target = Target::default();
            for node in 1..=5 {
                match c.random(5) {
                    0..3 => target.voters.push(node),
                    3 => target.learners.push(node),
                    _ => {}
                }
            }
            if c.with(leader, |g| g.propose_membership(&target, b"rides along".to_vec())).is_ok() {
                changes += 1;
            }
        });
        settle(&mut c);
        assert!(
            !c.group(c.leader().unwrap()).membership().is_joint(),
            "seed {seed}: the joint state is never left"
        );
    }
    assert!(changes > 100, "{changes}");
}

#[test]
fn a_node_with_the_end_of_a_change_knows_after_a_restart_that_it_votes() {
    let mut c = Cluster::new(&[1, 2, 3], &[4], 8);
    c.steady = false;
    let leader = c.elect();
    let (out, behind) = (1 + leader % 3, 1 + (leader + 1) % 3);
    // One voter misses the change.
    c.crash(behind);
    let target = Target { voters: vec![leader, behind, 4], learners: Vec::new() };
    c.with(leader, |g| g.propose_membership(&target, Vec::new())).unwrap();
    while c.group(out).membership().contains(out) {
        c.tick(leader);
        for node in [leader, out, 4] {
            while !c.peers[&node].drains.is_empty() {
                c.persist(node);
            }
        }
        // The node that loses its vote learns of the end of the change. Node 4, which has gained one, does
        // not.
        if !c.group(leader).membership().contains(out) {
            c.bag.retain(|message| message.to != 4);
        }
        while let Some(at) = c.bag.len().checked_sub(1) {
            c.deliver(at);
        }
    }
    c.crash(leader);
    // A commit index need not be recorded. If node 4 did not know of its vote after the restart, no node
    // could lead.
    c.crash(4);
    c.peers.get_mut(&4).unwrap().disk.commit = 0;
    c.start(4);
    c.start(behind);
    assert!(c.group(4).membership().is_joint());
    let next = c.elect();
    assert!([behind, 4].contains(&next));
    assert_eq!(c.group(next).membership().voters, sorted(&[leader, behind, 4]));
}

fn sorted(nodes: &[u64]) -> Vec<u64> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes
}

#[test]
fn a_sole_voter_says_nothing_in_a_term_that_it_might_forget() {
    let mut c = Cluster::new(&[1], &[2], 9);
    c.with(1, |g| g.propose(b"x".to_vec())).unwrap();
    assert!(c.group(1).role() == Role::Leader && c.bag.is_empty(), "its vote is not durable");
    c.persist(1);
    assert!(!c.bag.is_empty());
}

#[test]
fn learners_are_never_counted() {
    let mut c = Cluster::new(&[1, 2, 3], &[4, 5, 6], 1);
    let leader = c.elect();
    for node in [1, 2, 3].into_iter().filter(|n| *n != leader) {
        c.crash(node);
    }
    let before = c.truth.len();
    c.with(leader, |g| g.propose(b"x".to_vec())).unwrap();
    c.calm(10);
    assert_eq!(c.truth.len(), before);
    c.calm(40);
    assert_eq!(c.leader(), None, "a leader without a quorum of voters must give up");
}

#[test]
fn a_peer_that_is_behind_is_served_by_cold_reads() {
    let mut c = Cluster::new(&[1, 2, 3], &[], 2);
    let leader = c.elect();
    let behind = 1 + leader % 3;
    c.crash(behind);
    for _ in 0..60 {
        c.with(leader, |g| g.propose(vec![7; 100_000])).unwrap();
        c.calm(1);
    }
    // After a restart no applied entry is in memory.
    for node in (1..=3).filter(|n| *n != behind) {
        c.crash(node);
        c.start(node);
    }
    c.start(behind);
    let leader = c.elect();
    c.calm(60);
    assert_eq!(c.peers[&behind].applied, c.peers[&leader].applied);
    assert!(c.peers[&leader].fetched >= 3, "{} cold reads", c.peers[&leader].fetched);
}

#[test]
fn a_peer_behind_the_logs_beginning_asks_for_a_snapshot() {
    let mut c = Cluster::new(&[1, 2, 3], &[], 3);
    let leader = c.elect();
    let behind = 1 + leader % 3;
    c.crash(behind);
    for _ in 0..20 {
        c.with(leader, |g| g.propose(b"x".to_vec())).unwrap();
        c.calm(1);
    }
    let (index, term) = (c.peers[&leader].applied, c.group(leader).term());
    c.with(leader, |g| g.truncated(index - 3));
    c.start(behind);
    c.calm(20);
    assert!(c.peers[&leader].snapshots.is_empty(), "there is none to be sent");
    c.with(leader, |g| g.set_snapshot(index, term));
    c.calm(20);
    assert_eq!(c.peers[&leader].snapshots, [behind]);
    assert!(c.group(leader).progress().iter().any(|p| p.node == behind && p.snapshot));
    // Raft asks again after a failed transfer.
    c.with(leader, |g| g.snapshot_sent(behind, None));
    c.calm(20);
    assert_eq!(c.peers[&leader].snapshots, [behind, behind]);
    // The snapshot arrives, and the node starts with the log after it.
    let members = c.group(leader).membership();
    let peer = c.peers.get_mut(&behind).unwrap();
    peer.group = None;
    peer.disk.entries.clear();
    (peer.disk.base, peer.disk.commit) = ((index, term, members), index);
    c.crash(behind);
    c.start(behind);
    c.with(leader, |g| g.snapshot_sent(behind, Some(index)));
    settle(&mut c);
    assert_eq!(c.peers[&leader].snapshots.len(), 2);
}

#[test]
fn leadership_is_handed_over_without_an_election_timeout() {
    let mut c = Cluster::new(&[1, 2, 3], &[4], 4);
    let leader = c.elect();
    c.with(leader, |g| g.transfer(4));
    c.calm(2);
    assert_eq!(c.leader(), Some(leader), "a learner cannot lead");
    let next = leader % 3 + 1;
    c.with(leader, |g| g.transfer(next));
    c.calm(3);
    assert_eq!(c.leader(), Some(next));
    assert!(c.group(next).is_ready_to_order());
}

#[test]
fn a_leader_that_is_voted_out_lets_go_and_another_takes_over_at_once() {
    let mut c = Cluster::new(&[1, 2, 3], &[], 5);
    c.steady = false;
    let leader = c.elect();
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    let target = Target { voters: others.clone(), learners: Vec::new() };
    c.with(leader, |g| g.propose_membership(&target, Vec::new())).unwrap();
    let again = c.with(leader, |g| g.propose_membership(&target, Vec::new()));
    assert_eq!(again, Err(ProposeError::Changing));
    c.calm(4);
    assert_ne!(c.group(leader).role(), Role::Leader);
    let next = c.leader().unwrap();
    assert_eq!(c.group(next).membership(), Membership::new(others, Vec::new()));
}

#[test]
fn a_read_round_is_confirmed_by_a_quorum_only() {
    let mut c = Cluster::new(&[1, 2, 3], &[4], 6);
    let leader = c.elect();
    c.with(leader, |g| g.read_index(1));
    c.calm(1);
    assert_eq!(c.peers[&leader].reads, [(1, c.peers[&leader].applied)]);
    for node in (1..=3).filter(|n| *n != leader) {
        c.crash(node);
    }
    c.with(leader, |g| g.read_index(2));
    c.calm(3);
    assert_eq!(c.peers[&leader].reads.len(), 1);
}

#[test]
fn entries_beyond_the_recorded_commit_are_superseded() {
    let mut c = Cluster::new(&[1, 2, 3], &[], 7);
    let old = c.elect();
    // The entries of the leader reach no other node.
    for _ in 0..5 {
        c.with(old, |g| g.propose(b"lost".to_vec())).unwrap();
    }
    for _ in 0..9 {
        c.persist(old);
    }
    c.bag.clear();
    let applied = c.peers[&old].applied;
    c.crash(old);
    let new = c.elect();
    c.with(new, |g| g.propose(b"kept".to_vec())).unwrap();
    c.calm(3);
    c.start(old);
    assert!(c.peers[&old].applied <= applied, "nobody has said that they are committed");
    assert!(c.group(old).last_index() > applied);
    settle(&mut c);
    assert!(c.truth.values().all(|e| &e.payload[..] != b"lost"));
}

#[test]
fn nonsense_of_a_peer_changes_nothing_for_the_worse() {
    for seed in 0..40 {
        let mut c = Cluster::new(&[1, 2, 3], &[4], seed);
        c.steady = false;
        let leader = c.elect();
        let node = if seed % 2 == 0 { leader } else { 1 + leader % 3 };
        let last = c.group(node).last_index();
        let term = c.group(node).term();
        for _ in 0..3000 {
            let number = |c: &mut Cluster, near: u64| match c.random(6) {
                0 => 0,
                1 => u64::MAX,
                2 => c.rng,
                _ => (near + 3).saturating_sub(c.random(6)),
            };
            let entries = (0..c.random(3))
                .map(|n| RaftEntry {
                    index: number(&mut c, last + n),
                    term: number(&mut c, term),
                    membership: c.rng & 1 == 0,
                    payload: vec![1; 3],
                })
                .collect();
            let kind = c.random(20) as u8;
            let message = RaftMessage {
                kind,
                to: if c.random(9) == 0 { number(&mut c, 2) } else { node },
                from: number(&mut c, 2),
                term: number(&mut c, term),
                log_term: number(&mut c, term),
                index: number(&mut c, last),
                entries,
                commit: number(&mut c, last),
                commit_term: number(&mut c, term),
                reject: c.rng & 2 == 0,
                reject_hint: number(&mut c, last),
                context: vec![0; 8],
                priority: c.rng as i64,
            };
            // Only this node is checked, since the other nodes may rightly disagree with it afterwards.
            let group = c.peers.get_mut(&node).unwrap().group.as_mut().unwrap();
            group.step(message);
            let mut effects = crate::consensus::raft::Effects::default();
            while group.drain(&mut effects) {}
        }
    }
}

#[test]
fn an_observer_notices_that_there_is_no_leader_any_more() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[4], 5);
    let leader = cluster.elect();
    cluster.calm(10);
    assert_eq!(cluster.group(4).leader(), leader);
    for node in 1..=3 {
        cluster.crash(node);
    }
    cluster.calm(100);
    assert_eq!(cluster.group(4).leader(), 0);
    (1..=3).for_each(|node| cluster.start(node));
    cluster.elect();
    cluster.calm(10);
    assert_eq!(Some(cluster.group(4).leader()), cluster.leader());
}
