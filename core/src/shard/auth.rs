//! Who a connection is.
//!
//! Owns the `auth` request and the list of ids a connection gathers. Never checks an ACL. It stays correct because ids are
//! an immutable shared list that is replaced: a write that was forwarded carries the ids it was read under.

use super::config::IDENTITIES_MAX;
use super::connection::Connection;
use crate::acl;
use crate::command::Identity;
use paddock_transport::wire::primitives::text_from;
use paddock_transport::wire::{ClientInfo, List, Response};
use std::borrow::Cow;

/// Adds what `auth` proves to the connection's ids; `false`: the answer is -115 and the connection is closed.
pub(super) fn authenticate(
    connection: &mut Connection,
    super_digest: Option<&str>,
    scheme: Option<&str>,
    auth: Option<&[u8]>,
) -> bool {
    match scheme {
        // The connection has it since it was opened.
        Some("ip") => true,
        Some("digest") => {
            let Some(auth) = auth else { return false };
            let id = acl::digest_id(&text_from(auth));
            if super_digest == Some(id.as_str()) && !add(connection, "super", "") {
                return false;
            }
            add(connection, "digest", &id)
        }
        _ => false,
    }
}

fn add(connection: &mut Connection, scheme: &str, id: &str) -> bool {
    let ids = &connection.identities;
    if ids.iter().any(|i| i.scheme == scheme && i.id == id) {
        return true;
    }
    if ids.len() >= IDENTITIES_MAX {
        return false;
    }
    let new = Identity { scheme: scheme.to_owned(), id: id.to_owned() };
    connection.identities = ids.iter().cloned().chain([new]).collect();
    true
}

/// Answers whoAmI: every id, a digest without its hash.
pub(super) fn who_am_i<R>(connection: &Connection, with: impl FnOnce(&Response<'_>) -> R) -> R {
    let infos: Vec<ClientInfo<'_>> = connection
        .identities
        .iter()
        .map(|i| ClientInfo {
            auth_scheme: Cow::Borrowed(&i.scheme),
            user: Cow::Borrowed(match i.scheme.as_str() {
                "digest" => i.id.split(':').next().unwrap_or_default(),
                _ => &i.id,
            }),
        })
        .collect();
    with(&Response::Clients(List::new(&infos)))
}
