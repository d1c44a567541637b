//! The wire rules of spec 01: handshake, reattachment, authentication, errors, four-letter words.

use super::rig::*;
use crate::acl::digest_id;
use crate::shard::ShardConfig;
use crate::shard::config::{CLIENT_LIST_WAIT_MAX_NS, HANDSHAKE_TIMEOUT_NS};
use paddock_transport::engine::{Engine, Next};
use paddock_transport::wire::{Acl, ConnectRequest, List, Multi, Request, Response, error, opcode, perms};

#[test]
fn the_read_only_byte_is_answered_in_kind() {
    let mut w = World::new(1);
    for (read_only, bytes) in [(None, 4 + 36), (Some(false), 4 + 37), (Some(true), 4 + 37)] {
        let mut c = w.dial(0);
        w.connect(&mut c, &ConnectRequest { read_only, ..connect_request(0, &[]) });
        w.run();
        let answer = w.net.received(c.wire);
        assert_eq!(answer.len(), bytes);
        assert_eq!(answer[40..].to_vec(), vec![0; bytes - 40], "this server is none");
    }
}

#[test]
fn a_client_that_knows_more_is_closed_without_an_answer() {
    let mut w = World::new(1);
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { last_zxid_seen: 1 << 60, ..connect_request(0, &[]) });
    w.run();
    assert!(w.is_closed(&c) && w.net.received(c.wire).is_empty());
}

#[test]
fn requests_behind_the_connect_request_are_served_when_the_session_is_there() {
    let mut w = World::new(1);
    let mut c = w.dial(0);
    w.connect(&mut c, &connect_request(0, &[]));
    w.send(&mut c, &exists("/", false));
    w.send(&mut c, &make("/a", b""));
    w.run();
    assert!(w.handshake(&mut c).is_some());
    assert_eq!(w.messages(&mut c).iter().map(|m| (m.xid, m.err)).collect::<Vec<_>>(), [(1, 0), (2, 0)]);
}

#[test]
fn a_reattachment_on_any_shard_closes_the_old_connection() {
    let mut w = World::new(2);
    for shard in [0, 1] {
        let mut old = w.client(0);
        w.ask(&mut old, &exists("/", true));
        let mut new = w.dial(shard);
        let password = old.password;
        w.connect(&mut new, &connect_request(old.session, &password));
        w.run();
        assert_eq!(w.handshake(&mut new), Some((old.session, 10_000)));
        assert!(w.is_closed(&old) && !w.is_closed(&new));
        assert_eq!(w.ask(&mut new, &make(&format!("/s{shard}"), b"")).err, 0, "it may write");
    }
}

#[test]
fn a_wrong_password_is_refused_and_still_ends_the_live_connection() {
    let mut w = World::new(2);
    for shard in [0, 1] {
        let live = w.client(0);
        let mut thief = w.dial(shard);
        w.connect(&mut thief, &connect_request(live.session, &[9; 16]));
        w.run();
        assert_eq!(w.handshake(&mut thief), Some((0, 0)));
        assert!(w.is_closed(&thief) && w.is_closed(&live));
        // The session is alive: its owner can reattach.
        let mut back = w.dial(0);
        let (session, password) = (live.session, live.password);
        w.connect(&mut back, &connect_request(session, &password));
        w.run();
        assert_eq!(w.handshake(&mut back), Some((session, 10_000)));
    }
}

#[test]
fn an_unknown_session_is_refused_then_closed() {
    let mut w = World::new(1);
    let mut c = w.dial(0);
    w.connect(&mut c, &connect_request(0x7777, &[1; 16]));
    w.run();
    assert_eq!(w.handshake(&mut c), Some((0, 0)));
    assert!(w.is_closed(&c));
}

#[test]
fn closing_the_session_answers_then_closes_and_what_stands_behind_is_dropped() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.send(&mut c, &create("/e", b"", &[Acl::OPEN], 1));
    w.send(&mut c, &exists("/e", false));
    let close = w.send(&mut c, &Request::CloseSession);
    w.send(&mut c, &exists("/e", false));
    w.run();
    let all = w.messages(&mut c);
    assert_eq!(all.iter().map(|m| (m.xid, m.err)).collect::<Vec<_>>(), [(1, 0), (2, 0), (close, 0)]);
    assert!(w.is_closed(&c));
    let mut other = w.client(0);
    assert_eq!(w.ask(&mut other, &exists("/e", false)).err, error::NO_NODE);
}

#[test]
fn unknown_opcodes_are_answered_with_zxid_minus_one_then_closed() {
    let mut w = World::new(1);
    for opcode in [999, 0, -1, 10, 23, -10, opcode::CHECK] {
        let mut c = w.client(0);
        w.send_raw(&mut c, 7, opcode, &[0, 0, 0, 1, b'/', 0, 0, 0, 0]);
        w.send(&mut c, &exists("/", false));
        w.run();
        let all = w.messages(&mut c);
        assert_eq!(
            all,
            [Message { xid: 7, zxid: -1, err: error::UNIMPLEMENTED, body: vec![] }],
            "opcode {opcode}"
        );
        assert!(w.is_closed(&c));
    }
}

#[test]
fn short_bodies_are_minus_five_and_the_connection_stays() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    for opcode in [1, 3, 4, 5, 9, 12, 14, 16, 17, 18, 22, 101, 103, 104, 105, 106, 6, 7, 2] {
        w.send_raw(&mut c, 7, opcode, &[0, 0]);
        w.run();
        let all = w.messages(&mut c);
        assert_eq!(all.iter().map(|m| (m.xid, m.err)).collect::<Vec<_>>(), [(7, -5)], "opcode {opcode}");
    }
    // Null paths and invalid lengths.
    for length in [-1i32, -2, i32::MAX] {
        w.send_raw(&mut c, 8, opcode::GET_DATA, &[&length.to_be_bytes()[..], &[0; 8]].concat());
        w.run();
        assert_eq!(w.messages(&mut c)[0].err, -5, "length {length}");
    }
    // Bytes behind a record are ignored.
    w.send_raw(&mut c, 9, opcode::EXISTS, &[0, 0, 0, 1, b'/', 0, 1, 2, 3]);
    w.send_raw(&mut c, 10, opcode::WHO_AM_I, &[1, 2, 3]);
    w.run();
    assert!(w.messages(&mut c).iter().all(|m| m.err == 0));
}

#[test]
fn reads_answer_the_error_that_wins() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    let acl = [Acl::new(perms::ALL & !perms::READ & !perms::ADMIN, "world", "anyone")];
    w.ask(&mut c, &create("/locked", b"x", &acl, 0));
    let path = |p: &'static str| -> [Request<'static>; 6] {
        [
            exists(p, false),
            get(p, false),
            children(p, false),
            Request::GetChildren2 { path: p.into(), watch: false },
            Request::GetAllChildrenNumber { path: p.into() },
            Request::GetAcl { path: p.into() },
        ]
    };
    for (p, codes) in [
        ("/locked", [-102; 6]),
        ("/missing", [-101; 6]),
        ("nonsense//", [-101; 6]),
        ("/a\0b", [-8, -101, -101, -101, -101, -101]),
        ("", [0; 6]),
        ("/", [0; 6]),
    ] {
        for (request, code) in path(p).iter().zip(codes) {
            assert_eq!(w.ask(&mut c, request).err, code, "{request:?}");
        }
    }
    let sync = w.ask(&mut c, &Request::Sync { path: "xx".into() });
    assert_eq!(sync.response(opcode::SYNC), Response::Path("xx".into()));
    let number = w.ask(&mut c, &Request::GetAllChildrenNumber { path: "/".into() });
    assert_eq!(number.response(opcode::GET_ALL_CHILDREN_NUMBER), Response::Number(4));
}

#[test]
fn pings_are_answered_with_their_own_xid() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.send_raw(&mut c, 9, opcode::PING, &[]);
    w.run();
    let all = w.messages(&mut c);
    assert_eq!((all.len(), all[0].xid, all[0].err), (1, -2, 0));
}

#[test]
fn digest_users_get_what_their_acl_says_and_others_see_no_hash() {
    let mut w = World::new(1);
    let (mut bob, mut eve) = (w.client(0), w.client(0));
    let auth =
        |user: &'static [u8]| Request::Auth { kind: 0, scheme: Some("digest".into()), auth: Some(user) };
    let reply = w.ask(&mut bob, &auth(b"bob:pw"));
    assert_eq!((reply.zxid, reply.err), (0, 0));
    let acl = [Acl::new(perms::ALL, "auth", ""), Acl::new(perms::READ, "world", "anyone")];
    assert_eq!(w.ask(&mut bob, &create("/bobs", b"", &acl, 0)).err, 0);
    assert_eq!(w.ask(&mut eve, &set("/bobs", b"x")).err, error::NO_AUTH);
    assert_eq!(w.ask(&mut bob, &set("/bobs", b"x")).err, 0);
    let acl_of = |w: &mut World, c: &mut Client| {
        let message = w.ask(c, &Request::GetAcl { path: "/bobs".into() });
        let Response::Acl(list, _) = message.response(opcode::GET_ACL) else { panic!("an ACL") };
        list.iter().next().unwrap().id.id.unwrap().into_owned()
    };
    assert_eq!(acl_of(&mut w, &mut bob), "bob:ikIaKsbtGweaHnb/jKn7OHqbunM=");
    assert_eq!(acl_of(&mut w, &mut eve), "bob:x");
    let who = w.ask(&mut bob, &Request::WhoAmI);
    let Response::Clients(list) = who.response(opcode::WHO_AM_I) else { panic!("clients") };
    let ids: Vec<_> = list.iter().map(|c| (c.auth_scheme.into_owned(), c.user.into_owned())).collect();
    assert_eq!(ids, [("ip".into(), "127.0.0.1".into()), ("digest".into(), "bob".to_owned())]);
}

#[test]
fn an_unknown_scheme_fails_and_closes_and_sasl_without_configuration_goes_on() {
    let mut w = World::new(1);
    for scheme in ["nope", "world"] {
        let mut c = w.client(0);
        w.send_raw(&mut c, 77, opcode::AUTH, &{
            let mut body = Vec::new();
            Request::Auth { kind: 0, scheme: Some(scheme.into()), auth: Some(b"x") }.put(&mut body);
            body
        });
        w.run();
        let all = w.messages(&mut c);
        assert_eq!(all, [Message { xid: 77, zxid: 0, err: error::AUTH_FAILED, body: vec![] }]);
        assert!(w.is_closed(&c));
    }
    let mut c = w.client(0);
    let reply = w.ask(&mut c, &Request::Sasl { token: Some(b"x") });
    assert_eq!((reply.zxid, reply.err, &reply.body[..]), (0, 0, &(-1i32).to_be_bytes()[..]));
    assert_eq!(w.ask(&mut c, &exists("/", false)).err, 0);
}

#[test]
fn the_super_user_bypasses_every_acl() {
    let super_digest = Some(digest_id("root:secret"));
    let mut w = World::with(1, 0, ShardConfig { super_digest, ..ShardConfig::default() });
    let mut c = w.client(0);
    let acl = [Acl::new(0, "world", "anyone")];
    w.ask(&mut c, &create("/closed", b"x", &acl, 0));
    assert_eq!(w.ask(&mut c, &get("/closed", false)).err, error::NO_AUTH);
    let auth = Request::Auth { kind: 0, scheme: Some("digest".into()), auth: Some(b"root:secret") };
    w.ask(&mut c, &auth);
    assert_eq!(w.ask(&mut c, &get("/closed", false)).err, 0);
    assert_eq!(w.ask(&mut c, &set("/closed", b"y")).err, 0);
}

#[test]
fn multi_read_answers_each_op_for_itself_and_refuses_writes() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b"x"));
    let ops = [get("/a", false), children("/", false), get("/missing", false)];
    let reply = w.ask(&mut c, &Request::MultiRead(Multi::new(&ops)));
    assert_eq!(reply.err, 0);
    let Response::Multi(results) = reply.response(opcode::MULTI_READ) else { panic!("results") };
    let kinds: Vec<i32> = results
        .iter()
        .map(|r| match r {
            paddock_transport::wire::MultiResult::GetData { .. } => 4,
            paddock_transport::wire::MultiResult::GetChildren { .. } => 8,
            paddock_transport::wire::MultiResult::Error { code } => code,
            _ => 0,
        })
        .collect();
    assert_eq!(kinds, [4, 8, error::NO_NODE]);
    let writes = [delete("/a")];
    assert_eq!(w.ask(&mut c, &Request::MultiRead(Multi::new(&writes))).err, error::MARSHALLING_ERROR);
    assert_eq!(w.ask(&mut c, &exists("/a", false)).err, 0);
}

#[test]
fn multi_and_set_acl_travel_as_one_write_each() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    let ops = [make("/a", b""), make("/a/b", b""), set("/a", b"x")];
    assert_eq!(w.ask(&mut c, &Request::Multi(Multi::new(&ops))).err, 0);
    assert_eq!(w.ask(&mut c, &exists("/a/b", false)).err, 0);
    let acl = [Acl::new(perms::READ, "world", "anyone")];
    let set_acl = Request::SetAcl { path: "/a".into(), acl: List::new(&acl), version: -1 };
    assert_eq!(w.ask(&mut c, &set_acl).err, 0);
    assert_eq!(w.ask(&mut c, &set("/a", b"y")).err, error::NO_AUTH);
}

#[test]
fn words_are_answered_and_closed_also_for_a_peer_that_closed_its_side() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &exists("/", true));
    for (word, starts) in [
        ("ruok", "imok"),
        ("isro", "rw"),
        ("srvr", "Zookeeper version: "),
        ("mntr", "zk_version\t"),
        ("stat", "Zookeeper version: "),
        ("cons", "cons is not executed because it is not in the whitelist.\n"),
    ] {
        let asking = w.dial(0);
        w.net.send(asking.wire, word.as_bytes());
        w.net.finish(asking.wire);
        w.run();
        let text = String::from_utf8(w.net.received(asking.wire)).unwrap();
        assert!(text.starts_with(starts), "{word}: {text}");
        assert!(w.is_closed(&asking));
        if word == "mntr" {
            assert!(
                text.contains("zk_watch_count\t1\n") && text.contains("zk_num_alive_connections\t2\n"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_silent_connection_is_closed_after_the_handshake_time() {
    let mut w = World::new(1);
    let silent = w.dial(0);
    let half = w.dial(0);
    w.net.send(half.wire, &[0, 0, 0, 45, 0, 0]);
    let client = w.client(0);
    w.pass(HANDSHAKE_TIMEOUT_NS - 1);
    w.run();
    assert!(!w.is_closed(&silent) && !w.is_closed(&half));
    w.pass(1);
    w.run();
    assert!(w.is_closed(&silent) && w.is_closed(&half));
    assert!(!w.is_closed(&client), "a session's own time-out is the leader's");
}

#[test]
fn an_address_at_its_bound_is_refused_until_one_of_its_connections_is_gone() {
    let mut w = World::with(2, 2, ShardConfig::default());
    let a = w.client(0);
    let _b = w.client(1);
    let third = w.dial(0);
    w.run();
    assert!(w.is_closed(&third));
    w.net.reset(a.wire);
    w.run();
    w.client(0);
}

#[test]
fn sessions_heard_from_are_reported_once_a_beat() {
    let mut w = World::new(1);
    let (mut a, mut b) = (w.client(0), w.client(0));
    w.core.touched.clear();
    w.pass(2_000_000_000);
    for _ in 0..10 {
        w.ask(&mut a, &Request::Ping);
    }
    w.ask(&mut b, &Request::Ping);
    assert_eq!(w.core.touched.len(), 1, "{:?}", w.core.touched);
    w.pass(1_000_000_000);
    w.run();
    assert_eq!(w.core.touched.len(), 2);
    let mut second = w.core.touched[1].0.clone();
    second.sort_unstable();
    assert_eq!(second, [a.session, b.session], "each once");
    w.pass(5_000_000_000);
    w.run();
    assert_eq!(w.core.touched.len(), 2, "nobody was heard from");
}

#[test]
fn an_idle_shard_sleeps_without_a_deadline() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &Request::Ping);
    assert_eq!(
        w.next(0),
        Next::Sleep { deadline_ns: None },
        "reported at once: the last report was long ago"
    );
    w.ask(&mut c, &Request::Ping);
    let report = w.now.mono_ns + 1_000_000_000;
    assert_eq!(w.next(0), Next::Sleep { deadline_ns: Some(report) }, "the next report waits for its beat");
    w.pass(10_000_000_000);
    w.run();
    assert_eq!(w.next(0), Next::Sleep { deadline_ns: None });
}

#[test]
fn stat_lists_the_clients_of_all_shards_and_does_not_wait_for_a_stuck_one() {
    let mut w = World::new(3);
    let clients = [w.client(0), w.client(1), w.client(2)];
    let ask = |w: &mut World| {
        let asking = w.dial(1);
        w.net.send(asking.wire, b"stat");
        w.net.finish(asking.wire);
        asking
    };
    let asking = ask(&mut w);
    w.run();
    let text = String::from_utf8(w.net.received(asking.wire)).unwrap();
    let lines = text.lines().filter(|l| l.starts_with(" /")).count();
    assert_eq!(lines, clients.len() + 1, "{text}");
    assert!(text.contains("[0](queued=0,recved=0,sent=0)"), "{text}");
    // Only the asked shard runs, so the other shards do not answer.
    let asking = ask(&mut w);
    let only_the_asked = |w: &mut World| {
        let (mut a, mut b) = (Stuck, Stuck);
        let mut engines: [&mut dyn Engine; 3] = [&mut a, &mut w.shards[1], &mut b];
        assert!(w.net.run_until_quiet(w.now, &mut engines, 100));
        String::from_utf8(w.net.received(asking.wire)).unwrap()
    };
    assert_eq!(only_the_asked(&mut w), "");
    w.pass(CLIENT_LIST_WAIT_MAX_NS);
    let text = only_the_asked(&mut w);
    assert_eq!(
        text.lines().filter(|l| l.starts_with(" /")).count(),
        2,
        "its own client and the one asking: {text}"
    );
}
