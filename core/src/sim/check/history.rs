//! Checks every answer against a replay of the writes in the order of zxids.
//!
//! Owns the refused writes, and the closes of sessions.
//!
//! Never accepts an answer that the model cannot explain:
//!
//! - An answered write is in the log once, and its answer (code, zxid, record) is the model's.
//! - A write that was refused as never ordered does not appear in the log, not even without effect.
//! - No session is closed except by a close that was not refused.
//! - Each read is byte for byte the model's answer at the zxid in its header, and a state was published at
//!   that zxid.
//!
//! Correct because the model keeps every past state.

use super::{Checker, Event, Facts};
use crate::sim::model::{Done, number};
use paddock_transport::wire::{Limits, Request, error, opcode};
use std::collections::{BTreeMap, BTreeSet};

/// See the module doc.
#[derive(Default)]
pub struct History {
    /// Operation numbers of writes that were refused before they were ordered.
    refused: BTreeSet<u64>,
    /// Ended sessions: zxid of the end, and whether the client closed it.
    ended: BTreeMap<i64, (i64, bool)>,
    /// The session of each client, by index.
    sessions: BTreeMap<usize, i64>,
    /// By session: number of closes that were sent and not refused.
    closes: BTreeMap<i64, u64>,
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
                        Done::Ended { session, expired: false, .. }
                            if self.closes.get(session).copied().unwrap_or(0) == 0 =>
                        {
                            return Err(format!(
                                "session {session:x} is closed in the log; every close of it was refused as never ordered"
                            ));
                        }
                        Done::Ended { session, zxid, expired, .. } => {
                            self.ended.insert(*session, (*zxid, !expired));
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Event::Opened { client, session, .. } => {
                self.sessions.insert(*client, *session);
                Ok(())
            }
            Event::Sent { client, ask } if ask.opcode == opcode::CLOSE_SESSION => {
                if let Some(session) = self.sessions.get(client) {
                    *self.closes.entry(*session).or_insert(0) += 1;
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
                    if *err == error::SYSTEM_ERROR {
                        if let Some(closes) = self.closes.get_mut(session) {
                            *closes = closes.saturating_sub(1);
                        }
                        return match self.ended.get(session) {
                            Some((at, true)) => Err(format!(
                                "the close of session {session:x} was refused, and has zxid {at:x}"
                            )),
                            _ => Ok(()),
                        };
                    }
                    return match self.ended.get(session) {
                        Some((at, _)) if *at == *zxid && *err == 0 => Ok(()),
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
