//! Hazards: a membership change is lost, applied twice, or leaves the nodes with different members.
//!
//! The error codes are those of a ZooKeeper 3.9.4 ensemble of three, for the same requests by a superuser.

use super::rig::{ALICE, BOB, Rig, id, op_of};
use crate::command::{ArchivedBatch, ArchivedOp, Command, NO_STREAM, Op, policy};
use crate::commit::{ChangeKind, Outcome};
use crate::machine::{Machine, MembershipCommand, ReconfigRequest, plan_reconfig};
use crate::members::{Member, Members};
use paddock_transport::wire::{Limits, Request, Response, error, opcode};
use std::collections::BTreeMap;

fn member(spec: &str) -> Member {
    Member::parse(spec).unwrap()
}

fn spec(node: u8, role: &str) -> String {
    format!("server.{node}=10.0.0.{node}:2888:3888:{role};2181")
}

fn joined(specs: impl IntoIterator<Item = String>) -> String {
    specs.into_iter().collect::<Vec<_>>().join(",")
}

fn three() -> BTreeMap<u8, Member> {
    (1..=3).map(|n| (n, member(&format!("10.0.0.{n}:2888:3888;2181")))).collect()
}

fn leaders(command: &MembershipCommand) -> Command {
    let op = command.to_op();
    Command { node: NO_STREAM, incarnation: 0, seq: 0, session: 0, attachment: 0, identities: vec![], op }
}

impl Rig {
    /// Three members. Alice's session is the superuser's.
    fn ensemble() -> Rig {
        let mut rig = Rig::new();
        rig.policy = policy::RECONFIG;
        rig.identities.push(id("super", ""));
        rig.lead(&MembershipCommand::Bootstrap { cluster: [7; 16], members: three() });
        rig
    }

    fn lead(&mut self, command: &MembershipCommand) {
        let batch = self.batch(vec![leaders(command)]);
        self.apply(&batch).unwrap();
    }

    /// Orders the command in a change through a joint state.
    fn lead_jointly(&mut self, command: &MembershipCommand) {
        let batch = self.batch(vec![leaders(command)]);
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        self.machine.begin_reconfig(rkyv::access::<ArchivedBatch, rkyv::rancor::Error>(&bytes).unwrap());
        self.applied.clear();
        self.machine.finish_reconfig(&mut self.tree, self.term, &mut self.applied);
    }

    fn reconfig(
        &mut self,
        joining: Option<&str>,
        leaving: Option<&str>,
        whole: Option<&str>,
        id: i64,
    ) -> Outcome {
        self.request(ALICE, &request(joining, leaving, whole, id))
    }

    fn config(&self) -> String {
        String::from_utf8(self.data("/zookeeper/config").unwrap()).unwrap()
    }
}

fn request<'a>(
    joining: Option<&'a str>,
    leaving: Option<&'a str>,
    whole: Option<&'a str>,
    config_id: i64,
) -> Request<'a> {
    let [joining, leaving, new_members] = [joining, leaving, whole].map(|text| text.map(Into::into));
    Request::Reconfig { joining, leaving, new_members, config_id }
}

fn plan(joining: Option<&str>, leaving: Option<&str>, new_members: Option<&str>) -> Result<Members, i32> {
    let current = Members { version: 9, members: three(), ..Members::default() };
    plan_reconfig(&current, &ReconfigRequest { joining, leaving, new_members, config_id: -1 }, 0)
}

#[test]
fn an_archived_op_keeps_its_size_so_that_old_logs_are_read() {
    let bytes = |op: Op| {
        let mut rig = Rig::new();
        let command = rig.command(ALICE, op);
        rkyv::to_bytes::<rkyv::rancor::Error>(&rig.batch(vec![command])).unwrap().len()
    };
    assert_eq!(size_of::<ArchivedOp>(), 24);
    assert_eq!(bytes(Op::CloseSession), bytes(Op::ExpireSession));
}

#[test]
fn the_first_leader_names_the_members_once() {
    let mut rig = Rig::ensemble();
    let text = "server.1=10.0.0.1:2888:3888:participant;0.0.0.0:2181\n\
                server.2=10.0.0.2:2888:3888:participant;0.0.0.0:2181\n\
                server.3=10.0.0.3:2888:3888:participant;0.0.0.0:2181\nversion=100000001";
    // Alice's session took 0x100000001 before; the version is the beginning of the epoch.
    assert_eq!(rig.config(), text);
    let stat = rig.stat("/zookeeper/config");
    assert_eq!((stat.version, stat.czxid, stat.aversion, stat.mzxid), (-1, 0, -1, 0x1_0000_0001));
    assert_eq!(rig.machine.zxid(), 0x1_0000_0001, "it takes no zxid");
    let digest = rig.machine.digest();
    let members = BTreeMap::from([(9, member("10.0.0.9:1:2"))]);
    rig.lead(&MembershipCommand::Bootstrap { cluster: [8; 16], members });
    assert_eq!((rig.config().as_str(), rig.machine.digest()), (text, digest));
    assert_eq!(rig.machine.members().cluster, [7; 16]);
    rig.verify();

    let (mut tree, _) = crate::tree::tree(0);
    let mut fresh = Machine::new(&tree);
    let mut applied = Default::default();
    let first = MembershipCommand::Bootstrap { cluster: [7; 16], members: three() };
    let batch = rig.batch(vec![leaders(&first)]);
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
    fresh.apply(&mut tree, 3, rkyv::access::<_, rkyv::rancor::Error>(&bytes).unwrap(), &mut applied).unwrap();
    assert_eq!(fresh.members().version, 0x3_0000_0000, "the beginning of the leader's epoch");
}

#[test]
fn an_identity_is_recorded_once_and_replaced_only_by_adoption() {
    let mut rig = Rig::ensemble();
    rig.lead(&MembershipCommand::Identify { node: 2, identity: [2; 16] });
    rig.lead(&MembershipCommand::Identify { node: 2, identity: [3; 16] });
    rig.lead(&MembershipCommand::Identify { node: 77, identity: [3; 16] });
    assert_eq!(rig.machine.members().get(2).unwrap().identity, Some([2; 16]));
    assert!(rig.machine.membership().is_foreign(2, &[3; 16]));
    assert!(
        !rig.machine.membership().is_foreign(2, &[2; 16])
            && !rig.machine.membership().is_foreign(3, &[9; 16])
    );
    let zxid = rig.machine.zxid();
    rig.lead_jointly(&MembershipCommand::Adopt { node: 2, identity: [3; 16] });
    assert_eq!(rig.machine.members().get(2).unwrap().identity, Some([3; 16]));
    assert_eq!(rig.machine.zxid(), zxid);
}

#[test]
fn refusals_in_zookeepers_order() {
    let mut rig = Rig::ensemble();
    rig.policy = 0;
    assert_eq!(rig.reconfig(None, None, None, 5), Outcome::Err(error::RECONFIG_DISABLED));
    rig.policy = policy::RECONFIG;
    assert_eq!(rig.reconfig(None, Some("x"), None, 5), Outcome::Err(error::BAD_VERSION));
    assert_eq!(rig.reconfig(None, Some("x"), None, -1), Outcome::Err(error::MARSHALLING_ERROR));
    rig.identities.pop();
    assert_eq!(
        rig.reconfig(None, Some("2,3"), None, -1),
        Outcome::Err(error::BAD_ARGUMENTS),
        "before the ACL"
    );
    assert_eq!(rig.reconfig(None, Some("3"), None, -1), Outcome::Err(error::NO_AUTH));
    rig.policy |= policy::SKIP_ACL;
    let before = rig.machine.zxid();
    assert_eq!(rig.reconfig(None, Some("3"), None, 0x1_0000_0001), Outcome::Deferred);
    assert_eq!(rig.machine.zxid(), before, "accepted, it takes no zxid yet");
    assert_eq!(rig.reconfig(None, Some("x"), None, 5), Outcome::Err(error::RECONFIG_IN_PROGRESS));
    assert_eq!(rig.machine.zxid(), before + 1, "a failure takes one");

    let mut alone = Rig::new();
    assert_eq!(alone.reconfig(None, None, None, -1), Outcome::Err(error::RECONFIG_DISABLED));
    alone.policy = policy::RECONFIG;
    assert_eq!(alone.reconfig(None, None, None, -1), Outcome::Err(error::UNIMPLEMENTED), "standalone");
}

#[test]
fn each_bad_argument_gets_zookeepers_code() {
    const BAD: i32 = error::BAD_ARGUMENTS;
    const ODD: i32 = error::MARSHALLING_ERROR;
    let four = |rest: &str| format!("server.4=10.0.0.4:{rest}");
    let increments = [
        (None, Some("x".to_owned()), ODD),
        (None, Some("99999999999999999999".into()), ODD),
        (None, Some("2,3".into()), BAD),
        (Some("bad=".to_owned()), Some("300".into()), BAD),
        (Some("server.4".into()), None, BAD),
        (Some("server.4=a=b".into()), None, BAD),
        (Some("server.x=10.0.0.4:1:2;3".into()), None, ODD),
        (Some(four("4000:4001:participant")), None, BAD),
        (Some(four("4000:4001:king;5000")), None, BAD),
        (Some(four("x:4001;5000")), None, BAD),
        (Some(four("70000:4001;5000")), None, ODD),
        (Some(four("-1:4001;5000")), None, ODD),
        (Some(four("4000:4000;5000")), None, BAD),
        (Some(four("4000:4001;70000")), None, ODD),
        (Some(four("4000:4001;x")), None, BAD),
        (Some(four("4000;5000")), None, BAD),
        (Some("server.4=10.0.0.4:1:2|10.0.0.5:3:4;5000".into()), None, BAD),
        (Some("4=10.0.0.4:4000;5000".into()), None, BAD),
        (Some("server.4=10.0.0.1:2888:4001;5000".into()), None, BAD),
        (Some("server.255=10.0.0.4:4000:4001;5000".into()), None, BAD),
    ];
    for (joining, leaving, code) in increments {
        let found = plan(joining.as_deref(), leaving.as_deref(), None);
        assert_eq!(found, Err(code), "joining {joining:?} leaving {leaving:?}");
    }
    let (one, two) = (spec(1, "participant"), spec(2, "participant"));
    let wholes = [
        (String::new(), BAD),
        ("foo=bar".into(), BAD),
        ("server.1=zzz".into(), BAD),
        ("server.x=10.0.0.1:4000:4001;5000".into(), ODD),
        (one.clone(), BAD),
        (format!("{one},{}", spec(2, "observer")), ODD),
        (spec(2, "observer"), ODD),
        (format!("server.1=10.0.0.1:70000:4001;5000,{two}"), ODD),
        (format!("{one},{two},version=xyz"), ODD),
        (format!("{one},{two},group.1=1"), BAD),
        (format!("{one},{two}\n\\uZZZZ=1"), ODD),
    ];
    for (text, code) in wholes {
        assert_eq!(plan(None, None, Some(&text)), Err(code), "{text}");
    }
    let current = Members { members: three(), ..Members::default() };
    let one_voter = |new_members| {
        let request = ReconfigRequest { joining: None, leaving: None, new_members, config_id: -1 };
        plan_reconfig(&current, &request, policy::ONE_VOTER).map(|m| m.members.len())
    };
    assert_eq!(one_voter(Some("")), Err(ODD));
    assert_eq!(one_voter(Some(&one)), Ok(1));
    assert_eq!(one_voter(Some(&format!("{one},{}", spec(2, "observer")))), Ok(2));
}

#[test]
fn what_zookeeper_accepts_is_accepted() {
    let lines = |planned: Result<Members, i32>| planned.unwrap().server_lines();
    let now = Members { members: three(), ..Members::default() }.server_lines();
    for (joining, leaving) in [(None, None), (Some(""), Some("")), (None, Some("300, -1 ,,9"))] {
        assert_eq!(lines(plan(joining, leaving, None)), now);
    }
    let spaced = " server.4 = 10.0.0.4:4000:4001:OBSERVER;5000 , ";
    assert_eq!(
        lines(plan(Some(spaced), Some(" 9 , "), None)),
        format!("{now}server.4=10.0.0.4:4000:4001:observer;0.0.0.0:5000\n")
    );
    assert!(
        lines(plan(Some(&spec(3, "observer")), None, None)).contains("server.3=10.0.0.3:2888:3888:observer")
    );
    // Out and in again in one request, at the same addresses.
    assert_eq!(lines(plan(Some(&spec(3, "participant")), Some("3"), None)), now);
    let whole = format!("{},{}\n{}", spec(1, "participant"), spec(2, "participant"), spec(3, "participant"));
    assert_eq!(lines(plan(None, None, Some(&whole))), now);
    let without_client = "server.1=10.0.0.1:2888:3888,server.2=10.0.0.2:2888:3888";
    assert!(
        lines(plan(None, None, Some(without_client)))
            .starts_with("server.1=10.0.0.1:2888:3888:participant\n")
    );
}

#[test]
fn an_accepted_change_is_answered_when_it_is_done_and_not_before() {
    let mut rig = Rig::ensemble();
    rig.lead(&MembershipCommand::Identify { node: 1, identity: [1; 16] });
    let asked = joined([spec(4, "participant"), spec(5, "observer")]);
    assert_eq!(rig.reconfig(Some(&asked), Some("3"), None, -1), Outcome::Deferred);
    let seq = rig.seq;
    assert!(rig.applied.membership.changed);
    assert_eq!(
        rig.machine.members().members,
        three()
            .into_iter()
            .map(|(n, mut m)| {
                m.identity = (n == 1).then_some([1; 16]);
                (n, m)
            })
            .collect()
    );
    let linked: Vec<u8> = rig.machine.membership().linked().members.into_keys().collect();
    assert_eq!(linked, [1, 2, 3, 4, 5]);
    // Other commands continue, and identities learned meanwhile are kept for members and joining nodes.
    rig.create("/a", 0).unwrap();
    rig.lead(&MembershipCommand::Identify { node: 2, identity: [2; 16] });
    rig.lead(&MembershipCommand::Identify { node: 4, identity: [4; 16] });
    rig.lead(&MembershipCommand::Conclude { number: 99 });
    assert!(rig.applied.results.is_empty() && rig.machine.membership().pending.is_some());

    rig.lead_jointly(&MembershipCommand::Conclude { number: 1 });
    let [result] = &rig.applied.results[..] else { panic!("{:?}", rig.applied.results) };
    assert_eq!((result.node, result.incarnation, result.seq), (1, 1, seq));
    let Outcome::Ok(record) = &result.outcome else { panic!("{:?}", result.outcome) };
    let Response::Data(data, stat) = Response::decode(opcode::RECONFIG, record, Limits::NONE).unwrap() else {
        panic!()
    };
    let zxid = rig.machine.zxid();
    assert_eq!(String::from_utf8_lossy(data.unwrap()), rig.config());
    assert!(rig.config().ends_with(&format!("version={zxid:x}")), "{}", rig.config());
    assert_eq!((stat.mzxid, stat.version, result.zxid), (zxid, -1, zxid));
    let change = &rig.applied.changes[0];
    assert_eq!(
        (change.kind, &*change.path, change.zxid),
        (ChangeKind::DataChanged, "/zookeeper/config", zxid)
    );
    assert_eq!(rig.applied.membership.removed, [3]);
    let identities: Vec<_> =
        rig.machine.members().members.iter().map(|(n, m)| (*n, m.identity.map(|i| i[0]))).collect();
    assert_eq!(identities, [(1, Some(1)), (2, Some(2)), (4, Some(4)), (5, None)]);
    assert!(rig.machine.membership().leaving.contains_key(&3), "it is talked to until it knows");
    rig.lead(&MembershipCommand::Forget { nodes: vec![3] });
    assert!(rig.machine.membership().leaving.is_empty());
    rig.lead(&MembershipCommand::Conclude { number: 1 });
    assert!(rig.applied.results.is_empty(), "answered once");
    rig.verify();
}

#[test]
fn a_change_without_a_quorum_is_answered_so_and_makes_room_for_the_next() {
    let mut rig = Rig::ensemble();
    let (text, zxid) = (rig.config(), rig.machine.zxid());
    assert_eq!(rig.reconfig(Some(&spec(4, "participant")), None, None, -1), Outcome::Deferred);
    rig.lead(&MembershipCommand::Refuse { number: 1 });
    assert_eq!(rig.applied.results[0].outcome, Outcome::Err(error::NEW_CONFIG_NO_QUORUM));
    assert_eq!((rig.config(), rig.machine.zxid()), (text, zxid + 1));
    assert!(rig.machine.membership().leaving.contains_key(&4) && rig.applied.membership.removed.is_empty());
    assert_eq!(rig.reconfig(Some(&spec(4, "participant")), None, None, -1), Outcome::Deferred);
    rig.lead_jointly(&MembershipCommand::Conclude { number: 2 });
    assert!(rig.machine.membership().leaving.is_empty(), "a member again");
}

#[test]
fn the_client_is_gone_and_the_change_goes_on() {
    let mut rig = Rig::ensemble();
    rig.open(BOB);
    assert_eq!(rig.request(BOB, &request(None, Some("3"), None, -1)), Outcome::Deferred);
    assert_eq!(rig.run(BOB, Op::CloseSession), Outcome::Ok(vec![]));
    rig.lead_jointly(&MembershipCommand::Conclude { number: 1 });
    assert_eq!(rig.machine.members().members.len(), 2);
}

#[test]
fn only_the_leader_orders_steps_and_nonsense_does_nothing() {
    let mut rig = Rig::ensemble();
    let digest = rig.machine.digest();
    for body in [vec![], vec![0xff; 64], vec![1]] {
        let op = Op::Membership { body };
        let command = Command { op, ..leaders(&MembershipCommand::Refuse { number: 1 }) };
        let batch = rig.batch(vec![command]);
        assert!(rig.apply(&batch).unwrap().is_empty());
    }
    let forget = Op::Request { opcode: opcode::CREATE, body: vec![] };
    let batch = rig.batch(vec![Command { op: forget, ..leaders(&MembershipCommand::Refuse { number: 1 }) }]);
    assert!(rig.apply(&batch).unwrap().is_empty(), "no request waits for it");
    assert_eq!(rig.machine.digest(), digest);
    let smuggled = MembershipCommand::Bootstrap { cluster: [9; 16], members: three() }.to_op();
    assert_eq!(rig.run(ALICE, smuggled), Outcome::Drop, "a stream carries none");
}

/// Compares two machines. One is restored from its snapshot after every batch, in and out of joint states.
#[test]
fn replicas_agree_at_every_step_also_from_a_snapshot() {
    let mut rig = Rig::ensemble();
    let mut twin = Rig::ensemble();
    let steps: Vec<(bool, MembershipCommand)> = vec![
        (false, MembershipCommand::Identify { node: 1, identity: [1; 16] }),
        (true, MembershipCommand::Adopt { node: 1, identity: [2; 16] }),
        (true, MembershipCommand::Conclude { number: 1 }),
        (true, MembershipCommand::Forget { nodes: vec![3] }),
    ];
    let asked = joined([spec(7, "participant")]);
    let request = op_of(&request(Some(&asked), Some("3"), None, -1));
    assert_eq!(rig.run(ALICE, request.clone()), twin.run(ALICE, request));
    for (joint, step) in steps {
        let batch = rig.batch(vec![leaders(&step)]);
        for rig in [&mut rig, &mut twin] {
            if !joint {
                rig.apply(&batch).unwrap();
                continue;
            }
            let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
            rig.machine.begin_reconfig(rkyv::access::<ArchivedBatch, rkyv::rancor::Error>(&bytes).unwrap());
        }
        restart(&mut twin);
        assert_eq!(rig.machine.digest(), twin.machine.digest(), "{step:?} entered");
        if joint {
            for rig in [&mut rig, &mut twin] {
                rig.applied.clear();
                rig.machine.finish_reconfig(&mut rig.tree, 1, &mut rig.applied);
            }
        }
        restart(&mut twin);
        assert_eq!(rig.applied.results, twin.applied.results);
        assert_eq!(rig.machine.membership(), twin.machine.membership());
        assert_eq!(
            (rig.machine.digest(), rig.machine.stamp()),
            (twin.machine.digest(), twin.machine.stamp()),
            "{step:?}"
        );
        assert_eq!(rig.config(), twin.config());
    }
}

fn restart(rig: &mut Rig) {
    let state = rkyv::to_bytes::<rkyv::rancor::Error>(rig.machine.membership()).unwrap();
    let mut machine = Machine::from_image(rig.machine.image());
    machine.restore_membership(rkyv::from_bytes::<_, rkyv::rancor::Error>(&state).unwrap());
    rig.machine = machine;
}

#[test]
fn every_part_of_the_membership_counts_in_the_digest() {
    let mut rig = Rig::ensemble();
    let mut seen = vec![rig.machine.digest()];
    let mut note = |rig: &Rig| {
        let digest = rig.machine.digest();
        assert!(!seen.contains(&digest), "{:?}", rig.machine.membership());
        seen.push(digest);
    };
    rig.lead(&MembershipCommand::Identify { node: 1, identity: [1; 16] });
    note(&rig);
    rig.lead(&MembershipCommand::Identify { node: 2, identity: [1; 16] });
    note(&rig);
    assert_eq!(rig.reconfig(Some(&spec(3, "observer")), None, None, -1), Outcome::Deferred);
    note(&rig);
    rig.lead(&MembershipCommand::Refuse { number: 1 });
    note(&rig);
    let state = rig.machine.membership().clone();
    for change in 0..7 {
        let mut state = state.clone();
        let one = state.members.members.get_mut(&1).unwrap();
        match change {
            0 => one.host.push('x'),
            1 => one.peer_port += 1,
            2 => one.election_port += 1,
            3 => one.client = None,
            4 => one.role = crate::members::MemberRole::Observer,
            5 => state.members.version += 1,
            _ => state.members.cluster = [8; 16],
        }
        rig.machine.restore_membership(state);
        note(&rig);
    }
}

/// A new directory counts its starts from 1. Taken for repetitions of the old one's, its commands would
/// never be answered.
#[test]
fn a_node_with_another_disk_begins_its_stream_anew() {
    let mut rig = Rig::ensemble();
    let from = |rig: &mut Rig, incarnation, seq| {
        let op = op_of(&super::rig::create(&format!("/n{incarnation}-{seq}"), 0));
        let command = Command { node: 2, incarnation, seq, ..rig.command(ALICE, op) };
        rig.seq -= 1;
        let batch = rig.batch(vec![command]);
        rig.apply(&batch).unwrap().len()
    };
    assert_eq!((from(&mut rig, 7, 1), from(&mut rig, 7, 2)), (1, 1));
    assert_eq!(from(&mut rig, 1, 1), 0, "stale");
    rig.lead_jointly(&MembershipCommand::Adopt { node: 2, identity: [9; 16] });
    assert_eq!(from(&mut rig, 7, 3), 0, "what the old one left behind is no gap");
    assert_eq!((from(&mut rig, 1, 1), from(&mut rig, 1, 2), from(&mut rig, 1, 2)), (1, 1, 0));
    // Removed, and added with a new disk.
    assert_eq!(rig.reconfig(None, Some("2"), None, -1), Outcome::Deferred);
    rig.lead_jointly(&MembershipCommand::Conclude { number: 1 });
    assert_eq!(rig.reconfig(Some(&spec(2, "observer")), None, None, -1), Outcome::Deferred);
    assert_eq!((from(&mut rig, 1, 3), from(&mut rig, 1, 1)), (0, 1));
}
