//! A power cut at every operation while another node's snapshot replaces this node's state.
//!
//! First the file gets its name, then the log is reset. After a cut the node has the old state with
//! everything that it acknowledged, or the new state. It never has a part of either, and never loses a
//! vote.

mod common;

use std::sync::Arc;

use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;

const OLD: (u64, u64) = (10, 1);
const VOTE: (u64, u64) = (6, 3);

fn snapshots(disk: &FaultDisk) -> Snapshots {
    Snapshots::on(Arc::new(disk.clone()), "/node/snapshots")
}

fn write_snapshot(disk: &FaultDisk, (index, term): (u64, u64)) {
    let meta = SnapshotMeta { index, term, ..SnapshotMeta::default() };
    let mut writer = snapshots(disk).create(&meta).unwrap();
    writer.block(1, &[index as u8; 3000]).unwrap();
    writer.finish().unwrap();
}

/// Bytes of a snapshot that another node wrote.
fn foreign((index, term): (u64, u64)) -> Vec<u8> {
    let disk = FaultDisk::new();
    write_snapshot(&disk, (index, term));
    let path = snapshots(&disk).list().unwrap().remove(0).path;
    disk.contents(&path).unwrap()
}

/// A node with a snapshot at 10, entries 1 to 30 of term 2 (from 11 on), and a vote in term 6.
fn node() -> FaultDisk {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=10, 1, 100);
    append(&mut log, 11..=30, 2, 100);
    log.append(vec![Record::HardState(state(VOTE.0, VOTE.1, 20))]).unwrap();
    log.close();
    write_snapshot(&disk, OLD);
    disk
}

fn receive(disk: &FaultDisk, new: (u64, u64), file: &[u8]) -> Result<(), SnapshotError> {
    let mut receiver = snapshots(disk).receive(new.0, new.1, file.len() as u64)?;
    for (n, chunk) in file.chunks(1000).enumerate() {
        receiver.chunk(n as u64 * 1000, chunk)?;
    }
    receiver.finish().map(drop)
}

fn reopen(disk: &FaultDisk) -> Result<(Log, Recovery), String> {
    let reader = snapshots(disk).open_newest().map_err(|e| e.to_string())?.unwrap().reader;
    let snapshot = (reader.header().index, reader.header().term);
    Log::open(LogOptions { snapshot, ..options(disk) }).map_err(|e| e.to_string())
}

/// Installs `new` as far as the disk lets it.
fn install(disk: &FaultDisk, new: (u64, u64), file: &[u8], by_record: bool) {
    if receive(disk, new, file).is_err() {
        return;
    }
    if by_record {
        // The core may append the reset itself before the crash.
        let options = LogOptions { snapshot: OLD, ..options(disk) };
        if let Ok((mut log, _)) = Log::open(options) {
            let _ = log.append(vec![Record::Reset { index: new.0, term: new.1 }]);
            log.flush_turn();
        }
    }
    let _ = reopen(disk);
}

fn check(disk: &FaultDisk, new: (u64, u64), keeps_suffix: bool, context: &str) -> bool {
    let newest = snapshots(disk).open_newest().unwrap().unwrap().reader;
    let at = (newest.header().index, newest.header().term);
    assert!(at == OLD || at == new, "{context}: snapshot {at:?}");
    let (mut log, found) = reopen(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let hard = found.hard_state;
    assert_eq!(
        (hard.term, hard.vote),
        (VOTE.0.max(new.1 * u64::from(at == new)), VOTE.1),
        "{context}: the vote"
    );
    let entries = read_all(&log);
    let last = if at == OLD || keeps_suffix { 30 } else { new.0 };
    assert_eq!(found.last_index, last, "{context}");
    for index in at.0 + 1..=last {
        assert!(entries.contains(&entry(index, 2, 100)), "{context}: entry {index} is lost");
    }
    assert!(
        entries.iter().all(|e| e.index <= last),
        "{context}: an entry of the old log is left behind the snapshot"
    );
    assert!(hard.commit >= at.0 && hard.commit <= last, "{context}: commit {}", hard.commit);
    // The log takes more entries after the recovery, and survives another one.
    append(&mut log, last + 1..=last + 5, 6, 50);
    drop(log);
    disk.kill();
    let (log, again) = reopen(disk).unwrap_or_else(|error| panic!("{context}, again: {error}"));
    assert_eq!(again.last_index, last + 5, "{context}, again");
    assert_eq!(read_all(&log).last(), Some(&entry(last + 5, 6, 50)), "{context}, again");
    at == new
}

fn at_every_operation(new: (u64, u64), by_record: bool, keeps_suffix: bool) {
    let file = foreign(new);
    let begun = node().operations();
    let whole = node();
    install(&whole, new, &file, by_record);
    let operations = whole.operations();
    assert!(check(&whole, new, keeps_suffix, "no cut"));
    let (mut old, mut installed) = (0, 0);
    for operation in begun..operations {
        for seed in 0..6 {
            let disk = node();
            disk.break_at(operation);
            install(&disk, new, &file, by_record);
            disk.power_cut(seed);
            let context = format!("{new:?} by record {by_record}, operation {operation}, seed {seed}");
            match check(&disk, new, keeps_suffix, &context) {
                true => installed += 1,
                false => old += 1,
            }
        }
    }
    assert!(old > 0 && installed > 0, "cuts before and behind the rename: {old} and {installed}");
}

#[test]
fn a_snapshot_far_ahead_of_the_log_replaces_it_or_nothing_has_happened() {
    at_every_operation((100, 5), false, false);
}

#[test]
fn a_log_is_never_reset_to_a_snapshot_whose_name_goes_with_the_power() {
    let new = (100, 5);
    let file = foreign(new);
    let begun = node().operations();
    let whole = node();
    install(&whole, new, &file, false);
    for operation in begun..whole.operations() {
        for seed in 0..6 {
            let disk = node();
            disk.break_at(operation);
            install(&disk, new, &file, false);
            // First only the process ends and starts again. Then the power is cut.
            disk.kill();
            let _ = reopen(&disk).unwrap();
            disk.power_cut(seed);
            check(&disk, new, false, &format!("killed at operation {operation}, seed {seed}"));
        }
    }
}

#[test]
fn the_same_when_the_reset_is_written_before_the_node_goes() {
    at_every_operation((100, 5), true, false);
}

#[test]
fn a_log_that_holds_the_snapshots_last_entry_keeps_what_follows_it() {
    // This node may have acknowledged those entries to a leader, so the snapshot must not drop them.
    at_every_operation((25, 2), false, true);
}

#[test]
fn a_log_of_another_term_at_the_snapshots_index_is_void() {
    at_every_operation((25, 4), false, false);
}

#[test]
fn a_snapshot_of_a_later_term_than_any_vote_raises_the_term_and_leaves_no_vote_in_it() {
    let disk = node();
    let new = (100, 9);
    receive(&disk, new, &foreign(new)).unwrap();
    let (_, found) = reopen(&disk).unwrap();
    assert!(found.reset_to_snapshot);
    assert_eq!(found.hard_state, state(9, 0, 100));
}
