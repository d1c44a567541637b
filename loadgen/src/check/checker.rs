//! One thread's table of keys, and the check of each answer against it.
//!
//! Owns what the thread knows of each key. Never sends a request. The rules, and why no correct server
//! breaks them, are in the parent module's documentation.

use super::{UnknownWrites, Violation, ViolationKind, WriteOutcome};
use crate::value::Values;
use std::sync::Arc;

/// Versions that are too low and not yet explained by an unacknowledged write. Further ones are dropped:
/// they would only repeat the same violation.
const SUSPECTS_MAX: usize = 10_000;

/// Fields of a znode's stat that answers are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// Zxid of the last write to the znode's data.
    pub mzxid: i64,
    pub version: i32,
    /// Length of the data according to the stat.
    pub data_length: i32,
}

/// Knowledge of one thread about one key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Zxid of the newest write known.
    zxid: i64,
    /// Zxid of an older write that every connection of this thread must see by now.
    settled_zxid: i64,
    seq: u32,
    settled_seq: u32,
    /// Version of the znode after the newest known write.
    version: i32,
    /// Last sequence number sent. Zero on threads that do not own the key's writer.
    sent: u32,
    /// Last sequence number acknowledged. Zero on threads that do not own the key's writer.
    acked: u32,
}

/// A version that is too low by `missing`. Correct if at least `missing` of the writes `from..until` turn
/// out to be unacknowledged.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    key: u32,
    from: u32,
    until: u32,
    missing: u32,
    version: i32,
}

/// Checks the answers that one thread receives.
#[derive(Debug)]
pub struct Checker {
    known: Vec<Known>,
    /// Every connection of the thread has been answered at or above this zxid.
    floor: i64,
    /// Every key was created by this run, so that its first value has version 0.
    from_zero: bool,
    unknown_writes: Arc<UnknownWrites>,
    suspects: Vec<Suspect>,
}

impl Checker {
    /// A checker for `keys` keys that hold their preloaded values. `from_zero`: this run created all of
    /// them. `unknown_writes` is shared by all threads of the run.
    pub fn new(keys: u32, from_zero: bool, unknown_writes: Arc<UnknownWrites>) -> Self {
        let known = vec![Known::default(); keys as usize];
        Self { known, floor: 0, from_zero, unknown_writes, suspects: Vec::new() }
    }

    /// Raises the zxid that every connection of this thread has been answered at or above.
    pub fn settle(&mut self, floor: i64) {
        self.floor = self.floor.max(floor);
    }

    /// Assigns the sequence number of the next write to `key`. The caller sends that write on the key's own
    /// connection.
    pub fn next_seq(&mut self, key: u32) -> u32 {
        let known = &mut self.known[key as usize];
        known.sent += 1;
        known.sent
    }

    /// Checks a read of `key` that returned `value`. The session had seen zxid `seen` before this reply.
    /// `own`: the session is the key's writer.
    pub fn read(
        &mut self,
        values: &Values,
        key: u32,
        own: bool,
        value: &[u8],
        facts: Facts,
        seen: i64,
    ) -> Result<(), Violation> {
        let violation = |kind, got: u32, wanted: u32| {
            Err(Violation { kind, key, got: i64::from(got), wanted: i64::from(wanted) })
        };
        let seq = sequence(values, key, value, facts)?;
        let known = self.known[key as usize];
        // With nothing sent from here, the writer is probably on another thread.
        if known.sent > 0 && seq > known.sent {
            return violation(ViolationKind::FutureValue, seq, known.sent);
        }
        let bound = known.bound(seen).max(if own { known.acked } else { 0 });
        if seq < bound {
            return violation(ViolationKind::StaleValue, seq, bound);
        }
        self.learn(key, seq, facts)
    }

    /// Checks the acknowledgement of write `seq` to `key`.
    pub fn written(&mut self, key: u32, seq: u32, facts: Facts) -> Result<(), Violation> {
        let known = &mut self.known[key as usize];
        known.acked = known.acked.max(seq);
        self.learn(key, seq, facts)
    }

    /// Notes that write `seq` to `key` was refused or has an unknown outcome.
    pub fn not_acknowledged(&mut self, key: u32, seq: u32, outcome: WriteOutcome) {
        self.unknown_writes.add(key, seq, outcome);
    }

    /// Versions that remain too low. Call once all replies of the run have arrived.
    pub fn unexplained(&mut self) -> Vec<Violation> {
        let unexplained = |s: &Suspect| s.missing > self.unknown_writes.count(s.key, s.from..s.until);
        let violations = self.suspects.iter().filter(|s| unexplained(s)).map(|s| Violation {
            kind: ViolationKind::VersionDisagrees,
            key: s.key,
            got: i64::from(s.version),
            wanted: i64::from(s.version) + i64::from(s.missing),
        });
        let violations = violations.collect();
        self.suspects.clear();
        violations
    }

    /// Merges another thread's knowledge. Only for the end of a run: what the connections of this thread
    /// have seen is no longer used.
    pub fn merge(&mut self, other: &Checker) {
        for (mine, theirs) in self.known.iter_mut().zip(&other.known) {
            let (sent, acked) = (mine.sent.max(theirs.sent), mine.acked.max(theirs.acked));
            if theirs.zxid > mine.zxid {
                *mine = *theirs;
            }
            (mine.sent, mine.acked) = (sent, acked);
        }
    }

    /// Checks a read of `key` after all writes have ended and after a `sync`. `again`: another server was
    /// read before.
    pub fn verify(
        &mut self,
        values: &Values,
        key: u32,
        value: &[u8],
        facts: Facts,
        again: bool,
    ) -> Result<(), Violation> {
        let seq = sequence(values, key, value, facts)?;
        let known = self.known[key as usize];
        let violation = |kind, got, wanted| Err(Violation { kind, key, got, wanted });
        let last = known.acked.max(known.seq);
        if seq < last || facts.mzxid < known.zxid {
            return violation(ViolationKind::LostWrite, i64::from(seq), i64::from(last));
        }
        if seq > known.sent {
            return violation(ViolationKind::FutureValue, i64::from(seq), i64::from(known.sent));
        }
        if self.unknown_writes.of(key, seq) == Some(WriteOutcome::Refused) {
            return violation(ViolationKind::RefusedWriteApplied, i64::from(seq), i64::from(known.acked));
        }
        if again && facts.mzxid != known.zxid {
            return violation(ViolationKind::NodesDisagree, facts.mzxid, known.zxid);
        }
        self.learn(key, seq, facts)
    }

    fn learn(&mut self, key: u32, seq: u32, facts: Facts) -> Result<(), Violation> {
        let known = self.known[key as usize];
        for (zxid, of) in [(known.zxid, known.seq), (known.settled_zxid, known.settled_seq)] {
            if zxid != 0 && facts.mzxid.cmp(&zxid) != seq.cmp(&of) {
                let (got, wanted) = (i64::from(seq), i64::from(of));
                return Err(Violation { kind: ViolationKind::OrderDisagrees, key, got, wanted });
            }
        }
        if known.zxid != 0 || self.from_zero {
            self.count_versions(key, seq, facts.version)?;
        }
        if facts.mzxid > known.zxid {
            let known = &mut self.known[key as usize];
            if known.zxid <= self.floor {
                (known.settled_zxid, known.settled_seq) = (known.zxid, known.seq);
            }
            (known.zxid, known.seq, known.version) = (facts.mzxid, seq, facts.version);
        }
        Ok(())
    }

    /// Between write `seq` and the newest known write, each applied write has raised the version by one.
    /// Only unacknowledged writes may be missing.
    fn count_versions(&mut self, key: u32, seq: u32, version: i32) -> Result<(), Violation> {
        let known = self.known[key as usize];
        let wanted = i64::from(known.version) + (i64::from(seq) - i64::from(known.seq));
        let (from, until) = (seq.min(known.seq) + 1, seq.max(known.seq));
        // Writes between the two that were not applied.
        let missing =
            if seq >= known.seq { wanted - i64::from(version) } else { i64::from(version) - wanted };
        match u32::try_from(missing) {
            Ok(0) => Ok(()),
            Ok(missing) if missing <= until.saturating_sub(from) => {
                // The reply that leaves a write unacknowledged may arrive after a value that shows its
                // absence. So this is decided at the end.
                if missing > self.unknown_writes.count(key, from..until) && self.suspects.len() < SUSPECTS_MAX
                {
                    self.suspects.push(Suspect { key, from, until, missing, version });
                }
                Ok(())
            }
            _ => {
                Err(Violation { kind: ViolationKind::VersionDisagrees, key, got: i64::from(version), wanted })
            }
        }
    }
}

/// Sequence number of a value that verifies and belongs to `key`.
fn sequence(values: &Values, key: u32, value: &[u8], facts: Facts) -> Result<u32, Violation> {
    let violation = |kind, got, wanted| Err(Violation { kind, key, got, wanted });
    let whole = |_: &_| i64::from(facts.data_length) == value.len() as i64;
    let Some(written) = values.read(value).filter(whole) else {
        return violation(ViolationKind::CorruptValue, value.len() as i64, 0);
    };
    if written.key != key {
        return violation(ViolationKind::WrongKey, i64::from(written.key), i64::from(key));
    }
    Ok(written.seq)
}

impl Known {
    /// Lowest sequence number that a session at zxid `seen` may read.
    fn bound(&self, seen: i64) -> u32 {
        match seen {
            _ if self.zxid <= seen => self.seq,
            _ if self.settled_zxid <= seen => self.settled_seq,
            _ => 0,
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
            let checker = Checker::new(10, true, Arc::default());
            Self { values: Values::new(1, 32), checker }
        }
        fn value(&self, key: u32, seq: u32) -> Vec<u8> {
            let mut value = Vec::new();
            self.values.append(key, seq, &mut value);
            value
        }
        /// A connection at zxid `seen` reads write `seq` of key 3, applied at `mzxid`.
        fn read(&mut self, seq: u32, mzxid: i64, seen: i64) -> Result<(), ViolationKind> {
            let value = self.value(3, seq);
            self.read_value(&value, seq, mzxid, seen)
        }
        fn read_value(
            &mut self,
            value: &[u8],
            version: u32,
            mzxid: i64,
            seen: i64,
        ) -> Result<(), ViolationKind> {
            let facts = Facts { mzxid, version: version as i32, data_length: value.len() as i32 };
            self.checker.read(&self.values, 3, false, value, facts, seen).map_err(|a| a.kind)
        }
        fn written(&mut self, seq: u32, mzxid: i64) -> Result<(), ViolationKind> {
            let facts = Facts { mzxid, version: seq as i32, data_length: 32 };
            self.checker.written(3, seq, facts).map_err(|a| a.kind)
        }
    }

    #[test]
    fn a_correct_history_has_no_violation() {
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
        assert_eq!(bench.read(4, 95, 100), Err(ViolationKind::StaleValue));
    }

    #[test]
    fn a_stale_value_after_the_own_write_was_acknowledged() {
        let mut bench = Bench::new();
        bench.written(1, 100).unwrap();
        assert_eq!(bench.read(0, 50, 100), Err(ViolationKind::StaleValue));
    }

    #[test]
    fn a_replica_that_lags_violates_nothing_until_its_session_has_seen_the_write() {
        let mut bench = Bench::new();
        bench.read(1, 50, 60).unwrap();
        bench.checker.settle(60);
        bench.written(2, 100).unwrap();
        bench.written(3, 110).unwrap();
        bench.read(1, 50, 60).unwrap();
        bench.read(2, 100, 60).unwrap();
        assert_eq!(bench.read(0, 40, 60), Err(ViolationKind::StaleValue), "older than the settled write");
        assert_eq!(bench.read(2, 100, 110), Err(ViolationKind::StaleValue));
    }

    #[test]
    fn a_value_of_another_key() {
        let mut bench = Bench::new();
        let other = bench.value(4, 0);
        assert_eq!(bench.read_value(&other, 0, 50, 60), Err(ViolationKind::WrongKey));
    }

    #[test]
    fn a_value_that_nobody_wrote_or_with_a_stat_of_another_length() {
        let mut bench = Bench::new();
        assert_eq!(bench.read_value(&[0; 32], 0, 50, 60), Err(ViolationKind::CorruptValue));
        assert_eq!(bench.read_value(&[], 0, 50, 60), Err(ViolationKind::CorruptValue));
        let value = bench.value(3, 0);
        let facts = Facts { mzxid: 1, version: 0, data_length: 31 };
        let violation = bench.checker.read(&bench.values, 3, false, &value, facts, 1).unwrap_err();
        assert_eq!(violation.kind, ViolationKind::CorruptValue);
    }

    #[test]
    fn a_value_that_was_not_sent_yet() {
        let mut bench = Bench::new();
        assert_eq!(bench.checker.next_seq(3), 1);
        let facts = Facts { mzxid: 100, version: 2, data_length: 32 };
        let value = bench.value(3, 2);
        let violation = bench.checker.read(&bench.values, 3, true, &value, facts, 0).unwrap_err();
        assert_eq!(violation.kind, ViolationKind::FutureValue);
    }

    #[test]
    fn new_data_under_an_old_stat_and_old_data_under_a_new_stat() {
        let mut bench = Bench::new();
        bench.read(5, 100, 0).unwrap();
        assert_eq!(bench.read(6, 100, 0), Err(ViolationKind::OrderDisagrees), "one zxid, two values");
        assert_eq!(bench.read(4, 101, 0), Err(ViolationKind::OrderDisagrees), "later zxid, earlier value");
        assert_eq!(bench.read(6, 99, 0), Err(ViolationKind::OrderDisagrees), "earlier zxid, later value");
    }

    #[test]
    fn a_write_applied_twice_shows_in_the_version() {
        let mut bench = Bench::new();
        bench.written(1, 100).unwrap();
        let value = bench.value(3, 2);
        assert_eq!(bench.read_value(&value, 3, 110, 100), Err(ViolationKind::VersionDisagrees));
        // An unacknowledged write explains a version that is too low, never one that is too high.
        bench.checker.not_acknowledged(3, 1, WriteOutcome::Unknown);
        assert_eq!(bench.read_value(&value, 3, 110, 100), Err(ViolationKind::VersionDisagrees));
    }

    #[test]
    fn a_version_may_lack_the_unacknowledged_writes_and_no_other() {
        let mut bench = Bench::new();
        bench.written(1, 100).unwrap();
        bench.checker.not_acknowledged(3, 2, WriteOutcome::Unknown);
        bench.checker.not_acknowledged(3, 3, WriteOutcome::Refused);
        let value = bench.value(3, 4);
        bench.read_value(&value, 2, 110, 100).unwrap();
        assert_eq!(bench.checker.unexplained(), []);
        // The fifth write was neither refused nor lost.
        let value = bench.value(3, 6);
        bench.read_value(&value, 3, 120, 100).unwrap();
        let violation = bench.checker.unexplained();
        assert_eq!(
            violation.iter().map(|a| (a.kind, a.got, a.wanted)).collect::<Vec<_>>(),
            [(ViolationKind::VersionDisagrees, 3, 4)]
        );
    }

    #[test]
    fn an_unknown_write_that_comes_after_the_value_that_shows_it_still_explains_it() {
        let mut bench = Bench::new();
        let value = bench.value(3, 2);
        bench.read_value(&value, 1, 110, 100).unwrap();
        bench.checker.not_acknowledged(3, 1, WriteOutcome::Refused);
        assert_eq!(bench.checker.unexplained(), []);
    }

    #[test]
    fn an_older_value_of_a_lagging_replica_has_a_version_that_fits_too() {
        let mut bench = Bench::new();
        bench.read(5, 100, 0).unwrap();
        let value = bench.value(3, 3);
        bench.read_value(&value, 3, 80, 0).unwrap();
        assert_eq!(bench.read_value(&value, 2, 80, 0), Err(ViolationKind::VersionDisagrees));
        assert_eq!(bench.read_value(&value, 5, 80, 0), Err(ViolationKind::VersionDisagrees));
    }

    #[test]
    fn the_writers_own_session_sees_what_was_acknowledged_even_where_others_need_not() {
        let mut bench = Bench::new();
        bench.written(1, 100).unwrap();
        // Another thread's write replaces write 1 as the newest known. Only its acknowledgement is
        // remembered.
        bench.read(2, 110, 0).unwrap();
        let value = bench.value(3, 0);
        let facts = Facts { mzxid: 50, version: 0, data_length: 32 };
        bench.checker.read(&bench.values, 3, false, &value, facts, 60).unwrap();
        let violation = bench.checker.read(&bench.values, 3, true, &value, facts, 60).unwrap_err();
        assert_eq!((violation.kind, violation.wanted), (ViolationKind::StaleValue, 1));
    }

    /// Reads key 3 back after two acknowledged writes, a third of unknown outcome and a fourth that was
    /// refused.
    fn read_back(seq: u32, mzxid: i64, version: i32) -> Result<(), ViolationKind> {
        let mut bench = at_the_end();
        bench.verify(seq, mzxid, version, false)
    }

    fn at_the_end() -> Bench {
        let mut bench = Bench::new();
        (0..4).for_each(|_| {
            bench.checker.next_seq(3);
        });
        bench.written(1, 100).unwrap();
        bench.written(2, 110).unwrap();
        bench.checker.not_acknowledged(3, 3, WriteOutcome::Unknown);
        bench.checker.not_acknowledged(3, 4, WriteOutcome::Refused);
        bench
    }

    impl Bench {
        fn verify(&mut self, seq: u32, mzxid: i64, version: i32, again: bool) -> Result<(), ViolationKind> {
            let value = self.value(3, seq);
            let facts = Facts { mzxid, version, data_length: 32 };
            self.checker.verify(&self.values, 3, &value, facts, again).map_err(|a| a.kind)
        }
    }

    #[test]
    fn at_the_end_the_last_acknowledged_write_or_an_unknown_one_is_there() {
        read_back(2, 110, 2).unwrap();
        read_back(3, 120, 3).unwrap();
        assert_eq!(read_back(1, 100, 1), Err(ViolationKind::LostWrite));
        assert_eq!(read_back(0, 50, 0), Err(ViolationKind::LostWrite));
        assert_eq!(read_back(4, 120, 3), Err(ViolationKind::RefusedWriteApplied));
        assert_eq!(read_back(5, 120, 3), Err(ViolationKind::FutureValue));
        assert_eq!(read_back(3, 120, 5), Err(ViolationKind::VersionDisagrees));
        assert_eq!(
            read_back(2, 105, 2),
            Err(ViolationKind::LostWrite),
            "the write was shown at a later zxid"
        );
    }

    #[test]
    fn what_another_thread_was_shown_must_be_there_at_the_end_too() {
        let mut bench = at_the_end();
        let mut other = Bench::new();
        other.read(3, 120, 0).unwrap();
        bench.checker.merge(&other.checker);
        assert_eq!(bench.verify(2, 110, 2, false), Err(ViolationKind::LostWrite));
        bench.verify(3, 120, 3, false).unwrap();
    }

    #[test]
    fn all_servers_are_the_same_at_the_end() {
        let mut bench = at_the_end();
        bench.verify(2, 110, 2, false).unwrap();
        bench.verify(2, 110, 2, true).unwrap();
        assert_eq!(bench.verify(3, 120, 3, true), Err(ViolationKind::NodesDisagree));
        let mut bench = at_the_end();
        bench.verify(3, 120, 3, false).unwrap();
        assert_eq!(bench.verify(2, 110, 2, true), Err(ViolationKind::LostWrite));
    }
}
