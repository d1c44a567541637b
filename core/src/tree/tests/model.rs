//! Hazard: a reader, a hold or the writer sees something else than its own version, whatever the others do.
//!
//! A plain map is the model, and a version is a copy of it. Random operations run on both. After each one
//! every reader, every hold and the writer are compared in full: paths, data, stats, ACLs, children,
//! checksums, sums.

use super::acl;
use crate::tree::hash::PathHasher;
use crate::tree::node::{approximate_bytes, is_session, next_version};
use crate::tree::{
    NewNode, NodeStat, PublishedVersion, Reader, RestoredNode, SnapshotView, TreeError, Writer, Znode, writer,
};
use paddock_transport::io::SHARED_BYTES_MIN;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const READERS: usize = 3;

#[derive(Clone, Debug, PartialEq)]
struct Node {
    data: Option<Vec<u8>>,
    perms: i32,
    stat: NodeStat,
}

type Model = BTreeMap<String, Node>;

fn parent_of(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) => "/",
        Some(slash) => &path[..slash],
        None => unreachable!("model paths are absolute"),
    }
}

fn children_of<'m>(model: &'m Model, path: &'m str) -> impl Iterator<Item = &'m str> {
    let prefix = if path == "/" { "/".to_string() } else { format!("{path}/") };
    let length = prefix.len();
    model
        .range(prefix.clone()..)
        .map(|(child, _)| child.as_str())
        .take_while(move |child| child.starts_with(&prefix))
        .map(move |child| &child[length..])
        .filter(|name| !name.is_empty() && !name.contains('/'))
}

fn fresh_model() -> Model {
    let node = |perms, aversion| Node {
        data: Some(Vec::new()),
        perms,
        stat: NodeStat { aversion, ..NodeStat::default() },
    };
    let mut model = Model::new();
    for path in ["/", "/zookeeper", "/zookeeper/quota"] {
        model.insert(path.into(), node(31, 0));
    }
    model.insert("/zookeeper/config".into(), node(1, -1));
    for path in ["/", "/zookeeper"] {
        let count = children_of(&model, path).count() as i32;
        model.get_mut(path).expect("just put").stat.num_children = count;
    }
    model
}

#[derive(Clone, Debug)]
enum Op {
    Create { path: String, data: Option<Vec<u8>>, owner: i64 },
    CreateMany { parent: String, from: u32, count: u32 },
    Delete { path: String },
    DeleteMany { parent: String, from: u32, count: u32 },
    SetData { path: String, data: Option<Vec<u8>> },
    SetAcl { path: String, perms: i32 },
    Restore { path: String, data: Option<Vec<u8>>, owner: i64, version: i32 },
    Savepoint,
    Rollback,
    Release,
    Publish { reclaim: bool },
    Move { reader: usize },
    Park { reader: usize },
    Unpark { reader: usize, then_move: bool },
    Hold,
    DropHold { index: usize },
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("öst"), Just("d")], 1..4)
            .prop_map(|names| format!("/{}", names.join("/"))),
        1 => Just("/".to_string()),
        1 => Just("/zookeeper/config".to_string()),
        1 => (0u32..200).prop_map(|n| format!("/a/n{n:04}")),
    ]
}

fn parent() -> impl Strategy<Value = String> {
    prop_oneof![Just("/a".to_string()), Just("/".to_string()), Just("/a/b".to_string())]
}

fn data() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Vec::new())),
        6 => (any::<u8>(), 0usize..40).prop_map(|(byte, length)| Some(vec![byte; length])),
        1 => (any::<u8>(), 0usize..3).prop_map(|(b, more)| Some(vec![b; SHARED_BYTES_MIN - 1 + more])),
    ]
}

fn owner() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 2 => Just(0x1_0000_0007), 1 => Just(i64::MIN), 1 => Just(-0xff)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (path(), data(), owner()).prop_map(|(path, data, owner)| Op::Create { path, data, owner }),
        2 => (parent(), 0u32..150, 1u32..150)
            .prop_map(|(parent, from, count)| Op::CreateMany { parent, from, count }),
        4 => path().prop_map(|path| Op::Delete { path }),
        2 => (parent(), 0u32..150, 1u32..150)
            .prop_map(|(parent, from, count)| Op::DeleteMany { parent, from, count }),
        6 => (path(), data()).prop_map(|(path, data)| Op::SetData { path, data }),
        2 => (path(), 0i32..32).prop_map(|(path, perms)| Op::SetAcl { path, perms }),
        2 => (path(), data(), owner(), any::<i32>())
            .prop_map(|(path, data, owner, version)| Op::Restore { path, data, owner, version }),
        2 => Just(Op::Savepoint),
        1 => Just(Op::Rollback),
        1 => Just(Op::Release),
        6 => any::<bool>().prop_map(|reclaim| Op::Publish { reclaim }),
        4 => (0..READERS).prop_map(|reader| Op::Move { reader }),
        1 => (0..READERS).prop_map(|reader| Op::Park { reader }),
        2 => (0..READERS, any::<bool>()).prop_map(|(reader, then_move)| Op::Unpark { reader, then_move }),
        1 => Just(Op::Hold),
        1 => (0usize..3).prop_map(|index| Op::DropHold { index }),
    ]
}

struct World {
    writer: Writer,
    model: Model,
    saved: Option<Model>,
    newest: (PublishedVersion, Arc<Model>),
    readers: Vec<(Reader, Option<Arc<Model>>)>,
    holds: Vec<(SnapshotView, Arc<Model>)>,
    zxid: i64,
}

impl World {
    fn new(mask: u64) -> World {
        let (mut writer, readers) = writer::tree(READERS, PathHasher::weak(mask));
        let model = fresh_model();
        let version = Arc::new(model.clone());
        let newest = (writer.publish(), version.clone());
        let readers = readers.into_iter().map(|reader| (reader, Some(version.clone()))).collect();
        World { writer, model, saved: None, newest, readers, holds: Vec::new(), zxid: 0 }
    }

    fn create(&mut self, path: &str, data: Option<Vec<u8>>, owner: i64) {
        let (zxid, time) = (self.zxid, self.zxid * 10);
        let new =
            NewNode { path, data: data.as_deref(), acl: acl(7), ephemeral_owner: owner, zxid, time_ms: time };
        let result = self.writer.create(&new);
        if path == "/" {
            assert_eq!(result, Err(TreeError::BadPath));
        } else if !self.model.contains_key(parent_of(path)) {
            assert_eq!(result, Err(TreeError::NoParent));
        } else if self.model.contains_key(path) {
            assert_eq!(result, Err(TreeError::NodeExists));
        } else {
            assert_eq!(result, Ok(()));
            let stat = NodeStat {
                czxid: zxid,
                mzxid: zxid,
                pzxid: zxid,
                ctime: time,
                mtime: time,
                ephemeral_owner: owner,
                data_length: data.as_ref().map_or(0, |d| d.len()) as i32,
                ..NodeStat::default()
            };
            self.model.insert(path.into(), Node { data, perms: 7, stat });
            let parent = &mut self.model.get_mut(parent_of(path)).expect("checked").stat;
            parent.cversion += 1;
            parent.pzxid = zxid;
            parent.num_children += 1;
        }
    }

    fn delete(&mut self, path: &str) {
        let result = self.writer.delete(path, self.zxid);
        match self.model.get(path) {
            _ if path == "/" => assert_eq!(result, Err(TreeError::BadPath)),
            None => assert_eq!(result, Err(TreeError::NoNode)),
            Some(node) if node.stat.num_children > 0 => assert_eq!(result, Err(TreeError::NotEmpty)),
            Some(_) => {
                assert_eq!(result, Ok(()));
                self.model.remove(path);
                let parent = &mut self.model.get_mut(parent_of(path)).expect("has a parent").stat;
                parent.pzxid = parent.pzxid.max(self.zxid);
                parent.num_children -= 1;
            }
        }
    }

    fn restore(&mut self, path: &str, data: Option<Vec<u8>>, stat: NodeStat) {
        let node = RestoredNode { path, data: data.as_deref(), acl: acl(3), stat };
        let result = self.writer.restore(node);
        let known = self.model.get(path).map(|node| node.stat.num_children);
        if known.is_none() && !self.model.contains_key(parent_of(path)) {
            assert_eq!(result, Err(TreeError::NoParent));
            return;
        }
        assert_eq!(result, Ok(()));
        let data_length = data.as_ref().map_or(0, |d| d.len()) as i32;
        let stat = NodeStat { data_length, num_children: known.unwrap_or(0), ..stat };
        self.model.insert(path.into(), Node { data, perms: 3, stat });
        if known.is_none() {
            self.model.get_mut(parent_of(path)).expect("checked").stat.num_children += 1;
        }
    }

    fn run(&mut self, op: Op) {
        self.zxid += 1;
        match op {
            Op::Create { path, data, owner } => self.create(&path, data, owner),
            Op::CreateMany { parent, from, count } => {
                let prefix = if parent == "/" { "" } else { &parent };
                let paths: Vec<_> = (from..from + count).map(|n| format!("{prefix}/n{n:04}")).collect();
                self.writer.prefetch(&paths.iter().map(String::as_str).collect::<Vec<_>>());
                for (n, path) in (from..).zip(&paths) {
                    self.create(path, Some(u32::to_be_bytes(n).to_vec()), 0);
                }
            }
            Op::Delete { path } => self.delete(&path),
            Op::DeleteMany { parent, from, count } => {
                let prefix = if parent == "/" { "" } else { &parent };
                for n in from..from + count {
                    self.delete(&format!("{prefix}/n{n:04}"));
                }
            }
            Op::SetData { path, data } => {
                let result = self.writer.set_data(&path, data.as_deref(), self.zxid, self.zxid * 10);
                assert_eq!(result.is_ok(), self.model.contains_key(&path));
                if let Some(node) = self.model.get_mut(&path) {
                    node.stat.mzxid = self.zxid;
                    node.stat.mtime = self.zxid * 10;
                    node.stat.version = next_version(node.stat.version);
                    node.stat.data_length = data.as_ref().map_or(0, |d| d.len()) as i32;
                    node.data = data;
                }
            }
            Op::SetAcl { path, perms } => {
                let result = self.writer.set_acl(&path, acl(perms));
                assert_eq!(result.is_ok(), self.model.contains_key(&path));
                if let Some(node) = self.model.get_mut(&path) {
                    node.perms = perms;
                    node.stat.aversion = next_version(node.stat.aversion);
                }
            }
            Op::Restore { path, data, owner, version } => {
                let stat = NodeStat { version, ephemeral_owner: owner, czxid: 5, ..NodeStat::default() };
                self.restore(&path, data, stat);
            }
            Op::Savepoint if self.saved.is_none() => {
                self.writer.savepoint();
                self.saved = Some(self.model.clone());
            }
            Op::Rollback => {
                if let Some(saved) = self.saved.take() {
                    self.writer.rollback();
                    self.model = saved;
                }
            }
            Op::Release if self.saved.take().is_some() => self.writer.release(),
            Op::Publish { reclaim } if self.saved.is_none() => {
                self.newest = (self.writer.publish(), Arc::new(self.model.clone()));
                if reclaim {
                    self.writer.reclaim();
                }
            }
            Op::Move { reader } => {
                let (reader, version) = &mut self.readers[reader];
                if version.is_some() {
                    reader.move_to(&self.newest.0);
                    *version = Some(self.newest.1.clone());
                }
            }
            Op::Park { reader } => {
                let (reader, version) = &mut self.readers[reader];
                reader.park();
                *version = None;
            }
            Op::Unpark { reader, then_move } => {
                let (reader, version) = &mut self.readers[reader];
                if version.is_none() {
                    reader.unpark();
                    if then_move {
                        reader.move_to(&self.newest.0);
                        *version = Some(self.newest.1.clone());
                    }
                }
            }
            Op::Hold if self.holds.len() < 3 => {
                self.holds.push((self.writer.hold(), self.newest.1.clone()));
            }
            Op::DropHold { index } if index < self.holds.len() => drop(self.holds.swap_remove(index)),
            Op::Savepoint | Op::Release | Op::Publish { .. } | Op::Hold | Op::DropHold { .. } => {}
        }
    }

    fn check(&self) {
        check_all(&self.model, |path| self.writer.get(path));
        let session = |node: &&Node| is_session(node.stat.ephemeral_owner);
        assert_eq!(self.writer.node_count(), self.model.len() as u64 + 1);
        assert_eq!(self.writer.ephemeral_count(), self.model.values().filter(session).count() as u64);
        let size = |(path, node): (&String, &Node)| approximate_bytes(path, node.stat.data_length as usize);
        assert_eq!(self.writer.approximate_data_bytes(), self.model.iter().map(size).sum::<u64>());
        for (reader, version) in &self.readers {
            let Some(version) = version else { continue };
            check_all(version, |path| reader.get(path));
            let absent = ["/nothing", "/a/nothing"];
            let paths: Vec<&str> = version.keys().map(String::as_str).chain(absent).collect();
            let mut found = vec![None];
            reader.get_batch(&paths, &mut found);
            for (path, found) in paths.iter().zip(&found) {
                assert_eq!(found.map(|znode| znode.path()), version.contains_key(*path).then_some(*path));
            }
            assert_eq!(found.len(), paths.len());
        }
        for (held, version) in &self.holds {
            check_all(version, |path| held.get(path));
            assert_eq!(held.len(), version.len() as u64);
            let mut seen = Model::new();
            for znode in held.iter() {
                let path = znode.path();
                assert!(path == "/" || seen.contains_key(parent_of(path)), "{path} before its parent");
                assert!(seen.insert(path.into(), node_of(znode)).is_none(), "{path} twice");
            }
            assert!(seen == **version, "{} znodes of {}", seen.len(), version.len());
        }
    }
}

fn node_of(znode: Znode<'_>) -> Node {
    let data = znode.data().map(<[u8]>::to_vec);
    Node { data, perms: znode.acl().entries[0].perms, stat: znode.stat() }
}

fn check_all<'t>(model: &Model, get: impl Fn(&str) -> Option<Znode<'t>>) {
    for (path, node) in model {
        let znode = get(path).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(znode.path(), path);
        assert_eq!(&node_of(znode), node, "{path}");
        assert!(znode.children().eq(children_of(model, path)), "children of {path}");
        assert_eq!(znode.children().len(), node.stat.num_children as usize);
        let shared = node.data.as_ref().filter(|data| data.len() >= SHARED_BYTES_MIN);
        assert_eq!(znode.shared_data().as_deref(), shared.map(Vec::as_slice));
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
        digest.update(if path == "/" { b"" } else { path.as_bytes() });
        digest.update(node.data.as_deref().unwrap_or_default());
        assert_eq!(znode.checksum(), digest.finalize() as u32, "checksum of {path}");
    }
    assert!(get("/nothing").is_none() && get("/a/nothing/else").is_none() && get("a").is_none());
    assert_eq!(get("").map(|root| root.path()), Some("/"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    /// Masks: a good hash; one whose upper bits, which the tables use, are all equal; one with a handful of
    /// values, so that pages outgrow their size; one where all paths collide.
    #[test]
    fn everybody_sees_its_own_version(
        mask in prop_oneof![Just(u64::MAX), Just(0xffff), Just(0x0070_0000_0000_0000), Just(0)],
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new(mask);
        for op in ops {
            world.run(op);
            world.check();
        }
    }
}
