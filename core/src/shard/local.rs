//! Requests that are answered here and neither read one path nor are written.
//!
//! Owns multiRead, the watch requests, whoAmI and authentication as requests. Never forwards anything.

use super::auth;
use super::connection::Connection;
use super::reads::View;
use super::watching::{self, refuse_watches};
use crate::watch::Watches;
use paddock_transport::io::OutBuf;
use paddock_transport::wire::{Request, Response, error, reply};

/// How a local request leaves the connection.
pub(super) enum Ended {
    Open { events: u64 },
    AuthFailed,
    Close,
}

/// Answers what neither reads one path nor is written.
pub(super) struct Local<'s, 'v> {
    pub view: &'s View<'v>,
    pub watches: &'s mut Watches,
    pub connection: &'s mut Connection,
    pub super_digest: Option<&'s str>,
    pub xid: i32,
}

impl Local<'_, '_> {
    pub fn answer(&mut self, opcode: i32, request: Request<'_>, out: &mut OutBuf) -> Ended {
        let (xid, zxid) = (self.xid, self.view.zxid);
        let slot = self.connection.id.index() as u32;
        let bytes = out.bytes();
        match request {
            Request::MultiRead(ops) => self.view.multi_read(xid, ops, &self.connection.identities, bytes),
            Request::SetWatches(lists) | Request::SetWatches2(lists) => {
                match watching::set_watches(self.view, self.watches, slot, &lists, bytes) {
                    Ok(events) => {
                        reply::put_empty(bytes, xid, zxid);
                        return Ended::Open { events };
                    }
                    Err(full) => {
                        refuse_watches(Err(full), self.connection);
                        return Ended::Close;
                    }
                }
            }
            Request::AddWatch { path, mode } => {
                let armed = self.watches.add(slot, &path, watching::mode(mode));
                if refuse_watches(armed, self.connection) {
                    return Ended::Close;
                }
                reply::put_response(bytes, xid, zxid, &Response::WatchAdded(0));
            }
            Request::CheckWatches { path, kind } => {
                let there = self.watches.has(slot, &path, watching::kind(kind));
                reply::put_error(bytes, xid, zxid, if there { 0 } else { error::NO_WATCHER });
            }
            Request::RemoveWatches { path, kind } => {
                let there = self.watches.remove(slot, &path, watching::kind(kind));
                reply::put_error(bytes, xid, zxid, if there { 0 } else { error::NO_WATCHER });
            }
            Request::WhoAmI => auth::who_am_i(self.connection, |r| reply::put_response(bytes, xid, zxid, r)),
            Request::Auth { scheme, auth, .. } => {
                let known = auth::authenticate(self.connection, self.super_digest, scheme.as_deref(), auth);
                reply::put_error(bytes, xid, 0, if known { 0 } else { error::AUTH_FAILED });
                if !known {
                    return Ended::AuthFailed;
                }
            }
            // Without a SASL configuration: no token, and the connection goes on.
            Request::Sasl { .. } => reply::put_response(bytes, xid, 0, &Response::Token(None)),
            // The index of a session's ephemerals is the machine's.
            Request::GetEphemerals { .. } => reply::put_error(bytes, xid, zxid, error::UNIMPLEMENTED),
            // `classify` sends nothing else here; an opcode that it does not know has no answer.
            _ => {
                debug_assert!(false, "opcode {opcode} is not answered here");
                reply::put_error(bytes, xid, zxid, error::UNIMPLEMENTED);
            }
        }
        Ended::Open { events: 0 }
    }
}
