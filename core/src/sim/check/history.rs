//! Every answer is explained by replaying the writes in the order of zxids.
//!
//! Keeps: a write that was answered is in the log, once, and its answer (code, zxid, record) is what the model says; a write
//! that was refused as never ordered never appears; each read is, byte for byte, what the model says for the zxid in its
//! header, and that zxid is one at which a state was published.

use super::{Checker, Event, Facts};
use crate::sim::model::{Done, number};
use paddock_transport::wire::{Limits, Request, error, opcode};
use std::collections::BTreeSet;

/// See the module doc.
#[derive(Default)]
pub struct History {
    /// Writes that were refused before they were ordered.
    refused: BTreeSet<u64>,
    /// Sessions that ended, with their zxids.
    ended: std::collections::BTreeMap<i64, i64>,
}

impl History {
    fn write(&mut self, facts: &Facts, op: u64, zxid: i64, err: i32, body: &[u8]) -> Result<(), String> {
        let known = facts.model.outcomes.get(&op);
        if err == error::SYSTEM_ERROR {
            self.refused.insert(op);
            return match known {
                Some(known) => {
                    Err(format!("write {op:x} was refused as never ordered, and has zxid {:x}", known.zxid))
                }
                None => Ok(()),
            };
        }
        let Some(known) = known else {
            return Err(format!(
                "write {op:x} was answered (zxid {zxid:x}, code {err}) and is not in the log"
            ));
        };
        if (known.zxid, known.err, &known.body[..]) != (zxid, err, body) {
            return Err(format!(
                "write {op:x} was answered with zxid {zxid:x}, code {err}, {body:02x?}; its entry means zxid {:x}, \
                 code {}, {:02x?}",
                known.zxid, known.err, known.body
            ));
        }
        Ok(())
    }
}

impl Checker for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Applied { done: Some(done), .. } => {
                for done in *done {
                    match done {
                        Done::Write { op } if self.refused.contains(op) => {
                            return Err(format!(
                                "write {op:x} was refused as never ordered, and is in the log now"
                            ));
                        }
                        Done::Ended { session, zxid, .. } => {
                            self.ended.insert(*session, *zxid);
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Event::Answered { session, ask, zxid, err, body, .. } => {
                if ask.read_only && *err == error::NOT_READ_ONLY {
                    self.refused.extend(number(&ask.body).filter(|_| ask.is_write()));
                    return Ok(());
                }
                if ask.is_write() {
                    let op = number(&ask.body).ok_or("a write without a number was sent")?;
                    return self.write(facts, op, *zxid, *err, body);
                }
                if ask.opcode == opcode::CLOSE_SESSION && ask.read_only {
                    return Ok(());
                }
                if ask.opcode == opcode::CLOSE_SESSION {
                    return match self.ended.get(session) {
                        _ if *err == error::SYSTEM_ERROR => Ok(()),
                        Some(at) if *at == *zxid && *err == 0 => Ok(()),
                        other => Err(format!(
                            "session {session:x} was closed at zxid {zxid:x}, code {err}; the log says {other:x?}"
                        )),
                    };
                }
                if ask.opcode == opcode::SYNC && *err == error::SYSTEM_ERROR {
                    return Ok(());
                }
                if !facts.model.is_published(*zxid) {
                    return Err(format!(
                        "an answer (opcode {}) at zxid {zxid:x}, where no state was",
                        ask.opcode
                    ));
                }
                let request = Request::decode(ask.opcode, &ask.body, Limits::NONE)
                    .map_err(|e| format!("a request that cannot be read: {e:?}"))?;
                let Some(known) = facts.model.read(&request, *zxid, &ask.who) else { return Ok(()) };
                let (code, record) = match &known {
                    Ok(record) => (0, &record[..]),
                    Err(code) => (*code, &[][..]),
                };
                if (code, record) != (*err, *body) {
                    return Err(format!(
                        "{request:?} was answered at zxid {zxid:x} with code {err}, {body:02x?}; there it was code \
                         {code}, {record:02x?}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
