//! A whole node without sockets. The test runs each turn of the core and holds the shards' ends of the
//! rings.
//!
//! Time stands still unless a test advances it. Between turns the rig sleeps on the core's waker, as a loop
//! does. So the real flusher and checkpoint threads take the time that they need, and no test waits for a
//! clock.

use crate::command::{Identity, Op};
use crate::commit::{Commit, Outcome, Reply, SessionEvent, Ticket};
use crate::consensus::{Consensus, ConsensusConfig, Parts, ShardParts, StartError};
use crate::stats::Stats;
use crate::submit::Submit;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Engine, Next, Now};
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use paddock_transport::wire::{Acl, Create, CreateOp, Limits, List, Request, Response, create_flags, opcode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;

pub const ALICE: i64 = 0x0100_0000_0000_0001;
pub const TIMEOUT_MS: i32 = 4000;
pub const SECOND_NS: u64 = 1_000_000_000;

/// How long a test may wait for a thread of the node before it fails.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A shard and all commits that it has taken.
pub struct Shard {
    pub parts: ShardParts,
    pub commits: Vec<Commit>,
    /// Whether the shard takes commits.
    pub awake: bool,
}

pub struct Node {
    pub core: Consensus,
    pub shards: Vec<Shard>,
    pub parts: Parts,
    pub now: Now,
    io: Io,
    tokens: u64,
    /// Result of the last turn.
    pub next: Next,
}

pub fn config(shards: usize) -> ConsensusConfig {
    let mut config = ConsensusConfig::standalone("/data".into(), shards);
    config.segment_bytes = Some(64 << 10);
    config
}

pub fn disk() -> Arc<FaultDisk> {
    Arc::new(FaultDisk::new())
}

impl Node {
    pub fn start(disk: &Arc<FaultDisk>) -> Node {
        Self::start_with(disk, config(1)).unwrap()
    }

    pub fn start_with(disk: &Arc<FaultDisk>, mut config: ConsensusConfig) -> Result<Node, StartError> {
        config.disk = disk.clone();
        let waker = Waker::new().unwrap();
        let wakers: Vec<_> = (0..config.shards).map(|_| Waker::new().unwrap()).collect();
        let stats = Arc::new(Stats::new(config.shards, 0));
        let (core, mut parts) = Consensus::open(config, waker, &wakers, stats)?;
        let shards = std::mem::take(&mut parts.shards)
            .into_iter()
            .map(|parts| Shard { parts, commits: Vec::new(), awake: true })
            .collect();
        let now = Now { mono_ns: 1000 * SECOND_NS, wall_ms: 1_700_000_000_000 };
        let next = Next::Again;
        let mut node = Node { core, shards, parts, now, io: Io::default(), tokens: 0, next };
        node.take();
        Ok(node)
    }

    /// One turn of the core, then one of each shard that is awake.
    pub fn turn(&mut self) {
        self.next = self.core.turn(self.now, &mut self.io);
        self.take();
    }

    fn take(&mut self) {
        for shard in self.shards.iter_mut().filter(|s| s.awake) {
            while let Some(published) = shard.parts.commits.next() {
                shard.parts.reader.move_to(&published.version);
                shard.commits.push(published.commit.clone());
            }
            shard.parts.commits.release();
        }
    }

    /// Turns until `done`, sleeping when the core does. Panics when nothing happens for too long.
    pub fn until(&mut self, mut done: impl FnMut(&mut Node) -> bool) {
        loop {
            self.turn();
            if done(self) {
                return;
            }
            assert_ne!(self.next, Next::Stop, "stopped: {:?}", self.parts.control.reason());
            match self.next {
                Next::Sleep { deadline_ns: Some(at) } if at <= self.now.mono_ns => {}
                Next::Sleep { .. } => self.sleep(),
                Next::Again | Next::Stop => {}
            }
        }
    }

    /// Sleeps on the core's waker, as its loop would.
    fn sleep(&mut self) {
        let waker = self.parts.waker.clone();
        waker.raise();
        if self.core.park() {
            let event = waker.event();
            let mut fds = [PollFd::new(&event, PollFlags::IN)];
            let woken = poll(&mut fds, Some(&PATIENCE)).unwrap();
            assert_ne!(woken, 0, "nothing happens any more: {:?} {:?}", self.next, self.core.replies);
            let _ = rustix::io::read(event, &mut [0u8; 8]);
        }
        waker.lower();
    }

    /// Turns until the core has nothing to do and nothing is under way.
    pub fn settle(&mut self) {
        self.until(|n| n.next != Next::Again && !n.core.journal.is_behind() && n.core.backlog.is_empty());
        // Entries that became durable in the last turn are applied in the next one.
        self.turn();
        self.turn();
    }

    pub fn ticket(&mut self) -> Ticket {
        self.tokens += 1;
        Ticket { shard: 0, token: self.tokens }
    }

    pub fn submit(&mut self, session: i64, op: Op) -> Ticket {
        let ticket = self.ticket();
        let identities = [Identity { scheme: "ip".into(), id: "127.0.0.1".into() }].into();
        let attachment = u32::from(matches!(op, Op::Request { .. } | Op::CloseSession));
        let submit = Submit::Command { ticket, session, attachment, identities, op };
        assert!(self.shards[0].parts.submits.push(submit).is_ok(), "the submit ring is full");
        ticket
    }

    pub fn sync(&mut self) -> Ticket {
        let ticket = self.ticket();
        assert!(self.shards[0].parts.submits.push(Submit::Sync { ticket }).is_ok());
        ticket
    }

    pub fn touch(&mut self, session: i64) {
        let at_ns = self.now.mono_ns;
        let touched = Submit::Touched { sessions: vec![session], at_ns };
        assert!(self.shards[0].parts.submits.push(touched).is_ok());
    }

    pub fn reply(&self, ticket: Ticket) -> Option<&Reply> {
        self.shards[0].commits.iter().flat_map(|c| &c.replies).find(|r| r.ticket == ticket)
    }

    /// Position of a reply among all replies.
    pub fn place(&self, ticket: Ticket) -> usize {
        let replies = self.shards[0].commits.iter().flat_map(|c| &c.replies);
        replies.into_iter().position(|r| r.ticket == ticket).unwrap()
    }

    pub fn run(&mut self, session: i64, op: Op) -> Reply {
        let ticket = self.submit(session, op);
        self.until(|n| n.reply(ticket).is_some());
        self.reply(ticket).unwrap().clone()
    }

    pub fn open_session(&mut self, session: i64) {
        let reply = self.run(session, Op::OpenSession { timeout_ms: TIMEOUT_MS, password: [7; 16] });
        assert!(matches!(reply.outcome, Outcome::Attached { .. }), "{reply:?}");
    }

    /// Creates a znode. Returns its zxid.
    pub fn create(&mut self, path: &str, flags: i32) -> i64 {
        let reply = self.run(ALICE, create(path, b"x", flags));
        let Outcome::Ok(record) = &reply.outcome else { panic!("{path}: {reply:?}") };
        let path = Response::decode(opcode::CREATE, record, Limits::NONE).unwrap();
        assert!(matches!(path, Response::Path(_)));
        reply.zxid
    }

    pub fn exists(&self, path: &str) -> bool {
        self.shards[0].parts.reader.get(path).is_some()
    }

    pub fn advance(&mut self, ns: u64) {
        self.now.mono_ns += ns;
        self.now.wall_ms += (ns / 1_000_000) as i64;
    }

    /// Advances time as for a busy node, and waits until nothing is under way.
    pub fn pass(&mut self, ns: u64) {
        self.pass_busy(ns);
        self.settle();
    }

    /// Advances time with a turn every 100 ms, so that no turn counts as a stall.
    pub fn pass_busy(&mut self, ns: u64) {
        let until = self.now.mono_ns + ns;
        while self.now.mono_ns < until {
            self.advance((SECOND_NS / 10).min(until - self.now.mono_ns));
            self.turn();
        }
    }

    pub fn closed(&self, session: i64) -> bool {
        self.shards[0]
            .commits
            .iter()
            .flat_map(|c| &c.sessions)
            .any(|e| *e == SessionEvent::Closed { session })
    }

    /// Stops the node cleanly, and waits for its end.
    pub fn stop(mut self) {
        self.parts.control.stop();
        while self.core.turn(self.now, &mut self.io) != Next::Stop {
            self.sleep();
        }
    }
}

pub fn create(path: &str, data: &[u8], flags: i32) -> Op {
    let open = [Acl::OPEN];
    let (path, data, acl) = (path.into(), Some(data), List::new(&open));
    op(&Request::Create(Create { op: CreateOp::Create, path, data, acl, flags }))
}

pub fn set(path: &str, data: &[u8]) -> Op {
    op(&Request::SetData { path: path.into(), data: Some(data), version: -1 })
}

fn op(request: &Request<'_>) -> Op {
    let mut body = Vec::new();
    request.put(&mut body);
    Op::Request { opcode: request.opcode(), body }
}

pub const PERSISTENT: i32 = create_flags::PERSISTENT;
pub const EPHEMERAL: i32 = create_flags::EPHEMERAL;
