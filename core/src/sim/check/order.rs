//! Writes are linearizable, and so are syncs and reads where that is promised.
//!
//! Keeps: a write sent after another was acknowledged, by whomever, has the larger zxid; a sync, and everything that its
//! client reads behind it, stands at or above every write acknowledged before the sync was sent; where one node is all there
//! is, and on listeners that promise it, each read does (pings, and what is about watches alone, are none).

use super::{Checker, Event, Facts};
use paddock_transport::wire::{error, opcode};
use std::collections::BTreeMap;

/// What is about a session and its own watches: nobody learns of the state by it.
fn is_kept(code: i32) -> bool {
    matches!(code, opcode::PING | opcode::SET_WATCHES2 | opcode::CHECK_WATCHES | opcode::REMOVE_WATCHES)
}

/// See the module doc.
#[derive(Default)]
pub struct Order {
    /// Highest zxid of a write that somebody was told of.
    acknowledged: i64,
    /// What was acknowledged when each request was sent.
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
                        "client {client} (opcode {}) stands at zxid {zxid:x}; {floor:x} was acknowledged before it asked",
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
