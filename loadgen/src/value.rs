//! Contents of a znode's value, so that a wrong read can be told from a correct one.
//!
//! Owns the layout `key | seq | hash of (run, key, seq, filler) | filler`, all little-endian. Never knows a
//! connection or an order: that is the checker's. Correct because the hash is seeded by the run. A value of
//! an earlier run, or torn between two writes, does not verify; a value of another key carries that key.

use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};

/// Bytes of key, sequence number and hash. A checked value has at least these.
pub const VALUE_BYTES_MIN: u32 = 16;

/// Number of places at which a filler may begin. A page: successive values differ, and the filler stays in
/// the cache.
const FILLER_OFFSETS: usize = 4096;

/// Identity of a write, as read from a value that verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub key: u32,
    /// Number of the write to this key. The preloaded value has 0.
    pub seq: u32,
}

/// Makes and verifies the values of one run.
#[derive(Clone, Debug)]
pub struct Values {
    hash: FixedState,
    filler: Vec<u8>,
    bytes: usize,
}

impl Values {
    /// Values of `bytes` bytes for the run identified by `nonce`.
    pub fn new(nonce: u64, bytes: u32) -> Self {
        let hash = FixedState::with_seed(nonce);
        let mut state = nonce;
        let mut filler = vec![0; bytes as usize + FILLER_OFFSETS];
        for chunk in filler.chunks_mut(8) {
            // SplitMix64: the filler only has to look incompressible.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Self { hash, filler, bytes: bytes as usize }
    }

    /// Length of each value, bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether values have no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends value number `seq` of `key`.
    pub fn append(&self, key: u32, seq: u32, out: &mut Vec<u8>) {
        let offset = key.wrapping_mul(31).wrapping_add(seq) as usize % FILLER_OFFSETS;
        let Some(filler_bytes) = self.bytes.checked_sub(VALUE_BYTES_MIN as usize) else {
            out.extend_from_slice(&self.filler[offset..offset + self.bytes]);
            return;
        };
        let filler = &self.filler[offset..offset + filler_bytes];
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&self.digest(key, seq, filler).to_le_bytes());
        out.extend_from_slice(filler);
    }

    /// Identity of the write that made `value`; `None` if this run never made it.
    pub fn read(&self, value: &[u8]) -> Option<Written> {
        if value.len() != self.bytes {
            return None;
        }
        let (key, rest) = value.split_first_chunk::<4>()?;
        let (seq, rest) = rest.split_first_chunk::<4>()?;
        let (digest, filler) = rest.split_first_chunk::<8>()?;
        let (key, seq) = (u32::from_le_bytes(*key), u32::from_le_bytes(*seq));
        (u64::from_le_bytes(*digest) == self.digest(key, seq, filler)).then_some(Written { key, seq })
    }

    fn digest(&self, key: u32, seq: u32, filler: &[u8]) -> u64 {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u64(u64::from(key) << 32 | u64::from(seq));
        hasher.write(filler);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_its_key_and_its_place_in_the_order() {
        for bytes in [16, 17, 100, 5000] {
            let values = Values::new(7, bytes);
            let mut value = Vec::new();
            values.append(42, 9, &mut value);
            assert_eq!(value.len(), bytes as usize);
            assert_eq!(values.read(&value), Some(Written { key: 42, seq: 9 }));
        }
    }

    #[test]
    fn any_changed_byte_and_any_other_length_is_noticed() {
        let values = Values::new(7, 64);
        let mut value = Vec::new();
        values.append(1, 2, &mut value);
        for i in 0..value.len() {
            value[i] ^= 1;
            assert_eq!(values.read(&value), None, "byte {i}");
            value[i] ^= 1;
        }
        assert_eq!(values.read(&value[..63]), None);
        assert_eq!(values.read(&[]), None);
    }

    #[test]
    fn a_value_of_another_run_does_not_verify() {
        let mut value = Vec::new();
        Values::new(7, 64).append(1, 2, &mut value);
        assert_eq!(Values::new(8, 64).read(&value), None);
    }

    #[test]
    fn unchecked_values_may_be_tiny() {
        for bytes in [0, 1, 15] {
            let mut value = Vec::new();
            Values::new(7, bytes).append(1, 2, &mut value);
            assert_eq!(value.len(), bytes as usize);
        }
    }
}
