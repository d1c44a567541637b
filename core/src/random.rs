//! Random numbers from a given seed.
//!
//! Owns one algorithm and no state. Never asks the system for entropy, so a seed means the same run on
//! every machine and forever. The algorithm is fixed here, because a library's may change.

#![forbid(unsafe_code)]

/// SplitMix64: returns the next 64 bits. Any seed gives the whole stream of 2^64 values.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
