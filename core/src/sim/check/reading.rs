//! Where nobody can write for want of room, reads go on.
//!
//! Keeps: while the disks of a majority are full and nothing else is wrong, a node that runs all the time and has applied all that was
//! ever applied closes no connection of a client that only reads. What was wrong before may have its consequences for a while
//! ([`SETTLES_NS`]), and what a client waits for on the log is none of this; nor is the lease of a session ([`TIMEOUT_MS_MIN`]) that
//! does not outlive the change of leaders with which the first full disk begins.

use super::{Checker, Event, Facts};
use paddock_transport::wire::opcode;
use std::collections::BTreeMap;

/// How long a process that ended may be felt: the bound of staleness.
const SETTLES_NS: u64 = 4_000_000_000;

/// Shorter sessions may be let go when the leader changes: a report that was on its way is made once more, and parcels may be late.
const TIMEOUT_MS_MIN: i32 = 2000;

struct OpenConnection {
    /// Since when the connection stands.
    open_ns: u64,
    /// Whether it was asked for something that waits for the log.
    waits: bool,
}

/// See the module doc.
#[derive(Default)]
pub struct Reading {
    clients: BTreeMap<usize, OpenConnection>,
    /// The last entry that each node has applied.
    applied: BTreeMap<u8, u64>,
    /// When any process ended last.
    gone_ns: u64,
}

impl Checker for Reading {
    fn name(&self) -> &'static str {
        "reading"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { node, entry, .. } => {
                self.applied.insert(*node, entry.index);
                Ok(())
            }
            Event::Gone { .. } => {
                self.gone_ns = facts.now;
                Ok(())
            }
            Event::Opened { client, timeout_ms, read_only, .. } => {
                self.clients.remove(client);
                if !read_only && *timeout_ms >= TIMEOUT_MS_MIN {
                    self.clients.insert(*client, OpenConnection { open_ns: facts.now, waits: false });
                }
                Ok(())
            }
            Event::Sent { client, ask } => {
                if let Some(seen) = self.clients.get_mut(client) {
                    seen.waits |= !matches!(opcode::class(ask.opcode), Some(opcode::Class::Read));
                }
                Ok(())
            }
            Event::Lost { client, by } => {
                let (Some(seen), Some(node), Some(full_ns)) =
                    (self.clients.remove(client), by, facts.full_since)
                else {
                    return Ok(());
                };
                let settled = facts.now > self.gone_ns + SETTLES_NS;
                let whole = self.applied.get(node).copied() == Some(facts.log.len() as u64);
                if settled && whole && seen.open_ns < full_ns && !seen.waits {
                    return Err(format!(
                        "node {node} closed the connection of client {client}, which only reads, {} ms after the disks began to \
                         fill up",
                        (facts.now - full_ns) / 1_000_000
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
