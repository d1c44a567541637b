//! Checks that sequence numbers are unique and grow.
//!
//! Of two acknowledged sequential znodes under one parent, the one with the larger zxid has the larger
//! number. Looks at answers only.

use super::{Checker, Event, Facts};
use crate::sim::model::parent;
use paddock_transport::wire::{Limits, MultiResult, Request, Response, opcode};
use std::collections::BTreeMap;

/// See the module doc.
#[derive(Default)]
pub struct Sequences {
    /// By parent path and its czxid: (zxid, position within a multi) to number.
    given: BTreeMap<(String, i64), BTreeMap<(i64, usize), i64>>,
}

impl Sequences {
    fn note(&mut self, facts: &Facts, path: &str, at: (i64, usize)) -> Result<(), String> {
        let Some(number) = path.get(path.len().saturating_sub(10)..).and_then(|n| n.parse().ok()) else {
            return Err(format!("{path} does not end in a sequence number"));
        };
        let above = parent(path);
        let Some(born) = facts.model.at(above, at.0).map(|z| z.stat.czxid) else { return Ok(()) };
        let given = self.given.entry((above.to_owned(), born)).or_default();
        let before = given.range(..at).next_back().map(|(_, n)| *n);
        let after = given.range(at..).next().map(|(_, n)| *n);
        if before.is_some_and(|n| n >= number) || after.is_some_and(|n| n <= number) {
            return Err(format!("{path} (zxid {:x}) lies between {before:?} and {after:?}", at.0));
        }
        given.insert(at, number);
        Ok(())
    }
}

impl Checker for Sequences {
    fn name(&self) -> &'static str {
        "sequences"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        let Event::Answered { ask, zxid, err: 0, body, .. } = event else { return Ok(()) };
        let sequential = |request: &Request<'_>| matches!(request, Request::Create(c) if c.flags & 2 != 0);
        let Ok(request) = Request::decode(ask.opcode, &ask.body, Limits::NONE) else { return Ok(()) };
        match (&request, Response::decode(ask.opcode, body, Limits::NONE)) {
            (create, Ok(Response::Path(path) | Response::PathStat(path, _))) if sequential(create) => {
                self.note(facts, &path, (*zxid, 0))
            }
            (Request::Multi(ops), Ok(Response::Multi(results))) if ask.opcode == opcode::MULTI => {
                for (at, (op, result)) in ops.iter().zip(results.iter()).enumerate() {
                    match result {
                        MultiResult::Create { path } | MultiResult::Create2 { path, .. }
                            if sequential(&op) =>
                        {
                            self.note(facts, &path, (*zxid, at))?;
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
