//! Everything of Paddock that touches a disk: the data directory, the log, the snapshots, and their recovery.
//!
//! Owns the durable formats (`docs/formats/log.md`, `docs/formats/snapshot.md`) and the recovery after a
//! crash: what a node had promised and must still hold.
//!
//! Never knows a network, a tree or Raft: entries and snapshot blocks are opaque bytes.
//!
//! Correct because every byte that counts is covered by a checksum, and nothing is reported durable
//! before the sync that made it durable. Every file operation goes through [`disk::Disk`]. Tests replace
//! it by [`fault::FaultDisk`], which loses power, fills up and fails syncs.

pub mod datadir;
pub mod disk;
pub mod fault;
pub mod log;
mod map;
pub mod snapshot;

pub use datadir::{DataDir, DataDirError};
pub use disk::{Disk, RealDisk};
pub use log::{
    AppendError, Durable, Entry, Flushing, HardState, Log, LogOptions, LogReader, OpenError, ReadError,
    Record, Recovery, Refusal, State, Ticket,
};
pub use snapshot::{
    SnapshotError, SnapshotMeta, SnapshotReader, SnapshotReceiver, SnapshotWriter, Snapshots,
};

/// CRC-32C (Castagnoli), the checksum of every format in this crate.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Little-endian fields at fixed offsets, for headers that are read before their checksum is verified.
pub(crate) mod field {
    /// Reads four bytes at `at`. Panics if `bytes` is shorter.
    pub(crate) fn u32(bytes: &[u8], at: usize) -> u32 {
        let mut field = [0; 4];
        field.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(field)
    }

    /// Reads eight bytes at `at`. Panics if `bytes` is shorter.
    pub(crate) fn u64(bytes: &[u8], at: usize) -> u64 {
        let mut field = [0; 8];
        field.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(field)
    }

    /// Writes `value`, which the caller has made little-endian, at `at`.
    pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
        bytes[at..at + N].copy_from_slice(&value);
    }
}
