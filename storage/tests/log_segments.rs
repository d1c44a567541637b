//! The reuse of a segment: recycled, mapped, superseded, reset. What held before each step must hold
//! after it.

mod common;

use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;

/// Term of an index, as recovery reported it.
fn term(recovery: &Recovery, index: u64) -> u64 {
    let runs = recovery.terms.iter().take_while(|(start, _)| *start <= index);
    runs.last().map_or(recovery.term_before, |(_, term)| *term)
}

#[test]
fn hard_state_outlives_the_segment_in_which_it_was_written() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    log.append(vec![Record::HardState(state(7, 3, 0))]).unwrap();
    append(&mut log, 1..=60, 7, 900);
    let before = segments(&disk);
    log.truncate_prefix(55);
    log.flush_turn();
    let after = segments(&disk);
    assert!(after.len() < before.len() && after[0] > before[0], "{before:?} {after:?}");
    drop(log);
    disk.power_cut(3);
    let (_, recovery) = Log::open(LogOptions { snapshot: (54, 7), ..options(&disk) }).unwrap();
    assert_eq!((recovery.hard_state.term, recovery.hard_state.vote), (7, 3));
    assert_eq!(recovery.last_index, 60);
    assert!(recovery.first_index <= 55);
    assert_eq!(term(&recovery, 54), 7);
}

/// A reused file begins with the bytes of its earlier use: none of them may pass for a new record.
#[test]
fn stale_records_of_a_recycled_segment_are_not_accepted() {
    for seed in 0..60 {
        let disk = FaultDisk::new();
        let (mut log, _) = Log::open(options(&disk)).unwrap();
        let mut index = 0;
        // Equal sizes, so that old records lie exactly where new ones are written.
        for _ in 0..20 {
            append(&mut log, index + 1..=index + 4, 1, 900);
            index += 4;
            log.truncate_prefix(index - 2);
            log.flush_turn();
        }
        let spares = disk.paths().iter().filter(|path| name(path).starts_with("spare-")).count();
        assert!(
            (1..=2).contains(&spares) && segments(&disk).len() <= 2,
            "files are reused: {:?}",
            disk.paths()
        );
        drop(log);
        disk.power_cut(seed);
        let (log, recovery) = Log::open(LogOptions { snapshot: (index - 3, 1), ..options(&disk) }).unwrap();
        assert_eq!((recovery.last_index, recovery.cut_bytes), (index, 0), "seed {seed}");
        assert!(read_all(&log).iter().all(|found| *found == entry(found.index, 1, 900)));
    }
}

#[test]
fn steady_state_makes_no_new_files() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    let mut used = 0;
    for round in 0..50 {
        append(&mut log, round * 4 + 1..=round * 4 + 4, 1, 900);
        log.truncate_prefix(round * 4 + 1);
        log.flush_turn();
        if round == 10 {
            used = disk.used_bytes();
        }
    }
    assert_eq!(disk.used_bytes(), used);
}

#[test]
fn a_superseded_suffix_stays_superseded() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=30, 1, 900);
    append(&mut log, 12..=14, 2, 500);
    append(&mut log, 14..=20, 3, 100);
    let expected: Vec<_> = (1..=11)
        .map(|index| entry(index, 1, 900))
        .chain((12..=13).map(|index| entry(index, 2, 500)))
        .chain((14..=20).map(|index| entry(index, 3, 100)))
        .collect();
    for _ in 0..3 {
        assert_eq!(read_all(&log), expected);
        drop(log);
        disk.power_cut(1);
        let (reopened, recovery) = Log::open(options(&disk)).unwrap();
        assert_eq!((recovery.last_index, recovery.last_term), (20, 3));
        assert_eq!(recovery.terms, [(1, 1), (12, 2), (14, 3)]);
        log = reopened;
    }
}

/// The segments with the superseded entries are dropped, so that the log begins with the superseding ones.
#[test]
fn a_log_that_begins_with_superseding_entries_reaches_its_snapshot() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=30, 1, 900);
    append(&mut log, 25..=60, 2, 900);
    log.truncate_prefix(45);
    log.flush_turn();
    drop(log);
    disk.kill();
    let (log, recovery) = Log::open(LogOptions { snapshot: (44, 2), ..options(&disk) }).unwrap();
    assert!(recovery.first_index <= 45);
    assert_eq!((recovery.last_index, term(&recovery, 44)), (60, 2));
    drop(log);
    disk.kill();
    let error = Log::open(LogOptions { snapshot: (3, 1), ..options(&disk) }).err().unwrap();
    assert!(matches!(error, OpenError::DoesNotReachSnapshot { snapshot_index: 3, .. }), "{error}");
    assert!(error.to_string().contains("restore"), "it says what to do: {error}");
}

#[test]
fn after_a_reset_the_old_log_is_gone_for_good() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=40, 1, 900);
    log.append(vec![Record::Reset { index: 500, term: 4 }, Record::HardState(state(4, 0, 500))]).unwrap();
    log.flush_turn();
    assert_eq!((log.reader().bounds(), log.last_index(), log.durable().term), (501..501, 500, 4));
    assert_eq!(segments(&disk).len(), 1, "nothing before the reset is needed");
    append(&mut log, 501..=503, 4, 900);
    drop(log);
    disk.power_cut(5);
    let (log, recovery) = Log::open(LogOptions { snapshot: (500, 4), ..options(&disk) }).unwrap();
    assert_eq!((recovery.first_index, recovery.last_index), (501, 503));
    assert!(!recovery.reset_to_snapshot);
    drop(log);
    disk.kill();
    let error = Log::open(LogOptions { snapshot: (30, 1), ..options(&disk) }).err().unwrap();
    assert!(
        matches!(error, OpenError::DoesNotReachSnapshot { .. }),
        "an older snapshot is no way back: {error}"
    );
}

/// The power is cut after the rename of the snapshot and before the log's reset is durable.
#[test]
fn a_log_behind_an_installed_snapshot_is_reset_to_it() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    log.append(vec![Record::HardState(state(2, 1, 5))]).unwrap();
    append(&mut log, 1..=40, 2, 900);
    drop(log);
    disk.kill();
    for (snapshot, expected) in [((100, 3), true), ((100, 3), false)] {
        let (log, recovery) = Log::open(LogOptions { snapshot, ..options(&disk) }).unwrap();
        assert_eq!((recovery.first_index, recovery.last_index, recovery.last_term), (101, 100, 3));
        assert_eq!(recovery.hard_state, state(3, 0, 100), "a vote of an older term is void");
        assert_eq!(recovery.reset_to_snapshot, expected);
        assert_eq!(log.reader().bounds(), 101..101);
        drop(log);
        disk.power_cut(9);
    }
}

#[test]
fn a_segment_is_not_recycled_while_somebody_reads_it() {
    let root = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 16 << 10,
        flushing: Flushing::Manual,
        ..LogOptions::new(root.path().join("log"), 1)
    };
    let (mut log, _) = Log::open(options).unwrap();
    append(&mut log, 1..=30, 1, 900);
    let held = log.reader().read_range(2, 4, u64::MAX).unwrap();
    for round in 0..20u64 {
        append(&mut log, 31 + round * 4..=34 + round * 4, 1, 900);
        log.truncate_prefix(30 + round * 4);
        log.flush_turn();
    }
    assert_eq!(held, [entry(2, 1, 900), entry(3, 1, 900)], "the mapped bytes were never rewritten");
    let files = || std::fs::read_dir(root.path().join("log")).unwrap().count();
    let before = files();
    drop(held);
    log.flush_turn();
    assert!(files() < before, "now they were given back");
    assert_eq!(log.reader().read_range(2, 4, 1), Err(ReadError::Compacted(2)));
}

#[test]
fn entries_as_large_as_a_segment_allows_are_taken_and_larger_ones_refused() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    let max = log.entry_bytes_max();
    assert_eq!(max, options(&disk).entry_bytes_max());
    append(&mut log, 1..=1, 1, 10);
    append(&mut log, 2..=4, 1, max as usize);
    append(&mut log, 5..=5, 1, 0);
    let too_large = Record::Entry(entry(6, 1, max as usize + 1));
    let error = log.append(vec![too_large.clone()]).unwrap_err();
    assert_eq!(error.why, Refusal::TooLarge { bytes: max + 1, max });
    assert_eq!(error.records, [too_large], "refused records come back");
    drop(log);
    disk.power_cut(2);
    let (log, recovery) = Log::open(options(&disk)).unwrap();
    assert_eq!(recovery.last_index, 5);
    assert_eq!(read_all(&log)[3], entry(4, 1, max as usize));
}

#[test]
fn every_prefix_of_appends_reopens_to_itself() {
    for count in 0..45 {
        let disk = FaultDisk::new();
        let (mut log, _) = Log::open(options(&disk)).unwrap();
        for index in 1..=count {
            append(&mut log, index..=index, 1 + index / 10, (index * 37 % 1500) as usize);
        }
        drop(log);
        disk.power_cut(count);
        let (log, recovery) = Log::open(options(&disk)).unwrap();
        assert_eq!(recovery.last_index, count);
        let expected: Vec<_> = (1..=count).map(|i| entry(i, 1 + i / 10, (i * 37 % 1500) as usize)).collect();
        assert_eq!(read_all(&log), expected);
    }
}

#[test]
fn a_changed_segment_size_takes_effect_with_the_next_segment() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=20, 1, 900);
    drop(log);
    disk.kill();
    let larger = LogOptions { segment_bytes: 48 << 10, ..options(&disk) };
    let (mut log, _) = Log::open(larger.clone()).unwrap();
    append(&mut log, 21..=22, 1, larger.entry_bytes_max() as usize);
    log.truncate_prefix(21);
    log.flush_turn();
    drop(log);
    disk.kill();
    let (log, recovery) = Log::open(LogOptions { snapshot: (20, 1), ..larger }).unwrap();
    assert_eq!(
        (recovery.last_index, read_all(&log).last().unwrap().data.len() as u64),
        (22, log.entry_bytes_max())
    );
}
