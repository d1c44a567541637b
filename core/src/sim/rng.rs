//! The only source of randomness: a seed's own stream.
//!
//! Owns 64 bits of state. Never asks the system for anything. Correct on every machine and in every later
//! build, because the algorithm is our own (see `random`).

use crate::random::splitmix;

/// A stream of SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Begins the stream of a seed.
    pub fn new(seed: u64) -> Rng {
        let mut rng = Rng(seed ^ 0x7061_6464_6f63_6b21);
        rng.next();
        rng
    }

    /// Draws 64 random bits.
    pub fn next(&mut self) -> u64 {
        splitmix(&mut self.0)
    }

    /// Draws a number from `0..bound`. Returns 0 without a draw if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// Draws a number from `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True with a probability of one in `of`.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// Draws one of the elements.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A new stream. Draws from it do not affect this one.
    pub fn fork(&mut self) -> Rng {
        Rng::new(self.next())
    }

    /// Draws sixteen random bytes.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }
}
