//! A data directory that was restored to an earlier state of itself, as from a snapshot of a virtual
//! machine's disk.

use super::place::*;
use paddock_storage::Disk;
use paddock_storage::fault::FaultDisk;
use std::sync::Arc;

fn session(n: i64) -> i64 {
    3 << 56 | n
}

/// A new disk with the present contents of `disk`.
fn copy(disk: &FaultDisk) -> Arc<FaultDisk> {
    let copy = FaultDisk::new();
    for path in disk.paths() {
        copy.create_dir(path.parent().unwrap()).unwrap();
        let file = copy.create(&path).unwrap();
        file.write_at(&disk.contents(&path).unwrap(), 0).unwrap();
        file.sync_all().unwrap();
        copy.sync_dir(path.parent().unwrap()).unwrap();
    }
    Arc::new(copy)
}

/// Three nodes, of which node 3 has a restored copy of its directory. Since the copy was made, node 3 has
/// been started `starts` times and has ordered an entry in each run.
fn put_back(starts: i64) -> Place {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    place.open_session(3, session(1));
    place.kill(&[3]);
    let older = copy(&place.slot(3).disk);
    for n in 0..starts {
        place.start(&[3]);
        place.open_session(3, session(10 + n));
        place.kill(&[3]);
    }
    let applied = |place: &Place, node: u8| place.core(node).applier.index;
    place.until("both others have it all", |place| {
        place.led(&[1, 2])
            && [1, 2].iter().all(|node| applied(place, *node) == place.core(*node).raft.last_index())
    });
    place.slot(3).disk = older.clone();
    place.slot(3).config.disk = older;
    place
}

#[test]
fn a_node_on_an_older_copy_of_its_directory_counts_for_nothing_and_is_told_until_it_is_emptied() {
    let mut place = put_back(2);
    place.start(&[3]);
    place.until("the node hears that a later start of it is known", |place| {
        place.core(3).links.copied_from == Some(3)
    });
    place.pass(LONG_NS);
    assert!([1, 2].iter().all(|node| place.core(*node).is_old_copy(3) && !place.core(*node).admits(3)));
    let behind = |place: &Place| place.core(3).applier.index < place.core(1).applier.index;
    assert!(behind(&place), "it is fed nothing, and acknowledges nothing");
    // The vote of node 3 does not count: without the other node there is no majority.
    let gone = if place.core(1).raft.leader() == 2 { 2 } else { 1 };
    place.kill(&[gone]);
    place.pass(LONG_NS);
    assert!(!place.led(&[3 - gone, 3]));
    place.start(&[gone]);
    place.until("the two lead again", |place| place.led(&[1, 2]));
    // The advice of the log line helps.
    place.kill(&[3]);
    place.slot(3).new_disk();
    place.start(&[3]);
    let identity = place.slot(3).config.new_identity;
    place.until("it is fed anew, and votes again", |place| {
        let knows = |on: &u8| place.core(*on).applier.machine.membership().recorded(3) == Some(&identity);
        [1, 2, 3].iter().all(|on| knows(on) && place.core(*on).raft.membership().voters == [1, 2, 3])
    });
    assert!(!behind(&place) && place.core(3).links.copied_from.is_none());
    place.open_session(3, session(20));
}

#[test]
fn a_restart_is_no_copy() {
    let mut place = put_back(0);
    for n in 0..3 {
        place.start(&[3]);
        place.open_session(3, session(30 + n));
        assert_eq!(place.core(3).links.copied_from, None);
        assert!([1, 2].iter().all(|node| !place.core(*node).is_old_copy(3)));
        place.kill(&[3]);
    }
}
