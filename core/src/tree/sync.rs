//! The atomics of the reclamation protocol: the standard library's, or loom's when its model checker runs
//! (`RUSTFLAGS="--cfg paddock_loom"`).
#![forbid(unsafe_code)]

#[cfg(paddock_loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(paddock_loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
