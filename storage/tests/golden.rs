//! Files written by format version 1, kept for ever.
//!
//! A build that cannot read them, or writes other bytes under the same version, has changed the format.
//! `PADDOCK_WRITE_GOLDEN=1` replaces them, after a deliberate change of version.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Content of a golden file, replaced by `now` first if the environment asks for it.
fn kept(name: &str, now: &[u8]) -> Vec<u8> {
    if std::env::var_os("PADDOCK_WRITE_GOLDEN").is_some() {
        std::fs::write(golden(name), now).unwrap();
    }
    std::fs::read(golden(name)).unwrap()
}

fn same(name: &str, now: &[u8]) {
    let kept = kept(name, now);
    let difference = kept.iter().zip(now).position(|(old, new)| old != new);
    assert_eq!((difference, now.len()), (None, kept.len()), "{name} differs from what version 1 wrote");
}

fn put(disk: &FaultDisk, path: &Path, bytes: &[u8]) {
    let file = Disk::create(disk, path).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

#[test]
fn log_segments_of_version_1() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    log.append(vec![Record::HardState(state(3, 2, 0))]).unwrap();
    append(&mut log, 1..=2, 3, 20);
    append(&mut log, 2..=4, 4, 33);
    log.append(vec![Record::Reset { index: 9, term: 4 }, Record::HardState(state(4, 0, 9))]).unwrap();
    append(&mut log, 10..=11, 5, 16);
    drop(log);
    let path = segments(&disk)[0].clone();
    // The rest of the segment is zero.
    let written = disk.contents(&path).unwrap();
    let used = written.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    same("segment-v1.log", &written[..used]);

    let old = FaultDisk::new();
    let mut bytes = kept("segment-v1.log", &written[..used]);
    bytes.resize(16 << 10, 0);
    put(&old, &path, &bytes);
    let (log, recovery) = Log::open(LogOptions { snapshot: (9, 4), ..options(&old) }).unwrap();
    assert_eq!((recovery.hard_state, recovery.last_index), (state(4, 0, 9), 11));
    assert_eq!(read_all(&log), [entry(10, 5, 16), entry(11, 5, 16)]);
}

#[test]
fn snapshots_of_version_1() {
    let meta = SnapshotMeta {
        zxid: 0x3_0000_0009,
        index: 9,
        term: 4,
        digest: 0xd1_9e57,
        node_count: 5,
        conf_state: Bytes::from_static(b"voters 1 2 3"),
    };
    let disk = FaultDisk::new();
    let snapshots = Snapshots::on(Arc::new(disk.clone()), "/snapshots");
    let mut writer = snapshots.create(&meta).unwrap();
    writer.block(1, b"a block of thirty-three bytes....").unwrap();
    writer.block(2, &[]).unwrap();
    let finished = writer.finish().unwrap();
    let now = disk.contents(&finished.path).unwrap();
    same("snapshot-v1.snap", &now);

    let old = FaultDisk::new();
    put(&old, &finished.path, &kept("snapshot-v1.snap", &now));
    let reader = Snapshots::on(Arc::new(old), "/snapshots").open_newest().unwrap().unwrap().reader;
    assert_eq!(*reader.header(), meta);
    let blocks: Vec<_> = reader.blocks().map(|block| (block.kind, block.bytes)).collect();
    assert_eq!(blocks, [(1, &b"a block of thirty-three bytes...."[..]), (2, &[][..])]);
}

#[test]
fn meta_of_version_1() {
    let disk = FaultDisk::new();
    let first = DataDir::open_on(Arc::new(disk.clone()), Path::new("/node"), *b"sixteen bytes id").unwrap();
    drop(first);
    let path = Path::new("/node/meta");
    let now = disk.contents(path).unwrap();
    same("meta-v1", &now);

    let old = FaultDisk::new();
    put(&old, path, &kept("meta-v1", &now));
    let next = DataDir::open_on(Arc::new(old), Path::new("/node"), [0; 16]).unwrap();
    assert_eq!((next.identity(), next.incarnation(), next.created()), (*b"sixteen bytes id", 2, false));
}
