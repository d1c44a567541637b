//! Access control lists: their shape, interning, and the one check that every room uses.
//!
//! Owns what an ACL is in memory. Never authenticates anybody: identities come with the connection. It stays
//! correct because lists are immutable and shared by reference count, counted only by the tree's writer.

use crate::command::Identity;
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

/// A shared list. Readers only look through it; only the writer of the tree clones or drops it.
pub type AclRef = Arc<AclList>;
