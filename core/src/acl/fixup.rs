//! From the list that a client asked for to the list that is stored (spec 02 §5.2).
//!
//! Owns deduplication, expansion of `auth`, and the refusal of entries that no provider accepts. Never consults
//! anything but the request's own ids, captured when it was read. It stays correct because it runs where the
//! request is applied, so every node stores the same list.
#![forbid(unsafe_code)]

use super::{Acl, AclList, Identified, scheme};
use crate::command::Identity;
use std::borrow::Cow;

/// An entry as it came over the wire: strings may be null.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requested<'a> {
    /// Permission bits.
    pub perms: i32,
    /// Scheme.
    pub scheme: Option<Cow<'a, str>>,
    /// Id.
    pub id: Option<Cow<'a, str>>,
}

/// Why a list was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FixupError {
    /// -114: empty list, unknown scheme, malformed id, `auth` without an authenticated id.
    #[error("the ACL is not acceptable")]
    Invalid,
    /// -5: an id string was null where it is looked at.
    #[error("an ACL id is null")]
    NullId,
}

impl FixupError {
    /// The code for the client.
    pub fn code(self) -> i32 {
        match self {
            FixupError::Invalid => -114,
            FixupError::NullId => -5,
        }
    }
}

/// The list to store for `requested`, asked for by a connection with these `ids`. A null list is an empty one.
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
            entries.push(Acl { perms: entry.perms, id: Identity { scheme: scheme.into(), id: id.into() } });
        }
        seen.push(entry);
    }
    if entries.is_empty() { Err(FixupError::Invalid) } else { Ok(AclList { entries }) }
}

/// One entry per authenticated id. Duplicates that arise here stay: the real server keeps them.
fn expand<I: Identified>(perms: i32, ids: &[I], entries: &mut Vec<Acl>) -> Result<(), FixupError> {
    let before = entries.len();
    for id in ids.iter().filter(|id| scheme::is_authenticated(id.scheme())) {
        entries.push(Acl { perms, id: Identity { scheme: id.scheme().into(), id: id.id().into() } });
    }
    if entries.len() == before { Err(FixupError::Invalid) } else { Ok(()) }
}
