//! A power cut keeps any subset of the sectors that were not synced.
//!
//! Whatever the subset, everything reported durable is there afterwards, and nothing but a prefix of what
//! was appended. So it is for a cut at every single operation of the disk, and for a second cut during
//! the recovery.

mod common;

use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;

/// Makes one random append to the log and to the model.
fn step(draw: &mut Draw, last: u64, term: &mut u64, commit: &mut u64) -> Record {
    match draw.below(10) {
        0 => {
            *term += 1;
            Record::HardState(state(*term, draw.below(3), *commit))
        }
        1 => {
            *commit = (*commit).max(last.saturating_sub(draw.below(4)));
            Record::HardState(state(*term, 1, *commit))
        }
        2 if last > *commit => {
            // A new leader's entry supersedes an uncommitted suffix.
            *term += 1;
            let index = *commit + 1 + draw.below(last - *commit);
            Record::Entry(entry(index, *term, draw.below(700) as usize))
        }
        _ => Record::Entry(entry(last + 1, *term, draw.below(2000) as usize)),
    }
}

fn open(disk: &FaultDisk, model: &mut Model, context: &str) -> (Log, Recovery) {
    let (log, recovery) = Log::open(options(disk)).unwrap_or_else(|error| panic!("{context}: {error}"));
    let entries = read_all(&log);
    model.check(&entries, recovery.hard_state, context);
    assert_eq!((recovery.last_index, recovery.first_index), (entries.len() as u64, 1), "{context}");
    (log, recovery)
}

/// Appends until the disk breaks. The model holds what was durable by then.
fn work(log: &mut Log, recovery: &Recovery, model: &mut Model, draw: &mut Draw, appends: u64) {
    let mut term = recovery.hard_state.term.max(recovery.last_term).max(1);
    let mut commit = recovery.hard_state.commit;
    let mut first = None;
    for _ in 0..appends {
        let record = step(draw, log.last_index(), &mut term, &mut commit);
        let Ok(ticket) = log.append(vec![record.clone()]) else { return };
        let first = *first.get_or_insert(ticket.0);
        model.apply(&[record]);
        if draw.below(3) == 0 {
            log.flush_turn();
        }
        let durable = log.durable().ticket.0;
        if durable >= first {
            model.durable = (durable - first + 1) as usize;
        }
    }
}

#[test]
fn a_power_cut_keeps_what_was_durable_and_a_prefix_of_the_rest() {
    for seed in 0..400 {
        let disk = FaultDisk::new();
        let mut model = Model::new();
        let mut draw = Draw(seed);
        for life in 0..4 {
            let context = format!("seed {seed} life {life}");
            let (mut log, recovery) = open(&disk, &mut model, &context);
            work(&mut log, &recovery, &mut model, &mut draw, 30);
            drop(log);
            if draw.below(4) == 0 {
                disk.kill();
            } else {
                disk.power_cut(seed * 31 + life);
            }
        }
    }
}

#[test]
fn the_power_may_go_before_any_operation_of_work_and_of_recovery() {
    for seed in 0..6 {
        let whole = FaultDisk::new();
        let (mut log, recovery) = open(&whole, &mut Model::new(), "whole");
        work(&mut log, &recovery, &mut Model::new(), &mut Draw(seed), 40);
        let operations = whole.operations();
        assert!(operations > 40, "{operations}");
        for at in 0..operations {
            let context = format!("seed {seed} operation {at}");
            let disk = FaultDisk::new();
            disk.break_at(at);
            let mut model = Model::new();
            if let Ok((mut log, recovery)) = Log::open(options(&disk)) {
                work(&mut log, &recovery, &mut model, &mut Draw(seed), 40);
            }
            disk.power_cut(seed ^ at << 8);
            // More cuts, now during the recovery itself.
            for again in 1..4 {
                disk.break_at(disk.operations() + (at + again) % 9);
                let opened = Log::open(options(&disk)).map(|_| ());
                if let Err(error) = opened {
                    assert!(matches!(error, OpenError::Io { .. }), "{context}: {error}");
                }
                disk.power_cut(at + again);
            }
            open(&disk, &mut model, &context);
        }
    }
}

/// A process whose sync failed leaves pages in the page cache that are not on the disk. The next process
/// reads them, so it must write them again before it relies on them.
#[test]
fn recovery_syncs_what_it_accepts_before_anything_is_promised() {
    for seed in 0..200 {
        let disk = FaultDisk::new();
        let (mut log, _) = Log::open(options(&disk)).unwrap();
        append(&mut log, 1..=3, 1, 600);
        disk.fail_sync_after(0);
        log.append((4..=6).map(|index| Record::Entry(entry(index, 1, 600))).collect()).unwrap();
        log.flush_turn();
        assert!(matches!(log.state(), State::Failed { .. }));
        drop(log);
        disk.kill();
        let (log, recovery) = Log::open(options(&disk)).unwrap();
        assert_eq!(recovery.last_index, 6, "the page cache still has them");
        drop(log);
        disk.power_cut(seed);
        let (log, recovery) = Log::open(options(&disk)).unwrap();
        assert_eq!(recovery.last_index, 6, "seed {seed}: recovered once is promised for ever");
        assert_eq!(read_all(&log).len(), 6);
    }
}

/// Records beyond a cut lie where new ones will be appended, at the same offsets if the sizes are equal.
/// Recovery must not accept them behind the new ones.
#[test]
fn a_tail_that_was_cut_does_not_come_back() {
    let mut cuts = 0;
    for seed in 0..300 {
        let disk = FaultDisk::new();
        let (mut log, _) = Log::open(options(&disk)).unwrap();
        append(&mut log, 1..=2, 1, 1000);
        // One group, torn by the cut.
        disk.break_at(disk.operations() + 1);
        // First a hard state, as at each opening: so the entries behind it get the same offsets.
        log.append(vec![Record::HardState(state(1, 1, 2))]).unwrap();
        append(&mut log, 3..=9, 1, 1000);
        drop(log);
        disk.power_cut(seed);
        let (mut log, recovery) = Log::open(options(&disk)).unwrap();
        let kept = recovery.last_index;
        cuts += u64::from(kept < 9 && recovery.cut_bytes > 0);
        if kept < 8 {
            append(&mut log, kept + 1..=kept + 1, 2, 1000);
            drop(log);
            disk.kill();
            let (log, recovery) = Log::open(options(&disk)).unwrap();
            assert_eq!((recovery.last_index, recovery.last_term), (kept + 1, 2), "seed {seed}");
            assert_eq!(read_all(&log).last(), Some(&entry(kept + 1, 2, 1000)));
        }
    }
    assert!(cuts > 50, "the seeds do tear tails: {cuts}");
}

#[test]
fn without_force_sync_a_power_cut_may_take_entries_but_the_log_opens() {
    for seed in 0..200 {
        let disk = FaultDisk::new();
        let unsafe_options = LogOptions { force_sync: false, ..options(&disk) };
        let (mut log, _) = Log::open(unsafe_options.clone()).unwrap();
        append(&mut log, 1..=30, 1, 900);
        log.append(vec![Record::HardState(state(1, 1, 30))]).unwrap();
        log.flush_turn();
        assert_eq!(log.durable().index, 30, "completed without a sync");
        drop(log);
        disk.power_cut(seed);
        let (log, recovery) =
            Log::open(unsafe_options).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let expected: Vec<_> = (1..=recovery.last_index).map(|index| entry(index, 1, 900)).collect();
        assert_eq!(read_all(&log), expected, "seed {seed}");
        assert!(recovery.hard_state.commit <= recovery.last_index, "seed {seed}");
    }
}
