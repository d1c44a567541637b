//! The firing table of spec 02 section 8.2, and a comparison with a model.

use super::*;
use crate::acl::AclRef;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn change(kind: ChangeKind, path: &str) -> Change {
    let acl = AclRef::default();
    Change { zxid: 7, kind, path: path.into(), acl: acl.clone(), parent_acl: Some(acl) }
}

fn fire(watches: &mut Watches, kind: ChangeKind, path: &str) -> (Vec<u32>, Vec<u32>) {
    let mut hits = Hits::default();
    watches.fire(&change(kind, path), &mut hits);
    hits.own.sort_unstable();
    hits.parent.sort_unstable();
    (hits.own, hits.parent)
}

use ChangeKind::{Created, DataChanged, Deleted};

#[test]
fn the_firing_table_row_by_row() {
    // Connection n holds the one watch of column n: data on P, child on P, child on Q, persistent on P,
    // persistent on Q, recursive on P, recursive on an ancestor.
    let arm = || {
        let mut w = Watches::new(100);
        let columns = [
            ("/q/p", WatcherMode::Data),
            ("/q/p", WatcherMode::Child),
            ("/q", WatcherMode::Child),
            ("/q/p", WatcherMode::Persistent),
            ("/q", WatcherMode::Persistent),
            ("/q/p", WatcherMode::Recursive),
            ("/", WatcherMode::Recursive),
        ];
        for (connection, (path, mode)) in columns.into_iter().enumerate() {
            w.add(connection as u32, path, mode).unwrap();
        }
        w
    };
    assert_eq!(fire(&mut arm(), Created, "/q/p"), (vec![0, 3, 5, 6], vec![2, 4]));
    assert_eq!(fire(&mut arm(), DataChanged, "/q/p"), (vec![0, 3, 5, 6], vec![]));
    assert_eq!(fire(&mut arm(), Deleted, "/q/p"), (vec![0, 1, 3, 5, 6], vec![2, 4]));
    assert_eq!(fire(&mut arm(), Created, "/q/p/below"), (vec![5, 6], vec![1, 3]));
    assert_eq!(fire(&mut arm(), Created, "/qq"), (vec![6], vec![]));
}

#[test]
fn a_one_shot_watch_fires_once_and_the_others_stay() {
    let mut w = Watches::new(100);
    for mode in [WatcherMode::Data, WatcherMode::Child, WatcherMode::Persistent, WatcherMode::Recursive] {
        w.add(3, "/a", mode).unwrap();
        w.add(3, "/a", mode).unwrap();
    }
    assert_eq!((w.armed(), w.paths(), w.watching()), (4, 1, 1));
    assert_eq!(fire(&mut w, Deleted, "/a"), (vec![3], vec![]));
    assert_eq!(w.armed(), 2);
    assert_eq!(fire(&mut w, Created, "/a"), (vec![3], vec![]));
    assert!(
        !w.has(3, "/a", WatcherFilter::Data)
            && w.has(3, "/a", WatcherFilter::Persistent)
            && w.has(3, "/a", WatcherFilter::Any)
    );
    assert!(!w.remove(3, "/a", WatcherFilter::Children));
    assert!(w.remove(3, "/a", WatcherFilter::Any));
    assert!(w.is_empty());
    assert_eq!((w.armed(), w.paths(), w.watching()), (0, 0, 0));
}

#[test]
fn recursive_watches_on_two_levels_give_one_event() {
    let mut w = Watches::new(100);
    w.add(1, "/", WatcherMode::Recursive).unwrap();
    w.add(1, "/a", WatcherMode::Recursive).unwrap();
    w.add(1, "/a/b", WatcherMode::Data).unwrap();
    w.add(1, "/a", WatcherMode::Child).unwrap();
    assert_eq!(fire(&mut w, Created, "/a/b"), (vec![1], vec![1]));
}

#[test]
fn a_connection_at_its_bound_may_still_change_modes_of_what_it_has() {
    let mut w = Watches::new(2);
    w.add(1, "/a", WatcherMode::Data).unwrap();
    w.add(1, "/b", WatcherMode::Data).unwrap();
    assert_eq!(w.add(1, "/c", WatcherMode::Data), Err(WatchesFull { max: 2 }));
    w.add(1, "/a", WatcherMode::Child).unwrap();
    assert!(!w.has(1, "/c", WatcherFilter::Any));
    assert_eq!(w.paths(), 2);
}

#[test]
fn parents_are_named_as_events_name_them() {
    for (path, expected) in [("/", None), ("/a", Some("/")), ("/a/b", Some("/a")), ("", None), ("x", None)] {
        assert_eq!(parent(path), expected);
    }
}

const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/a/b/c", "/ab", ""];
const MODES: [WatcherMode; 4] =
    [WatcherMode::Data, WatcherMode::Child, WatcherMode::Persistent, WatcherMode::Recursive];
const KINDS: [WatcherFilter; 5] = [
    WatcherFilter::Children,
    WatcherFilter::Data,
    WatcherFilter::Any,
    WatcherFilter::Persistent,
    WatcherFilter::Recursive,
];

#[derive(Debug, Clone)]
enum Step {
    Add(u32, usize, usize),
    Remove(u32, usize, usize),
    Close(u32),
    Fire(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u32, 0..PATHS.len(), 0..4usize).prop_map(|(c, p, m)| Step::Add(c, p, m)),
        1 => (0..4u32, 0..PATHS.len(), 0..5usize).prop_map(|(c, p, k)| Step::Remove(c, p, k)),
        1 => (0..4u32).prop_map(Step::Close),
        3 => (0..3usize, 0..4usize).prop_map(|(k, p)| Step::Fire(k, p)),
    ]
}

/// The model: a map from (connection, path) to modes, searched completely at each step.
type Model = BTreeMap<(u32, &'static str), BTreeSet<u8>>;

fn model_fire(model: &mut Model, kind: ChangeKind, path: &'static str) -> (Vec<u32>, Vec<u32>) {
    let (mut own, mut above) = (BTreeSet::new(), BTreeSet::new());
    let bit = |m: WatcherMode| m as u8;
    for ((c, watched), modes) in model.iter_mut() {
        let has = |m: WatcherMode| modes.contains(&bit(m));
        let below = *watched == path
            || *watched == "/" && path.starts_with('/')
            || watched.len() > 1 && path.starts_with(&format!("{watched}/"));
        let data = *watched == path && (has(WatcherMode::Data) || has(WatcherMode::Persistent));
        let child_of_deleted = *watched == path && kind == Deleted && has(WatcherMode::Child);
        if data || child_of_deleted || below && has(WatcherMode::Recursive) {
            own.insert(*c);
        }
        let told = kind != DataChanged && parent(path) == Some(watched);
        if told && (has(WatcherMode::Child) || has(WatcherMode::Persistent)) {
            above.insert(*c);
        }
        if *watched == path {
            modes.remove(&bit(WatcherMode::Data));
        }
        if child_of_deleted || told {
            modes.remove(&bit(WatcherMode::Child));
        }
    }
    model.retain(|_, modes| !modes.is_empty());
    (own.into_iter().collect(), above.into_iter().collect())
}

proptest! {
    #[test]
    fn the_tables_agree_with_a_model_that_searches_everything(steps in proptest::collection::vec(step(), 1..120)) {
        let mut watches = Watches::new(100);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Add(c, p, m) => {
                    watches.add(c, PATHS[p], MODES[m]).unwrap();
                    model.entry((c, PATHS[p])).or_default().insert(MODES[m] as u8);
                }
                Step::Remove(c, p, k) => {
                    let removed = watches.remove(c, PATHS[p], KINDS[k]);
                    let modes = model.entry((c, PATHS[p])).or_default();
                    let before = modes.len();
                    modes.retain(|m| KINDS[k].bits() & (1 << m) == 0);
                    prop_assert_eq!(removed, modes.len() < before);
                    model.retain(|_, modes| !modes.is_empty());
                }
                Step::Close(c) => {
                    watches.drop_connection(c);
                    model.retain(|(conn, _), _| *conn != c);
                }
                Step::Fire(k, p) => {
                    let kind = [Created, DataChanged, Deleted][k];
                    prop_assert_eq!(fire(&mut watches, kind, PATHS[p]), model_fire(&mut model, kind, PATHS[p]));
                }
            }
            prop_assert_eq!(watches.armed(), model.values().map(BTreeSet::len).sum::<usize>());
            prop_assert_eq!(watches.paths(), model.keys().map(|(_, p)| p).collect::<BTreeSet<_>>().len());
            prop_assert_eq!(watches.watching(), model.keys().map(|(c, _)| c).collect::<BTreeSet<_>>().len());
        }
    }
}
