//! Replicas never diverge.
//!
//! Keeps: whoever applies an entry of the log, at whatever time and after whatever restarts, stands at the same zxid with the
//! same digest (tree, ACLs, sessions, streams) as everybody else behind it; at the end all have applied all.

use super::{Checker, Event, Facts};

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
                for (node, index) in *applied {
                    if *index != facts.log.len() as u64 {
                        let all = facts.log.len();
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
