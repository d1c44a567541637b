//! Checks that acknowledged writes are never lost.
//!
//! An entry that any node applied is never replaced by another, whatever crashes; nothing is acknowledged
//! before it is applied. The log grows without a gap. A session is granted only when its entry was
//! applied.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use std::collections::BTreeMap;

/// See the module doc.
#[derive(Default)]
pub struct Durability {
    /// Index of the last entry that each node's present process applied.
    last: BTreeMap<u8, u64>,
    /// Sessions that entries of the log opened.
    opened: BTreeMap<i64, ()>,
}

impl Checker for Durability {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { node, entry, done, .. } => {
                let fact = facts.log.get(entry.index as usize - 1);
                if let Some(fact) = fact
                    && (fact.term, &fact.payload) != (entry.term, &entry.payload)
                {
                    return Err(format!(
                        "entry {} was applied as one of term {} with {} bytes, and is now one of term {} with {}",
                        entry.index,
                        fact.term,
                        fact.payload.len(),
                        entry.term,
                        entry.payload.len()
                    ));
                }
                if fact.is_none() {
                    return Err(format!(
                        "node {node} applies entry {} where {} are known: there is a gap",
                        entry.index,
                        facts.log.len()
                    ));
                }
                if let Some(last) = self.last.insert(*node, entry.index)
                    && last + 1 != entry.index
                {
                    return Err(format!("node {node} applies entry {} after {last}", entry.index));
                }
                for done in done.iter().flat_map(|d| d.iter()) {
                    if let Done::Opened { session } = done {
                        self.opened.insert(*session, ());
                    }
                }
                Ok(())
            }
            Event::Started { node, zxid } => {
                self.last.remove(node);
                if *zxid > facts.model.zxid {
                    return Err(format!("node {node} starts at zxid {zxid:x}, which no node ever applied"));
                }
                Ok(())
            }
            Event::Opened { session, read_only: false, .. } if !self.opened.contains_key(session) => {
                Err(format!("session {session:x} was granted and is not in the log"))
            }
            _ => Ok(()),
        }
    }
}
