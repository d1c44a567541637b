//! Blocks of a snapshot: their archived contents, and how znodes get in and out.
//!
//! Owns the archived shapes.
//!
//! Never trusts a block: its archive is validated before any access, whatever its checksum says.
//!
//! Correct because a block is complete by itself. Its znodes refer to ACLs of the same block, so blocks can
//! be read in any order and in parallel. See `docs/formats/snapshot.md` for what is around them.

use crate::acl::{AclEntry, AclList, AclRef};
use crate::command::Identity;
use crate::tree::{NodeStat, Znode};
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Type of the block that holds the [`crate::machine::MachineImage`]. Comes first.
pub const BLOCK_MACHINE: u16 = 1;
/// Type of a [`ZnodeBlock`]. Parents come before children, over all blocks.
pub const BLOCK_ZNODES: u16 = 2;
/// Type of the block that holds the [`crate::machine::MembershipState`]. Comes second; absent if there
/// never was an ensemble, so that snapshots of a standalone node keep their old bytes.
pub const BLOCK_MEMBERSHIP: u16 = 3;

/// Bytes of paths, data and archived headers at which a block is closed. Large enough that the overhead is
/// negligible, small enough that validation stays in the cache of a core. One znode may exceed it.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// One entry of an ACL.
#[derive(Archive, Serialize, Debug)]
pub struct StoredAcl {
    pub perms: i32,
    pub id: Identity,
}

/// Contents of one block: znodes and the ACLs that they refer to.
#[derive(Archive, Serialize, Debug, Default)]
pub struct ZnodeBlock<'a> {
    /// Each distinct list once.
    pub acls: Vec<Vec<StoredAcl>>,
    /// Parents come before children.
    pub znodes: Vec<StoredZnode<'a>>,
}

/// Archived znode. Children and lengths follow from paths and data.
#[derive(Archive, Serialize, Debug)]
pub struct StoredZnode<'a> {
    #[rkyv(with = InlineAsBox)]
    pub path: &'a str,
    /// `None` is ZooKeeper's null.
    #[rkyv(with = Map<InlineAsBox>)]
    pub data: Option<&'a [u8]>,
    /// Index of its list in [`ZnodeBlock::acls`].
    pub acl: u32,
    /// Count of changes of the data.
    pub version: i32,
    /// Count of children ever created: the stored value, not the wire's.
    pub cversion: i32,
    /// Count of changes of the ACL.
    pub aversion: i32,
    /// Zxid of the creation.
    pub czxid: i64,
    /// Zxid of the last change of data.
    pub mzxid: i64,
    /// Zxid of the last change of children.
    pub pzxid: i64,
    /// Time of the creation, ms since the Unix epoch.
    pub ctime: i64,
    /// Time of the last change of data, ms since the Unix epoch.
    pub mtime: i64,
    /// 0, a session id, or the encodings of containers and TTL nodes.
    pub ephemeral_owner: i64,
}

/// Collects znodes until a block is full.
#[derive(Default)]
pub struct BlockBuilder<'a> {
    block: ZnodeBlock<'a>,
    /// Index of each ACL list of the block by address: the tree shares equal lists.
    acls: HashMap<*const AclList, u32>,
    bytes: usize,
}

impl<'a> BlockBuilder<'a> {
    /// Adds a znode. `true`: the block has reached [`BLOCK_BYTES`].
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

    /// Archives the block into `into` and empties the builder.
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
    /// The stat fields without `data_length` and `num_children`, which follow from the rest.
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

/// Converts an archived list to its form in memory.
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
