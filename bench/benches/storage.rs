//! The disk's share of a write and of a restart. Appends of one record and a 64 KiB group per sync; then
//! writing and loading a snapshot. `TMPDIR` chooses the disk. On a tmpfs the figures mean nothing.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use paddock_storage::{Entry, HardState, Log, LogOptions, Record, SnapshotMeta, Snapshots, Ticket};

/// Bytes of one record's payload: a batch with one or two small writes.
const RECORD_BYTES: usize = 512;
/// Bytes of a group: what gathers under load while the disk syncs.
const GROUP_BYTES: usize = 64 << 10;
/// Blocks of a snapshot. With [`BLOCK_BYTES`] each: 64 MiB, about 200 000 small znodes.
const SNAPSHOT_BLOCKS: u64 = 256;
const BLOCK_BYTES: usize = 256 << 10;

struct Bench {
    log: Log,
    news: Receiver<()>,
    data: Bytes,
    _root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (signal, news) = std::sync::mpsc::channel();
        let wake = Arc::new(move || {
            let _ = signal.send(());
        });
        let options = LogOptions { wake, ..LogOptions::new(root.path().join("log"), 0x5eed) };
        let (log, _) = Log::open(options).expect("a new log");
        Bench { log, news, data: Bytes::from(vec![7; RECORD_BYTES]), _root: root }
    }

    /// Appends `count` records as one batch and waits until they are durable.
    fn append(&mut self, count: usize) -> Ticket {
        let next = self.log.last_index() + 1;
        let mut records: Vec<Record> = (next..next + count as u64)
            .map(|index| Record::Entry(Entry { term: 1, index, kind: 0, data: self.data.clone() }))
            .collect();
        records.push(Record::HardState(HardState { term: 1, vote: 1, commit: next }));
        let ticket = self.log.append(records).expect("room in the log");
        while self.log.durable().ticket < ticket {
            self.news.recv().expect("the flusher lives");
        }
        // In the steady state segments are recycled.
        if next.is_multiple_of(1024) {
            self.log.truncate_prefix(next);
        }
        ticket
    }
}

fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    group.sample_size(20);
    for (count, shape) in [(1, "512B"), (GROUP_BYTES / RECORD_BYTES, "64KiB_group")] {
        group.throughput(Throughput::Bytes((count * RECORD_BYTES) as u64));
        let mut bench = Bench::new();
        group.bench_function(shape, |bencher| bencher.iter(|| bench.append(count)));
    }
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let snapshots = Snapshots::new(root.path());
    let block = vec![3; BLOCK_BYTES];
    let write = |index: u64| {
        let meta = SnapshotMeta { index, ..SnapshotMeta::default() };
        let mut writer = snapshots.create(&meta).expect("a new snapshot");
        for _ in 0..SNAPSHOT_BLOCKS {
            writer.block(1, &block).expect("room for a block");
        }
        writer.finish().expect("a durable snapshot")
    };
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10).throughput(Throughput::Bytes(SNAPSHOT_BLOCKS * BLOCK_BYTES as u64));
    let mut index = 0;
    group.bench_function("write_64MiB", |bencher| {
        bencher.iter_batched(
            || {
                index += 1;
                index
            },
            write,
            BatchSize::PerIteration,
        );
    });
    write(u64::MAX / 2);
    group.bench_function("load_64MiB", |bencher| {
        bencher.iter(|| {
            let opened = snapshots.open_newest().expect("readable").expect("there is one");
            opened.reader.blocks().map(|block| block.bytes.len()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, log_append, snapshot);
criterion_main!(benches);
