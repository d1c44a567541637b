//! Sessions through the log: which attachment may write, reattaching, and what a close removes.

use super::rig::*;
use crate::command::Op;
use crate::commit::{ChangeKind, Outcome, SessionEvent};

fn attach(password: &[u8], last_zxid_seen: i64) -> Op {
    Op::AttachSession { timeout_ms: 4_000, password: password.to_vec(), last_zxid_seen }
}

#[test]
fn opening_takes_a_zxid_and_gives_the_first_attachment() {
    let mut rig = Rig::new();
    let zxid = rig.machine.zxid();
    let outcome = rig.run(BOB, Op::OpenSession { timeout_ms: 5_000, password: [9; 16] });
    assert_eq!(
        outcome,
        Outcome::Attached { session: BOB, attachment: 1, timeout_ms: 5_000, password: [9; 16] }
    );
    assert_eq!(rig.machine.zxid(), zxid + 1);
    assert!(rig.applied.sessions.is_empty());
    for taken_or_no_id in [BOB, 0, i64::MIN, -1] {
        let again = rig.run(taken_or_no_id, Op::OpenSession { timeout_ms: 5_000, password: [8; 16] });
        assert_eq!(again, Outcome::Refused);
    }
    assert_eq!(rig.machine.sessions().get(BOB).unwrap().password, [9; 16]);
    assert_eq!(rig.machine.zxid(), zxid + 1);
}

#[test]
fn attaching_raises_the_number_and_takes_no_zxid() {
    let mut rig = Rig::new();
    let zxid = rig.machine.zxid();
    let password = [ALICE as u8; 16];
    let outcome = rig.run(ALICE, attach(&password, zxid));
    assert_eq!(outcome, Outcome::Attached { session: ALICE, attachment: 2, timeout_ms: 4_000, password });
    assert_eq!(rig.machine.zxid(), zxid);
    assert_eq!(rig.applied.results[0].zxid, zxid, "answered at the last zxid");
    assert_eq!(rig.applied.sessions, [SessionEvent::Moved { session: ALICE, attachment: 2 }]);

    assert_eq!(
        rig.request(ALICE, &create("/old", 0)),
        Outcome::Drop,
        "the connection before it has moved away"
    );
    assert_eq!(rig.run(ALICE, Op::CloseSession), Outcome::Drop);
    assert!(!rig.exists("/old"));
    assert_eq!(rig.machine.zxid(), zxid);
    rig.attachment = 2;
    rig.create("/new", 0).unwrap();
}

#[test]
fn attaching_fails_without_the_password_or_the_session() {
    let mut rig = Rig::new();
    assert_eq!(rig.run(BOB, attach(&[BOB as u8; 16], 0)), Outcome::Refused);
    assert!(rig.applied.sessions.is_empty());
    for (number, wrong) in
        [vec![], vec![0; 16], vec![ALICE as u8; 15], vec![ALICE as u8; 17]].iter().enumerate()
    {
        assert_eq!(rig.run(ALICE, attach(wrong, 0)), Outcome::Refused, "{wrong:?}");
        // As in ZooKeeper, the session's own connection closes too; the client reattaches with the right
        // password.
        let attachment = number as u32 + 2;
        assert_eq!(rig.applied.sessions, [SessionEvent::Moved { session: ALICE, attachment }]);
    }
    let session = rig.machine.sessions().get(ALICE).unwrap();
    assert_eq!(session.timeout_ms, 10_000, "nothing else of it has changed");
    assert!(matches!(rig.run(ALICE, attach(&[ALICE as u8; 16], 0)), Outcome::Attached { attachment: 6, .. }));
}

#[test]
fn a_client_from_the_future_is_turned_away_and_nothing_happens() {
    let mut rig = Rig::new();
    let ahead = rig.machine.zxid() + 1;
    assert_eq!(rig.run(ALICE, attach(&[ALICE as u8; 16], ahead)), Outcome::Drop);
    assert!(rig.applied.sessions.is_empty());
    rig.create("/still-mine", 0).unwrap();
}

#[test]
fn closing_deletes_the_ephemerals_under_one_zxid() {
    let mut rig = Rig::new();
    rig.open(BOB);
    rig.create("/p", 0).unwrap();
    for path in ["/p/c", "/p/a", "/b", "/zookeeper/quota/e"] {
        rig.create(path, 1).unwrap();
    }
    rig.create("/p/s", 3).unwrap();
    rig.create("/stays", 0).unwrap();
    rig.delete("/p/c", -1).unwrap();
    assert!(matches!(rig.request(BOB, &create("/bob", 1)), Outcome::Ok(_)));
    rig.verify();

    let zxid = rig.machine.zxid();
    assert_eq!(rig.run(ALICE, Op::CloseSession), Outcome::Ok(vec![]));
    assert_eq!(rig.machine.zxid(), zxid + 1);
    let gone: Vec<_> = rig.applied.changes.iter().map(|c| (c.kind, &*c.path, c.zxid)).collect();
    let deleted = |path| (ChangeKind::Deleted, path, zxid + 1);
    assert_eq!(gone, ["/b", "/p/a", "/p/s0000000002", "/zookeeper/quota/e"].map(deleted));
    assert!(rig.applied.changes.iter().all(|change| change.parent_acl.is_some()));
    assert_eq!(rig.applied.sessions, [SessionEvent::Closed { session: ALICE }]);
    assert_eq!(rig.stat("/p").pzxid, zxid + 1);
    assert!(rig.exists("/stays") && rig.exists("/bob"));
    assert!(rig.machine.sessions().get(ALICE).is_none());
    rig.verify();

    assert_eq!(rig.request(ALICE, &create("/x", 0)), Outcome::Drop, "gone is gone");
    assert_eq!(rig.run(ALICE, Op::CloseSession), Outcome::Drop);
    assert_eq!(rig.run(ALICE, attach(&[ALICE as u8; 16], 0)), Outcome::Refused);
    assert_eq!(rig.machine.zxid(), zxid + 1, "none of these takes a zxid");
}

#[test]
fn expiry_is_a_close_that_does_not_ask_for_the_attachment() {
    let mut rig = Rig::new();
    rig.create("/e", 1).unwrap();
    rig.run(ALICE, attach(&[ALICE as u8; 16], 0));
    rig.attachment = 0;
    let zxid = rig.machine.zxid();
    assert_eq!(rig.run(ALICE, Op::ExpireSession), Outcome::Ok(vec![]));
    assert_eq!(rig.machine.zxid(), zxid + 1);
    assert!(!rig.exists("/e"));
    assert_eq!(rig.applied.sessions, [SessionEvent::Closed { session: ALICE }]);
    assert_eq!(rig.run(ALICE, Op::ExpireSession), Outcome::Drop);
    assert_eq!(rig.machine.zxid(), zxid + 1, "an expiry that comes too late leaves no trace");
    assert!(rig.applied.sessions.is_empty() && rig.applied.changes.is_empty());
}

#[test]
fn anyone_may_delete_an_ephemeral_and_the_close_does_not_miss_it() {
    let mut rig = Rig::new();
    rig.open(BOB);
    rig.create("/e", 1).unwrap();
    let request = paddock_transport::wire::Request::Delete { path: "/e".into(), version: 0 };
    assert!(matches!(rig.request(BOB, &request), Outcome::Ok(_)));
    assert!(matches!(rig.request(BOB, &create("/e", 0)), Outcome::Ok(_)));
    assert!(rig.machine.sessions().get(ALICE).unwrap().ephemerals.is_empty());
    rig.run(ALICE, Op::CloseSession);
    assert!(rig.exists("/e"), "a node of the same name that is not the session's stays");
}
