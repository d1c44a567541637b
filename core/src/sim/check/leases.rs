//! Checks that no client is served by a node that is paused, cut off, or follows a deposed leader.
//!
//! A session is not served once it has expired elsewhere. No answer is older than the node's bound of
//! staleness: it includes every write acknowledged longer than the bound before the request. Both hold
//! with a tolerance for clocks of different pace. Read-only service, for clients that accept it, promises
//! neither, whatever session they have.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use std::collections::{BTreeMap, VecDeque};

/// Tolerance for clocks, and for an answer in flight, ns.
const ROOM_NS: u64 = 500_000_000;

/// See the module doc.
#[derive(Default)]
pub struct Leases {
    /// True time at which a session's expiry was first applied.
    expired: BTreeMap<i64, u64>,
    /// Acknowledged writes: (true time, zxid).
    acknowledged: VecDeque<(u64, i64)>,
    /// Highest zxid acknowledged longer ago than the bound.
    floor: i64,
    /// By operation number: the value of `floor` when it was sent.
    floors: BTreeMap<u64, i64>,
}

impl Checker for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { done: Some(done), .. } => {
                for done in *done {
                    if let Done::Ended { session, expired: true, .. } = done {
                        self.expired.insert(*session, facts.now);
                    }
                }
                Ok(())
            }
            Event::Sent { ask, .. } => {
                let bound_ns = facts.max_staleness_ns * 21 / 20 + ROOM_NS;
                while let Some((at_ns, zxid)) = self.acknowledged.front().copied()
                    && at_ns + bound_ns < facts.now
                {
                    self.acknowledged.pop_front();
                    self.floor = self.floor.max(zxid);
                }
                self.floors.insert(ask.op, self.floor);
                Ok(())
            }
            Event::Answered { client, session, ask, zxid, err, .. } => {
                let floor = self.floors.remove(&ask.op).unwrap_or(0);
                if *err != -1 && !ask.read_only && *zxid < floor {
                    return Err(format!(
                        "client {client} was answered at zxid {zxid:x}; {floor:x} was acknowledged longer ago than the \
                         bound of staleness when it asked"
                    ));
                }
                if let Some(at_ns) = self.expired.get(session)
                    && !ask.read_only
                    && ask.sent_ns > at_ns + ROOM_NS
                {
                    return Err(format!(
                        "client {client} is served in session {session:x}, which expired {} ms before it asked",
                        (ask.sent_ns - at_ns) / 1_000_000
                    ));
                }
                if ask.is_write() && *err != -1 && !ask.read_only {
                    self.acknowledged.push_back((facts.now, *zxid));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
