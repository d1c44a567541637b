//! The record: one entry, hard state or reset, as encoded in a segment.
//!
//! Owns encoding and decoding. Never trusts a byte: [`decode`] accepts any bytes and returns a record or
//! an error.
//! Correct when a segment is recycled or a tail is cut, because a record is valid only at its own place.
//! It carries the segment's generation and the writer's epoch. Its checksum is masked with the log's salt
//! and the record's position. So neither stale bytes nor bytes chosen by a client can pass for a record.

#![forbid(unsafe_code)]

use std::ops::Range;

use rkyv::util::AlignedVec;

use super::{HardState, Record};
use crate::{crc32c, field};

/// Records begin at multiples of this many bytes, so that their payload is aligned for rkyv.
pub(crate) const ALIGN: usize = 16;
/// Bytes before the payload: a multiple of [`ALIGN`].
pub(crate) const HEADER_BYTES: usize = 48;
/// Bytes of a hard state record: header and three 64-bit words, padded.
pub(crate) const HARD_STATE_BYTES: u64 = encoded_bytes(HARD_STATE_PAYLOAD_BYTES) as u64;
const HARD_STATE_PAYLOAD_BYTES: usize = 24;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN));
const _: () = assert!(size_of::<rkyv::Archived<HardState>>() == HARD_STATE_PAYLOAD_BYTES);

const TYPE_ENTRY: u8 = 1;
const TYPE_HARD_STATE: u8 = 2;
const TYPE_RESET: u8 = 3;

/// RecordPlace of a record in the log, which its checksum and generation field are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    /// Secret of the log, see [`super::LogOptions::salt`].
    pub salt: u64,
    /// Generation of the segment that holds the record.
    pub generation: u64,
    /// Log position of the record's first byte.
    pub position: u64,
}

/// A valid record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub body: Body,
    /// Number of the opening of the log that wrote the record.
    pub epoch: u32,
    /// Log position up to which the log was durable when the record was written.
    pub durable_to: u64,
    /// Bytes from the start of this record to the next.
    pub bytes: usize,
}

/// Content of a [`Record`]. The payload of an entry is a range of the bytes passed to [`decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Entry { term: u64, index: u64, kind: u8, payload: Range<usize> },
    HardState(HardState),
    Reset { index: u64, term: u64 },
}

/// Why bytes are not a record of their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRecord {
    #[error("the segment ends within the record")]
    Short,
    #[error("generation of another life of the file")]
    Generation,
    #[error("checksum does not match")]
    Checksum,
    #[error("unknown record type or impossible fields")]
    Shape,
}

/// Encoded size of a record with `payload` bytes.
pub(crate) const fn encoded_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// Encoded size of `record`, bytes.
pub(crate) fn record_bytes(record: &Record) -> u64 {
    match record {
        Record::Entry(entry) => encoded_bytes(entry.data.len()) as u64,
        Record::HardState(_) => HARD_STATE_BYTES,
        Record::Reset { .. } => encoded_bytes(0) as u64,
    }
}

/// Appends `record` to `out`, whose length is a multiple of [`ALIGN`].
pub(crate) fn encode(
    out: &mut AlignedVec<16>,
    record: &Record,
    place: RecordPlace,
    epoch: u32,
    durable_to: u64,
) {
    let start = out.len();
    debug_assert!(start.is_multiple_of(ALIGN));
    let (kind, entry_kind, term, index) = match record {
        Record::Entry(entry) => (TYPE_ENTRY, entry.kind, entry.term, entry.index),
        Record::HardState(state) => (TYPE_HARD_STATE, 0, state.term, 0),
        Record::Reset { index, term } => (TYPE_RESET, 0, *term, *index),
    };
    out.resize(start + HEADER_BYTES, 0);
    match record {
        Record::Entry(entry) => out.extend_from_slice(&entry.data),
        Record::HardState(state) => out.extend_from_slice(&archive(state)),
        Record::Reset { .. } => {}
    }
    let length = (out.len() - start - HEADER_BYTES) as u32;
    let end = out.len().next_multiple_of(ALIGN);
    out.resize(end, 0);
    let bytes = &mut out[start..];
    field::put(bytes, 4, length.to_le_bytes());
    bytes[8] = kind;
    bytes[9] = entry_kind;
    field::put(bytes, 12, epoch.to_le_bytes());
    field::put(bytes, 16, place.generation.to_le_bytes());
    field::put(bytes, 24, term.to_le_bytes());
    field::put(bytes, 32, index.to_le_bytes());
    field::put(bytes, 40, durable_to.to_le_bytes());
    let checksum = crc32c(&bytes[4..]) ^ mask(place);
    field::put(bytes, 0, checksum.to_le_bytes());
}

/// Whether the generation field at the start of `bytes` is `generation`: a cheap test while scanning.
pub(crate) fn may_begin(bytes: &[u8], generation: u64) -> bool {
    bytes.len() >= HEADER_BYTES && field::u64(bytes, 16) == generation
}

/// Decodes the record at the start of `bytes`, which extend to the end of the segment.
pub(crate) fn decode(bytes: &[u8], place: RecordPlace) -> Result<Decoded, BadRecord> {
    if bytes.len() < HEADER_BYTES {
        return Err(BadRecord::Short);
    }
    if field::u64(bytes, 16) != place.generation {
        return Err(BadRecord::Generation);
    }
    let payload_bytes = field::u32(bytes, 4) as usize;
    // Checked before rounding up: on a 32-bit target the sum could wrap.
    if payload_bytes > bytes.len() - HEADER_BYTES {
        return Err(BadRecord::Short);
    }
    let total = encoded_bytes(payload_bytes);
    let Some(covered) = bytes.get(4..total) else { return Err(BadRecord::Short) };
    if field::u32(bytes, 0) != crc32c(covered) ^ mask(place) {
        return Err(BadRecord::Checksum);
    }
    let payload = HEADER_BYTES..HEADER_BYTES + payload_bytes;
    let (term, index) = (field::u64(bytes, 24), field::u64(bytes, 32));
    let durable_to = field::u64(bytes, 40);
    if durable_to > place.position {
        return Err(BadRecord::Shape);
    }
    let body = match bytes[8] {
        TYPE_ENTRY if index > 0 => Body::Entry { term, index, kind: bytes[9], payload },
        TYPE_HARD_STATE => Body::HardState(access(&bytes[payload]).ok_or(BadRecord::Shape)?),
        TYPE_RESET if payload_bytes == 0 => Body::Reset { index, term },
        _ => return Err(BadRecord::Shape),
    };
    Ok(Decoded { body, epoch: field::u32(bytes, 12), durable_to, bytes: total })
}

fn archive(state: &HardState) -> [u8; HARD_STATE_PAYLOAD_BYTES] {
    let mut out = [0; HARD_STATE_PAYLOAD_BYTES];
    // A struct of three words is archived as exactly its own bytes.
    let mut bytes = AlignedVec::<16>::new();
    bytes = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(state, bytes).unwrap_or_default();
    assert_eq!(bytes.len(), HARD_STATE_PAYLOAD_BYTES, "the archived hard state has a fixed size");
    out.copy_from_slice(&bytes);
    out
}

fn access(bytes: &[u8]) -> Option<HardState> {
    // The caller's buffer need not be aligned, so the 24 bytes are copied.
    let mut aligned = AlignedVec::<16>::new();
    aligned.extend_from_slice(bytes);
    if aligned.len() != HARD_STATE_PAYLOAD_BYTES {
        return None;
    }
    let state = rkyv::access::<rkyv::Archived<HardState>, rkyv::rancor::Error>(&aligned).ok()?;
    Some(HardState {
        term: state.term.to_native(),
        vote: state.vote.to_native(),
        commit: state.commit.to_native(),
    })
}

/// 32 bits that cannot be guessed without the salt, different for each position.
fn mask(place: RecordPlace) -> u32 {
    // The finaliser of splitmix64.
    let mut z = (place.salt ^ place.position.rotate_left(32)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Entry;
    use bytes::Bytes;
    use proptest::prelude::*;

    const PLACE: RecordPlace = RecordPlace { salt: 0x5a17, generation: 3, position: 0x1000 };

    fn encoded(record: &Record) -> AlignedVec<16> {
        let mut out = AlignedVec::new();
        encode(&mut out, record, PLACE, 2, 0x800);
        assert_eq!(out.len() as u64, record_bytes(record));
        out
    }

    fn samples() -> Vec<Record> {
        vec![
            Record::Entry(Entry {
                term: 4,
                index: 9,
                kind: 1,
                data: Bytes::from_static(b"seventeen bytes!!"),
            }),
            Record::Entry(Entry { term: 4, index: 10, kind: 0, data: Bytes::new() }),
            Record::HardState(HardState { term: 4, vote: 2, commit: 8 }),
            Record::Reset { index: 77, term: 3 },
        ]
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for record in samples() {
            let bytes = encoded(&record);
            let decoded = decode(&bytes, PLACE).unwrap();
            assert_eq!((decoded.epoch, decoded.durable_to, decoded.bytes), (2, 0x800, bytes.len()));
            let body = match decoded.body {
                Body::Entry { term, index, kind, payload } => {
                    assert_eq!(payload.start % ALIGN, 0);
                    Record::Entry(Entry { term, index, kind, data: Bytes::copy_from_slice(&bytes[payload]) })
                }
                Body::HardState(state) => Record::HardState(state),
                Body::Reset { index, term } => Record::Reset { index, term },
            };
            assert_eq!(body, record);
        }
    }

    #[test]
    fn a_record_is_valid_only_in_its_own_place() {
        let bytes = encoded(&samples()[0]);
        assert_eq!(decode(&bytes, RecordPlace { generation: 4, ..PLACE }), Err(BadRecord::Generation));
        assert_eq!(decode(&bytes, RecordPlace { position: 0x1010, ..PLACE }), Err(BadRecord::Checksum));
        assert_eq!(decode(&bytes, RecordPlace { salt: 0, ..PLACE }), Err(BadRecord::Checksum));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for record in samples() {
            let good = encoded(&record);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&bad, PLACE).is_err(), "bit {bit} of {record:?}");
            }
        }
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes, PLACE);
        }

        /// The header passes the first checks, so that the later ones are reached.
        #[test]
        fn arbitrary_bytes_with_a_good_checksum_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..300),
            length in 0u32..400,
            kind in 0u8..6,
        ) {
            field::put(&mut bytes, 4, length.to_le_bytes());
            bytes[8] = kind;
            field::put(&mut bytes, 16, PLACE.generation.to_le_bytes());
            let total = encoded_bytes(length as usize);
            if total <= bytes.len() {
                let checksum = crc32c(&bytes[4..total]) ^ mask(PLACE);
                field::put(&mut bytes, 0, checksum.to_le_bytes());
            }
            if let Ok(decoded) = decode(&bytes, PLACE) {
                prop_assert!(decoded.bytes <= bytes.len() && decoded.bytes >= HEADER_BYTES);
                prop_assert!(decoded.durable_to <= PLACE.position);
            }
        }
    }
}
