//! Checks that reads go on while full disks prevent all writes.
//!
//! While disks of a majority are full and nothing else is wrong, a node does not close a connection of a
//! client that only reads. This holds for nodes that run all the time and have applied every applied
//! entry.
//!
//! Three cases are excepted: the consequences of earlier faults, for [`SETTLES_NS`]; clients that wait for
//! the log; and sessions shorter than [`TIMEOUT_MS_MIN`], whose lease does not outlast the change of
//! leaders caused by the first full disk.

use super::{Checker, Event, Facts};
use paddock_transport::wire::opcode;
use std::collections::BTreeMap;

/// How long the end of a process may have consequences: the bound of staleness.
const SETTLES_NS: u64 = 4_000_000_000;

/// Shorter sessions may end when the leader changes. A report in flight is sent once more, and parcels may
/// be late.
const TIMEOUT_MS_MIN: i32 = 2000;

struct OpenConnection {
    /// True time at which the connection opened.
    open_ns: u64,
    /// Whether a request on it waits for the log.
    waits: bool,
}

/// See the module doc.
#[derive(Default)]
pub struct Reading {
    clients: BTreeMap<usize, OpenConnection>,
    /// Index of the last applied entry, by node.
    applied: BTreeMap<u8, u64>,
    /// True time at which a process last ended.
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
