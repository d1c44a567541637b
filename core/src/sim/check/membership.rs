//! Checks that members change one step at a time, and that a removed node stops and serves no client.
//!
//! Owns the removals, and the nodes that know theirs. These promises hold:
//!
//! - An answered reconfiguration is in the log. One sent after the answer to another takes effect after
//!   it.
//! - A node stops as removed only after it was removed from the members, or was refused as one.
//! - A node that applied its own removal stops within [`STOPS_NS`], unless it is wanted again or restarts.
//! - Such a node answers no request that was sent later than its bound of staleness after that.
//!
//! Never judges answers before the removal is applied. The quorum confirms a removed node for a while, so
//! that it learns of the removal. Its answers are then fresh, and `leases` checks that they are no older
//! than the bound.
//!
//! Correct because the model reads the members from the log.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use paddock_transport::wire::opcode;
use std::collections::{BTreeMap, BTreeSet};

/// How long a removed node may run once it knows. It waits for those who asked for the removal, and its
/// process may be paused.
const STOPS_NS: u64 = 10_000_000_000;

/// Tolerance for clocks of different pace, ns.
const ROOM_NS: u64 = 1_000_000_000;

/// See the module doc.
#[derive(Default)]
pub struct Membership {
    /// By index of the entry: the nodes removed there.
    removals: BTreeMap<u64, Vec<u8>>,
    /// Nodes that were removed at any time, or that did not become members.
    ever: BTreeSet<u8>,
    /// By node: true time since which it knows that it is no member.
    knows: BTreeMap<u8, u64>,
    /// Highest version that any client was told.
    told: i64,
    /// By operation number: the value of `told` when it was sent.
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
                    // A node that starts without being a member is meant to become one.
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
