//! Nodes that need entries that the leader's log no longer has, and how they catch up.

use super::place::*;
use std::path::PathBuf;

const BEHIND: u8 = 3;
const SEGMENT_BYTES: u64 = 64 << 10;
const SNAP_COUNT: u64 = 20;
const WRITE_BYTES: usize = 8 << 10;

/// Three nodes that take checkpoints often. Node 3 is down, and the others have truncated the log that it
/// needs. Returns the nodes and the leader.
fn one_left_behind() -> (Place, u8) {
    let mut place = Place::three();
    for slot in &mut place.slots {
        (slot.config.segment_bytes, slot.config.snap_count) = (Some(SEGMENT_BYTES), SNAP_COUNT);
    }
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    place.kill(&[BEHIND]);
    place.until("a leader", |place| [1, 2].iter().any(|node| place.leads(*node)));
    let leader = if place.leads(1) { 1 } else { 2 };
    write_entries(&mut place, leader, 4 * SNAP_COUNT);
    (place, leader)
}

/// Writes `count` entries, one after the other.
fn write_entries(place: &mut Place, leader: u8, count: u64) {
    for token in 0..count {
        let before = place.core(leader).applier.index;
        place.submit(leader, token, WRITE_BYTES);
        place.until("an entry", |place| place.core(leader).applier.index > before);
    }
}

fn snapshots(place: &Place, node: u8) -> Vec<PathBuf> {
    let paths = place.slots[usize::from(node) - 1].disk.paths();
    let named = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "snap");
    paths.into_iter().filter(named).collect()
}

fn is_level(place: &Place, node: u8, leader: u8) -> bool {
    place.core(node).applier.index == place.core(leader).raft.commit()
}

#[test]
fn a_node_behind_the_log_comes_back_by_a_snapshot() {
    let (mut place, leader) = one_left_behind();
    place.start(&[BEHIND]);
    place.until("a snapshot is sent", |place| place.core(leader).installation.state(BEHIND).is_some());
    place.until("it is level", |place| is_level(place, BEHIND, leader));
    assert!(!snapshots(&place, BEHIND).is_empty());
}

/// The snapshot has its name, and the sync of the directory fails. The node tells the leader that it cannot
/// keep the file, and finds the file at its next start. The leader offers the same file again, since its
/// progress for the node lies below its log.
#[test]
fn a_node_that_starts_from_a_snapshot_that_it_had_refused_is_sent_what_follows_it() {
    let (mut place, leader) = one_left_behind();
    place.start(&[BEHIND]);
    place.until("a snapshot is sent", |place| place.core(leader).installation.state(BEHIND).is_some());
    assert!(snapshots(&place, BEHIND).is_empty());
    // The file's own sync succeeds.
    place.slot(BEHIND).disk.fail_sync_after(1);
    place.until("it has a name", |place| !snapshots(place, BEHIND).is_empty());
    place.until("the leader hears of the failure", |place| {
        place.core(leader).installation.state(BEHIND).is_some_and(|state| state.contains("failed"))
    });
    place.kill(&[BEHIND]);
    place.start(&[BEHIND]);
    let started_at = place.core(BEHIND).applier.index;
    assert!(started_at > 0 && !is_level(&place, BEHIND, leader));
    // Shorter than the time after which the leader gives up a silent receiver.
    let end = place.now.mono_ns + 6 * SECOND;
    place.until("it is level", |place| is_level(place, BEHIND, leader) || place.now.mono_ns > end);
    assert!(is_level(&place, BEHIND, leader), "it stays at entry {started_at}");
    write_entries(&mut place, leader, 10);
    place.until("it goes on", |place| is_level(place, BEHIND, leader));
    assert_eq!(place.core(leader).installation.state(BEHIND), None, "nothing more is sent");
}

#[test]
fn a_node_that_is_left_behind_is_named_with_what_it_misses_and_why() {
    let (mut place, leader) = one_left_behind();
    let told = |place: &Place| {
        let (_, _, stats) = place.slots[usize::from(leader) - 1].running.as_ref().expect("it runs");
        stats.left_behind()
    };
    place.until("it is named", |place| !told(place).is_empty());
    let text = told(&place);
    assert!(text.starts_with("node 3 is ") && text.contains("there is no link to it"), "{text}");
    place.start(&[BEHIND]);
    place.until("it is level", |place| is_level(place, BEHIND, leader));
    place.until("it is not named any more", |place| told(place).is_empty());
}
