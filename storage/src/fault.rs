//! A disk in memory that loses power, lies, fills up and fails: what the log and the snapshots are tested on, and
//! the disk of the simulation.
//!
//! Owns for each file the live bytes, which a running process reads, and the durable ones, which a power cut leaves: a
//! sync copies the one to the other, and at a cut each unsynced 512-byte sector survives or not by the seed. New
//! names, renames and removals are durable after a sync of their directory; at a cut some prefix of the unsynced ones
//! survives, as on a journalling file system. Never draws a random number of its own: a failure is replayed by its seed.
//! A handle from before a cut is dead afterwards, so a crashed log cannot go on writing.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rkyv::util::AlignedVec;

use crate::disk::{Disk, DiskFile, LockError, LockGuard};
use crate::map::View;

/// What a disk writes as a whole.
pub const SECTOR_BYTES: u64 = 512;

/// A simulated disk; clones share it.
#[derive(Clone, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    live: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    /// Changes of names that no sync of their directory has made durable, oldest first.
    pending: Vec<Renaming>,
    files: HashMap<u64, File>,
    next_file: u64,
    locks: BTreeSet<PathBuf>,
    /// Grows when power or process end: older handles are dead.
    era: u64,
    capacity_bytes: Option<u64>,
    /// Operations that change something, so far.
    operations: u64,
    /// Operation from which on everything fails.
    broken_from: Option<u64>,
    /// Syncs until one fails.
    failing_sync: Option<u64>,
}

#[derive(Clone)]
struct Renaming {
    dir: PathBuf,
    /// The name that goes, if any.
    from: Option<PathBuf>,
    /// The name that comes, if any.
    to: Option<(PathBuf, u64)>,
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<u64>,
    /// Sectors that cannot be read any more.
    bad: BTreeSet<u64>,
}

impl FaultDisk {
    /// An empty disk without limits.
    pub fn new() -> FaultDisk {
        FaultDisk::default()
    }

    /// The power fails: of the unsynced sectors and names some survive, by `seed`. All handles and locks are gone, and so are
    /// the faults that were set, except for the capacity.
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
        // In order of their numbers: a hash map's own order would make the seed mean something else each time.
        for id in named {
            if let Some(file) = state.files.get_mut(&id) {
                file.cut(&mut draw);
            }
        }
        state.restart();
    }

    /// The process is killed: live bytes stay, handles and locks are gone.
    pub fn kill(&self) {
        self.lock_state().restart();
    }

    /// Operations that change something, so far: where [`FaultDisk::break_at`] can stop.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Lets the operation with this number (counted from 0) and all after it fail, as if the power went just before it.
    pub fn break_at(&self, operation: u64) {
        self.lock_state().broken_from = Some(operation);
    }

    /// Lets the sync after `good` more ones fail. As on Linux its pages are clean afterwards: the next sync succeeds, and
    /// the bytes are not on the disk.
    pub fn fail_sync_after(&self, good: u64) {
        self.lock_state().failing_sync = Some(good);
    }

    /// Limits the sum of all files' sizes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_state().capacity_bytes = bytes;
    }

    /// The sum of all files' sizes.
    pub fn used_bytes(&self) -> u64 {
        self.lock_state().used()
    }

    /// Names of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock_state().live.keys().cloned().collect()
    }

    /// A file's live bytes.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock_state();
        state.live.get(path).and_then(|id| state.files.get(id)).map(|file| file.live.clone())
    }

    /// Changes bytes of a file durably, behind everybody's back.
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

    /// The sector at `offset` of a file cannot be read any more, until it is written again. As on Linux a read of it is an error, and a
    /// map of it ends the process.
    pub fn decay(&self, path: &Path, offset: u64) {
        let mut state = self.lock_state();
        if let Some(id) = state.live.get(path).copied()
            && let Some(file) = state.files.get_mut(&id)
        {
            file.bad.insert(offset / SECTOR_BYTES);
        }
    }

    /// Removes a name durably, behind everybody's back.
    pub fn lose(&self, path: &Path) {
        let mut state = self.lock_state();
        state.live.remove(path);
        state.durable.remove(path);
        state.pending.retain(|renaming| renaming.to.as_ref().is_none_or(|(to, _)| to != path));
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &State, id: u64) -> Arc<dyn DiskFile> {
        Arc::new(Handle { disk: self.clone(), id, era: state.era })
    }
}

impl State {
    fn restart(&mut self) {
        self.era += 1;
        self.locks.clear();
        self.broken_from = None;
        self.failing_sync = None;
    }

    /// Counts an operation that changes something, or refuses it.
    fn operate(&mut self) -> io::Result<()> {
        if self.broken_from.is_some_and(|from| self.operations >= from) {
            return Err(io::Error::other("the simulated disk is gone"));
        }
        self.operations += 1;
        Ok(())
    }

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

impl File {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = offset as usize;
        self.live[start..start + bytes.len()].copy_from_slice(bytes);
        let end = offset + bytes.len() as u64;
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        self.bad.retain(|sector| !sectors.contains(sector));
        self.dirty.extend(sectors);
    }

    fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    fn keep(&mut self, sector: u64) {
        let start = (sector * SECTOR_BYTES) as usize;
        let end = (start + SECTOR_BYTES as usize).min(self.live.len()).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.live[start..end]);
        }
    }

    fn cut(&mut self, draw: &mut Draw) {
        if self.live.len() > self.durable.len() && draw.below(2) == 1 {
            self.durable.resize(self.live.len(), 0);
        }
        // Between nothing and everything; an even coin alone would hardly ever leave a long whole tail.
        let odds = draw.below(5);
        for sector in std::mem::take(&mut self.dirty) {
            if draw.below(4) < odds {
                self.keep(sector);
            }
        }
        self.live = self.durable.clone();
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
        state.files.insert(id, File::default());
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

struct Handle {
    disk: FaultDisk,
    id: u64,
    era: u64,
}

impl Handle {
    /// The disk's state, if this handle is still alive.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock_state();
        if state.era == self.era && state.files.contains_key(&self.id) {
            Ok(state)
        } else {
            Err(io::Error::other("a handle from before the simulated crash"))
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        let good = state.sync()?;
        let Some(file) = state.files.get_mut(&self.id) else { return Ok(()) };
        if good {
            file.sync();
            Ok(())
        } else {
            file.dirty.clear();
            Err(io::Error::from(rustix::io::Errno::IO))
        }
    }
}

impl DiskFile for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.alive()?;
        let File { live, bad, .. } = &state.files[&self.id];
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
        let count = buffer.len().min(live.len() - start);
        let end = (start + count) as u64;
        if bad
            .range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES).max(offset / SECTOR_BYTES))
            .next()
            .is_some()
        {
            return Err(io::Error::from(rustix::io::Errno::IO));
        }
        buffer[..count].copy_from_slice(&live[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        state.operate()?;
        state.grow(self.id, offset + bytes.len() as u64)?;
        if let Some(file) = state.files.get_mut(&self.id) {
            file.write(bytes, offset);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        state.operate()?;
        state.grow(self.id, length)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.alive()?.files[&self.id].live.len() as u64)
    }

    fn view(&self, length: u64) -> io::Result<View> {
        let state = self.alive()?;
        let File { live, bad, .. } = &state.files[&self.id];
        assert!(
            bad.range(..length.div_ceil(SECTOR_BYTES)).next().is_none(),
            "SIGBUS: a bad sector was mapped"
        );
        let bytes = usize::try_from(length).ok().and_then(|length| live.get(..length));
        let mut copy = AlignedVec::new();
        copy.extend_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(View::Copy(copy))
    }
}

/// splitmix64: a seed's own stream.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
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
