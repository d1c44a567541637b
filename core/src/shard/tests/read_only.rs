//! Read-only clients: new ones, and those that present a session.

use super::ensemble::{SECOND_NS, STALENESS_NS, client, member};
use super::rig::*;
use crate::shard::ShardConfig;
use crate::submit::{INQUIRIES_MAX, Inquiry};
use paddock_transport::engine::Next;
use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Limits, Multi, Request, SetWatches, Split, error, event, opcode, split,
};

/// The session that the ensemble opened through [`read_only_node`], and its password.
const KNOWN: i64 = 0x1101;
const PASSWORD: [u8; 16] = [1; 16];

fn read_only_node() -> World {
    let mut w = member(
        2,
        ShardConfig { read_only_mode: true, linearizable: vec![false, true], ..ShardConfig::default() },
    );
    let mut c = client(&mut w, 0, 40_000);
    assert_eq!((c.session, c.password), (KNOWN, PASSWORD));
    assert_eq!(w.ask(&mut c, &make("/a", b"1")).err, 0);
    w.pass(STALENESS_NS + 1);
    w.run();
    assert!(w.is_closed(&c));
    w
}

fn read_only_client(w: &mut World) -> Client {
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(0, &[]) });
    w.run();
    let bytes = w.net.received(c.wire);
    let Ok(Split::Frame { payload, rest: [] }) = split(&bytes, 1000) else { panic!("one answer: {bytes:?}") };
    let response = ConnectResponse::decode(payload, Limits::NONE).unwrap();
    assert!(response.read_only == Some(true) && response.session_id != 0 && response.timeout_ms == 10_000);
    c.session = response.session_id;
    c
}

#[test]
fn a_read_only_client_reads_and_watches_and_writes_nothing() {
    let mut w = read_only_node();
    let touched = w.core.touched.len();
    let mut c = read_only_client(&mut w);
    assert_eq!(w.ask(&mut c, &get("/a", true)).err, 0);
    let refused = [
        set("/a", b"2"),
        make("/b", b""),
        Request::Sync { path: "/".into() },
        Request::Multi(Multi::new(&[])),
    ];
    for request in &refused {
        assert_eq!(w.ask(&mut c, request).err, error::NOT_READ_ONLY, "{request:?}");
    }
    w.send_raw(&mut c, 7, opcode::CHECK, &[]);
    w.run();
    assert_eq!(w.messages(&mut c)[0].err, error::NOT_READ_ONLY);
    assert!(w.ask(&mut c, &get("/a", false)).zxid > 0);
    assert_eq!(w.ask(&mut c, &Request::CloseSession).err, 0);
    assert!(w.is_closed(&c));
    assert_eq!(w.core.touched.len(), touched, "nobody else knows its session");
    assert_eq!(w.word(0, "isro"), "ro");
    assert!(w.word(0, "srvr").contains("\nREAD-ONLY mode; serving only read-only clients\n"));
}

#[test]
fn only_clients_that_accept_it_are_served_read_only() {
    let mut w = read_only_node();
    for request in [
        connect_request(0, &[0; 16]),
        ConnectRequest { read_only: None, ..connect_request(0, &[0; 16]) },
        connect_request(KNOWN, &[1; 16]),
    ] {
        let mut c = w.dial(0);
        w.connect(&mut c, &request);
        w.run();
        assert!(w.is_closed(&c) && w.net.received(c.wire).is_empty(), "{request:?}");
    }
    let mut c = w.dial_listener(0, 1);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(0, &[]) });
    w.run();
    assert!(
        w.is_closed(&c) && w.net.received(c.wire).is_empty(),
        "a linearizable listener answers nothing old"
    );
}

#[test]
fn read_only_clients_leave_when_the_quorum_is_back() {
    let mut w = read_only_node();
    let c = read_only_client(&mut w);
    assert!(matches!(w.next(0), Next::Sleep { deadline_ns: Some(_) }), "nobody wakes it when that happens");
    w.freshness.confirm(w.now.mono_ns);
    w.run();
    assert!(w.is_closed(&c));
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(0, &[]) });
    w.run();
    assert_eq!(w.net.received(c.wire).last(), Some(&0), "an ordinary session");
    assert_eq!(w.word(0, "isro"), "rw");
}

#[test]
fn a_silent_read_only_client_is_closed_and_a_pinging_one_is_not() {
    let mut w = read_only_node();
    let silent = read_only_client(&mut w);
    let mut pinging = read_only_client(&mut w);
    for _ in 0..3 {
        w.pass(4 * SECOND_NS);
        w.ask(&mut pinging, &Request::Ping);
    }
    assert!(w.is_closed(&silent) && !w.is_closed(&pinging));
}

#[test]
fn a_node_that_has_just_started_looks_for_its_quorum_before_it_serves_read_only() {
    let mut w = member(1, ShardConfig { read_only_mode: true, ..ShardConfig::default() });
    w.freshness.confirm(0);
    w.run();
    assert_eq!(w.word(0, "isro"), "null");
    w.pass(2 * SECOND_NS);
    read_only_client(&mut w);
}

/// Presents a session as a read-only client. Returns the granted (id, timeout, password).
fn bring(w: &mut World, session: i64, password: &[u8]) -> (Client, Option<(i64, i32, Vec<u8>)>) {
    let shard = 0;
    let mut c = w.dial(shard);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(session, password) });
    w.run();
    let bytes = w.net.received(c.wire);
    if bytes.is_empty() {
        return (c, None);
    }
    let Ok(Split::Frame { payload, rest: [] }) = split(&bytes, 1000) else { panic!("one answer: {bytes:?}") };
    let response = ConnectResponse::decode(payload, Limits::NONE).unwrap();
    assert_eq!(response.read_only, Some(true));
    let got = (response.session_id, response.timeout_ms, response.password.unwrap().to_vec());
    (c, Some(got))
}

#[test]
fn a_client_goes_on_read_only_with_the_session_that_it_has() {
    let mut w = read_only_node();
    let touched = w.core.touched.len();
    let (mut c, got) = bring(&mut w, KNOWN, &PASSWORD);
    assert_eq!(got, Some((KNOWN, 10_000, PASSWORD.to_vec())));
    assert_eq!(w.ask(&mut c, &get("/a", true)).err, 0);
    assert_eq!(w.ask(&mut c, &set("/a", b"2")).err, error::NOT_READ_ONLY);
    // Closing the session would have to be ordered. The consensus core does not hear of the client.
    assert_eq!(w.ask(&mut c, &Request::CloseSession).err, error::NOT_READ_ONLY);
    assert!(!w.is_closed(&c));
    w.pass(2 * SECOND_NS);
    assert_eq!(w.ask(&mut c, &Request::Ping).err, 0);
    assert_eq!(w.core.touched.len(), touched);
    // The quorum returns: the client reconnects and has its session as an ordinary client.
    w.freshness.confirm(w.now.mono_ns);
    w.run();
    assert!(w.is_closed(&c));
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(KNOWN, &PASSWORD) });
    w.run();
    assert_eq!(w.handshake(&mut c), Some((KNOWN, 10_000)));
    assert_eq!(w.ask(&mut c, &set("/a", b"2")).err, 0);
}

#[test]
fn what_a_client_sends_behind_its_session_is_served_when_the_session_is() {
    let mut w = read_only_node();
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(KNOWN, &PASSWORD) });
    let none = || paddock_transport::wire::List::new(&[]);
    let data = [paddock_transport::wire::Text::Borrowed("/gone")];
    w.send(
        &mut c,
        &Request::SetWatches(SetWatches {
            relative_zxid: 0,
            data: paddock_transport::wire::List::new(&data),
            exist: none(),
            child: none(),
            persistent: none(),
            persistent_recursive: none(),
        }),
    );
    w.send(&mut c, &get("/a", false));
    w.run();
    assert_eq!(w.handshake(&mut c), Some((KNOWN, 10_000)));
    let told = w.messages(&mut c);
    assert!(told.iter().any(|m| m.event() == Some((event::NODE_DELETED, "/gone".to_owned()))), "{told:?}");
    assert_eq!(told.last().map(|m| m.err), Some(0));
}

#[test]
fn a_wrong_password_is_refused_and_costs_nobody_his_connection() {
    let mut w = read_only_node();
    let (owner, _) = bring(&mut w, KNOWN, &PASSWORD);
    for wrong in [&[2; 16][..], &[1; 15], &[]] {
        let (thief, got) = bring(&mut w, KNOWN, wrong);
        assert_eq!(got, Some((0, 0, vec![0; 16])));
        assert!(w.is_closed(&thief) && !w.is_closed(&owner));
    }
}

#[test]
fn a_node_without_a_quorum_tells_nobody_that_his_session_expired() {
    // Another node may have opened the session since, or it may be a read-only session of a broken
    // connection.
    let mut w = read_only_node();
    let (mut c, got) = bring(&mut w, 0x9901, &[7; 16]);
    assert_eq!(got, Some((0x9901, 10_000, vec![7; 16])));
    assert_eq!(w.ask(&mut c, &get("/a", false)).err, 0);
    // With a quorum the session is known to be unknown.
    w.freshness.confirm(w.now.mono_ns);
    w.run();
    assert!(w.is_closed(&c));
    let mut c = w.dial(0);
    w.connect(&mut c, &connect_request(0x9901, &[7; 16]));
    w.run();
    assert_eq!(w.handshake(&mut c), Some((0, 0)));
}

#[test]
fn a_client_that_comes_back_ends_its_former_connection_on_whichever_shard() {
    let mut w = read_only_node();
    let (first, _) = bring(&mut w, KNOWN, &PASSWORD);
    let (second, got) = bring(&mut w, KNOWN, &PASSWORD);
    assert!(got.is_some() && w.is_closed(&first) && !w.is_closed(&second));
    let mut third = w.dial(1);
    w.connect(&mut third, &ConnectRequest { read_only: Some(true), ..connect_request(KNOWN, &PASSWORD) });
    w.run();
    assert!(w.handshake(&mut third).is_some() && w.is_closed(&second) && !w.is_closed(&third));
}

#[test]
fn a_read_only_client_leaves_when_its_session_is_known_to_be_gone() {
    let mut w = read_only_node();
    let (c, _) = bring(&mut w, KNOWN, &PASSWORD);
    // The node still receives entries, although the quorum does not confirm that it has all of them.
    w.core.expire(KNOWN);
    w.run();
    assert!(w.is_closed(&c));
}

#[test]
fn a_session_looked_up_too_late_is_not_served_in_the_wrong_serving_mode() {
    let mut w = read_only_node();
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(KNOWN, &PASSWORD) });
    w.run_shards();
    w.freshness.confirm(w.now.mono_ns);
    w.run();
    assert!(w.is_closed(&c) && w.net.received(c.wire).is_empty());
}

#[test]
fn a_client_that_finds_too_many_questions_waiting_tries_again() {
    let mut w = read_only_node();
    for session in 0..INQUIRIES_MAX as i64 {
        let ticket = crate::commit::Ticket { shard: u16::MAX, token: 0 };
        assert!(w.inquiries.ask(Inquiry { ticket, session, password: Vec::new() }));
    }
    let mut c = w.dial(0);
    w.connect(&mut c, &ConnectRequest { read_only: Some(true), ..connect_request(KNOWN, &PASSWORD) });
    w.run_shards();
    assert!(w.is_closed(&c) && w.net.received(c.wire).is_empty());
}
