//! A simulated disk in memory that loses power, fills up and fails: for tests of the crate, and for the
//! simulation.
//!
//! Owns the names and the files of the disk, each in a live and a durable state. A running process sees
//! the live state; a power cut leaves the durable one. A sync of a file or directory makes its live state
//! durable. At a power cut each unsynced 512-byte sector survives or not, by the seed. Of the unsynced
//! creations, renames and removals a prefix survives, as on a journalling file system.
//! Never draws a random number of its own, so a seed replays a failure. Never lets a handle from before a
//! cut work, so a crashed log cannot go on writing.
//! Correct because a handle holds the number of crashes at its opening, and each crash increments it.

#![forbid(unsafe_code)]

mod handle;
mod sectors;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::handle::Handle;
use self::sectors::{Draw, SimulatedFile};
use crate::disk::{Disk, DiskFile, LockError, LockGuard};

/// Bytes that the disk writes atomically.
pub const SECTOR_BYTES: u64 = 512;

/// A simulated disk; clones share it.
#[derive(Clone, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    live: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not durable yet, oldest first.
    pending: Vec<Renaming>,
    files: HashMap<u64, SimulatedFile>,
    next_file: u64,
    locks: BTreeSet<PathBuf>,
    /// Number of crashes so far: handles from before the last one are dead.
    era: u64,
    capacity_bytes: Option<u64>,
    /// Number of operations so far that changed something.
    operations: u64,
    /// Number of the operation from which on all fail.
    broken_from: Option<u64>,
    /// Number of syncs that succeed before one fails.
    failing_sync: Option<u64>,
}

#[derive(Clone)]
struct Renaming {
    dir: PathBuf,
    /// Name that is removed, if any.
    from: Option<PathBuf>,
    /// Name that is created, if any, and its file.
    to: Option<(PathBuf, u64)>,
}

impl FaultDisk {
    /// An empty disk without limits.
    pub fn new() -> FaultDisk {
        FaultDisk::default()
    }

    /// Cuts the power: of the unsynced sectors and names some survive, by `seed`.
    ///
    /// All handles and locks become invalid. The faults that were set are cleared, except for the capacity.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.lock_state();
        let mut draw = Draw(seed);
        let pending = std::mem::take(&mut state.pending);
        let kept = draw.below(pending.len() as u64 + 1) as usize;
        for renaming in &pending[..kept] {
            renaming.apply(&mut state.durable);
        }
        state.live = state.durable.clone();
        let named: BTreeSet<u64> = state.live.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
        // In order of their numbers: with the order of the hash map a seed would not replay.
        for id in named {
            if let Some(file) = state.files.get_mut(&id) {
                file.cut(&mut draw);
            }
        }
        state.restart();
    }

    /// Kills the process: live bytes stay, handles and locks become invalid.
    pub fn kill(&self) {
        self.lock_state().restart();
    }

    /// Number of operations so far that changed something, for [`FaultDisk::break_at`].
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Makes the operation with this number, counted from 0, and all later ones fail, like a power cut
    /// before it.
    pub fn break_at(&self, operation: u64) {
        self.lock_state().broken_from = Some(operation);
    }

    /// Makes the sync after `good` more syncs fail.
    ///
    /// As on Linux its pages are clean afterwards: the next sync succeeds, and the bytes are not on the disk.
    pub fn fail_sync_after(&self, good: u64) {
        self.lock_state().failing_sync = Some(good);
    }

    /// Limits the sum of all files' sizes; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_state().capacity_bytes = bytes;
    }

    /// Sum of all files' sizes, bytes.
    pub fn used_bytes(&self) -> u64 {
        self.lock_state().used()
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock_state().live.keys().cloned().collect()
    }

    /// Live bytes of a file, if it exists.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock_state();
        state.live.get(path).and_then(|id| state.files.get(id)).map(|file| file.live.clone())
    }

    /// Changes the live and the durable bytes of a file, unnoticed by its handles.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock_state();
        if let Some(id) = state.live.get(path).copied()
            && let Some(file) = state.files.get_mut(&id)
        {
            change(&mut file.live);
            file.durable = file.live.clone();
            file.dirty.clear();
        }
    }

    /// Makes the sector at `offset` of a file unreadable until it is written again.
    ///
    /// As on Linux a read of the sector is an error, and a map of it ends the process.
    pub fn decay(&self, path: &Path, offset: u64) {
        let mut state = self.lock_state();
        if let Some(id) = state.live.get(path).copied()
            && let Some(file) = state.files.get_mut(&id)
        {
            file.bad.insert(offset / SECTOR_BYTES);
        }
    }

    /// Removes a name durably, unnoticed by handles.
    pub fn lose(&self, path: &Path) {
        let mut state = self.lock_state();
        state.live.remove(path);
        state.durable.remove(path);
        state.pending.retain(|renaming| renaming.to.as_ref().is_none_or(|(to, _)| to != path));
    }

    fn lock_state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &DiskState, id: u64) -> Arc<dyn DiskFile> {
        Arc::new(Handle { disk: self.clone(), id, era: state.era })
    }
}

impl DiskState {
    fn restart(&mut self) {
        self.era += 1;
        self.locks.clear();
        self.broken_from = None;
        self.failing_sync = None;
    }

    /// Counts an operation that changes something, or refuses it after [`FaultDisk::break_at`].
    fn operate(&mut self) -> io::Result<()> {
        if self.broken_from.is_some_and(|from| self.operations >= from) {
            return Err(io::Error::other("the simulated disk is gone"));
        }
        self.operations += 1;
        Ok(())
    }

    /// Counts a sync; returns whether it succeeds.
    fn sync(&mut self) -> io::Result<bool> {
        self.operate()?;
        match &mut self.failing_sync {
            Some(0) => {
                self.failing_sync = None;
                Ok(false)
            }
            Some(good) => {
                *good -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }

    fn used(&self) -> u64 {
        self.live.values().filter_map(|id| self.files.get(id)).map(|file| file.live.len() as u64).sum()
    }

    fn grow(&mut self, id: u64, end: u64) -> io::Result<()> {
        let length = self.files.get(&id).map_or(0, |file| file.live.len() as u64);
        if end <= length {
            return Ok(());
        }
        if self.capacity_bytes.is_some_and(|capacity| self.used() + (end - length) > capacity) {
            return Err(io::Error::from(rustix::io::Errno::NOSPC));
        }
        if let Some(file) = self.files.get_mut(&id) {
            file.live.resize(end as usize, 0);
            file.dirty.extend(length / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
        }
        Ok(())
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.apply(&mut self.live);
        self.pending.push(renaming);
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some((to, id)) = &self.to {
            names.insert(to.clone(), *id);
        }
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock_state();
        let id = *state.live.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&state, id))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock_state();
        state.operate()?;
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, SimulatedFile::default());
        state.rename(Renaming { dir: parent(path), from: None, to: Some((path.to_owned(), id)) });
        Ok(self.handle(&state, id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.operate()?;
        let id = *state.live.get(from).ok_or(io::ErrorKind::NotFound)?;
        let to = Some((to.to_owned(), id));
        state.rename(Renaming { dir: parent(from), from: Some(from.to_owned()), to });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        if !state.live.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.operate()?;
        state.rename(Renaming { dir: parent(path), from: Some(path.to_owned()), to: None });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock_state();
        let names = state.live.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        if !state.sync()? {
            return Err(io::Error::from(rustix::io::Errno::IO));
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|renaming| renaming.dir == dir);
        for renaming in here {
            renaming.apply(&mut state.durable);
        }
        state.pending = elsewhere;
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<LockGuard, LockError> {
        let mut state = self.lock_state();
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held { pid: std::process::id().to_string() });
        }
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned(), era: state.era }))
    }
}

struct Lock {
    disk: FaultDisk,
    path: PathBuf,
    era: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        if state.era == self.era {
            state.locks.remove(&self.path);
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &FaultDisk) -> Arc<dyn DiskFile> {
        let file = disk.create(Path::new("/d/f")).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        file.sync_all().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let disk = FaultDisk::new();
            let file = file(&disk);
            file.write_at(&[2; 1024], 512).unwrap();
            disk.power_cut(seed);
            assert!(file.read_at(&mut [0], 0).is_err(), "the handle is dead");
            let left = disk.contents(Path::new("/d/f")).unwrap();
            assert_eq!((left[0], left[2047], left.len()), (1, 1, 2048));
            seen.insert((left[512], left[1024]));
        }
        assert_eq!(seen.len(), 4, "every subset of the two sectors: {seen:?}");
    }

    #[test]
    fn names_are_durable_after_a_sync_of_the_directory_only() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let disk = FaultDisk::new();
            file(&disk);
            disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
            disk.power_cut(seed);
            seen.insert(disk.list(Path::new("/d")).unwrap());
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
    }

    #[test]
    fn a_failed_sync_leaves_clean_pages_that_are_not_on_the_disk() {
        let disk = FaultDisk::new();
        let file = file(&disk);
        file.write_at(&[2; 512], 0).unwrap();
        disk.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.contents(Path::new("/d/f")).unwrap()[0], 2);
        disk.power_cut(1);
        assert_eq!(disk.contents(Path::new("/d/f")).unwrap()[0], 1);
    }
}
