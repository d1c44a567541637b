//! A user types `paddock-load run` and nothing else: a server starts, a tree is filled, load is driven,
//! every answer is correct. The report says so in text, JSON and `.hgrm`. Then the same against named
//! servers: over TCP, over a unix socket, several at once, and against programs that are no ZooKeeper
//! servers.

mod common;

use common::{FakeServer, Fault};
use paddock_loadgen::config::{Distribution, RunConfig, Target};
use paddock_loadgen::report::{IdleReport, Report};
use paddock_loadgen::{Outcome, RunError, run};
use paddock_transport::accept::{Acceptor, Listener};
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::event_loop::{Choice, EventLoop, LoopHandle, LoopKind, LoopOptions};
use paddock_transport::io::Io;
use serde_json::Value;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

fn short() -> RunConfig {
    RunConfig {
        duration: Duration::from_millis(400),
        warmup: Duration::from_millis(100),
        connections: 8,
        keys: 300,
        ..RunConfig::default()
    }
}

/// The fake server on a real event loop and real sockets.
struct Served {
    target: Target,
    handle: LoopHandle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct UntilStopped(FakeServer, Arc<AtomicBool>);

impl Engine for UntilStopped {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        self.0.opened(now, conn, origin, io);
    }
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        self.0.received(now, conn, bytes, io);
    }
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.0.closed(now, conn, why, io);
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        if self.1.load(Ordering::Acquire) { Next::Stop } else { self.0.turn(now, io) }
    }
    fn park(&mut self) -> bool {
        !self.1.load(Ordering::Acquire)
    }
}

fn serve(address: &Address, fault: Fault) -> Served {
    let listener = Listener::bind(address).unwrap();
    let text = match listener.local_address() {
        Address::Tcp(tcp) => tcp.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let mut event_loop = EventLoop::new(LoopKind::Epoll, LoopOptions::default()).unwrap();
    event_loop.accept_with(Acceptor::new(vec![listener], vec![event_loop.handle()]));
    let (handle, stop) = (event_loop.handle(), Arc::new(AtomicBool::new(false)));
    let mut server = UntilStopped(FakeServer::new(fault), Arc::clone(&stop));
    server.0.armed = true;
    let thread = std::thread::spawn(move || event_loop.run(&mut server).unwrap());
    Served { target: text.parse().unwrap(), handle, stop, thread: Some(thread) }
}

fn serve_tcp(fault: Fault) -> Served {
    serve(&Address::Tcp("127.0.0.1:0".parse().unwrap()), fault)
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.waker().wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn binary(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paddock-load")).args(args).output().unwrap()
}

#[test]
fn without_a_target_a_server_is_embedded_and_every_answer_is_right() {
    for transport in [Choice::Auto, Choice::Epoll] {
        let config = RunConfig { transport, ..short() };
        let Outcome { report, counts } = run(&config).unwrap();
        assert!(report.verdict.correct, "{:?}", report.result.wrong_examples);
        assert!(report.server.embedded);
        assert!(report.result.operations > 0, "{}", report.text());
        assert_eq!(report.result.errors.total, 0, "{}", report.text());
        assert_eq!(counts.outcome_unknown, 0);
        let server = report.cpu.server.as_ref().expect("the embedded server's CPU time");
        assert!(!server.threads.is_empty() && server.threads.iter().all(|t| !t.name.starts_with("load-")));
        let generator = &report.cpu.generator.threads;
        assert!(
            !generator.is_empty() && generator.iter().all(|t| t.name.starts_with("load-")),
            "{generator:?}"
        );
    }
}

#[test]
fn every_kind_of_load_is_answered_rightly() {
    let all_writes = RunConfig { reads: 0.0, ..short() };
    let open = RunConfig { rate: Some(2_000.0), ..short() };
    let zipf = RunConfig { distribution: Distribution::Zipf { exponent: 1.1 }, threads: Some(2), ..short() };
    let large = RunConfig { value_bytes: 100_000, keys: 8, outstanding: Some(4), ..short() };
    for config in [all_writes, open, zipf, large] {
        let served = serve_tcp(Fault::None);
        let config = RunConfig { targets: vec![served.target.clone()], ..config };
        let report = run(&config).unwrap().report;
        assert!(report.verdict.correct && report.result.operations > 0, "{}", report.text());
        assert!(!report.server.embedded);
    }
}

#[test]
fn a_unix_socket_is_an_address_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let served = serve(&Address::Unix(directory.path().join("socket")), Fault::None);
    let report = run(&RunConfig { targets: vec![served.target.clone()], ..short() }).unwrap().report;
    assert!(report.verdict.correct && report.result.operations > 0, "{}", report.text());
}

#[test]
fn a_tree_that_is_there_already_is_used_again() {
    let served = serve_tcp(Fault::None);
    let config = RunConfig { targets: vec![served.target.clone()], ..short() };
    for _ in 0..2 {
        let report = run(&config).unwrap().report;
        assert!(report.verdict.correct && report.result.operations > 0, "{}", report.text());
    }
}

#[test]
fn connections_lost_in_the_middle_are_errors_by_name_and_no_wrong_answers() {
    let served = serve_tcp(Fault::ClosedWithout { nth: 1_000 });
    let report = run(&RunConfig { targets: vec![served.target.clone()], ..short() }).unwrap().report;
    assert!(report.verdict.correct, "{}", report.text());
    assert_eq!(report.result.connections["connection_lost"], 8, "{}", report.text());
    assert!(report.result.outcome_unknown > 0);
}

#[test]
fn wrong_answers_end_with_exit_code_3_and_are_named() {
    let served = serve_tcp(Fault::Garbage { nth: 500 });
    let output = binary(&[
        "run",
        "--quiet",
        "--target",
        &served.target.text,
        "--duration",
        "300ms",
        "--warmup",
        "0",
        "--keys",
        "100",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("WRONG: key "), "{text}");
}

#[test]
fn exit_codes_and_messages_say_what_to_do() {
    let told = |args: &[&str], code: i32, word: &str| {
        let output = binary(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(word), "{args:?}: {message}");
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_port = free.local_addr().unwrap().to_string();
    drop(free);
    told(&["run", "--quiet", "--target", &closed_port], 1, "paddock serve");
    told(&["run", "--reads", "95"], 2, "--reads");
    told(&["run", "--target", "somewhere"], 2, "HOST:PORT");
    told(&["run", "--duration", "a while"], 2, "10s");
    told(&["run", "--keys", "3"], 2, "--connections");
    told(&["fly"], 2, "unrecognized");
    told(&["run", "--quiet", "--cores", "4000", "--duration", "100ms"], 1, "--cores");
    let help = binary(&["run", "--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    assert_eq!(help.status.code(), Some(0));
    assert!(text.contains("Examples:") && text.contains("Exit codes:"), "{text}");
}

#[test]
fn something_that_is_no_zookeeper_server_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let web = std::thread::spawn(move || {
        // One connection asks for the version, and at least one for a session.
        for stream in listener.incoming().take(2) {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
        listener
    });
    let config = RunConfig { targets: vec![target.parse().unwrap()], connections: 1, ..short() };
    let error = run(&config).unwrap_err();
    assert!(matches!(error, RunError::Worker(_)), "{error}");
    assert!(error.to_string().contains("does not speak the ZooKeeper protocol"), "{error}");
    drop(web.join().unwrap());
}

/// All paths of a document. Array elements appear as `[]`, and tables whose keys depend on the events of a
/// run as `{}`.
fn keys_of(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(_) if at.ends_with(".by_kind") || at == ".result.connections" => {
            into.push(format!("{}{{}}", at.trim_start_matches('.')));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| keys_of(value, &format!("{at}.{name}"), into))
        }
        Value::Array(items) => keys_of(items.first().unwrap_or(&Value::Null), &format!("{at}[]"), into),
        _ => into.push(at.trim_start_matches('.').to_owned()),
    }
}

#[test]
fn the_json_document_has_the_fields_that_others_rely_on() {
    let directory = tempfile::tempdir().unwrap();
    let (json, hgrm) = (directory.path().join("run.json"), directory.path().join("run.hgrm"));
    let served = serve_tcp(Fault::None);
    let output = binary(&[
        "run",
        "--target",
        &served.target.text,
        "--rate",
        "2000",
        "--duration",
        "1s",
        "--keys",
        "100",
        "--server-pid",
        &std::process::id().to_string(),
        "--json",
        json.to_str().unwrap(),
        "--hgrm",
        hgrm.to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for word in ["throughput", "p99.9", "get", "set", "errors", "wrong", "generator", "server"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let document = std::fs::read_to_string(&json).unwrap();
    let value: Value = serde_json::from_str(&document).unwrap();
    let mut keys = Vec::new();
    keys_of(&value, "", &mut keys);
    keys.sort();
    let golden: Vec<_> = include_str!("golden/report_keys.txt").lines().map(str::to_owned).collect();
    assert_eq!(keys, golden, "fields may be added (then extend the golden file), not renamed or removed");
    let report: Report = serde_json::from_str(&document).unwrap();
    assert_eq!(report.result.per_second.len(), 1);

    for name in ["run.hgrm", "run.get.hgrm", "run.set.hgrm"] {
        let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text.trim_start().starts_with("Value"), "{name}: {text}");
        assert!(text.contains("#[Max     ="), "{name}: {text}");
    }
}

#[test]
fn json_on_standard_output_stands_alone() {
    let served = serve_tcp(Fault::None);
    let output = binary(&[
        "run",
        "--target",
        &served.target.text,
        "--duration",
        "200ms",
        "--warmup",
        "0",
        "--keys",
        "100",
        "--json",
        "-",
    ]);
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report.verdict.correct);
    assert_eq!(report.provenance.command[1], "run");
}

#[test]
fn idle_sessions_ping_and_cost_is_told() {
    let served = serve_tcp(Fault::None);
    let output = binary(&[
        "idle",
        "--target",
        &served.target.text,
        "--connections",
        "50",
        "--timeout-ms",
        "600",
        "--duration",
        "1s",
        "--server-pid",
        &std::process::id().to_string(),
        "--json",
        "-",
    ]);
    let report: IdleReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report.sessions, 50);
    assert!(report.pings.count >= 50, "{report:?}");
    assert!(report.connections.is_empty(), "{report:?}");
    assert!(report.server_cpu.is_some());
}
