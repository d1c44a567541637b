//! The blocks of a snapshot: what each holds, and how znodes get in and out.
//!
//! Owns the archived shapes. Never trusts a block: it is checked before it is looked into, whatever its checksum says.
//! It stays correct because a block stands for itself: its znodes refer to ACLs of the same block, so that blocks can be
//! read in any order and in parallel. See `docs/formats/snapshot.md` for what is around them.

use crate::acl::{AclEntry, AclList, AclRef};
use crate::command::Identity;
use crate::tree::{NodeStat, Znode};
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Type of the block that holds the [`crate::machine::MachineImage`]. Comes first.
pub const BLOCK_MACHINE: u16 = 1;
/// Type of a [`ZnodeBlock`]. Znodes come parents first, over all blocks.
pub const BLOCK_ZNODES: u16 = 2;
/// Type of the block that holds the [`crate::machine::MembershipState`]. Comes second; missing where there never was an
/// ensemble, so that snapshots of a standalone node are what they always were.
pub const BLOCK_MEMBERSHIP: u16 = 3;

/// Bytes of paths and data after which a block is closed: large enough that its overhead is nothing, small enough
/// that checking one stays in the cache of a core. One znode may exceed it.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// One entry of an ACL.
#[derive(Archive, Serialize, Debug)]
pub struct StoredAcl {
    /// Permission bits.
    pub perms: i32,
    /// Scheme and id.
    pub id: Identity,
}

/// Znodes and the ACLs that they refer to.
#[derive(Archive, Serialize, Debug, Default)]
pub struct ZnodeBlock<'a> {
    /// Each different list once.
    pub acls: Vec<Vec<StoredAcl>>,
    /// Parents before children.
    pub znodes: Vec<StoredZnode<'a>>,
}

/// One znode.
#[derive(Archive, Serialize, Debug)]
pub struct StoredZnode<'a> {
    /// Full path.
    #[rkyv(with = InlineAsBox)]
    pub path: &'a str,
    /// Data; `None` is ZooKeeper's null.
    #[rkyv(with = Map<InlineAsBox>)]
    pub data: Option<&'a [u8]>,
    /// Position in [`ZnodeBlock::acls`].
    pub acl: u32,
    /// Version of the data.
    pub version: i32,
    /// Stored version of the children.
    pub cversion: i32,
    /// Version of the ACL.
    pub aversion: i32,
    /// Zxid of the creation.
    pub czxid: i64,
    /// Zxid of the last change of data.
    pub mzxid: i64,
    /// Zxid of the last change of children.
    pub pzxid: i64,
    /// Time of the creation, ms.
    pub ctime: i64,
    /// Time of the last change of data, ms.
    pub mtime: i64,
    /// Owner as stored.
    pub ephemeral_owner: i64,
}

/// Gathers znodes until a block is full.
#[derive(Default)]
pub struct BlockBuilder<'a> {
    block: ZnodeBlock<'a>,
    /// ACL lists of the block by address: the tree shares equal ones.
    acls: HashMap<*const AclList, u32>,
    bytes: usize,
}

impl<'a> BlockBuilder<'a> {
    /// Adds a znode. `true`: the block is full.
    pub fn push(&mut self, znode: Znode<'a>) -> bool {
        let acl = self.acl(znode.acl());
        let stat = znode.stat();
        let (path, data) = (znode.path(), znode.data());
        self.bytes += path.len() + data.map_or(0, <[u8]>::len) + size_of::<ArchivedStoredZnode<'_>>();
        self.block.znodes.push(StoredZnode {
            path,
            data,
            acl,
            version: stat.version,
            cversion: stat.cversion,
            aversion: stat.aversion,
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            pzxid: stat.pzxid,
            ctime: stat.ctime,
            mtime: stat.mtime,
            ephemeral_owner: stat.ephemeral_owner,
        });
        self.bytes >= BLOCK_BYTES
    }

    /// Whether nothing was added since the last block.
    pub fn is_empty(&self) -> bool {
        self.block.znodes.is_empty()
    }

    /// The block's bytes, in `into`, and an empty builder again.
    pub fn finish(&mut self, into: Vec<u8>) -> Result<Vec<u8>, rkyv::rancor::Error> {
        let bytes = rkyv::api::high::to_bytes_in(&self.block, into)?;
        self.block.znodes.clear();
        self.block.acls.clear();
        self.acls.clear();
        self.bytes = 0;
        Ok(bytes)
    }

    fn acl(&mut self, list: &AclRef) -> u32 {
        let stored = &mut self.block.acls;
        *self.acls.entry(Arc::as_ptr(list)).or_insert_with(|| {
            stored
                .push(list.entries.iter().map(|a| StoredAcl { perms: a.perms, id: a.id.clone() }).collect());
            stored.len() as u32 - 1
        })
    }
}

impl ArchivedStoredZnode<'_> {
    /// The stat fields, without those that follow from data and children.
    pub fn stat(&self) -> NodeStat {
        NodeStat {
            czxid: self.czxid.to_native(),
            mzxid: self.mzxid.to_native(),
            pzxid: self.pzxid.to_native(),
            ctime: self.ctime.to_native(),
            mtime: self.mtime.to_native(),
            version: self.version.to_native(),
            cversion: self.cversion.to_native(),
            aversion: self.aversion.to_native(),
            ephemeral_owner: self.ephemeral_owner.to_native(),
            ..NodeStat::default()
        }
    }
}

/// An archived list as it is in memory.
pub fn acl_list(stored: &rkyv::vec::ArchivedVec<ArchivedStoredAcl>) -> AclList {
    let entry = |a: &ArchivedStoredAcl| {
        let id = Identity { scheme: a.id.scheme.as_str().to_owned(), id: a.id.id.as_str().to_owned() };
        AclEntry::new(a.perms.to_native(), id)
    };
    AclList { entries: stored.iter().map(entry).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn a_block_gives_back_what_went_in() {
        let (mut writer, _) = tree::tree(0);
        let acl = writer.get("/").unwrap().acl().clone();
        writer
            .create(&tree::NewNode {
                path: "/a",
                data: None,
                acl: acl.clone(),
                ephemeral_owner: 7,
                zxid: 3,
                time_ms: 4,
            })
            .unwrap();
        let mut builder = BlockBuilder::default();
        for path in ["/", "/zookeeper/config", "/a"] {
            assert!(!builder.push(writer.get(path).unwrap()));
        }
        let bytes = builder.finish(Vec::new()).unwrap();
        assert!(builder.is_empty());
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(&bytes);
        let block = rkyv::access::<ArchivedZnodeBlock<'_>, rkyv::rancor::Error>(&aligned).unwrap();
        assert_eq!((block.znodes.len(), block.acls.len()), (3, 2));
        let a = &block.znodes[2];
        assert_eq!(
            (&*a.path, a.data.is_none(), a.stat().ephemeral_owner, a.stat().czxid),
            ("/a", true, 7, 3)
        );
        assert_eq!(block.znodes[0].data.as_deref(), Some(&b""[..]));
        assert_eq!(acl_list(&block.acls[a.acl.to_native() as usize]), *acl);
        assert_eq!(block.znodes[1].stat().aversion, -1);
    }
}
