//! One allocation for each distinct list. Equal lists behind different allocations would waste memory, and
//! break nothing. Bounded because each time the set has doubled it drops the lists that only the set still
//! holds: a constant cost for each list stored.
#![forbid(unsafe_code)]

use super::{AclList, AclRef};
use foldhash::fast::RandomState;
use std::collections::HashSet;
use std::sync::Arc;

/// Smaller sets, of a few KiB, are not swept.
const SWEEP_LISTS_MIN: usize = 256;

/// The distinct lists in use. Owned by the writer of the tree.
#[derive(Debug, Default)]
pub struct Interner {
    lists: HashSet<AclRef, RandomState>,
    sweep_at: usize,
}

impl Interner {
    /// The shared list equal to `list`.
    pub fn intern(&mut self, list: AclList) -> AclRef {
        if let Some(known) = self.lists.get(&list) {
            return known.clone();
        }
        if self.lists.len() >= self.sweep_at.max(SWEEP_LISTS_MIN) {
            self.lists.retain(|list| Arc::strong_count(list) > 1);
            self.sweep_at = self.lists.len() * 2;
        }
        let list = Arc::new(list);
        self.lists.insert(list.clone());
        list
    }

    /// Distinct lists held, those included that no znode uses any more.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_share_one_allocation() {
        let mut interner = Interner::default();
        let a = interner.intern(AclList::world(31));
        let b = interner.intern(AclList::world(31));
        let c = interner.intern(AclList::world(1));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c));
        assert_eq!(interner.len(), 2);
    }

    #[test]
    fn lists_that_nobody_uses_do_not_pile_up() {
        let mut interner = Interner::default();
        let kept = interner.intern(AclList::world(-1));
        for perms in 0..10_000 {
            interner.intern(AclList::world(perms));
        }
        assert!(interner.len() <= 2 * SWEEP_LISTS_MIN, "{}", interner.len());
        assert!(Arc::ptr_eq(&kept, &interner.intern(AclList::world(-1))), "a list in use is never swept");
    }
}
