//! The tree's tests, a file per hazard.

mod children;
mod model;
mod oracle;
mod rules;

use crate::acl::{AclList, AclRef};
use std::sync::Arc;

/// An ACL identified by its permission bits.
fn acl(perms: i32) -> AclRef {
    Arc::new(AclList::world(perms))
}

/// Splitmix64: a stream of numbers from a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
