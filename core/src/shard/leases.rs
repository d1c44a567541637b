//! Leases: the time until which the shard may serve a session without a new confirmation by the quorum.
//!
//! Owns the leases of this shard's connections, and the reports of sessions that are not confirmed yet.
//!
//! Never renews a lease because a client was heard from. A lease is renewed when the quorum confirms that
//! the leader has the report that contains the session.
//!
//! Correct because a lease counts from the time of that report, or of the request that opened or attached
//! the session. Only the leader expires sessions, and it counts the same timeout from the time of
//! receipt, which is later. A lease ends at most one bucket early, and never late.
//!
//! A group of one needs no confirmation, and its consensus core handles a report before it expires
//! sessions. There [`Connection::lease_ns`] is the time from which the core may have expired the session
//! ([`heard_on_group_of_one`]). A client silent until that time must attach to its session again. A client
//! silent almost so long is reported at once.
//!
//! A renewal writes one number into the connection. A connection moves to its later bucket when the
//! earlier bucket comes up. So each connection is in one valid bucket and is visited once per timeout.

use super::config::REPORTS_KEPT_MAX;
use super::connection::{Connection, ConnectionPhase, Connections};
use paddock_transport::engine::ConnId;
use std::collections::{BTreeMap, VecDeque};

/// Buckets per beat: a lease ends at most a sixteenth of a beat early.
const BUCKETS_PER_BEAT: u64 = 16;

/// State of a session at the time when its client is heard from, on a group of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Liveness {
    /// The next regular report keeps the session alive.
    Alive,
    /// The next regular report might be too late.
    Urgent,
    /// The client was silent for its whole timeout: the log may contain the expiry of the session.
    MaybeExpired,
}

/// Renews the session of a client that was heard from, on a group of one.
pub(super) fn heard_on_group_of_one(connection: &mut Connection, now_ns: u64, beat_ns: u64) -> Liveness {
    let until_ns = connection.lease_ns;
    if now_ns >= until_ns {
        return Liveness::MaybeExpired;
    }
    connection.lease_ns = now_ns.saturating_add(connection.timeout_ns());
    if now_ns.saturating_add(2 * beat_ns) >= until_ns { Liveness::Urgent } else { Liveness::Alive }
}

/// A report whose receipt by the leader is not confirmed.
#[derive(Debug)]
struct SessionReport {
    at_ns: u64,
    connections: Vec<ConnId>,
}

/// The leases of one shard; see the module documentation.
#[derive(Debug)]
pub(super) struct Leases {
    bucket_ns: u64,
    /// Leases are in use; `false` on a group of one.
    on: bool,
    /// Time of the last turn in which no lease was needed.
    rested_ns: u64,
    buckets: BTreeMap<u64, Vec<ConnId>>,
    reports: VecDeque<SessionReport>,
}

impl Leases {
    /// `beat_ns` is the time between two reports.
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

    /// Whether any connection may have a lease.
    pub fn holds_any(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// Notes that the node is a group of one in this turn, and drops all leases.
    pub fn rest(&mut self, now_ns: u64) {
        if self.on {
            self.on = false;
            self.buckets.clear();
            self.reports.clear();
        }
        self.rested_ns = now_ns;
    }

    /// Starts to use leases, unless they are in use. Leases of existing connections count from the last
    /// turn without leases, because the next leader gives every session a full timeout from then on.
    pub fn begin(&mut self, connections: &mut Connections) {
        if self.on {
            return;
        }
        self.on = true;
        let rested_ns = self.rested_ns;
        for connection in connections.iter_mut().filter(|c| c.phase == ConnectionPhase::Open) {
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
            // A dropped report renews no lease: leases may end early, never late.
            self.reports.pop_front();
        }
        self.reports.push_back(SessionReport { at_ns, connections });
    }

    /// The leader has all reports up to the one made at `upto_ns`.
    pub fn confirmed(&mut self, upto_ns: u64, connections: &mut Connections) {
        while let Some(SessionReport { at_ns, connections: heard }) =
            self.reports.pop_front_if(|report| report.at_ns <= upto_ns)
        {
            for id in heard {
                let Some(connection) = connections.find(id) else { continue };
                let until_ns = at_ns.saturating_add(connection.timeout_ns());
                connection.lease_ns = connection.lease_ns.max(until_ns);
            }
        }
    }

    /// Drops all reports: the connections that they would renew are closed.
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
                if connection.phase != ConnectionPhase::Open || connection.lease_bucket != bucket {
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

    /// Start of the earliest bucket: no lease ends before.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.buckets.first_key_value().map(|(bucket, _)| bucket.saturating_mul(self.bucket_ns))
    }
}
