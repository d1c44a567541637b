//! Turns the ACL list of a request into the list that is stored (spec 02 §5.2): it drops duplicates, expands
//! `auth`, and refuses entries that no provider accepts. Correct because the result depends only on the
//! request and on the ids that were captured with the request: every node that applies the entry stores the
//! same list.
#![forbid(unsafe_code)]

use super::{AclEntry, AclList, Identified, scheme};
use crate::command::Identity;
use std::borrow::Cow;

/// An ACL entry of a request. Scheme and id may be null on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requested<'a> {
    pub perms: i32,
    pub scheme: Option<Cow<'a, str>>,
    pub id: Option<Cow<'a, str>>,
}

/// Why a list was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FixupError {
    /// -114: an empty list, an unknown scheme, a malformed id, or `auth` on a connection without an
    /// authenticated id.
    #[error("the ACL is not acceptable")]
    Invalid,
    /// -5: the id of an entry is null, and its scheme has a provider.
    #[error("an ACL id is null")]
    NullId,
}

impl FixupError {
    /// ZooKeeper's error code.
    pub fn code(self) -> i32 {
        match self {
            FixupError::Invalid => -114,
            FixupError::NullId => -5,
        }
    }
}

/// The list to store for `requested`; `ids` are those of the requesting connection. A null list counts as
/// empty.
pub fn fixup<'a, I: Identified>(
    requested: impl IntoIterator<Item = Requested<'a>>,
    ids: &[I],
) -> Result<AclList, FixupError> {
    let mut seen: Vec<Requested<'a>> = Vec::new();
    let mut entries = Vec::new();
    for entry in requested {
        if seen.contains(&entry) {
            continue;
        }
        let scheme = entry.scheme.as_deref().ok_or(FixupError::Invalid)?;
        if scheme == "auth" {
            expand(entry.perms, ids, &mut entries)?;
        } else {
            let id = match entry.id.as_deref() {
                Some(id) => id,
                None if scheme::has_provider(scheme) => return Err(FixupError::NullId),
                None => return Err(FixupError::Invalid),
            };
            if !scheme::is_valid(scheme, id) {
                return Err(FixupError::Invalid);
            }
            entries.push(AclEntry::new(entry.perms, Identity { scheme: scheme.into(), id: id.into() }));
        }
        seen.push(entry);
    }
    if entries.is_empty() { Err(FixupError::Invalid) } else { Ok(AclList { entries }) }
}

/// Adds one entry for each authenticated id. Duplicates that arise here stay, as in ZooKeeper.
fn expand<I: Identified>(perms: i32, ids: &[I], entries: &mut Vec<AclEntry>) -> Result<(), FixupError> {
    let before = entries.len();
    for id in ids.iter().filter(|id| scheme::is_authenticated(id.scheme())) {
        entries.push(AclEntry::new(perms, Identity { scheme: id.scheme().into(), id: id.id().into() }));
    }
    if entries.len() == before { Err(FixupError::Invalid) } else { Ok(()) }
}
