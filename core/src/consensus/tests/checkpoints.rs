//! Checkpoints: consistent under writes, the log truncated only behind two of them, and a fallback when one
//! is damaged.

use super::rig::*;
use crate::consensus::StartError;
use crate::consensus::config::CHECKPOINT_RETRY_NS;
use paddock_storage::fault::FaultDisk;
use paddock_storage::{OpenError, Snapshots};
use std::path::PathBuf;
use std::sync::Arc;

fn often(snap_count: u64) -> crate::consensus::ConsensusConfig {
    let mut config = config(1);
    config.snap_count = snap_count;
    config.segment_bytes = Some(16 << 10);
    config
}

fn snapshots(disk: &Arc<FaultDisk>) -> Vec<(u64, PathBuf)> {
    let on: Arc<FaultDisk> = disk.clone();
    let listed = Snapshots::on(on, "/data/snapshots").list().unwrap();
    listed.into_iter().map(|l| (l.index, l.path)).collect()
}

/// Writes until there is a snapshot above index `newest_above`. Counts the written znodes in `from`.
fn write_until(node: &mut Node, disk: &Arc<FaultDisk>, from: &mut u32, newest_above: u64) {
    while snapshots(disk).last().is_none_or(|(index, _)| *index <= newest_above) {
        for _ in 0..20 {
            node.create(&format!("/n{from}"), PERSISTENT);
            *from += 1;
        }
        node.settle();
    }
}

#[test]
fn a_restart_from_a_snapshot_is_the_same_as_from_the_log() {
    let disk = disk();
    let mut node = Node::start_with(&disk, often(50)).unwrap();
    node.open_session(ALICE);
    node.create("/e", EPHEMERAL);
    let mut written = 0;
    write_until(&mut node, &disk, &mut written, 0);
    let (zxid, digest) = (node.core.applier.machine.zxid(), node.core.applier.machine.digest());
    node.stop();
    let node = Node::start_with(&disk, often(50)).unwrap();
    assert!(node.parts.recovered.snapshot_index > 0);
    assert_eq!((node.parts.recovered.zxid, node.core.applier.machine.digest()), (zxid, digest));
    assert_eq!(node.parts.recovered.sessions, 1);
    assert!(node.exists("/e") && (0..written).all(|n| node.exists(&format!("/n{n}"))));
    // The digests match the tree.
    let mut node = node;
    let held = node.core.applier.tree.hold();
    node.core.applier.machine.verify(&held).unwrap();
}

#[test]
fn the_log_is_let_go_behind_two_checkpoints_and_the_older_one_still_works() {
    let disk = disk();
    let mut node = Node::start_with(&disk, often(200)).unwrap();
    node.open_session(ALICE);
    let mut written = 0;
    let mut newest = 0;
    for _ in 0..3 {
        write_until(&mut node, &disk, &mut written, newest);
        newest = snapshots(&disk).last().unwrap().0;
    }
    node.settle();
    let digest = node.core.applier.machine.digest();
    node.stop();
    let listed = snapshots(&disk);
    assert_eq!(listed.len(), 2);
    // The number of segments between two checkpoints depends on the speed of the checkpoint thread.
    let first = |p: &PathBuf| p.ends_with("segment-0000000000000001.log");
    assert!(!disk.paths().iter().any(first), "the log was not let go: {:?}", disk.paths());

    // The newest snapshot is damaged: the one before it and a longer replay give the same state.
    disk.corrupt(&listed[1].1, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let node = Node::start_with(&disk, often(100_000)).unwrap();
    assert_eq!(node.parts.recovered.snapshot_index, listed[0].0);
    assert_eq!(node.core.applier.machine.digest(), digest);
    assert!((0..written).all(|n| node.exists(&format!("/n{n}"))));
    node.stop();
    assert_eq!(snapshots(&disk).len(), 1, "the damaged one does not count as retained");
}

#[test]
fn a_fallback_that_the_log_does_not_reach_is_a_refusal_to_start() {
    let disk = disk();
    let mut node = Node::start_with(&disk, often(200)).unwrap();
    node.open_session(ALICE);
    let (mut written, mut newest) = (0, 0);
    for _ in 0..3 {
        write_until(&mut node, &disk, &mut written, newest);
        newest = snapshots(&disk).last().unwrap().0;
    }
    node.stop();
    // Both snapshots are lost, as after a careless clean-up, and the log no longer begins at its first entry.
    for (_, path) in snapshots(&disk) {
        disk.lose(&path);
    }
    let error = Node::start_with(&disk, often(200)).err().unwrap();
    assert!(matches!(error, StartError::Log(OpenError::DoesNotReachSnapshot { .. })), "{error}");
}

#[test]
fn a_damaged_snapshot_stays_where_it_is_while_the_fallback_fails() {
    let disk = disk();
    let mut node = Node::start_with(&disk, often(200)).unwrap();
    node.open_session(ALICE);
    let (mut written, mut newest) = (0, 0);
    for _ in 0..3 {
        write_until(&mut node, &disk, &mut written, newest);
        newest = snapshots(&disk).last().unwrap().0;
    }
    node.stop();
    let listed = snapshots(&disk);
    disk.corrupt(&listed[1].1, |bytes| bytes[200] ^= 1);
    for path in disk.paths() {
        if path.starts_with("/data/log") {
            disk.lose(&path);
        }
    }
    assert!(matches!(Node::start_with(&disk, often(200)).err(), Some(StartError::Log(_))));
    assert_eq!(snapshots(&disk), listed);
}

#[test]
fn a_power_cut_at_any_time_around_checkpoints_loses_nothing() {
    for seed in 0..10 {
        let disk = disk();
        let mut node = Node::start_with(&disk, often(30)).unwrap();
        node.open_session(ALICE);
        let mut written = 0;
        for round in 0..3 {
            for _ in 0..30 + 7 * seed {
                node.create(&format!("/n{written}"), PERSISTENT);
                written += 1;
            }
            disk.power_cut(seed * 10 + round);
            drop(node);
            node = Node::start_with(&disk, often(30)).unwrap();
            assert!((0..written).all(|n| node.exists(&format!("/n{n}"))), "seed {seed}, round {round}");
        }
    }
}

/// Replaces a snapshot by one with valid checksums whose contents are no state.
fn spoil(disk: &Arc<FaultDisk>, path: &std::path::Path) {
    let on: Arc<FaultDisk> = disk.clone();
    let snapshots = Snapshots::on(on, "/data/snapshots");
    let meta = snapshots.open(path).unwrap().header().clone();
    disk.lose(path);
    let mut writer = snapshots.create(&meta).unwrap();
    writer.block(crate::checkpoint::block::BLOCK_MACHINE, &[0xa5; 500]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_whole_snapshot_that_cannot_be_loaded_gives_way_to_the_one_before_it() {
    let disk = disk();
    let mut node = Node::start_with(&disk, often(50)).unwrap();
    node.open_session(ALICE);
    let (mut written, mut newest) = (0, 0);
    for _ in 0..2 {
        write_until(&mut node, &disk, &mut written, newest);
        newest = snapshots(&disk).last().unwrap().0;
    }
    let digest = node.core.applier.machine.digest();
    node.stop();
    let listed = snapshots(&disk);
    spoil(&disk, &listed[1].1);
    let node = Node::start_with(&disk, often(100_000)).unwrap();
    assert_eq!(node.parts.recovered.snapshot_index, listed[0].0);
    assert_eq!(node.core.applier.machine.digest(), digest);
    node.stop();
    assert_eq!(snapshots(&disk), listed[..1]);
    // Without another snapshot the start fails, with an error that names the file.
    spoil(&disk, &listed[0].1);
    let error = Node::start_with(&disk, often(50)).err().unwrap();
    assert!(matches!(&error, StartError::Load { path, .. } if *path == listed[0].1), "{error}");
    assert_eq!(snapshots(&disk), listed[..1]);
}

#[test]
fn a_node_that_is_restarted_often_takes_checkpoints_all_the_same() {
    let disk = disk();
    let config = || {
        let mut config = often(u64::MAX);
        config.snap_log_bytes = 30_000;
        config
    };
    for life in 0..5 {
        let mut node = Node::start_with(&disk, config()).unwrap();
        if life == 0 {
            node.open_session(ALICE);
            node.create("/a", PERSISTENT);
        }
        // No run writes enough by itself.
        for _ in 0..10 {
            node.run(ALICE, set("/a", &[1; 1000]));
        }
        node.settle();
        node.until(|n| !n.core.checkpoints.is_writing());
        node.stop();
    }
    assert!(!snapshots(&disk).is_empty());
}

#[test]
fn a_checkpoint_on_a_full_disk_lets_the_log_go_and_writes_go_on() {
    let disk = disk();
    let mut node = Node::start_with(&disk, often(150)).unwrap();
    node.open_session(ALICE);
    node.create("/a", PERSISTENT);
    let mut newest = 0;
    for _ in 0..3 {
        while snapshots(&disk).last().is_none_or(|(index, _)| *index <= newest) {
            node.run(ALICE, set("/a", &[1; 1000]));
            node.settle();
        }
        newest = snapshots(&disk).last().unwrap().0;
    }
    node.until(|n| !n.core.checkpoints.is_writing());
    let mut was_full = false;
    for _ in 0..140 {
        // There is space for a small snapshot, but not for a segment. Meanwhile the log returns segments.
        disk.set_capacity(Some(disk.used_bytes() + 10_000));
        let ticket = node.submit(ALICE, set("/a", &[2; 1000]));
        node.until(|n| {
            was_full |= n.core.phase_is_full();
            was_full || n.reply(ticket).is_some()
        });
        if was_full {
            break;
        }
    }
    assert!(was_full, "the disk is full before a checkpoint is due by count");
    node.until(|n| !n.core.phase_is_full());
    assert!(snapshots(&disk).last().unwrap().0 > newest);
    let reply = node.run(ALICE, set("/a", &[3; 1000]));
    assert!(matches!(reply.outcome, crate::commit::Outcome::Ok(_)), "{:?}", reply.outcome);
}

#[test]
fn a_checkpoint_that_failed_is_tried_again_though_nothing_more_is_written() {
    let disk = disk();
    let mut config = often(50);
    let segment_bytes = 64 << 10;
    config.segment_bytes = Some(segment_bytes);
    let mut node = Node::start_with(&disk, config).unwrap();
    node.open_session(ALICE);
    // The log has its segment and prepares the next one. There is no space beyond them, nor for a snapshot.
    while disk.used_bytes() < 2 * segment_bytes {
        std::thread::yield_now();
    }
    disk.set_capacity(Some(disk.used_bytes()));
    for n in 0..49 {
        node.create(&format!("/n{n}"), PERSISTENT);
    }
    assert!(node.core.checkpoints.is_writing(), "the fiftieth command makes one due");
    node.until(|n| !n.core.checkpoints.is_writing());
    assert!(snapshots(&disk).is_empty() && !node.core.phase_is_full());
    disk.set_capacity(None);
    node.advance(CHECKPOINT_RETRY_NS);
    node.until(|_| !snapshots(&disk).is_empty());
}
