//! Hazard: a reader on another thread sees a torn version, one that it does not pin, or freed memory.
//!
//! One deterministic stream of operations goes through two implementations behind one pair of traits: the
//! tree, and a plain map behind `crossbeam-epoch`. The map is the oracle: it uses nothing of the tree's
//! reclamation. In lock step both must answer alike. With real threads each reader replays the stream to
//! the version that it pins, and must find exactly that.

use super::{Numbers, acl};
use crate::tree::{NewNode, NodeStat, PublishedVersion, Reader, Writer, tree};
use crossbeam_epoch::{Atomic, Collector, Guard, LocalHandle, Owned};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Contents of a znode: data, stat, names of children.
type Seen = Option<(Option<Vec<u8>>, NodeStat, Vec<String>)>;

trait Writes: Send {
    type Version: Send;
    fn apply(&mut self, op: &Op, zxid: i64);
    fn publish(&mut self) -> Self::Version;
    /// Called once the readers can find the published version.
    fn reclaim(&mut self);
}

trait Reads: Send {
    type Version;
    /// Called on the thread that reads.
    fn move_to(&mut self, version: &Self::Version);
    fn park(&mut self);
    fn unpark(&mut self);
    fn look(&self, path: &str) -> Seen;
}

#[derive(Clone, Debug)]
enum Op {
    Create(String, Vec<u8>),
    Delete(String),
    Set(String, Option<Vec<u8>>),
    /// Creates, changes and deletes inside a savepoint that is rolled back.
    Undone(String),
}

/// Operations of one version, derived from its number alone.
fn batch(version: u64) -> Vec<Op> {
    let mut numbers = Numbers(version);
    let count = 1 + numbers.below(24);
    (0..count)
        .map(|_| {
            let path = path(numbers.below(400));
            let data = vec![version as u8; numbers.below(64) as usize];
            match numbers.below(8) {
                0..=2 => Op::Create(path, data),
                3 => Op::Delete(path),
                4 => Op::Undone(path),
                _ => Op::Set(path, (numbers.below(9) > 0).then_some(data)),
            }
        })
        .collect()
}

fn path(number: u64) -> String {
    if number.is_multiple_of(7) {
        format!("/p{}", number / 100)
    } else {
        format!("/p{}/n{number}", number / 100)
    }
}

// ---------------------------------------------------------------------- the tree

impl Writes for Writer {
    type Version = PublishedVersion;
    fn apply(&mut self, op: &Op, zxid: i64) {
        let create = |writer: &mut Writer, path: &str, data: &[u8]| {
            let data = Some(data);
            let new = NewNode { path, data, acl: acl(31), ephemeral_owner: 0, zxid, time_ms: zxid };
            let _ = writer.create(&new);
        };
        match op {
            Op::Create(path, data) => create(self, path, data),
            Op::Delete(path) => drop(self.delete(path, zxid)),
            Op::Set(path, data) => drop(self.set_data(path, data.as_deref(), zxid, zxid)),
            Op::Undone(path) => {
                self.savepoint();
                create(self, path, b"undone");
                let _ = self.set_data(path, None, zxid, zxid);
                let _ = self.delete(path, zxid);
                self.rollback();
            }
        }
    }
    fn publish(&mut self) -> PublishedVersion {
        Writer::publish(self)
    }
    fn reclaim(&mut self) {
        Writer::reclaim(self);
    }
}

impl Reads for Reader {
    type Version = PublishedVersion;
    fn move_to(&mut self, version: &PublishedVersion) {
        Reader::move_to(self, version);
    }
    fn park(&mut self) {
        Reader::park(self);
    }
    fn unpark(&mut self) {
        Reader::unpark(self);
    }
    fn look(&self, path: &str) -> Seen {
        let znode = self.get(path)?;
        let children = znode.children().map(str::to_string).collect();
        Some((znode.data().map(<[u8]>::to_vec), znode.stat(), children))
    }
}

// ---------------------------------------------------------------------- the oracle

type Map = BTreeMap<String, (Option<Vec<u8>>, NodeStat)>;

fn apply(map: &mut Map, op: &Op, zxid: i64) {
    match op {
        Op::Create(path, data) => {
            let parent = parent_of(path);
            if map.contains_key(path) || !map.contains_key(parent) {
                return;
            }
            let stat = NodeStat {
                czxid: zxid,
                mzxid: zxid,
                pzxid: zxid,
                ctime: zxid,
                mtime: zxid,
                data_length: data.len() as i32,
                ..NodeStat::default()
            };
            map.insert(path.clone(), (Some(data.clone()), stat));
            let parent = &mut map.get_mut(parent).expect("looked up").1;
            parent.cversion += 1;
            parent.pzxid = zxid;
            parent.num_children += 1;
        }
        Op::Delete(path) => {
            if map.get(path).is_none_or(|(_, stat)| stat.num_children > 0) {
                return;
            }
            map.remove(path);
            let parent = &mut map.get_mut(parent_of(path)).expect("it has one").1;
            parent.pzxid = parent.pzxid.max(zxid);
            parent.num_children -= 1;
        }
        Op::Set(path, data) => {
            if let Some((old, stat)) = map.get_mut(path) {
                stat.mzxid = zxid;
                stat.mtime = zxid;
                stat.version += 1;
                stat.data_length = data.as_ref().map_or(0, Vec::len) as i32;
                old.clone_from(data);
            }
        }
        Op::Undone(_) => {}
    }
}

fn parent_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

fn look(map: &Map, path: &str) -> Seen {
    let (data, stat) = map.get(path)?;
    let prefix = if path == "/" { "/".into() } else { format!("{path}/") };
    let children = map
        .range(prefix.clone()..)
        .take_while(|(child, _)| child.starts_with(&prefix))
        .map(|(child, _)| &child[prefix.len()..])
        .filter(|name| !name.is_empty() && !name.contains('/'));
    Some((data.clone(), *stat, children.map(str::to_string).collect()))
}

fn first_map() -> Map {
    let mut map = Map::new();
    for (path, aversion, num_children) in
        [("/", 0, 1), ("/zookeeper", 0, 2), ("/zookeeper/quota", 0, 0), ("/zookeeper/config", -1, 0)]
    {
        let stat = NodeStat { aversion, num_children, ..NodeStat::default() };
        map.insert(path.into(), (Some(Vec::new()), stat));
    }
    map
}

/// Holds the newest map. Epochs free the old ones.
struct EpochWriter {
    building: Map,
    newest: Arc<Atomic<Map>>,
    handle: LocalHandle,
}

// SAFETY: the handle moves with its writer, and one thread at a time uses it.
unsafe impl Send for EpochWriter {}

impl Writes for EpochWriter {
    type Version = ();
    fn apply(&mut self, op: &Op, zxid: i64) {
        apply(&mut self.building, op, zxid);
    }
    fn publish(&mut self) {
        let guard = self.handle.pin();
        let old = self.newest.swap(Owned::new(self.building.clone()), Ordering::AcqRel, &guard);
        // SAFETY: this swap unlinked the old map, and each reader of it holds a guard.
        unsafe { guard.defer_destroy(old) };
    }
    fn reclaim(&mut self) {
        self.handle.pin().flush();
    }
}

impl Drop for EpochWriter {
    fn drop(&mut self) {
        let guard = self.handle.pin();
        let old = self.newest.swap(crossbeam_epoch::Shared::null(), Ordering::AcqRel, &guard);
        if !old.is_null() {
            // SAFETY: this swap unlinked it, and no other call sees the pointer again.
            unsafe { guard.defer_destroy(old) };
        }
    }
}

/// Keeps one guard from one move to the next.
struct EpochReader {
    newest: Arc<Atomic<Map>>,
    handle: LocalHandle,
    pinned: Option<(Guard, *const Map)>,
}

// SAFETY: handle and guard move together, and one thread at a time uses them.
unsafe impl Send for EpochReader {}

impl Reads for EpochReader {
    type Version = ();
    fn move_to(&mut self, (): &()) {
        self.pinned = None;
        let guard = self.handle.pin();
        let map = self.newest.load(Ordering::Acquire, &guard).as_raw();
        self.pinned = Some((guard, map));
    }
    fn park(&mut self) {
        self.pinned = None;
    }
    fn unpark(&mut self) {}
    fn look(&self, path: &str) -> Seen {
        let (_, map) = self.pinned.as_ref().expect("the reader moved to a version");
        // SAFETY: the map was loaded under the guard that is kept beside it.
        look(unsafe { &**map }, path)
    }
}

fn epoch_tree(readers: usize) -> (EpochWriter, Vec<EpochReader>) {
    let collector = Collector::new();
    let newest = Arc::new(Atomic::new(first_map()));
    let reader = |_| EpochReader { newest: newest.clone(), handle: collector.register(), pinned: None };
    let readers = (0..readers).map(reader).collect();
    (EpochWriter { building: first_map(), newest: newest.clone(), handle: collector.register() }, readers)
}

// ---------------------------------------------------------------------- the tests

fn all_paths() -> Vec<String> {
    (0..400).map(path).chain(["/".into(), "/zookeeper".into()]).collect()
}

#[test]
fn tree_and_oracle_answer_alike() {
    let (mut ours, mut our_readers) = tree(1);
    let (mut oracle, mut oracle_readers) = epoch_tree(1);
    let paths = all_paths();
    for version in 1..400 {
        for op in batch(version) {
            ours.apply(&op, version as i64);
            oracle.apply(&op, version as i64);
        }
        let published = Writes::publish(&mut ours);
        Writes::publish(&mut oracle);
        Reads::move_to(&mut our_readers[0], &published);
        oracle_readers[0].move_to(&());
        Writes::reclaim(&mut ours);
        oracle.reclaim();
        for path in &paths {
            assert_eq!(
                our_readers[0].look(path),
                oracle_readers[0].look(path),
                "{path} at version {version}"
            );
        }
    }
}

/// Versions that the writer publishes in the test with threads.
const VERSIONS: u64 = 2_000;

/// One writer, readers on threads of their own. Each reader replays the stream and compares what it sees
/// with that.
fn readers_find_exactly_their_version<W: Writes, R: Reads<Version = W::Version>>(
    (mut writer, readers): (W, Vec<R>),
) {
    // A lock around the newest version replaces the commit ring. One znode's data is the stream's version
    // number, so that a reader of either implementation knows which version it pins.
    let stamp = |writer: &mut W, version: u64| {
        let number = Some(version.to_be_bytes().to_vec());
        writer.apply(&Op::Set("/zookeeper".into(), number), version as i64);
    };
    stamp(&mut writer, 0);
    let ring = Mutex::new(writer.publish());
    std::thread::scope(|scope| {
        for (index, mut reader) in readers.into_iter().enumerate() {
            let ring = &ring;
            scope.spawn(move || {
                let mut numbers = Numbers(index as u64);
                let mut map = first_map();
                apply(&mut map, &Op::Set("/zookeeper".into(), Some(vec![0; 8])), 0);
                let mut at = 0;
                let paths = all_paths();
                while at < VERSIONS {
                    if numbers.below(4) == 0 {
                        reader.park();
                        reader.unpark();
                    }
                    reader.move_to(&ring.lock().expect("nobody panicked"));
                    let (number, ..) = reader.look("/zookeeper").expect("reserved");
                    let number = number.expect("stamped").try_into().expect("8 bytes");
                    let version = u64::from_be_bytes(number);
                    assert!(version >= at, "a reader went back");
                    for version in at + 1..=version {
                        for op in batch(version) {
                            apply(&mut map, &op, version as i64);
                        }
                        let stamp = Op::Set("/zookeeper".into(), Some(version.to_be_bytes().to_vec()));
                        apply(&mut map, &stamp, version as i64);
                    }
                    at = version;
                    for _ in 0..32 {
                        let path = &paths[numbers.below(paths.len() as u64) as usize];
                        assert_eq!(reader.look(path), look(&map, path), "{path} at {at}");
                    }
                }
            });
        }
        for version in 1..=VERSIONS {
            for op in batch(version) {
                writer.apply(&op, version as i64);
            }
            stamp(&mut writer, version);
            *ring.lock().expect("nobody panicked") = writer.publish();
            writer.reclaim();
        }
    });
}

#[test]
fn readers_on_threads_find_exactly_their_version() {
    readers_find_exactly_their_version(tree(4));
}

#[test]
fn the_oracle_itself_is_consistent() {
    readers_find_exactly_their_version(epoch_tree(4));
}

/// Snapshot views travel to a thread that walks them while the writer goes on.
#[test]
fn checkpoints_on_a_thread_are_complete_and_exact() {
    let (mut writer, mut readers) = tree(1);
    readers[0].park();
    let (send, receive) = std::sync::mpsc::sync_channel::<(u64, crate::tree::SnapshotView)>(2);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut map = first_map();
            let mut at = 0;
            for (version, held) in receive {
                for version in at + 1..=version {
                    for op in batch(version) {
                        apply(&mut map, &op, version as i64);
                    }
                }
                at = version;
                let seen: Map = held
                    .iter()
                    .map(|znode| (znode.path().into(), (znode.data().map(<[u8]>::to_vec), znode.stat())))
                    .collect();
                assert!(seen == map, "the checkpoint of version {version}");
            }
        });
        for version in 1..=VERSIONS {
            for op in batch(version) {
                writer.apply(&op, version as i64);
            }
            Writer::publish(&mut writer);
            Writer::reclaim(&mut writer);
            if version % 16 == 0 {
                send.send((version, writer.hold())).expect("the thread takes them all");
            }
        }
        drop(send);
    });
    Writer::reclaim(&mut writer);
    assert_eq!(writer.retired_bytes(), 0);
}
