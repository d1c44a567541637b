//! Sessions expire when they may, and not before.
//!
//! Keeps: a session is not expired sooner than its timeout after the last moment at which its client sent something that was
//! answered (less what clocks may differ). In an ensemble that holds for the session's opening and its moves, which go
//! through the log, always, and for everything else while there are no faults, or none but full disks, less a beat: what a node
//! heard reaches the leader with the next beat, or not at all if the node is cut off before (then the lease ends there, too). And
//! when all is quiet, no session is left whose client went away long before.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use std::collections::{BTreeMap, VecDeque};

/// What clocks of the simulation may run too fast, parts per hundred, and a little more.
const CLOCKS_PERCENT: u64 = 6;

/// What a node's report may take on its way to the leader: a beat, and the round that carries it.
const REPORT_NS: u64 = 750_000_000;

/// How long after its timeout a silent session may live in calm times: two ticks, a leader's change and its full timeout again.
const LATE_NS: u64 = 12_000_000_000;

#[derive(Clone, Copy)]
struct Life {
    /// Last contact that its client can count on.
    contact_ns: u64,
    /// Last contact.
    heard_ns: u64,
    timeout_ms: i32,
}

/// See the module doc.
#[derive(Default)]
pub struct Expiry {
    sessions: BTreeMap<i64, Life>,
    clients: BTreeMap<usize, i64>,
    /// Sessions heard of while nothing is wrong but that disks are full, with when: once a beat has passed like this, it counts.
    reporting: VecDeque<(i64, u64)>,
}

impl Expiry {
    fn heard(&mut self, session: i64, at_ns: u64) {
        if let Some(life) = self.sessions.get_mut(&session) {
            life.heard_ns = life.heard_ns.max(at_ns);
        }
    }

    fn contact(&mut self, session: i64, at_ns: u64) {
        if let Some(life) = self.sessions.get_mut(&session) {
            life.contact_ns = life.contact_ns.max(at_ns);
        }
    }

    /// What nodes with full disks heard has reached the leader, or never will if something else goes wrong.
    fn report(&mut self, facts: &Facts) {
        if facts.full_since.is_none() {
            self.reporting.clear();
        }
        while let Some((session, at_ns)) = self.reporting.pop_front_if(|(_, at)| *at + REPORT_NS <= facts.now)
        {
            self.contact(session, at_ns);
        }
    }
}

impl Checker for Expiry {
    fn name(&self) -> &'static str {
        "expiry"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        self.report(facts);
        match event {
            Event::Opened { client, session, timeout_ms, asked_ns, read_only: false } => {
                self.clients.insert(*client, *session);
                let life = self.sessions.entry(*session).or_insert(Life {
                    contact_ns: 0,
                    heard_ns: 0,
                    timeout_ms: 0,
                });
                life.timeout_ms = *timeout_ms;
                self.contact(*session, *asked_ns);
                Ok(())
            }
            // Of a client that is served read-only nobody else hears.
            Event::Answered { session, ask, .. } if !ask.read_only => {
                if facts.fresh_reads {
                    self.contact(*session, ask.sent_ns);
                } else if facts.calm_since.is_some_and(|since| ask.sent_ns > since + LATE_NS) {
                    self.contact(*session, ask.sent_ns.saturating_sub(REPORT_NS));
                } else if facts.full_since.is_some_and(|since| ask.sent_ns > since) {
                    self.reporting.push_back((*session, ask.sent_ns));
                }
                self.heard(*session, ask.sent_ns);
                Ok(())
            }
            Event::Applied { done: Some(done), .. } => {
                for done in *done {
                    if let Done::Ended { session, expired: true, timeout_ms, .. } = done
                        && let Some(life) = self.sessions.get(session)
                    {
                        let least =
                            *timeout_ms.min(&life.timeout_ms) as u64 * 10_000 * (100 - CLOCKS_PERCENT);
                        if facts.now < life.contact_ns + least {
                            return Err(format!(
                                "session {session:x} (timeout {timeout_ms} ms) expired {} ms after its client had sent \
                                 something that was answered",
                                (facts.now - life.contact_ns) / 1_000_000
                            ));
                        }
                    }
                }
                Ok(())
            }
            Event::Ended { .. } => {
                // Whoever begins to lead gives everybody a full timeout; a late parcel or two make an election.
                let leads =
                    facts.log.windows(2).rev().find(|w| w[0].term != w[1].term).map_or(0, |w| w[1].at_ns);
                let calm = facts.calm_since.unwrap_or(facts.now).max(leads);
                for (session, held) in &facts.model.sessions {
                    let life = self.sessions.get(session);
                    let since = life.map_or(0, |l| l.heard_ns.max(l.contact_ns)).max(calm);
                    if facts.now > since + held.timeout_ms as u64 * 1_000_000 + LATE_NS {
                        return Err(format!(
                            "session {session:x} (timeout {} ms) still lives {} ms after its client went away",
                            held.timeout_ms,
                            (facts.now - since) / 1_000_000
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
