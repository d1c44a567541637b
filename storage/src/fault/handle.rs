//! An open file of the simulated disk; dead after the crash that follows its opening.

#![forbid(unsafe_code)]

use std::io;
use std::sync::MutexGuard;

use rkyv::util::AlignedVec;

use super::sectors::SimulatedFile;
use super::{DiskState, FaultDisk, SECTOR_BYTES};
use crate::disk::DiskFile;
use crate::map::View;

pub(super) struct Handle {
    pub(super) disk: FaultDisk,
    /// Number of the file.
    pub(super) id: u64,
    /// Era in which the file was opened.
    pub(super) era: u64,
}

impl Handle {
    /// State of the disk, if no crash followed the opening and the file exists.
    fn alive(&self) -> io::Result<MutexGuard<'_, DiskState>> {
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
        let SimulatedFile { live, bad, .. } = &state.files[&self.id];
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
        let SimulatedFile { live, bad, .. } = &state.files[&self.id];
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
