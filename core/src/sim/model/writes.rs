//! The effect of a client's write.
//!
//! Owns the few lines of each operation. Never answers reads. Correct because every change of the tree
//! goes through `put`, which keeps the past.

use super::access::{Entries, allows};
use super::{By, Change, ChangeKind, Code, Model, Znode, parent};
use paddock_transport::wire::{
    Acl, Create, CreateOp, List, Multi, MultiResult, Request, Response, Text, error, perms,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl Model {
    pub(super) fn undo(&mut self, nodes: BTreeMap<String, Rc<Znode>>, changes: usize, zxid: i64) {
        let touched: BTreeSet<String> = self.changes.drain(changes..).map(|c| c.path).collect();
        let parents: BTreeSet<String> = touched.iter().map(|p| parent(p).to_owned()).collect();
        for path in touched.union(&parents) {
            for session in self.sessions.values_mut() {
                session.ephemerals.remove(path);
            }
            let before = nodes.get(path).map(|z| (**z).clone());
            if let Some(session) = before.as_ref().map(|z| z.stat.ephemeral_owner).filter(|o| *o != 0)
                && let Some(session) = self.sessions.get_mut(&session)
            {
                session.ephemerals.insert(path.clone());
            }
            self.put(path, before, zxid);
        }
    }

    pub(super) fn request(&mut self, request: &Request<'_>, by: &By<'_>) -> Result<Vec<u8>, Code> {
        let mut body = Vec::new();
        match request {
            Request::Multi(ops) => {
                let mut results: Vec<MultiResult<'static>> = Vec::new();
                for (at, op) in ops.iter().enumerate() {
                    match self.single(&op, by) {
                        Ok(result) => results.push(result),
                        Err(code) => {
                            results = (0..ops.len())
                                .map(|n| match n.cmp(&at) {
                                    std::cmp::Ordering::Less => MultiResult::Error { code: 0 },
                                    std::cmp::Ordering::Equal => MultiResult::Error { code },
                                    std::cmp::Ordering::Greater => {
                                        MultiResult::Error { code: error::RUNTIME_INCONSISTENCY }
                                    }
                                })
                                .collect();
                            break;
                        }
                    }
                }
                Multi::new(&results).put(&mut body);
            }
            Request::SetAcl { path, acl, version } => {
                let mut znode = self.znode(path)?;
                if !allows(&znode.acl, perms::ADMIN, by.who) {
                    return Err(error::NO_AUTH);
                }
                expect(*version, znode.stat.aversion)?;
                (znode.acl, znode.stat.aversion) = (Rc::new(listed(*acl)), znode.stat.aversion + 1);
                znode.wire_stat().put(&mut body);
                self.put(path, Some(znode), by.zxid);
            }
            single => match self.single(single, by)? {
                MultiResult::Create { path } => Response::Path(path).put(&mut body),
                MultiResult::Create2 { path, stat } => Response::PathStat(path, stat).put(&mut body),
                MultiResult::SetData { stat } => stat.put(&mut body),
                _ => {}
            },
        }
        Ok(body)
    }

    fn single(&mut self, op: &Request<'_>, by: &By<'_>) -> Result<MultiResult<'static>, Code> {
        let By { zxid, time_ms, who, .. } = *by;
        match op {
            Request::Create(create) => self.create(create, by),
            Request::Delete { path, version } => {
                if !allows(&self.znode(parent(path))?.acl, perms::DELETE, who) {
                    return Err(error::NO_AUTH);
                }
                let znode = self.znode(path)?;
                expect(*version, znode.stat.version)?;
                if znode.stat.num_children != 0 {
                    return Err(error::NOT_EMPTY);
                }
                if let Some(owner) = self.sessions.get_mut(&znode.stat.ephemeral_owner) {
                    owner.ephemerals.remove(&**path);
                }
                self.remove(path, zxid);
                Ok(MultiResult::Delete)
            }
            Request::SetData { path, data, version } => {
                let mut znode = self.znode(path)?;
                if !allows(&znode.acl, perms::WRITE, who) {
                    return Err(error::NO_AUTH);
                }
                expect(*version, znode.stat.version)?;
                znode.data = data.map(<[u8]>::to_vec);
                let stat = &mut znode.stat;
                (stat.mzxid, stat.mtime, stat.version) = (zxid, time_ms, stat.version + 1);
                stat.data_length = data.map_or(0, |d| d.len() as i32);
                let stat = znode.wire_stat();
                let acl = znode.acl.clone();
                self.put(path, Some(znode), zxid);
                let (kind, path) = (ChangeKind::Changed, path.to_string());
                self.changes.push(Change { zxid, kind, path, acl, parent_acl: None });
                Ok(MultiResult::SetData { stat })
            }
            Request::Check { path, version } => {
                let znode = self.znode(path)?;
                if !allows(&znode.acl, perms::READ, who) {
                    return Err(error::NO_AUTH);
                }
                expect(*version, znode.stat.version)?;
                Ok(MultiResult::Check)
            }
            _ => Err(error::UNIMPLEMENTED),
        }
    }

    fn create(&mut self, create: &Create<'_>, by: &By<'_>) -> Result<MultiResult<'static>, Code> {
        let By { session, zxid, time_ms, who } = *by;
        let above = parent(&create.path);
        let mut over = self.znode(above)?;
        if !allows(&over.acl, perms::CREATE, who) {
            return Err(error::NO_AUTH);
        }
        let suffix =
            if create.flags & 2 != 0 { format!("{:010}", over.stat.cversion) } else { String::new() };
        let path = format!("{}{suffix}", create.path);
        if self.nodes.contains_key(&path) {
            return Err(error::NODE_EXISTS);
        }
        if over.stat.ephemeral_owner != 0 {
            return Err(error::NO_CHILDREN_FOR_EPHEMERALS);
        }
        let mut znode = Znode::new(create.data, listed(create.acl));
        let stat = &mut znode.stat;
        (stat.czxid, stat.mzxid, stat.pzxid, stat.ctime, stat.mtime) = (zxid, zxid, zxid, time_ms, time_ms);
        if create.flags & 1 != 0 {
            stat.ephemeral_owner = session;
            if let Some(owner) = self.sessions.get_mut(&session) {
                owner.ephemerals.insert(path.clone());
            }
        }
        let stat = znode.wire_stat();
        let counted = &mut over.stat;
        (counted.cversion, counted.num_children, counted.pzxid) =
            (counted.cversion + 1, counted.num_children + 1, zxid);
        let (acl, parent_acl) = (znode.acl.clone(), Some(over.acl.clone()));
        self.put(above, Some(over), zxid);
        self.put(&path, Some(znode), zxid);
        self.changes.push(Change { zxid, kind: ChangeKind::Created, path: path.clone(), acl, parent_acl });
        let path = Text::Owned(path);
        Ok(match create.op {
            CreateOp::Create => MultiResult::Create { path },
            _ => MultiResult::Create2 { path, stat },
        })
    }

    pub(super) fn remove(&mut self, path: &str, zxid: i64) {
        let above = parent(path);
        let Ok(acl) = self.znode(path).map(|znode| znode.acl) else { return };
        let mut parent_acl = None;
        if let Ok(mut over) = self.znode(above) {
            parent_acl = Some(over.acl.clone());
            (over.stat.num_children, over.stat.pzxid) = (over.stat.num_children - 1, zxid);
            self.put(above, Some(over), zxid);
        }
        self.put(path, None, zxid);
        self.changes.push(Change { zxid, kind: ChangeKind::Deleted, path: path.to_owned(), acl, parent_acl });
    }

    pub(super) fn znode(&self, path: &str) -> Result<Znode, Code> {
        self.nodes.get(path).map(|z| (**z).clone()).ok_or(error::NO_NODE)
    }
}

fn expect(wanted: i32, found: i32) -> Result<(), Code> {
    if wanted == -1 || wanted == found { Ok(()) } else { Err(error::BAD_VERSION) }
}

fn listed(acl: List<'_, Acl<'_>>) -> Entries {
    let text = |t: Option<Text<'_>>| t.unwrap_or_default().into_owned();
    acl.iter().map(|a| (a.perms, text(a.id.scheme), text(a.id.id))).collect()
}
