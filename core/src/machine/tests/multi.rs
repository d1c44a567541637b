//! Multi: results, complete rollback, and the state that later operations see.

use super::rig::*;
use crate::command::Op;
use crate::commit::{ChangeKind, Outcome};
use paddock_transport::wire::{Acl, CreateOp, MultiResult, Request, opcode};

fn set<'a>(path: &'a str, version: i32) -> Request<'a> {
    Request::SetData { path: path.into(), data: Some(b"set"), version }
}

fn delete(path: &str) -> Request<'_> {
    Request::Delete { path: path.into(), version: -1 }
}

fn check(path: &str, version: i32) -> Request<'_> {
    Request::Check { path: path.into(), version }
}

fn codes(results: &[MultiResult<'_>]) -> Vec<i32> {
    results
        .iter()
        .map(|result| match result {
            MultiResult::Error { code } => *code,
            other => panic!("{other:?} in a failed multi"),
        })
        .collect()
}

#[test]
fn the_failing_one_names_itself_and_nothing_remains() {
    let mut rig = Rig::new();
    rig.create("/keep", 0).unwrap();
    rig.create("/keep/eph", 1).unwrap();
    let (digest, zxid, count) = (rig.machine.tree_digest(), rig.machine.zxid(), rig.tree.node_count());
    let image = rig.machine.image();
    let results = rig
        .multi(&[
            create("/m", 1),
            delete("/keep/eph"),
            set("/keep", 0),
            create("/keep/seq", 3),
            set("/keep", 7),
            create("/n", 0),
            delete("/missing"),
        ])
        .unwrap();
    assert_eq!(codes(&results), [0, 0, 0, 0, -103, -2, -2]);
    assert!(rig.applied.changes.is_empty(), "no watch fires");
    assert_eq!(rig.machine.zxid(), zxid + 1, "one zxid");
    assert_eq!(rig.machine.tree_digest(), digest);
    assert_eq!(rig.tree.node_count(), count);
    assert_eq!(rig.machine.image().sessions, image.sessions, "ephemerals are as before");
    assert!(rig.exists("/keep/eph") && !rig.exists("/m"));
    assert_eq!(rig.stat("/keep").cversion, 1, "the sequence did not advance");
    rig.verify();
    assert_eq!(codes(&rig.multi(&[delete("/missing")]).unwrap()), [-101]);
    assert_eq!(
        codes(&rig.multi(&[create("/q", 0), set("/q", 9), create("/r", 0), delete("/s")]).unwrap()),
        [0, -103, -2, -2]
    );
}

#[test]
fn later_operations_see_earlier_ones() {
    let mut rig = Rig::new();
    let results = rig
        .multi(&[
            create("/m", 0),
            create("/m/s-", 2),
            create("/m/s-", 2),
            check("/m", 0),
            set("/m", 0),
            check("/m", 1),
            create("/m/x", 0),
            delete("/m/x"),
            create("/m/x", 1),
        ])
        .unwrap();
    let zxid = rig.machine.zxid();
    assert_eq!(results[1], MultiResult::Create { path: "/m/s-0000000000".into() });
    assert_eq!(results[2], MultiResult::Create { path: "/m/s-0000000001".into() });
    let MultiResult::SetData { stat } = &results[4] else { panic!() };
    assert_eq!(
        (stat.czxid, stat.mzxid, stat.version, stat.cversion, stat.num_children),
        (zxid, zxid, 1, 2, 2)
    );
    assert_eq!([&results[3], &results[7]], [&MultiResult::Check, &MultiResult::Delete]);
    assert_eq!(rig.stat("/m/x").czxid, zxid);
    assert_eq!(rig.stat("/m/x").ephemeral_owner, ALICE);
    assert_eq!(rig.machine.sessions().get(ALICE).unwrap().ephemerals.len(), 1);
    let kinds: Vec<_> = rig.applied.changes.iter().map(|c| c.kind).collect();
    use ChangeKind::*;
    assert_eq!(
        kinds,
        [Created, Created, Created, DataChanged, Created, Deleted, Created],
        "in order, each of them"
    );
    assert!(rig.applied.changes.iter().all(|change| change.zxid == zxid));
    rig.verify();
}

#[test]
fn an_empty_one_and_one_that_only_checks() {
    let mut rig = Rig::new();
    let zxid = rig.machine.zxid();
    assert_eq!(rig.multi(&[]).unwrap(), []);
    assert_eq!(rig.machine.zxid(), zxid + 1);
    assert_eq!(
        rig.multi(&[check("/", 0), check("/", -1)]).unwrap(),
        [MultiResult::Check, MultiResult::Check]
    );
    for (path, version, code) in [("/a/", 0, -8), ("/missing", 0, -101), ("/", 1, -103)] {
        assert_eq!(codes(&rig.multi(&[check(path, version)]).unwrap()), [code], "{path}");
    }
    rig.ask(&create_with(CreateOp::Create, "/w", 0, &[Acl::new(2, "world", "anyone")])).unwrap();
    assert_eq!(codes(&rig.multi(&[check("/w", 9)]).unwrap()), [-102]);
}

#[test]
fn the_form_of_the_answer() {
    let mut rig = Rig::new();
    let ops = [create("/m", 0), check("/m", 0)];
    let record = rig.ask(&Request::Multi(paddock_transport::wire::Multi::new(&ops))).unwrap();
    let mut expected = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    expected.extend(b"/m");
    expected.extend([0, 0, 0, 13, 0, 0, 0, 0, 0]);
    expected.extend([0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(record, expected);
    let with_stat = rig.multi(&[create_with(CreateOp::Create2, "/m2", 0, OPEN)]).unwrap();
    assert!(
        matches!(&with_stat[..], [MultiResult::Create2 { path, stat }] if path == "/m2" && stat.data_length == 4)
    );
    let refused =
        rig.multi(&[create("/m3", 0), create_with(CreateOp::CreateContainer, "/c", 4, OPEN)]).unwrap();
    assert_eq!(codes(&refused), [0, -6]);
}

#[test]
fn what_may_not_stand_in_a_multi_spoils_it_wholly() {
    let mut rig = Rig::new();
    rig.create("/a", 0).unwrap();
    for op in [
        Request::GetData { path: "/a".into(), watch: false },
        Request::SetAcl { path: "/a".into(), acl: paddock_transport::wire::List::new(OPEN), version: -1 },
        Request::Sync { path: "/a".into() },
        create("/x", 9),
        create("/x", 5),
    ] {
        let zxid = rig.machine.zxid();
        assert_eq!(rig.multi(&[create("/m", 0), op.clone()]), Err(-5), "{op:?}");
        assert!(!rig.exists("/m"));
        assert_eq!(rig.machine.zxid(), zxid + 1);
    }
    let cut_short =
        Op::Request { opcode: opcode::MULTI, body: vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0] };
    assert_eq!(rig.run(ALICE, cut_short), Outcome::Err(-5));
}

#[test]
fn an_ephemeral_of_another_session_comes_back_to_its_owner() {
    let mut rig = Rig::new();
    rig.open(BOB);
    assert!(matches!(rig.request(BOB, &create("/bob", 1)), Outcome::Ok(_)));
    assert_eq!(
        codes(&rig.multi(&[delete("/bob"), create("/bob", 1), delete("/nope")]).unwrap()),
        [0, 0, -101]
    );
    let owned = |rig: &Rig, session| rig.machine.sessions().get(session).unwrap().ephemerals.len();
    assert_eq!([owned(&rig, ALICE), owned(&rig, BOB)], [0, 1]);
    rig.multi(&[delete("/bob"), create("/bob", 1)]).unwrap();
    assert_eq!([owned(&rig, ALICE), owned(&rig, BOB)], [1, 0]);
    rig.verify();
}
