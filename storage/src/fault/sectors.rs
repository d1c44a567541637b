//! The bytes of one simulated file, live and durable, and the seeded choice of sectors that survive a
//! power cut.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::SECTOR_BYTES;

#[derive(Default)]
pub(super) struct SimulatedFile {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Numbers of the sectors that were written and not synced.
    pub(super) dirty: BTreeSet<u64>,
    /// Numbers of the unreadable sectors.
    pub(super) bad: BTreeSet<u64>,
}

impl SimulatedFile {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = offset as usize;
        self.live[start..start + bytes.len()].copy_from_slice(bytes);
        let end = offset + bytes.len() as u64;
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        self.bad.retain(|sector| !sectors.contains(sector));
        self.dirty.extend(sectors);
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    /// Makes one sector durable.
    fn keep(&mut self, sector: u64) {
        let start = (sector * SECTOR_BYTES) as usize;
        let end = (start + SECTOR_BYTES as usize).min(self.live.len()).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.live[start..end]);
        }
    }

    /// Cuts the power: `draw` chooses the unsynced sectors that survive.
    pub(super) fn cut(&mut self, draw: &mut Draw) {
        if self.live.len() > self.durable.len() && draw.below(2) == 1 {
            self.durable.resize(self.live.len(), 0);
        }
        // The odds range from none to all: with even odds a long tail would hardly ever survive whole.
        let odds = draw.below(5);
        for sector in std::mem::take(&mut self.dirty) {
            if draw.below(4) < odds {
                self.keep(sector);
            }
        }
        self.live = self.durable.clone();
    }
}

/// Random numbers of one seed (splitmix64).
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
