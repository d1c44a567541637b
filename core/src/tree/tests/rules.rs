//! Hazard: a reader breaks the rules of pins, or memory is kept that nothing can see.

use super::acl;
use crate::tree::reclaim::FREED_AT_ONCE;
use crate::tree::{NewNode, PublishedVersion, Writer, tree};

fn set(writer: &mut Writer, zxid: i64) -> PublishedVersion {
    writer.set_data("/zookeeper", Some(&zxid.to_be_bytes()), zxid, zxid).expect("it is there");
    let published = writer.publish();
    writer.reclaim();
    published
}

#[test]
fn a_fresh_tree_is_zookeepers() {
    let (writer, readers) = tree(1);
    assert_eq!(writer.node_count(), 5);
    assert_eq!(writer.approximate_data_bytes(), 44);
    assert_eq!(writer.ephemeral_count(), 0);
    let root = readers[0].get("").expect("the root");
    assert_eq!((root.path(), root.stat().cversion, root.stat().num_children), ("/", 0, 1));
    assert!(readers[0].get("/zookeeper").expect("reserved").children().eq(["config", "quota"]));
    let config = readers[0].get("/zookeeper/config").expect("reserved");
    assert_eq!((config.stat().aversion, config.acl().entries[0].perms), (-1, 1));
}

#[test]
fn memory_is_kept_for_the_slowest_reader_and_no_longer() {
    let (mut writer, mut readers) = tree(2);
    let mut last = set(&mut writer, 1);
    assert!(writer.retired_bytes() > 0, "both readers pin the first version");
    readers[0].move_to(&last);
    readers[1].park();
    writer.reclaim();
    assert_eq!(writer.retired_bytes(), 0);
    for zxid in 2..50 {
        last = set(&mut writer, zxid);
        readers[0].move_to(&last);
    }
    writer.reclaim();
    assert_eq!(writer.retired_bytes(), 0, "a parked reader pins nothing");
    readers[1].unpark();
    let newest = set(&mut writer, 50);
    assert!(writer.retired_bytes() > 0, "a reader that wakes may pin any version from the floor up");
    readers[1].move_to(&last);
    assert_eq!(readers[1].get("/zookeeper").expect("reserved").data(), Some(&49i64.to_be_bytes()[..]));
    for reader in &mut readers {
        reader.move_to(&newest);
    }
    writer.reclaim();
    assert_eq!(writer.retired_bytes(), 0);
    drop(readers);
    set(&mut writer, 51);
    assert_eq!(writer.retired_bytes(), 0, "a dropped reader pins nothing");
}

#[test]
fn a_hold_keeps_its_version_and_not_those_after() {
    let (mut writer, mut readers) = tree(1);
    readers[0].park();
    set(&mut writer, 1);
    let held = writer.hold();
    set(&mut writer, 2);
    let one_copy = writer.retired_bytes();
    assert!(one_copy > 0);
    for zxid in 3..100 {
        set(&mut writer, zxid);
    }
    assert_eq!(writer.retired_bytes(), one_copy, "what was born after the hold and retired since is free");
    assert_eq!(held.get("/zookeeper").expect("reserved").data(), Some(&1i64.to_be_bytes()[..]));
    drop(held);
    writer.reclaim();
    assert_eq!(writer.retired_bytes(), 0);
}

#[test]
fn the_end_of_a_hold_does_not_stop_the_writer() {
    let (mut writer, mut readers) = tree(1);
    readers[0].park();
    let znodes = 3 * FREED_AT_ONCE;
    for n in 0..znodes {
        let path = format!("/{n}");
        let data = Some(&b"x"[..]);
        let new = NewNode { path: &path, data, acl: acl(31), ephemeral_owner: 0, zxid: 1, time_ms: 0 };
        writer.create(&new).expect("it is new");
    }
    writer.publish();
    writer.reclaim();
    let held = writer.hold();
    for n in 0..znodes {
        writer.set_data(&format!("/{n}"), Some(b"y"), 2, 0).expect("it is there");
    }
    writer.publish();
    writer.reclaim();
    while writer.has_more_to_reclaim() {
        writer.reclaim();
    }
    assert!(writer.retired_bytes() > 0);
    drop(held);
    writer.reclaim();
    assert!(writer.has_more_to_reclaim(), "freed all at once");
    assert_eq!(writer.retired_bytes(), 0, "no reader and no hold sees it");
    let mut calls = 1;
    while writer.has_more_to_reclaim() {
        writer.reclaim();
        calls += 1;
    }
    assert!((3..=5).contains(&calls), "{calls} calls");
}

#[test]
fn readers_and_holds_outlive_the_writer() {
    let (mut writer, mut readers) = tree(1);
    let published = set(&mut writer, 1);
    readers[0].move_to(&published);
    let held = writer.hold();
    writer.set_data("/zookeeper", None, 2, 2).expect("it is there");
    writer.savepoint();
    writer.set_data("/zookeeper", Some(b"x"), 3, 3).expect("it is there");
    drop(writer);
    assert_eq!(readers[0].get("/zookeeper").expect("reserved").data(), Some(&1i64.to_be_bytes()[..]));
    drop(readers);
    assert_eq!(held.iter().count(), 4);
}

#[test]
fn a_long_multi_frees_its_intermediate_copies_when_released() {
    let (mut writer, mut readers) = tree(1);
    readers[0].park();
    writer.savepoint();
    for zxid in 0..100 {
        writer.set_data("/zookeeper", Some(&vec![0; zxid]), zxid as i64, 0).expect("it is there");
    }
    writer.release();
    let after_release = writer.retired_bytes();
    writer.publish();
    writer.reclaim();
    assert_eq!(writer.retired_bytes(), 0);
    assert!(after_release < 16 * 1024, "{after_release} bytes: one copy of what was published, no more");
}

#[test]
#[should_panic(expected = "never goes back")]
fn a_reader_does_not_go_back() {
    let (mut writer, mut readers) = tree(1);
    let first = set(&mut writer, 1);
    let second = set(&mut writer, 2);
    readers[0].move_to(&second);
    readers[0].move_to(&first);
}

#[test]
#[should_panic(expected = "never goes back")]
fn a_reader_that_wakes_does_not_go_below_the_floor() {
    let (mut writer, mut readers) = tree(1);
    let first = set(&mut writer, 1);
    readers[0].park();
    set(&mut writer, 2);
    readers[0].unpark();
    readers[0].move_to(&first);
}

#[test]
#[should_panic(expected = "a parked reader does not read")]
fn a_parked_reader_does_not_read() {
    let (_writer, mut readers) = tree(1);
    readers[0].park();
    readers[0].unpark();
    readers[0].get("/");
}

#[test]
#[should_panic(expected = "another tree")]
fn a_version_of_another_tree_is_refused() {
    let (mut writer, _readers) = tree(1);
    let (_writer, mut readers) = tree(1);
    let published = set(&mut writer, 1);
    readers[0].move_to(&published);
}

/// Debug builds detect a reader that claims to have moved, so that its version is freed, and then reads in
/// the old one.
#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "read of a stale version")]
fn a_reader_that_breaks_the_rule_is_caught() {
    let (mut writer, mut readers) = tree(1);
    for zxid in 1..4 {
        let published = set(&mut writer, zxid);
        readers[0].claim(published.number());
    }
    writer.reclaim();
    readers[0].get("/zookeeper");
}

#[test]
fn versions_wrap() {
    let (mut writer, _readers) = tree(0);
    for (before, after) in [(0, 1), (i32::MAX, i32::MIN), (-2, -1), (-1, 0)] {
        writer.set_version("/zookeeper", before).expect("it is there");
        writer.set_data("/zookeeper", None, 1, 1).expect("it is there");
        assert_eq!(writer.get("/zookeeper").expect("reserved").stat().version, after);
    }
}

/// A thousand savepoints in one version, each rolled back: nothing leaks into the version or is freed
/// twice.
#[test]
fn rolled_back_creations_leave_nothing() {
    let (mut writer, mut readers) = tree(1);
    for zxid in 0..1_000 {
        writer.savepoint();
        for name in ["/a", "/a/b", "/a/c"] {
            let new = NewNode {
                path: name,
                data: Some(&[1; 20_000]),
                acl: acl(31),
                ephemeral_owner: 7,
                zxid,
                time_ms: 0,
            };
            writer.create(&new).expect("new each time");
        }
        writer.delete("/a/b", zxid).expect("just created");
        writer.rollback();
    }
    assert_eq!((writer.node_count(), writer.ephemeral_count(), writer.retired_bytes()), (5, 0, 0));
    let published = writer.publish();
    readers[0].move_to(&published);
    assert!(readers[0].get("/a").is_none());
}
