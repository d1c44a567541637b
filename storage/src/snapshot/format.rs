//! The bytes of a snapshot file: header, blocks, footer.
//!
//! Owns the layout (`docs/formats/snapshot.md`) and its verification. Never trusts a length before
//! comparing it with the bytes that are there.
//! Correct because each checksum covers lengths and kinds too. A block carries its number, so that
//! swapped or repeated blocks are detected. The footer carries the count of blocks, so that a truncated
//! file is detected.

#![forbid(unsafe_code)]

use std::ops::Range;

use bytes::Bytes;

use super::{BLOCK_BYTES_MAX, CONF_STATE_BYTES_MAX, SnapshotMeta};
use crate::{crc32c, field};

pub(crate) const MAGIC: [u8; 8] = *b"PADSNAP\n";
/// Format version that this build reads and writes.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the header's fields, before the configuration state.
pub(crate) const HEADER_BYTES: usize = 80;
/// Bytes of the fields before a block's payload.
pub(crate) const BLOCK_HEADER_BYTES: usize = 32;
/// Payloads begin at multiples of this many bytes.
pub(crate) const ALIGN: usize = 16;
/// Suffix of the name of an unfinished file.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

const FLAVOUR_BLOCK: u16 = 1;
const FLAVOUR_FOOTER: u16 = 2;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN) && BLOCK_HEADER_BYTES.is_multiple_of(ALIGN));

/// Why bytes are not a snapshot. `Damaged` holds the offset in the file and the defect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadSnapshot {
    Damaged(usize, &'static str),
    Version(u32),
}

/// File name of the finished snapshot whose last entry is (index, term).
pub(crate) fn name(index: u64, term: u64) -> String {
    format!("snapshot-{index:016x}-{term:016x}.snap")
}

/// Index and term of a finished snapshot's file name.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.split_once('-')?;
    if index.len() != 16 || term.len() != 16 {
        return None;
    }
    Some((u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(term, 16).ok()?))
}

pub(crate) fn encode_header(meta: &SnapshotMeta) -> Vec<u8> {
    let conf_bytes = meta.conf_state.len();
    let mut out = vec![0; (HEADER_BYTES + conf_bytes).next_multiple_of(ALIGN)];
    let total = out.len() as u32;
    field::put(&mut out, 0, MAGIC);
    field::put(&mut out, 8, VERSION.to_le_bytes());
    field::put(&mut out, 16, total.to_le_bytes());
    field::put(&mut out, 20, (conf_bytes as u32).to_le_bytes());
    field::put(&mut out, 24, meta.zxid.to_le_bytes());
    field::put(&mut out, 32, meta.index.to_le_bytes());
    field::put(&mut out, 40, meta.term.to_le_bytes());
    field::put(&mut out, 48, meta.digest.to_le_bytes());
    field::put(&mut out, 56, meta.node_count.to_le_bytes());
    out[HEADER_BYTES..HEADER_BYTES + conf_bytes].copy_from_slice(&meta.conf_state);
    // The checksum is computed while its own field is zero.
    let checksum = crc32c(&out);
    field::put(&mut out, 12, checksum.to_le_bytes());
    out
}

/// Decodes the header; returns it with the offset of the first block.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<(SnapshotMeta, usize), BadSnapshot> {
    if bytes.len() < 12 || bytes[..8] != MAGIC {
        return Err(BadSnapshot::Damaged(0, "not a snapshot"));
    }
    // Checked before the checksum: another version may have another header.
    let version = field::u32(bytes, 8);
    if version != VERSION {
        return Err(BadSnapshot::Version(version));
    }
    if bytes.len() < HEADER_BYTES {
        return Err(BadSnapshot::Damaged(0, "the file ends within the header"));
    }
    let total = field::u32(bytes, 16) as usize;
    let conf_bytes = field::u32(bytes, 20) as usize;
    if conf_bytes > CONF_STATE_BYTES_MAX || total != (HEADER_BYTES + conf_bytes).next_multiple_of(ALIGN) {
        return Err(BadSnapshot::Damaged(16, "impossible lengths in the header"));
    }
    let Some(header) = bytes.get(..total) else {
        return Err(BadSnapshot::Damaged(0, "the file ends within the header"));
    };
    let mut covered = header.to_vec();
    field::put(&mut covered, 12, [0; 4]);
    if field::u32(bytes, 12) != crc32c(&covered) {
        return Err(BadSnapshot::Damaged(0, "the header's checksum does not match"));
    }
    let meta = SnapshotMeta {
        zxid: field::u64(header, 24) as i64,
        index: field::u64(header, 32),
        term: field::u64(header, 40),
        digest: field::u64(header, 48),
        node_count: field::u64(header, 56),
        conf_state: Bytes::copy_from_slice(&header[HEADER_BYTES..HEADER_BYTES + conf_bytes]),
    };
    Ok((meta, total))
}

/// Header of the block `number`, counted from 0, with `payload`.
pub(crate) fn block_header(kind: u16, number: u64, payload: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
    part_header(FLAVOUR_BLOCK, kind, number, payload)
}

/// Footer of a snapshot of `count` blocks.
pub(crate) fn footer(count: u64) -> [u8; BLOCK_HEADER_BYTES] {
    part_header(FLAVOUR_FOOTER, 0, count, &[])
}

fn part_header(flavour: u16, kind: u16, number: u64, payload: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
    let mut out = [0; BLOCK_HEADER_BYTES];
    field::put(&mut out, 4, flavour.to_le_bytes());
    field::put(&mut out, 6, kind.to_le_bytes());
    field::put(&mut out, 8, (payload.len() as u64).to_le_bytes());
    field::put(&mut out, 16, number.to_le_bytes());
    field::put(&mut out, 24, crc32c(payload).to_le_bytes());
    let checksum = crc32c(&out[4..]);
    field::put(&mut out, 0, checksum.to_le_bytes());
    out
}

/// Kind of a block, and the range of its payload in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    pub kind: u16,
    pub payload: Range<usize>,
}

/// Verifies everything after the header, which ends at `start`. Returns the blocks in order.
pub(crate) fn verify(bytes: &[u8], start: usize) -> Result<Vec<BlockPlace>, BadSnapshot> {
    let mut places = Vec::new();
    let mut at = start;
    loop {
        let Some(header) = bytes.get(at..at + BLOCK_HEADER_BYTES) else {
            return Err(BadSnapshot::Damaged(at, "the file ends without a footer"));
        };
        if field::u32(header, 0) != crc32c(&header[4..]) {
            return Err(BadSnapshot::Damaged(at, "a block header's checksum does not match"));
        }
        if field::u64(header, 16) != places.len() as u64 {
            return Err(BadSnapshot::Damaged(at, "a block out of its order"));
        }
        let flavour = u16::from_le_bytes([header[4], header[5]]);
        let kind = u16::from_le_bytes([header[6], header[7]]);
        let length = field::u64(header, 8);
        let payload_at = at + BLOCK_HEADER_BYTES;
        match flavour {
            FLAVOUR_BLOCK if length <= BLOCK_BYTES_MAX => {}
            FLAVOUR_FOOTER if payload_at == bytes.len() && length == 0 => return Ok(places),
            FLAVOUR_FOOTER => return Err(BadSnapshot::Damaged(payload_at, "bytes after the footer")),
            _ => return Err(BadSnapshot::Damaged(at, "an impossible block")),
        }
        let length = length as usize;
        let end = payload_at + length.next_multiple_of(ALIGN);
        let Some(padded) = bytes.get(payload_at..end) else {
            return Err(BadSnapshot::Damaged(at, "the file ends within a block"));
        };
        if field::u32(header, 24) != crc32c(&padded[..length]) {
            return Err(BadSnapshot::Damaged(payload_at, "a block's checksum does not match"));
        }
        if padded[length..].iter().any(|&byte| byte != 0) {
            return Err(BadSnapshot::Damaged(payload_at + length, "padding is not zero"));
        }
        places.push(BlockPlace { kind, payload: payload_at..payload_at + length });
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut out = encode_header(&SnapshotMeta { index: 4, ..SnapshotMeta::default() });
        for (number, block) in blocks.iter().enumerate() {
            out.extend_from_slice(&block_header(number as u16, number as u64, block));
            out.extend_from_slice(block);
            out.resize(out.len().next_multiple_of(ALIGN), 0);
        }
        out.extend_from_slice(&footer(blocks.len() as u64));
        out
    }

    #[test]
    fn blocks_that_changed_places_are_noticed() {
        let good = file(&[vec![1; 32], vec![2; 32]]);
        let start = HEADER_BYTES;
        assert_eq!(verify(&good, start).map(|places| places.len()), Ok(2));
        let mut swapped = good.clone();
        swapped[start..start + 64].copy_from_slice(&good[start + 64..start + 128]);
        swapped[start + 64..start + 128].copy_from_slice(&good[start..start + 64]);
        assert!(verify(&swapped, start).is_err());
        let mut fewer = good.clone();
        fewer.drain(start + 64..start + 128);
        assert!(verify(&fewer, start).is_err(), "the footer counts");
    }

    #[test]
    fn names_carry_index_and_term() {
        assert_eq!(parse_name(&name(255, 3)), Some((255, 3)));
        for foreign in ["snapshot-1-2.snap", "snapshot.100000000", "snapshot-00000000000000ff.snap"] {
            assert_eq!(parse_name(foreign), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_header(&bytes);
            let _ = verify(&bytes, 0);
        }

        /// Block headers have good checksums and arbitrary lengths.
        #[test]
        fn arbitrary_lengths_never_panic(length in any::<u64>(), flavour in 0u16..4, rest in 0usize..100) {
            let mut bytes = vec![0; BLOCK_HEADER_BYTES + rest];
            field::put(&mut bytes, 4, flavour.to_le_bytes());
            field::put(&mut bytes, 8, length.to_le_bytes());
            let checksum = crc32c(&bytes[4..BLOCK_HEADER_BYTES]);
            field::put(&mut bytes, 0, checksum.to_le_bytes());
            let _ = verify(&bytes, 0);
        }
    }
}
