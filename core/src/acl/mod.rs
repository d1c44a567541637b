//! Access control lists: their shape, interning, and the one check that every room uses.
//!
//! Owns what an ACL is in memory, which lists may be stored ([`fixup`]), and who may do what ([`allowed`]). Never
//! authenticates anybody: identities come with the connection. It stays correct because lists are immutable and
//! shared by reference count, counted only by the tree's writer, and because everything here is a function of
//! its arguments: the machine and the shards decide alike.
#![forbid(unsafe_code)]

mod fixup;
mod intern;
mod scheme;

pub use fixup::{FixupError, Requested, fixup};
pub use intern::Interner;
pub use paddock_transport::wire::perms;
pub use scheme::digest_id;

use crate::command::{ArchivedIdentity, Identity, policy};
use std::borrow::Cow;
use std::sync::Arc;

/// One entry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Acl {
    /// Permission bits, unknown ones kept.
    pub perms: i32,
    /// To whom.
    pub id: Identity,
}

/// A whole list, immutable.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AclList {
    /// In the order that was given.
    pub entries: Vec<Acl>,
}

impl AclList {
    /// One entry for `world:anyone`.
    pub fn world(perms: i32) -> AclList {
        AclList { entries: vec![Acl { perms, id: Identity { scheme: "world".into(), id: "anyone".into() } }] }
    }
}

/// A shared list. Readers only look through it; only the writer of the tree clones or drops it.
pub type AclRef = Arc<AclList>;

/// An authentication id, owned by a connection or lying in a log record.
pub trait Identified {
    /// The scheme's name.
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

/// Whether a connection with these `ids` holds one of the `needed` permission bits (spec 02 §5.1); `policy` as in
/// [`crate::command::policy`]. If not, the answer is -102.
pub fn allowed<I: Identified>(list: &AclList, needed: i32, ids: &[I], policy: u32) -> bool {
    if policy & policy::SKIP_ACL != 0 || list.entries.is_empty() {
        return true;
    }
    // The usual list is one entry for the world: answered without a look at the ids.
    let granting = || list.entries.iter().filter(|acl| acl.perms & needed != 0);
    if granting().any(|acl| acl.id.scheme == "world" && acl.id.id == "anyone") {
        return true;
    }
    ids.iter().any(|id| id.scheme() == "super") || granting().any(|acl| scheme::matches_any(&acl.id, ids))
}

/// The list as getACL shows it: whoever lacks ADMIN sees digest ids without their hash. The caller has already
/// checked READ or ADMIN.
pub fn mask_for_reader<'l, I: Identified>(list: &'l AclList, ids: &[I], policy: u32) -> Cow<'l, AclList> {
    let plain = |acl: &Acl| acl.id.scheme != "digest" || !acl.id.id.contains(':');
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
