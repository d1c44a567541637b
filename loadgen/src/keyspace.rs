//! The znodes of a run: their paths, which one an operation asks for, and which connection may write it.
//!
//! Owns the two-level layout under the root, the popularity of keys, and the rule of one writer per key.
//! Never knows values or time. Correct because a key's path depends on its number alone, and its writer on
//! its number and the number of writers. Threads share no table.
//!
//! Keys are numbered by popularity: key 0 is the hottest of a Zipf distribution. [`Keyspace::append_path`]
//! scatters the numbers, so that hot keys do not share a directory on the server.
//!
//! **One writer per key.** Writer `c` of `n` writes the keys `k` with `k % n == c`. ([`Roles`] chooses the
//! writers; by default every connection is one.) The sequence numbers in a key's values then have the order
//! of its writes, which makes every read checkable. The price: a write that drew key `k` goes to another
//! key of the same block of `n` keys, the one of its connection. Popularity of writes is therefore flat
//! within a block, and Zipf between blocks.

use crate::config::Distribution;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution as _, Zipf};

/// Most znodes of one run: 5 digits for the directory and 3 for the key.
pub const KEYS_MAX: u32 = 100_000_000;

/// Keys per directory. 1000: listing one is a small reply, and a million keys need only a thousand
/// directories.
pub const KEYS_PER_DIRECTORY: u32 = 1000;

/// Multiplier that scatters popularity ranks over the tree. A prime above [`KEYS_MAX`] is coprime to every
/// number of keys, so multiplying by it is a permutation.
const SCATTER: u64 = 2_654_435_761;
const _: () = assert!(SCATTER > KEYS_MAX as u64);

/// Kinds of operations that a run measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Get = 0,
    Set = 1,
}

impl Op {
    /// All kinds, in the order of reports.
    pub const ALL: [Op; 2] = [Op::Get, Op::Set];

    pub const fn name(self) -> &'static str {
        match self {
            Op::Get => "get",
            Op::Set => "set",
        }
    }
}

/// Layout of the tree.
#[derive(Clone, Debug)]
pub struct Keyspace {
    root: String,
    keys: u32,
}

impl Keyspace {
    /// A tree of `keys` znodes under `root`.
    pub fn new(root: &str, keys: u32) -> Self {
        Self { root: root.to_owned(), keys }
    }

    pub fn keys(&self) -> u32 {
        self.keys
    }

    /// The root and each of its ancestors, topmost first.
    pub fn root_paths(&self) -> impl Iterator<Item = &str> {
        let ends = self.root.match_indices('/').map(|(at, _)| at).skip(1).chain([self.root.len()]);
        ends.map(|end| &self.root[..end])
    }

    pub fn directories(&self) -> u32 {
        self.keys.div_ceil(KEYS_PER_DIRECTORY)
    }

    /// Appends the path of directory number `directory`.
    pub fn append_directory(&self, directory: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.root.as_bytes());
        out.push(b'/');
        append_digits::<5>(directory, out);
    }

    /// Length of every key's path, bytes.
    pub fn path_bytes(&self) -> usize {
        self.root.len() + "/00000/000".len()
    }

    /// Appends the path of `key`, which is [`Self::path_bytes`] long.
    pub fn append_path(&self, key: u32, out: &mut Vec<u8>) {
        let place = (u64::from(key) * SCATTER % u64::from(self.keys)) as u32;
        self.append_directory(place / KEYS_PER_DIRECTORY, out);
        out.push(b'/');
        append_digits::<3>(place % KEYS_PER_DIRECTORY, out);
    }
}

fn append_digits<const N: usize>(mut number: u32, out: &mut Vec<u8>) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Draws operations and keys for one thread.
#[derive(Debug)]
pub struct Picker {
    rng: SmallRng,
    zipf: Option<Zipf<f64>>,
    keys: u32,
    connections: u32,
    /// A random `u32` below this means a read. `1 << 32`: every operation is a read.
    reads_below: u64,
}

impl Picker {
    /// A stream of draws that depends on nothing but these arguments.
    pub fn new(seed: u64, keys: u32, connections: u32, reads: f64, distribution: Distribution) -> Self {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf { exponent } => Zipf::new(f64::from(keys), exponent).ok(),
        };
        let reads_below = (reads.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64;
        Self { rng: SmallRng::seed_from_u64(seed), zipf, keys, connections, reads_below }
    }

    /// Draws an operation for writer `connection`: a write goes to one of this connection's keys.
    pub fn next(&mut self, connection: u32) -> (Op, u32) {
        match self.draw() {
            (Op::Set, key) => (Op::Set, self.own(key, connection)),
            read => read,
        }
    }

    /// Draws an operation and a key for a connection that is not chosen yet.
    pub fn draw(&mut self) -> (Op, u32) {
        let bits = self.rng.next_u64();
        let key = match &self.zipf {
            None => (((bits >> 32) * u64::from(self.keys)) >> 32) as u32,
            // The sampler counts ranks from 1.
            Some(zipf) => (zipf.sample(&mut self.rng) as u32).clamp(1, self.keys) - 1,
        };
        (if bits & 0xffff_ffff < self.reads_below { Op::Get } else { Op::Set }, key)
    }

    /// The key that `writer` writes after `key` was drawn.
    pub fn own(&self, key: u32, writer: u32) -> u32 {
        let own = key - key % self.connections + writer;
        // The last block may be short. The one before is whole, since there are at least as many keys as
        // writers.
        if own < self.keys { own } else { own - self.connections }
    }
}

/// Which connections write: `writers` of `connections`, evenly spread.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Connections of the whole run.
    pub connections: u32,
    /// Of these, the connections that write.
    pub writers: u32,
}

impl Roles {
    /// Number of `connection` among the writers; `None` if the connection only reads.
    pub fn writer(self, connection: u32) -> Option<u32> {
        let before = self.writers_before(connection);
        (self.writers_before(connection + 1) > before).then_some(before)
    }

    /// Number of `connection` among the writers, or among the readers if the connection only reads.
    pub fn rank(self, connection: u32) -> u32 {
        self.writer(connection).unwrap_or_else(|| connection - self.writers_before(connection))
    }

    fn writers_before(self, connection: u32) -> u32 {
        (u64::from(connection) * u64::from(self.writers) / u64::from(self.connections)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn paths_are_distinct_and_no_directory_is_huge() {
        for keys in [1, 7, 999, 1000, 1001, 12_345] {
            let space = Keyspace::new("/a/b", keys);
            let mut seen = HashSet::new();
            let mut directories = std::collections::HashMap::<Vec<u8>, u32>::new();
            for key in 0..keys {
                let mut path = Vec::new();
                space.append_path(key, &mut path);
                assert_eq!(path.len(), space.path_bytes());
                *directories.entry(path[..path.len() - 4].to_vec()).or_default() += 1;
                assert!(seen.insert(path));
            }
            assert_eq!(directories.len(), space.directories() as usize);
            assert!(directories.values().all(|&n| n <= KEYS_PER_DIRECTORY));
            for directory in 0..space.directories() {
                let mut path = Vec::new();
                space.append_directory(directory, &mut path);
                assert!(directories.contains_key(&path));
            }
        }
    }

    #[test]
    fn every_ancestor_of_the_root_is_made_first() {
        let space = Keyspace::new("/a/bc/d", 1);
        assert_eq!(space.root_paths().collect::<Vec<_>>(), ["/a", "/a/bc", "/a/bc/d"]);
    }

    #[test]
    fn a_key_is_written_by_its_own_connection_only() {
        for (keys, connections) in [(64, 64), (65, 64), (1000, 64), (100, 3), (5, 1)] {
            for distribution in [Distribution::Uniform, Distribution::Zipf { exponent: 0.99 }] {
                let mut picker = Picker::new(3, keys, connections, 0.0, distribution);
                for round in 0..20_000 {
                    let connection = round % connections;
                    let (op, key) = picker.next(connection);
                    assert_eq!(op, Op::Set);
                    assert!(key < keys);
                    assert_eq!(key % connections, connection);
                }
            }
        }
    }

    #[test]
    fn writers_are_spread_over_the_connections_and_counted_without_holes() {
        for (connections, writers) in [(64, 64), (64, 16), (10, 3), (7, 1)] {
            let roles = Roles { connections, writers };
            let found: Vec<_> = (0..connections).filter_map(|c| roles.writer(c)).collect();
            assert_eq!(found, (0..writers).collect::<Vec<_>>());
            let readers = (0..connections).filter(|&c| roles.writer(c).is_none()).map(|c| roles.rank(c));
            assert_eq!(readers.collect::<Vec<_>>(), (0..connections - writers).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_share_of_reads_is_as_asked() {
        for reads in [0.0, 0.5, 0.95, 1.0] {
            let mut picker = Picker::new(1, 1000, 10, reads, Distribution::Uniform);
            let gets = (0..100_000).filter(|_| picker.next(0).0 == Op::Get).count() as f64 / 100_000.0;
            assert!((gets - reads).abs() < 0.005, "{gets} for {reads}");
        }
    }

    #[test]
    fn uniform_draws_reach_every_key_evenly() {
        let mut picker = Picker::new(1, 100, 1, 1.0, Distribution::Uniform);
        let mut counts = [0u32; 100];
        for _ in 0..1_000_000 {
            counts[picker.next(0).1 as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (9_500..10_500).contains(&n)), "{counts:?}");
    }

    #[test]
    fn popularity_follows_the_zipf_law() {
        let (keys, exponent) = (1000u32, 0.99);
        let mut picker = Picker::new(1, keys, 1, 1.0, Distribution::Zipf { exponent });
        let draws = 1_000_000;
        let mut counts = vec![0u32; keys as usize];
        for _ in 0..draws {
            counts[picker.next(0).1 as usize] += 1;
        }
        let weight = |rank: u32| f64::from(rank).powf(-exponent);
        let total: f64 = (1..=keys).map(weight).sum();
        for rank in [1, 2, 3, 10, 100, 1000] {
            let expected = weight(rank) / total * f64::from(draws);
            let got = f64::from(counts[rank as usize - 1]);
            // Five standard deviations of a count.
            assert!(
                (got - expected).abs() < 5.0 * expected.sqrt(),
                "rank {rank}: {got} instead of {expected}"
            );
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_load() {
        let draws = |seed| {
            let mut picker = Picker::new(seed, 1000, 10, 0.9, Distribution::Zipf { exponent: 1.2 });
            (0..1000).map(|i| picker.next(i % 10)).collect::<Vec<_>>()
        };
        assert_eq!(draws(5), draws(5));
        assert_ne!(draws(5), draws(6));
    }
}
