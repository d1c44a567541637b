//! The bound on connections per client address (`maxClientCnxns`).
//!
//! Owns the count of connections of each address, over all shards of a node. A count that reaches zero is
//! removed, so the map is bounded by the open connections. The lock is held for one map operation.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts shared by the shards of one node.
#[derive(Debug)]
pub(super) struct AddressLimit {
    /// Connections allowed per address; 0: unlimited.
    per_address_max: u32,
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

impl AddressLimit {
    pub fn new(per_address_max: u32) -> Self {
        Self { per_address_max, addresses: Mutex::default() }
    }

    /// Counts a connection from `ip`. `false`: the address is at its limit, and nothing was counted.
    pub fn admit(&self, ip: IpAddr) -> bool {
        if self.per_address_max == 0 {
            return true;
        }
        let mut addresses = self.lock();
        let count = addresses.entry(ip).or_insert(0);
        if *count >= self.per_address_max {
            return false;
        }
        *count += 1;
        true
    }

    /// Uncounts an admitted connection that closed.
    pub fn leave(&self, ip: IpAddr) {
        if self.per_address_max == 0 {
            return;
        }
        let mut addresses = self.lock();
        if let Some(count) = addresses.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&ip);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        // A panic under this lock cannot leave the map half changed.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_what_it_may_have_and_gets_it_back() {
        let all = AddressLimit::new(2);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        assert!(all.admit(a) && all.admit(a) && !all.admit(a) && all.admit(b));
        all.leave(a);
        assert!(all.admit(a));
        for _ in 0..2 {
            all.leave(a);
        }
        all.leave(b);
        assert!(all.lock().is_empty(), "nothing is kept for addresses that left");
    }
}
