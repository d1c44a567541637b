//! Filling the tree before a run: the root, its directories, and every key with its first value.
//!
//! Owns the order of creation and the repetition after a lost connection. Never deletes anything: an
//! existing znode gets its first value by `setData`, and the run then does not expect versions to count its
//! writes. Correct because a stage begins after the one before is complete, so that ancestors precede
//! children.

use crate::check::{Place, Violation};
use crate::keyspace::Keyspace;
use crate::session::{Reply, Sessions, Workload};
use crate::value::Values;
use paddock_transport::engine::{Next, Now};
use paddock_transport::io::Io;
use paddock_transport::wire::primitives::text_from;
use paddock_transport::wire::{Acl, Create, CreateOp, List, Request, create_flags, error, put_request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use thiserror::Error;

/// Requests in flight per connection: enough for a server to sync many creations at once.
pub const PRELOAD_OUTSTANDING: usize = 64;
/// Longest wait for the server to close the sessions of the preload.
const CLOSE_NS: u64 = 2_000_000_000;

/// Why the tree could not be filled.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum PreloadError {
    /// An ACL forbids the write.
    #[error(
        "no permission to write {path}: choose another place with --root, or give credentials with --auth digest:user:password"
    )]
    NoAuth { path: String },
    /// The server refused a write for another reason.
    #[error("the server answered {error} when {path} was written{advice}")]
    Refused {
        path: String,
        /// Name or number of the error.
        error: String,
        /// Advice for this error; may be empty.
        advice: &'static str,
    },
    /// The server broke the protocol.
    #[error("while the tree was filled: {0}")]
    Violation(String),
}

/// One znode to create or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Number `n` of the root and its ancestors, topmost first.
    Root(u32),
    Directory(u32),
    /// A key that is to be created.
    Key(u32),
    /// A key that exists already, and gets its value by `setData`.
    Existing(u32),
}

/// Items that may be created side by side: a constructor, and the number of items.
type Stage = (fn(u32) -> Item, u32);

/// The preload, on one thread.
#[derive(Debug)]
pub struct Preload {
    keyspace: Keyspace,
    values: Values,
    done: Arc<AtomicU32>,
    stages: Vec<Stage>,
    stage: usize,
    cursor: u32,
    again: Vec<Item>,
    created_all: bool,
    zxid: i64,
    failed: Option<PreloadError>,
    closing_until_ns: Option<u64>,
    scratch: Vec<u8>,
    value: Vec<u8>,
}

/// Facts about the tree that the load needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preloaded {
    /// Every key was created by this run.
    pub created_all: bool,
    /// Zxid at which the tree is complete.
    pub zxid: i64,
}

impl Preload {
    /// Fills `keyspace`. `done` counts finished keys.
    pub fn new(keyspace: Keyspace, values: Values, done: Arc<AtomicU32>) -> Self {
        let mut stages: Vec<Stage> = Vec::new();
        // Each ancestor is a stage of its own: it must exist before the next.
        let ancestors = keyspace.root_paths().count() as u32;
        stages.extend((1..=ancestors).map(|end| (Item::Root as fn(u32) -> Item, end)));
        stages.push((Item::Directory, keyspace.directories()));
        stages.push((Item::Key, keyspace.keys()));
        Self {
            keyspace,
            values,
            done,
            stages,
            stage: 0,
            cursor: 0,
            again: Vec::new(),
            created_all: true,
            zxid: 0,
            failed: None,
            closing_until_ns: None,
            scratch: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Result of the preload.
    pub fn outcome(&self) -> Result<Preloaded, PreloadError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(Preloaded { created_all: self.created_all, zxid: self.zxid }),
        }
    }

    fn next_item(&mut self, in_flight: usize) -> Option<Item> {
        if let Some(item) = self.again.pop() {
            return Some(item);
        }
        let (make, end) = *self.stages.get(self.stage)?;
        if self.cursor == end {
            if in_flight > 0 {
                return None;
            }
            self.stage += 1;
            let is_root =
                self.stages.get(self.stage).is_some_and(|&(make, _)| matches!(make(0), Item::Root(_)));
            self.cursor = if is_root { end } else { 0 };
            return self.next_item(in_flight);
        }
        self.cursor += 1;
        Some(make(self.cursor - 1))
    }

    fn path_of(&mut self, item: Item) {
        self.scratch.clear();
        match item {
            Item::Root(n) => {
                let path = self.keyspace.root_paths().nth(n as usize).unwrap_or_default();
                self.scratch.extend_from_slice(path.as_bytes());
            }
            Item::Directory(n) => self.keyspace.append_directory(n, &mut self.scratch),
            Item::Key(key) | Item::Existing(key) => self.keyspace.append_path(key, &mut self.scratch),
        }
    }

    fn send(&mut self, now: Now, index: usize, item: Item, sessions: &mut Sessions<Item>, io: &mut Io) {
        self.path_of(item);
        self.value.clear();
        if let Item::Key(key) | Item::Existing(key) = item {
            self.values.append(key, 0, &mut self.value);
        }
        let path = text_from(&self.scratch);
        let data = Some(&self.value[..]);
        // The tree is for tests only, so it is open to all.
        let acl = [Acl::OPEN];
        let sent = sessions.send(now, index, item, io, |out, xid| {
            let request = match item {
                Item::Existing(_) => Request::SetData { path, data, version: -1 },
                _ => Request::Create(Create {
                    op: CreateOp::Create,
                    path,
                    data,
                    acl: List::new(&acl),
                    flags: create_flags::PERSISTENT,
                }),
            };
            put_request(out, xid, &request);
        });
        if !sent {
            self.again.push(item);
        }
    }

    fn fail(&mut self, item: Item, err: i32) {
        self.path_of(item);
        let path = String::from_utf8_lossy(&self.scratch).into_owned();
        let name = error::name(err).map_or_else(|| format!("error {err}"), |name| format!("{name} ({err})"));
        let refused = |advice| PreloadError::Refused { path: path.clone(), error: name.clone(), advice };
        self.failed.get_or_insert(match err {
            error::NO_AUTH => PreloadError::NoAuth { path },
            error::NOT_READ_ONLY => refused(": it is a read-only server; choose another --target"),
            error::QUOTA_EXCEEDED => refused(": a quota is set there; choose another place with --root"),
            error::NO_NODE => refused(": is another client deleting the tree?"),
            _ => refused(""),
        });
    }
}

impl Workload for Preload {
    type Request = Item;

    fn ready(&mut self, _now: Now, _index: usize, _sessions: &mut Sessions<Item>, _io: &mut Io) {}

    fn replied(
        &mut self,
        _now: Now,
        _index: usize,
        item: Item,
        reply: Reply<'_>,
        _sessions: &mut Sessions<Item>,
        _io: &mut Io,
    ) -> i64 {
        self.zxid = self.zxid.max(reply.zxid);
        match (reply.err, item) {
            (0, Item::Key(_) | Item::Existing(_)) => {
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            (0, _) | (error::NODE_EXISTS, Item::Root(_) | Item::Directory(_)) => {}
            (error::NODE_EXISTS, Item::Key(key)) => {
                self.created_all = false;
                self.again.push(Item::Existing(key));
            }
            (err, _) => self.fail(item, err),
        }
        0
    }

    fn lost(&mut self, _now: Now, item: Item) {
        // The server may have executed the request. Then the znode exists, which the next reply tells.
        self.created_all = false;
        self.again.push(item);
    }

    fn violation(&mut self, violation: Violation, _place: Place) {
        self.failed.get_or_insert(PreloadError::Violation(violation.to_string()));
    }

    fn turn(&mut self, now: Now, sessions: &mut Sessions<Item>, io: &mut Io) -> Next {
        if let Some(until_ns) = self.closing_until_ns {
            let over = sessions.all_gone() || now.mono_ns >= until_ns;
            return if over { Next::Stop } else { Next::Sleep { deadline_ns: Some(until_ns) } };
        }
        if self.failed.is_none() {
            for index in 0..sessions.len() {
                while sessions.is_ready(index) && sessions.in_flight(index) < PRELOAD_OUTSTANDING {
                    let Some(item) = self.next_item(sessions.in_flight_total()) else { break };
                    self.send(now, index, item, sessions, io);
                }
            }
        }
        let complete =
            self.stage == self.stages.len() && self.again.is_empty() && sessions.in_flight_total() == 0;
        if complete || self.failed.is_some() {
            sessions.close_all(now, io);
            self.closing_until_ns = Some(now.mono_ns + CLOSE_NS);
            return Next::Again;
        }
        Next::Sleep { deadline_ns: None }
    }
}
