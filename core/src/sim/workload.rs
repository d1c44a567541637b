//! The clients' requests: every operation, over few enough paths that clients conflict.
//!
//! Owns the choice of requests.
//!
//! Never looks at the model: a client knows only what servers told it.
//!
//! Correct because each write carries its number after its record, where servers ignore it. The number
//! identifies the write's entry in the log.

use super::rng::Rng;
use crate::acl::digest_id;
use crate::command::Identity;
use paddock_transport::wire::{
    Acl, Create, CreateOp, List, Multi, Request, WatchMode, WatcherKind, create_flags, opcode, perms,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One open request, and what checkers need to know of it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Operation number, unique in a run.
    pub op: u64,
    /// Number of the request on its connection.
    pub xid: i32,
    pub opcode: i32,
    /// Record, followed by the operation number if it is a write.
    pub body: Vec<u8>,
    /// True time at which it was sent.
    pub sent_ns: u64,
    /// Ids of the connection.
    pub who: Rc<[Identity]>,
    /// Whether the listener promises linearizable reads.
    pub linearizable: bool,
    /// Whether the server said that it is read-only.
    pub read_only: bool,
}

impl Ask {
    /// Whether the request goes through the log. A session's close does not count.
    pub fn is_write(&self) -> bool {
        opcode::class(self.opcode) == Some(opcode::Class::Write) && self.opcode != opcode::CLOSE_SESSION
    }
}

/// The fixed paths of a run.
pub fn paths() -> Vec<String> {
    let mut all = Vec::new();
    for top in ["/a", "/b", "/c"] {
        all.push(top.to_owned());
        for below in ["x", "y", "z"] {
            all.push(format!("{top}/{below}"));
        }
    }
    all.extend(["/a/x/1", "/a/x/2", "/b/y/1", "/queue", "/locks"].map(str::to_owned));
    all
}

/// Draws a client's requests.
pub struct Workload {
    paths: Vec<String>,
    /// Paths learned from answers.
    heard: Vec<String>,
    /// Versions learned from answers, by path.
    pub versions: BTreeMap<String, i32>,
    /// Percentage of writes. At 0 the client never waits for the log.
    pub writes_percent: u64,
    /// Whether the client sometimes asks for a reconfiguration, which only the operator may.
    pub meddles: bool,
}

/// Limit of learned paths.
const HEARD_MAX: usize = 24;

impl Workload {
    /// Draws the settings of a client's workload.
    pub fn new(rng: &mut Rng) -> Workload {
        let (heard, versions) = (Vec::new(), BTreeMap::new());
        Workload {
            paths: paths(),
            heard,
            versions,
            writes_percent: if rng.one_in(3) { 0 } else { rng.range(20, 70) },
            meddles: true,
        }
    }

    /// Learns a path from an answer.
    pub fn hear(&mut self, path: &str) {
        if !self.heard.iter().any(|p| p == path) {
            if self.heard.len() >= HEARD_MAX {
                self.heard.remove(0);
            }
            self.heard.push(path.to_owned());
        }
    }

    fn path(&self, rng: &mut Rng) -> String {
        if !self.heard.is_empty() && rng.one_in(4) {
            return rng.pick(&self.heard).clone();
        }
        rng.pick(&self.paths).clone()
    }

    fn version(&self, path: &str, rng: &mut Rng) -> i32 {
        match rng.below(4) {
            0 => self.versions.get(path).copied().unwrap_or(0),
            1 if rng.one_in(3) => rng.below(4) as i32,
            _ => -1,
        }
    }

    /// Draws the opcode and record of the next request. `op` is the number of a write.
    pub fn next(&self, op: u64, rng: &mut Rng) -> (i32, Vec<u8>) {
        if rng.below(100) < self.writes_percent { self.write(op, rng) } else { self.read(rng) }
    }

    /// Draws the opcode and record of a write.
    pub fn write(&self, op: u64, rng: &mut Rng) -> (i32, Vec<u8>) {
        if self.meddles && rng.one_in(60) {
            return encode(&reconfig(rng), Some(op));
        }
        let data = value(op, rng);
        let owners = USERS.map(digest_id);
        let (acl, path) = (acl(rng, &owners), self.path(rng));
        let version = self.version(&path, rng);
        let create = |path: &str, flags: i32, op: CreateOp| -> Request<'_> {
            Request::Create(Create {
                op,
                path: path.to_owned().into(),
                data: Some(&data),
                acl: List::new(&acl),
                flags,
            })
        };
        let request = match rng.below(20) {
            0..=3 => create(&path, create_flags::PERSISTENT, CreateOp::Create),
            4 => create(&path, create_flags::PERSISTENT, CreateOp::Create2),
            5..=6 => create(&path, create_flags::EPHEMERAL, CreateOp::Create2),
            7..=8 => {
                let stem = format!("{}/n-", rng.pick(&["/queue", "/locks", "/a/x"]));
                let flags =
                    *rng.pick(&[create_flags::PERSISTENT_SEQUENTIAL, create_flags::EPHEMERAL_SEQUENTIAL]);
                create(&stem, flags, *rng.pick(&[CreateOp::Create, CreateOp::Create2]))
            }
            9..=12 => Request::SetData { path: path.into(), data: Some(&data), version },
            13..=15 => Request::Delete { path: path.into(), version },
            16 => Request::SetAcl { path: path.into(), acl: List::new(&acl), version: -1 },
            _ => {
                let (one, two) = (self.path(rng), self.path(rng));
                let ops = [
                    Request::Check { path: one.clone().into(), version: self.version(&one, rng) },
                    Request::SetData { path: one.into(), data: Some(&data), version: -1 },
                    create(&two, create_flags::EPHEMERAL, CreateOp::Create),
                    create("/queue/m-", create_flags::PERSISTENT_SEQUENTIAL, CreateOp::Create2),
                    Request::Delete { path: two.clone().into(), version: -1 },
                ];
                let first = rng.below(3) as usize;
                let last = rng.range(first as u64 + 1, ops.len() as u64) as usize;
                return encode(&Request::Multi(Multi::new(&ops[first..last])), Some(op));
            }
        };
        encode(&request, Some(op))
    }

    fn read(&self, rng: &mut Rng) -> (i32, Vec<u8>) {
        let path = self.path(rng);
        let watch = rng.one_in(3);
        let request = match rng.below(20) {
            0..=4 => Request::GetData { path: path.into(), watch },
            5..=7 => Request::Exists { path: path.into(), watch },
            8..=9 => Request::GetChildren { path: path.into(), watch },
            10..=11 => Request::GetChildren2 { path: path.into(), watch },
            12 => Request::GetAcl { path: path.into() },
            13 => Request::GetAllChildrenNumber { path: path.into() },
            14 => {
                let two = self.path(rng);
                let ops = [
                    Request::GetData { path: path.into(), watch: false },
                    Request::GetChildren { path: two.into(), watch: false },
                ];
                return encode(&Request::MultiRead(Multi::new(&ops)), None);
            }
            15 => {
                let mode = *rng.pick(&[WatchMode::Persistent, WatchMode::PersistentRecursive]);
                Request::AddWatch { path: path.into(), mode }
            }
            16 => Request::CheckWatches { path: path.into(), kind: kind(rng) },
            17 => Request::RemoveWatches { path: path.into(), kind: kind(rng) },
            // A client that only reads must not wait for a sync, so that a node without quorum can go on
            // serving it.
            _ if self.writes_percent == 0 => Request::Exists { path: path.into(), watch },
            _ => Request::Sync { path: path.into() },
        };
        encode(&request, None)
    }
}

/// A request's opcode and record, followed by the number of a write.
pub fn encode(request: &Request<'_>, op: Option<u64>) -> (i32, Vec<u8>) {
    let mut body = Vec::new();
    request.put(&mut body);
    if let Some(op) = op {
        body.extend(op.to_be_bytes());
    }
    (request.opcode(), body)
}

/// A reconfiguration that adds or removes a member, with a version that may be wrong.
fn reconfig(rng: &mut Rng) -> Request<'static> {
    let number = rng.range(1, 7);
    let line = format!("server.{number}=10.0.1.{number}:2888:3888:participant;0.0.0.0:2181");
    let (joining, leaving) = match rng.one_in(2) {
        true => (Some(line.into()), None),
        false => (None, Some(number.to_string().into())),
    };
    let config_id = if rng.one_in(3) { 1 << 32 } else { -1 };
    Request::Reconfig { joining, leaving, new_members: None, config_id }
}

fn kind(rng: &mut Rng) -> WatcherKind {
    use WatcherKind::*;
    *rng.pick(&[Children, Data, Any, Persistent, PersistentRecursive])
}

fn value(op: u64, rng: &mut Rng) -> Vec<u8> {
    let length = if rng.one_in(40) { rng.range(1000, 20_000) } else { rng.range(0, 60) };
    let mut data = format!("{op:x}:").into_bytes();
    data.resize(data.len() + length as usize, b'.');
    data
}

/// Credentials of some clients.
pub const USERS: [&str; 2] = ["alice:secret", "bob:secret"];

/// Credentials of the superuser, who may change the members.
pub const SUPER: &str = "super:secret";

/// Ids of a connection that authenticated as `user`.
pub fn identities(user: Option<&str>) -> Rc<[Identity]> {
    let Some(user) = user else { return Rc::new([]) };
    let mut ids = vec![Identity { scheme: "digest".to_owned(), id: digest_id(user) }];
    if user == SUPER {
        ids.insert(0, Identity { scheme: "super".to_owned(), id: String::new() });
    }
    ids.into()
}

/// Mostly all rights for all clients. Sometimes fewer, and sometimes only one user has any.
fn acl<'o>(rng: &mut Rng, owners: &'o [String]) -> Vec<Acl<'o>> {
    let owner = &owners[rng.below(owners.len() as u64) as usize];
    let granted = match rng.below(12) {
        0 => perms::ALL & !perms::WRITE,
        1 => perms::ALL & !perms::CREATE,
        2 => perms::ALL & !perms::DELETE,
        _ => perms::ALL,
    };
    let mut list = vec![Acl::new(granted, "world", "anyone")];
    match rng.below(12) {
        0 => list.push(Acl::new(perms::READ, "digest", "somebody:hash")),
        1 => list.push(Acl::new(perms::ALL, "digest", owner)),
        2 => list = vec![Acl::new(perms::ALL, "digest", owner)],
        3 => list = vec![Acl::new(perms::READ, "world", "anyone"), Acl::new(perms::ALL, "digest", owner)],
        _ => {}
    }
    list
}
