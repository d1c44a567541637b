//! Hash of a path, under a seed of this process.
//!
//! Owns the seed.
//!
//! Never lets a hash leave the tree: clients choose paths, and a client that knows the seed can crowd them
//! into one page. Nothing outside depends on the hash: names are sorted, checkpoints walk by name.
#![forbid(unsafe_code)]

use foldhash::quality::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Hashes paths under one random seed.
#[derive(Clone)]
pub(super) struct PathHasher {
    state: RandomState,
    /// Bits of the hash that are used: all, except where a test makes hashes collide.
    #[cfg(test)]
    mask: u64,
}

impl PathHasher {
    pub(super) fn new() -> PathHasher {
        PathHasher {
            state: RandomState::default(),
            #[cfg(test)]
            mask: u64::MAX,
        }
    }
    /// A hasher whose hashes differ only in the bits of `mask`.
    #[cfg(test)]
    pub(super) fn weak(mask: u64) -> PathHasher {
        PathHasher { mask, ..PathHasher::new() }
    }
    #[inline(always)]
    pub(super) fn hash(&self, path: &str) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(path.as_bytes());
        let hash = hasher.finish();
        #[cfg(test)]
        let hash = hash & self.mask;
        hash
    }
}
