//! The file `bootstrap`: with which membership the node began, in the owner's encoding. Written before
//! there is a log.
//!
//! Owns its frame. Correct across crashes because the file is replaced atomically, and read whole or refused.
//!
//! ```text
//!  0  8  magic "PADBOOT\n"
//!  8  4  version
//! 12  4  crc32c of all (this field 0)
//! 16 ..  the owner's bytes
//! ```

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use super::DataDirError;
use crate::disk::{Disk, read_full, replace_file};
use crate::{crc32c, field};

const MAGIC: [u8; 8] = *b"PADBOOT\n";
/// Format version that this build reads and writes.
const VERSION: u32 = 1;
/// Bytes before the owner's: magic, version, checksum.
const HEADER_BYTES: usize = 16;
/// Largest file: the memberships of 254 nodes are a few KiB.
const BYTES_MAX: u64 = 1 << 20;
const NAME: &str = "bootstrap";

/// Returns the owner's bytes; `None` if there is no file.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    let path = dir.join(NAME);
    let io = |source| DataDirError::Io { path: path.clone(), source };
    let damaged = |what| DataDirError::Damaged { path: path.clone(), what };
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let size = file.size().map_err(io)?;
    if !(HEADER_BYTES as u64..=BYTES_MAX).contains(&size) {
        return Err(damaged("impossible size"));
    }
    let mut bytes = vec![0; size as usize];
    if read_full(&*file, &mut bytes, 0).map_err(io)? < bytes.len() {
        return Err(damaged("too short"));
    }
    if bytes[..8] != MAGIC {
        return Err(damaged("not a Paddock bootstrap file"));
    }
    let found = field::u32(&bytes, 8);
    if found != VERSION {
        let (path, supported) = (path.clone(), VERSION);
        return Err(DataDirError::UnsupportedVersion { path, found, supported });
    }
    let checksum = field::u32(&bytes, 12);
    field::put(&mut bytes, 12, [0; 4]);
    if checksum != crc32c(&bytes) {
        return Err(damaged("checksum does not match"));
    }
    Ok(Some(bytes.split_off(HEADER_BYTES)))
}

/// Writes the file, durably.
pub(super) fn write(disk: &dyn Disk, dir: &Path, what: &[u8]) -> Result<(), DataDirError> {
    let mut bytes = vec![0; HEADER_BYTES];
    field::put(&mut bytes, 0, MAGIC);
    field::put(&mut bytes, 8, VERSION.to_le_bytes());
    bytes.extend_from_slice(what);
    let checksum = crc32c(&bytes);
    field::put(&mut bytes, 12, checksum.to_le_bytes());
    replace_file(disk, dir, NAME, &bytes).map_err(|source| DataDirError::Io { path: dir.join(NAME), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::DataDir;

    #[test]
    fn a_bootstrap_is_read_back_whole_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), [7; 16]).unwrap();
        assert_eq!(dir.bootstrap().unwrap(), None);
        dir.write_bootstrap(b"one two three").unwrap();
        assert_eq!(dir.bootstrap().unwrap().as_deref(), Some(&b"one two three"[..]));
        let path = root.path().join(NAME);
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
}
