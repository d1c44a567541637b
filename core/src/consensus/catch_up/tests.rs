//! Transfers between two or more nodes in virtual time: links that break, disks that fill up, messages that
//! no correct node sends.

use super::*;
use crate::peers::message::SnapshotMessage as M;
use paddock_storage::fault::FaultDisk;
use paddock_storage::{SnapshotMeta, Snapshots};
use paddock_transport::wake::Waker;
use std::collections::BTreeMap;
use std::sync::Arc;

const MS: u64 = 1_000_000;
const LEADER: u8 = 1;
const TERM: u64 = 7;
/// Blocks of a snapshot, of one chunk each.
const BLOCKS: usize = 12;

fn snapshots(disk: &FaultDisk) -> Snapshots {
    Snapshots::on(Arc::new(disk.clone()), "/snapshots")
}

fn write(disk: &FaultDisk, index: u64) {
    let meta = SnapshotMeta { index, term: 3, zxid: index as i64, ..SnapshotMeta::default() };
    let mut writer = snapshots(disk).create(&meta).unwrap();
    for n in 0..BLOCKS {
        writer.block(n as u16, &vec![n as u8 ^ index as u8; CHUNK_BYTES]).unwrap();
    }
    writer.finish().unwrap();
}

fn has(disk: &FaultDisk) -> Vec<u64> {
    snapshots(disk).list().unwrap().iter().map(|l| l.index).collect()
}

/// Whether both disks have the same bytes in their snapshot at `index`.
fn same(a: &FaultDisk, b: &FaultDisk, index: u64) -> bool {
    let file = |disk: &FaultDisk| {
        let listed = snapshots(disk).list().unwrap();
        listed.iter().find(|l| l.index == index).and_then(|l| disk.contents(&l.path))
    };
    file(a).is_some_and(|bytes| Some(bytes) == file(b))
}

struct Node {
    disk: FaultDisk,
    transfers: Transfers,
    engine: EngineState,
    outcomes: Vec<TransferOutcome>,
}

struct Net {
    nodes: BTreeMap<u8, Node>,
    now_ns: u64,
    /// Delivered messages: (sender, receiver, message).
    delivered: Vec<(u8, u8, M)>,
    /// The most chunks that were sent in one step.
    chunks_at_once: usize,
}

impl Net {
    fn new(nodes: u8) -> Self {
        let node = |_| {
            let disk = FaultDisk::new();
            let transfers = Transfers::new(snapshots(&disk), WorkerMode::Inline).unwrap();
            let engine = EngineState { leader: LEADER.into(), term: TERM, commit: 10 };
            Node { disk, transfers, engine, outcomes: Vec::new() }
        };
        let nodes = (LEADER..=nodes).map(|id| (id, node(id))).collect();
        Self { nodes, now_ns: 1000 * MS, delivered: Vec::new(), chunks_at_once: 0 }
    }

    fn node(&mut self, id: u8) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    fn disk(&self, id: u8) -> FaultDisk {
        self.nodes[&id].disk.clone()
    }

    fn begin(&mut self, to: u8) {
        let now_ns = self.now_ns;
        self.node(LEADER).transfers.begin(to, TERM, now_ns);
    }

    fn deliver(&mut self, from: u8, to: u8, message: M) {
        let now_ns = self.now_ns;
        let node = self.node(to);
        let engine = node.engine;
        node.transfers.handle(from, message, &engine, now_ns);
    }

    /// One millisecond: a turn of each node, and the delivery of each message for which `line` returns true.
    fn step(&mut self, line: &mut impl FnMut(u8, u8, &mut M) -> bool) {
        self.now_ns += MS;
        let mut sent = Vec::new();
        for (id, node) in &mut self.nodes {
            node.transfers.turn(&node.engine, self.now_ns);
            while let Some((to, Message::Snapshot(message))) = node.transfers.next_out() {
                sent.push((*id, to, message));
            }
            while let Some(outcome) = node.transfers.next_outcome() {
                node.outcomes.push(outcome);
            }
        }
        let chunks = sent.iter().filter(|(_, _, m)| matches!(m, M::Chunk { .. })).count();
        self.chunks_at_once = self.chunks_at_once.max(chunks);
        for (from, to, mut message) in sent {
            if line(from, to, &mut message) {
                self.delivered.push((from, to, message.clone()));
                self.deliver(from, to, message);
            }
        }
    }

    fn until(
        &mut self,
        what: &str,
        line: &mut impl FnMut(u8, u8, &mut M) -> bool,
        done: impl Fn(&Net) -> bool,
    ) {
        for _ in 0..60_000 {
            if done(self) {
                return;
            }
            self.step(line);
        }
        let last: Vec<_> = self.delivered.iter().rev().take(40).map(|(f, _, m)| (f, name(m))).collect();
        panic!(
            "{what}: not within a minute; {:?}, last of {}: {last:?}",
            self.outcomes(),
            self.delivered.len()
        );
    }

    fn outcomes(&self) -> Vec<(u8, Vec<TransferOutcome>)> {
        self.nodes.iter().map(|(id, n)| (*id, n.outcomes.clone())).collect()
    }

    fn received(&self, id: u8, index: u64) -> bool {
        self.nodes[&id].outcomes.contains(&TransferOutcome::Received { index, term: 3 })
    }

    fn sent(&self, to: u8, index: u64) -> bool {
        self.nodes[&LEADER].outcomes.contains(&TransferOutcome::Sent { to, ok: true, index })
    }

    fn chunk_bytes(&self) -> usize {
        let bytes = |m: &M| if let M::Chunk { bytes, .. } = m { bytes.len() } else { 0 };
        self.delivered.iter().map(|(_, _, m)| bytes(m)).sum()
    }
}

/// A message without its bytes.
fn name(message: &M) -> String {
    match message {
        M::Chunk { offset, bytes, .. } => format!("{} bytes at {offset}", bytes.len()),
        other => format!("{other:?}"),
    }
}

fn good(_: u8, _: u8, _: &mut M) -> bool {
    true
}

#[test]
fn a_snapshot_arrives_whole_and_both_sides_learn_it_once() {
    let mut net = Net::new(2);
    write(&net.disk(1), 50);
    write(&net.disk(1), 100);
    net.begin(2);
    net.begin(2);
    net.until("arrival", &mut good, |n| n.sent(2, 100));
    assert!(net.received(2, 100) && same(&net.disk(1), &net.disk(2), 100));
    assert_eq!((net.node(1).outcomes.len(), net.node(2).outcomes.len()), (1, 1));
    assert!(net.chunks_at_once > 1 && net.chunks_at_once <= WINDOW_CHUNKS_MAX, "{}", net.chunks_at_once);
    // The receiver opens the snapshot, and the leader must still have the entries after it.
    let now_ns = net.now_ns;
    assert_eq!(net.node(1).transfers.keep_log_from(now_ns), Some(100));
    assert_eq!(net.node(1).transfers.keep_log_from(now_ns + LOG_KEEP_NS), None);
    // A repeated offer is acknowledged at once.
    net.begin(2);
    net.until("again", &mut good, |n| n.nodes[&1].outcomes.len() == 2);
    assert_eq!(net.node(2).outcomes.len(), 1);
}

#[test]
fn a_link_lost_in_the_middle_goes_on_where_it_was() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    net.node(1).transfers.link_down(2);
    net.node(2).transfers.link_down(1);
    net.step(&mut good);
    assert_eq!(net.node(1).outcomes, [TransferOutcome::Sent { to: 2, ok: false, index: 100 }]);
    for _ in 0..1000 {
        net.step(&mut good);
    }
    let before = net.chunk_bytes();
    net.begin(2);
    net.until("arrival", &mut good, |n| n.sent(2, 100));
    assert!(net.received(2, 100) && same(&net.disk(1), &net.disk(2), 100));
    let again = net.chunk_bytes() - before;
    assert!(again < (BLOCKS / 2 + 2) * CHUNK_BYTES, "{again} bytes were sent again");
}

#[test]
fn what_the_line_drops_is_sent_again() {
    for seed in 0..20 {
        let mut net = Net::new(2);
        write(&net.disk(1), 100);
        net.begin(2);
        let mut draw = seed;
        let mut lossy = |_: u8, _: u8, _: &mut M| {
            draw = draw * 6364136223846793005u128 % (1 << 64) + 1442695040888963407;
            (draw >> 33) % 5 != 0
        };
        net.until("arrival", &mut lossy, |n| n.received(2, 100) && n.sent(2, 100));
        assert!(same(&net.disk(1), &net.disk(2), 100), "seed {seed}");
    }
}

#[test]
fn newer_checkpoints_do_not_take_the_file_away_that_is_being_sent() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    for index in [200, 300, 400] {
        write(&net.disk(1), index);
    }
    assert_eq!(has(&net.disk(1)), [300, 400]);
    let now_ns = net.now_ns;
    assert_eq!(net.node(1).transfers.keep_log_from(now_ns), Some(100), "the log must reach it all the same");
    net.until("arrival", &mut good, |n| n.sent(2, 100));
    assert!(net.received(2, 100));
    assert_eq!(has(&net.disk(2)), [100]);
}

#[test]
fn a_full_disk_at_the_receiver_is_told_leaves_nothing_behind_and_is_tried_again() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.disk(2).set_capacity(Some((CHUNK_BYTES * 3) as u64));
    net.begin(2);
    net.until("failure", &mut good, |n| !n.nodes[&1].outcomes.is_empty());
    assert_eq!(net.node(1).outcomes, [TransferOutcome::Sent { to: 2, ok: false, index: 100 }]);
    let told = net.delivered.iter().any(|(from, _, m)| *from == 2 && matches!(m, M::Stop { .. }));
    assert!(told && net.disk(2).used_bytes() == 0, "the part is removed");
    net.disk(2).set_capacity(None);
    net.begin(2);
    net.until("arrival", &mut good, |n| n.sent(2, 100));
    assert!(same(&net.disk(1), &net.disk(2), 100));
}

#[test]
fn a_damaged_chunk_never_becomes_a_snapshot() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    let mut damaged = 0;
    let mut line = |_: u8, _: u8, m: &mut M| {
        if let M::Chunk { bytes, offset, .. } = m
            && *offset > 0
            && damaged == 0
        {
            bytes[77] ^= 1;
            damaged += 1;
        }
        true
    };
    net.until("failure", &mut line, |n| !n.nodes[&1].outcomes.is_empty());
    assert_eq!(net.node(1).outcomes, [TransferOutcome::Sent { to: 2, ok: false, index: 100 }]);
    assert!(net.disk(2).paths().is_empty() && net.node(2).outcomes.is_empty());
    net.begin(2);
    net.until("arrival", &mut line, |n| n.received(2, 100));
    assert!(same(&net.disk(1), &net.disk(2), 100));
}

#[test]
fn many_receivers_are_served_some_at_a_time() {
    let last = LEADER + OUTGOING_TRANSFERS_MAX as u8 + 3;
    let mut net = Net::new(last);
    write(&net.disk(1), 100);
    for id in 2..=last {
        net.begin(id);
    }
    net.until("all", &mut good, |n| (2..=last).all(|id| n.sent(id, 100) && n.received(id, 100)));
    assert!(net.chunks_at_once <= OUTGOING_TRANSFERS_MAX * WINDOW_CHUNKS_MAX);
    for id in 2..=last {
        assert!(same(&net.disk(1), &net.disk(id), 100));
    }
}

#[test]
fn the_slower_the_line_the_less_is_on_its_way() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    // 128 KiB take 40 ms, and each chunk queues behind those before it.
    let mut line: VecDeque<(u64, u8, u8, M)> = VecDeque::new();
    let mut free_ns = 0;
    let mut at_once = Vec::new();
    while !net.sent(2, 100) {
        let mut arrived = Vec::new();
        let now_ns = net.now_ns;
        net.step(&mut |from, to, m| {
            let took = if matches!(m, M::Chunk { .. }) { 40 * MS } else { 0 };
            free_ns = now_ns.max(free_ns) + took;
            line.push_back((free_ns, from, to, m.clone()));
            false
        });
        at_once.push(line.iter().filter(|(_, _, _, m)| matches!(m, M::Chunk { .. })).count());
        while line.front().is_some_and(|(at_ns, ..)| *at_ns <= net.now_ns) {
            arrived.extend(line.pop_front());
        }
        for (_, from, to, message) in arrived {
            net.deliver(from, to, message);
        }
        assert!(net.now_ns < 60_000 * MS, "{:?}", net.outcomes());
    }
    let most = at_once.iter().max().unwrap();
    assert!(*most <= 3, "{most} chunks stand before a heartbeat");
}

#[test]
fn a_receiver_that_falls_silent_is_given_up_and_raft_is_told() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    let begun_ns = net.now_ns;
    net.until("failure", &mut |from, _, _: &mut M| from != 2, |n| !n.nodes[&1].outcomes.is_empty());
    assert_eq!(net.node(1).outcomes, [TransferOutcome::Sent { to: 2, ok: false, index: 100 }]);
    assert!(net.now_ns - begun_ns >= SILENCE_MAX_NS);
}

#[test]
fn without_any_snapshot_raft_is_told_after_a_pause() {
    let mut net = Net::new(2);
    net.begin(2);
    let begun_ns = net.now_ns;
    net.until("failure", &mut good, |n| !n.nodes[&1].outcomes.is_empty());
    assert_eq!(net.node(1).outcomes, [TransferOutcome::Sent { to: 2, ok: false, index: 0 }]);
    assert!(net.now_ns - begun_ns >= PAUSE_NS, "not with every heartbeat");
}

#[test]
fn offers_that_are_stale_foreign_or_of_no_use_are_refused() {
    let offer = |term, index, bytes| M::Offer { term, index, index_term: 3, bytes };
    for (from, message) in [
        (2, offer(TERM, 100, 1000)),
        (1, offer(TERM - 1, 100, 1000)),
        (1, offer(TERM + 1, 100, 1000)),
        (1, offer(TERM, 100, 0)),
        (1, offer(TERM, 100, u64::MAX)),
    ] {
        let mut net = Net::new(3);
        net.deliver(from, 3, message.clone());
        net.step(&mut good);
        let answers: Vec<_> = net.delivered.iter().map(|(from, to, m)| (*from, *to, m.clone())).collect();
        assert!(matches!(&answers[..], [(3, to, M::Stop { .. })] if *to == from), "{message:?}: {answers:?}");
        assert!(net.disk(3).paths().is_empty());
    }
}

/// With a slow disk the receiver repeats its position before the file is created, and the sender answers with
/// a chunk. If the receiver dropped that chunk, it would miss it for [`RESEND_NS`].
#[test]
fn a_chunk_that_comes_while_the_file_is_being_created_is_not_sent_again() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    let (mut offer, mut early) = (None, None);
    // Messages of node 1 are held back, and the test makes up the answers of node 2.
    for _ in 0..2 {
        net.step(&mut |_, _, m| {
            match m {
                M::Offer { .. } => offer = Some(m.clone()),
                M::Chunk { .. } => early = Some(m.clone()),
                _ => {}
            }
            false
        });
        net.deliver(2, LEADER, M::Want { index: 100, offset: 0 });
    }
    // Both arrive before the core takes the worker's result.
    net.deliver(LEADER, 2, offer.unwrap());
    net.deliver(LEADER, 2, early.unwrap());
    net.until("arrival", &mut good, |n| n.sent(2, 100));
    assert!(same(&net.disk(1), &net.disk(2), 100));
    let first = |(_, _, m): &&(u8, u8, M)| matches!(m, M::Chunk { offset: 0, .. });
    assert_eq!(net.delivered.iter().filter(first).count(), 0, "it is not sent again");
}

#[test]
fn a_deposed_leader_does_not_go_on_and_the_new_one_begins_again() {
    let mut net = Net::new(3);
    write(&net.disk(1), 100);
    // Another file of the same state.
    write(&net.disk(2), 100);
    net.begin(3);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    let elected = EngineState { leader: 2, term: TERM + 1, commit: 10 };
    net.node(3).engine = elected;
    net.until("failure", &mut good, |n| !n.nodes[&1].outcomes.is_empty());
    assert_eq!(net.node(1).outcomes, [TransferOutcome::Sent { to: 3, ok: false, index: 100 }]);
    let now_ns = net.now_ns;
    net.node(2).transfers.begin(3, TERM + 1, now_ns);
    net.until("arrival", &mut good, |n| n.received(3, 100));
    assert!(same(&net.disk(2), &net.disk(3), 100));
    assert_eq!(has(&net.disk(3)), [100]);
}

/// A refused offer would be repeated for ever: the leader's progress for the node would stay below the
/// leader's log.
#[test]
fn a_receiver_whose_state_contains_the_snapshot_says_that_it_has_all_of_it() {
    for commit in [100, 101] {
        let mut net = Net::new(2);
        write(&net.disk(1), 100);
        net.node(2).engine.commit = commit;
        net.begin(2);
        net.until("the end", &mut good, |n| n.sent(2, 100));
        assert!(net.disk(2).paths().is_empty() && net.node(2).outcomes.is_empty());
        assert!(!net.delivered.iter().any(|(_, _, m)| matches!(m, M::Chunk { .. })));
    }
}

/// Without the pause the leader would open the file and write a line of the log again and again.
#[test]
fn a_receiver_that_has_a_snapshot_and_is_offered_it_again_costs_one_offer_in_each_pause() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.node(2).engine.commit = 100;
    let begun_ns = net.now_ns;
    for _ in 0..4 {
        net.node(1).outcomes.clear();
        net.begin(2);
        net.until("the end", &mut good, |n| n.sent(2, 100));
    }
    assert!(net.now_ns - begun_ns >= 3 * PAUSE_NS, "{} ns", net.now_ns - begun_ns);
}

#[test]
fn a_transfer_is_described_with_what_went_wrong_before() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    assert_eq!(net.node(1).transfers.state(2), None);
    net.disk(2).set_capacity(Some(1 << 20));
    net.begin(2);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    let state = net.node(1).transfers.state(2).unwrap();
    assert!(state.starts_with("it is sent the snapshot at index 100 and has "), "{state}");
    net.until("failure", &mut good, |n| !n.nodes[&1].outcomes.is_empty());
    net.disk(2).set_capacity(None);
    net.begin(2);
    let state = net.node(1).transfers.state(2).unwrap();
    assert!(
        state.contains("before, the snapshot at index 100 failed: ") && state.contains("No space"),
        "{state}"
    );
    net.until("arrival", &mut good, |n| n.sent(2, 100));
    assert_eq!(net.node(1).transfers.state(2), None);
}

#[test]
fn a_receiver_that_gets_on_by_the_log_needs_no_snapshot_any_more() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    net.node(2).engine.commit = 100;
    net.until("the end", &mut good, |n| n.sent(2, 100));
    assert!(net.disk(2).paths().is_empty() && net.node(2).outcomes.is_empty());
}

#[test]
fn a_part_that_no_sender_continues_is_removed() {
    let mut net = Net::new(2);
    write(&net.disk(1), 100);
    net.begin(2);
    net.until("half", &mut good, |n| n.chunk_bytes() > BLOCKS / 2 * CHUNK_BYTES);
    net.node(1).transfers.stop_sending();
    net.step(&mut good);
    assert!(!net.disk(2).paths().is_empty());
    net.now_ns += PARTIAL_KEEP_NS;
    net.step(&mut good);
    assert!(net.disk(2).paths().is_empty());
    assert!(net.node(1).outcomes.is_empty(), "Raft forgot it with its term");
}

#[test]
fn messages_of_any_content_at_any_time_neither_panic_nor_corrupt() {
    for seed in 0..40u64 {
        let mut net = Net::new(3);
        write(&net.disk(1), 100);
        write(&net.disk(2), 90);
        let mut state = seed;
        let mut draw = |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        for round in 0..200 {
            if round % 40 == 0 {
                net.begin(2 + draw(2) as u8);
            }
            let index = [0, 90, 100, 101, u64::MAX][draw(5) as usize];
            let place = |n: u64| [0, 1, CHUNK_BYTES as u64, 1 << 20, u64::MAX - 1, u64::MAX][n as usize];
            let message = match draw(4) {
                0 => M::Offer { term: TERM, index, index_term: draw(5), bytes: place(draw(6)) },
                1 => M::Want { index, offset: place(draw(6)) },
                2 => {
                    let bytes = [0, 1, 511, CHUNK_BYTES, CHUNK_BYTES + 1][draw(5) as usize];
                    M::Chunk { index, offset: place(draw(6)), bytes: vec![7; bytes] }
                }
                _ => M::Stop { index, why: "no reason".to_owned() },
            };
            let (from, to) = (1 + draw(3) as u8, 1 + draw(3) as u8);
            net.deliver(from, to, message);
            if draw(3) == 0 {
                let node = 1 + draw(3) as u8;
                net.node(node).transfers.link_down(1 + draw(3) as u8);
            }
            net.step(&mut good);
        }
        // Every file with a snapshot's name is a valid snapshot, and a correct transfer still works.
        for _ in 0..3000 {
            net.step(&mut good);
        }
        net.node(1).outcomes.clear();
        net.begin(3);
        net.until("arrival", &mut good, |n| n.sent(3, 100));
        for id in 1..=3 {
            for listed in snapshots(&net.disk(id)).list().unwrap() {
                snapshots(&net.disk(id)).open(&listed.path).unwrap();
            }
        }
    }
}

#[test]
fn with_a_thread_the_core_is_woken_and_the_end_is_the_same() {
    let (from, to) = (FaultDisk::new(), FaultDisk::new());
    write(&from, 100);
    let waker = Waker::new().unwrap();
    let threads = || WorkerMode::Thread(waker.clone());
    let mut leader = Transfers::new(snapshots(&from), threads()).unwrap();
    let mut follower = Transfers::new(snapshots(&to), threads()).unwrap();
    let engine = EngineState { leader: LEADER.into(), term: TERM, commit: 10 };
    // Time stands still, so that the speed of the threads does not matter.
    let now_ns = MS;
    leader.begin(2, TERM, now_ns);
    let mut ends = Vec::new();
    while ends.len() < 2 {
        leader.turn(&engine, now_ns);
        follower.turn(&engine, now_ns);
        let mut quiet = true;
        while let Some((_, Message::Snapshot(message))) = leader.next_out() {
            follower.handle(LEADER, message, &engine, now_ns);
            quiet = false;
        }
        while let Some((_, Message::Snapshot(message))) = follower.next_out() {
            leader.handle(2, message, &engine, now_ns);
            quiet = false;
        }
        ends.extend(leader.next_outcome());
        ends.extend(follower.next_outcome());
        waker.raise();
        if quiet && ends.len() < 2 && !leader.has_news() && !follower.has_news() {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let event = waker.event();
            let mut fds = [PollFd::new(&event, PollFlags::IN)];
            let woken = poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
            assert_ne!(woken, 0, "the worker was slept through: {ends:?}");
        }
        waker.lower();
    }
    assert!(ends.contains(&TransferOutcome::Received { index: 100, term: 3 }));
    assert!(ends.contains(&TransferOutcome::Sent { to: 2, ok: true, index: 100 }));
    assert!(same(&from, &to, 100));
}

#[test]
fn a_peers_reason_is_one_line_of_the_log() {
    assert_eq!(printable_reason("no room on /data: 3 MB are free"), "no room on /data: 3 MB are free");
    let flood = printable_reason(&"one\nERROR two\r\u{1b}[2J".repeat(100_000));
    assert!(flood.chars().count() == REASON_CHARS_MAX && !flood.contains(char::is_control), "{flood}");
}
