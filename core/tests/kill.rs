//! The server is killed with kill -9 under load, repeatedly on the same directory, each time after another
//! number of acknowledgements. All acknowledged writes must exist afterwards, and the ephemerals of dead
//! sessions must go when these expire.

mod common;

use common::{Client, Draw, Process, create, scratch, transports};
use paddock_transport::wire::Request;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

const ROUNDS: u64 = 20;
const WRITERS: usize = 4;
const PIPELINE: usize = 8;
/// A short tick, so that dead sessions expire within a second.
const CONFIG: &str = "tickTime=100\nsnapCount=2000\nmaxClientCnxns=0\n";
const TIMEOUT_MS: i32 = 800;

/// Acknowledgements that one writer received.
#[derive(Default)]
struct Acknowledged {
    /// Paths of the znodes created.
    created: Vec<String>,
    /// Newest acknowledged counter of each register that the writer sets.
    registers: HashMap<String, u64>,
}

/// Creates persistent znodes and one ephemeral, and counts up a register, pipelined, until the server is
/// gone.
fn write_until_killed(mut client: Client, name: &str, round: u64, acks: &AtomicU64) -> Acknowledged {
    let mut told = Acknowledged::default();
    let register = format!("/kill/{name}-register");
    let mut next = round * 1_000_000;
    if client.create(&format!("/kill/{name}-{round}-eph"), b"", 1).is_err() {
        return told;
    }
    let mut waiting = std::collections::VecDeque::new();
    loop {
        while waiting.len() < PIPELINE {
            next += 1;
            let sent = if next.is_multiple_of(2) {
                let path = format!("/kill/{name}-{next}");
                client
                    .send(&create(&path, &next.to_be_bytes(), 0))
                    .map(|xid| waiting.push_back((xid, Some(path), next)))
            } else {
                let data = next.to_be_bytes();
                let set = Request::SetData { path: register.as_str().into(), data: Some(&data), version: -1 };
                client.send(&set).map(|xid| waiting.push_back((xid, None, next)))
            };
            if sent.is_err() {
                break;
            }
        }
        let Ok(reply) = client.receive() else { return told };
        let (xid, path, n) = waiting.pop_front().expect("a reply nobody asked for");
        assert_eq!((reply.xid, reply.err), (xid, 0), "{path:?}");
        match path {
            Some(path) => told.created.push(path),
            None => drop(told.registers.insert(register.clone(), n)),
        }
        acks.fetch_add(1, SeqCst);
    }
}

fn kill_again_and_again(transport: &str) {
    let (_guard, dir) = scratch();
    let mut draw = Draw(0x5eed_0001);
    let mut created: Vec<String> = Vec::new();
    let mut registers: HashMap<String, u64> = HashMap::new();
    for round in 1..=ROUNDS {
        let server = Process::start(&dir, CONFIG, &["--transport", transport]);
        let mut control = server.client(30_000);
        if round == 1 {
            assert_eq!(control.create("/kill", b"", 0).unwrap().err, 0);
            for w in 0..WRITERS {
                control.create(&format!("/kill/w{w}-register"), &0u64.to_be_bytes(), 0).unwrap();
            }
        }
        check(&mut control, &created, &registers, round);
        ephemerals_go(&mut control);
        let acks = Arc::new(AtomicU64::new(0));
        let target = 20 + draw.below(1500);
        let (done, results) = mpsc::channel();
        for w in 0..WRITERS {
            let (client, acks, done) = (server.client(TIMEOUT_MS), Arc::clone(&acks), done.clone());
            std::thread::spawn(move || done.send(write_until_killed(client, &format!("w{w}"), round, &acks)));
        }
        drop(done);
        // On a busy machine a writer may lose its session and end by itself. Without any writer the round is
        // over.
        let mut told = Vec::new();
        while acks.load(SeqCst) < target && told.len() < WRITERS {
            told.extend(results.recv_timeout(std::time::Duration::from_millis(1)));
        }
        server.kill();
        for told in told.into_iter().chain(results) {
            created.extend(told.created);
            registers.extend(told.registers);
        }
    }
    assert!(created.len() as u64 > 20 * ROUNDS, "only {} creates were acknowledged in all", created.len());
    let server = Process::start(&dir, CONFIG, &["--transport", transport]);
    let mut control = server.client(30_000);
    check(&mut control, &created, &registers, ROUNDS + 1);
    ephemerals_go(&mut control);
    assert_eq!(server.terminate(), Some(0), "SIGTERM is a clean stop");
}

/// All acknowledged writes exist. Reads the newest znodes, and looks for all in the list: those of older
/// rounds were read before.
fn check(control: &mut Client, created: &[String], registers: &HashMap<String, u64>, round: u64) {
    let present: std::collections::HashSet<String> = control.children("/kill").unwrap().into_iter().collect();
    for path in created {
        assert!(present.contains(path.trim_start_matches("/kill/")), "before round {round}: {path} was lost");
    }
    for path in created.iter().rev().take(500) {
        let n: u64 = path.rsplit('-').next().unwrap().parse().unwrap();
        assert_eq!(control.get(path).unwrap().unwrap().0, n.to_be_bytes(), "{path}");
    }
    for (register, acknowledged) in registers {
        let value = u64::from_be_bytes(control.get(register).unwrap().unwrap().0.try_into().unwrap());
        assert!(
            value >= *acknowledged,
            "before round {round}: {register} went back from {acknowledged} to {value}"
        );
    }
}

/// The sessions of killed rounds expire, and their ephemerals go.
fn ephemerals_go(control: &mut Client) {
    let begun = std::time::Instant::now();
    loop {
        let left: Vec<String> =
            control.children("/kill").unwrap().into_iter().filter(|n| n.ends_with("-eph")).collect();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < common::PATIENCE, "ephemerals of dead sessions are still there: {left:?}");
    }
}

#[test]
fn acknowledged_writes_survive_twenty_kills_on_the_default_loop() {
    kill_again_and_again(transports()[0]);
}

#[test]
fn acknowledged_writes_survive_twenty_kills_on_epoll() {
    kill_again_and_again(transports()[1]);
}
