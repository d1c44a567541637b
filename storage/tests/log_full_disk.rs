//! A disk that fills up or fails.
//!
//! On a full disk the log refuses entries before it accepts them, takes votes, and resumes when there is
//! room. After a failed write or sync it retries nothing and takes nothing.

mod common;

use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Fills a disk with room for three segments until entries are refused. Returns the last accepted index.
fn fill(log: &mut Log) -> u64 {
    loop {
        let index = log.last_index() + 1;
        match log.append(vec![Record::Entry(entry(index, 1, 900))]) {
            Ok(_) => log.flush_turn(),
            Err(refused) => {
                assert!(matches!(refused.why, Refusal::WritesStopped(_)), "{refused}");
                return index - 1;
            }
        }
    }
}

#[test]
fn a_full_disk_stops_entries_before_they_are_accepted_and_heals_by_itself() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * (16 << 10) + 100));
    let news = Arc::new(AtomicU64::new(0));
    let counter = news.clone();
    let wake = Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let (mut log, _) = Log::open(LogOptions { wake, ..options(&disk) }).unwrap();
    let last = fill(&mut log);
    let State::WritesStopped { reason } = log.state() else { panic!("{:?}", log.state()) };
    assert!(reason.contains(DIR), "the reason says where: {reason}");
    assert_eq!((log.durable().index, log.queued_bytes()), (last, 0), "all that was accepted is durable");

    // Votes are still taken, many of them.
    for term in 2..100 {
        log.append(vec![Record::HardState(state(term, 1, last))]).unwrap();
        log.flush_turn();
    }
    assert!(matches!(log.state(), State::WritesStopped { .. }), "and did not cost the reason");
    let ticket = log.append(vec![Record::HardState(state(100, 2, last))]).unwrap();
    log.flush_turn();
    assert_eq!(log.durable().ticket, ticket);

    let before = news.load(Ordering::Relaxed);
    disk.set_capacity(Some(5 * (16 << 10)));
    log.flush_turn();
    assert_eq!(log.state(), State::Running);
    assert!(news.load(Ordering::Relaxed) > before, "the core is told");
    append(&mut log, last + 1..=last + 3, 100, 900);
    assert_eq!(log.durable().index, last + 3);
    drop(log);
    disk.power_cut(4);
    let (_, recovery) = Log::open(options(&disk)).unwrap();
    assert_eq!((recovery.last_index, recovery.hard_state), (last + 3, state(100, 2, last)));
}

#[test]
fn what_is_handed_over_before_the_core_hears_of_the_full_disk_is_taken_as_far_as_there_is_room() {
    const SEGMENT: u64 = 1 << 20;
    const QUEUE: u64 = 64 << 10;
    const DATA: usize = 9_000;
    let disk = FaultDisk::new();
    disk.set_capacity(Some(2 * SEGMENT + 1000));
    let small = LogOptions { segment_bytes: SEGMENT, queue_bytes_max: QUEUE, ..options(&disk) };
    let (mut log, _) = Log::open(small.clone()).unwrap();
    while log.state() == State::Running {
        let index = log.last_index() + 1;
        log.append(vec![Record::Entry(entry(index, 1, DATA))]).unwrap();
        log.flush_turn();
    }
    let (heard, mut late) = (log.last_index(), 0);
    loop {
        let index = log.last_index() + 1;
        match log.append(vec![Record::Entry(entry(index, 1, DATA))]) {
            Ok(_) => late += 1,
            Err(refused) => {
                assert!(matches!(refused.why, Refusal::WritesStopped(_) | Refusal::Full), "{refused}");
                if let Refusal::WritesStopped(_) = refused.why {
                    break;
                }
            }
        }
        if log.queued_bytes() + 10_000 > QUEUE {
            log.flush_turn();
        }
    }
    assert!(late > SEGMENT / 2 / DATA as u64, "{late}");
    // All accepted entries are durable, and a hard state still fits behind them.
    let ticket = log.append(vec![Record::HardState(state(9, 2, heard))]).unwrap();
    log.flush_turn();
    assert_eq!((log.durable().ticket, log.durable().index), (ticket, heard + late));
    drop(log);
    disk.power_cut(5);
    let (_, recovery) = Log::open(small).unwrap();
    assert_eq!((recovery.last_index, recovery.hard_state), (heard + late, state(9, 2, heard)));
}

#[test]
fn a_leader_begins_its_term_on_a_full_disk_and_so_do_those_who_follow_it() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * (16 << 10)));
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    let last = fill(&mut log);
    for term in 2..6 {
        let begins =
            vec![Record::HardState(state(term, 1, last)), Record::Entry(entry(last - 1 + term, term, 0))];
        let ticket = log.append(begins).unwrap();
        log.flush_turn();
        assert_eq!(log.durable().ticket, ticket);
        let more =
            vec![Record::Entry(entry(last + term, term, 0)), Record::Entry(entry(last + term + 1, term, 1))];
        let refused = log.append(more).unwrap_err();
        assert!(matches!(refused.why, Refusal::WritesStopped(_)), "{refused}");
    }
    drop(log);
    disk.power_cut(3);
    let (log, recovery) = Log::open(options(&disk)).unwrap();
    assert_eq!((recovery.last_index, recovery.last_term), (last + 4, 5));
    assert_eq!(recovery.hard_state, state(5, 1, last));
    assert!(read_all(&log).iter().rev().take(4).all(|entry| entry.data.is_empty()));
}

#[test]
fn entries_without_data_use_the_room_that_is_kept_for_hard_states() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * (16 << 10)));
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    let last = fill(&mut log);
    // Entries without data fill the active segment, and nothing else.
    let mut taken = 0;
    loop {
        let ticket = log.append(vec![Record::Entry(entry(last + 1 + taken, 2, 0))]).unwrap();
        log.flush_turn();
        if log.durable().ticket != ticket {
            break;
        }
        taken += 1;
    }
    // Records without room wait, and what was reported durable is durable.
    assert!(taken > (16 << 10) / 16 / 48, "{taken}: more than the reserve alone holds");
    disk.set_capacity(None);
    log.flush_turn();
    assert_eq!(log.durable().index, last + 1 + taken);
}

#[test]
fn truncation_heals_a_full_disk_without_new_room() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * (16 << 10)));
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    let last = fill(&mut log);
    log.truncate_prefix(last);
    log.flush_turn();
    assert_eq!(log.state(), State::Running);
    append(&mut log, last + 1..=last + 1, 1, 900);
    assert_eq!(log.durable().index, last + 1);
}

#[test]
fn a_node_starts_on_a_full_disk_and_votes() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * (16 << 10)));
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    let last = fill(&mut log);
    drop(log);
    for start in 0..10 {
        disk.power_cut(start);
        let (mut log, recovery) = Log::open(options(&disk)).unwrap();
        assert_eq!(recovery.last_index, last);
        assert!(matches!(log.state(), State::WritesStopped { .. }));
        log.append(vec![Record::HardState(state(start + 2, 1, last))]).unwrap();
        log.flush_turn();
    }
    disk.power_cut(11);
    let (_, recovery) = Log::open(options(&disk)).unwrap();
    assert_eq!(recovery.hard_state, state(11, 1, last));
}

#[test]
fn accepted_entries_that_find_no_room_wait_and_are_not_lost() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(2 * (16 << 10)));
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    // One append of more than active segment and spare hold.
    let ticket = log.append((1..=40).map(|index| Record::Entry(entry(index, 1, 900))).collect()).unwrap();
    log.flush_turn();
    assert!(matches!(log.state(), State::WritesStopped { .. }));
    assert!(log.durable().ticket < ticket);
    disk.set_capacity(None);
    log.flush_turn();
    assert_eq!((log.state(), log.durable().ticket, log.durable().index), (State::Running, ticket, 40));
    assert_eq!(read_all(&log).len(), 40);
}

#[test]
fn a_failed_sync_is_final() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(options(&disk)).unwrap();
    append(&mut log, 1..=3, 1, 100);
    let durable = log.durable();
    disk.fail_sync_after(0);
    log.append(vec![Record::Entry(entry(4, 1, 100))]).unwrap();
    log.flush_turn();
    let State::Failed { reason } = log.state() else { panic!("{:?}", log.state()) };
    assert!(reason.contains("syncing") && reason.contains("segment-"), "{reason}");
    // The next sync would succeed and prove nothing.
    log.flush_turn();
    let refused = log.append(vec![Record::HardState(state(2, 1, 3))]).unwrap_err();
    assert!(matches!(refused.why, Refusal::Failed(_)));
    log.flush_turn();
    assert_eq!(log.durable(), durable, "nothing was ever reported");
    assert!(matches!(log.close(), State::Failed { .. }));
}

#[test]
fn a_failed_sync_at_a_rotation_is_final_too() {
    for sync in 0..8 {
        let disk = FaultDisk::new();
        let (mut log, _) = Log::open(options(&disk)).unwrap();
        append(&mut log, 1..=10, 1, 900);
        disk.fail_sync_after(sync);
        let ticket =
            log.append((11..=30).map(|index| Record::Entry(entry(index, 1, 900))).collect()).unwrap();
        log.flush_turn();
        let failed = matches!(log.state(), State::Failed { .. });
        let stopped = matches!(log.state(), State::WritesStopped { .. });
        assert!(failed || stopped || log.durable().ticket == ticket, "sync {sync}");
        if failed {
            assert!(log.durable().ticket < ticket);
        }
        drop(log);
        disk.power_cut(sync);
        let (_, recovery) = Log::open(options(&disk)).unwrap();
        assert!(recovery.last_index >= if failed { 10 } else { 0 });
    }
}

#[test]
fn a_full_queue_says_so_and_takes_hard_states() {
    let disk = FaultDisk::new();
    let (mut log, _) = Log::open(LogOptions { queue_bytes_max: 4000, ..options(&disk) }).unwrap();
    let mut index = 1;
    let refused = loop {
        match log.append(vec![Record::Entry(entry(index, 1, 900))]) {
            Ok(_) => index += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.why, index), (Refusal::Full, 5));
    assert!(log.queued_bytes() <= 4000);
    assert_eq!(log.last_index(), 4, "what was refused is not visible");
    log.append(vec![Record::HardState(state(1, 1, 0))]).unwrap();
    log.flush_turn();
    append(&mut log, 5..=5, 1, 9000);
    assert_eq!(log.durable().index, 5, "something larger than the bound goes alone");
}
