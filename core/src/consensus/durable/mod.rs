//! The way into the log and out of it.
//!
//! Owns the journal of what must become durable, the reader of old entries, and what is known of free space on the disks of all nodes.
//! Never waits for a disk. Correct because the log tells in order what is durable, and because a full disk refuses entries before
//! Raft counts them.

pub(super) mod disk_space;
pub(super) mod entry_fetcher;
pub(super) mod journal;
