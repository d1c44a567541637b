//! Members of an ensemble: a client is served only while the quorum confirms its node and its session.

use super::rig::*;
use crate::freshness::ALWAYS;
use crate::shard::ShardConfig;
use crate::shard::config::START_PATIENCE_NS;
use crate::stats::ServerState;
use paddock_transport::engine::Next;
use paddock_transport::wire::{ConnectRequest, Request, Response, WatchMode, error, event, opcode};

pub const SECOND_NS: u64 = 1_000_000_000;
pub const STALENESS_NS: u64 = 10 * SECOND_NS;
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// A node that the quorum confirmed just now.
pub fn member(shards: usize, config: ShardConfig) -> World {
    let w = World::with(shards, 0, config);
    w.stats.set_mode(ServerState::Follower);
    w.freshness.confirm(w.now.mono_ns);
    w
}

/// A confirmed node whose maxStaleness is an hour, for tests of other bounds.
fn patient(shards: usize, config: ShardConfig) -> World {
    member(shards, ShardConfig { max_staleness_ns: 3600 * SECOND_NS, ..config })
}

fn with_timeout(timeout_ms: i32) -> ConnectRequest<'static> {
    ConnectRequest { timeout_ms, ..connect_request(0, &[0; 16]) }
}

pub fn client(w: &mut World, shard: usize, timeout_ms: i32) -> Client {
    let mut c = w.dial(shard);
    w.connect(&mut c, &with_timeout(timeout_ms));
    w.run();
    assert_eq!(w.handshake(&mut c).expect("a session").1, timeout_ms);
    c
}

fn confirm_reports(w: &World) {
    let at_ns = w.core.touched.last().expect("a report").1;
    w.freshness.confirm_reports(0, at_ns);
}

#[test]
fn a_stale_node_serves_nobody_and_says_why() {
    let mut w = member(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 40_000);
    w.pass(STALENESS_NS);
    assert_eq!(w.ask(&mut c, &exists("/", false)).err, 0, "at the bound it is served");
    w.pass(1);
    w.stats.set_write_block("no leader: 2 of 5 voters reachable");
    w.send(&mut c, &exists("/", false));
    w.run();
    assert!(w.is_closed(&c) && w.messages(&mut c).is_empty());
    let mut late = w.dial(0);
    w.connect(&mut late, &connect_request(0, &[0; 16]));
    w.run();
    assert!(w.is_closed(&late) && w.net.received(late.wire).is_empty());
    assert_eq!(w.word(0, "ruok"), "imok");
    assert_eq!(w.word(0, "srvr"), format!("{NOT_SERVING}no leader: 2 of 5 voters reachable\n"));
    assert_eq!(w.stats.sum(|s| &s.stale_closed), 1);
    w.freshness.confirm(w.now.mono_ns);
    let mut back = client(&mut w, 0, 10_000);
    assert_eq!(w.ask(&mut back, &exists("/", false)).err, 0);
    assert!(w.word(0, "srvr").contains("Mode: follower"));
}

#[test]
fn a_node_that_slept_tells_nobody_anything_in_its_first_turn() {
    let mut w = member(1, ShardConfig::default());
    let mut writer = client(&mut w, 0, 40_000);
    let mut watcher = client(&mut w, 0, 40_000);
    assert_eq!(w.ask(&mut watcher, &exists("/a", true)).err, error::NO_NODE);
    w.send(&mut writer, &make("/a", b""));
    w.send(&mut watcher, &exists("/", false));
    w.run_shards();
    w.messages(&mut watcher);
    // While this shard slept, the write was committed, and its result and event are in the ring.
    assert!(w.core.step());
    w.send(&mut watcher, &exists("/a", false));
    w.pass(STALENESS_NS + 1);
    w.run();
    for c in [&mut writer, &mut watcher] {
        assert!(w.is_closed(c) && w.messages(c).is_empty());
    }
}

#[test]
fn a_node_that_is_stopped_within_a_turn_sends_nothing_of_it_when_it_wakes() {
    let mut w = member(1, ShardConfig::default());
    let mut asks = client(&mut w, 0, 40_000);
    let mut says_good_bye = client(&mut w, 0, 40_000);
    let mut idle = client(&mut w, 0, 40_000);
    w.send(&mut asks, &exists("/", false));
    w.send(&mut says_good_bye, &exists("/", false));
    // The unknown opcode closes the connection in the same turn, behind the reply to the read.
    w.send_raw(&mut says_good_bye, 9, 999, &[]);
    w.net.hold_up(0, STALENESS_NS + 1);
    w.run();
    for c in [&mut asks, &mut says_good_bye] {
        assert!(w.is_closed(c) && w.messages(c).is_empty());
    }
    // A connection without output is left to the next turn. Here a newer confirmation arrives before it.
    assert!(!w.is_closed(&idle));
    assert_eq!(w.ask(&mut idle, &exists("/", false)).err, 0);
}

#[test]
fn a_pause_within_a_turn_that_is_no_longer_than_the_bound_costs_nobody_anything() {
    let mut w = member(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 40_000);
    w.net.hold_up(0, STALENESS_NS);
    assert_eq!(w.ask(&mut c, &exists("/", false)).err, 0);
}

#[test]
fn a_lease_that_ends_within_a_turn_ends_it() {
    let mut w = patient(1, ShardConfig::default());
    let (mut short, mut closing) = (client(&mut w, 0, 4_000), client(&mut w, 0, 4_000));
    let mut long = client(&mut w, 0, 40_000);
    for c in [&mut short, &mut closing, &mut long] {
        w.send(c, &exists("/", false));
    }
    w.send_raw(&mut closing, 9, 999, &[]);
    w.net.hold_up(0, 4 * SECOND_NS);
    w.run();
    for c in [&mut short, &mut closing] {
        assert!(w.is_closed(c) && w.messages(c).is_empty());
    }
    assert_eq!(w.messages(&mut long).len(), 1);
    assert_eq!(w.stats.sum(|s| &s.leases_run_out), 1);
}

#[test]
fn a_group_of_one_that_is_stopped_within_a_turn_says_what_it_has_to_say() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.net.hold_up(0, 24 * 3600 * SECOND_NS);
    assert_eq!(w.ask(&mut c, &exists("/", false)).err, 0);
}

#[test]
fn a_node_without_its_first_confirmation_closes_clients_and_answers_words() {
    let mut w = member(1, ShardConfig::default());
    w.freshness.confirm(0);
    let mut early = w.dial(0);
    w.connect(&mut early, &connect_request(0, &[0; 16]));
    w.run();
    assert!(!w.is_closed(&early), "it has just started");
    w.pass(START_PATIENCE_NS);
    let mut late = w.dial(0);
    w.connect(&mut late, &connect_request(0, &[0; 16]));
    w.run();
    for c in [&early, &late] {
        assert!(w.is_closed(c) && w.net.received(c.wire).is_empty());
    }
    assert_eq!((w.word(0, "ruok"), w.word(0, "isro")), ("imok".into(), "null".into()));
    assert_eq!(w.word(0, "srvr"), NOT_SERVING);
}

#[test]
fn a_client_that_came_before_the_first_confirmation_is_served_when_it_comes() {
    let mut w = member(1, ShardConfig::default());
    w.freshness.confirm(0);
    let mut c = w.dial(0);
    w.connect(&mut c, &connect_request(0, &[0; 16]));
    w.run();
    assert_eq!(w.next(0), Next::Sleep { deadline_ns: Some(w.now.mono_ns + START_PATIENCE_NS) });
    w.pass(START_PATIENCE_NS - 1);
    w.freshness.confirm(ALWAYS);
    w.run();
    assert!(w.handshake(&mut c).is_some());
    assert_eq!(w.ask(&mut c, &exists("/", false)).err, 0);
}

#[test]
fn hearing_from_a_client_renews_nothing_that_the_leader_did_not_hear_too() {
    let mut w = patient(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 10_000);
    for _ in 0..9 {
        w.pass(SECOND_NS);
        assert_eq!(w.ask(&mut c, &Request::Ping).err, 0);
    }
    assert_eq!(w.core.touched.len(), 9, "it was reported with every beat");
    w.pass(SECOND_NS);
    w.send(&mut c, &exists("/", false));
    w.run();
    assert!(w.is_closed(&c) && w.messages(&mut c).is_empty());
    assert_eq!(w.stats.sum(|s| &s.leases_run_out), 1);
}

#[test]
fn a_confirmed_report_renews_a_lease_from_the_time_of_that_report() {
    let mut w = patient(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 10_000);
    w.pass(5 * SECOND_NS);
    w.ask(&mut c, &Request::Ping);
    let first = w.core.touched.last().unwrap().clone();
    assert_eq!(first, (vec![c.session], w.now.mono_ns));
    w.pass(2 * SECOND_NS);
    w.ask(&mut c, &Request::Ping);
    assert_eq!(w.core.touched.len(), 2);
    // Only the first of the two reports is confirmed, and late.
    w.freshness.confirm_reports(0, first.1);
    w.pass(8 * SECOND_NS - SECOND_NS / 4);
    w.run();
    assert!(!w.is_closed(&c), "five seconds and ten");
    w.pass(SECOND_NS / 4);
    w.run();
    assert!(w.is_closed(&c));
}

#[test]
fn a_client_that_is_heard_and_confirmed_lives_on() {
    let mut w = member(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 4_000);
    for _ in 0..100 {
        w.pass(SECOND_NS);
        w.freshness.confirm(w.now.mono_ns - SECOND_NS / 2);
        assert_eq!(w.ask(&mut c, &Request::Ping).err, 0);
        confirm_reports(&w);
    }
    let at = match w.next(0) {
        Next::Sleep { deadline_ns: Some(at) } => at,
        other => panic!("it must look at leases by itself: {other:?}"),
    };
    assert!(at <= w.now.mono_ns + 4 * SECOND_NS);
    w.pass(4 * SECOND_NS);
    w.freshness.confirm(w.now.mono_ns);
    w.run();
    assert!(w.is_closed(&c), "silent for its timeout");
}

#[test]
fn a_first_lease_counts_from_the_request() {
    let mut w = patient(1, ShardConfig::default());
    let mut c = w.dial(0);
    w.connect(&mut c, &with_timeout(4_000));
    w.run_shards();
    w.pass(4 * SECOND_NS);
    assert!(w.core.step());
    w.run();
    assert!(w.is_closed(&c) && w.net.received(c.wire).is_empty());
}

#[test]
fn a_ping_behind_a_request_that_must_wait_is_a_sign_of_life() {
    let mut w = patient(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 10_000);
    w.send(&mut c, &Request::Sync { path: "/".into() });
    w.run_shards();
    w.pass(3 * SECOND_NS);
    w.run_shards();
    w.send(&mut c, &Request::Ping);
    w.run_shards();
    w.run();
    assert_eq!(w.core.touched.last(), Some(&(vec![c.session], w.now.mono_ns)));
}

#[test]
fn unconfirmed_reports_do_not_pile_up() {
    let mut w = patient(1, ShardConfig { session_timeout_max_ms: 1_000_000, ..ShardConfig::default() });
    let mut c = client(&mut w, 0, 900_000);
    for _ in 0..100 {
        w.pass(SECOND_NS);
        w.ask(&mut c, &Request::Ping);
    }
    assert_eq!(w.core.touched.len(), 100);
    confirm_reports(&w);
    w.pass(899 * SECOND_NS);
    w.run();
    assert!(!w.is_closed(&c), "the newest report counts");
}

#[test]
fn a_group_of_one_closes_nobody_and_sleeps() {
    let mut w = World::new(1);
    let c = w.client(0);
    w.pass(2 * SECOND_NS);
    w.run();
    assert_eq!(w.next(0), Next::Sleep { deadline_ns: None });
    w.pass(24 * 3600 * SECOND_NS);
    w.run();
    assert!(!w.is_closed(&c));
    assert_eq!(w.stats.sum(|s| &s.leases_run_out), 0);
}

/// The log may contain the expiry of the session already. A reply would let the client rely on a session
/// about to expire.
#[test]
fn a_client_of_a_group_of_one_that_was_silent_for_all_of_its_time_attaches_anew() {
    let mut w = World::new(1);
    let mut c = client(&mut w, 0, 10_000);
    for _ in 0..3 {
        w.pass(10 * SECOND_NS - 1);
        assert_eq!(w.ask(&mut c, &exists("/", false)).err, 0);
    }
    w.pass(10 * SECOND_NS);
    w.send(&mut c, &exists("/", false));
    w.run();
    assert!(w.is_closed(&c) && w.messages(&mut c).is_empty());
    let mut again = w.dial(0);
    w.connect(&mut again, &connect_request(c.session, &c.password));
    w.run();
    assert_eq!(w.handshake(&mut again), Some((c.session, 10_000)));
    assert_eq!(w.ask(&mut again, &exists("/", false)).err, 0);
}

#[test]
fn a_client_of_a_group_of_one_that_was_silent_for_most_of_its_time_is_reported_at_once() {
    let mut w = World::new(1);
    let mut c = client(&mut w, 0, 10_000);
    w.pass(SECOND_NS / 2);
    w.ask(&mut c, &Request::Ping);
    let reports = w.core.touched.len();
    w.pass(SECOND_NS / 10);
    w.ask(&mut c, &Request::Ping);
    assert_eq!(w.core.touched.len(), reports, "the next beat is soon enough");
    let mut other = client(&mut w, 0, 20_000);
    w.pass(10 * SECOND_NS - SECOND_NS / 5);
    // A report of another session has just been sent.
    w.ask(&mut other, &Request::Ping);
    w.pass(SECOND_NS / 100);
    w.ask(&mut c, &Request::Ping);
    assert_eq!(w.core.touched.last(), Some(&(vec![c.session], w.now.mono_ns)));
}

#[test]
fn clients_of_a_group_of_one_that_grows_get_a_lease_from_its_last_moment_alone() {
    let mut w = patient(1, ShardConfig::default());
    w.freshness.confirm(ALWAYS);
    let mut c = client(&mut w, 0, 10_000);
    w.pass(5 * SECOND_NS);
    w.ask(&mut c, &Request::Ping);
    w.pass(SECOND_NS);
    w.freshness.confirm(w.now.mono_ns);
    w.run();
    w.pass(9 * SECOND_NS - SECOND_NS / 4);
    w.run();
    assert!(!w.is_closed(&c));
    w.pass(SECOND_NS / 4);
    w.run();
    assert!(w.is_closed(&c));
}

#[test]
fn a_client_that_moved_on_in_the_commit_that_attached_it_is_closed() {
    // Stands for the shards of two nodes: only the log can tell the other to release the session.
    let mut w = patient(2, ShardConfig::default());
    let owner = client(&mut w, 0, 10_000);
    let (session, password) = (owner.session, owner.password);
    let mut first = w.dial(0);
    w.connect(&mut first, &connect_request(session, &password));
    w.run_shards();
    w.core.attach_elsewhere(session, password);
    w.run();
    assert!(w.is_closed(&first) && w.is_closed(&owner));
}

#[test]
fn a_session_attached_on_another_node_ends_its_connection_here() {
    let mut w = patient(1, ShardConfig::default());
    let mut c = client(&mut w, 0, 10_000);
    w.core.attach_elsewhere(c.session, c.password);
    w.send(&mut c, &make("/late", b""));
    w.run();
    assert!(w.is_closed(&c) && w.messages(&mut c).is_empty());
    let mut other = client(&mut w, 0, 10_000);
    assert_eq!(w.ask(&mut other, &exists("/late", false)).err, error::NO_NODE);
}

#[test]
fn a_new_session_whose_id_is_taken_is_tried_again_and_not_told_that_it_expired() {
    let mut w = World::new(1);
    let next = w.client(0).session + 1;
    w.core.open_elsewhere(next);
    let mut c = w.dial(0);
    w.connect(&mut c, &connect_request(0, &[0; 16]));
    w.run();
    assert!(w.is_closed(&c) && w.net.received(c.wire).is_empty());
    assert_eq!(w.client(0).session, next + 1);
}

fn linearizable() -> World {
    patient(1, ShardConfig { linearizable: vec![false, true], ..ShardConfig::default() })
}

fn linearizable_client(w: &mut World) -> Client {
    let mut c = w.dial_listener(0, 1);
    w.connect(&mut c, &with_timeout(10_000));
    w.run();
    w.handshake(&mut c).expect("a session");
    c
}

#[test]
fn a_linearizable_read_waits_for_a_round_that_began_after_it_came() {
    let mut w = linearizable();
    let mut c = linearizable_client(&mut w);
    let first = w.send(&mut c, &exists("/", false));
    w.run_shards();
    let second = w.send(&mut c, &exists("/", false));
    w.run_shards();
    assert!(w.messages(&mut c).is_empty(), "no round is confirmed");
    assert!(w.core.step());
    w.run_shards();
    assert_eq!(w.messages(&mut c).iter().map(|m| m.xid).collect::<Vec<_>>(), [first]);
    assert!(w.core.step(), "a round of its own");
    w.run_shards();
    assert_eq!(w.messages(&mut c).iter().map(|m| m.xid).collect::<Vec<_>>(), [second]);
    assert!(!w.core.step());
}

#[test]
fn all_reads_of_a_turn_share_a_round_and_strangers_wait_for_none() {
    let mut w = linearizable();
    let mut readers: Vec<Client> = (0..3).map(|_| linearizable_client(&mut w)).collect();
    let mut stranger = client(&mut w, 0, 10_000);
    let before = w.stats.sum(|s| &s.read_rounds);
    for c in &mut readers {
        for _ in 0..300 {
            w.send(c, &get("/", false));
        }
    }
    w.send(&mut readers[0], &Request::WhoAmI);
    w.send(&mut stranger, &exists("/", false));
    w.run_shards();
    assert_eq!(w.messages(&mut stranger).len(), 1);
    assert!(readers.iter_mut().all(|c| w.messages(c).is_empty()));
    w.run();
    assert_eq!(readers.iter_mut().map(|c| w.messages(c).len()).collect::<Vec<_>>(), [301, 300, 300]);
    assert_eq!(w.stats.sum(|s| &s.read_rounds) - before, 1);
}

#[test]
fn linearizable_requests_keep_the_order_of_their_session() {
    let mut w = linearizable();
    let mut c = linearizable_client(&mut w);
    w.core.batch_max = 1;
    for (n, data) in (1..).zip([b"1", b"2", b"3"]) {
        w.send(&mut c, &if n == 1 { make("/a", data) } else { set("/a", data) });
        w.send(&mut c, &get("/a", false));
    }
    w.send(&mut c, &Request::AddWatch { path: "/a".into(), mode: WatchMode::Persistent });
    let last = w.send(&mut c, &set("/a", b"4"));
    w.run();
    let all = w.messages(&mut c);
    let seen: Vec<i32> = all.iter().map(|m| m.xid).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, -1, last]);
    for (at, data) in [(1, b"1"), (3, b"2"), (5, b"3")] {
        let Response::Data(found, _) = all[at].response(opcode::GET_DATA) else { panic!("{:?}", all[at]) };
        assert_eq!(found, Some(&data[..]));
    }
    assert_eq!(all[7].event(), Some((event::NODE_DATA_CHANGED, "/a".into())));
}

#[test]
fn a_round_whose_reader_is_gone_disturbs_nobody() {
    let mut w = linearizable();
    let mut c = linearizable_client(&mut w);
    w.send(&mut c, &exists("/", false));
    w.run_shards();
    w.net.reset(c.wire);
    w.run();
    let mut next = linearizable_client(&mut w);
    assert_eq!(w.ask(&mut next, &exists("/", false)).err, 0);
}
