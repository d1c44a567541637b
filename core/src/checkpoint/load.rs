//! Load of a snapshot into tree and machine.
//!
//! Owns nothing.
//!
//! Never trusts what it reads. Storage has compared the checksums, and each block's archive is validated
//! before any access. A second thread validates ahead of the one that fills the tree.
//!
//! Correct because the tree refuses a znode without a parent, and counts are compared at the end.

use super::block::{ArchivedZnodeBlock, BLOCK_MACHINE, BLOCK_MEMBERSHIP, BLOCK_ZNODES, acl_list};
use crate::acl::AclRef;
use crate::machine::{Machine, MachineImage, MembershipState};
use crate::tree::{RestoredNode, TreeError, Writer};
use paddock_storage::SnapshotReader;
// rkyv's default error keeps no text in a release build.
use rkyv::rancor::BoxedError as CheckError;
use std::sync::mpsc::sync_channel;
use thiserror::Error;

/// Validated blocks that wait for the tree: one is in work, a few even out the rest.
const BLOCKS_AHEAD: usize = 4;

#[derive(Debug)]
pub struct Loaded {
    /// Machine that belongs to the filled tree.
    pub machine: Machine,
    /// Count of znodes put into the tree.
    pub znodes: u64,
}

/// Why a snapshot with good checksums cannot be used: another program wrote it, or a bug did.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A block's archive is not what its type says.
    #[error("block {block} is not valid: {what}")]
    Block {
        /// Index of the block, from 0.
        block: usize,
        /// Message of the validation.
        what: String,
    },
    /// The first block is not of [`BLOCK_MACHINE`].
    #[error("the first block is not the machine's")]
    NoMachine,
    /// A znode refers to an ACL that its block does not have.
    #[error("block {block}: ACL {acl} does not exist")]
    NoAcl {
        /// Index of the block, from 0.
        block: usize,
        /// Index into the block's ACLs.
        acl: u32,
    },
    /// The tree refused a znode.
    #[error("znode {path}: {error}")]
    Tree { path: String, error: TreeError },
    /// The snapshot holds fewer or more znodes than its header says.
    #[error("{found} znodes of {expected} are there")]
    Incomplete {
        /// Count in the snapshot's header.
        expected: u64,
        /// Count of znodes put into the tree.
        found: u64,
    },
}

/// Fills a fresh tree from a snapshot.
pub fn load(reader: &SnapshotReader, tree: &mut Writer) -> Result<Loaded, LoadError> {
    let first = reader.block(0).filter(|b| b.kind == BLOCK_MACHINE).ok_or(LoadError::NoMachine)?;
    let image = rkyv::from_bytes::<MachineImage, CheckError>(first.bytes)
        .map_err(|e| LoadError::Block { block: 0, what: e.to_string() })?;
    let mut machine = Machine::from_image(image);
    let mut first = 1;
    if let Some(second) = reader.block(1).filter(|b| b.kind == BLOCK_MEMBERSHIP) {
        let state = rkyv::from_bytes::<MembershipState, CheckError>(second.bytes)
            .map_err(|e| LoadError::Block { block: 1, what: e.to_string() })?;
        machine.restore_membership(state);
        first = 2;
    }
    let mut znodes = 0;
    std::thread::scope(|scope| {
        let (checked, blocks) = sync_channel(BLOCKS_AHEAD);
        scope.spawn(move || {
            for (number, block) in reader.blocks().enumerate().skip(first) {
                let result = match block.kind {
                    BLOCK_ZNODES => rkyv::access::<ArchivedZnodeBlock<'_>, CheckError>(block.bytes)
                        .map_err(|e| LoadError::Block { block: number, what: e.to_string() }),
                    kind => Err(LoadError::Block { block: number, what: format!("unknown type {kind}") }),
                };
                if checked.send((number, result)).is_err() {
                    // The loading side has failed and dropped the receiver.
                    return;
                }
            }
        });
        for (number, block) in blocks {
            znodes += restore(number, block?, &mut machine, tree)?;
        }
        Ok(())
    })?;
    let expected = reader.header().node_count;
    if znodes != expected {
        return Err(LoadError::Incomplete { expected, found: znodes });
    }
    Ok(Loaded { machine, znodes })
}

/// Znodes whose places in the tree are prefetched together, so that building does not wait for memory one
/// at a time.
const RESTORE_TOGETHER: usize = 32;

fn restore(
    number: usize,
    block: &ArchivedZnodeBlock<'_>,
    machine: &mut Machine,
    tree: &mut Writer,
) -> Result<u64, LoadError> {
    let acls: Vec<AclRef> = block.acls.iter().map(|list| machine.intern_acl(acl_list(list))).collect();
    let mut paths: Vec<&str> = Vec::with_capacity(RESTORE_TOGETHER);
    for (n, znode) in block.znodes.iter().enumerate() {
        if n % RESTORE_TOGETHER == 0 {
            paths.clear();
            paths.extend(block.znodes.iter().skip(n).take(RESTORE_TOGETHER).map(|z| &*z.path));
            tree.prefetch(&paths);
        }
        let acl = znode.acl.to_native();
        let acl = acls.get(acl as usize).ok_or(LoadError::NoAcl { block: number, acl })?.clone();
        let path = &*znode.path;
        let data = znode.data.as_deref();
        tree.restore(RestoredNode { path, data, acl, stat: znode.stat() })
            .map_err(|error| LoadError::Tree { path: path.to_owned(), error })?;
    }
    Ok(block.znodes.len() as u64)
}
