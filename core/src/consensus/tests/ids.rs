//! No session id comes twice, whatever the calendar says and whatever ended the start before.

use super::rig::*;
use crate::session::{ID_BLOCKS_UNRECORDED, IdBlocks, first_block, id_of};
use crate::shard::{CountedIds, SessionIds};
use paddock_storage::DataDir;
use paddock_storage::fault::FaultDisk;
use std::path::Path;
use std::sync::Arc;

const TODAY_MS: i64 = 1_795_294_653_846;

fn start(disk: &Arc<FaultDisk>, wall_ms: i64) -> Node {
    let mut config = config(1);
    config.wall_ms = wall_ms;
    Node::start_with(disk, config).unwrap()
}

fn ids(blocks: &Arc<IdBlocks>) -> impl FnMut() -> Option<i64> + use<> {
    let mut ids = CountedIds::new(blocks.clone(), || [0; 16]);
    move || ids.next().map(|(id, _)| id)
}

#[test]
fn a_calendar_that_was_set_back_gives_no_session_id_twice() {
    let disk = disk();
    let mut last = 0;
    let calendar = [TODAY_MS, TODAY_MS, TODAY_MS - 1, TODAY_MS - 40_000_000_000, 0, i64::MIN, TODAY_MS + 5];
    for (life, wall_ms) in (0..).zip(calendar) {
        let mut node = start(&disk, wall_ms);
        let mut shards = [ids(&node.parts.ids), ids(&node.parts.ids)];
        let mut given: Vec<i64> =
            shards.iter_mut().flat_map(|ids| [ids().unwrap(), ids().unwrap()]).collect();
        // And as many blocks more as there are.
        while let Some(block) = node.parts.ids.take() {
            given.push(id_of(1, block, 1));
        }
        node.settle();
        given.push(id_of(1, node.parts.ids.take().expect("more were recorded"), 1));
        assert!(given.iter().all(|id| *id > last), "start {life} at {wall_ms}: {given:x?} after {last:x}");
        last = *given.iter().max().unwrap();
        disk.power_cut(life);
    }
}

#[test]
fn a_directory_without_a_record_goes_on_above_the_sessions_that_it_hears_of() {
    let disk = disk();
    let mut node = start(&disk, TODAY_MS);
    let mut early = ids(&node.parts.ids);
    let first = early().unwrap();
    let before = id_of(1, first_block(TODAY_MS) + 1_000_000_000, 9);
    node.open_session(before);
    node.settle();
    let next = early().expect("recorded in the turn in which it was heard of");
    assert!(first < before && next > before, "{first:x} {before:x} {next:x}");
    node.stop();
    let node = start(&disk, TODAY_MS);
    assert!(ids(&node.parts.ids)().unwrap() > next);
}

#[test]
fn a_directory_from_before_ends_were_recorded_goes_on_above_all_its_ids() {
    let disk = disk();
    drop(DataDir::open_on(disk.clone(), Path::new("/data"), [7; 16]).unwrap());
    // The beginning of the blocks.
    let node = start(&disk, 1_500_000_000_000);
    assert_eq!(ids(&node.parts.ids)(), Some(id_of(1, ID_BLOCKS_UNRECORDED, 1)));
}
