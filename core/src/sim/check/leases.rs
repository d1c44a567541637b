//! Nobody is served by a node that sleeps, is cut off, or follows a deposed leader.
//!
//! Keeps: no session is served where its client asks after it expired elsewhere; and no answer is older than the node's bound
//! of staleness: it stands at or above every write that was acknowledged longer ago than that when it was asked for. Both
//! with some room for clocks of different pace. A server that says it serves reads only, to clients that take one, promises
//! neither, whatever session they have.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use std::collections::{BTreeMap, VecDeque};

/// What clocks may differ, and an answer may take on its way, ns.
const ROOM_NS: u64 = 500_000_000;

/// See the module doc.
#[derive(Default)]
pub struct Leases {
    /// When each session was first seen to have expired.
    expired: BTreeMap<i64, u64>,
    /// Acknowledged writes: (when, highest zxid so far).
    acknowledged: VecDeque<(u64, i64)>,
    /// Highest zxid acknowledged longer ago than the bound.
    floor: i64,
    /// By number of the request.
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
