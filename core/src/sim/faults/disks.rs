//! Faults of disks: several fill up together, or content is damaged.
//!
//! Owns no state of its own. Never does more than a node survives by design, or refuses to start with.

use super::super::world::{SECOND, World};
use super::{FaultKind, Faults, Ongoing};
use paddock_storage::fault::SECTOR_BYTES;
use std::path::PathBuf;

/// Largest free space of disks that fill up together, in bytes. Less than a segment of the log.
const ROOM_BYTES: u64 = 40_000;

/// Time without other faults before the checkers look at reads on full disks: the bound of staleness, and
/// a restart.
const SETTLES_NS: u64 = 4 * SECOND;

impl Faults {
    /// Fills so many disks, beside other faults, that no write can commit. Space returns to all at once,
    /// or to one after the other.
    ///
    /// In every third case no other fault runs, so that the checkers can look at reads. Earlier faults end
    /// first.
    pub(super) fn fill(world: &mut World) {
        if world.rng.one_in(3) {
            let long = world.rng.range(6_000, 14_000) * 1_000_000;
            world.faults.quiet_until = world.now + SETTLES_NS + long;
            Self::begin(world, Ongoing::Settling(long), SETTLES_NS);
        } else {
            let long = world.rng.range(2_000, 14_000) * 1_000_000;
            Self::fill_now(world, long);
        }
    }

    /// Fills the disks. Returns the time at which the first of them has space again.
    pub(super) fn fill_now(world: &mut World, long: u64) -> u64 {
        let mut nodes = world.voters();
        let majority = nodes.len() / 2 + 1;
        if world.rng.one_in(2) {
            nodes = (0..world.nodes.len()).collect();
        } else {
            while nodes.len() > majority && world.rng.one_in(2) {
                let spared = world.rng.below(nodes.len() as u64) as usize;
                nodes.swap_remove(spared);
            }
        }
        let (room, alike, together) = (world.rng.below(ROOM_BYTES), world.rng.one_in(2), world.rng.one_in(2));
        let mut first = long;
        for n in nodes {
            let room = if alike { room } else { world.rng.below(ROOM_BYTES) };
            let long = if together { long } else { world.rng.range(long / 2, long * 3 / 2) };
            first = first.min(long);
            let disk = &world.nodes[n].disk;
            disk.set_capacity(Some(disk.used_bytes() + room));
            Self::begin(world, Ongoing::FullDisk(n), long);
        }
        world.now + first
    }

    /// Damages a file of a node. The node is killed first.
    pub(super) fn damage(world: &mut World, n: usize, kind: FaultKind) -> bool {
        let node = &world.nodes[n];
        let of_kind = |path: &&PathBuf| match kind {
            FaultKind::BadLog => path.starts_with("/data/log"),
            _ => path.starts_with("/data/snapshots"),
        };
        let paths = node.disk.paths();
        let mut files: Vec<&PathBuf> = paths.iter().filter(of_kind).collect();
        files.sort();
        if files.len() < 2 && kind == FaultKind::BadSnapshot || files.is_empty() {
            // Without an older snapshot and the log after it, no node could recover.
            return false;
        }
        let path = match kind {
            FaultKind::BadLog => files[0].clone(),
            _ => files[files.len() - 1].clone(),
        };
        let Some(before) = node.disk.contents(&path) else { return false };
        Self::crash(world, n, FaultKind::Kill);
        let sector = match kind {
            // The first records of the oldest segment are certainly durable.
            FaultKind::BadLog => 4096 + world.rng.below(64),
            _ => world.rng.below(before.len() as u64),
        };
        world.nodes[n].disk.corrupt(&path, |bytes| {
            let end = bytes.len().min((sector + SECTOR_BYTES / 8) as usize);
            for byte in bytes.iter_mut().take(end).skip(sector as usize) {
                *byte ^= 0x5a;
            }
        });
        world.faults.damaged.insert(n, (path, before));
        world.start_at(world.now + SECOND / 10, n);
        true
    }

    /// Handles a node that refused to start. If its disk was damaged, that is right, and the file is
    /// repaired. Otherwise it is a violation, unless the disk is full.
    pub fn refused(world: &mut World, n: usize, why: &str) {
        let full = world.faults.is_full(n);
        match world.faults.damaged.remove(&n) {
            Some((path, before)) => world.nodes[n].disk.corrupt(&path, |bytes| *bytes = before),
            None if full => {}
            None => {
                let number = world.nodes[n].setup.consensus.node;
                return world.violate("durability", format!("node {number} refuses to start: {why}"));
            }
        }
        world.nodes[n].disk.kill();
        world.start_at(world.now + SECOND / 5, n);
    }
}
