//! Checks that each session is in order, and that its view never goes back.
//!
//! Answers come in the order of requests, except for a ping right after a reconfiguration. The zxids of a
//! session's answers never fall, across reconnects and nodes too. A read is never older than an event that
//! its client was told. Notifications come in the order of zxids, and no session has the id of an earlier
//! one.

use super::{Checker, Event, Facts};
use paddock_transport::wire::opcode;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct ClientOrder {
    session: i64,
    answered: i64,
    notified: i64,
    /// Operation numbers and opcodes of open requests.
    waiting: std::collections::VecDeque<(u64, i32)>,
}

/// See the module doc.
#[derive(Default)]
pub struct SessionOrder {
    clients: BTreeMap<usize, ClientOrder>,
    /// Ids of all sessions, except read-only ones.
    ids: BTreeSet<i64>,
}

impl Checker for SessionOrder {
    fn name(&self) -> &'static str {
        "session"
    }

    fn see(&mut self, _: &Facts, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Nonsense { client, what } => Err(format!("client {client}: {what}")),
            Event::Opened { client, session, read_only, .. } => {
                let seen = self.clients.entry(*client).or_default();
                let first = !read_only && self.ids.insert(*session);
                if seen.session != *session {
                    if !read_only && !first {
                        return Err(format!(
                            "client {client} was given {session:x}, as was another session before"
                        ));
                    }
                    *seen = ClientOrder { session: *session, ..ClientOrder::default() };
                }
                Ok(())
            }
            Event::Sent { client, ask } => {
                self.clients.entry(*client).or_default().waiting.push_back((ask.op, ask.opcode));
                Ok(())
            }
            Event::Lost { client, .. } => {
                self.clients.entry(*client).or_default().waiting.clear();
                Ok(())
            }
            Event::Answered { client, ask, zxid, .. } => {
                let seen = self.clients.entry(*client).or_default();
                let reconfigures = seen.waiting.front().is_some_and(|(_, code)| *code == opcode::RECONFIG);
                let place = usize::from(reconfigures && ask.opcode == opcode::PING);
                if seen.waiting.remove(place).map(|(op, _)| op) != Some(ask.op) {
                    return Err(format!("client {client}: the answer to {} overtook another", ask.xid));
                }
                if *zxid < seen.answered {
                    return Err(format!(
                        "client {client} was answered at zxid {:x}, and now at {zxid:x} (opcode {})",
                        seen.answered, ask.opcode
                    ));
                }
                let reads = opcode::class(ask.opcode) == Some(opcode::Class::Read);
                if reads && *zxid < seen.notified {
                    return Err(format!(
                        "client {client} was told of an event of {:x}, and reads at {zxid:x} afterwards",
                        seen.notified
                    ));
                }
                seen.answered = *zxid;
                Ok(())
            }
            Event::Notified { client, zxid, path, .. } if *zxid != -1 => {
                let seen = self.clients.entry(*client).or_default();
                if *zxid < seen.notified {
                    let last = seen.notified;
                    return Err(format!("client {client}: event {zxid:x} of {path} came after {last:x}"));
                }
                seen.notified = *zxid;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
