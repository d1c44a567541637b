//! Leases: until when a session's connection may be served here without the quorum saying so again.
//!
//! Owns the deadlines of this shard's connections and the reports that were made and not confirmed. Never renews by itself:
//! hearing from a client is no renewal, only the quorum's word that the leader has the report in which the session stands.
//! It stays correct because a lease counts from the time of that report (or of the request that opened or attached the
//! session), and the leader, who alone expires, counts the same timeout from when it received it, which is later. A lease
//! ends up to one bucket early, never late.
//!
//! On a group of one nobody has to confirm anything, and the core hears of a report before it looks at deadlines. There the same number
//! is the time from which on the core may have let the session die ([`hear_alone`]): who was silent so long is not served before
//! it has attached to its session anew, and who was nearly so long is reported at once.
//!
//! A renewal writes one number into the connection; a connection moves to its later bucket when the earlier one comes up,
//! so each lies in one valid bucket and is looked at once per timeout.

use super::config::REPORTS_KEPT_MAX;
use super::connection::{Connection, Connections, Phase};
use paddock_transport::engine::ConnId;
use std::collections::{BTreeMap, VecDeque};

/// Buckets in one beat: a lease ends at most a sixteenth of a beat early.
const BUCKETS_PER_BEAT: u64 = 16;

/// What it means that a client of a group of one was heard from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sign {
    /// It lives; the next report will say so.
    Living,
    /// It lives, and the next report might come too late.
    Urgent,
    /// It was silent for all of its time: its expiry may stand in the log.
    TooLate,
}

/// A client of a group of one was heard from.
pub(super) fn hear_alone(connection: &mut Connection, now_ns: u64, beat_ns: u64) -> Sign {
    let until_ns = connection.lease_ns;
    if now_ns >= until_ns {
        return Sign::TooLate;
    }
    connection.lease_ns = now_ns.saturating_add(connection.timeout_ns());
    if now_ns.saturating_add(2 * beat_ns) >= until_ns { Sign::Urgent } else { Sign::Living }
}

/// A report that the leader may not have.
#[derive(Debug)]
struct Report {
    at_ns: u64,
    connections: Vec<ConnId>,
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Leases {
    bucket_ns: u64,
    /// Whether there are any: not on a group of one.
    on: bool,
    /// The last turn in which none was needed.
    rested_ns: u64,
    buckets: BTreeMap<u64, Vec<ConnId>>,
    reports: VecDeque<Report>,
}

impl Leases {
    /// `beat_ns`: time between two reports.
    pub fn new(beat_ns: u64) -> Self {
        Self {
            bucket_ns: (beat_ns / BUCKETS_PER_BEAT).max(1),
            on: false,
            rested_ns: 0,
            buckets: BTreeMap::new(),
            reports: VecDeque::new(),
        }
    }

    /// Whether connections need leases.
    pub fn are_on(&self) -> bool {
        self.on
    }

    /// Whether any connection may have one.
    pub fn holds_any(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// Nobody needs a lease: the node is a group of one.
    pub fn rest(&mut self, now_ns: u64) {
        if self.on {
            self.on = false;
            self.buckets.clear();
            self.reports.clear();
        }
        self.rested_ns = now_ns;
    }

    /// Leases are needed from now on. Connections from the time before count from its end: whoever leads next gives every
    /// session a full timeout from then at least.
    pub fn begin(&mut self, connections: &mut Connections) {
        if self.on {
            return;
        }
        self.on = true;
        let rested_ns = self.rested_ns;
        for connection in connections.iter_mut().filter(|c| c.phase == Phase::Open) {
            self.grant(connection, rested_ns.saturating_add(connection.timeout_ns()));
        }
    }

    /// Gives a connection its first lease.
    pub fn grant(&mut self, connection: &mut Connection, until_ns: u64) {
        connection.lease_ns = until_ns;
        connection.lease_bucket = until_ns / self.bucket_ns;
        self.buckets.entry(connection.lease_bucket).or_default().push(connection.id);
    }

    /// A report was made at `at_ns`, of sessions on `connections`.
    pub fn reported(&mut self, at_ns: u64, connections: Vec<ConnId>) {
        if self.reports.len() >= REPORTS_KEPT_MAX {
            // What is forgotten renews nobody: a lease may end early, never late.
            self.reports.pop_front();
        }
        self.reports.push_back(Report { at_ns, connections });
    }

    /// The leader has all reports up to the one made at `upto_ns`.
    pub fn confirmed(&mut self, upto_ns: u64, connections: &mut Connections) {
        while let Some(Report { at_ns, connections: heard }) =
            self.reports.pop_front_if(|report| report.at_ns <= upto_ns)
        {
            for id in heard {
                let Some(connection) = connections.find(id) else { continue };
                let until_ns = at_ns.saturating_add(connection.timeout_ns());
                connection.lease_ns = connection.lease_ns.max(until_ns);
            }
        }
    }

    /// Reports of connections that are gone.
    pub fn forget_reports(&mut self) {
        self.reports.clear();
    }

    /// Slots of the connections whose lease has run out.
    pub fn ended(&mut self, now_ns: u64, connections: &mut Connections) -> Vec<u32> {
        let mut ended = Vec::new();
        let now_bucket = now_ns / self.bucket_ns;
        while let Some(first) = self.buckets.first_entry() {
            let bucket = *first.key();
            if bucket > now_bucket {
                break;
            }
            for id in first.remove() {
                let Some(connection) = connections.find(id) else { continue };
                if connection.phase != Phase::Open || connection.lease_bucket != bucket {
                    continue;
                }
                connection.lease_bucket = connection.lease_ns / self.bucket_ns;
                if connection.lease_bucket <= now_bucket {
                    ended.push(id.index() as u32);
                } else {
                    self.buckets.entry(connection.lease_bucket).or_default().push(id);
                }
            }
        }
        ended
    }

    /// When to look again; nobody's lease ends before.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.buckets.first_key_value().map(|(bucket, _)| bucket.saturating_mul(self.bucket_ns))
    }
}
