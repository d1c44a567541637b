//! Replicas never diverge.
//!
//! Keeps: whoever applies an entry of the log, at whatever time and after whatever restarts, stands at the same zxid with the
//! same digest (tree, ACLs, sessions, streams, members) as everybody else behind it; at the end every member has applied all that
//! anybody had applied a while ago ([`LAG_NS`]: sessions go on expiring to the last moment, and an entry needs its time).

use super::{Checker, Event, Facts};

/// How long an entry may take from the first node that applies it to the last one, in calm times.
const LAG_NS: u64 = 2_000_000_000;

/// See the module doc.
#[derive(Default)]
pub struct Replicas;

impl Checker for Replicas {
    fn name(&self) -> &'static str {
        "replicas"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { node, entry, .. } => {
                let Some(fact) = facts.log.get(entry.index as usize - 1) else { return Ok(()) };
                if fact.payload == entry.payload && (fact.zxid, fact.digest) != (entry.zxid, entry.digest) {
                    return Err(format!(
                        "node {node} stands at zxid {:x} with digest {:016x} behind entry {}; the first to apply it \
                         stood at {:x} with {:016x}",
                        entry.zxid, entry.digest, entry.index, fact.zxid, fact.digest
                    ));
                }
                Ok(())
            }
            Event::Ended { applied, .. } => {
                let all = facts.log.partition_point(|fact| fact.at_ns + LAG_NS < facts.now);
                for (node, index) in *applied {
                    if *index < all as u64 {
                        return Err(format!(
                            "node {node} has applied {index} of {all} entries and stays there"
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
