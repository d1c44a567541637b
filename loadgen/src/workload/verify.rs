//! Reading everything back from one server after all writes have ended.
//!
//! Owns the order: a session reads only after its `sync` was answered. Reads lost with a connection are
//! sent again after a new `sync`. Never writes. Correct because the [`Checker`] is handed from server to
//! server, so that each is compared with those before. A server without any answer for [`PATIENCE_NS`]
//! counts as not verified, and the report says so.

use crate::check::{Checker, Facts, Place, Violation, ViolationKind};
use crate::counts::Counts;
use crate::keyspace::Keyspace;
use crate::session::{Reply, Sessions, Workload};
use crate::value::Values;
use crate::workload::load::put_get;
use paddock_transport::engine::{Next, Now};
use paddock_transport::io::Io;
use paddock_transport::wire::{Limits, Reader, Request, Stat, error, put_request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Connections to the server that is read: enough to keep it busy.
pub const VERIFY_CONNECTIONS: usize = 4;
/// Reads in flight per connection.
pub const VERIFY_OUTSTANDING: usize = 64;
/// Longest time without any answer from the server. Longer than a restart and an election.
const PATIENCE_NS: u64 = 30_000_000_000;
/// Pause before a `sync` that failed is sent again.
const RESYNC_NS: u64 = 100_000_000;
/// Longest wait for the server to close the sessions.
const CLOSE_NS: u64 = 2_000_000_000;

/// A request of the verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Makes the server catch up with the leader.
    Sync,
    /// Reads the key with this number.
    Get(u32),
}

/// The reading back from one server.
#[derive(Debug)]
pub struct Verify {
    keyspace: Keyspace,
    values: Values,
    checker: Checker,
    /// A server before this one was read completely.
    again: bool,
    done: Arc<AtomicU32>,
    /// Per session: the `sync` was answered on the present connection.
    synced: Vec<bool>,
    resync_at_ns: u64,
    cursor: u32,
    missed: Vec<u32>,
    read: u32,
    zxid: i64,
    progress_ns: Option<u64>,
    closing_until_ns: Option<u64>,
    counts: Counts,
}

/// Result of reading back from one server.
#[derive(Debug)]
pub struct Verified {
    /// The checker, for the next server.
    pub checker: Checker,
    /// Violations found on this server.
    pub counts: Counts,
    /// Number of keys read.
    pub read: u32,
    /// Highest zxid in a reply.
    pub zxid: i64,
}

impl Verify {
    /// Reads all of `keyspace` on `sessions` sessions. `done` counts keys. `again`: `checker` has seen
    /// another server's values.
    pub fn new(
        keyspace: Keyspace,
        values: Values,
        checker: Checker,
        again: bool,
        done: Arc<AtomicU32>,
        sessions: usize,
    ) -> Self {
        Self {
            keyspace,
            values,
            checker,
            again,
            done,
            synced: vec![false; sessions],
            resync_at_ns: 0,
            cursor: 0,
            missed: Vec::new(),
            read: 0,
            zxid: 0,
            progress_ns: None,
            closing_until_ns: None,
            counts: Counts::default(),
        }
    }

    pub fn outcome(self) -> Verified {
        Verified { checker: self.checker, counts: self.counts, read: self.read, zxid: self.zxid }
    }

    fn sync(&mut self, now: Now, index: usize, sessions: &mut Sessions<Ask>, io: &mut Io) {
        sessions.send(now, index, Ask::Sync, io, |out, xid| {
            put_request(out, xid, &Request::Sync { path: "/".into() });
        });
    }

    fn fill(&mut self, now: Now, index: usize, sessions: &mut Sessions<Ask>, io: &mut Io) {
        while self.synced[index] && sessions.in_flight(index) < VERIFY_OUTSTANDING {
            let key = match self.missed.pop() {
                Some(key) => key,
                None if self.cursor < self.keyspace.keys() => {
                    self.cursor += 1;
                    self.cursor - 1
                }
                None => return,
            };
            let keyspace = &self.keyspace;
            if !sessions.send(now, index, Ask::Get(key), io, |out, xid| put_get(out, xid, keyspace, key)) {
                self.missed.push(key);
                return;
            }
        }
    }

    fn check(&mut self, key: u32, reply: Reply<'_>) -> Result<(), Violation> {
        let mut reader = Reader::new(reply.body, Limits::NONE);
        let (Ok(data), Ok(stat)) = (reader.buffer(), Stat::read(&mut reader)) else {
            let (kind, got) = (ViolationKind::MalformedReply, reply.body.len() as i64);
            return Err(Violation { kind, key, got, wanted: 0 });
        };
        let facts = Facts { mzxid: stat.mzxid, version: stat.version, data_length: stat.data_length };
        self.checker.verify(&self.values, key, data.unwrap_or_default(), facts, self.again)
    }
}

impl Workload for Verify {
    type Request = Ask;

    fn ready(&mut self, now: Now, index: usize, sessions: &mut Sessions<Ask>, io: &mut Io) {
        self.synced[index] = false;
        if self.closing_until_ns.is_none() {
            self.sync(now, index, sessions, io);
        }
    }

    fn replied(
        &mut self,
        now: Now,
        index: usize,
        ask: Ask,
        reply: Reply<'_>,
        sessions: &mut Sessions<Ask>,
        io: &mut Io,
    ) -> i64 {
        self.zxid = self.zxid.max(reply.zxid);
        match (ask, reply.err) {
            (Ask::Sync, 0) => self.synced[index] = true,
            (Ask::Sync, _) => {
                self.resync_at_ns = now.mono_ns + RESYNC_NS;
                return 0;
            }
            (Ask::Get(key), 0 | error::NO_NODE) => {
                let verdict = if reply.err == 0 {
                    self.check(key, reply)
                } else {
                    let got = i64::from(reply.err);
                    Err(Violation { kind: ViolationKind::MissingZnode, key, got, wanted: 0 })
                };
                if let Err(violation) = verdict {
                    self.counts.report_violation(violation, 1, Some(sessions.place(index)));
                }
                self.read += 1;
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            (Ask::Get(key), _) => {
                // Sent again after a pause and a new `sync`.
                self.missed.push(key);
                self.synced[index] = false;
                self.resync_at_ns = now.mono_ns + RESYNC_NS;
                return 0;
            }
        }
        self.progress_ns = Some(now.mono_ns);
        if self.closing_until_ns.is_none() {
            self.fill(now, index, sessions, io);
        }
        0
    }

    fn lost(&mut self, _now: Now, ask: Ask) {
        if let Ask::Get(key) = ask {
            self.missed.push(key);
        }
    }

    fn violation(&mut self, violation: Violation, place: Place) {
        self.counts.report_violation(violation, 1, Some(place));
    }

    fn turn(&mut self, now: Now, sessions: &mut Sessions<Ask>, io: &mut Io) -> Next {
        if let Some(until_ns) = self.closing_until_ns {
            let over = sessions.all_gone() || now.mono_ns >= until_ns;
            return if over { Next::Stop } else { Next::Sleep { deadline_ns: Some(until_ns) } };
        }
        let give_up_ns = *self.progress_ns.get_or_insert(now.mono_ns) + PATIENCE_NS;
        if self.read == self.keyspace.keys() || now.mono_ns >= give_up_ns {
            sessions.close_all(now, io);
            self.closing_until_ns = Some(now.mono_ns + CLOSE_NS);
            return Next::Again;
        }
        for index in 0..sessions.len() {
            let idle = sessions.is_ready(index) && sessions.in_flight(index) == 0;
            if idle && !self.synced[index] && now.mono_ns >= self.resync_at_ns {
                self.sync(now, index, sessions, io);
            } else if !self.missed.is_empty() {
                self.fill(now, index, sessions, io);
            }
        }
        let resync_ns = if self.resync_at_ns > now.mono_ns { self.resync_at_ns } else { give_up_ns };
        Next::Sleep { deadline_ns: Some(resync_ns.min(give_up_ns)) }
    }
}
