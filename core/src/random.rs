//! Chance out of a seed that was given.
//!
//! Owns one algorithm and no state. Never asks the system for anything, so that a seed means the same run on every machine and
//! for ever: the algorithm is fixed here and not that of a library, which may change.

#![forbid(unsafe_code)]

/// SplitMix64: the next 64 bits of a whole stream from any seed.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
