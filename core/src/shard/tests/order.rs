//! Guarantees to a session: the order of its requests, events before data, and one version for all
//! replies of a turn.

use super::rig::*;
use crate::beats::TOUCH_BEAT_MAX_NS;
use crate::shard::config::SUBMIT_RETRY_NS;
use paddock_transport::engine::Next;
use paddock_transport::wire::{Request, Response, error, event, opcode};
use proptest::prelude::*;

/// The data in a reply to getData.
fn data(message: &Message) -> Vec<u8> {
    match message.response(opcode::GET_DATA) {
        Response::Data(data, _) => data.unwrap().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pipelined_get_with_watch_set_get_answers_in_order_with_the_event_before_the_new_data() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    assert_eq!(w.ask(&mut c, &make("/a", b"old")).err, 0);
    let first = w.send(&mut c, &get("/a", true));
    let second = w.send(&mut c, &set("/a", b"new"));
    let third = w.send(&mut c, &get("/a", false));
    w.run();
    let all = w.messages(&mut c);
    assert_eq!(all.iter().map(|m| m.xid).collect::<Vec<_>>(), [first, -1, second, third]);
    assert_eq!(data(&all[0]), b"old");
    assert_eq!(all[1].event(), Some((event::NODE_DATA_CHANGED, "/a".into())));
    assert_eq!(data(&all[3]), b"new");
    assert_eq!(all[1].zxid, all[2].zxid, "the event carries the zxid of its change");
    assert!(all[0].zxid < all[2].zxid && all[2].zxid <= all[3].zxid);
}

#[test]
fn a_write_behind_an_unserved_read_is_not_forwarded_with_the_one_before_the_read() {
    // One commit contains all waiting writes. If set2 were forwarded with set1, the get between them
    // would see set2.
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b"0"));
    w.send(&mut c, &set("/a", b"1"));
    w.send(&mut c, &get("/a", false));
    w.send(&mut c, &set("/a", b"2"));
    w.send(&mut c, &get("/a", false));
    w.run();
    let all = w.messages(&mut c);
    assert_eq!((data(&all[1]), data(&all[3])), (b"1".to_vec(), b"2".to_vec()));
}

#[test]
fn writes_of_a_session_travel_together_and_reads_of_others_do_not_wait() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    let mut other = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    for n in 0..5 {
        w.send(&mut c, &set("/a", &[n]));
    }
    w.send(&mut c, &get("/a", false));
    w.send(&mut other, &get("/a", false));
    w.run_shards();
    assert!(w.messages(&mut c).is_empty(), "nothing is committed yet");
    assert_eq!(w.messages(&mut other).len(), 1, "a stranger's read is answered meanwhile");
    assert!(w.core.step());
    w.run_shards();
    let all = w.messages(&mut c);
    assert_eq!(all.len(), 6, "five writes in one commit, then the read: {all:?}");
    assert_eq!(data(&all[5]), [4]);
    assert!(!w.core.step());
}

#[test]
fn mixed_pipelines_answer_in_the_order_of_the_requests() {
    let mut w = World::new(2);
    for batch_max in [usize::MAX, 1, 3] {
        w.core.batch_max = batch_max;
        let mut clients = [w.client(0), w.client(1), w.client(0)];
        for (n, c) in clients.iter_mut().enumerate() {
            w.ask(c, &make(&format!("/n{n}-{batch_max}"), b"x"));
        }
        let mut expected = vec![Vec::new(); 3];
        for i in 0..300usize {
            for (n, c) in clients.iter_mut().enumerate() {
                let path = format!("/n{n}-{batch_max}");
                let value = [i as u8];
                let request = match (i * 7 + n) % 5 {
                    0 | 1 => set(&path, &value),
                    2 => Request::Sync { path: path.as_str().into() },
                    3 => exists("/missing", true),
                    _ => get(&path, false),
                };
                expected[n].push(w.send(c, &request));
            }
            if i % 16 == 0 {
                w.run_shards();
            }
        }
        w.run();
        for (c, expected) in clients.iter_mut().zip(&expected) {
            let xids: Vec<i32> = w.messages(c).iter().map(|m| m.xid).collect();
            assert_eq!(&xids, expected);
        }
    }
}

#[test]
fn each_read_sees_exactly_the_writes_before_it() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", &[255]));
    let mut last = 255;
    let mut expected = Vec::new();
    for i in 0..400u32 {
        if i.wrapping_mul(2_654_435_761) >> 30 == 0 {
            last = i as u8;
            w.send(&mut c, &set("/a", &[last]));
        } else {
            expected.push((w.send(&mut c, &get("/a", false)), last));
        }
    }
    w.run();
    let all = w.messages(&mut c);
    assert_eq!(all.len(), 400);
    for (xid, value) in expected {
        let message = all.iter().find(|m| m.xid == xid).unwrap();
        assert_eq!(data(message), [value], "xid {xid}");
    }
}

#[test]
fn malformed_requests_answer_in_their_place_and_the_connection_lives_on() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    w.send(&mut c, &set("/a", b"1"));
    w.send_raw(&mut c, 77, opcode::SET_DATA, &[0, 0]);
    w.send(&mut c, &get("/a", false));
    w.run();
    let all: Vec<_> = w.messages(&mut c).iter().map(|m| (m.xid, m.err)).collect();
    assert_eq!(all, [(2, 0), (77, error::MARSHALLING_ERROR), (3, 0)]);
}

#[test]
fn whoever_waits_for_a_reconfiguration_hears_that_the_server_lives() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    let change =
        Request::Reconfig { joining: None, leaving: Some("9".into()), new_members: None, config_id: -1 };
    let before = w.send(&mut c, &get("/", false));
    let reconfig = w.send(&mut c, &change);
    w.send(&mut c, &Request::Ping);
    w.send(&mut c, &Request::Ping);
    let after = w.send(&mut c, &get("/", false));
    w.send(&mut c, &Request::Ping);
    w.run_shards();
    let xids = |all: Vec<Message>| all.iter().map(|m| m.xid).collect::<Vec<_>>();
    assert_eq!(xids(w.messages(&mut c)), [before, -2, -2], "nothing else goes ahead of it");
    w.send(&mut c, &Request::Ping);
    w.run();
    assert_eq!(xids(w.messages(&mut c)), [reconfig, after, -2, -2]);
}

#[test]
fn what_one_client_was_told_another_on_a_different_shard_sees_at_once() {
    let mut w = World::new(2);
    let (mut a, mut b) = (w.client(0), w.client(1));
    w.ask(&mut a, &make("/a", b"0"));
    for n in 1..50u8 {
        assert_eq!(w.ask(&mut a, &set("/a", &[n])).err, 0);
        w.send(&mut b, &get("/a", false));
        w.run_shards();
        assert_eq!(data(&w.messages(&mut b)[0]), [n]);
    }
}

#[test]
fn a_full_ring_to_the_core_delays_requests_and_loses_none() {
    let mut w = World::with_ring(1, 0, crate::shard::ShardConfig::default(), 2);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    let xids: Vec<i32> = (0..20).map(|n| w.send(&mut c, &set("/a", &[n]))).collect();
    let mut all = Vec::new();
    for _ in 0..40 {
        w.run_shards();
        w.core.step();
        all.extend(w.messages(&mut c));
    }
    assert_eq!(all.iter().map(|m| m.xid).collect::<Vec<_>>(), xids);
    assert!(w.stats.shard(0).submit_ring_full.get() > 0);
}

#[test]
fn a_report_that_finds_the_ring_full_does_not_keep_the_shard_awake() {
    let mut w = World::with_ring(1, 0, crate::shard::ShardConfig::default(), 2);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    // The ring is not emptied, as without a leader or with a hanging disk. The client is heard from, and
    // a beat passes.
    for n in 0..3 {
        w.send(&mut c, &set("/a", &[n]));
    }
    w.run_shards();
    w.pass(TOUCH_BEAT_MAX_NS);
    w.run_shards();
    let until_ns = w.now.mono_ns + SUBMIT_RETRY_NS;
    assert_eq!(w.next(0), Next::Sleep { deadline_ns: Some(until_ns) });
    let reports = w.core.touched.len();
    w.core.step();
    w.pass(SUBMIT_RETRY_NS);
    w.run();
    assert_eq!(w.core.touched.len(), reports + 1, "and it is made when there is room");
}

#[test]
fn a_slept_shard_serves_the_newest_state_with_or_without_news() {
    let mut w = World::new(2);
    let (mut a, mut b) = (w.client(0), w.client(1));
    w.ask(&mut a, &make("/a", b"1"));
    w.run_shards();
    // Both shards are parked now, and no commit followed for the shard of `b`.
    assert_eq!(data(&w.ask(&mut b, &get("/a", false))), b"1");
    assert_eq!(data(&w.ask(&mut b, &get("/a", false))), b"1");
}

/// Steps of one client and of the core between them.
#[derive(Clone, Debug)]
enum Step {
    Set(u8),
    Get,
    Watch,
    Sync,
    Ping,
    Malformed,
    Shards,
    Core(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Set),
        4 => Just(Step::Get),
        2 => Just(Step::Watch),
        1 => Just(Step::Sync),
        1 => Just(Step::Ping),
        1 => Just(Step::Malformed),
        2 => Just(Step::Shards),
        2 => (1usize..5).prop_map(Step::Core),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// For every pipeline and every way to fragment and commit it, replies are in order and each read
    /// sees exactly the writes before it. Each armed watch gives one event, between the reply that armed
    /// it and the reply to the write.
    #[test]
    fn any_pipeline_is_answered_as_if_one_request_were_sent_after_the_other(
        steps in proptest::collection::vec(step(), 1..60),
        fragment in 1usize..64,
    ) {
        let mut w = World::new(1);
        let mut c = w.client(0);
        w.ask(&mut c, &make("/a", &[0]));
        w.net.set_fragments(&[fragment]);
        let (mut value, mut watched) = (0, false);
        // Pairs of xid and data of a get; a notification has xid -1.
        let mut expected: Vec<(i32, Option<u8>)> = Vec::new();
        for step in &steps {
            match step {
                Step::Set(v) => {
                    value = *v;
                    if std::mem::take(&mut watched) {
                        expected.push((-1, None));
                    }
                    expected.push((w.send(&mut c, &set("/a", &[*v])), None));
                }
                Step::Get => expected.push((w.send(&mut c, &get("/a", false)), Some(value))),
                Step::Watch => {
                    watched = true;
                    expected.push((w.send(&mut c, &get("/a", true)), Some(value)));
                }
                Step::Sync => expected.push((w.send(&mut c, &Request::Sync { path: "/a".into() }), None)),
                Step::Ping => {
                    w.send(&mut c, &Request::Ping);
                    expected.push((-2, None));
                }
                Step::Malformed => {
                    w.send_raw(&mut c, -77, opcode::SET_DATA, &[1]);
                    expected.push((-77, None));
                }
                Step::Shards => w.run_shards(),
                Step::Core(batch) => {
                    w.core.batch_max = *batch;
                    w.core.step();
                }
            }
        }
        w.run();
        let mut zxid = 0;
        let answered: Vec<(i32, Option<u8>)> = w
            .messages(&mut c)
            .iter()
            .map(|m| {
                prop_assert!(m.zxid >= zxid, "a client's zxid never goes back");
                zxid = m.zxid;
                let is_get = m.err == 0 && m.body.len() == 4 + 1 + 68;
                Ok((m.xid, is_get.then(|| m.body[4])))
            })
            .collect::<Result<_, _>>()?;
        prop_assert_eq!(answered, expected);
    }
}

#[test]
fn who_leaves_before_his_session_is_decided_is_withdrawn_and_who_has_one_is_not() {
    let mut w = World::with_ring(1, 0, crate::shard::ShardConfig::default(), 2);
    let (mut settled, mut gone) = (w.client(0), Vec::new());
    for _ in 0..2 {
        let mut client = w.dial(0);
        w.connect(&mut client, &connect_request(0x77, &[7; 16]));
        w.run_shards();
        gone.push(client);
    }
    for client in gone.iter().chain([&settled]) {
        w.net.reset(client.wire);
    }
    // The ring is full of session requests; the withdrawals follow when it has room.
    w.run_shards();
    w.core.step();
    w.pass(SUBMIT_RETRY_NS);
    w.run();
    assert_eq!(w.core.withdrawn.len(), 2);
    assert!(w.messages(&mut settled).is_empty());
}
