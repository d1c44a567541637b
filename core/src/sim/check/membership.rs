//! The members change one step after the other, and who is none any more stops and serves nobody.
//!
//! Keeps: a reconfiguration that was answered is one of those in the log, and one that was sent after the answer to another
//! takes effect after it; a node stops as removed only after it was taken out of the members, or was refused as one; one that has applied its own
//! removal stops ([`STOPS_NS`]) unless it is wanted again or starts anew; and it answers nothing that it
//! was asked longer afterwards than its bound of staleness. (Before it has applied its removal it may answer for as long as the
//! quorum confirms it, which feeds a removed node for a while so that it learns of it: what it says then is fresh, and that it is
//! never older than its bound is kept by `leases`.)

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use paddock_transport::wire::opcode;
use std::collections::{BTreeMap, BTreeSet};

/// How long a removed node may run on once it knows: its patience with those who asked for it, a pause of the process.
const STOPS_NS: u64 = 10_000_000_000;

/// Room for clocks of different pace, ns.
const ROOM_NS: u64 = 1_000_000_000;

/// See the module doc.
#[derive(Default)]
pub struct Membership {
    /// By entry: who was removed there.
    removals: BTreeMap<u64, Vec<u8>>,
    /// Nodes that were taken out at any time, or followed and did not become members.
    ever: BTreeSet<u8>,
    /// By node: since when it knows that it is no member.
    knows: BTreeMap<u8, u64>,
    /// Highest version that somebody was told.
    told: i64,
    /// By number of the request: what was told when it was sent.
    floors: BTreeMap<u64, i64>,
}

impl Membership {
    fn applied(&mut self, facts: &Facts, node: u8, index: u64, done: Option<&[Done]>) {
        for done in done.unwrap_or(&[]) {
            match done {
                Done::Members { removed } => {
                    self.removals.entry(index).or_default().extend(removed);
                    self.ever.extend(removed);
                }
                Done::Refused { strangers } => self.ever.extend(strangers),
                _ => {}
            }
        }
        let wanted = |node: &u8| facts.model.ensemble.wants(*node);
        self.knows.retain(|node, _| !wanted(node));
        if self.removals.get(&index).is_some_and(|removed| removed.contains(&node)) && !wanted(&node) {
            self.knows.insert(node, facts.now);
        }
    }
}

impl Checker for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { node, entry, done, replayed } => {
                self.applied(facts, *node, entry.index, *done);
                if *replayed {
                    // Whoever starts a node that is no member means it to become one.
                    self.knows.remove(node);
                }
                Ok(())
            }
            Event::Started { node, .. } | Event::Gone { node } => {
                self.knows.remove(node);
                Ok(())
            }
            Event::Removed { node } => {
                self.knows.remove(node);
                if self.ever.contains(node) {
                    return Ok(());
                }
                Err(format!("node {node} stops as removed, and was a member all the time"))
            }
            Event::Sent { ask, .. } if ask.opcode == opcode::RECONFIG => {
                self.floors.insert(ask.op, self.told);
                Ok(())
            }
            Event::Answered { node, ask, zxid, err, .. } => {
                let bound_ns = facts.max_staleness_ns * 21 / 20 + ROOM_NS;
                if let Some(out_ns) = self.knows.get(node)
                    && ask.sent_ns > out_ns + bound_ns
                    && !ask.read_only
                {
                    return Err(format!(
                        "node {node} answers what it was asked {} ms after it knew that it was removed",
                        (ask.sent_ns - out_ns) / 1_000_000
                    ));
                }
                if let Some(floor) = self.floors.remove(&ask.op).filter(|_| *err == 0) {
                    if !facts.model.ensemble.versions.contains(zxid) || *zxid <= floor {
                        return Err(format!("the members of version {zxid:x} came after those of {floor:x}"));
                    }
                    self.told = self.told.max(*zxid);
                }
                Ok(())
            }
            Event::Ended { .. } => match self.knows.iter().find(|(_, at)| **at + STOPS_NS < facts.now) {
                Some((node, at_ns)) => {
                    let ms = (facts.now - at_ns) / 1_000_000;
                    Err(format!("node {node} has applied its removal {ms} ms ago and runs on"))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
