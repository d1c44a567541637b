//! A slow shard pauses apply and admission. When it resumes, no command is lost or applied twice.

use super::rig::*;
use crate::consensus::config::{BATCHES_IN_FLIGHT_MAX, PAUSED_POLL_NS};
use paddock_transport::engine::{Engine, Next};

#[test]
fn a_full_commit_ring_pauses_and_resumes() {
    let mut small = config(2);
    small.commit_ring_entries = 4;
    let mut node = Node::start_with(&disk(), small).unwrap();
    node.open_session(ALICE);
    node.settle();
    node.shards[1].awake = false;
    let tickets: Vec<_> = (0..12)
        .map(|n| {
            let ticket = node.submit(ALICE, create(&format!("/n{n}"), b"x", PERSISTENT));
            node.until(|n| n.reply(ticket).is_some() || n.core.is_blocked());
            ticket
        })
        .collect();
    let paused = Next::Sleep { deadline_ns: Some(node.now.mono_ns + PAUSED_POLL_NS) };
    node.until(|n| n.next == paused);
    let told = tickets.iter().filter(|t| node.reply(**t).is_some()).count();
    assert!(told <= 4, "{told} told with room for four");
    assert!(node.core.applier.index > 0 && node.core.backlog.len() <= BATCHES_IN_FLIGHT_MAX);
    // The slow shard takes commits again.
    node.shards[1].awake = true;
    let last = *tickets.last().unwrap();
    node.until(|n| {
        n.advance(PAUSED_POLL_NS);
        n.reply(last).is_some()
    });
    for pair in tickets.windows(2) {
        assert!(node.place(pair[0]) < node.place(pair[1]));
    }
    let zxids = |n: &Node, shard: usize| n.shards[shard].commits.iter().map(|c| c.zxid).collect::<Vec<_>>();
    node.settle();
    assert_eq!(zxids(&node, 0), zxids(&node, 1));
}

#[test]
fn too_much_retired_memory_pauses_and_resumes() {
    let mut tight = config(2);
    tight.retired_bytes_max = 1 << 20;
    let mut node = Node::start_with(&disk(), tight).unwrap();
    node.open_session(ALICE);
    node.create("/a", PERSISTENT);
    node.shards[1].awake = false;
    let tickets: Vec<_> = (0..200).map(|_| node.submit(ALICE, set("/a", &[1; 20_000]))).collect();
    node.until(
        |n| matches!(n.next, Next::Sleep { deadline_ns: Some(at) } if at == n.now.mono_ns + PAUSED_POLL_NS),
    );
    let last = *tickets.last().unwrap();
    assert!(node.reply(last).is_none());
    assert!(node.core.applier.tree.retired_bytes() < 8 << 20, "{}", node.core.applier.tree.retired_bytes());
    node.shards[1].awake = true;
    node.until(|n| {
        n.advance(PAUSED_POLL_NS);
        n.reply(last).is_some()
    });
}

#[test]
fn a_full_submit_ring_is_taken_in_pieces_and_its_shard_is_woken() {
    let mut node = Node::start(&disk());
    node.open_session(ALICE);
    let first = node.ticket().token + 1;
    let mut last = None;
    while !node.shards[0].parts.submits.is_full() {
        last = Some(node.submit(ALICE, create("/a", b"x", PERSISTENT)));
    }
    assert!(!node.core.park(), "there is something to take");
    let last = last.unwrap();
    node.until(|n| n.reply(last).is_some());
    assert_eq!(last.token - first + 1, crate::submit::SUBMIT_RING_ENTRIES as u64);
}
