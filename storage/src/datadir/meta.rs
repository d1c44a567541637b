//! The file `meta`: identity, incarnation, node number, and the bound of the allocated session ids.
//!
//! Owns its layout. Correct across crashes because [`super::DataDir`] replaces the file atomically.
//!
//! ```text
//!  0  8  magic "PADMETA\n"
//!  8  4  version
//! 12  4  crc32c of all (this field 0)
//! 16 16  identity
//! 32  8  incarnation
//! 40  1  node number, 0 = none
//! 41  7  bound of the session ids' blocks, 0 = not recorded
//! ```

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use super::DataDirError;
use crate::disk::{Disk, read_full};
use crate::{crc32c, field};

const MAGIC: [u8; 8] = *b"PADMETA\n";
/// Format version that this build reads and writes.
const VERSION: u32 = 1;
/// Size of the file. The last eight bytes were zero before node number and bound were recorded.
const BYTES: usize = 48;
/// Offset of the bound of the session ids.
const IDS_AT: usize = 41;
/// The bound has seven bytes: it is below this.
pub(super) const IDS_LIMIT: u64 = 1 << 56;
pub(super) const NAME: &str = "meta";

/// Fields of the file.
#[derive(Clone, Copy)]
pub(super) struct Meta {
    pub identity: [u8; 16],
    pub incarnation: u64,
    /// Number of the node to which the directory belongs; 0 if none yet.
    pub node: u8,
    /// Session ids of blocks at or above this number were never allocated here; 0 if not recorded.
    pub ids_end: u64,
}

/// Reads and verifies the file; `None` if there is none.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Meta>, DataDirError> {
    let io = |source| DataDirError::Io { path: path.to_owned(), source };
    let damaged = |what| DataDirError::Damaged { path: path.to_owned(), what };
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = [0; BYTES];
    let count = read_full(&*file, &mut bytes, 0).map_err(io)?;
    if count < 16 {
        return Err(damaged("too short"));
    }
    if bytes[..8] != MAGIC {
        return Err(damaged("not a Paddock meta file"));
    }
    // Checked before the checksum: another version may have another length.
    let version = field::u32(&bytes, 8);
    if version != VERSION {
        return Err(DataDirError::UnsupportedVersion {
            path: path.to_owned(),
            found: version,
            supported: VERSION,
        });
    }
    if count < BYTES {
        return Err(damaged("too short"));
    }
    if field::u32(&bytes, 12) != checksum(&bytes) {
        return Err(damaged("checksum does not match"));
    }
    let mut identity = [0; 16];
    identity.copy_from_slice(&bytes[16..32]);
    let mut ids_end = [0; 8];
    ids_end[..7].copy_from_slice(&bytes[IDS_AT..]);
    let ids_end = u64::from_le_bytes(ids_end);
    Ok(Some(Meta { identity, incarnation: field::u64(&bytes, 32), node: bytes[40], ids_end }))
}

impl Meta {
    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        field::put(&mut bytes, 0, MAGIC);
        field::put(&mut bytes, 8, VERSION.to_le_bytes());
        field::put(&mut bytes, 16, self.identity);
        field::put(&mut bytes, 32, self.incarnation.to_le_bytes());
        bytes[40] = self.node;
        bytes[IDS_AT..].copy_from_slice(&self.ids_end.to_le_bytes()[..7]);
        let checksum = checksum(&bytes);
        field::put(&mut bytes, 12, checksum.to_le_bytes());
        bytes
    }
}

fn checksum(bytes: &[u8; BYTES]) -> u32 {
    let mut covered = *bytes;
    field::put(&mut covered, 12, [0; 4]);
    crc32c(&covered)
}
