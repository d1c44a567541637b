//! Clients that send invalid input or do not read: their memory is bounded, and other clients are not
//! disturbed.

use super::rig::*;
use crate::shard::config::{
    CLIENT_LIST_WAIT_MAX_NS, CLOSE_LINGER_NS, INPUT_HIGH_WATER_BYTES, INPUT_IN_TURN_MAX_BYTES,
    INPUT_KEEP_BYTES, MULTI_READ_REPLY_MAX_BYTES, NOTIFICATIONS_UNREAD_MAX_BYTES, REQUESTS_PER_TURN_MAX,
    VISITS_PER_TURN_MAX,
};
use paddock_transport::engine::Engine;
use paddock_transport::io::OUTPUT_HIGH_WATER_BYTES;
use paddock_transport::wire::request::put_request;
use paddock_transport::wire::{Request, WatchMode, opcode};
use proptest::prelude::*;

/// Capacity of the connection's buffers, in bytes.
fn held(w: &mut World, c: &Client) -> usize {
    let conn = w.net.conn(c.wire).expect("open");
    let connection = w.shards[0].connections.find(conn).expect("known");
    connection.input.capacity() + connection.pending.capacity() * 100
}

#[test]
fn impossible_lengths_close_at_once_and_cost_nothing() {
    let mut w = World::new(1);
    for length in [-1i32, i32::MIN, i32::MAX, 0x10_0000] {
        for established in [false, true] {
            let c = if established { w.client(0) } else { w.dial(0) };
            w.net.send(c.wire, &length.to_be_bytes());
            w.net.send(c.wire, &[0; 100]);
            w.run();
            assert!(w.is_closed(&c), "length {length}, established {established}");
            assert!(w.net.received(c.wire).is_empty());
        }
    }
    let c = w.client(0);
    w.net.send(c.wire, &[0; 4]);
    w.run();
    assert!(w.is_closed(&c), "a frame without a header");
    assert_eq!(w.stats.shard(0).connections.get(), 0);
}

#[test]
fn what_comes_behind_a_word_that_waits_for_other_shards_is_not_kept() {
    let mut w = World::new(2);
    let c = w.dial(0);
    let step = |w: &mut World| {
        let mut other = Stuck;
        let mut engines: [&mut dyn Engine; 2] = [&mut w.shards[0], &mut other];
        assert!(w.net.run_until_quiet(w.now, &mut engines, 100));
    };
    w.net.send(c.wire, b"stat");
    step(&mut w);
    for _ in 0..16 {
        w.net.send(c.wire, &[0; INPUT_IN_TURN_MAX_BYTES]);
        step(&mut w);
    }
    assert!(held(&mut w, &c) <= INPUT_IN_TURN_MAX_BYTES, "{} bytes", held(&mut w, &c));
    w.pass(CLIENT_LIST_WAIT_MAX_NS);
    step(&mut w);
    assert!(w.is_closed(&c) && w.net.received(c.wire).starts_with(b"Zookeeper version"));
}

#[test]
fn the_largest_frame_is_taken_and_its_room_given_back() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    let fitting = vec![7; 0xf_ffff - 8 - 4 - 2 - 4 - 4];
    assert_eq!(w.ask(&mut c, &set("/a", &fitting)).err, 0);
    assert!(held(&mut w, &c) <= 4096, "an idle connection holds little: {}", held(&mut w, &c));
    let answer = w.ask(&mut c, &get("/a", false));
    assert_eq!(answer.body.len(), 4 + fitting.len() + 68);
    // After half a frame and silence, only the received bytes are held.
    let mut bytes = Vec::new();
    put_request(&mut bytes, 9, &set("/a", &fitting));
    w.net.send(c.wire, &bytes[..1000]);
    w.run();
    assert!(held(&mut w, &c) <= 8192);
    assert!(!w.is_closed(&c));
    w.net.send(c.wire, &bytes[1000..]);
    w.run();
    assert_eq!(w.messages(&mut c)[0].err, 0);
}

#[test]
fn a_client_that_never_reads_is_served_up_to_the_high_water_and_then_not_read() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    let value = vec![1; 10_000];
    w.ask(&mut c, &make("/a", &value));
    w.net.set_window(c.wire, 0);
    let mut sent = 0;
    for _ in 0..6_000 {
        w.send(&mut c, &get("/a", false));
        sent += 1;
    }
    w.run();
    let conn = w.net.conn(c.wire).unwrap();
    let unsent = w.net.io(0).unsent(conn);
    assert!(unsent <= OUTPUT_HIGH_WATER_BYTES + 11_000, "one reply may exceed it: {unsent}");
    let input = w.shards[0].connections.find(conn).unwrap().input.len();
    // After a pause the in-process loop still delivers the input that it already held.
    assert!(input <= 6_000 * 19, "{input}");
    assert!(w.shards[0].connections.find(conn).unwrap().paused);
    assert_eq!(w.ask(&mut other, &get("/a", false)).err, 0, "others are served");
    // When the client reads again, all requests are answered in order.
    w.net.set_window(c.wire, usize::MAX);
    w.run();
    let all = w.messages(&mut c);
    assert_eq!(all.len(), sent);
    assert!(all.windows(2).all(|m| m[0].xid < m[1].xid));
    assert!(held(&mut w, &c) <= 4096);
}

/// A multiRead of `path`, `times` over.
fn read_again_and_again(path: &str, times: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..times {
        body.extend_from_slice(&opcode::GET_DATA.to_be_bytes());
        body.push(0);
        body.extend_from_slice(&(-1i32).to_be_bytes());
        body.extend_from_slice(&(path.len() as i32).to_be_bytes());
        body.extend_from_slice(path.as_bytes());
        body.push(0);
    }
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body.push(1);
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body
}

#[test]
fn a_multi_read_that_names_one_large_value_ten_thousand_times_fails_as_a_whole() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    let value = vec![7; 500_000];
    w.ask(&mut c, &make("/a", &value));
    w.send_raw(&mut c, 70, opcode::MULTI_READ, &read_again_and_again("/a", 6));
    w.run();
    assert_eq!(w.messages(&mut c)[0].err, 0, "below the bound it is answered");
    w.send_raw(&mut c, 71, opcode::MULTI_READ, &read_again_and_again("/a", 10_000));
    w.run();
    let answer = w.messages(&mut c);
    assert_eq!((answer[0].xid, answer[0].err, answer[0].body.len()), (71, -5, 0));
    const { assert!(MULTI_READ_REPLY_MAX_BYTES < 10_000 * 500_000) };
    assert_eq!(w.ask(&mut c, &get("/a", false)).err, 0, "the connection lives on");
    assert_eq!(w.ask(&mut other, &get("/a", false)).err, 0);
}

#[test]
fn requests_that_look_at_many_znodes_leave_room_for_others_in_each_turn() {
    let mut w = World::new(1);
    let (mut heavy, mut other) = (w.client(0), w.client(0));
    w.ask(&mut heavy, &make("/a", b"1"));
    // Each visits ten thousand znodes. Together they exceed the budget of one turn.
    let body = read_again_and_again("/a", 10_000);
    const { assert!(30 * 10_000 > VISITS_PER_TURN_MAX && 30 < REQUESTS_PER_TURN_MAX) };
    let expensive = 30;
    for xid in 0..expensive {
        w.send_raw(&mut heavy, 1000 + xid, opcode::MULTI_READ, &body);
    }
    w.send(&mut other, &get("/a", false));
    w.run();
    assert_eq!(w.messages(&mut other).len(), 1);
    let answers = w.messages(&mut heavy);
    assert_eq!(answers.len(), expensive as usize, "nothing is lost and all is in order");
    assert!(answers.windows(2).all(|m| m[0].xid < m[1].xid));
    assert!(w.shards[0].visited < VISITS_PER_TURN_MAX + 10_001);
}

#[test]
fn requests_behind_a_slow_write_fill_the_input_to_its_bound_only() {
    let mut w = World::new(1);
    w.net.set_fragments(&[4096]);
    w.net.set_chunks_per_step(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    w.send(&mut c, &set("/a", b"1"));
    for _ in 0..20_000 {
        w.send(&mut c, &get("/a", false));
    }
    w.run_shards();
    let conn = w.net.conn(c.wire).unwrap();
    let connection = w.shards[0].connections.find(conn).unwrap();
    assert!(connection.paused);
    assert!(connection.input.len() <= INPUT_HIGH_WATER_BYTES + 2 * 4096, "{}", connection.input.len());
    const { assert!(INPUT_HIGH_WATER_BYTES < INPUT_IN_TURN_MAX_BYTES) };
    w.run();
    assert_eq!(w.messages(&mut c).len(), 20_001);
}

#[test]
fn a_watcher_that_never_reads_is_closed_before_its_events_fill_the_memory() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    let path = format!("/{}", "x".repeat(60_000));
    let add = Request::AddWatch { path: path.as_str().into(), mode: WatchMode::Persistent };
    assert_eq!(w.ask(&mut c, &add).err, 0);
    w.net.set_window(c.wire, 0);
    w.ask(&mut other, &make(&path, b""));
    for _ in 0..2 + NOTIFICATIONS_UNREAD_MAX_BYTES / 60_000 {
        w.ask(&mut other, &set(&path, b""));
    }
    w.run();
    assert_eq!(w.stats.shard(0).watches.get(), 0, "it is being closed");
    w.pass(CLOSE_LINGER_NS);
    w.run();
    assert!(w.net.conn(c.wire).is_none(), "cut off, for it does not read that either");
    assert_eq!(w.stats.shard(0).connections.get(), 1);
}

#[test]
fn an_idle_connection_keeps_almost_nothing() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    for _ in 0..100 {
        w.ask(&mut c, &Request::Ping);
    }
    assert!(held(&mut w, &c) <= INPUT_KEEP_BYTES + 1600);
    assert!(size_of::<crate::shard::connection::Connection>() <= 512);
}

fn frame(opcode: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((8 + body.len()) as u32).to_be_bytes().to_vec();
    bytes.extend(1i32.to_be_bytes());
    bytes.extend(opcode.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn hostile_bytes() -> impl Strategy<Value = Vec<u8>> {
    let opcodes: Vec<i32> = opcode::ALL.iter().map(|(o, _, _)| *o).chain([0, -1, 999]).collect();
    let framed = (proptest::sample::select(opcodes), proptest::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(o, body)| frame(o, &body));
    // Records that begin with a plausible path reach further into the code.
    let opcodes: Vec<i32> = opcode::ALL.iter().map(|(o, _, _)| *o).collect();
    let pathed =
        (proptest::sample::select(opcodes), "(/[a-c]){0,3}", proptest::collection::vec(0u8..6, 0..40))
            .prop_map(|(o, path, rest)| {
                let mut body = (path.len() as u32).to_be_bytes().to_vec();
                body.extend(path.as_bytes());
                body.extend(rest);
                frame(o, &body)
            });
    prop_oneof![3 => framed, 6 => pathed, 1 => proptest::collection::vec(any::<u8>(), 0..80)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn arbitrary_bytes_never_panic_and_never_disturb_another_connection(
        pieces in proptest::collection::vec(hostile_bytes(), 1..30),
        connected in any::<bool>(),
        fragment in 1usize..50,
    ) {
        let mut w = World::new(1);
        let mut good = w.client(0);
        w.ask(&mut good, &make("/good", b"0"));
        w.ask(&mut good, &get("/good", true));
        let bad = if connected { w.client(0) } else { w.dial(0) };
        w.net.set_fragments(&[fragment]);
        for (n, piece) in pieces.iter().enumerate() {
            w.net.send(bad.wire, piece);
            if n % 3 == 0 {
                w.run();
                prop_assert_eq!(w.ask(&mut good, &exists("/good", false)).err, 0);
            }
        }
        w.run();
        let xid = w.send(&mut good, &set("/good", b"1"));
        w.run();
        let all = w.messages(&mut good);
        prop_assert_eq!(all.iter().map(|m| m.xid).collect::<Vec<_>>(), vec![-1, xid]);
        // The hostile connection, if it is still open, closes like any other.
        w.net.reset(bad.wire);
        w.run();
        prop_assert_eq!(w.stats.shard(0).connections.get(), 1);
        prop_assert_eq!(w.stats.shard(0).outstanding.get(), 0);
    }
}
