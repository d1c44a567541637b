//! Requests that the shard answers, other than reads of one path.
//!
//! Owns multiRead, the watch requests, whoAmI and authentication. Never forwards a request.

use super::auth;
use super::connection::Connection;
use super::read_replies::ReadView;
use super::watch_requests::{self, refuse_watches};
use crate::watch::Watches;
use paddock_transport::io::OutBuf;
use paddock_transport::wire::{Request, Response, error, reply};

/// State of the connection behind a local request.
pub(super) enum LocalOutcome {
    Open { events: u64 },
    AuthFailed,
    Close,
}

/// The state with which one local request is answered.
pub(super) struct LocalRequest<'s, 'v> {
    pub view: &'s ReadView<'v>,
    pub watches: &'s mut Watches,
    pub connection: &'s mut Connection,
    pub super_digest: Option<&'s str>,
    pub xid: i32,
}

impl LocalRequest<'_, '_> {
    pub fn answer(&mut self, opcode: i32, request: Request<'_>, out: &mut OutBuf) -> LocalOutcome {
        let (xid, zxid) = (self.xid, self.view.zxid);
        let slot = self.connection.id.index() as u32;
        let bytes = out.bytes();
        match request {
            Request::MultiRead(ops) => self.view.multi_read(xid, ops, &self.connection.identities, bytes),
            Request::SetWatches(lists) | Request::SetWatches2(lists) => {
                match watch_requests::set_watches(self.view, self.watches, slot, &lists, bytes) {
                    Ok(events) => {
                        reply::put_empty(bytes, xid, zxid);
                        return LocalOutcome::Open { events };
                    }
                    Err(full) => {
                        refuse_watches(Err(full), self.connection);
                        return LocalOutcome::Close;
                    }
                }
            }
            Request::AddWatch { path, mode } => {
                let armed = self.watches.add(slot, &path, watch_requests::mode(mode));
                if refuse_watches(armed, self.connection) {
                    return LocalOutcome::Close;
                }
                reply::put_response(bytes, xid, zxid, &Response::WatchAdded(0));
            }
            Request::CheckWatches { path, kind } => {
                let there = self.watches.has(slot, &path, watch_requests::kind(kind));
                reply::put_error(bytes, xid, zxid, if there { 0 } else { error::NO_WATCHER });
            }
            Request::RemoveWatches { path, kind } => {
                let there = self.watches.remove(slot, &path, watch_requests::kind(kind));
                reply::put_error(bytes, xid, zxid, if there { 0 } else { error::NO_WATCHER });
            }
            Request::WhoAmI => auth::who_am_i(self.connection, |r| reply::put_response(bytes, xid, zxid, r)),
            Request::Auth { scheme, auth, .. } => {
                let known = auth::authenticate(self.connection, self.super_digest, scheme.as_deref(), auth);
                reply::put_error(bytes, xid, 0, if known { 0 } else { error::AUTH_FAILED });
                if !known {
                    return LocalOutcome::AuthFailed;
                }
            }
            // SASL is not configured: the reply has no token, and the connection stays open.
            Request::Sasl { .. } => reply::put_response(bytes, xid, 0, &Response::Token(None)),
            // Only the state machine has the index of a session's ephemerals.
            Request::GetEphemerals { .. } => reply::put_error(bytes, xid, zxid, error::UNIMPLEMENTED),
            // `classify` sends no other opcode here.
            _ => {
                debug_assert!(false, "opcode {opcode} is not answered here");
                reply::put_error(bytes, xid, zxid, error::UNIMPLEMENTED);
            }
        }
        LocalOutcome::Open { events: 0 }
    }
}
