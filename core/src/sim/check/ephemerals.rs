//! Checks that ephemeral nodes are deleted exactly with their session.
//!
//! No client reads an ephemeral node whose owner ended at or before the answer's zxid, or never existed.
//! The id of an ended session is never granted again.

use super::{Checker, Event, Facts};
use crate::sim::model::Done;
use paddock_transport::wire::{Limits, Response};
use std::collections::BTreeMap;

/// See the module doc.
#[derive(Default)]
pub struct Ephemerals {
    /// Zxid of the end of each session; `None` while it lives.
    sessions: BTreeMap<i64, Option<i64>>,
}

impl Checker for Ephemerals {
    fn name(&self) -> &'static str {
        "ephemerals"
    }

    fn see(&mut self, _: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { done: Some(done), .. } => {
                for done in *done {
                    match done {
                        Done::Opened { session } if self.sessions.insert(*session, None).is_some() => {
                            return Err(format!("the id of session {session:x} was given twice"));
                        }
                        Done::Ended { session, zxid, .. } => {
                            self.sessions.insert(*session, Some(*zxid));
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Event::Answered { ask, zxid, err: 0, body, .. } => {
                let stat = match Response::decode(ask.opcode, body, Limits::NONE) {
                    Ok(Response::Data(_, stat) | Response::Stat(stat) | Response::PathStat(_, stat)) => stat,
                    Ok(Response::NamesStat(_, stat) | Response::Acl(_, stat)) => stat,
                    _ => return Ok(()),
                };
                if stat.ephemeral_owner == 0 {
                    return Ok(());
                }
                match self.sessions.get(&stat.ephemeral_owner) {
                    None => Err(format!("an ephemeral of {:x}, which never was", stat.ephemeral_owner)),
                    Some(Some(end)) if end <= zxid => Err(format!(
                        "an ephemeral of session {:x} at zxid {zxid:x}; the session ended at {end:x}",
                        stat.ephemeral_owner
                    )),
                    Some(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
