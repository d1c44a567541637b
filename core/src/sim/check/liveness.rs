//! Checks that every client is served once the faults have ended.
//!
//! Within [`BOUND_NS`] of virtual time after the last fault, each client has a write acknowledged that it
//! sent after that fault. No request stays unanswered for longer.

use super::{Checker, Event, Facts};
use std::collections::BTreeSet;

/// Virtual time that a client may wait after the faults have ended: a restart, an election, a session's
/// timeout.
pub const BOUND_NS: u64 = 15_000_000_000;

/// See the module doc.
#[derive(Default)]
pub struct Liveness {
    clients: BTreeSet<usize>,
    served: BTreeSet<usize>,
}

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Sent { client, ask } if ask.is_write() => {
                self.clients.insert(*client);
                Ok(())
            }
            Event::Answered { client, ask, err, .. } => {
                if ask.is_write()
                    && *err != -1
                    && !ask.read_only
                    && facts.calm_since.is_some_and(|since| ask.sent_ns >= since)
                {
                    self.served.insert(*client);
                }
                Ok(())
            }
            Event::Ended { unanswered, .. } => {
                if let Some((client, sent_ns)) = unanswered.first() {
                    let waited_ms = (facts.now - sent_ns) / 1_000_000;
                    return Err(format!("client {client} waits for an answer since {waited_ms} ms"));
                }
                match self.clients.difference(&self.served).next() {
                    Some(client) => {
                        Err(format!("client {client} had no write acknowledged since the faults ended"))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
