//! Ensembles of real processes that lose nodes. Hazards:
//!
//! - an acknowledged write that only the dead nodes had
//! - a write accepted without a majority
//! - a command applied twice or out of order when the leader changes
//! - readers disconnected by an election that does not concern them
//! - a node that was paused and still answers
//! - a watch event that arrives after the data it announces

mod common;

use common::ensemble::{Ensemble, StopAtEnd, until};
use common::{Client, PATIENCE, create};
use paddock_transport::wire::{Limits, Request, Response};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Short ticks: sessions from 1 s to 10 s.
const CONFIG: &str = "tickTime=500\ninitLimit=20\nsyncLimit=10\n";
/// Timeout of a client that stays, ms: longer than any election and than the configured staleness.
const LONG_SESSION_MS: i32 = 10_000;
/// Timeout of a client that expires soon, ms.
const SHORT_SESSION_MS: i32 = 1_000;

/// Data of a znode, with or without a watch.
fn get(path: &str, watch: bool) -> Request<'_> {
    Request::GetData { path: path.into(), watch }
}

fn data(body: &[u8]) -> Vec<u8> {
    match Response::decode(4, body, Limits::NONE) {
        Ok(Response::Data(data, _)) => data.unwrap_or_default().to_vec(),
        other => panic!("getData answered {other:?}"),
    }
}

/// Writes through any node, repeatedly on new sessions, until a write is acknowledged.
fn write_somewhere(ensemble: &Ensemble, path: &str) {
    until("a write is acknowledged", || {
        ensemble.running().into_iter().find_map(|node| {
            let mut client = Client::open(ensemble.socket(node).ok()?, 0, [0; 16], LONG_SESSION_MS).ok()?;
            // 0: created. -110: created by an earlier try whose answer was lost.
            matches!(client.create(path, b"", 0).ok()?.err, 0 | -110).then_some(())
        })
    });
}

#[test]
fn eleven_voters_serve_without_five_refuse_writes_without_six_and_have_everything_when_they_are_back() {
    const WRITES: usize = 40;
    let mut ensemble = Ensemble::start(11, "tickTime=500\ninitLimit=20\nsyncLimit=6\n");
    let mut expected = BTreeSet::new();
    let mut write_some = |client: &mut Client, part: &str| {
        for i in 0..WRITES {
            let name = format!("{part}-{i}");
            assert_eq!(client.create(&format!("/{name}"), name.as_bytes(), 0).unwrap().err, 0, "{name}");
            expected.insert(name);
        }
    };
    let leader = ensemble.leader();
    let survivors: Vec<u8> = ensemble.all().into_iter().filter(|n| *n != leader).skip(4).collect();
    write_some(&mut ensemble.client(leader, LONG_SESSION_MS), "all");
    for node in ensemble.all() {
        if !survivors.contains(&node) {
            ensemble.kill(node);
        }
    }
    assert_eq!(ensemble.running(), survivors);
    let mut client = ensemble.client(survivors[0], LONG_SESSION_MS);
    write_some(&mut client, "six");

    let mut waiting = ensemble.client(survivors[1], LONG_SESSION_MS);
    ensemble.kill(ensemble.leader());
    let survivors = ensemble.running();
    let refused = waiting.create("/refused", b"", 0);
    assert!(refused.is_err(), "a write was answered without a majority: {}", refused.unwrap().err);
    for node in &survivors {
        let why = "5 nodes see each other here, 6 of 11 voters are needed";
        for word in ["srvr", "stat", "mntr"] {
            until(&format!("{word} of node {node} says why"), || {
                let answer = ensemble.word(*node, word).unwrap();
                let head = "This ZooKeeper instance is not currently serving requests\n";
                (answer.starts_with(head) && answer.contains(why)).then_some(())
            });
        }
        assert_eq!(ensemble.word(*node, "isro").unwrap(), "null");
        let told = Client::open(ensemble.socket(*node).unwrap(), 0, [0; 16], LONG_SESSION_MS);
        assert!(told.is_err(), "node {node} opened a session without a majority");
    }

    for node in ensemble.all() {
        if !survivors.contains(&node) {
            ensemble.launch(node);
        }
    }
    ensemble.wait_until_all_serve();
    write_some(&mut ensemble.client(survivors[0], LONG_SESSION_MS), "again");
    for node in ensemble.all() {
        let mut client = ensemble.client(node, LONG_SESSION_MS);
        client.sync().unwrap();
        let mut found: BTreeSet<String> = client.children("/").unwrap().into_iter().collect();
        found.remove("zookeeper");
        // A write that was not acknowledged may have been applied later, or not.
        found.remove("refused");
        assert_eq!(found, expected, "on node {node}");
        let last = expected.last().unwrap();
        assert_eq!(client.get(&format!("/{last}")).unwrap().unwrap().0, last.as_bytes());
    }
}

/// Creates sequential znodes in a pipeline until `stop`. Gives the names in the order of the requests. Every
/// request must succeed, in order.
fn create_in_order(mut client: Client, prefix: &str, done: &AtomicU64, stop: &AtomicBool) -> Vec<String> {
    const PIPELINE: usize = 8;
    const SEQUENTIAL: i32 = 2;
    let (mut names, mut waiting) = (Vec::new(), VecDeque::new());
    while !stop.load(SeqCst) || !waiting.is_empty() {
        while waiting.len() < PIPELINE && !stop.load(SeqCst) {
            waiting.push_back(
                client.send(&create(prefix, b"", SEQUENTIAL)).expect("a follower keeps its clients"),
            );
        }
        let Some(xid) = waiting.pop_front() else { break };
        let reply = client.receive().expect("a follower keeps its clients");
        assert_eq!((reply.xid, reply.err), (xid, 0));
        match Response::decode(1, &reply.body, Limits::NONE) {
            Ok(Response::Path(path)) => names.push(path.into_owned()),
            other => panic!("create answered {other:?}"),
        }
        done.fetch_add(1, SeqCst);
    }
    names
}

#[test]
fn with_the_leader_killed_under_writes_each_command_is_applied_once_in_order_and_none_is_lost() {
    const ROUNDS: usize = 3;
    const WRITES_PER_PHASE: u64 = 50;
    let mut ensemble = Ensemble::start(3, CONFIG);
    ensemble.client(1, LONG_SESSION_MS).create("/seq", b"", 0).unwrap();
    let mut all: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let (leader, followers) = (ensemble.leader(), ensemble.followers());
        let (done, stop) = ([AtomicU64::new(0), AtomicU64::new(0)], AtomicBool::new(false));
        let clients = [0, 1].map(|i| ensemble.client(followers[i], LONG_SESSION_MS));
        let names: Vec<String> = std::thread::scope(|scope| {
            let _end = StopAtEnd(&stop);
            let writers: Vec<_> = (0..)
                .zip(clients)
                .map(|(i, client)| {
                    let (done, stop) = (&done[i], &stop);
                    scope.spawn(move || create_in_order(client, &format!("/seq/r{round}-w{i}-"), done, stop))
                })
                .collect();
            let more = |i: usize, scope: &str| {
                let goal = done[i].load(SeqCst) + WRITES_PER_PHASE;
                // A writer that panicked reports why when it is joined.
                until(scope, || (done[i].load(SeqCst) >= goal || writers[i].is_finished()).then_some(()));
            };
            (0..2).for_each(|i| more(i, "writes are acknowledged under the first leader"));
            ensemble.kill(leader);
            (0..2).for_each(|i| more(i, "writes are acknowledged under the next leader"));
            stop.store(true, SeqCst);
            let joined = writers.into_iter().map(|w| w.join().expect("a writer failed"));
            joined
                .flat_map(|names| {
                    assert!(names.is_sorted_by(|a, b| a < b), "a session's writes changed their order");
                    names
                })
                .collect()
        });
        all.extend(names);
        ensemble.launch(leader);
        ensemble.wait_until_all_serve();
        for node in ensemble.all() {
            let mut client = ensemble.client(node, LONG_SESSION_MS);
            client.sync().unwrap();
            let found: HashSet<String> =
                client.children("/seq").unwrap().into_iter().map(|name| format!("/seq/{name}")).collect();
            let told: HashSet<String> = all.iter().cloned().collect();
            assert_eq!(told.len(), all.len(), "two creates got the same name");
            let numbers: HashSet<&str> = all.iter().map(|name| &name[name.len() - 10..]).collect();
            assert_eq!(numbers.len(), all.len(), "a number was given twice");
            // No connection broke, so every create was answered: any further znode was applied twice.
            let beyond: Vec<_> = found.difference(&told).collect();
            let lost: Vec<_> = told.difference(&found).collect();
            assert!(
                lost.is_empty() && beyond.is_empty(),
                "node {node}: lost {lost:?}, not asked for {beyond:?}"
            );
        }
    }
}

#[test]
fn a_session_of_a_killed_leader_goes_on_at_another_node_with_its_ephemerals() {
    const EPHEMERAL: i32 = 1;
    let mut ensemble = Ensemble::start(3, CONFIG);
    let leader = ensemble.leader();
    let mut before = ensemble.client(leader, LONG_SESSION_MS);
    before.create("/seq", b"", 0).unwrap();
    assert_eq!(before.create("/lock", b"mine", EPHEMERAL).unwrap().err, 0);
    let first = before.create_sequential("/seq/n-", b"").unwrap();
    ensemble.kill(leader);
    let other = ensemble.running()[0];
    let mut after = until("the session is taken up by another node", || {
        let client = before.moved(ensemble.socket(other).ok()?).ok()?;
        assert_ne!(client.session, 0, "the session was lost with its node");
        Some(client)
    });
    assert_eq!(after.session, before.session);
    assert_eq!(after.get("/lock").unwrap().unwrap().0, b"mine");
    let second = after.create_sequential("/seq/n-", b"").unwrap();
    assert!(second > first, "{first}, then {second}");
    ensemble.launch(leader);
    ensemble.wait_until_all_serve();
    let mut watcher = ensemble.client(leader, LONG_SESSION_MS);
    watcher.sync().unwrap();
    assert_eq!(watcher.get("/lock").unwrap().unwrap().0, b"mine");
    assert_eq!(after.call(&Request::CloseSession).unwrap().err, 0);
    until("the ephemeral goes with its session", || watcher.get("/lock").unwrap().is_none().then_some(()));
}

/// Reads repeatedly until `stop` or the end of the connection. Gives the number of answers, and when the
/// last answered read was sent.
fn read_on(mut client: Client, path: &str, done: &AtomicU64, stop: &AtomicBool) -> (u64, Option<Instant>) {
    let mut last = None;
    while !stop.load(SeqCst) {
        let sent = Instant::now();
        match client.get(path) {
            Ok(found) => assert_eq!(found.expect("it is there").0, b"value"),
            Err(_) => break,
        }
        last = Some(sent);
        done.fetch_add(1, SeqCst);
    }
    (done.load(SeqCst), last)
}

#[test]
fn followers_lose_no_read_to_an_election_and_serve_alone_until_the_bound() {
    const STALENESS: Duration = Duration::from_millis(5_000);
    const READS_PER_PHASE: u64 = 200;
    let staleness_ms = STALENESS.as_millis();
    let mut ensemble = Ensemble::start(3, &format!("{CONFIG}paddock.maxStaleness={staleness_ms}\n"));
    let (leader, followers) = (ensemble.leader(), ensemble.followers());
    ensemble.client(leader, LONG_SESSION_MS).create("/read", b"value", 0).unwrap();
    let clients = [0, 1].map(|i| {
        let mut client = ensemble.client(followers[i], LONG_SESSION_MS);
        client.sync().unwrap();
        client
    });
    let done = [AtomicU64::new(0), AtomicU64::new(0)];
    let stop = [AtomicBool::new(false), AtomicBool::new(false)];
    std::thread::scope(|scope| {
        let _end = stop.each_ref().map(StopAtEnd);
        let mut readers: Vec<_> = (0..)
            .zip(clients)
            .map(|(i, client)| {
                let (done, stop) = (&done[i], &stop[i]);
                scope.spawn(move || read_on(client, "/read", done, stop))
            })
            .collect();
        let read_more = |i: usize| {
            let goal = done[i].load(SeqCst) + READS_PER_PHASE;
            until("reads go on", || (done[i].load(SeqCst) >= goal).then_some(()));
        };
        (0..2).for_each(read_more);
        let before: u64 = done.iter().map(|d| d.load(SeqCst)).sum();
        let killed = Instant::now();
        ensemble.kill(leader);
        write_somewhere(&ensemble, "/written-under-the-next-leader");
        let without = killed.elapsed();
        let meanwhile = done.iter().map(|d| d.load(SeqCst)).sum::<u64>() - before;
        (0..2).for_each(read_more);
        assert!(readers.iter().all(|r| !r.is_finished()), "a follower's client was cut off by the election");
        eprintln!("without a leader for {without:?}: {meanwhile} reads answered, 0 lost");

        // The next leader dies too: the remaining node is alone.
        let next = ensemble.leader();
        let (lone, lost) = if followers[0] == next { (1, 0) } else { (0, 1) };
        stop[lost].store(true, SeqCst);
        readers.remove(lost).join().unwrap();
        let at = done[lone].load(SeqCst);
        ensemble.kill(next);
        let dead = Instant::now();
        let (reads, last) = readers.remove(0).join().unwrap();
        let last = last.expect("reads were answered").saturating_duration_since(dead);
        eprintln!("alone: {} more reads, the last one sent {last:?} after the majority was gone", reads - at);
        assert!(last <= STALENESS, "a read sent {last:?} after the majority was gone was answered");
        assert!(reads > at, "a node alone must serve reads up to the bound");
        let refused = Client::open(ensemble.socket(followers[lone]).unwrap(), 0, [0; 16], LONG_SESSION_MS);
        assert!(refused.is_err(), "a stale node opened a session");
    });
    ensemble.launch(leader);
    let mut back = ensemble.client(leader, LONG_SESSION_MS);
    back.sync().unwrap();
    assert_eq!(back.get("/written-under-the-next-leader").unwrap().unwrap().0, b"");
}

#[test]
fn without_a_majority_only_read_only_clients_are_served_and_only_where_that_is_allowed() {
    let config = format!("{CONFIG}paddock.maxStaleness=1000\nreadonlymode.enabled=true\n");
    let mut ensemble = Ensemble::start(3, &config);
    let (leader, followers) = (ensemble.leader(), ensemble.followers());
    let mut client = ensemble.client(followers[0], LONG_SESSION_MS);
    assert_eq!(client.create("/r", b"kept", 0).unwrap().err, 0);
    const EPHEMERAL: i32 = 1;
    assert_eq!(client.create("/mine", b"", EPHEMERAL).unwrap().err, 0);
    ensemble.kill(leader);
    ensemble.kill(followers[1]);
    let lone = followers[0];
    assert!(client.create("/refused", b"", 0).is_err(), "a write was answered without a majority");
    let mut reader = until("a read-only client is served", || {
        let client = Client::open_read_only(ensemble.socket(lone).ok()?, LONG_SESSION_MS).ok()?;
        client.read_only.then_some(client)
    });
    assert_eq!(reader.get("/r").unwrap().unwrap().0, b"kept");
    const NOT_READ_ONLY: i32 = -119;
    const NO_CHILDREN_FOR_EPHEMERALS: i32 = -108;
    assert_eq!(reader.create("/refused", b"", 0).unwrap().err, NOT_READ_ONLY);
    assert_eq!(ensemble.word(lone, "isro").unwrap(), "ro");
    // A client that was connected before continues with the same session.
    let mut same = client.moved_read_only(ensemble.socket(lone).unwrap()).unwrap();
    assert!(same.read_only && (same.session, same.password) == (client.session, client.password));
    assert_eq!(same.get("/mine").unwrap().unwrap().0, b"");
    assert_eq!(same.create("/refused", b"", 0).unwrap().err, NOT_READ_ONLY);
    let ordinary = Client::open(ensemble.socket(lone).unwrap(), 0, [0; 16], LONG_SESSION_MS);
    assert!(ordinary.is_err(), "an ordinary client was admitted by a read-only node");
    ensemble.launch(leader);
    // With the majority back, the read-only client is closed, to reconnect as an ordinary one.
    until("the read-only client is closed", || reader.get("/r").is_err().then_some(()));
    let mut again = Client::open_read_only(ensemble.socket(lone).unwrap(), LONG_SESSION_MS).unwrap();
    assert!(!again.read_only);
    assert_eq!(again.create("/written", b"", 0).unwrap().err, 0);
    until("the client with a session is closed, too", || same.get("/r").is_err().then_some(()));
    let mut same = same.moved_read_only(ensemble.socket(lone).unwrap()).unwrap();
    assert!(!same.read_only && same.session == client.session);
    assert_eq!(same.create("/mine/too", b"", 0).unwrap().err, NO_CHILDREN_FOR_EPHEMERALS);
}

#[test]
fn a_node_that_slept_answers_nobody_with_what_it_knew_then() {
    const EPHEMERAL: i32 = 1;
    const STALENESS: Duration = Duration::from_millis(2_000);
    let config = format!("{CONFIG}paddock.maxStaleness={}\n", STALENESS.as_millis());
    let ensemble = Ensemble::start(3, &config);
    // A follower, then the leader: a paused leader is deposed without knowing it.
    for (round, sleeper) in [ensemble.followers()[0], ensemble.leader()].into_iter().enumerate() {
        let other = ensemble.all().into_iter().find(|n| *n != sleeper).unwrap();
        let (register, lock) = (format!("/register-{round}"), format!("/lock-{round}"));
        let mut writer = ensemble.client(other, LONG_SESSION_MS);
        assert_eq!(writer.create(&register, b"old", 0).unwrap().err, 0);
        let mut long = ensemble.client(sleeper, LONG_SESSION_MS);
        let mut short = ensemble.client(sleeper, SHORT_SESSION_MS);
        assert_eq!(short.create(&lock, b"", EPHEMERAL).unwrap().err, 0);
        long.sync().unwrap();
        assert_eq!(long.get(&register).unwrap().unwrap().0, b"old");
        ensemble.pause(sleeper);
        let paused = Instant::now();
        // The requests are in the sockets before the node resumes: it could serve them first.
        for client in [&mut long, &mut short] {
            client.send(&get(&register, false)).unwrap();
            client.send(&Request::Exists { path: lock.as_str().into(), watch: false }).unwrap();
        }
        let mut writes = 0u64;
        until("a session expires and the register changes while the node sleeps", || {
            let answers = writer.set(&register, b"new").and_then(|set| Ok((set.err, writer.get(&lock)?)));
            let Ok((err, held)) = answers else {
                writer = ensemble.client(other, LONG_SESSION_MS);
                return None;
            };
            writes += u64::from(err == 0);
            let expired = held.is_none();
            (expired && writes > 0 && paused.elapsed() > STALENESS).then_some(())
        });
        ensemble.resume(sleeper);
        for (who, client) in [("a client", &mut long), ("the expired session", &mut short)] {
            let reply = client.receive();
            assert!(reply.is_err(), "{who} got an answer from a node that slept: err {}", reply.unwrap().err);
        }
        let mut moved = until("the session that lives goes on", || {
            long.moved(ensemble.socket(sleeper).ok()?).ok().filter(|c| c.session != 0)
        });
        assert_eq!(moved.get(&register).unwrap().unwrap().0, b"new");
        let refused = short.moved(ensemble.socket(sleeper).unwrap()).unwrap();
        assert_eq!(refused.session, 0, "a session that expired elsewhere was taken up again");
        ensemble.wait_until_all_serve();
    }
}

#[test]
fn a_watch_fires_for_a_write_through_another_node_before_the_new_data_is_seen() {
    const CHANGES: u64 = 150;
    let ensemble = Ensemble::start(3, CONFIG);
    let followers = ensemble.followers();
    let mut writer = ensemble.client(followers[0], LONG_SESSION_MS);
    let mut watcher = ensemble.client(followers[1], LONG_SESSION_MS);
    assert_eq!(writer.create("/watched", &0u64.to_be_bytes(), 0).unwrap().err, 0);
    watcher.sync().unwrap();
    for change in 1..=CHANGES {
        let armed = watcher.call(&get("/watched", true)).unwrap();
        assert_eq!(data(&armed.body), (change - 1).to_be_bytes());
        let value = change.to_be_bytes();
        let set = Request::SetData { path: "/watched".into(), data: Some(&value), version: -1 };
        writer.send(&set).unwrap();
        let (begun, mut told) = (Instant::now(), 0);
        loop {
            watcher.send(&get("/watched", false)).unwrap();
            let mut message = watcher.receive().unwrap();
            if message.xid == -1 {
                told += 1;
                message = watcher.receive().unwrap();
            }
            if data(&message.body) == value {
                assert_eq!(told, 1, "change {change}: events before the first reply with the new data");
                break;
            }
            assert_eq!(told, 0, "change {change}: old data after the event");
            assert!(begun.elapsed() < PATIENCE, "change {change} never arrived");
        }
        assert_eq!(writer.receive().unwrap().err, 0);
    }
}
