//! What the committed writes mean, a second time and simply: a `BTreeMap` of znodes with all their past.
//!
//! Owns the tree, the sessions and the streams as they follow from the log, every state that a path ever had, and the
//! outcome of every write. Never looks into a node and shares no code with the machine or the tree, the wire's codec
//! excepted. It stays correct by being small: each operation is the few lines that the specification has for it (spec 01
//! section 7.1, spec 02).

use crate::command::{Batch, Command, NO_STREAM, Op};
use crate::machine::MembershipCommand;
use crate::members::Members;
use paddock_transport::wire::multi::MultiOp;
use paddock_transport::wire::{
    Acl, Create, CreateOp, Limits, List, Multi, MultiResult, Request, Response, Stat, Text, error, perms,
    put_multi_end,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Bytes that a client of the simulation puts behind each write's record, where servers look at nothing: its number.
pub const OP_BYTES: usize = 8;

/// One znode at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Znode {
    /// Data; `None` is null.
    pub data: Option<Vec<u8>>,
    /// (permissions, scheme, id).
    pub acl: Vec<(i32, String, String)>,
    /// As clients see it, except that `cversion` counts creations of children only.
    pub stat: Stat,
}

impl Znode {
    fn new(data: Option<&[u8]>, acl: Vec<(i32, String, String)>) -> Znode {
        let stat = Stat { data_length: data.map_or(0, |d| d.len() as i32), ..Stat::default() };
        Znode { data: data.map(<[u8]>::to_vec), acl, stat }
    }

    /// The stat on the wire.
    pub fn wire_stat(&self) -> Stat {
        let cversion = self.stat.cversion.wrapping_mul(2).wrapping_sub(self.stat.num_children);
        Stat { cversion, ..self.stat }
    }

    fn allows(&self, permission: i32) -> bool {
        self.acl.iter().any(|(granted, ..)| granted & permission != 0)
    }
}

/// What a change did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Created.
    Created,
    /// Deleted.
    Deleted,
    /// Data set.
    Changed,
}

/// One change of the tree.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its zxid.
    pub zxid: i64,
    /// What.
    pub kind: Kind,
    /// Where.
    pub path: String,
}

/// A living session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Negotiated timeout.
    pub timeout_ms: i32,
    password: [u8; 16],
    attachment: u32,
    ephemerals: BTreeSet<String>,
}

/// How a write ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its zxid.
    pub zxid: i64,
    /// Code in the reply's header.
    pub err: i32,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// What one command did.
#[derive(Clone, Debug)]
pub enum Done {
    /// A client's write, by its number.
    Write {
        /// The number.
        op: u64,
    },
    /// A session was opened.
    Opened {
        /// Which.
        session: i64,
    },
    /// It ended.
    Ended {
        /// Which.
        session: i64,
        /// By the leader, not by its client.
        expired: bool,
        /// Negotiated timeout.
        timeout_ms: i32,
        /// The zxid.
        zxid: i64,
    },
    /// Nothing that anybody can see.
    Nothing,
}

/// See the module doc.
#[derive(Default)]
pub struct Model {
    /// Last zxid.
    pub zxid: i64,
    nodes: BTreeMap<String, Rc<Znode>>,
    past: BTreeMap<String, Past>,
    /// Living sessions.
    pub sessions: BTreeMap<i64, Session>,
    streams: BTreeMap<u8, (u64, u64)>,
    /// All changes, in order.
    pub changes: Vec<Change>,
    /// By number.
    pub outcomes: BTreeMap<u64, Outcome>,
    /// Zxids at which a state was published: the last of each batch.
    published: BTreeSet<i64>,
    /// The first leader has named the members.
    bootstrapped: bool,
}

type Code = i32;

/// Every state of a path, with the zxid that began it; `None` while there was no znode.
type Past = Vec<(i64, Option<Rc<Znode>>)>;

impl Model {
    /// The state of an ensemble that never did anything.
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

    /// Applies an entry of the log.
    pub fn apply(&mut self, term: u64, payload: &[u8]) -> Result<Vec<Done>, String> {
        if payload.is_empty() {
            return Ok(Vec::new());
        }
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(payload);
        let batch = rkyv::from_bytes::<Batch, rkyv::rancor::Error>(&aligned).map_err(|e| e.to_string())?;
        let mut done = Vec::new();
        for command in &batch.commands {
            if command.node == NO_STREAM {
                if let Op::Membership { body } = &command.op {
                    self.membership(term, batch.time_ms, body)?;
                }
                continue;
            }
            let last = self.streams.get(&command.node).copied().unwrap_or_default();
            let came = (command.incarnation, command.seq);
            if came.0 < last.0 || (came.0 == last.0 && came.1 <= last.1) {
                continue;
            }
            self.streams.insert(command.node, came);
            done.push(self.command(term, batch.time_ms, command)?);
        }
        self.published.insert(self.zxid);
        Ok(done)
    }

    /// Whether readers could stand on this zxid.
    pub fn is_published(&self, zxid: i64) -> bool {
        self.published.contains(&zxid)
    }

    /// A znode as it was at a zxid.
    pub fn at(&self, path: &str, zxid: i64) -> Option<&Rc<Znode>> {
        let past = self.past.get(path)?;
        let after = past.partition_point(|(z, _)| *z <= zxid);
        past.get(after.checked_sub(1)?)?.1.as_ref()
    }

    /// The names of its children as they were at a zxid, sorted.
    pub fn children(&self, path: &str, zxid: i64) -> Vec<String> {
        self.below(path, zxid).filter(|name| !name.contains('/')).map(str::to_owned).collect()
    }

    /// How many znodes were below it.
    pub fn descendants(&self, path: &str, zxid: i64) -> i32 {
        self.below(path, zxid).count() as i32
    }

    /// Paths of all znodes now.
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

    fn take_zxid(&mut self, term: u64) -> i64 {
        self.zxid = ((term << 32) as i64 | 1).max(self.zxid + 1);
        self.zxid
    }

    fn command(&mut self, term: u64, time_ms: i64, command: &Command) -> Result<Done, String> {
        let session = command.session;
        let current = self.sessions.get(&session).map(|s| s.attachment);
        Ok(match &command.op {
            Op::Request { opcode, body } => {
                let op = number(body).ok_or("a write without a number is in the log")?;
                if current != Some(command.attachment) {
                    return Ok(Done::Nothing);
                }
                let zxid = self.take_zxid(term);
                let (nodes, changes) = (self.nodes.clone(), self.changes.len());
                let answer = Request::decode(*opcode, body, Limits::NONE)
                    .map_err(|e| e.code())
                    .and_then(|request| self.request(&request, session, zxid, time_ms));
                let (err, body) = match answer {
                    Ok(body) => (0, body),
                    Err(code) => (code, Vec::new()),
                };
                if let Some(failed) = body.get(..8).filter(|_| *opcode == 14 && err == 0) {
                    // A multi whose first result is an error failed as a whole.
                    if failed[..4] == (-1i32).to_be_bytes() && failed[4] == 0 {
                        self.undo(nodes, changes, zxid);
                    }
                }
                if self.outcomes.insert(op, Outcome { zxid, err, body }).is_some() {
                    return Err(format!("write {op:x} was applied twice, again at zxid {zxid:x}"));
                }
                Done::Write { op }
            }
            Op::OpenSession { timeout_ms, password } => {
                if current.is_some() {
                    return Ok(Done::Nothing);
                }
                self.take_zxid(term);
                let (timeout_ms, password) = (*timeout_ms, *password);
                let opened = Session { timeout_ms, password, attachment: 1, ephemerals: BTreeSet::new() };
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

    /// The leader's steps in the life of the membership. Only those that clients can see are modelled.
    fn membership(&mut self, term: u64, time_ms: i64, body: &[u8]) -> Result<(), String> {
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(body);
        let command = rkyv::from_bytes::<MembershipCommand, rkyv::rancor::Error>(&aligned);
        if let MembershipCommand::Bootstrap { cluster, members } = command.map_err(|e| e.to_string())?
            && !self.bootstrapped
        {
            self.bootstrapped = true;
            let version = ((term << 32) as i64).max(self.zxid);
            let text = Members { cluster, version, members }.config_text();
            if let Ok(mut znode) = self.znode("/zookeeper/config") {
                znode.stat.data_length = text.len() as i32;
                (znode.stat.mzxid, znode.stat.mtime, znode.stat.version) = (version, time_ms, -1);
                znode.data = Some(text.into_bytes());
                self.put("/zookeeper/config", Some(znode), version);
                let path = "/zookeeper/config".to_owned();
                self.changes.push(Change { zxid: version, kind: Kind::Changed, path });
            }
        }
        Ok(())
    }

    fn undo(&mut self, nodes: BTreeMap<String, Rc<Znode>>, changes: usize, zxid: i64) {
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

    fn request(
        &mut self,
        request: &Request<'_>,
        session: i64,
        zxid: i64,
        time_ms: i64,
    ) -> Result<Vec<u8>, Code> {
        let mut body = Vec::new();
        match request {
            Request::Multi(ops) => {
                let mut results: Vec<MultiResult<'static>> = Vec::new();
                for (at, op) in ops.iter().enumerate() {
                    match self.single(&op, session, zxid, time_ms) {
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
                if !znode.allows(perms::ADMIN) {
                    return Err(error::NO_AUTH);
                }
                expect(*version, znode.stat.aversion)?;
                (znode.acl, znode.stat.aversion) = (listed(*acl), znode.stat.aversion + 1);
                znode.wire_stat().put(&mut body);
                self.put(path, Some(znode), zxid);
            }
            Request::Reconfig { .. } => return Err(error::RECONFIG_DISABLED),
            single => match self.single(single, session, zxid, time_ms)? {
                MultiResult::Create { path } => Response::Path(path).put(&mut body),
                MultiResult::Create2 { path, stat } => Response::PathStat(path, stat).put(&mut body),
                MultiResult::SetData { stat } => stat.put(&mut body),
                _ => {}
            },
        }
        Ok(body)
    }

    fn single(
        &mut self,
        op: &Request<'_>,
        session: i64,
        zxid: i64,
        time_ms: i64,
    ) -> Result<MultiResult<'static>, Code> {
        match op {
            Request::Create(create) => self.create(create, session, zxid, time_ms),
            Request::Delete { path, version } => {
                if !self.znode(parent(path))?.allows(perms::DELETE) {
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
                if !znode.allows(perms::WRITE) {
                    return Err(error::NO_AUTH);
                }
                expect(*version, znode.stat.version)?;
                znode.data = data.map(<[u8]>::to_vec);
                let stat = &mut znode.stat;
                (stat.mzxid, stat.mtime, stat.version) = (zxid, time_ms, stat.version + 1);
                stat.data_length = data.map_or(0, |d| d.len() as i32);
                let stat = znode.wire_stat();
                self.put(path, Some(znode), zxid);
                self.changes.push(Change { zxid, kind: Kind::Changed, path: path.to_string() });
                Ok(MultiResult::SetData { stat })
            }
            Request::Check { path, version } => {
                let znode = self.znode(path)?;
                if !znode.allows(perms::READ) {
                    return Err(error::NO_AUTH);
                }
                expect(*version, znode.stat.version)?;
                Ok(MultiResult::Check)
            }
            _ => Err(error::UNIMPLEMENTED),
        }
    }

    fn create(
        &mut self,
        create: &Create<'_>,
        session: i64,
        zxid: i64,
        time_ms: i64,
    ) -> Result<MultiResult<'static>, Code> {
        let above = parent(&create.path);
        let mut over = self.znode(above)?;
        if !over.allows(perms::CREATE) {
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
        self.put(above, Some(over), zxid);
        self.put(&path, Some(znode), zxid);
        self.changes.push(Change { zxid, kind: Kind::Created, path: path.clone() });
        let path = Text::Owned(path);
        Ok(match create.op {
            CreateOp::Create => MultiResult::Create { path },
            _ => MultiResult::Create2 { path, stat },
        })
    }

    fn remove(&mut self, path: &str, zxid: i64) {
        let above = parent(path);
        if let Ok(mut over) = self.znode(above) {
            (over.stat.num_children, over.stat.pzxid) = (over.stat.num_children - 1, zxid);
            self.put(above, Some(over), zxid);
        }
        self.put(path, None, zxid);
        self.changes.push(Change { zxid, kind: Kind::Deleted, path: path.to_owned() });
    }

    fn znode(&self, path: &str) -> Result<Znode, Code> {
        self.nodes.get(path).map(|z| (**z).clone()).ok_or(error::NO_NODE)
    }

    /// The body that a read answers at a zxid, or its error code.
    pub fn read(&self, request: &Request<'_>, zxid: i64) -> Option<Result<Vec<u8>, Code>> {
        let mut body = Vec::new();
        let there = |path: &str| self.at(path, zxid).ok_or(error::NO_NODE);
        let found = match request {
            Request::Exists { path, .. } => there(path).map(|z| z.wire_stat().put(&mut body)),
            Request::GetData { path, .. } => {
                there(path).map(|z| Response::Data(z.data.as_deref(), z.wire_stat()).put(&mut body))
            }
            Request::GetAcl { path } => there(path).map(|z| {
                let acl: Vec<Acl<'_>> = z.acl.iter().map(|(p, s, i)| Acl::new(*p, s, i)).collect();
                Response::Acl(List::new(&acl), z.wire_stat()).put(&mut body);
            }),
            Request::GetChildren { path, .. } => there(path).map(|_| self.put_names(path, zxid, &mut body)),
            Request::GetChildren2 { path, .. } => there(path).map(|z| {
                self.put_names(path, zxid, &mut body);
                z.wire_stat().put(&mut body);
            }),
            Request::GetAllChildrenNumber { path } => {
                there(path).map(|_| Response::Number(self.descendants(path, zxid)).put(&mut body))
            }
            Request::MultiRead(ops) => {
                for op in ops.iter() {
                    match &op {
                        Request::GetData { path, .. } => match there(path) {
                            Ok(z) => MultiResult::GetData { data: z.data.as_deref(), stat: z.wire_stat() }
                                .put(&mut body),
                            Err(code) => MultiResult::Error { code }.put(&mut body),
                        },
                        Request::GetChildren { path, .. } => match there(path) {
                            Ok(_) => {
                                let names = self.children(path, zxid);
                                let names: Vec<Text<'_>> = names.iter().map(|n| n.as_str().into()).collect();
                                MultiResult::GetChildren { children: List::new(&names) }.put(&mut body);
                            }
                            Err(code) => MultiResult::Error { code }.put(&mut body),
                        },
                        _ => {}
                    }
                }
                put_multi_end(&mut body);
                Ok(())
            }
            _ => return None,
        };
        Some(found.map(|()| body))
    }

    fn put_names(&self, path: &str, zxid: i64, body: &mut Vec<u8>) {
        let names = self.children(path, zxid);
        let names: Vec<Text<'_>> = names.iter().map(|n| n.as_str().into()).collect();
        Response::Names(List::new(&names)).put(body);
    }
}

/// The number behind a write's record.
pub fn number(body: &[u8]) -> Option<u64> {
    body.last_chunk::<OP_BYTES>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The path above, "/" above "/".
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(cut) => &path[..cut],
    }
}

fn expect(wanted: i32, found: i32) -> Result<(), Code> {
    if wanted == -1 || wanted == found { Ok(()) } else { Err(error::BAD_VERSION) }
}

fn listed(acl: List<'_, Acl<'_>>) -> Vec<(i32, String, String)> {
    let text = |t: Option<Text<'_>>| t.unwrap_or_default().into_owned();
    acl.iter().map(|a| (a.perms, text(a.id.scheme), text(a.id.id))).collect()
}
