//! A tree, a machine, and commands for them.

use crate::command::{ArchivedBatch, Batch, Command, Identity, Op, SEMANTICS};
use crate::commit::Outcome;
use crate::machine::{Applied, ApplyError, CommandResult, Machine};
use crate::tree::{NodeStat, SnapshotView, Writer};
use paddock_transport::wire::{
    Acl, Create, CreateOp, Limits, List, Multi, MultiResult, Request, Response, Stat,
};
use std::borrow::Cow;

/// The session that [`Rig::new`] opens.
pub const ALICE: i64 = 0x0100_0000_0000_0001;
/// A second session, opened by the tests that need it.
pub const BOB: i64 = 0x0100_0000_0000_0002;
/// The first zxid of a standalone server: that of Alice's session.
pub const FIRST_ZXID: i64 = 0x1_0000_0001;
/// Time of all batches unless a test sets another, ms.
pub const TIME_MS: i64 = 1_700_000_000_000;

pub const OPEN: &[Acl<'static>] = &[Acl::OPEN];

pub struct Rig {
    pub tree: Writer,
    pub machine: Machine,
    /// Effects of the last batch.
    pub applied: Applied,
    pub term: u64,
    pub policy: u32,
    pub time_ms: i64,
    pub identities: Vec<Identity>,
    pub attachment: u32,
    pub seq: u64,
}

impl Rig {
    /// A fresh ensemble in which Alice has a session.
    pub fn new() -> Rig {
        let (tree, _) = crate::tree::tree(0);
        let machine = Machine::new(&tree);
        let mut rig = Rig {
            tree,
            machine,
            applied: Applied::default(),
            term: 1,
            policy: 0,
            time_ms: TIME_MS,
            identities: vec![id("ip", "127.0.0.1")],
            attachment: 1,
            seq: 0,
        };
        rig.open(ALICE);
        rig
    }

    pub fn command(&mut self, session: i64, op: Op) -> Command {
        self.seq += 1;
        Command {
            node: 1,
            incarnation: 1,
            seq: self.seq,
            session,
            attachment: self.attachment,
            identities: self.identities.clone(),
            op,
        }
    }

    pub fn batch(&self, commands: Vec<Command>) -> Batch {
        let (applied_zxid, applied_digest) = self.machine.stamp();
        Batch {
            semantics: SEMANTICS,
            policy: self.policy,
            time_ms: self.time_ms,
            applied_zxid,
            applied_digest,
            commands,
        }
    }

    pub fn apply(&mut self, batch: &Batch) -> Result<&[CommandResult], ApplyError> {
        self.applied.clear();
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(batch).unwrap();
        let archived = rkyv::access::<ArchivedBatch, rkyv::rancor::Error>(&bytes).unwrap();
        self.machine.apply(&mut self.tree, self.term, archived, &mut self.applied)?;
        Ok(&self.applied.results)
    }

    /// Applies one command in a batch of its own.
    pub fn run(&mut self, session: i64, op: Op) -> Outcome {
        let command = self.command(session, op);
        let batch = self.batch(vec![command]);
        let results = self.apply(&batch).unwrap();
        assert_eq!(results.len(), 1);
        results[0].outcome.clone()
    }

    pub fn open(&mut self, session: i64) {
        let op = Op::OpenSession { timeout_ms: 10_000, password: [session as u8; 16] };
        let outcome = self.run(session, op);
        assert!(matches!(outcome, Outcome::Attached { attachment: 1, .. }), "{outcome:?}");
    }

    pub fn request(&mut self, session: i64, request: &Request<'_>) -> Outcome {
        self.run(session, op_of(request))
    }

    /// Applies a request of Alice: the record of its reply, or its error code.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, i32> {
        match self.request(ALICE, request) {
            Outcome::Ok(record) => Ok(record),
            Outcome::Err(code) => Err(code),
            other => panic!("no reply: {other:?}"),
        }
    }

    pub fn create(&mut self, path: &str, flags: i32) -> Result<String, i32> {
        self.ask(&create(path, flags)).map(|record| {
            match Response::decode(1, &record, Limits::NONE).unwrap() {
                Response::Path(path) => path.into_owned(),
                other => panic!("{other:?}"),
            }
        })
    }

    pub fn delete(&mut self, path: &str, version: i32) -> Result<(), i32> {
        let record = self.ask(&Request::Delete { path: path.into(), version })?;
        assert!(record.is_empty());
        Ok(())
    }

    pub fn set(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<Stat, i32> {
        self.ask(&Request::SetData { path: path.into(), data, version }).map(|record| stat_of(&record))
    }

    pub fn set_acl(&mut self, path: &str, acl: &[Acl<'_>], version: i32) -> Result<Stat, i32> {
        self.ask(&Request::SetAcl { path: path.into(), acl: List::new(acl), version })
            .map(|record| stat_of(&record))
    }

    /// Results of a multi; `Err` if the whole was refused.
    pub fn multi(&mut self, ops: &[Request<'_>]) -> Result<Vec<MultiResult<'static>>, i32> {
        let record = self.ask(&Request::Multi(Multi::new(ops)))?;
        let results = MultiResult::decode_all(&record, Limits::NONE).unwrap();
        Ok(results.iter().map(own).collect())
    }

    pub fn stat(&self, path: &str) -> NodeStat {
        self.tree.get(path).unwrap_or_else(|| panic!("{path} is not there")).stat()
    }

    pub fn exists(&self, path: &str) -> bool {
        self.tree.get(path).is_some()
    }

    pub fn data(&self, path: &str) -> Option<Vec<u8>> {
        self.tree.get(path).unwrap().data().map(<[u8]>::to_vec)
    }

    /// The running digests must be those of the tree.
    pub fn verify(&mut self) {
        let held = hold(&mut self.tree);
        self.machine.verify(held.iter()).unwrap();
    }
}

/// The tree as it is now.
pub fn hold(tree: &mut Writer) -> SnapshotView {
    tree.publish();
    tree.reclaim();
    tree.hold()
}

pub fn id(scheme: &str, id: &str) -> Identity {
    Identity { scheme: scheme.into(), id: id.into() }
}

pub fn op_of(request: &Request<'_>) -> Op {
    let mut body = Vec::new();
    request.put(&mut body);
    Op::Request { opcode: request.opcode(), body }
}

pub fn create(path: &str, flags: i32) -> Request<'_> {
    create_with(CreateOp::Create, path, flags, OPEN)
}

pub fn create_with<'a>(op: CreateOp, path: &'a str, flags: i32, acl: &'a [Acl<'a>]) -> Request<'a> {
    Request::Create(Create { op, path: path.into(), data: Some(b"data"), acl: List::new(acl), flags })
}

pub fn stat_of(record: &[u8]) -> Stat {
    match Response::decode(5, record, Limits::NONE).unwrap() {
        Response::Stat(stat) => stat,
        other => panic!("{other:?}"),
    }
}

fn own(result: MultiResult<'_>) -> MultiResult<'static> {
    match result {
        MultiResult::Create { path } => MultiResult::Create { path: Cow::Owned(path.into_owned()) },
        MultiResult::Create2 { path, stat } => {
            MultiResult::Create2 { path: Cow::Owned(path.into_owned()), stat }
        }
        MultiResult::Delete => MultiResult::Delete,
        MultiResult::Check => MultiResult::Check,
        MultiResult::SetData { stat } => MultiResult::SetData { stat },
        MultiResult::Error { code } => MultiResult::Error { code },
        other => panic!("not of a write: {other:?}"),
    }
}
