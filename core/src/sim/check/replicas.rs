//! Checks that replicas never diverge.
//!
//! Every node that applies an entry, at any time and after any restarts, has the same zxid and digest
//! after it. The digest covers tree, ACLs, sessions, streams and members. At the end every member has
//! applied all entries that any node had applied [`LAG_NS`] before. Later entries are excepted, because
//! sessions expire to the last moment.

use super::{Checker, Event, Facts};

/// Longest time, without faults, from the first node that applies an entry to the last.
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
                        "node {node} is at zxid {:x} with digest {:016x} after entry {}; the first to apply it \
                         was at {:x} with {:016x}",
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
