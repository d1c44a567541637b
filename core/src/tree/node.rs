//! Plain values that go into the tree and come out of it.
//!
//! Owns the shapes that callers fill in ([`NewNode`], [`RestoredNode`]) and read ([`NodeStat`],
//! [`TreeError`]).
//!
//! Never holds a reference into a version.
#![forbid(unsafe_code)]

use crate::acl::AclRef;

/// A znode to create.
#[derive(Clone, Debug)]
pub struct NewNode<'a> {
    /// Full path, validated by the caller.
    pub path: &'a str,
    /// `None` is ZooKeeper's null.
    pub data: Option<&'a [u8]>,
    pub acl: AclRef,
    /// 0, a session id, or the encodings of containers and TTL nodes.
    pub ephemeral_owner: i64,
    /// Zxid of the command: becomes czxid, mzxid and pzxid, and the parent's pzxid.
    pub zxid: i64,
    /// Clock of the batch, ms since the Unix epoch: becomes ctime and mtime.
    pub time_ms: i64,
}

/// A znode from a snapshot, restored as it is.
#[derive(Clone, Debug)]
pub struct RestoredNode<'a> {
    pub path: &'a str,
    /// `None` is ZooKeeper's null.
    pub data: Option<&'a [u8]>,
    pub acl: AclRef,
    /// `data_length` and `num_children` are ignored: they follow from the data and the tree.
    pub stat: NodeStat,
}

/// Fields of a stat as they are stored. The wire's cversion is `2 * cversion - num_children`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStat {
    /// Zxid of the creation.
    pub czxid: i64,
    /// Zxid of the last change of data.
    pub mzxid: i64,
    /// Zxid of the last creation or deletion of a child.
    pub pzxid: i64,
    /// Time of the creation, ms since the Unix epoch.
    pub ctime: i64,
    /// Time of the last change of data, ms since the Unix epoch.
    pub mtime: i64,
    /// Count of changes of the data; wraps.
    pub version: i32,
    /// Count of children ever created: the stored value, not the wire's.
    pub cversion: i32,
    /// Count of changes of the ACL; wraps.
    pub aversion: i32,
    /// 0, a session id, or the encodings of containers and TTL nodes.
    pub ephemeral_owner: i64,
    /// Bytes of data, 0 for null.
    pub data_length: i32,
    /// Count of children now.
    pub num_children: i32,
}

/// Why the writer refused a change. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The znode is not there.
    #[error("no such znode")]
    NoNode,
    /// The znode is there already.
    #[error("the znode exists")]
    NodeExists,
    /// The parent is not there.
    #[error("the parent does not exist")]
    NoParent,
    /// The znode has children.
    #[error("the znode has children")]
    NotEmpty,
    /// Path or data of 2 GiB or more.
    #[error("path or data too long")]
    TooLong,
    /// Not an absolute path, or one that cannot be created or deleted (the root).
    #[error("not a path of a child")]
    BadPath,
}

/// Splits a path into the parent's path and the name. `None` for the root and for what is no absolute path.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    let slash = path.rfind('/')?;
    let name = &path[slash + 1..];
    if name.is_empty() || !path.starts_with('/') {
        return None;
    }
    Some((if slash == 0 { "/" } else { &path[..slash] }, name))
}

/// Whether an owner is a session: neither none, nor a container, nor a TTL node.
pub(super) fn is_session(owner: i64) -> bool {
    owner != 0 && owner != i64::MIN && (owner as u64) >> 56 != 0xff
}

/// Size of a znode in the approximate data size: characters (UTF-16, as ZooKeeper counts) and data bytes.
pub(super) fn approximate_bytes(path: &str, data_length: usize) -> u64 {
    let characters = if path.is_ascii() { path.len() } else { path.encode_utf16().count() };
    (characters + data_length) as u64
}

/// The next value of a version counter. It wraps; like ZooKeeper up to 3.9 it does not skip -1.
pub(super) fn next_version(version: i32) -> i32 {
    version.wrapping_add(1)
}
