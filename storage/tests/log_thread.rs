//! The flusher on its own thread: the core is woken for every change, and never has to poll.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::*;
use paddock_storage::fault::FaultDisk;
use paddock_storage::*;

/// Longer than any wait here on a busy machine. A lost wake-up fails the test instead of blocking it.
const PATIENCE: Duration = Duration::from_secs(60);

fn threaded(disk: &FaultDisk) -> (LogOptions, Receiver<()>) {
    let (signal, news) = channel();
    let wake = Arc::new(move || {
        let _ = signal.send(());
    });
    (LogOptions { flushing: Flushing::Thread, wake, ..options(disk) }, news)
}

fn wait_until(log: &Log, news: &Receiver<()>, done: impl Fn(&Log) -> bool) {
    while !done(log) {
        news.recv_timeout(PATIENCE).expect("a wake-up for the change");
    }
}

#[test]
fn every_completion_wakes_the_core() {
    let disk = FaultDisk::new();
    let (options, news) = threaded(&disk);
    let (mut log, _) = Log::open(options).unwrap();
    for index in 1..=200 {
        let ticket = log.append(vec![Record::Entry(entry(index, 1, 500))]).unwrap();
        wait_until(&log, &news, |log| log.durable().ticket >= ticket);
        if index % 20 == 0 {
            log.truncate_prefix(index - 10);
        }
    }
    assert_eq!(log.close(), State::Running);
    disk.power_cut(1);
    let (_, recovery) = Log::open(LogOptions { snapshot: (189, 1), ..common::options(&disk) }).unwrap();
    assert_eq!(recovery.last_index, 200);
}

#[test]
fn a_full_disk_and_its_healing_wake_the_core() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * (16 << 10)));
    let (options, news) = threaded(&disk);
    let (mut log, _) = Log::open(options).unwrap();
    let stopped = |log: &Log| matches!(log.state(), State::WritesStopped { .. });
    loop {
        match log.append(vec![Record::Entry(entry(log.last_index() + 1, 1, 900))]) {
            // An entry accepted just before the stop may have to wait until there is room again.
            Ok(ticket) => wait_until(&log, &news, |log| log.durable().ticket >= ticket || stopped(log)),
            Err(refused) => {
                assert!(matches!(refused.why, Refusal::WritesStopped(_)), "{refused}");
                break;
            }
        }
    }
    disk.set_capacity(None);
    // No call in between: the flusher tries the disk by itself.
    wait_until(&log, &news, |log| log.state() == State::Running);
    let ticket = log.append(vec![Record::Entry(entry(log.last_index() + 1, 2, 900))]).unwrap();
    wait_until(&log, &news, |log| log.durable().ticket >= ticket);
}

#[test]
fn a_failed_sync_wakes_the_core() {
    let disk = FaultDisk::new();
    let (options, news) = threaded(&disk);
    let (mut log, _) = Log::open(options).unwrap();
    let ticket = log.append(vec![Record::Entry(entry(1, 1, 10))]).unwrap();
    wait_until(&log, &news, |log| log.durable().ticket >= ticket);
    disk.break_at(disk.operations());
    let ticket = log.append(vec![Record::Entry(entry(2, 1, 10))]).unwrap();
    wait_until(&log, &news, |log| matches!(log.state(), State::Failed { .. }));
    assert!(log.durable().ticket < ticket);
}

#[test]
fn dropping_the_log_writes_what_waits() {
    let disk = FaultDisk::new();
    let (options, _news) = threaded(&disk);
    let (mut log, _) = Log::open(options).unwrap();
    for index in 1..=50 {
        log.append(vec![Record::Entry(entry(index, 1, 500))]).unwrap();
    }
    drop(log);
    disk.power_cut(1);
    assert_eq!(Log::open(common::options(&disk)).unwrap().1.last_index, 50);
}

/// Readers on other threads see only whole entries while the log is written, superseded, cut and recycled.
#[test]
fn readers_on_other_threads_see_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let (signal, news) = channel();
    let wake = Arc::new(move || {
        let _ = signal.send(());
    });
    let log_options =
        LogOptions { segment_bytes: 16 << 10, wake, ..LogOptions::new(root.path().join("log"), 5) };
    let (mut log, _) = Log::open(log_options).unwrap();
    let reader = log.reader();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = done.clone();
    let checker = std::thread::spawn(move || {
        let mut seen = 0u64;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) || seen == 0 {
            let bounds = reader.bounds();
            match reader.read_range(bounds.start, bounds.end, 8000) {
                Ok(entries) => {
                    for found in entries {
                        assert_eq!(found, entry(found.index, found.term, 700));
                        seen += 1;
                    }
                }
                Err(ReadError::Compacted(_) | ReadError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        seen
    });
    for round in 0..150u64 {
        let last = log.last_index();
        let first = if round % 5 == 4 { last } else { last + 1 };
        let records = (first..first + 4).map(|index| Record::Entry(entry(index, 1 + round, 700))).collect();
        let ticket = log.append(records).unwrap();
        wait_until(&log, &news, |log| log.durable().ticket >= ticket);
        if round % 7 == 6 {
            log.truncate_prefix(first.saturating_sub(12).max(1));
        }
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(checker.join().unwrap() > 0);
}
