//! Whether answers are right: what one thread knows about each key, and what a new answer must agree with.
//!
//! Owns a thread's table of keys. Never sends anything and never reads a clock. It is as strict as ZooKeeper's
//! guarantees allow and no stricter, so that it accuses no correct server:
//!
//! - A value must verify, belong to the key asked for, and its length must be the one in its stat.
//! - Each key has one writer, so the order of its sequence numbers is the order of its writes, hence of their zxids:
//!   a later zxid with an earlier value, or one zxid with two values, is wrong on any replica.
//! - A session never goes back: once a connection was answered at zxid Z, it must not read a value that is older than a
//!   write known to lie at or below Z. It may read old values of writes above Z: replicas lag.
//! - On a tree that this run created, and while no write's outcome is unknown, a znode's version counts its writes.
//!
//! What it can miss: for each key a thread remembers the newest write it knows, and the newest that lay at or below the
//! zxid of *all* its connections when a newer one replaced it ([`Checker::settle`]). Writes between these two are forgotten, so a
//! connection to a lagging replica is held to the older one.

use crate::value::Values;
use std::fmt;

/// The ways in which an answer can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Wrong {
    /// The value was never written by this run, or is torn.
    CorruptValue,
    /// The value belongs to another key.
    WrongKey,
    /// The value is older than what this connection must see.
    StaleValue,
    /// The value was never sent.
    FutureValue,
    /// Value and stat disagree: one zxid with two values, or values in another order than their zxids.
    OrderDisagrees,
    /// The znode's version does not count its writes: one was lost or applied twice.
    VersionDisagrees,
    /// The znode exists and the server said it does not.
    MissingZnode,
    /// A reply's zxid is lower than one before it in the same session.
    ZxidWentBack,
    /// A reply to another request than the oldest one that waits.
    UnexpectedXid,
    /// The reply's body cannot be read.
    MalformedReply,
    /// No reply came although the connection stayed open.
    MissingReply,
}

impl Wrong {
    /// All kinds.
    pub const ALL: [Wrong; 11] = [
        Wrong::CorruptValue,
        Wrong::WrongKey,
        Wrong::StaleValue,
        Wrong::FutureValue,
        Wrong::OrderDisagrees,
        Wrong::VersionDisagrees,
        Wrong::MissingZnode,
        Wrong::ZxidWentBack,
        Wrong::UnexpectedXid,
        Wrong::MalformedReply,
        Wrong::MissingReply,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Wrong::CorruptValue => "corrupt_value",
            Wrong::WrongKey => "wrong_key",
            Wrong::StaleValue => "stale_value",
            Wrong::FutureValue => "future_value",
            Wrong::OrderDisagrees => "order_disagrees",
            Wrong::VersionDisagrees => "version_disagrees",
            Wrong::MissingZnode => "missing_znode",
            Wrong::ZxidWentBack => "zxid_went_back",
            Wrong::UnexpectedXid => "unexpected_xid",
            Wrong::MalformedReply => "malformed_reply",
            Wrong::MissingReply => "missing_reply",
        }
    }
}

/// A wrong answer and what it was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// What is wrong.
    pub wrong: Wrong,
    /// Which key it concerns.
    pub key: u32,
    /// What the reply said (a sequence number, zxid, version or xid, after its kind).
    pub got: i64,
    /// What it had to be, or had to be at least.
    pub wanted: i64,
}

impl fmt::Display for Accusation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, got, wanted, .. } = self;
        match self.wrong {
            Wrong::CorruptValue => write!(f, "key {key}: a value of {got} bytes that this run never wrote"),
            Wrong::WrongKey => write!(f, "key {key}: the value belongs to key {got}"),
            Wrong::StaleValue => {
                write!(f, "key {key}: write {got} read, but this session must see write {wanted}")
            }
            Wrong::FutureValue => write!(f, "key {key}: write {got} read, but only {wanted} were sent"),
            Wrong::OrderDisagrees => {
                write!(
                    f,
                    "key {key}: write {got} read, its zxid stands on the wrong side of write {wanted}'s"
                )
            }
            Wrong::VersionDisagrees => write!(f, "key {key}: version {got} after {wanted} writes"),
            Wrong::MissingZnode => write!(f, "key {key}: the znode is gone (error {got})"),
            Wrong::ZxidWentBack => {
                write!(f, "reply at zxid {got:#x} after one at {wanted:#x} in the same session")
            }
            Wrong::UnexpectedXid => {
                write!(f, "reply to request {got}, but {wanted} is the oldest that waits")
            }
            Wrong::MalformedReply => write!(f, "key {key}: a reply body of {got} bytes that is no answer"),
            Wrong::MissingReply => write!(f, "{got} requests without a reply on an open connection"),
        }
    }
}

/// What one thread knows of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The newest write heard of.
    zxid: i64,
    /// An older one that every connection of this thread must see by now.
    settled_zxid: i64,
    seq: u32,
    settled_seq: u32,
    /// The last sequence number sent, on the thread that owns the key's writer.
    sent: u32,
}

/// The fields of a stat that answers are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// Zxid of the last write to the znode's data.
    pub mzxid: i64,
    /// The znode's data version.
    pub version: i32,
    /// The length the stat gives.
    pub data_length: i32,
}

/// A thread's checker.
#[derive(Debug)]
pub struct Checker {
    known: Vec<Known>,
    /// Every connection of the thread has been answered at or above this zxid.
    floor: i64,
    /// Whether versions count writes.
    exact_versions: bool,
}

impl Checker {
    /// Knows that each of `keys` keys holds its preloaded value. `exact_versions`: this run created them all.
    pub fn new(keys: u32, exact_versions: bool) -> Self {
        Self { known: vec![Known::default(); keys as usize], floor: 0, exact_versions }
    }

    /// Every connection of this thread was answered at or above `floor`.
    pub fn settle(&mut self, floor: i64) {
        self.floor = self.floor.max(floor);
    }

    /// The sequence number of the next write to `key`, which this thread's connection is about to send.
    pub fn next_seq(&mut self, key: u32) -> u32 {
        let known = &mut self.known[key as usize];
        known.sent += 1;
        known.sent
    }

    /// A write may or may not have happened: versions no longer count writes.
    pub fn outcome_unknown(&mut self) {
        self.exact_versions = false;
    }

    /// A read of `key` returned `value`; the session had seen `seen` before this reply. `owned`: this thread writes the key.
    pub fn read(
        &mut self,
        values: &Values,
        key: u32,
        owned: bool,
        value: &[u8],
        facts: Facts,
        seen: i64,
    ) -> Result<(), Accusation> {
        let accuse = |wrong, got, wanted| Err(Accusation { wrong, key, got, wanted });
        let Some(written) = values.read(value).filter(|_| i64::from(facts.data_length) == value.len() as i64)
        else {
            return accuse(Wrong::CorruptValue, value.len() as i64, 0);
        };
        if written.key != key {
            return accuse(Wrong::WrongKey, i64::from(written.key), i64::from(key));
        }
        let known = self.known[key as usize];
        if owned && written.seq > known.sent {
            return accuse(Wrong::FutureValue, i64::from(written.seq), i64::from(known.sent));
        }
        if let Some(bound) = known.bound(seen).filter(|&bound| written.seq < bound) {
            return accuse(Wrong::StaleValue, i64::from(written.seq), i64::from(bound));
        }
        self.learn(key, written.seq, facts)
    }

    /// The `seq`th write to `key` was acknowledged with these facts.
    pub fn written(&mut self, key: u32, seq: u32, facts: Facts) -> Result<(), Accusation> {
        self.learn(key, seq, facts)
    }

    fn learn(&mut self, key: u32, seq: u32, facts: Facts) -> Result<(), Accusation> {
        let floor = self.floor;
        let known = &mut self.known[key as usize];
        for (zxid, of) in [(known.zxid, known.seq), (known.settled_zxid, known.settled_seq)] {
            if zxid != 0 && facts.mzxid.cmp(&zxid) != seq.cmp(&of) {
                let (got, wanted) = (i64::from(seq), i64::from(of));
                return Err(Accusation { wrong: Wrong::OrderDisagrees, key, got, wanted });
            }
        }
        if self.exact_versions && i64::from(facts.version) != i64::from(seq) {
            let (got, wanted) = (i64::from(facts.version), i64::from(seq));
            return Err(Accusation { wrong: Wrong::VersionDisagrees, key, got, wanted });
        }
        if facts.mzxid > known.zxid {
            if known.zxid <= floor {
                (known.settled_zxid, known.settled_seq) = (known.zxid, known.seq);
            }
            (known.zxid, known.seq) = (facts.mzxid, seq);
        }
        Ok(())
    }
}

impl Known {
    /// The oldest sequence number that a session which has seen `seen` may read.
    fn bound(&self, seen: i64) -> Option<u32> {
        if self.zxid <= seen {
            Some(self.seq)
        } else {
            (self.settled_zxid <= seen).then_some(self.settled_seq)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        values: Values,
        checker: Checker,
    }

    impl Bench {
        fn new() -> Self {
            Self { values: Values::new(1, 32), checker: Checker::new(10, true) }
        }
        fn value(&self, key: u32, seq: u32) -> Vec<u8> {
            let mut value = Vec::new();
            self.values.append(key, seq, &mut value);
            value
        }
        /// Key 3 as a connection at zxid `seen` reads it: write `seq`, done at `mzxid`.
        fn read(&mut self, seq: u32, mzxid: i64, seen: i64) -> Result<(), Wrong> {
            let value = self.value(3, seq);
            self.read_value(&value, seq, mzxid, seen)
        }
        fn read_value(&mut self, value: &[u8], version: u32, mzxid: i64, seen: i64) -> Result<(), Wrong> {
            let facts = Facts { mzxid, version: version as i32, data_length: value.len() as i32 };
            self.checker.read(&self.values, 3, false, value, facts, seen).map_err(|a| a.wrong)
        }
        fn written(&mut self, seq: u32, mzxid: i64) -> Result<(), Wrong> {
            let facts = Facts { mzxid, version: seq as i32, data_length: 32 };
            self.checker.written(3, seq, facts).map_err(|a| a.wrong)
        }
    }

    #[test]
    fn a_correct_history_is_not_accused() {
        let mut bench = Bench::new();
        bench.read(0, 50, 60).unwrap();
        bench.written(1, 70).unwrap();
        bench.read(1, 70, 75).unwrap();
        bench.written(2, 80).unwrap();
        bench.read(2, 80, 80).unwrap();
    }

    #[test]
    fn a_stale_value_after_a_newer_one_was_seen() {
        let mut bench = Bench::new();
        bench.read(5, 100, 90).unwrap();
        assert_eq!(bench.read(4, 95, 100), Err(Wrong::StaleValue));
    }

    #[test]
    fn a_stale_value_after_the_own_write_was_acknowledged() {
        let mut bench = Bench::new();
        bench.written(1, 100).unwrap();
        assert_eq!(bench.read(0, 50, 100), Err(Wrong::StaleValue));
    }

    #[test]
    fn a_replica_that_lags_is_not_accused_until_its_session_has_seen_the_write() {
        let mut bench = Bench::new();
        bench.read(1, 50, 60).unwrap();
        bench.checker.settle(60);
        bench.written(2, 100).unwrap();
        bench.written(3, 110).unwrap();
        bench.read(1, 50, 60).unwrap();
        bench.read(2, 100, 60).unwrap();
        assert_eq!(bench.read(0, 40, 60), Err(Wrong::StaleValue), "older than the settled write");
        assert_eq!(bench.read(2, 100, 110), Err(Wrong::StaleValue));
    }

    #[test]
    fn a_value_of_another_key() {
        let mut bench = Bench::new();
        let other = bench.value(4, 0);
        assert_eq!(bench.read_value(&other, 0, 50, 60), Err(Wrong::WrongKey));
    }

    #[test]
    fn a_value_that_nobody_wrote_or_with_a_stat_of_another_length() {
        let mut bench = Bench::new();
        assert_eq!(bench.read_value(&[0; 32], 0, 50, 60), Err(Wrong::CorruptValue));
        assert_eq!(bench.read_value(&[], 0, 50, 60), Err(Wrong::CorruptValue));
        let value = bench.value(3, 0);
        let facts = Facts { mzxid: 1, version: 0, data_length: 31 };
        let accused = bench.checker.read(&bench.values, 3, false, &value, facts, 1).unwrap_err();
        assert_eq!(accused.wrong, Wrong::CorruptValue);
    }

    #[test]
    fn a_value_that_was_not_sent_yet() {
        let mut bench = Bench::new();
        assert_eq!(bench.checker.next_seq(3), 1);
        let facts = Facts { mzxid: 100, version: 2, data_length: 32 };
        let value = bench.value(3, 2);
        let accused = bench.checker.read(&bench.values, 3, true, &value, facts, 0).unwrap_err();
        assert_eq!(accused.wrong, Wrong::FutureValue);
    }

    #[test]
    fn new_data_under_an_old_stat_and_old_data_under_a_new_stat() {
        let mut bench = Bench::new();
        bench.checker.outcome_unknown();
        bench.read(5, 100, 0).unwrap();
        assert_eq!(bench.read(6, 100, 0), Err(Wrong::OrderDisagrees), "one zxid, two values");
        assert_eq!(bench.read(4, 101, 0), Err(Wrong::OrderDisagrees), "later zxid, earlier value");
        assert_eq!(bench.read(6, 99, 0), Err(Wrong::OrderDisagrees), "earlier zxid, later value");
    }

    #[test]
    fn a_write_applied_twice_shows_in_the_version() {
        let mut bench = Bench::new();
        bench.written(1, 100).unwrap();
        let value = bench.value(3, 2);
        assert_eq!(bench.read_value(&value, 3, 110, 100), Err(Wrong::VersionDisagrees));
        bench.checker.outcome_unknown();
        bench.read_value(&value, 3, 110, 100).unwrap();
    }
}
