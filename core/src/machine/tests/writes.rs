//! Single writes: the precedence of errors, the stored state, and the answers.

use super::rig::*;
use crate::acl::digest_id;
use crate::client_stat::wire_stat;
use crate::command::{Op, policy};
use crate::commit::{ChangeKind, Outcome};
use paddock_transport::wire::{Acl, Create, CreateOp, Id, Limits, List, Request, Response, opcode};

const READ_ONLY: &[Acl<'static>] = &[Acl::new(1, "world", "anyone")];
const BAD_ACL: &[Acl<'static>] = &[Acl::new(31, "foo", "bar")];

/// /a is open, /closed grants no permission, /eph is ephemeral, /full has a child.
fn furnished() -> Rig {
    let mut rig = Rig::new();
    rig.create("/a", 0).unwrap();
    rig.create("/full", 0).unwrap();
    rig.create("/full/child", 0).unwrap();
    rig.create("/eph", 1).unwrap();
    rig.ask(&create_with(CreateOp::Create, "/closed", 0, &[Acl::new(16, "world", "anyone")])).unwrap();
    rig
}

#[test]
fn the_error_that_wins_a_create() {
    let mut rig = furnished();
    rig.policy = policy::EXTENDED_TYPES;
    for (path, flags, acl, code) in [
        // Flags first, then the slash and NUL, then the ACL list, then the parent …
        ("noslash", 7, BAD_ACL, -8),
        ("/missing/x", -1, BAD_ACL, -8),
        ("/missing/x", 5, OPEN, -8),
        ("/missing/x", 6, OPEN, -8),
        ("noslash", 0, BAD_ACL, -8),
        ("/a\0/x", 0, BAD_ACL, -8),
        ("/missing/x", 0, BAD_ACL, -114),
        ("/missing/x", 0, &[], -114),
        ("/missing/x", 0, OPEN, -101),
        ("/missing/", 0, OPEN, -101),
        ("/missing/../x", 0, OPEN, -101),
        // … then CREATE permission on the parent, before path and existence …
        ("/closed/..", 0, OPEN, -102),
        ("/closed/x", 0, OPEN, -102),
        ("/closed/", 0, OPEN, -102),
        // … then the whole path, existence, and the ephemeral parent.
        ("/a/", 0, OPEN, -8),
        ("/a/..", 0, OPEN, -8),
        ("/a/\u{1}", 0, OPEN, -8),
        ("/a/\u{1f40e}", 0, OPEN, -8),
        ("", 0, OPEN, -8),
        ("a", 0, OPEN, -8),
        ("//", 0, OPEN, -8),
        ("/.", 0, OPEN, -8),
        ("/", 0, OPEN, -110),
        ("/a", 0, OPEN, -110),
        ("/zookeeper", 0, OPEN, -110),
        ("/eph/.", 0, OPEN, -8),
        ("/eph/x", 0, OPEN, -108),
        ("/eph/x", 2, OPEN, -108),
    ] {
        let before = rig.machine.zxid();
        let count = rig.tree.node_count();
        let refused = rig.ask(&create_with(CreateOp::Create, path, flags, acl));
        assert_eq!(refused, Err(code), "{path:?} flags {flags}");
        assert_eq!(rig.machine.zxid(), before + 1, "a failed write takes a zxid");
        assert_eq!(rig.tree.node_count(), count);
        assert!(rig.applied.changes.is_empty());
    }
    rig.verify();
}

#[test]
fn what_needs_a_collector_is_refused() {
    let mut rig = Rig::new();
    for (op, flags, code) in [
        (CreateOp::CreateContainer, 4, -6),
        (CreateOp::CreateContainer, 7, -8),
        (CreateOp::CreateTtl { ttl_ms: 1 }, 5, -6),
        (CreateOp::Create, 5, -6),
        (CreateOp::Create2, 6, -6),
    ] {
        assert_eq!(rig.ask(&create_with(op, "/x", flags, OPEN)), Err(code), "{op:?} {flags}");
    }
    assert_eq!(rig.ask(&Request::DeleteContainer { path: "/a".into() }), Err(-6));
    rig.create("/plain", 4).unwrap();
    assert_eq!(rig.stat("/plain").ephemeral_owner, 0, "flags 4 in a plain create: persistent");
}

#[test]
fn the_error_that_wins_a_delete() {
    let mut rig = furnished();
    rig.ask(&create_with(CreateOp::Create, "/guarded", 0, &[Acl::new(4, "world", "anyone")])).unwrap();
    rig.create("/guarded/x", 0).unwrap();
    for (path, version, code) in [
        ("/", -1, -8),
        ("/zookeeper", -1, -8),
        ("/zookeeper/quota", 0, -8),
        ("/zookeeper/config", 0, -8),
        ("", -1, -8),
        ("a", -1, -8),
        ("/a\0", -1, -8),
        ("/missing/x", -1, -101),
        ("/a//b", -1, -101),
        ("/guarded/missing", -1, -102),
        ("/guarded/x", 7, -102),
        ("/missing", -1, -101),
        ("/a/", -1, -101),
        ("/full", 3, -103),
        ("/full", 0, -111),
        ("/full", -1, -111),
    ] {
        assert_eq!(rig.delete(path, version), Err(code), "{path:?} {version}");
    }
    rig.ask(&create_with(CreateOp::Create, "/a/locked", 0, READ_ONLY)).unwrap();
    rig.delete("/a/locked", 0).unwrap();
    rig.verify();
}

#[test]
fn the_error_that_wins_a_set_data() {
    let mut rig = furnished();
    for (path, version, code) in [
        ("", 0, -8),
        ("/a/", 0, -8),
        ("/missing/..", 0, -8),
        ("/missing", 5, -101),
        ("/closed", 5, -102),
        ("/zookeeper/config", -1, -102),
        ("/a", 5, -103),
        ("/a", -2, -103),
    ] {
        assert_eq!(rig.set(path, Some(b"x"), version), Err(code), "{path:?} {version}");
    }
    rig.set("/zookeeper", Some(b"x"), -1).unwrap();
    rig.set("/", Some(b"root"), 0).unwrap();
    assert_eq!(rig.data("").as_deref(), Some(&b"root"[..]));
    rig.identities.push(id("super", ""));
    rig.set("/zookeeper/config", Some(b"x"), -1).unwrap();
    rig.set("/closed", None, -1).unwrap();
    rig.verify();
}

#[test]
fn the_error_that_wins_a_set_acl() {
    let mut rig = furnished();
    for (path, acl, version, code) in [
        ("/a/", BAD_ACL, 5, -8),
        ("/missing", BAD_ACL, 5, -114),
        ("/missing", &[], 5, -114),
        ("/missing", OPEN, 5, -101),
        ("/zookeeper/config", OPEN, 5, -102),
        ("/a", OPEN, 5, -103),
    ] {
        assert_eq!(rig.set_acl(path, acl, version), Err(code), "{path:?} {acl:?}");
    }
    let before = rig.stat("/a");
    let stat = rig.set_acl("/a", &[Acl::new(17, "world", "anyone")], 0).unwrap();
    assert_eq!(stat.aversion, 1);
    assert_eq!((stat.mzxid, stat.mtime, stat.version), (before.mzxid, before.mtime, 0), "nothing else moves");
    assert!(rig.applied.changes.is_empty(), "no watch hears of it");
    assert_eq!(rig.set("/a", None, -1), Err(-102));
    assert_eq!(rig.set_acl("/a", OPEN, 0), Err(-103));
    rig.set_acl("/a", OPEN, 1).unwrap();
    rig.verify();
}

#[test]
fn null_strings_and_lists() {
    let mut rig = Rig::new();
    let with_acl =
        |acl| Request::Create(Create { op: CreateOp::Create, path: "/x".into(), data: None, acl, flags: 0 });
    assert_eq!(rig.ask(&with_acl(List::NULL)), Err(-114));
    assert_eq!(rig.ask(&with_acl(List::EMPTY)), Err(-114));
    let no_scheme = [Acl { perms: 31, id: Id { scheme: None, id: Some("anyone".into()) } }];
    assert_eq!(rig.ask(&with_acl(List::new(&no_scheme))), Err(-114));
    let no_id = [Acl { perms: 31, id: Id { scheme: Some("world".into()), id: None } }];
    assert_eq!(rig.ask(&with_acl(List::new(&no_id))), Err(-5));
    rig.ask(&with_acl(List::new(OPEN))).unwrap();
    assert_eq!(rig.data("/x"), None, "null data is stored as null");
    assert_eq!(rig.set("/x", Some(b""), -1).unwrap().data_length, 0);
    assert_eq!(rig.data("/x").as_deref(), Some(&b""[..]), "and empty as empty");
    assert_eq!(rig.set("/x", None, 1).unwrap().version, 2);
    assert_eq!(rig.data("/x"), None);
    rig.verify();
}

#[test]
fn bytes_that_are_no_request_get_an_error_and_what_is_no_write_too() {
    let mut rig = Rig::new();
    for opcode in [opcode::CREATE, opcode::DELETE, opcode::SET_DATA, opcode::MULTI, opcode::RECONFIG] {
        let outcome = rig.run(ALICE, Op::Request { opcode, body: vec![0, 0] });
        assert_eq!(outcome, Outcome::Err(-5), "opcode {opcode}");
    }
    let null_path = Op::Request { opcode: opcode::DELETE, body: vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0] };
    assert_eq!(rig.run(ALICE, null_path), Outcome::Err(-5));
    for request in [
        Request::Check { path: "/".into(), version: -1 },
        Request::GetData { path: "/".into(), watch: false },
        Request::Ping,
    ] {
        assert_eq!(rig.ask(&request), Err(-6), "{request:?}");
    }
    assert_eq!(rig.run(ALICE, Op::Request { opcode: 999, body: vec![] }), Outcome::Err(-6));
    let junk_behind = {
        let Op::Request { opcode, mut body } = op_of(&create("/junk", 0)) else { unreachable!() };
        body.extend([1, 2, 3]);
        Op::Request { opcode, body }
    };
    assert!(matches!(rig.run(ALICE, junk_behind), Outcome::Ok(_)));
}

#[test]
fn reconfiguration_of_a_standalone_server() {
    let mut rig = Rig::new();
    let request = Request::Reconfig { joining: None, leaving: None, new_members: None, config_id: -1 };
    assert_eq!(rig.ask(&request), Err(-123));
    rig.policy = policy::RECONFIG;
    assert_eq!(rig.ask(&request), Err(-6));
}

#[test]
fn the_stat_of_a_new_node_and_what_its_parent_notes() {
    let mut rig = Rig::new();
    rig.create("/p", 0).unwrap();
    rig.time_ms = 42;
    let record = rig.ask(&create_with(CreateOp::Create2, "/p/c", 0, OPEN)).unwrap();
    let zxid = rig.machine.zxid();
    let Response::PathStat(path, stat) = Response::decode(opcode::CREATE2, &record, Limits::NONE).unwrap()
    else {
        panic!()
    };
    assert_eq!(path, "/p/c");
    assert_eq!((stat.czxid, stat.mzxid, stat.pzxid), (zxid, zxid, zxid));
    assert_eq!((stat.ctime, stat.mtime), (42, 42));
    assert_eq!((stat.version, stat.cversion, stat.aversion, stat.ephemeral_owner), (0, 0, 0, 0));
    assert_eq!((stat.data_length, stat.num_children), (4, 0));
    let parent = rig.stat("/p");
    assert_eq!((parent.pzxid, parent.cversion, parent.num_children), (zxid, 1, 1));
    assert_eq!(parent.mzxid, zxid - 1);

    let change = &rig.applied.changes[0];
    assert_eq!((change.kind, &*change.path, change.zxid), (ChangeKind::Created, "/p/c", zxid));
    assert!(change.parent_acl.is_some());

    rig.time_ms = 43;
    let stat = rig.set("/p/c", Some(b"longer data"), 0).unwrap();
    assert_eq!((stat.czxid, stat.mzxid, stat.ctime, stat.mtime), (zxid, zxid + 1, 42, 43));
    assert_eq!((stat.version, stat.data_length), (1, 11));
    assert_eq!(rig.applied.changes[0].kind, ChangeKind::DataChanged);
    rig.delete("/p/c", 1).unwrap();
    assert_eq!(rig.applied.changes[0].kind, ChangeKind::Deleted);
    assert_eq!((rig.stat("/p").pzxid, rig.stat("/p").cversion), (zxid + 2, 1));
    rig.verify();
}

#[test]
fn the_child_version_that_clients_see_counts_creations_and_deletions() {
    let mut rig = Rig::new();
    let shown = |rig: &Rig, path: &str| wire_stat(&rig.stat(path)).cversion;
    assert_eq!([shown(&rig, "/"), shown(&rig, ""), shown(&rig, "/zookeeper")], [-1, -1, -2]);
    rig.create("/p", 0).unwrap();
    rig.create("/p/a", 0).unwrap();
    assert_eq!(shown(&rig, "/p"), 1);
    rig.create("/p/b", 0).unwrap();
    assert_eq!(shown(&rig, "/p"), 2);
    rig.delete("/p/a", -1).unwrap();
    assert_eq!(shown(&rig, "/p"), 3);
}

#[test]
fn sequence_numbers_count_creations_whatever_their_name() {
    let mut rig = Rig::new();
    rig.create("/p", 0).unwrap();
    assert_eq!(rig.create("/p/a-", 2).unwrap(), "/p/a-0000000000");
    assert_eq!(rig.create("/p/b-", 3).unwrap(), "/p/b-0000000001");
    rig.create("/p/plain", 0).unwrap();
    rig.create("/p/e", 1).unwrap();
    assert_eq!(rig.create("/p/a-", 2).unwrap(), "/p/a-0000000004");
    rig.delete("/p/a-0000000004", -1).unwrap();
    assert_eq!(rig.create("/p/plain", 0), Err(-110), "a failed create does not count");
    assert_eq!(rig.create("/p/a-", 2).unwrap(), "/p/a-0000000005", "nor does a delete");
    assert_eq!(rig.create("/p/", 2).unwrap(), "/p/0000000006");
    assert_eq!(rig.create("/", 2).unwrap(), "/0000000001");
    rig.verify();
}

#[test]
fn the_sequence_number_wraps_to_negative() {
    let mut rig = Rig::new();
    let acl = rig.machine.intern_acl(crate::acl::AclList::world(31));
    for (stored, name) in
        [(i32::MAX, "/w/n2147483647"), (i32::MIN, "/w/n-2147483648"), (-1, "/w/n-000000001")]
    {
        let stat = crate::tree::NodeStat { cversion: stored, ..Default::default() };
        rig.tree
            .restore(crate::tree::RestoredNode { path: "/w", data: None, acl: acl.clone(), stat })
            .unwrap();
        assert_eq!(rig.create("/w/n", 2).unwrap(), name);
        assert_eq!(rig.stat("/w").cversion, stored.wrapping_add(1));
    }
}

#[test]
fn the_data_version_wraps_and_does_not_skip_minus_one() {
    let mut rig = Rig::new();
    let acl = rig.machine.intern_acl(crate::acl::AclList::world(31));
    for (stored, next) in [(i32::MAX, i32::MIN), (-2, -1), (-1, 0)] {
        let stat = crate::tree::NodeStat { version: stored, ..Default::default() };
        rig.tree
            .restore(crate::tree::RestoredNode { path: "/v", data: None, acl: acl.clone(), stat })
            .unwrap();
        assert_eq!(rig.set("/v", None, stored).unwrap().version, next, "after {stored}");
    }
}

#[test]
fn who_may_do_what_by_digest_and_address() {
    let mut rig = Rig::new();
    let bob = digest_id("bob:pw");
    assert_eq!(rig.ask(&create_with(CreateOp::Create, "/b", 0, &[Acl::new(31, "auth", "")])), Err(-114));
    rig.identities.push(id("digest", &bob));
    rig.identities.push(id("digest", "amy:h"));
    rig.ask(&create_with(CreateOp::Create, "/b", 0, &[Acl::new(31, "auth", "")])).unwrap();
    let stored = rig.tree.get("/b").unwrap().acl().clone();
    let ids: Vec<_> = stored.entries.iter().map(|e| (e.perms, &*e.id.scheme, &*e.id.id)).collect();
    assert_eq!(ids, [(31, "digest", "bob:ikIaKsbtGweaHnb/jKn7OHqbunM="), (31, "digest", "amy:h")]);
    rig.create("/b/mine", 0).unwrap();

    rig.identities = vec![id("ip", "10.0.0.1")];
    assert_eq!(rig.create("/b/x", 0), Err(-102));
    assert_eq!(rig.create("/b/mine", 0), Err(-102), "existence is not told");
    assert_eq!(rig.set("/b", None, -1), Err(-102));
    assert_eq!(rig.delete("/b/mine", -1), Err(-102));
    rig.policy = policy::SKIP_ACL;
    rig.set("/b", None, -1).unwrap();
    rig.policy = 0;
    rig.identities.push(id("super", ""));
    rig.set("/b", None, -1).unwrap();

    rig.identities = vec![id("ip", "10.1.2.3")];
    let net = [Acl::new(31, "ip", "10.1.0.0/16")];
    rig.ask(&create_with(CreateOp::Create, "/net", 0, &net)).unwrap();
    rig.set("/net", None, -1).unwrap();
    rig.identities = vec![id("ip", "10.2.2.3")];
    assert_eq!(rig.set("/net", None, -1), Err(-102));
    rig.ask(&create_with(CreateOp::Create, "/six", 0, &[Acl::new(31, "ip", "::1")])).unwrap();
    rig.verify();
}

#[test]
fn equal_lists_are_stored_once() {
    let mut rig = Rig::new();
    rig.create("/a", 0).unwrap();
    rig.create("/b", 0).unwrap();
    let acl = |path: &str| rig.tree.get(path).unwrap().acl().clone();
    assert!(std::sync::Arc::ptr_eq(&acl("/a"), &acl("/b")));
}

#[test]
fn zxids_follow_the_term_and_never_fall_back() {
    let mut rig = Rig::new();
    assert_eq!(rig.machine.zxid(), FIRST_ZXID);
    rig.create("/a", 0).unwrap();
    assert_eq!(rig.machine.zxid(), FIRST_ZXID + 1);
    rig.term = 5;
    rig.create("/b", 0).unwrap();
    assert_eq!(rig.machine.zxid(), 0x5_0000_0001);
    rig.term = 4;
    rig.create("/c", 0).unwrap();
    assert_eq!(rig.machine.zxid(), 0x5_0000_0002);
}
