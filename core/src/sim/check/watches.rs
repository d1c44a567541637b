//! Checks watches: an event comes before the data, and none is lost or repeated.
//!
//! Owns the watches of each client, and the events that are due.
//!
//! Before an answer at zxid z the client was told of every change up to z that fired one of its watches.
//! Each change is told once, in order, with its zxid, and nothing else is told. Watches that a client sets
//! again after a reconnect are armed, or fire at once for what they missed. A change that the client may
//! not read is not told, and uses its watch up.
//!
//! Never asks a node. Correct because the model knows every change, and a client's requests and answers
//! determine its watches.

use super::{Checker, Event, Facts};
use crate::command::Identity;
use crate::sim::model::{Change, ChangeKind, allows, parent};
use paddock_transport::wire::{
    Limits, Request, SetWatches, WatchMode, WatcherKind, error, event, opcode, perms,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Table {
    Data,
    Child,
    Persistent,
    Recursive,
}

#[derive(Default)]
struct Eyes {
    armed: BTreeSet<(String, Table)>,
    /// Number of the model's changes that were matched so far.
    looked: usize,
    /// Events that fired and are not told yet.
    due: VecDeque<(i64, i32, String)>,
    /// Events without a zxid since the last answer.
    catch_up: Vec<(i32, String)>,
    /// Ids of the client's connection.
    who: Rc<[Identity]>,
}

impl Eyes {
    /// Matches all changes up to a zxid.
    fn look(&mut self, changes: &[Change], zxid: i64) {
        while let Some(change) = changes.get(self.looked).filter(|c| c.zxid <= zxid) {
            self.looked += 1;
            if self.armed.is_empty() {
                continue;
            }
            let path = &change.path;
            let mut own = false;
            let mut fire = |armed: &mut BTreeSet<_>, path: &str, table: Table, ends: bool| {
                let key = (path.to_owned(), table);
                let hit = if ends { armed.remove(&key) } else { armed.contains(&key) };
                own |= hit;
                hit
            };
            fire(&mut self.armed, path, Table::Data, true);
            fire(&mut self.armed, path, Table::Persistent, false);
            if change.kind == ChangeKind::Deleted {
                fire(&mut self.armed, path, Table::Child, true);
            }
            let mut at = path.as_str();
            loop {
                fire(&mut self.armed, at, Table::Recursive, false);
                if at == "/" {
                    break;
                }
                at = parent(at);
            }
            if own {
                let kind = match change.kind {
                    ChangeKind::Created => event::NODE_CREATED,
                    ChangeKind::Deleted => event::NODE_DELETED,
                    ChangeKind::Changed => event::NODE_DATA_CHANGED,
                };
                if allows(&change.acl, perms::READ, &self.who) {
                    self.due.push_back((change.zxid, kind, path.clone()));
                }
            }
            if change.kind != ChangeKind::Changed {
                let above = parent(path).to_owned();
                let once = self.armed.remove(&(above.clone(), Table::Child));
                if once || self.armed.contains(&(above.clone(), Table::Persistent)) {
                    let acl = change.parent_acl.as_ref();
                    if acl.is_none_or(|acl| allows(acl, perms::READ, &self.who)) {
                        self.due.push_back((change.zxid, event::NODE_CHILDREN_CHANGED, above));
                    }
                }
            }
        }
    }

    fn set_watches(&mut self, facts: &Facts, request: &SetWatches<'_>, zxid: i64) -> Result<(), String> {
        let since = request.relative_zxid;
        let mut missed = Vec::new();
        let at = |path: &str| facts.model.at(path, zxid);
        for path in request.data.iter() {
            match at(&path) {
                None => missed.push((event::NODE_DELETED, path.into_owned())),
                Some(z) if z.stat.mzxid > since => missed.push((event::NODE_DATA_CHANGED, path.into_owned())),
                Some(_) => self.arm_now(&path, Table::Data),
            }
        }
        for path in request.exist.iter() {
            match at(&path) {
                Some(_) => missed.push((event::NODE_CREATED, path.into_owned())),
                None => self.arm_now(&path, Table::Data),
            }
        }
        for path in request.child.iter() {
            match at(&path) {
                None => missed.push((event::NODE_DELETED, path.into_owned())),
                Some(z) if z.stat.pzxid > since => {
                    missed.push((event::NODE_CHILDREN_CHANGED, path.into_owned()));
                }
                Some(_) => self.arm_now(&path, Table::Child),
            }
        }
        self.armed.extend(request.persistent.iter().map(|p| (p.into_owned(), Table::Persistent)));
        self.armed.extend(request.persistent_recursive.iter().map(|p| (p.into_owned(), Table::Recursive)));
        let mut told = std::mem::take(&mut self.catch_up);
        told.sort();
        missed.sort();
        if told == missed {
            Ok(())
        } else {
            Err(format!("setWatches since {since:x} at {zxid:x} told {told:?}; missed was {missed:?}"))
        }
    }

    fn arm_now(&mut self, path: &str, table: Table) {
        self.armed.insert((path.to_owned(), table));
    }

    fn arm(&mut self, facts: &Facts, request: &Request<'_>, zxid: i64, err: i32) -> Result<(), String> {
        let mut add = |path: &str, table| {
            self.armed.insert((path.to_owned(), table));
        };
        match request {
            Request::Exists { path, watch: true } if err == 0 || err == error::NO_NODE => {
                add(path, Table::Data)
            }
            Request::GetData { path, watch: true } if err == 0 => add(path, Table::Data),
            Request::GetChildren { path, watch: true } | Request::GetChildren2 { path, watch: true }
                if err == 0 =>
            {
                add(path, Table::Child);
            }
            Request::AddWatch { path, mode: WatchMode::Persistent } if err == 0 => {
                add(path, Table::Persistent)
            }
            Request::AddWatch { path, mode: WatchMode::PersistentRecursive } if err == 0 => {
                add(path, Table::Recursive);
            }
            Request::CheckWatches { path, kind } | Request::RemoveWatches { path, kind } => {
                let tables: &[Table] = match kind {
                    WatcherKind::Children => &[Table::Child],
                    WatcherKind::Data => &[Table::Data],
                    WatcherKind::Persistent => &[Table::Persistent],
                    WatcherKind::PersistentRecursive => &[Table::Recursive],
                    WatcherKind::Any => &[Table::Data, Table::Child, Table::Persistent, Table::Recursive],
                };
                let keys = tables.iter().map(|t| (path.to_string(), *t));
                let there = keys.clone().any(|key| self.armed.contains(&key));
                if there != (err == 0) {
                    return Err(format!("{request:?} was answered with {err}; armed are {:?}", self.armed));
                }
                if matches!(request, Request::RemoveWatches { .. }) {
                    keys.for_each(|key| {
                        self.armed.remove(&key);
                    });
                }
            }
            Request::SetWatches2(lists) => return self.set_watches(facts, lists, zxid),
            _ => {}
        }
        Ok(())
    }
}

/// See the module doc.
#[derive(Default)]
pub struct Watches {
    clients: BTreeMap<usize, Eyes>,
}

impl Checker for Watches {
    fn name(&self) -> &'static str {
        "watches"
    }

    fn see(&mut self, facts: &Facts, event: &Event<'_>) -> Result<(), String> {
        let changes = &facts.model.changes;
        match event {
            Event::Opened { client, .. } | Event::Lost { client, .. } => {
                *self.clients.entry(*client).or_default() = Eyes::default();
                Ok(())
            }
            Event::Sent { client, ask } => {
                self.clients.entry(*client).or_default().who = ask.who.clone();
                Ok(())
            }
            Event::Notified { client, zxid, kind, path } => {
                let eyes = self.clients.entry(*client).or_default();
                if *zxid == -1 {
                    eyes.catch_up.push((*kind, (*path).to_owned()));
                    return Ok(());
                }
                eyes.look(changes, *zxid);
                let due = eyes.due.pop_front();
                if due.as_ref().is_some_and(|(z, k, p)| (*z, *k, p.as_str()) == (*zxid, *kind, *path)) {
                    return Ok(());
                }
                Err(format!("client {client} was told {kind} of {path} at {zxid:x}; due was {due:x?}"))
            }
            Event::Answered { client, ask, zxid, err, .. } => {
                let eyes = self.clients.entry(*client).or_default();
                if *err == error::SYSTEM_ERROR {
                    return Ok(());
                }
                eyes.look(changes, *zxid);
                if let Some((z, kind, path)) = eyes.due.front().filter(|(z, ..)| z <= zxid) {
                    return Err(format!(
                        "client {client} was answered at {zxid:x} before it was told {kind} of {path} at {z:x}"
                    ));
                }
                if ask.opcode != opcode::SET_WATCHES2
                    && let Some((kind, path)) = eyes.catch_up.first()
                {
                    return Err(format!("client {client} was told {kind} of {path} without having asked"));
                }
                let Ok(request) = Request::decode(ask.opcode, &ask.body, Limits::NONE) else { return Ok(()) };
                eyes.arm(facts, &request, *zxid, *err).map_err(|what| format!("client {client}: {what}"))
            }
            _ => Ok(()),
        }
    }
}
