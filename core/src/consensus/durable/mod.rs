//! The way into the log and out of it.
//!
//! Owns the journal of records that must become durable, the fetcher of old entries, and the disk reports of
//! all nodes. Never waits for a disk. Correct because the log reports in order what is durable, and because a
//! full disk refuses entries before Raft counts them.

pub(super) mod disk_space;
pub(super) mod entry_fetcher;
pub(super) mod journal;
