//! A second, simple implementation of what committed writes mean: a `BTreeMap` of znodes with their past.
//!
//! Owns the tree, sessions, streams and members that follow from the log, every past state of a path, and
//! the outcome of every write.
//!
//! Never looks into a node. It shares only the wire codec, the grammar of server lines and the command
//! types with the server, not the machine or the tree.
//!
//! Correct by being small: each operation is the few lines that the specification has for it (spec 01
//! section 7.1, spec 02).
//!
//! | part | does |
//! |---|---|
//! | [`writes`] | a client's write to its outcome |
//! | [`reads`] | the answer to a read at a zxid |
//! | [`membership`] | the ensemble's members, and the leader's steps |
//! | [`access`] | ACL checks |

mod access;
mod membership;
mod reads;
mod writes;

use crate::command::{Batch, Command, Identity, NO_STREAM, Op};
use membership::Ensemble;
use paddock_transport::wire::{Limits, Request, Stat, opcode, perms};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub use access::{Entries, allows};

/// Length of the operation number that a simulated client appends to each write's record. Servers ignore
/// these bytes.
pub const OP_BYTES: usize = 8;

/// One state of a znode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Znode {
    /// The data; `None` is null.
    pub data: Option<Vec<u8>>,
    pub acl: Rc<Entries>,
    /// As clients see it, except that `cversion` counts creations of children only.
    pub stat: Stat,
}

impl Znode {
    fn new(data: Option<&[u8]>, acl: Entries) -> Znode {
        let stat = Stat { data_length: data.map_or(0, |d| d.len() as i32), ..Stat::default() };
        Znode { data: data.map(<[u8]>::to_vec), acl: Rc::new(acl), stat }
    }

    /// The stat as sent to clients.
    pub fn wire_stat(&self) -> Stat {
        let cversion = self.stat.cversion.wrapping_mul(2).wrapping_sub(self.stat.num_children);
        Stat { cversion, ..self.stat }
    }
}

/// The kind of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Created,
    Deleted,
    /// The data was set.
    Changed,
}

/// One change of a znode.
#[derive(Clone, Debug)]
pub struct Change {
    pub zxid: i64,
    pub kind: ChangeKind,
    pub path: String,
    /// The znode's ACL, which decides who is notified.
    pub acl: Rc<Entries>,
    /// The parent's ACL, if the change created or deleted a child.
    pub parent_acl: Option<Rc<Entries>>,
}

/// A session that has not ended.
#[derive(Clone, Debug)]
pub struct ModelSession {
    pub timeout_ms: i32,
    password: [u8; 16],
    attachment: u32,
    ephemerals: BTreeSet<String>,
}

/// The reply to a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteOutcome {
    pub zxid: i64,
    /// Error code in the reply's header.
    pub err: i32,
    /// The record after the header.
    pub body: Vec<u8>,
}

/// The effect of one command.
#[derive(Clone, Debug)]
pub enum Done {
    /// A client's write. It has no effect if its session or stream had moved on.
    Write {
        /// The write's operation number.
        op: u64,
    },
    Opened {
        session: i64,
    },
    /// A session was closed, or expired.
    Ended {
        session: i64,
        /// Whether the leader ended it, not its client.
        expired: bool,
        timeout_ms: i32,
        zxid: i64,
    },
    Members {
        /// Nodes that were removed.
        removed: Vec<u8>,
    },
    /// The leader gave a reconfiguration up.
    Refused {
        /// Nodes that would have joined.
        strangers: Vec<u8>,
    },
    /// No effect that a client can see.
    Nothing,
}

/// See the module doc.
#[derive(Default)]
pub struct Model {
    /// The last zxid taken.
    pub zxid: i64,
    nodes: BTreeMap<String, Rc<Znode>>,
    past: BTreeMap<String, Past>,
    /// Sessions that have not ended.
    pub sessions: BTreeMap<i64, ModelSession>,
    streams: BTreeMap<u8, (u64, u64)>,
    /// All changes, in the order of zxids.
    pub changes: Vec<Change>,
    /// Outcomes by operation number.
    pub outcomes: BTreeMap<u64, WriteOutcome>,
    /// Zxids at which a state was published: the last one of each batch.
    published: BTreeSet<i64>,
    pub ensemble: Ensemble,
}

/// The author and time of a write.
#[derive(Clone, Copy)]
struct By<'w> {
    session: i64,
    zxid: i64,
    time_ms: i64,
    who: &'w [Identity],
}

type Code = i32;

/// Every state of a path, with its first zxid; `None` while there was no znode.
type Past = Vec<(i64, Option<Rc<Znode>>)>;

impl Model {
    /// The state of a new ensemble.
    pub fn new() -> Model {
        let mut model = Model::default();
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            let granted = if path == "/zookeeper/config" { perms::READ } else { perms::ALL };
            let acl = vec![(granted, "world".to_owned(), "anyone".to_owned())];
            let mut znode = Znode::new(Some(b""), acl);
            znode.stat.aversion = if path == "/zookeeper/config" { -1 } else { 0 };
            znode.stat.num_children = match path {
                "/" => 1,
                "/zookeeper" => 2,
                _ => 0,
            };
            model.put(path, Some(znode), 0);
        }
        model.published.insert(0);
        model
    }

    /// Applies an entry of the log. `membership` says that the entry changes the voters.
    pub fn apply(&mut self, term: u64, payload: &[u8], membership: bool) -> Result<Vec<Done>, String> {
        let mut done = Vec::new();
        if membership {
            self.change_voters(term, payload, &mut done)?;
        } else if !payload.is_empty() {
            self.batch(term, payload, &mut done)?;
        }
        self.published.insert(self.zxid);
        Ok(done)
    }

    fn batch(&mut self, term: u64, payload: &[u8], done: &mut Vec<Done>) -> Result<(), String> {
        let batch = batch_of(payload)?;
        for command in &batch.commands {
            if command.node == NO_STREAM {
                if let Op::Membership { body } = &command.op {
                    self.membership(term, batch.time_ms, body, done)?;
                }
                continue;
            }
            if self.take_turn(command) {
                done.push(self.command(term, &batch, command)?);
            } else if let Op::Request { body, .. } = &command.op {
                done.extend(number(body).map(|op| Done::Write { op }));
            }
        }
        Ok(())
    }

    /// Whether the command is the next one of its node's stream. A restarted stream (of a node with
    /// another disk) continues with the first command of any incarnation.
    fn take_turn(&mut self, command: &Command) -> bool {
        let came = (command.incarnation, command.seq);
        let last = self.streams.get(&command.node).copied();
        if last.is_some_and(|last| came <= last || (last == ANEW && came.1 != 1)) {
            return false;
        }
        self.streams.insert(command.node, came);
        true
    }

    /// Whether a state was published at this zxid.
    pub fn is_published(&self, zxid: i64) -> bool {
        self.published.contains(&zxid)
    }

    /// The znode's state at a zxid.
    pub fn at(&self, path: &str, zxid: i64) -> Option<&Rc<Znode>> {
        let past = self.past.get(path)?;
        let after = past.partition_point(|(z, _)| *z <= zxid);
        past.get(after.checked_sub(1)?)?.1.as_ref()
    }

    /// The sorted names of the children at a zxid.
    pub fn children(&self, path: &str, zxid: i64) -> Vec<String> {
        self.below(path, zxid).filter(|name| !name.contains('/')).map(str::to_owned).collect()
    }

    /// The number of znodes below the path at a zxid.
    pub fn descendants(&self, path: &str, zxid: i64) -> i32 {
        self.below(path, zxid).count() as i32
    }

    /// Paths of all present znodes.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    fn below(&self, path: &str, zxid: i64) -> impl Iterator<Item = &str> {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let stem = prefix.len();
        self.past
            .range(prefix.clone()..)
            .take_while(move |(p, _)| p.starts_with(&prefix))
            .filter(move |(p, _)| p.len() > stem && self.at(p, zxid).is_some())
            .map(move |(p, _)| &p[stem..])
    }

    fn put(&mut self, path: &str, znode: Option<Znode>, zxid: i64) {
        let znode = znode.map(Rc::new);
        match &znode {
            Some(znode) => self.nodes.insert(path.to_owned(), znode.clone()),
            None => self.nodes.remove(path),
        };
        let past = self.past.entry(path.to_owned()).or_default();
        if past.last().is_some_and(|(z, _)| *z == zxid) {
            past.pop();
        }
        past.push((zxid, znode));
    }

    fn conclude_write(&mut self, op: u64, outcome: WriteOutcome) -> Result<(), String> {
        let zxid = outcome.zxid;
        match self.outcomes.insert(op, outcome) {
            Some(_) => Err(format!("write {op:x} was applied twice, again at zxid {zxid:x}")),
            None => Ok(()),
        }
    }

    fn take_zxid(&mut self, term: u64) -> i64 {
        self.zxid = ((term << 32) as i64 | 1).max(self.zxid + 1);
        self.zxid
    }

    fn command(&mut self, term: u64, batch: &Batch, command: &Command) -> Result<Done, String> {
        let (session, time_ms) = (command.session, batch.time_ms);
        let current = self.sessions.get(&session).map(|s| s.attachment);
        Ok(match &command.op {
            Op::Request { opcode, body } => {
                let op = number(body).ok_or("a write without a number is in the log")?;
                if current != Some(command.attachment) {
                    return Ok(Done::Write { op });
                }
                let request = Request::decode(*opcode, body, Limits::NONE);
                if let Ok(Request::Reconfig { .. }) = &request
                    && self.defer(batch.policy, command, op, &request)
                {
                    return Ok(Done::Write { op });
                }
                let zxid = self.take_zxid(term);
                let multi = *opcode == opcode::MULTI;
                let before = multi.then(|| (self.nodes.clone(), self.changes.len()));
                let by = By { session, zxid, time_ms, who: &command.identities };
                let answer = request.map_err(|e| e.code()).and_then(|request| match request {
                    Request::Reconfig { .. } => Err(self.refusal(batch.policy, &by, &request)),
                    request => self.request(&request, &by),
                });
                let (err, body) = match answer {
                    Ok(body) => (0, body),
                    Err(code) => (code, Vec::new()),
                };
                if let Some((nodes, changes)) = before.filter(|_| err == 0)
                    && let Some(failed) = body.get(..8)
                    // A multi whose first result is an error failed as a whole.
                    && failed[..4] == (-1i32).to_be_bytes()
                    && failed[4] == 0
                {
                    self.undo(nodes, changes, zxid);
                }
                self.conclude_write(op, WriteOutcome { zxid, err, body })?;
                Done::Write { op }
            }
            Op::OpenSession { timeout_ms, password } => {
                if current.is_some() {
                    return Ok(Done::Nothing);
                }
                self.take_zxid(term);
                let (timeout_ms, password) = (*timeout_ms, *password);
                let opened =
                    ModelSession { timeout_ms, password, attachment: 1, ephemerals: BTreeSet::new() };
                self.sessions.insert(session, opened);
                Done::Opened { session }
            }
            Op::AttachSession { timeout_ms, password, last_zxid_seen } => {
                if *last_zxid_seen <= self.zxid
                    && let Some(known) = self.sessions.get_mut(&session)
                {
                    known.attachment += 1;
                    if known.password[..] == password[..] {
                        known.timeout_ms = *timeout_ms;
                    }
                }
                Done::Nothing
            }
            Op::Membership { .. } => Done::Nothing,
            Op::CloseSession if current != Some(command.attachment) => Done::Nothing,
            Op::ExpireSession if current.is_none() => Done::Nothing,
            Op::CloseSession | Op::ExpireSession => {
                let zxid = self.take_zxid(term);
                let Some(ended) = self.sessions.remove(&session) else { return Ok(Done::Nothing) };
                for path in &ended.ephemerals {
                    self.remove(path, zxid);
                }
                let expired = matches!(command.op, Op::ExpireSession);
                Done::Ended { session, expired, timeout_ms: ended.timeout_ms, zxid }
            }
        })
    }
}

/// Position of a restarted stream.
const ANEW: (u64, u64) = (0, 0);

fn batch_of(payload: &[u8]) -> Result<Batch, String> {
    let mut aligned = rkyv::util::AlignedVec::<16>::new();
    aligned.extend_from_slice(payload);
    rkyv::from_bytes::<Batch, rkyv::rancor::Error>(&aligned).map_err(|e| e.to_string())
}

/// The operation number after a write's record.
pub fn number(body: &[u8]) -> Option<u64> {
    body.last_chunk::<OP_BYTES>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The parent path. The parent of "/" is "/".
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(cut) => &path[..cut],
    }
}
