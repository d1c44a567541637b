//! A log on the real disk: after a close its entries are there, and readable from the maps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use paddock_storage::*;

fn entry(index: u64, term: u64, bytes: usize) -> Record {
    Record::Entry(Entry { term, index, kind: 1, data: Bytes::from(vec![index as u8; bytes]) })
}

#[test]
fn what_was_appended_is_there_after_a_reopen() {
    let root = tempfile::tempdir().unwrap();
    let woken = Arc::new(AtomicU64::new(0));
    let (signal, signalled) = std::sync::mpsc::channel();
    let counter = woken.clone();
    let options = LogOptions {
        segment_bytes: 32 << 10,
        wake: Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = signal.send(());
        }),
        ..LogOptions::new(root.path().join("log"), 42)
    };
    let (mut log, recovery) = Log::open(options.clone()).unwrap();
    assert_eq!((recovery.first_index, recovery.last_index, recovery.created), (1, 0, true));
    let state = HardState { term: 2, vote: 1, commit: 60 };
    let mut ticket = Ticket(0);
    for index in 1..=100 {
        ticket = log.append(vec![entry(index, 2, 1000), Record::HardState(state)]).unwrap();
    }
    while log.durable().ticket < ticket {
        signalled.recv().unwrap();
    }
    assert_eq!((log.durable().index, log.durable().term), (100, 2));
    assert!(woken.load(Ordering::Relaxed) > 0);
    let read: Vec<_> = log.reader().entries(1, 101).collect::<Result<_, _>>().unwrap();
    assert_eq!(read.len(), 100);
    assert!(read.iter().all(|entry| (entry.data.as_ptr() as usize).is_multiple_of(16)));
    assert_eq!(log.close(), State::Running);

    let (log, recovery) = Log::open(options).unwrap();
    assert_eq!((recovery.first_index, recovery.last_index, recovery.hard_state), (1, 100, state));
    assert!(recovery.segments > 2);
    let again: Vec<_> = log.reader().entries(1, 101).collect::<Result<_, _>>().unwrap();
    assert_eq!(again, read);
}
