//! Access control lists: their shape, interning, and the one permission check that all rooms use.
//!
//! Owns the shape of an ACL in memory, which lists may be stored ([`fixup`]), and the permission check
//! ([`allowed`]).
//! Never authenticates: identities come with the connection.
//! Correct because lists are immutable, and because every function here depends on its arguments alone. The
//! state machine and the shards therefore decide alike. Only the writer of the tree changes a list's
//! reference count.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod fixup;
mod intern;
mod scheme;

pub use fixup::{FixupError, Requested, fixup};
pub use intern::Interner;
pub use paddock_transport::wire::perms;
pub use scheme::digest_id;

use crate::command::{ArchivedIdentity, Identity, policy};
use ipnet::IpNet;
use std::borrow::Cow;
use std::sync::Arc;

/// Grants permissions to one id.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AclEntry {
    /// Permission bits. Unknown bits are kept, as in ZooKeeper.
    pub perms: i32,
    /// The id that holds the permissions.
    pub id: Identity,
    /// `id` as a network, parsed when the entry is made; `None` unless the scheme is `ip` and the id is
    /// well-formed.
    network: Option<IpNet>,
}

impl AclEntry {
    /// Grants `perms` to `id`.
    pub fn new(perms: i32, id: Identity) -> AclEntry {
        let network = if id.scheme == "ip" { scheme::parse_network(&id.id) } else { None };
        AclEntry { perms, id, network }
    }
}

/// The ACL of a znode. Immutable once it is shared.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AclList {
    /// In the order of the request.
    pub entries: Vec<AclEntry>,
}

impl AclList {
    /// A list with one entry, for `world:anyone`.
    pub fn world(perms: i32) -> AclList {
        let anyone = Identity { scheme: "world".into(), id: "anyone".into() };
        AclList { entries: vec![AclEntry::new(perms, anyone)] }
    }
}

/// A shared list. Readers only borrow it; only the writer of the tree clones or drops the reference.
pub type AclRef = Arc<AclList>;

/// An authentication id: owned by a connection, or archived in a log record.
pub trait Identified {
    /// ZooKeeper's name of the scheme, such as `digest`.
    fn scheme(&self) -> &str;
    /// The id in the scheme's own form.
    fn id(&self) -> &str;
}

impl Identified for Identity {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Identified for ArchivedIdentity {
    fn scheme(&self) -> &str {
        self.scheme.as_str()
    }

    fn id(&self) -> &str {
        self.id.as_str()
    }
}

/// Whether a connection with these `ids` holds one of the `needed` permission bits (spec 02 §5.1); `policy`
/// as in [`crate::command::policy`]. If not, the answer is -102.
pub fn allowed<I: Identified>(list: &AclList, needed: i32, ids: &[I], policy: u32) -> bool {
    if policy & policy::SKIP_ACL != 0 || list.entries.is_empty() {
        return true;
    }
    // Most lists are one entry for the world, which needs no comparison of ids.
    let granting = || list.entries.iter().filter(|acl| acl.perms & needed != 0);
    if granting().any(|acl| acl.id.scheme == "world" && acl.id.id == "anyone") {
        return true;
    }
    ids.iter().any(|id| id.scheme() == "super") || granting().any(|acl| scheme::matches_any(acl, ids))
}

/// The list as getACL shows it: without ADMIN permission a client sees digest ids without their hash. The
/// caller has already checked READ or ADMIN.
pub fn mask_for_reader<'l, I: Identified>(list: &'l AclList, ids: &[I], policy: u32) -> Cow<'l, AclList> {
    let plain = |acl: &AclEntry| acl.id.scheme != "digest" || !acl.id.id.contains(':');
    if list.entries.iter().all(plain) || allowed(list, perms::ADMIN, ids, policy) {
        return Cow::Borrowed(list);
    }
    let mut masked = list.clone();
    for acl in masked.entries.iter_mut().filter(|acl| !plain(acl)) {
        let user = acl.id.id.split(':').next().unwrap_or_default();
        acl.id.id = format!("{user}:x");
    }
    Cow::Owned(masked)
}

#[cfg(test)]
mod tests;
