//! The single operations on the tree, each validated in ZooKeeper's order (spec 01 §7.1).
//!
//! Owns the effects of create, delete, setData, setACL and check on the tree, the ephemerals of sessions,
//! the digests and the list of changes. All four are changed together, only here.
//! Never checks the session: the caller did.
//! Correct because every check comes before the first change, so a failed operation changes nothing.
//! [`Transaction::rollback`] undoes the changes of a failed multi.
#![forbid(unsafe_code)]

use super::digest::part;
use super::{Machine, Sums};
use crate::acl::{self, AclList, Requested, allowed, perms};
use crate::client_stat::{session_owner, wire_stat};
use crate::command::{ArchivedBatch, ArchivedCommand, ArchivedIdentity, policy};
use crate::commit::{Change, ChangeKind};
use crate::mutation::{Mutation, apply_time_ms, mutated};
use crate::path;
use crate::tree::{NewNode, Writer, Znode};
use paddock_transport::wire::{self, Create, CreateOp, List, create_flags, error};
use std::borrow::Cow;
use std::sync::Arc;

/// An error code of ZooKeeper's protocol.
pub(super) type Code = i32;

/// The inputs that all operations of one command share.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    zxid: i64,
    time_ms: i64,
    policy: u32,
    session: i64,
    identities: &'a [ArchivedIdentity],
}

impl<'a> Context<'a> {
    pub(super) fn of(batch: &ArchivedBatch, command: &'a ArchivedCommand, zxid: i64) -> Context<'a> {
        Context {
            zxid,
            time_ms: apply_time_ms(batch.time_ms.to_native()),
            policy: batch.policy.to_native(),
            session: command.session.to_native(),
            identities: &command.identities,
        }
    }
}

/// Access of one command to all the state that it may change.
pub(super) struct Transaction<'a> {
    tree: &'a mut Writer,
    machine: &'a mut Machine,
    context: Context<'a>,
    changes: &'a mut Vec<Change>,
    saved: Option<Saved>,
}

/// State beside the tree's own savepoint.
struct Saved {
    sums: Sums,
    changes: usize,
    ephemerals: Vec<Ephemeral>,
}

/// A session gained or lost an ephemeral znode.
struct Ephemeral {
    session: i64,
    path: Arc<str>,
    gained: bool,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        tree: &'a mut Writer,
        machine: &'a mut Machine,
        context: Context<'a>,
        changes: &'a mut Vec<Change>,
    ) -> Transaction<'a> {
        Transaction { tree, machine, context, changes, saved: None }
    }

    /// Makes all further changes undoable.
    pub(super) fn savepoint(&mut self) {
        self.tree.savepoint();
        let (sums, changes) = (self.machine.sums, self.changes.len());
        self.saved = Some(Saved { sums, changes, ephemerals: Vec::new() });
    }

    /// Keeps the changes since the savepoint.
    pub(super) fn release(&mut self) {
        if self.saved.take().is_some() {
            self.tree.release();
        }
    }

    /// Undoes the changes since the savepoint.
    pub(super) fn rollback(&mut self) {
        let Some(saved) = self.saved.take() else { return };
        self.tree.rollback();
        self.machine.sums = saved.sums;
        self.changes.truncate(saved.changes);
        for Ephemeral { session, path, gained } in saved.ephemerals.into_iter().rev() {
            self.note_ephemeral(session, path, !gained);
        }
    }

    /// Creates a znode and gives its final path.
    pub(super) fn create(&mut self, create: &Create<'_>) -> Result<Arc<str>, Code> {
        let CreateMode { ephemeral, sequential } = mode(create, self.context.policy)?;
        let parent_path = path::parent_for_create(&create.path).map_err(|_| error::BAD_ARGUMENTS)?;
        let list = self.fixup(create.acl)?;

        let parent = self.tree.get(parent_path).ok_or(error::NO_NODE)?;
        self.authorize(parent.acl(), perms::CREATE)?;
        let parent_stat = parent.stat();
        let full = match sequential {
            true if mutated(Mutation::ReuseSequence) => {
                Cow::Owned(format!("{}{}", create.path, path::sequence_suffix(parent_stat.num_children)))
            }
            true => Cow::Owned(format!("{}{}", create.path, path::sequence_suffix(parent_stat.cversion))),
            false => Cow::Borrowed(&*create.path),
        };
        path::validate(&full).map_err(|_| error::BAD_ARGUMENTS)?;
        if self.tree.get(&full).is_some() {
            return Err(error::NODE_EXISTS);
        }
        if session_owner(parent_stat.ephemeral_owner).is_some() {
            return Err(error::NO_CHILDREN_FOR_EPHEMERALS);
        }

        let (parent_acl, parent_part) = (parent.acl().clone(), part(&parent));
        let acl = self.machine.interner.intern(list);
        let Context { zxid, time_ms, session, .. } = self.context;
        self.tree
            .create(&NewNode {
                path: &full,
                data: create.data,
                acl: acl.clone(),
                ephemeral_owner: if ephemeral { session } else { 0 },
                zxid,
                time_ms,
            })
            .expect("parent there, path valid and free: looked up above");
        self.machine.sums.remove_part(parent_part);
        self.machine.sums.add_part(self.part_of(parent_path));
        self.machine.sums.add_part(self.part_of(&full));
        self.machine.sums.add_acl(&full, &acl);
        let full: Arc<str> = Arc::from(&*full);
        if ephemeral {
            self.track_ephemeral(session, full.clone(), true);
        }
        let (path, parent_acl) = (full.clone(), Some(parent_acl));
        self.changes.push(Change { zxid, kind: ChangeKind::Created, path, acl, parent_acl });
        Ok(full)
    }

    /// Deletes a znode. The parent's ACL decides, not the znode's own.
    pub(super) fn delete(&mut self, path: &str, version: i32) -> Result<(), Code> {
        let parent_path = path::parent_for_delete(path).map_err(|_| error::BAD_ARGUMENTS)?;
        let parent = self.tree.get(parent_path).ok_or(error::NO_NODE)?;
        self.authorize(parent.acl(), perms::DELETE)?;
        let node = self.tree.get(path).ok_or(error::NO_NODE)?;
        let stat = node.stat();
        check_version(version, stat.version)?;
        if stat.num_children != 0 {
            return Err(error::NOT_EMPTY);
        }
        self.remove(Arc::from(path));
        Ok(())
    }

    /// Removes a childless znode, whatever its version and ACLs. Does nothing if there is none.
    pub(super) fn remove(&mut self, path: Arc<str>) {
        let parent_path = path::parent(&path).unwrap_or_default();
        let (Some(parent), Some(node)) = (self.tree.get(parent_path), self.tree.get(&path)) else { return };
        let (parent_acl, parent_part) = (parent.acl().clone(), part(&parent));
        let (acl, owner) = (node.acl().clone(), session_owner(node.stat().ephemeral_owner));
        self.machine.sums.remove_node(&node);
        let zxid = self.context.zxid;
        self.tree.delete(&path, zxid).expect("there and childless: looked up above");
        self.machine.sums.remove_part(parent_part);
        self.machine.sums.add_part(self.part_of(parent_path));
        if let Some(owner) = owner {
            self.track_ephemeral(owner, path.clone(), false);
        }
        let parent_acl = Some(parent_acl);
        self.changes.push(Change { zxid, kind: ChangeKind::Deleted, path, acl, parent_acl });
    }

    pub(super) fn set_data(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<(), Code> {
        path::validate(path).map_err(|_| error::BAD_ARGUMENTS)?;
        let node = self.tree.get(path).ok_or(error::NO_NODE)?;
        self.authorize(node.acl(), perms::WRITE)?;
        check_version(version, node.stat().version)?;

        let (acl, before) = (node.acl().clone(), part(&node));
        let Context { zxid, time_ms, .. } = self.context;
        self.tree.set_data(path, data, zxid, time_ms).expect("there: looked up above");
        self.machine.sums.remove_part(before);
        self.machine.sums.add_part(self.part_of(path));
        let kind = ChangeKind::DataChanged;
        self.changes.push(Change { zxid, kind, path: Arc::from(path), acl, parent_acl: None });
        Ok(())
    }

    /// Replaces a znode's ACL. Fires no watch.
    pub(super) fn set_acl(
        &mut self,
        path: &str,
        acl: List<'_, wire::Acl<'_>>,
        version: i32,
    ) -> Result<(), Code> {
        path::validate(path).map_err(|_| error::BAD_ARGUMENTS)?;
        let list = self.fixup(acl)?;
        let node = self.tree.get(path).ok_or(error::NO_NODE)?;
        self.authorize(node.acl(), perms::ADMIN)?;
        check_version(version, node.stat().aversion)?;

        self.machine.sums.remove_node(&node);
        let acl = self.machine.interner.intern(list);
        self.tree.set_acl(path, acl).expect("there: looked up above");
        let node = self.tree.get(path).expect("there: just changed");
        self.machine.sums.add_node(&node);
        Ok(())
    }

    /// Fails unless the version is the expected one. Changes nothing.
    pub(super) fn check(&self, path: &str, version: i32) -> Result<(), Code> {
        path::validate(path).map_err(|_| error::BAD_ARGUMENTS)?;
        let node = self.tree.get(path).ok_or(error::NO_NODE)?;
        self.authorize(node.acl(), perms::READ)?;
        check_version(version, node.stat().version)
    }

    /// The znode's stat as clients see it, after the operations so far.
    pub(super) fn stat(&self, path: &str) -> wire::Stat {
        let stat = self.tree.get(path).map(|znode| znode.stat()).unwrap_or_default();
        wire_stat(&stat)
    }

    fn fixup(&self, requested: List<'_, wire::Acl<'_>>) -> Result<AclList, Code> {
        let entries = requested.iter().map(|entry| Requested {
            perms: entry.perms,
            scheme: entry.id.scheme,
            id: entry.id.id,
        });
        acl::fixup(entries, self.context.identities).map_err(|refused| refused.code())
    }

    fn authorize(&self, list: &AclList, needed: i32) -> Result<(), Code> {
        let allowed = allowed(list, needed, self.context.identities, self.context.policy);
        if allowed { Ok(()) } else { Err(error::NO_AUTH) }
    }

    fn part_of(&self, path: &str) -> u64 {
        self.tree.get(path).map_or(0, |znode: Znode<'_>| part(&znode))
    }

    fn track_ephemeral(&mut self, session: i64, path: Arc<str>, gained: bool) {
        if let Some(saved) = &mut self.saved {
            saved.ephemerals.push(Ephemeral { session, path: path.clone(), gained });
        }
        self.note_ephemeral(session, path, gained);
    }

    fn note_ephemeral(&mut self, session: i64, path: Arc<str>, gained: bool) {
        let Some(session) = self.machine.sessions.get_mut(session) else { return };
        if gained {
            session.ephemerals.insert(path);
        } else {
            session.ephemerals.remove(&path);
        }
    }
}

struct CreateMode {
    ephemeral: bool,
    sequential: bool,
}

/// The mode that the flags request. The opcode decides the kind of znode: flags 4 in a plain create mean
/// persistent. Containers and TTL znodes are refused, since nothing collects them yet: as a server without
/// extended types refuses TTL znodes.
fn mode(create: &Create<'_>, policy: u32) -> Result<CreateMode, Code> {
    use create_flags::*;
    if !(PERSISTENT..=PERSISTENT_SEQUENTIAL_WITH_TTL).contains(&create.flags) {
        return Err(error::BAD_ARGUMENTS);
    }
    match (create.op, create.flags) {
        (CreateOp::CreateContainer | CreateOp::CreateTtl { .. }, _) => Err(error::UNIMPLEMENTED),
        // A plain create carries no TTL, so these flags are wrong even with extended types.
        (_, PERSISTENT_WITH_TTL | PERSISTENT_SEQUENTIAL_WITH_TTL) => match policy & policy::EXTENDED_TYPES {
            0 => Err(error::UNIMPLEMENTED),
            _ => Err(error::BAD_ARGUMENTS),
        },
        (_, flags) => Ok(CreateMode {
            ephemeral: matches!(flags, EPHEMERAL | EPHEMERAL_SEQUENTIAL),
            sequential: matches!(flags, PERSISTENT_SEQUENTIAL | EPHEMERAL_SEQUENTIAL),
        }),
    }
}

/// Accepts any version if `expected` is -1.
fn check_version(expected: i32, current: i32) -> Result<(), Code> {
    if expected == -1 || expected == current { Ok(()) } else { Err(error::BAD_VERSION) }
}
