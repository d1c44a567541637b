//! Test rig: shards, a consensus core reduced to the state machine, and clients that send and receive bytes.

use crate::command::{ArchivedBatch, Batch, Command, Op, SEMANTICS};
use crate::commit::{Commit, Outcome, Reply, Ticket};
use crate::freshness::{self, Freshness};
use crate::machine::{Applied, Machine};
use crate::ring::{COMMIT_RING_ENTRIES, CommitSender, Published, with_capacity};
use crate::session::password_matches;
use crate::shard::{Mailboxes, Shard, ShardConfig, ShardParts};
use crate::stats::{ServerState, Stats};
use crate::submit::{Inquiries, Submit};
use crate::tree::{Writer, tree};
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::inproc::{InProc, Wire};
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use paddock_transport::wire::request::put_request;
use paddock_transport::wire::{
    Acl, ConnectRequest, ConnectResponse, Create, CreateOp, Limits, List, ReplyHeader, Request, Response,
    Split, Text, WatcherEvent, put_frame, split, xid,
};
use std::sync::Arc;

/// Stands for the consensus core: numbers commands, applies them and publishes commits.
pub struct Core {
    machine: Machine,
    tree: Writer,
    sender: CommitSender,
    rings: Vec<rtrb::Consumer<Submit>>,
    inquiries: Arc<Inquiries>,
    seq: u64,
    pub touched: Vec<(Vec<i64>, u64)>,
    pub withdrawn: Vec<Ticket>,
    /// Largest number of commands in one commit.
    pub batch_max: usize,
    waiting: Vec<Submit>,
    pub policy: u32,
}

impl Core {
    fn take(&mut self) {
        for ring in &mut self.rings {
            while let Ok(submit) = ring.pop() {
                match submit {
                    Submit::Touched { sessions, at_ns } => self.touched.push((sessions, at_ns)),
                    Submit::Withdraw { ticket } => self.withdrawn.push(ticket),
                    Submit::Lead => {}
                    other => self.waiting.push(other),
                }
            }
        }
    }

    /// Publishes one commit with the waiting submissions. `false`: there were none.
    pub fn step(&mut self) -> bool {
        self.take();
        if self.inquiries.has_any() {
            self.recall();
            return true;
        }
        if self.waiting.is_empty() {
            return false;
        }
        let n = self.waiting.len().min(self.batch_max);
        let now: Vec<Submit> = self.waiting.drain(..n).collect();
        let mut syncs = Vec::new();
        let mut commands = Vec::new();
        for submit in now {
            match submit {
                Submit::Command { ticket, session, attachment, identities, op } => {
                    commands.push((ticket, session, attachment, identities.to_vec(), op));
                }
                Submit::Sync { ticket } => syncs.push(ticket),
                Submit::Touched { .. } | Submit::Withdraw { .. } | Submit::Lead => {
                    unreachable!("taken apart before")
                }
            }
        }
        self.commit(commands, &syncs);
        true
    }

    fn recall(&mut self) {
        let zxid = self.machine.zxid();
        let replies = self.inquiries.take().into_iter().map(|asked| {
            let outcome = match self.machine.sessions().get(asked.session) {
                Some(found) if !password_matches(&found.password, &asked.password) => Outcome::Refused,
                found => Outcome::Recalled { known: found.is_some() },
            };
            Reply { ticket: asked.ticket, zxid, outcome }
        });
        let commit = Commit { zxid, replies: replies.collect(), ..Commit::default() };
        let version = self.tree.publish();
        assert!(self.sender.try_push(Published { commit, version }).is_ok(), "the shards keep up");
    }

    fn commit(
        &mut self,
        submitted: Vec<(Ticket, i64, u32, Vec<crate::command::Identity>, Op)>,
        syncs: &[Ticket],
    ) {
        let first = self.seq + 1;
        let mut tickets = Vec::new();
        let commands = submitted
            .into_iter()
            .map(|(ticket, session, attachment, identities, op)| {
                self.seq += 1;
                tickets.push(ticket);
                Command { node: 1, incarnation: 1, seq: self.seq, session, attachment, identities, op }
            })
            .collect();
        let batch = Batch {
            semantics: SEMANTICS,
            policy: self.policy,
            time_ms: 1_000_000,
            applied_zxid: self.machine.zxid(),
            applied_digest: 0,
            commands,
        };
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        let archived = rkyv::access::<ArchivedBatch, rkyv::rancor::Error>(&bytes).unwrap();
        let mut applied = Applied::default();
        self.machine.apply(&mut self.tree, 1, archived, &mut applied).unwrap();
        let mut replies: Vec<Reply> = applied
            .results
            .into_iter()
            .map(|r| Reply { ticket: tickets[(r.seq - first) as usize], zxid: r.zxid, outcome: r.outcome })
            .collect();
        let zxid = self.machine.zxid();
        replies.extend(syncs.iter().map(|ticket| Reply { ticket: *ticket, zxid, outcome: Outcome::Synced }));
        let commit = Commit { zxid, changes: applied.changes, sessions: applied.sessions, replies };
        let version = self.tree.publish();
        assert!(self.sender.try_push(Published { commit, version }).is_ok(), "the shards keep up");
        self.tree.reclaim();
    }

    /// Orders the attachment of a client on another node behind the waiting submissions; one commit
    /// contains both.
    pub fn attach_elsewhere(&mut self, session: i64, password: [u8; 16]) {
        self.take();
        let ticket = Ticket { shard: u16::MAX, token: 0 };
        let (timeout_ms, password) = (10_000, password.to_vec());
        let op = Op::AttachSession { timeout_ms, password, last_zxid_seen: 0 };
        self.waiting.push(Submit::Command { ticket, session, attachment: 0, identities: [].into(), op });
    }

    /// Opens a session on another node, or in an earlier incarnation of this one.
    pub fn open_elsewhere(&mut self, session: i64) {
        let ticket = Ticket { shard: u16::MAX, token: 0 };
        let op = Op::OpenSession { timeout_ms: 10_000, password: [1; 16] };
        self.commit(vec![(ticket, session, 0, Vec::new(), op)], &[]);
    }

    /// Publishes a commit with the expiry of a session.
    pub fn expire(&mut self, session: i64) {
        let ticket = Ticket { shard: u16::MAX, token: 0 };
        self.commit(vec![(ticket, session, 0, Vec::new(), Op::ExpireSession)], &[]);
    }
}

pub struct World {
    pub net: InProc,
    pub shards: Vec<Shard>,
    pub core: Core,
    pub now: Now,
    pub stats: Arc<Stats>,
    pub freshness: Arc<Freshness>,
    pub inquiries: Arc<Inquiries>,
}

impl World {
    pub fn new(shards: usize) -> Self {
        Self::with(shards, 0, ShardConfig::default())
    }

    pub fn with(shards: usize, per_address_max: u32, config: ShardConfig) -> Self {
        Self::with_ring(shards, per_address_max, config, 1024)
    }

    pub fn with_ring(shards: usize, per_address_max: u32, config: ShardConfig, ring: usize) -> Self {
        let (writer, readers) = tree(shards);
        let (sender, receivers) = with_capacity(shards, COMMIT_RING_ENTRIES);
        let stats = Arc::new(Stats::new(shards, 0));
        stats.set_mode(ServerState::Standalone);
        let mailboxes = Mailboxes::new((0..shards).map(|_| Waker::new().unwrap()).collect(), per_address_max);
        let consensus = Waker::new().unwrap();
        let freshness = Arc::new(Freshness::new(shards));
        freshness.confirm(freshness::ALWAYS);
        let inquiries = Arc::<Inquiries>::default();
        let mut rings = Vec::new();
        let mut next_session = 0x100;
        let policy = config.policy;
        let shards: Vec<Shard> = readers
            .into_iter()
            .zip(receivers)
            .enumerate()
            .map(|(n, (reader, commits))| {
                let (submit, consumer) = rtrb::RingBuffer::new(ring);
                rings.push(consumer);
                next_session += 0x1000;
                let mut id = next_session;
                Shard::new(ShardParts {
                    config: ShardConfig { id: n as u16, ..config.clone() },
                    reader,
                    commits,
                    submit,
                    consensus: consensus.clone(),
                    ids: Box::new(move || {
                        id += 1;
                        (id, [id as u8; 16])
                    }),
                    stats: stats.clone(),
                    armed: Arc::default(),
                    mailboxes: mailboxes.clone(),
                    freshness: freshness.clone(),
                    inquiries: inquiries.clone(),
                })
            })
            .collect();
        let machine = Machine::new(&writer);
        let core = Core {
            machine,
            tree: writer,
            sender,
            rings,
            inquiries: inquiries.clone(),
            seq: 0,
            touched: Vec::new(),
            withdrawn: Vec::new(),
            batch_max: usize::MAX,
            waiting: Vec::new(),
            policy,
        };
        let net = InProc::new(shards.len());
        let now = Now { mono_ns: 1_000_000_000, wall_ms: 1_000_000 };
        let mut world = Self { net, shards, core, now, stats, freshness, inquiries };
        world.core.commit(Vec::new(), &[]);
        world
    }

    /// Runs the shards, without the core, until they are idle.
    pub fn run_shards(&mut self) {
        let mut engines: Vec<&mut dyn Engine> =
            self.shards.iter_mut().map(|s| s as &mut dyn Engine).collect();
        assert!(self.net.run_until_quiet(self.now, &mut engines, 100_000), "it comes to rest");
    }

    /// Runs shards and core until both are idle.
    pub fn run(&mut self) {
        loop {
            self.run_shards();
            if !self.core.step() {
                break;
            }
        }
    }

    pub fn pass(&mut self, ns: u64) {
        self.now.mono_ns += ns;
        self.now.wall_ms += (ns / 1_000_000) as i64;
    }

    /// Connects without a handshake.
    pub fn dial(&mut self, shard: usize) -> Client {
        let wire = self.net.dial(shard);
        Client { wire, bytes: Vec::new(), session: 0, password: [0; 16], xid: 0 }
    }

    /// Connects to the given listener without a handshake.
    pub fn dial_listener(&mut self, shard: usize, listener: u16) -> Client {
        let wire = self.net.dial_from(shard, listener, Address::Tcp(([127, 0, 0, 9], 9999).into()));
        Client { wire, bytes: Vec::new(), session: 0, password: [0; 16], xid: 0 }
    }

    /// Sends a four-letter word and returns the answer.
    pub fn word(&mut self, shard: usize, word: &str) -> String {
        let asking = self.net.dial(shard);
        self.net.send(asking, word.as_bytes());
        self.run_shards();
        assert!(self.net.is_closed(asking));
        String::from_utf8(self.net.received(asking)).unwrap()
    }

    /// Connects a client and opens a session.
    pub fn client(&mut self, shard: usize) -> Client {
        let mut client = self.dial(shard);
        self.connect(&mut client, &connect_request(0, &[0; 16]));
        self.run();
        let answer = self.handshake(&mut client).expect("a session");
        assert!(answer.1 > 0 && answer.0 != 0);
        client
    }

    pub fn connect(&mut self, client: &mut Client, request: &ConnectRequest<'_>) {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| request.put(out));
        self.net.send(client.wire, &bytes);
    }

    /// Reads a ConnectResponse and returns (session, timeout).
    pub fn handshake(&mut self, client: &mut Client) -> Option<(i64, i32)> {
        let payload = self.frame(client)?;
        let response = ConnectResponse::decode(&payload, Limits::NONE).unwrap();
        client.session = response.session_id;
        client.password = response.password.unwrap().try_into().unwrap();
        Some((response.session_id, response.timeout_ms))
    }

    /// Sends one request under the client's next xid and returns the xid.
    pub fn send(&mut self, client: &mut Client, request: &Request<'_>) -> i32 {
        client.xid += 1;
        let mut bytes = Vec::new();
        put_request(&mut bytes, client.xid, request);
        self.net.send(client.wire, &bytes);
        client.xid
    }

    pub fn send_raw(&mut self, client: &mut Client, xid: i32, opcode: i32, body: &[u8]) {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| {
            out.extend(xid.to_be_bytes());
            out.extend(opcode.to_be_bytes());
            out.extend(body);
        });
        self.net.send(client.wire, &bytes);
    }

    fn frame(&mut self, client: &mut Client) -> Option<Vec<u8>> {
        client.bytes.extend(self.net.received(client.wire));
        let (payload, used) = match split(&client.bytes, i32::MAX as u32).unwrap() {
            Split::Frame { payload, rest } => (payload.to_vec(), client.bytes.len() - rest.len()),
            Split::Incomplete { .. } => return None,
        };
        client.bytes.drain(..used);
        Some(payload)
    }

    /// Returns every message that has arrived.
    pub fn messages(&mut self, client: &mut Client) -> Vec<Message> {
        client.bytes.extend(self.net.received(client.wire));
        let bytes = std::mem::take(&mut client.bytes);
        let mut left = &bytes[..];
        let mut all = Vec::new();
        while let Split::Frame { payload, rest } = split(left, i32::MAX as u32).unwrap() {
            let (header, body) = ReplyHeader::split(payload).unwrap();
            all.push(Message { xid: header.xid, zxid: header.zxid, err: header.err, body: body.to_vec() });
            left = rest;
        }
        client.bytes = left.to_vec();
        all
    }

    /// Sends one request, runs shards and core, and returns the only message that arrives.
    pub fn ask(&mut self, client: &mut Client, request: &Request<'_>) -> Message {
        let xid = self.send(client, request);
        self.run();
        let mut all = self.messages(client);
        assert_eq!(all.len(), 1, "one answer to {request:?}: {all:?}");
        let message = all.remove(0);
        assert!(message.xid == xid || message.xid == xid::PING);
        message
    }

    pub fn is_closed(&self, client: &Client) -> bool {
        self.net.is_closed(client.wire)
    }

    pub fn next(&self, shard: usize) -> Next {
        self.net.next(shard).expect("it had a turn")
    }
}

pub struct Client {
    pub wire: Wire,
    bytes: Vec<u8>,
    pub session: i64,
    pub password: [u8; 16],
    pub xid: i32,
}

/// One frame of a shard, behind the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
    pub body: Vec<u8>,
}

impl Message {
    /// (type, path) of a notification.
    pub fn event(&self) -> Option<(i32, String)> {
        (self.xid == xid::NOTIFICATION).then(|| {
            let event = WatcherEvent::decode(&self.body, Limits::NONE).unwrap();
            (event.kind, event.path.into_owned())
        })
    }
    pub fn response(&self, opcode: i32) -> Response<'_> {
        Response::decode(opcode, &self.body, Limits::NONE).unwrap()
    }
}

pub fn connect_request(session: i64, password: &[u8]) -> ConnectRequest<'_> {
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: 10_000,
        session_id: session,
        password: Some(password),
        read_only: Some(false),
    }
}

pub fn create<'a>(path: &'a str, data: &'a [u8], acl: &'a [Acl<'a>], flags: i32) -> Request<'a> {
    Request::Create(Create {
        op: CreateOp::Create,
        path: path.into(),
        data: Some(data),
        acl: List::new(acl),
        flags,
    })
}

pub fn make<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    create(path, data, const { &[Acl::OPEN] }, 0)
}

pub fn get(path: &str, watch: bool) -> Request<'_> {
    Request::GetData { path: path.into(), watch }
}

pub fn exists(path: &str, watch: bool) -> Request<'_> {
    Request::Exists { path: path.into(), watch }
}

pub fn set<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    Request::SetData { path: path.into(), data: Some(data), version: -1 }
}

pub fn delete(path: &str) -> Request<'_> {
    Request::Delete { path: path.into(), version: -1 }
}

pub fn children(path: &str, watch: bool) -> Request<'_> {
    Request::GetChildren { path: path.into(), watch }
}

pub fn texts<'a>(of: &[&'a str]) -> Vec<Text<'a>> {
    of.iter().map(|t| Text::Borrowed(*t)).collect()
}

/// A shard that no longer reacts.
pub struct Stuck;

impl Engine for Stuck {
    fn opened(&mut self, _: Now, _: ConnId, _: &Origin, _: &mut Io) {}
    fn received(&mut self, _: Now, _: ConnId, _: &[u8], _: &mut Io) {}
    fn closed(&mut self, _: Now, _: ConnId, _: Closed, _: &mut Io) {}
    fn turn(&mut self, _: Now, _: &mut Io) -> Next {
        Next::Sleep { deadline_ns: None }
    }
}
