//! Synced bytes that changed: the node refuses to start and names file and offset.
//!
//! A tail that was never reported durable is cut instead. The records' `durable_to` makes the difference.

mod common;

use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;
use std::path::Path;

/// A log of three groups in one segment: 1–3, 4–6, 7–9.
fn three_groups(disk: &FaultDisk) {
    let (mut log, _) = Log::open(options(disk)).unwrap();
    for group in 0..3 {
        append(&mut log, group * 3 + 1..=group * 3 + 3, 1, 300);
    }
}

fn find(disk: &FaultDisk, path: &Path, wanted: &Entry) -> usize {
    let bytes = disk.contents(path).unwrap();
    bytes.windows(wanted.data.len()).position(|window| window == wanted.data).unwrap()
}

#[test]
fn damage_below_a_later_durable_position_is_refused_with_file_and_offset() {
    for index in 1..=6 {
        let disk = FaultDisk::new();
        three_groups(&disk);
        disk.kill();
        let path = segments(&disk)[0].clone();
        let payload = find(&disk, &path, &entry(index, 1, 300));
        disk.corrupt(&path, |bytes| bytes[payload + 7] ^= 1);
        let error = Log::open(options(&disk)).err().unwrap();
        let OpenError::Corrupt { path: named, offset, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (named, *offset),
            (&path, payload as u64 - 48),
            "the record of entry {index} begins there"
        );
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains(&offset.to_string()), "{text}");
        disk.kill();
        assert!(Log::open(options(&disk)).is_err(), "a refusal changes nothing");
    }
}

#[test]
fn damage_of_the_last_group_is_an_unsynced_tail_and_cut() {
    let disk = FaultDisk::new();
    three_groups(&disk);
    disk.kill();
    let path = segments(&disk)[0].clone();
    let payload = find(&disk, &path, &entry(8, 1, 300));
    disk.corrupt(&path, |bytes| bytes[payload] ^= 1);
    let (log, recovery) = Log::open(options(&disk)).unwrap();
    assert_eq!(recovery.last_index, 7);
    assert!(recovery.cut_bytes > 0);
    assert_eq!(read_all(&log).len(), 7);
}

#[test]
fn after_an_orderly_close_even_the_last_group_is_known_durable() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=3, 1, 300);
    assert_eq!(log.close(), State::Running);
    disk.kill();
    let path = segments(&disk)[0].clone();
    let payload = find(&disk, &path, &entry(3, 1, 300));
    disk.corrupt(&path, |bytes| bytes[payload] ^= 1);
    assert!(matches!(Log::open(options(&disk)).err().unwrap(), OpenError::Corrupt { .. }));
}

#[test]
fn damage_in_a_sealed_segment_is_refused_everywhere() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=40, 1, 700);
    drop(log);
    disk.kill();
    let paths = segments(&disk);
    assert!(paths.len() >= 3, "{paths:?}");
    let good = disk.contents(&paths[0]).unwrap();
    let end =
        4096 + (u64::from_le_bytes(disk.contents(&paths[1]).unwrap()[24..32].try_into().unwrap())) as usize;
    for sector in 0..end / 512 {
        disk.corrupt(&paths[0], |bytes| {
            bytes[sector * 512..(sector + 1) * 512].iter_mut().for_each(|byte| *byte = 0xee);
        });
        let opened = Log::open(options(&disk));
        if (1..8).contains(&sector) {
            assert!(opened.is_ok(), "the rest of the header's page carries nothing");
        } else {
            let error = opened.err().unwrap();
            assert!(
                matches!(&error, OpenError::Corrupt { path, .. } if *path == paths[0]),
                "{sector}: {error}"
            );
        }
        disk.kill();
        disk.corrupt(&paths[0], |bytes| bytes.clone_from(&good));
    }
    Log::open(options(&disk)).unwrap();
}

#[test]
fn a_segment_lost_from_the_middle_is_named() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=40, 1, 700);
    drop(log);
    disk.kill();
    let paths = segments(&disk);
    disk.lose(&paths[1]);
    let error = Log::open(options(&disk)).err().unwrap();
    assert!(matches!(&error, OpenError::MissingSegment { path } if *path == paths[1]), "{error}");
    assert!(error.to_string().contains("restore"), "it says what to do: {error}");
}

#[test]
fn another_format_version_is_a_clear_error() {
    let disk = FaultDisk::new();
    three_groups(&disk);
    disk.kill();
    let path = segments(&disk)[0].clone();
    disk.corrupt(&path, |bytes| bytes[8] = 9);
    let error = Log::open(options(&disk)).err().unwrap();
    assert!(matches!(error, OpenError::UnsupportedVersion { found: 9, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains("format version 9"), "{error}");
}

#[test]
fn a_segment_that_the_disk_cannot_read_is_named_with_what_to_do() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=5, 1, 900);
    drop(log);
    disk.kill();
    let path = segments(&disk)[0].clone();
    disk.decay(&path, 5000);
    let error = Log::open(options(&disk)).err().unwrap().to_string();
    assert!(error.contains(name(&path)) && error.contains("the disk fails: replace it"), "{error}");
}

/// A client that knows the format stores a forged record in an entry. The record claims that the log was
/// durable beyond it, so that the scan of a torn tail finds it and refuses the start. The client does not
/// know the salt.
#[test]
fn a_record_forged_inside_a_clients_data_is_no_evidence_of_corruption() {
    let disk = FaultDisk::new();
    three_groups(&disk);
    disk.kill();
    let path = segments(&disk)[0].clone();
    let (mut log, recovery) = Log::open(options(&disk)).unwrap();
    let next = recovery.last_index + 1;
    // Offset of the torn record, and of the forged one in it: behind the opening's hard state of 80 bytes.
    let torn = find(&disk, &path, &entry(9, 1, 300)) - 48 + 352 + 80;
    let mut forged = vec![0; 64];
    forged[4..8].copy_from_slice(&16u32.to_le_bytes());
    forged[8] = 1;
    forged[12..16].copy_from_slice(&2u32.to_le_bytes());
    forged[16..24].copy_from_slice(&1u64.to_le_bytes());
    forged[32..40].copy_from_slice(&99u64.to_le_bytes());
    forged[40..48].copy_from_slice(&(torn as u64 - 4096 + 16).to_le_bytes());
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &forged[4..]) as u32;
    forged[..4].copy_from_slice(&checksum.to_le_bytes());
    let data = bytes::Bytes::from([vec![7; 32], forged].concat());
    log.append(vec![Record::Entry(Entry { term: 1, index: next, kind: 1, data: data.clone() })]).unwrap();
    log.flush_turn();
    drop(log);
    disk.kill();
    assert_eq!(disk.contents(&path).unwrap()[torn + 48..torn + 48 + data.len()], data);
    disk.corrupt(&path, |bytes| bytes[torn + 48] ^= 1);
    let (_, recovery) = Log::open(options(&disk)).unwrap();
    assert_eq!(recovery.last_index, next - 1);
}

#[test]
fn a_lost_log_beside_a_snapshot_is_not_a_new_log() {
    let disk = FaultDisk::new();
    let with_snapshot = LogOptions { snapshot: (50, 3), ..options(&disk) };
    let error = Log::open(with_snapshot.clone()).err().unwrap();
    assert!(matches!(error, OpenError::LogMissing { snapshot_index: 50, .. }), "{error}");
    let import = LogOptions { create_at_snapshot: true, ..with_snapshot };
    let (_, recovery) = Log::open(import).unwrap();
    assert_eq!((recovery.first_index, recovery.last_index, recovery.last_term), (51, 50, 3));
    assert_eq!((recovery.term_before, recovery.terms), (3, vec![]));
}
