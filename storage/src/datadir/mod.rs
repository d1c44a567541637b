//! The data directory: its lock, the identity of the node, and the count of its openings.
//!
//! Owns the lock against a second process, and the files `meta` and `bootstrap`.
//! Never touches what is in `log/` and `snapshots/`; only asks whether they are empty.
//! Correct across crashes because `meta` is replaced atomically and checksummed, and the new incarnation
//! is durable before [`DataDir::open`] returns. So no two openings number their commands with the same
//! incarnation. A directory with data and without a readable `meta` is refused: a new identity over old
//! data would be a voter that forgot its votes. A directory that was used under another node number is
//! refused too: it holds another voter's votes.
//!
//! ```text
//! DIR/lock         locked with flock; holds the process id of the holder
//! DIR/meta         see the module `meta`
//! DIR/bootstrap    see the module `bootstrap`
//! DIR/log/         see docs/formats/log.md
//! DIR/snapshots/   see docs/formats/snapshot.md
//! ```

#![forbid(unsafe_code)]

mod bootstrap;
mod meta;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use self::meta::Meta;
use crate::disk::{Disk, LockError, LockGuard, RealDisk, replace_file};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// The directory is locked by another process.
    #[error("the data directory {} is in use by process {pid}; stop that process or choose another directory", dir.display())]
    Locked {
        dir: PathBuf,
        /// Process id of the lock's holder, `unknown` if the holder has not written it yet.
        pid: String,
    },
    /// `meta` or `bootstrap` differs from what was written.
    #[error("{} is damaged ({what}); restore it from a backup, or remove the whole data directory and let the node join as new", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    /// The directory has data and no `meta`.
    #[error("{} is missing although {} holds files; restore it, or remove the whole data directory and let the node join as new", path.display(), data.display())]
    Missing {
        path: PathBuf,
        /// Directory that is not empty.
        data: PathBuf,
    },
    /// Written by a version with another format.
    #[error("{} has format version {found}; this build reads version {supported}: start the version of Paddock that wrote it", path.display())]
    UnsupportedVersion { path: PathBuf, found: u32, supported: u32 },
    /// The directory was used under another node number.
    #[error(
        "the data directory {} is that of server {recorded}, and this is to be server {wanted}. If directories were exchanged or \
         myid was changed, put that right; if it was copied, empty it (but for myid): the server is fed when it joins. What one server \
         has promised cannot be kept by another (a standalone server is number 1 unless its file has a server line)",
        dir.display()
    )]
    OtherNode {
        dir: PathBuf,
        /// Node number to which the directory belongs.
        recorded: u8,
        /// Node number of this process.
        wanted: u8,
    },
    /// An operation of the file system failed.
    #[error("data directory: {}: {source}{}", path.display(), advice(source))]
    Io { path: PathBuf, source: io::Error },
}

/// A locked data directory. Dropping it releases the lock.
pub struct DataDir {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// Content of the file `meta`.
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
    /// Creates `dir` if needed, locks it and starts its next incarnation.
    ///
    /// `new_identity` is 16 random bytes, used only if the directory has no identity yet.
    pub fn open(dir: &Path, new_identity: [u8; 16]) -> Result<DataDir, DataDirError> {
        DataDir::open_on(Arc::new(RealDisk), dir, new_identity)
    }

    /// Like [`DataDir::open`], on `disk`.
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

        let path = dir.join(meta::NAME);
        let found = meta::read(&*disk, &path)?;
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
        replace_file(&*disk, dir, meta::NAME, &meta.encode()).map_err(io(&path))?;
        Ok(DataDir { dir: dir.to_owned(), disk, meta, created, _lock: lock })
    }

    /// Returns an error if the directory belongs to another node than `wanted`.
    pub fn check_node(&self, wanted: u8) -> Result<(), DataDirError> {
        match self.meta.node {
            recorded if recorded != 0 && recorded != wanted => Err(self.other_node(recorded, wanted)),
            _ => Ok(()),
        }
    }

    /// Error for a directory that belongs to `recorded` and not to `wanted`.
    pub fn other_node(&self, recorded: u8, wanted: u8) -> DataDirError {
        DataDirError::OtherNode { dir: self.dir.clone(), recorded, wanted }
    }

    /// Records, durably, that the directory belongs to `node`.
    pub fn claim(&mut self, node: u8) -> Result<(), DataDirError> {
        self.check_node(node)?;
        if self.meta.node == node {
            return Ok(());
        }
        self.record(Meta { node, ..self.meta })
    }

    /// Upper bound of the blocks of session ids that this directory has allocated; 0 if never recorded.
    pub fn ids_end(&self) -> u64 {
        self.meta.ids_end
    }

    /// Raises the bound of [`DataDir::ids_end`] to `end`, durably. Never lowers it.
    pub fn allow_ids(&mut self, end: u64) -> Result<(), DataDirError> {
        let ids_end = end.min(meta::IDS_LIMIT - 1);
        if ids_end <= self.meta.ids_end {
            return Ok(());
        }
        self.record(Meta { ids_end, ..self.meta })
    }

    fn record(&mut self, meta: Meta) -> Result<(), DataDirError> {
        replace_file(&*self.disk, &self.dir, meta::NAME, &meta.encode())
            .map_err(|source| DataDirError::Io { path: self.dir.join(meta::NAME), source })?;
        self.meta = meta;
        Ok(())
    }

    /// Random bytes that identify the directory for its whole life.
    pub fn identity(&self) -> [u8; 16] {
        self.meta.identity
    }

    /// Number of openings of the directory, this one included. Durable.
    pub fn incarnation(&self) -> u64 {
        self.meta.incarnation
    }

    /// Whether this opening created the identity.
    pub fn created(&self) -> bool {
        self.created
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// Whether the log's directory has a file.
    pub fn has_log(&self) -> Result<bool, DataDirError> {
        let log = self.log_dir();
        let names = self.disk.list(&log).map_err(|source| DataDirError::Io { path: log, source })?;
        Ok(!names.is_empty())
    }

    /// Content of the bootstrap file, if there is one.
    pub fn bootstrap(&self) -> Result<Option<Vec<u8>>, DataDirError> {
        bootstrap::read(&*self.disk, &self.dir)
    }

    /// Writes the bootstrap file, durably. To be called before there is a log.
    pub fn write_bootstrap(&self, what: &[u8]) -> Result<(), DataDirError> {
        bootstrap::write(&*self.disk, &self.dir, what)
    }

    /// Directory of the log's segments.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Directory of the snapshots.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.dir.join("snapshots")
    }
}

/// Advice to the operator for an error of the file system; empty if the error needs none.
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
        // Like a directory from before node numbers were recorded.
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
        // As in a directory from before the bound was recorded: its bytes were zero.
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
        assert_eq!(DataDir::open(root.path(), [8; 16]).unwrap().ids_end(), meta::IDS_LIMIT - 1);
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
    fn lost_meta_over_old_data_is_not_a_new_node() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), [1; 16]).unwrap();
        std::fs::write(dir.log_dir().join("segment"), b"x").unwrap();
        drop(dir);
        std::fs::remove_file(root.path().join("meta")).unwrap();
        assert!(matches!(DataDir::open(root.path(), [1; 16]).unwrap_err(), DataDirError::Missing { .. }));
    }

    /// With a repeated incarnation a node could give two commands the same number.
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
