//! The data directory: who may use it, whose it is, and how often it has been opened.
//!
//! Owns the lock against a second process and the `meta` file (identity, incarnation, node number, end of the session ids
//! given out). Never touches what
//! lies in `log/` and `snapshots/` beyond asking whether anything is there. It stays correct across crashes because `meta` is replaced
//! atomically and checksummed, and because the new incarnation is durable before [`DataDir::open`] returns: no two lives of a
//! node number their commands with the same incarnation. A directory that holds data but no readable `meta` is refused:
//! a new identity over old data would be a voter that forgot. So is one that was used under another node number: it is
//! another voter's memory.
//!
//! ```text
//! DIR/lock         flock'ed; holds the pid of the holder
//! DIR/meta         0  8 magic "PADMETA\n" | 8 4 version | 12 4 crc32c of all (this field 0) | 16 16 identity | 32 8 incarnation | 40 1 node number, 0 = none | 41 7 end of the session ids' blocks, 0 = not recorded
//! DIR/bootstrap    0  8 magic "PADBOOT\n" | 8 4 version | 12 4 crc32c of all (this field 0) | 16 .. the owner's bytes; written once, before there is a log
//! DIR/log/         see docs/formats/log.md
//! DIR/snapshots/   see docs/formats/snapshot.md
//! ```

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::disk::{Disk, LockError, LockGuard, RealDisk, read_full, replace_file};
use crate::{crc32c, field};

const META_MAGIC: [u8; 8] = *b"PADMETA\n";
/// Version of `meta` that this build reads and writes.
const META_VERSION: u32 = 1;
/// Magic, version, checksum, identity, incarnation, node number, and the end of the ids in seven bytes, which were zero before
/// they meant something.
const META_BYTES: usize = 48;
/// Where the end of the ids stands in `meta`, and what does not fit there.
const META_IDS_AT: usize = 41;
const META_IDS_LIMIT: u64 = 1 << 56;
const META_NAME: &str = "meta";
const BOOTSTRAP_MAGIC: [u8; 8] = *b"PADBOOT\n";
/// Version of `bootstrap` that this build reads and writes.
const BOOTSTRAP_VERSION: u32 = 1;
/// Magic, version, checksum.
const BOOTSTRAP_HEADER_BYTES: usize = 16;
/// Largest `bootstrap`: the memberships of 254 nodes are a few KiB.
const BOOTSTRAP_BYTES_MAX: u64 = 1 << 20;
const BOOTSTRAP_NAME: &str = "bootstrap";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process works in it.
    #[error("the data directory {} is in use by process {pid}; stop that process or choose another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process that holds the lock, `unknown` if it has not written it yet.
        pid: String,
    },
    /// `meta` is not what we wrote.
    #[error("{} is damaged ({what}); restore it from a backup, or remove the whole data directory and let the node join as new", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// `meta` is gone and data is there.
    #[error("{} is missing although {} holds files; restore it, or remove the whole data directory and let the node join as new", path.display(), data.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Where the data is.
        data: PathBuf,
    },
    /// Written by a version with another format.
    #[error("{} has format version {found}; this build reads version {supported}: start the version of Paddock that wrote it", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// It was used under another node number.
    #[error(
        "the data directory {} is that of server {recorded}, and this is to be server {wanted}. If directories were exchanged or \
         myid was changed, put that right; if it was copied, empty it (but for myid): the server is fed when it joins. What one server \
         has promised cannot be kept by another (a standalone server is number 1 unless its file has a server line)",
        dir.display()
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        recorded: u8,
        /// Who wanted it.
        wanted: u8,
    },
    /// The operating system refused.
    #[error("data directory: {}: {source}{}", path.display(), advice(source))]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A locked data directory. Dropping it releases the lock.
pub struct DataDir {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// As `meta` has it.
    meta: Meta,
    created: bool,
    _lock: LockGuard,
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir")
            .field("dir", &self.dir)
            .field("incarnation", &self.meta.incarnation)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

impl DataDir {
    /// Locks `dir` (created if need be) and starts its next incarnation. `new_identity` is 16 random bytes, used only if
    /// the directory has no identity yet.
    pub fn open(dir: &Path, new_identity: [u8; 16]) -> Result<DataDir, DataDirError> {
        DataDir::open_on(Arc::new(RealDisk), dir, new_identity)
    }

    /// The same on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, new_identity: [u8; 16]) -> Result<DataDir, DataDirError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        disk.create_dir(dir).map_err(io(dir))?;
        let lock_path = dir.join("lock");
        let lock = disk.lock(&lock_path).map_err(|error| match error {
            LockError::Held { pid } => DataDirError::Locked { dir: dir.to_owned(), pid },
            LockError::Io(source) => DataDirError::Io { path: lock_path.clone(), source },
        })?;
        let log = dir.join("log");
        let snapshots = dir.join("snapshots");
        for data in [&log, &snapshots] {
            disk.create_dir(data).map_err(io(data))?;
        }

        let path = dir.join(META_NAME);
        let found = read_meta(&*disk, &path)?;
        let created = found.is_none();
        if created {
            for data in [&log, &snapshots] {
                if !disk.list(data).map_err(io(data))?.is_empty() {
                    return Err(DataDirError::Missing { path, data: data.clone() });
                }
            }
        }
        let last = found.unwrap_or(Meta { identity: new_identity, incarnation: 0, node: 0, ids_end: 0 });
        let incarnation = last
            .incarnation
            .checked_add(1)
            .ok_or_else(|| DataDirError::Damaged { path: path.clone(), what: "incarnation is at its end" })?;
        let meta = Meta { incarnation, ..last };
        replace_file(&*disk, dir, META_NAME, &meta.encode()).map_err(io(&path))?;
        Ok(DataDir { dir: dir.to_owned(), disk, meta, created, _lock: lock })
    }

    /// Refuses if the directory belongs to another node than `wanted`.
    pub fn check_node(&self, wanted: u8) -> Result<(), DataDirError> {
        match self.meta.node {
            recorded if recorded != 0 && recorded != wanted => Err(self.other_node(recorded, wanted)),
            _ => Ok(()),
        }
    }

    /// The error for a directory that belongs to `recorded` and not to `wanted`.
    pub fn other_node(&self, recorded: u8, wanted: u8) -> DataDirError {
        DataDirError::OtherNode { dir: self.dir.clone(), recorded, wanted }
    }

    /// From now on the directory belongs to `node`. Durable when it returns.
    pub fn claim(&mut self, node: u8) -> Result<(), DataDirError> {
        self.check_node(node)?;
        if self.meta.node == node {
            return Ok(());
        }
        self.record(Meta { node, ..self.meta })
    }

    /// No start of this directory has given out an id of a block at or above it; 0: that was never recorded.
    pub fn ids_end(&self) -> u64 {
        self.meta.ids_end
    }

    /// From now on blocks below `end` may be given out. Durable when it returns; never goes back.
    pub fn allow_ids(&mut self, end: u64) -> Result<(), DataDirError> {
        let ids_end = end.min(META_IDS_LIMIT - 1);
        if ids_end <= self.meta.ids_end {
            return Ok(());
        }
        self.record(Meta { ids_end, ..self.meta })
    }

    fn record(&mut self, meta: Meta) -> Result<(), DataDirError> {
        replace_file(&*self.disk, &self.dir, META_NAME, &meta.encode())
            .map_err(|source| DataDirError::Io { path: self.dir.join(META_NAME), source })?;
        self.meta = meta;
        Ok(())
    }

    /// The node's durable identity.
    pub fn identity(&self) -> [u8; 16] {
        self.meta.identity
    }

    /// How many times the directory has been opened, this time included. Durable.
    pub fn incarnation(&self) -> u64 {
        self.meta.incarnation
    }

    /// Whether this opening gave the directory its identity.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The disk it lies on.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// Whether there is anything in the log's directory.
    pub fn has_log(&self) -> Result<bool, DataDirError> {
        let log = self.log_dir();
        let names = self.disk.list(&log).map_err(|source| DataDirError::Io { path: log, source })?;
        Ok(!names.is_empty())
    }

    /// With what the node began, if that was written down.
    pub fn bootstrap(&self) -> Result<Option<Vec<u8>>, DataDirError> {
        let path = self.dir.join(BOOTSTRAP_NAME);
        let io = |source| DataDirError::Io { path: path.clone(), source };
        let damaged = |what| DataDirError::Damaged { path: path.clone(), what };
        let file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let size = file.size().map_err(io)?;
        if !(BOOTSTRAP_HEADER_BYTES as u64..=BOOTSTRAP_BYTES_MAX).contains(&size) {
            return Err(damaged("impossible size"));
        }
        let mut bytes = vec![0; size as usize];
        if read_full(&*file, &mut bytes, 0).map_err(io)? < bytes.len() {
            return Err(damaged("too short"));
        }
        if bytes[..8] != BOOTSTRAP_MAGIC {
            return Err(damaged("not a Paddock bootstrap file"));
        }
        let found = field::u32(&bytes, 8);
        if found != BOOTSTRAP_VERSION {
            let (path, supported) = (path.clone(), BOOTSTRAP_VERSION);
            return Err(DataDirError::UnsupportedVersion { path, found, supported });
        }
        let checksum = field::u32(&bytes, 12);
        field::put(&mut bytes, 12, [0; 4]);
        if checksum != crc32c(&bytes) {
            return Err(damaged("checksum does not match"));
        }
        Ok(Some(bytes.split_off(BOOTSTRAP_HEADER_BYTES)))
    }

    /// Writes down with what the node begins. Durable when it returns.
    pub fn write_bootstrap(&self, what: &[u8]) -> Result<(), DataDirError> {
        let mut bytes = vec![0; BOOTSTRAP_HEADER_BYTES];
        field::put(&mut bytes, 0, BOOTSTRAP_MAGIC);
        field::put(&mut bytes, 8, BOOTSTRAP_VERSION.to_le_bytes());
        bytes.extend_from_slice(what);
        let checksum = crc32c(&bytes);
        field::put(&mut bytes, 12, checksum.to_le_bytes());
        replace_file(&*self.disk, &self.dir, BOOTSTRAP_NAME, &bytes)
            .map_err(|source| DataDirError::Io { path: self.dir.join(BOOTSTRAP_NAME), source })
    }

    /// Where the log's segments are.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Where the snapshots are.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.dir.join("snapshots")
    }
}

/// What `meta` holds.
#[derive(Clone, Copy)]
struct Meta {
    identity: [u8; 16],
    incarnation: u64,
    /// Number of the node that it belongs to; 0: nobody's yet.
    node: u8,
    /// Blocks of session ids at or above it were never given out from here; 0: not recorded.
    ids_end: u64,
}

fn read_meta(disk: &dyn Disk, path: &Path) -> Result<Option<Meta>, DataDirError> {
    let io = |source| DataDirError::Io { path: path.to_owned(), source };
    let damaged = |what| DataDirError::Damaged { path: path.to_owned(), what };
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = [0; META_BYTES];
    let count = read_full(&*file, &mut bytes, 0).map_err(io)?;
    if count < 16 {
        return Err(damaged("too short"));
    }
    if bytes[..8] != META_MAGIC {
        return Err(damaged("not a Paddock meta file"));
    }
    // The version is looked at before the checksum: another version may have another length.
    let version = field::u32(&bytes, 8);
    if version != META_VERSION {
        return Err(DataDirError::UnsupportedVersion {
            path: path.to_owned(),
            found: version,
            supported: META_VERSION,
        });
    }
    if count < META_BYTES {
        return Err(damaged("too short"));
    }
    if field::u32(&bytes, 12) != meta_checksum(&bytes) {
        return Err(damaged("checksum does not match"));
    }
    let mut identity = [0; 16];
    identity.copy_from_slice(&bytes[16..32]);
    let mut ids_end = [0; 8];
    ids_end[..7].copy_from_slice(&bytes[META_IDS_AT..]);
    let ids_end = u64::from_le_bytes(ids_end);
    Ok(Some(Meta { identity, incarnation: field::u64(&bytes, 32), node: bytes[40], ids_end }))
}

impl Meta {
    fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        field::put(&mut bytes, 0, META_MAGIC);
        field::put(&mut bytes, 8, META_VERSION.to_le_bytes());
        field::put(&mut bytes, 16, self.identity);
        field::put(&mut bytes, 32, self.incarnation.to_le_bytes());
        bytes[40] = self.node;
        bytes[META_IDS_AT..].copy_from_slice(&self.ids_end.to_le_bytes()[..7]);
        let checksum = meta_checksum(&bytes);
        field::put(&mut bytes, 12, checksum.to_le_bytes());
        bytes
    }
}

fn meta_checksum(bytes: &[u8; META_BYTES]) -> u32 {
    let mut covered = *bytes;
    field::put(&mut covered, 12, [0; 4]);
    crc32c(&covered)
}

/// What an operator can do about an error of the file system; empty where the error says it.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    if Errno::from_io_error(error) == Some(Errno::IO) {
        return "; the disk fails: replace it, and restore the data directory from a backup or, in an ensemble, begin with an \
                empty one (but for myid)";
    }
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; a start needs room for two log segments (64 MiB each): free some, or choose another directory"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make it writable for this user, or choose another directory"
        }
        io::ErrorKind::NotFound => "; the folder above cannot be made: make it, or choose another directory",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "; a file stands where a folder should be: choose another directory"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path(), [7; 16]).unwrap();
        let error = DataDir::open(root.path(), [8; 16]).unwrap_err();
        let DataDirError::Locked { pid, .. } = &error else { panic!("{error}") };
        assert_eq!(*pid, std::process::id().to_string());
        assert!(error.to_string().contains(pid));
        drop(first);
        DataDir::open(root.path(), [8; 16]).unwrap();
    }

    #[test]
    fn identity_stays_and_incarnation_grows() {
        let root = tempfile::tempdir().unwrap();
        for expected in 1..4 {
            let dir = DataDir::open(root.path(), [expected as u8; 16]).unwrap();
            assert_eq!(
                (dir.identity(), dir.incarnation(), dir.created()),
                ([1; 16], expected, expected == 1)
            );
        }
    }

    #[test]
    fn a_directory_is_one_nodes_from_its_first_claim_on() {
        let root = tempfile::tempdir().unwrap();
        // Like those from before numbers were recorded.
        let mut dir = DataDir::open(root.path(), [7; 16]).unwrap();
        dir.check_node(3).unwrap();
        dir.claim(2).unwrap();
        dir.claim(2).unwrap();
        assert!(matches!(dir.claim(3), Err(DataDirError::OtherNode { recorded: 2, wanted: 3, .. })));
        drop(dir);
        let dir = DataDir::open(root.path(), [8; 16]).unwrap();
        assert_eq!((dir.identity(), dir.incarnation()), ([7; 16], 2));
        dir.check_node(2).unwrap();
        let refused = dir.check_node(3).unwrap_err().to_string();
        assert!(refused.contains("that of server 2") && refused.contains("myid"), "{refused}");
    }

    #[test]
    fn the_end_of_the_ids_is_kept_beside_everything_else_and_never_goes_back() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(root.path(), [7; 16]).unwrap();
        // As in a directory from before it was recorded: these bytes were zero.
        assert_eq!(dir.ids_end(), 0);
        dir.claim(2).unwrap();
        dir.allow_ids(0x0102_0304_0506).unwrap();
        dir.allow_ids(9).unwrap();
        drop(dir);
        let mut dir = DataDir::open(root.path(), [8; 16]).unwrap();
        assert_eq!((dir.identity(), dir.incarnation(), dir.ids_end()), ([7; 16], 2, 0x0102_0304_0506));
        assert!(dir.check_node(3).is_err());
        dir.allow_ids(u64::MAX).unwrap();
        drop(dir);
        assert_eq!(DataDir::open(root.path(), [8; 16]).unwrap().ids_end(), META_IDS_LIMIT - 1);
    }

    #[test]
    fn damaged_meta_is_refused_at_every_byte() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), [1; 16]).unwrap());
        let path = root.path().join("meta");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let error = DataDir::open(root.path(), [1; 16]).unwrap_err();
            let expected = if (8..12).contains(&at) {
                matches!(error, DataDirError::UnsupportedVersion { .. })
            } else {
                matches!(error, DataDirError::Damaged { .. })
            };
            assert!(expected, "byte {at}: {error}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(DataDir::open(root.path(), [1; 16]).unwrap_err(), DataDirError::Damaged { .. }));
        }
    }

    #[test]
    fn a_bootstrap_is_read_back_whole_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), [7; 16]).unwrap();
        assert_eq!(dir.bootstrap().unwrap(), None);
        dir.write_bootstrap(b"one two three").unwrap();
        assert_eq!(dir.bootstrap().unwrap().as_deref(), Some(&b"one two three"[..]));
        let path = root.path().join(BOOTSTRAP_NAME);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, bad).unwrap();
            assert!(dir.bootstrap().is_err(), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(dir.bootstrap().is_err(), "cut at {at}");
        }
    }

    #[test]
    fn lost_meta_over_old_data_is_not_a_new_node() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), [1; 16]).unwrap();
        std::fs::write(dir.log_dir().join("segment"), b"x").unwrap();
        drop(dir);
        std::fs::remove_file(root.path().join("meta")).unwrap();
        assert!(matches!(DataDir::open(root.path(), [1; 16]).unwrap_err(), DataDirError::Missing { .. }));
    }

    /// A repeated incarnation would let a node number two commands alike.
    #[test]
    fn the_power_may_go_at_any_operation_and_no_incarnation_comes_twice() {
        for at in 0..12 {
            for seed in 0..30 {
                let disk = crate::fault::FaultDisk::new();
                let dir = Path::new("/node");
                let mut last = 0;
                let mut identity = None;
                for life in 0..4 {
                    disk.break_at(disk.operations() + (at + life) % 9);
                    if let Ok(opened) = DataDir::open_on(Arc::new(disk.clone()), dir, [life as u8; 16]) {
                        assert!(opened.incarnation() > last, "operation {at} seed {seed}");
                        last = opened.incarnation();
                        assert_eq!(*identity.get_or_insert(opened.identity()), opened.identity());
                    }
                    disk.power_cut(seed + life);
                }
                let opened = DataDir::open_on(Arc::new(disk), dir, [9; 16]).unwrap();
                assert!(opened.incarnation() > last, "operation {at} seed {seed}");
            }
        }
    }
}
