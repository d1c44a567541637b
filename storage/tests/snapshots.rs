//! Snapshots that are missing, damaged, truncated, of another version, or half written at a power cut.
//!
//! A start finds the newest good one, and never one that is incomplete.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use paddock_storage::fault::FaultDisk;
use paddock_storage::snapshot::Finished;
use paddock_storage::*;

const DIR: &str = "/node/snapshots";

fn on(disk: &FaultDisk) -> Snapshots {
    Snapshots::on(Arc::new(disk.clone()), DIR)
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        zxid: 0x1_0000_0000 + index as i64,
        index,
        term: 3,
        digest: index * 77,
        node_count: 5,
        conf_state: Bytes::from_static(b"three voters"),
    }
}

fn blocks(index: u64) -> Vec<(u16, Vec<u8>)> {
    [0usize, 1, 15, 16, 17, 1000, 5000]
        .iter()
        .enumerate()
        .map(|(kind, &length)| (kind as u16, (0..length).map(|at| (at as u64 * 13 + index) as u8).collect()))
        .collect()
}

fn write(snapshots: &Snapshots, index: u64) -> Result<Finished, SnapshotError> {
    let mut writer = snapshots.create(&meta(index))?;
    for (kind, bytes) in blocks(index) {
        writer.block(kind, &bytes)?;
    }
    writer.finish()
}

fn check(reader: &SnapshotReader, index: u64) {
    assert_eq!(*reader.header(), meta(index));
    let read: Vec<_> = reader.blocks().map(|block| (block.kind, block.bytes.to_vec())).collect();
    assert_eq!(read, blocks(index));
    assert!(reader.blocks().all(|block| (block.bytes.as_ptr() as usize).is_multiple_of(16)));
}

fn newest(snapshots: &Snapshots) -> u64 {
    let opened = snapshots.open_newest().unwrap().unwrap();
    check(&opened.reader, opened.reader.header().index);
    opened.reader.header().index
}

#[test]
fn what_was_written_is_loaded_through_a_map_aligned() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(root.path().join("snapshots"));
    assert!(snapshots.open_newest().unwrap().is_none());
    let mut writer = snapshots.create(&meta(10)).unwrap();
    for (kind, bytes) in blocks(10) {
        writer.block(kind, &bytes).unwrap();
    }
    writer.block(99, &vec![5; 3 << 20]).unwrap();
    let finished = writer.finish().unwrap();
    assert_eq!(finished.log_not_needed_to, None, "one snapshot has no fallback: the log stays");
    let reader = SnapshotReader::open_newest(&snapshots).unwrap().unwrap().reader;
    assert_eq!((reader.block_count(), reader.file_bytes()), (8, finished.bytes));
    assert_eq!(reader.block(7).unwrap().bytes, vec![5; 3 << 20]);
    assert!(reader.blocks().all(|block| (block.bytes.as_ptr() as usize).is_multiple_of(16)));
}

#[test]
fn two_are_kept_and_the_log_from_the_older_one() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    let kept: Vec<_> =
        [10, 20, 30, 40].map(|index| write(&snapshots, index).unwrap().log_not_needed_to).into();
    assert_eq!(kept, [None, Some(10), Some(20), Some(30)]);
    let listed: Vec<_> = snapshots.list().unwrap().iter().map(|found| found.index).collect();
    assert_eq!(listed, [30, 40]);
}

#[test]
fn a_missing_newest_falls_back_to_the_one_before() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    write(&snapshots, 10).unwrap();
    let newer = write(&snapshots, 20).unwrap();
    disk.lose(&newer.path);
    assert_eq!(newest(&snapshots), 10);
}

#[test]
fn a_newest_damaged_anywhere_falls_back_to_the_one_before() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    write(&snapshots, 10).unwrap();
    let newer = write(&snapshots, 20).unwrap();
    let good = disk.contents(&newer.path).unwrap();
    for at in 0..good.len() {
        disk.corrupt(&newer.path, |bytes| bytes[at] ^= 0x10);
        let opened = snapshots.open_newest();
        if (8..12).contains(&at) {
            assert!(matches!(opened, Err(SnapshotError::UnsupportedVersion { .. })), "byte {at}");
        } else {
            let opened = opened.unwrap().unwrap();
            assert_eq!(opened.reader.header().index, 10, "byte {at}");
            assert_eq!(opened.skipped[0].path, newer.path);
        }
        disk.corrupt(&newer.path, |bytes| bytes.clone_from(&good));
    }
    for length in (0..good.len()).step_by(7) {
        disk.corrupt(&newer.path, |bytes| bytes.truncate(length));
        assert_eq!(newest(&snapshots), 10, "cut off at {length}");
        disk.corrupt(&newer.path, |bytes| bytes.clone_from(&good));
    }
    disk.corrupt(&newer.path, |bytes| bytes.extend([0; 16]));
    assert_eq!(newest(&snapshots), 10, "something was appended");
}

#[test]
fn a_newest_with_a_bad_sector_anywhere_falls_back_and_does_not_end_the_process() {
    for at in (0..u64::MAX).step_by(512) {
        let disk = FaultDisk::new();
        let snapshots = on(&disk);
        write(&snapshots, 10).unwrap();
        let newer = write(&snapshots, 20).unwrap();
        if at >= newer.bytes {
            break;
        }
        disk.decay(&newer.path, at);
        let opened = snapshots.open_newest().unwrap().unwrap();
        check(&opened.reader, 10);
        let why = opened.skipped[0].error.to_string();
        assert!(why.contains("snapshot-") && why.contains("cannot read"), "{why}");
    }
}

#[test]
fn a_discarded_damaged_snapshot_does_not_push_out_the_good_one() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    write(&snapshots, 10).unwrap();
    let newer = write(&snapshots, 20).unwrap();
    disk.corrupt(&newer.path, |bytes| bytes[100] ^= 1);
    let opened = snapshots.open_newest().unwrap().unwrap();
    snapshots.discard(&opened.skipped[0]).unwrap();
    assert_eq!(write(&snapshots, 30).unwrap().log_not_needed_to, Some(10));
}

#[test]
fn nothing_good_is_an_error_and_not_an_empty_node() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    let only = write(&snapshots, 10).unwrap();
    disk.corrupt(&only.path, |bytes| bytes[200] ^= 1);
    let error = snapshots.open_newest().unwrap_err();
    assert!(matches!(error, SnapshotError::NoneGood { count: 1, .. }), "{error}");
    assert!(error.to_string().contains("Move them away"), "it says what to do: {error}");
}

#[test]
fn another_format_version_is_a_clear_error() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    write(&snapshots, 10).unwrap();
    let newer = write(&snapshots, 20).unwrap();
    disk.corrupt(&newer.path, |bytes| bytes[8] = 7);
    let error = snapshots.open_newest().unwrap_err();
    assert!(error.to_string().contains("format version 7; this build reads version 1"), "{error}");
}

#[test]
fn the_power_may_go_before_any_operation_of_a_snapshot() {
    let whole = FaultDisk::new();
    write(&on(&whole), 10).unwrap();
    let before = whole.operations();
    write(&on(&whole), 20).unwrap();
    write(&on(&whole), 30).unwrap();
    let operations = whole.operations();
    for at in before..operations {
        for seed in 0..20 {
            let disk = FaultDisk::new();
            let snapshots = on(&disk);
            write(&snapshots, 10).unwrap();
            disk.break_at(at);
            let mut durable = 10;
            for index in [20, 30] {
                match write(&snapshots, index) {
                    Ok(_) => durable = index,
                    Err(_) => break,
                }
            }
            disk.power_cut(seed);
            assert!(newest(&snapshots) >= durable, "operation {at} seed {seed}");
            let leftovers =
                disk.paths().iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).count();
            assert_eq!(leftovers, 0, "operation {at} seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_or_a_failed_sync_ends_the_snapshot_and_nothing_else() {
    let disk = FaultDisk::new();
    let snapshots = on(&disk);
    write(&snapshots, 10).unwrap();
    let used = disk.used_bytes();
    disk.set_capacity(Some(used + 3000));
    assert!(matches!(write(&snapshots, 20), Err(SnapshotError::Io { .. })));
    assert_eq!(disk.used_bytes(), used, "its room is given back");
    disk.set_capacity(None);
    disk.fail_sync_after(0);
    assert!(matches!(write(&snapshots, 20), Err(SnapshotError::Io { .. })));
    assert_eq!(newest(&snapshots), 10);
    write(&snapshots, 20).unwrap();
    assert_eq!(newest(&snapshots), 20);
}

fn transfer(reader: &SnapshotReader, into: &Snapshots, spoil: Option<usize>) -> Result<u64, SnapshotError> {
    let (index, term) = (reader.header().index, reader.header().term);
    let mut receiver = into.receive(index, term, reader.file_bytes())?;
    while let Some(chunk) = reader.chunk(receiver.received(), 700) {
        let mut chunk = chunk.to_vec();
        if let Some(at) = spoil
            && receiver.received() == 0
        {
            chunk[at] ^= 1;
        }
        receiver.chunk(receiver.received(), &chunk)?;
    }
    let (finished, reader) = receiver.finish()?;
    assert_eq!(reader.path(), finished.path);
    check(&reader, index);
    Ok(index)
}

#[test]
fn a_received_snapshot_is_as_good_as_our_own_or_none() {
    let (here, there) = (FaultDisk::new(), FaultDisk::new());
    write(&on(&here), 10).unwrap();
    let reader = on(&here).open_newest().unwrap().unwrap().reader;
    for spoil in [100, 40, 300] {
        let error = transfer(&reader, &on(&there), Some(spoil)).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
        assert_eq!(there.paths(), Vec::<PathBuf>::new(), "nothing stays of what a peer sent damaged");
    }
    assert_eq!(transfer(&reader, &on(&there), None).unwrap(), 10);
    there.power_cut(1);
    assert_eq!(newest(&on(&there)), 10, "durable when finished");

    let mut receiver = on(&there).receive(11, 3, 100).unwrap();
    assert!(matches!(receiver.chunk(5, b"x"), Err(SnapshotError::OutOfOrder { expected: 0, found: 5 })));
    assert!(matches!(receiver.chunk(0, &[0; 101]), Err(SnapshotError::TooLarge { .. })));
    assert!(matches!(receiver.finish(), Err(SnapshotError::OutOfOrder { .. })));
}

#[test]
fn foreign_files_are_left_alone() {
    let disk = FaultDisk::new();
    disk.create(Path::new("/node/snapshots/snapshot.readme")).unwrap();
    write(&on(&disk), 10).unwrap();
    assert_eq!(newest(&on(&disk)), 10);
    assert!(disk.paths().contains(&PathBuf::from("/node/snapshots/snapshot.readme")));
}
