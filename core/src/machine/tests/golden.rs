//! Hazard: a machine that agrees with its specification and not with ZooKeeper. Applies every write of a
//! conversation recorded from a real ZooKeeper 3.9.4 (an ensemble of one, see `transport/tests/golden`).
//! Reply, error code and zxid must be those of the recording; only times differ.
//!
//! A container or TTL znode, which would need a collector, is replayed as a persistent one, which looks the
//! same to a client.

use super::rig::*;
use crate::acl::digest_id;
use crate::command::{Op, policy};
use crate::commit::Outcome;
use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Create, CreateOp, Limits, Multi, MultiResult, ReplyHeader, Request,
    RequestHeader, Response, Split, Stat, create_flags, error, frame, opcode,
};

const CONVERSATION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../transport/tests/golden/conversation-3.9.4.txt"));

fn unhex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

fn payload(bytes: &[u8]) -> &[u8] {
    match frame::split(bytes, i32::MAX as u32) {
        Ok(Split::Frame { payload, rest: [] }) => payload,
        other => panic!("not exactly one frame: {other:?}"),
    }
}

fn as_plain<'a>(request: &Request<'a>) -> Request<'a> {
    match request {
        Request::Create(create)
            if matches!(create.op, CreateOp::CreateContainer | CreateOp::CreateTtl { .. }) =>
        {
            let sequential = create.flags == create_flags::PERSISTENT_SEQUENTIAL_WITH_TTL;
            let flags =
                if sequential { create_flags::PERSISTENT_SEQUENTIAL } else { create_flags::PERSISTENT };
            Request::Create(Create { op: CreateOp::Create2, flags, ..create.clone() })
        }
        Request::DeleteContainer { path } => Request::Delete { path: path.clone(), version: -1 },
        other => other.clone(),
    }
}

fn timeless(stat: Stat) -> Stat {
    Stat { ctime: 0, mtime: 0, ..stat }
}

/// A reply's record without times, as text.
fn shown(opcode: i32, record: &[u8]) -> String {
    match Response::decode(opcode, record, Limits::NONE).unwrap() {
        Response::PathStat(path, stat) => format!("{path} {:?}", timeless(stat)),
        Response::Stat(stat) => format!("{:?}", timeless(stat)),
        Response::Multi(results) => {
            let timeless: Vec<_> = results
                .iter()
                .map(|result| match result {
                    MultiResult::Create2 { path, stat } => {
                        MultiResult::Create2 { path, stat: timeless(stat) }
                    }
                    MultiResult::SetData { stat } => MultiResult::SetData { stat: timeless(stat) },
                    other => other,
                })
                .collect();
            format!("{timeless:?}")
        }
        other => format!("{other:?}"),
    }
}

struct Replay {
    rig: Rig,
    session: i64,
    compared: usize,
}

impl Replay {
    fn connect(&mut self, request: &ConnectRequest<'_>, response: &ConnectResponse<'_>) {
        let timeout_ms = request.timeout_ms;
        let outcome = if request.session_id == 0 {
            self.session = response.session_id;
            let password = response.password.unwrap().try_into().unwrap();
            self.rig.attachment = 1;
            self.rig.run(self.session, Op::OpenSession { timeout_ms, password })
        } else {
            let password = request.password.unwrap_or_default().to_vec();
            let attach = Op::AttachSession { timeout_ms, password, last_zxid_seen: request.last_zxid_seen };
            self.rig.run(request.session_id, attach)
        };
        match outcome {
            Outcome::Attached { session, attachment, timeout_ms, .. } => {
                assert_eq!((session, timeout_ms), (response.session_id, response.timeout_ms));
                self.session = session;
                self.rig.attachment = attachment;
            }
            Outcome::Refused => assert_eq!((response.session_id, response.timeout_ms), (0, 0)),
            other => panic!("{other:?}"),
        }
        self.rig.identities = vec![id("ip", "127.0.0.1")];
    }

    fn exchange(&mut self, opcode: i32, request: &[u8], reply: &[u8]) {
        let (_, body) = RequestHeader::split(payload(request)).unwrap();
        let (header, record) = ReplyHeader::split(payload(reply)).unwrap();
        let decoded = Request::decode(opcode, body, Limits::NONE);
        match &decoded {
            Ok(Request::Auth { auth, .. }) => {
                let user_password = std::str::from_utf8(auth.unwrap_or_default()).unwrap();
                if user_password.starts_with("super:") {
                    self.rig.identities.push(id("super", ""));
                }
                return self.rig.identities.push(id("digest", &digest_id(user_password)));
            }
            // A reconfiguration also gets a zxid; its answer is tested elsewhere.
            Ok(Request::Reconfig { .. }) => drop(self.rig.request(self.session, decoded.as_ref().unwrap())),
            Ok(Request::CloseSession) => {
                assert_eq!(self.rig.run(self.session, Op::CloseSession), Outcome::Ok(vec![]));
                self.compared += 1;
            }
            Ok(request) if opcode::class(opcode) == Some(opcode::Class::Write) => {
                let mut plain: Vec<Request<'_>> = Vec::new();
                let request = match request {
                    Request::Multi(ops) => {
                        plain.extend(ops.iter().map(|op| as_plain(&op)));
                        Request::Multi(Multi::new(&plain))
                    }
                    single => as_plain(single),
                };
                self.write(opcode, &request, header, record);
            }
            _ => {}
        }
        let answered_before_the_tree =
            header.zxid <= 0 || opcode == opcode::AUTH || header.err == error::UNIMPLEMENTED;
        assert!(answered_before_the_tree || header.zxid == self.rig.machine.zxid(), "{decoded:?}");
    }

    fn write(&mut self, opcode: i32, request: &Request<'_>, header: ReplyHeader, record: &[u8]) {
        match self.rig.request(self.session, request) {
            Outcome::Ok(ours) => {
                assert_eq!(header.err, 0, "{request:?}");
                assert_eq!(shown(opcode, &ours), shown(opcode, record), "{request:?}");
                assert_eq!(ours.len(), record.len());
            }
            Outcome::Err(code) => assert_eq!((code, record), (header.err, &[][..]), "{request:?}"),
            other => panic!("{other:?} for {request:?}"),
        }
        self.compared += 1;
    }
}

#[test]
fn writes_are_answered_as_zookeeper_answered_them() {
    let (tree, _) = crate::tree::tree(0);
    let mut rig = Rig::new();
    rig.machine = crate::machine::Machine::new(&tree);
    (rig.tree, rig.seq) = (tree, 0);
    let mut replay = Replay { rig, session: 0, compared: 0 };
    let mut asked: Vec<u8> = Vec::new();
    for line in CONVERSATION.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            ["c>", hex] | [">", _, hex] => asked = unhex(hex),
            ["c<", hex] => {
                let answered = unhex(hex);
                replay.connect(
                    &ConnectRequest::decode(payload(&asked), Limits::NONE).unwrap(),
                    &ConnectResponse::decode(payload(&answered), Limits::NONE).unwrap(),
                );
            }
            ["<", opcode, hex] => replay.exchange(opcode.parse().unwrap(), &asked, &unhex(hex)),
            _ => {}
        }
    }
    replay.rig.verify();
    assert!(replay.compared >= 30, "only {} writes in the recording", replay.compared);
}

const PROBES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../transport/tests/golden/probes-3.9.4.txt"));

/// Odd and broken writes, in the order of the recording: each must get ZooKeeper's code.
#[test]
fn odd_writes_are_refused_as_zookeeper_refused_them() {
    let mut rig = Rig::new();
    rig.policy = policy::RECONFIG;
    let mut wrong = Vec::new();
    let mut compared = 0;
    for line in PROBES.lines().filter(|line| !line.starts_with('#')) {
        let (opcode, rest) = line.split_once(' ').unwrap();
        let (answer, rest) = rest.split_once(' ').unwrap();
        let (body, what) = rest.split_once(' ').unwrap();
        let opcode = opcode.parse().unwrap();
        let Ok(answer) = answer.parse::<i32>() else { continue };
        if opcode::class(opcode) != Some(opcode::Class::Write) {
            continue;
        }
        let body = if body == "-" { vec![] } else { unhex(body) };
        let ours = match rig.run(ALICE, Op::Request { opcode, body }) {
            Outcome::Ok(_) => 0,
            Outcome::Err(code) => code,
            other => panic!("{other:?} for {line}"),
        };
        compared += 1;
        // Containers and TTL znodes do not exist yet. ZooKeeper checks create flags before a null path (-8);
        // our decoder refuses the path first (-5).
        let no_collector = ours == error::UNIMPLEMENTED
            && matches!(opcode, opcode::CREATE_CONTAINER | opcode::CREATE_TTL | opcode::DELETE_CONTAINER);
        let null_path_and_bad_flags = what == "filled" && (ours, answer) == (-5, -8);
        if ours != answer && !no_collector && !null_path_and_bad_flags {
            wrong.push(format!("{ours} for {line}"));
        }
    }
    assert!(compared > 500, "only {compared} writes in the recording");
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
}
