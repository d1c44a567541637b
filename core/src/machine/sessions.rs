//! Opening, attaching, closing and expiring sessions.
//!
//! Owns the rules by which the log changes the session table.
//! Never decides when a session dies: an expiry is a command, like a close.
//! Correct because one number, the attachment, says which connection may write for a session. It is raised
//! here and compared here.
#![forbid(unsafe_code)]

use super::write::{Context, Transaction};
use super::{Applied, Machine};
use crate::command::{ArchivedBatch, ArchivedCommand};
use crate::commit::{Outcome, SessionEvent};
use crate::mutation::{Mutation, mutated};
use crate::session::{PASSWORD_BYTES, Session, password_matches};
use crate::tree::Writer;
use std::collections::BTreeSet;

impl Machine {
    /// Refuses an id that exists, or that no session may have. Nodes assign ids, each from its own range.
    pub(super) fn open_session(
        &mut self,
        term: u64,
        id: i64,
        timeout_ms: i32,
        password: [u8; PASSWORD_BYTES],
    ) -> Outcome {
        if crate::client_stat::session_owner(id).is_none() || self.sessions.get(id).is_some() {
            return Outcome::Refused;
        }
        self.take_zxid(term);
        let session = Session { timeout_ms, password, attachment: 1, ephemerals: BTreeSet::new() };
        self.sums.add_session(id, &session);
        let outcome = attached(id, &session);
        self.sessions.insert(id, session);
        outcome
    }

    /// Assigns no zxid. A client that has seen a later zxid than this log holds gets no answer, and nothing
    /// changes. A wrong password is refused and, as in ZooKeeper, closes the session's connection.
    pub(super) fn attach_session(
        &mut self,
        id: i64,
        timeout_ms: i32,
        password: &[u8],
        last_zxid_seen: i64,
        events: &mut Vec<SessionEvent>,
    ) -> Outcome {
        if last_zxid_seen > self.zxid {
            return Outcome::Drop;
        }
        let Some(session) = self.sessions.get_mut(id) else { return Outcome::Refused };
        self.sums.remove_session(id, session);
        session.attachment = session.attachment.wrapping_add(1);
        let known = password_matches(&session.password, password);
        if known {
            session.timeout_ms = timeout_ms;
        }
        self.sums.add_session(id, session);
        events.push(SessionEvent::Moved { session: id, attachment: session.attachment });
        if known { attached(id, session) } else { Outcome::Refused }
    }

    pub(super) fn close_session(
        &mut self,
        tree: &mut Writer,
        term: u64,
        batch: &ArchivedBatch,
        command: &ArchivedCommand,
        out: &mut Applied,
    ) -> Outcome {
        match self.sessions.get(command.session.to_native()) {
            Some(session) if session.attachment == command.attachment.to_native() => {
                self.end_session(tree, term, batch, command, out)
            }
            _ => Outcome::Drop,
        }
    }

    pub(super) fn expire_session(
        &mut self,
        tree: &mut Writer,
        term: u64,
        batch: &ArchivedBatch,
        command: &ArchivedCommand,
        out: &mut Applied,
    ) -> Outcome {
        match self.sessions.get(command.session.to_native()) {
            Some(_) => self.end_session(tree, term, batch, command, out),
            None => Outcome::Drop,
        }
    }

    /// Removes the session and all its ephemeral znodes under one zxid.
    fn end_session(
        &mut self,
        tree: &mut Writer,
        term: u64,
        batch: &ArchivedBatch,
        command: &ArchivedCommand,
        out: &mut Applied,
    ) -> Outcome {
        let id = command.session.to_native();
        let zxid = self.take_zxid(term);
        let Some(session) = self.sessions.remove(id) else { return Outcome::Drop };
        self.sums.remove_session(id, &session);
        let context = Context::of(batch, command, zxid);
        let mut transaction = Transaction::new(tree, self, context, &mut out.changes);
        let left = usize::from(mutated(Mutation::LeaveEphemeral));
        for path in session.ephemerals.into_iter().skip(left) {
            transaction.remove(path);
        }
        out.sessions.push(SessionEvent::Closed { session: id });
        Outcome::Ok(Vec::new())
    }
}

fn attached(id: i64, session: &Session) -> Outcome {
    Outcome::Attached {
        session: id,
        attachment: session.attachment,
        timeout_ms: session.timeout_ms,
        password: session.password,
    }
}
