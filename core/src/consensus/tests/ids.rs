//! No session id is used twice, however the run before ended.

use super::rig::*;
use crate::session::{IdBlocks, id_of};
use crate::shard::{CountedIds, SessionIds};
use paddock_storage::DataDir;
use paddock_storage::fault::FaultDisk;
use std::path::Path;
use std::sync::Arc;

fn start(disk: &Arc<FaultDisk>, drawn: u64) -> Node {
    let mut config = config(1);
    config.seed = drawn;
    Node::start_with(disk, config).unwrap()
}

fn ids(blocks: &Arc<IdBlocks>) -> impl FnMut() -> Option<i64> + use<> {
    let mut ids = CountedIds::new(blocks.clone(), || [0; 16]);
    move || ids.next().map(|(id, _)| id)
}

#[test]
fn no_start_gives_a_session_id_of_an_earlier_one() {
    let disk = disk();
    let mut last = 0;
    for (life, drawn) in (0..).zip([7, 7, 0, u64::MAX, 1 << 40, 3]) {
        let mut node = start(&disk, drawn);
        let mut shards = [ids(&node.parts.ids), ids(&node.parts.ids)];
        let mut given: Vec<i64> =
            shards.iter_mut().flat_map(|ids| [ids().unwrap(), ids().unwrap()]).collect();
        // All further blocks that are recorded.
        while let Some(block) = node.parts.ids.take() {
            given.push(id_of(1, block, 1));
        }
        node.settle();
        given.push(id_of(1, node.parts.ids.take().expect("more were recorded"), 1));
        assert!(given.iter().all(|id| *id > last), "start {life}: {given:x?} after {last:x}");
        last = *given.iter().max().unwrap();
        disk.power_cut(life);
    }
}

#[test]
fn a_directory_from_before_ends_were_recorded_goes_on_above_all_its_ids() {
    let disk = disk();
    drop(DataDir::open_on(disk.clone(), Path::new("/data"), [7; 16]).unwrap());
    // The former format of ids: node, 36 bits of the wall clock, shard, count.
    let before = 1 << 56 | (1_795_294_653_846 & ((1 << 36) - 1)) << 20 | 255 << 12 | 4095;
    assert!(ids(&start(&disk, 0).parts.ids)().unwrap() > before);
}
