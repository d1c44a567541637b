//! Authentication of a connection.
//!
//! Owns the `auth` request and the list of ids of a connection. Never checks an ACL. Correct because the
//! list is immutable and replaced as a whole: a forwarded write carries the ids that the connection had
//! when the write was parsed.

use super::config::IDENTITIES_MAX;
use super::connection::Connection;
use crate::acl;
use crate::command::Identity;
use paddock_transport::wire::primitives::text_from;
use paddock_transport::wire::{ClientInfo, List, Response};
use std::borrow::Cow;

/// Adds the id that `auth` proves to the connection. `false`: the reply is error -115, and the connection
/// closes.
pub(super) fn authenticate(
    connection: &mut Connection,
    super_digest: Option<&str>,
    scheme: Option<&str>,
    auth: Option<&[u8]>,
) -> bool {
    match scheme {
        // The connection has this id from the start.
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

/// Answers whoAmI: every id of the connection, without the hashes of digest ids.
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
