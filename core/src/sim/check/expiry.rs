//! Checks that sessions expire when they may, and not before.
//!
//! Owns the last contact of each session. A session must not expire before its timeout has passed since
//! its client sent the last answered request, less what clocks may differ. At the end of a run no session
//! may remain whose client went away long before.
//!
//! Never counts a contact that may not have reached the leader. In an ensemble, the opening and the moves
//! of a session always count, because they go through the log. Other requests count only without faults,
//! or with full disks alone, less one heartbeat.
//!
//! Correct because a node's contacts reach the leader with the next heartbeat, or never if the node is cut
//! off before. In that case the lease ends there, too.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use std::collections::{BTreeMap, VecDeque};

/// How much too fast simulated clocks may run, in percent, and a little more.
const CLOCKS_PERCENT: u64 = 6;

/// Longest way of a node's report to the leader: a heartbeat, and the round that carries it.
const REPORT_NS: u64 = 750_000_000;

/// How long after its timeout a silent session may live in calm times. Two ticks, a leader's change and
/// the full timeout again.
const LATE_NS: u64 = 12_000_000_000;

#[derive(Clone, Copy)]
struct Life {
    /// Last contact that surely reached the leader.
    contact_ns: u64,
    /// Last contact of any kind.
    heard_ns: u64,
    timeout_ms: i32,
}

/// See the module doc.
#[derive(Default)]
pub struct Expiry {
    sessions: BTreeMap<i64, Life>,
    clients: BTreeMap<usize, i64>,
    /// Contacts while only disks are full, with their times. Each counts once a heartbeat has passed
    /// without another fault.
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

    /// Counts contacts that nodes with full disks have reported to the leader. Drops the others if another
    /// fault begins.
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
            // Other nodes hear nothing of a client that is served read-only.
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
                // A new leader gives every session a full timeout. A late parcel or two can cause an
                // election.
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
