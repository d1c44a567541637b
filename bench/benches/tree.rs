//! The tree at a million znodes: lookups alone and in prefetched batches, updates with publication and
//! reclamation, creation, and bytes per znode.
//!
//! Measures the CPU time of the thread, so that other load on the machine shows only through the caches.
//! Paths are 36 bytes, data 100, and a parent has a thousand children. Run with `cargo bench -p
//! paddock-bench --bench tree`. Under `cargo test` each bench runs once, on a small tree.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput};
use paddock_core::acl::{AclList, AclRef};
use paddock_core::tree::{NewNode, NodeStat, Reader, RestoredNode, Writer, tree};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Children of each parent.
const FAMILY: usize = 1_000;
/// Bytes of data per znode.
const DATA_BYTES: usize = 100;
/// Lookups per batch: what a turn of a loaded shard brings together.
const BATCH: usize = 32;
/// Random paths prepared per measurement. Too many for the caches to hold their znodes.
const PATHS: usize = 1 << 18;

/// Resident memory of this process, bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|field| field.parse::<usize>().ok());
    pages.unwrap_or(0) * rustix::param::page_size()
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets criterion measure CPU time.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;
    fn start(&self) -> Duration {
        cpu_time()
    }
    fn end(&self, start: Duration) -> Duration {
        cpu_time() - start
    }
    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

struct Loaded {
    writer: Writer,
    readers: Vec<Reader>,
    znodes: usize,
    acl: AclRef,
}

/// Path of 36 bytes: "/bench/" + 8 + "/" + 20.
fn path(index: usize) -> String {
    format!("/bench/f{:07}/child-{:014}", index / FAMILY, index)
}

fn load(znodes: usize) -> Loaded {
    let acl: AclRef = Arc::new(AclList::world(31));
    let before = resident_bytes();
    let (mut writer, mut readers) = tree(1);
    let data = [b'x'; DATA_BYTES];
    let started = cpu_time();
    let mut restore = |paths: &[String]| {
        writer.prefetch(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        for path in paths {
            let stat = NodeStat::default();
            let node = RestoredNode { path, data: Some(&data), acl: acl.clone(), stat };
            writer.restore(node).expect("parents come first");
        }
    };
    restore(&["/bench".into()]);
    let mut group = Vec::with_capacity(BATCH + 1);
    for index in 0..znodes {
        let path = path(index);
        if index % FAMILY == 0 {
            group.push(path.rsplit_once('/').expect("it has a parent").0.into());
        }
        group.push(path);
        if group.len() >= BATCH || index + 1 == znodes {
            restore(&group);
            group.clear();
        }
    }
    let took = cpu_time() - started;
    readers[0].move_to(&writer.publish());
    writer.reclaim();
    let bytes = (resident_bytes().saturating_sub(before)) as f64 / znodes as f64;
    let each = took.as_nanos() as f64 / znodes as f64;
    println!(
        "{znodes} znodes: {bytes:.0} resident bytes each, {:.0} besides the {DATA_BYTES} of data; restored in {each:.0} ns each",
        bytes - DATA_BYTES as f64
    );
    let started = cpu_time();
    let walked = writer.hold().iter().inspect(|znode| _ = black_box(znode.checksum())).count();
    let each = (cpu_time() - started).as_nanos() as f64 / walked as f64;
    println!("checkpoint walk: {each:.0} ns each of {walked}");
    Loaded { writer, readers, znodes, acl }
}

/// Finalizer of SplitMix64: a permutation of the 64-bit integers.
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random paths in one buffer, so that reading the paths costs little.
struct Paths {
    text: String,
    length: usize,
    next: usize,
}

impl Paths {
    fn new(znodes: usize, paths: usize) -> Paths {
        let mut text = String::new();
        for index in 0..paths {
            text.push_str(&path(mix(index as u64) as usize % znodes));
        }
        Paths { length: path(0).len(), text, next: 0 }
    }
    fn next(&mut self) -> (usize, usize) {
        let start = self.next;
        self.next += self.length;
        if self.next >= self.text.len() {
            self.next = 0;
        }
        (start, start + self.length)
    }
}

fn lookups(c: &mut Criterion<CpuTime>, loaded: &Loaded, paths: usize) {
    let reader = &loaded.readers[0];
    let mut paths = Paths::new(loaded.znodes, paths);
    let mut group = c.benchmark_group("tree/lookup");
    group.throughput(Throughput::Elements(1));
    group.bench_function("alone", |b| {
        b.iter(|| {
            let (from, to) = paths.next();
            // The next path depends on this answer, so no two lookups overlap.
            let znode = reader.get(&paths.text[from..to]).expect("it is there");
            let data = znode.data().expect("it has data");
            paths.next += usize::from(data[DATA_BYTES / 2] == 0);
        })
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut found = Vec::new();
    group.bench_function(format!("batch of {BATCH}"), |b| {
        b.iter(|| {
            let spans: [(usize, usize); BATCH] = std::array::from_fn(|_| paths.next());
            let batch: [&str; BATCH] = spans.map(|(from, to)| &paths.text[from..to]);
            reader.get_batch(&batch, &mut found);
            let sum = |sum, znode: &Option<paddock_core::tree::Znode<'_>>| {
                sum + u32::from(znode.expect("it is there").data().expect("it has data")[DATA_BYTES / 2])
            };
            black_box(found.iter().fold(0, sum))
        })
    });
    group.finish();
}

/// The floor: the same lookup, in the same run, in a map that is neither shared nor versioned.
fn floor(c: &mut Criterion<CpuTime>, znodes: usize, paths: usize) {
    type Node = Box<[u8; 112 + DATA_BYTES]>;
    let state = foldhash::quality::RandomState::default();
    let mut map: HashMap<Box<str>, Node, _> = HashMap::with_capacity_and_hasher(znodes, state);
    for index in 0..znodes {
        map.insert(path(index).into(), Box::new([1; 112 + DATA_BYTES]));
    }
    let mut paths = Paths::new(znodes, paths);
    let mut group = c.benchmark_group("tree/lookup");
    group.throughput(Throughput::Elements(1));
    group.bench_function("alone, in the standard library's map", |b| {
        b.iter(|| {
            let (from, to) = paths.next();
            let node = map.get(&paths.text[from..to]).expect("it is there");
            paths.next += usize::from(node[112 + DATA_BYTES / 2] == 0);
        })
    });
    group.finish();
}

fn updates(c: &mut Criterion<CpuTime>, loaded: &mut Loaded, paths: usize) {
    let mut paths = Paths::new(loaded.znodes, paths);
    let Loaded { writer, readers, acl, .. } = loaded;
    let mut zxid = 1;
    for batch in [1usize, BATCH, 512] {
        let mut group = c.benchmark_group("tree/update");
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("set, published every {batch}"), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    zxid += 1;
                    let (from, to) = paths.next();
                    let data = [zxid as u8; DATA_BYTES];
                    writer.set_data(&paths.text[from..to], Some(&data), zxid, zxid).expect("it is there");
                }
                let published = writer.publish();
                readers[0].move_to(&published);
                writer.reclaim();
            })
        });
        group.finish();
    }
    let mut group = c.benchmark_group("tree/update");
    let mut serial = 0u64;
    let make = |writer: &mut Writer, path: &str| {
        let data = Some(&[0; DATA_BYTES][..]);
        let new = NewNode { path, data, acl: acl.clone(), ephemeral_owner: 0, zxid: 1, time_ms: 1 };
        writer.create(&new).expect("its name is new");
    };
    make(writer, "/wide");
    for index in 0..100_000u64.min(loaded.znodes as u64) {
        make(writer, &format!("/wide/child-{:014}", mix(index) >> 20));
    }
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("create and delete among 100 000 children, published every {BATCH}"), |b| {
        b.iter_batched(
            || {
                serial += 1;
                let name = |n| format!("/wide/child-{:014}-new", mix(serial * BATCH as u64 + n) >> 20);
                (0..BATCH as u64).map(name).collect::<Vec<_>>()
            },
            |names| {
                for name in &names {
                    make(writer, name);
                }
                let published = writer.publish();
                readers[0].move_to(&published);
                writer.reclaim();
                for name in &names {
                    writer.delete(name, 2).expect("just created");
                }
                let published = writer.publish();
                readers[0].move_to(&published);
                writer.reclaim();
            },
            BatchSize::LargeInput,
        )
    });
    group.bench_function("multi of 2 sets, with savepoint, published every 16", |b| {
        b.iter(|| {
            for _ in 0..BATCH / 2 {
                writer.savepoint();
                for _ in 0..2 {
                    let (from, to) = paths.next();
                    writer.set_data(&paths.text[from..to], Some(&[1; DATA_BYTES]), 3, 3).expect("there");
                }
                writer.release();
            }
            let published = writer.publish();
            readers[0].move_to(&published);
            writer.reclaim();
        })
    });
    group.bench_function("list 100 000 children", |b| {
        let mut list = Vec::with_capacity(4 << 20);
        b.iter(|| {
            list.clear();
            for name in readers[0].get("/wide").expect("it is there").children() {
                list.extend_from_slice(&(name.len() as u32).to_be_bytes());
                list.extend_from_slice(name.as_bytes());
            }
            black_box(list.len())
        })
    });
    group.finish();
}

fn main() {
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let (znodes, paths) = if measuring { (1_000_000, PATHS) } else { (10_000, 1 << 10) };
    let mut loaded = load(znodes);
    let mut c = Criterion::default().with_measurement(CpuTime).configure_from_args();
    lookups(&mut c, &loaded, paths);
    updates(&mut c, &mut loaded, paths);
    drop(loaded);
    floor(&mut c, znodes, paths);
    c.final_summary();
}
