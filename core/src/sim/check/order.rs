//! Checks that writes are linearizable, and so are syncs and reads where that is promised.
//!
//! A write sent after another was acknowledged, to any client, has the larger zxid. A sync, and each later
//! read of its client, sees every write acknowledged before the sync was sent. The same holds for every
//! read on a single node, and on listeners that promise it. Pings and requests about watches are no reads
//! here.

use super::{Checker, Event, Facts};
use paddock_transport::wire::{error, opcode};
use std::collections::BTreeMap;

/// Requests about a session and its own watches, which reveal nothing of the state.
fn is_kept(code: i32) -> bool {
    matches!(code, opcode::PING | opcode::SET_WATCHES2 | opcode::CHECK_WATCHES | opcode::REMOVE_WATCHES)
}

/// See the module doc.
#[derive(Default)]
pub struct Order {
    /// Highest zxid of an acknowledged write.
    acknowledged: i64,
    /// The value of `acknowledged` when each request was sent.
    floors: BTreeMap<u64, i64>,
}

impl Checker for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Sent { ask, .. } => {
                self.floors.insert(ask.op, self.acknowledged);
                Ok(())
            }
            Event::Answered { client, ask, zxid, err, .. } => {
                let floor = self.floors.remove(&ask.op).unwrap_or(0);
                if *err == error::SYSTEM_ERROR || ask.read_only {
                    return Ok(());
                }
                let held = match opcode::class(ask.opcode) {
                    Some(opcode::Class::Write) => *zxid > floor,
                    Some(opcode::Class::Sync) => *zxid >= floor,
                    Some(opcode::Class::Read) if ask.linearizable && !is_kept(ask.opcode) => *zxid >= floor,
                    _ => !facts.fresh_reads || *zxid >= floor,
                };
                if !held {
                    return Err(format!(
                        "client {client} (opcode {}) is at zxid {zxid:x}; {floor:x} was acknowledged before it asked",
                        ask.opcode
                    ));
                }
                if ask.is_write() {
                    self.acknowledged = self.acknowledged.max(*zxid);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
