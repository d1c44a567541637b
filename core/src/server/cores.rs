//! Placement of threads on cores. Uses only the cores that the process inherited (cgroup, `taskset`). With
//! one usable core everything shares one thread; more shards than cores share cores in turn.

#![forbid(unsafe_code)]

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Most shards that `--shards` accepts: every shard reads every commit.
pub const SHARDS_MAX: usize = 256;

/// A core number for each thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Core of the consensus core; `None`: it shares the thread of the first shard.
    pub consensus: Option<usize>,
    /// Core of each shard.
    pub shards: Vec<usize>,
}

/// The cores of the inherited affinity mask, ascending.
pub fn usable() -> io::Result<Vec<usize>> {
    let mask = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect())
}

/// Assigns the first core to consensus and one shard to each other core, or `shards` of them in turn.
pub fn place(cores: &[usize], shards: Option<usize>) -> Placement {
    let (Some(first), rest) = (cores.first().copied(), cores.get(1..).unwrap_or(&[])) else {
        return Placement { consensus: None, shards: vec![0] };
    };
    if rest.is_empty() && shards.unwrap_or(1) <= 1 {
        return Placement { consensus: None, shards: vec![first] };
    }
    let pool = if rest.is_empty() { cores } else { rest };
    let count = shards.unwrap_or(pool.len()).clamp(1, SHARDS_MAX);
    Placement { consensus: Some(first), shards: pool.iter().copied().cycle().take(count).collect() }
}

pub fn pin(core: usize) -> io::Result<()> {
    let mut mask = CpuSet::new();
    mask.set(core);
    Ok(sched_setaffinity(None, &mask)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_shared() {
        assert_eq!(place(&[3], None), Placement { consensus: None, shards: vec![3] });
        assert_eq!(place(&[3], Some(1)), Placement { consensus: None, shards: vec![3] });
    }

    #[test]
    fn further_cores_get_a_shard_each() {
        assert_eq!(place(&[0, 2, 5], None), Placement { consensus: Some(0), shards: vec![2, 5] });
    }

    #[test]
    fn asked_for_shards_share_cores_in_turn() {
        assert_eq!(place(&[0, 1], Some(3)), Placement { consensus: Some(0), shards: vec![1, 1, 1] });
        assert_eq!(place(&[4], Some(2)), Placement { consensus: Some(4), shards: vec![4, 4] });
    }

    #[test]
    fn the_inherited_mask_is_not_empty() {
        assert!(!usable().unwrap().is_empty());
    }
}
