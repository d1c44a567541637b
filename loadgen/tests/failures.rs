//! Real server processes are killed with SIGKILL under load and restarted. The run continues, sessions
//! survive, no answer is wrong, and every acknowledged write is read back through every server. The report
//! lists the times without answers.
//!
//! The servers are this test binary again: an environment variable makes one of its tests serve until it is
//! killed.

use clap::Parser;
use paddock_loadgen::config::RunConfig;
use paddock_loadgen::report::Report;
use paddock_loadgen::{Outcome, run_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Names the configuration that the child process serves.
const CONFIG_VARIABLE: &str = "PADDOCK_LOAD_TEST_CONFIG";
/// Longest wait for any event before the test fails: far above what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of keys of the load, and so the lowest number of transactions of the preload.
const KEYS: u32 = 200;

/// Not a test by itself: the body of the processes that the other tests start.
#[test]
fn serve_when_told_to() {
    let Some(config) = std::env::var_os(CONFIG_VARIABLE) else { return };
    let config = config.into_string().unwrap();
    let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero().to_string();
    let serve = ["paddock", "serve", "--config", &config, "--shards", "1", "--exit-with-parent", &parent];
    let cli = paddock_core::cli::Cli::parse_from(serve);
    paddock_core::cli::run(cli);
}

/// A server process on a fixed port. Dropping it kills the process.
struct ServerProcess {
    config: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
}

impl ServerProcess {
    fn start(&mut self) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_when_told_to", "--nocapture"])
            .env(CONFIG_VARIABLE, &self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Mode and zxid in the answer to `srvr`; `None` while the server does not serve.
    fn status(&self) -> Option<(String, i64)> {
        let mut socket = TcpStream::connect(self.address).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let zxid = i64::from_str_radix(field("Zxid:")?.trim_start_matches("0x"), 16).ok()?;
        Some((field("Mode:")?.to_owned(), zxid))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `count` nodes with their files under `dir`.
fn ensemble(dir: &Path, count: usize) -> Vec<ServerProcess> {
    // All listeners are held until all ports are drawn, so that the ports differ.
    let held: Vec<_> = (0..3 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(held);
    let (client, others) = ports.split_at(count);
    let (peer, election) = others.split_at(count);
    let lines: String = (0..count)
        .filter(|_| count > 1)
        .map(|i| format!("server.{}=127.0.0.1:{}:{}\n", i + 1, peer[i], election[i]))
        .collect();
    let node = |i: usize| {
        let home = dir.join(format!("node-{}", i + 1));
        let data = home.join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("myid"), (i + 1).to_string()).unwrap();
        let config = home.join("zoo.cfg");
        let text = format!(
            "tickTime=1000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n{lines}",
            data.display(),
            client[i]
        );
        std::fs::write(&config, text).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], client[i]));
        let mut node = ServerProcess { config, address, child: None };
        node.start();
        node
    };
    (0..count).map(node).collect()
}

/// Calls `ask` until it returns a value.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// Index and zxid of the leader, or of a standalone server.
fn leader(nodes: &[ServerProcess]) -> Option<(usize, i64)> {
    nodes.iter().enumerate().find_map(|(i, node)| {
        let (mode, zxid) = node.status()?;
        (mode == "leader" || mode == "standalone").then_some((i, zxid))
    })
}

/// Waits for a leader of a later term than the zxid `than` that has ordered `count` transactions of its
/// term.
fn wait_for_writes(nodes: &[ServerProcess], than: Option<i64>, count: i64) -> (usize, i64) {
    wait_for("writes", || {
        let found = leader(nodes)?;
        let newer = than.is_none_or(|zxid| found.1 >> 32 > zxid >> 32);
        (newer && found.1 & 0xffff_ffff > count).then_some(found)
    })
}

/// Drives `nodes` while `disturb` kills and restarts them.
fn under_load(mut nodes: Vec<ServerProcess>, disturb: impl FnOnce(&mut Vec<ServerProcess>)) -> Report {
    wait_for("a leader", || leader(&nodes));
    let config = RunConfig {
        targets: nodes.iter().map(|node| node.address.to_string().parse().unwrap()).collect(),
        reads: 0.7,
        connections: 6,
        writers: Some(3),
        rate: Some(400.0),
        keys: KEYS,
        warmup: Duration::ZERO,
        duration: 4 * PATIENCE,
        through_failures: true,
        sessions_must_live: true,
        ..RunConfig::default()
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let load = std::thread::spawn(move || run_until(&config, &told));
    disturb(&mut nodes);
    stop.store(true, Ordering::Release);
    let Outcome { report, .. } = load.join().unwrap().unwrap();
    report
}

fn proves_itself(report: &Report, servers: usize) {
    let text = report.text();
    assert!(report.verdict.correct, "{text}");
    assert_eq!(report.result.errors.total, 0, "{text}");
    let availability = report.result.availability.as_ref().unwrap();
    assert!(availability.connection_losses > 0 && availability.reattached > 0, "{text}");
    assert_eq!((availability.expired_sessions, availability.new_sessions), (0, 0), "{text}");
    let gaps = availability.write_gaps.as_ref().unwrap();
    assert!(gaps.count > 0 && gaps.longest_ms > availability.gap_threshold_ms, "{text}");
    let verification = report.result.verification.as_ref().unwrap();
    assert_eq!(verification.complete, servers, "{text}");
    assert!(verification.servers.iter().all(|server| server.keys == KEYS && server.wrong_answers == 0));
    let (reads, writes) =
        report.result.per_second.iter().fold((0, 0), |(r, w), second| (r + second.reads, w + second.writes));
    assert!(writes > 0 && reads + writes == report.result.operations, "{reads} + {writes}: {text}");
    assert!(text.contains("availability") && text.contains("read back"), "{text}");
}

#[test]
fn a_server_killed_and_restarted_under_load_loses_neither_sessions_nor_writes() {
    let dir = tempfile::tempdir().unwrap();
    let report = under_load(ensemble(dir.path(), 1), |nodes| {
        let mut zxid = wait_for_writes(nodes, None, 2 * i64::from(KEYS)).1;
        for _ in 0..2 {
            nodes[0].kill();
            nodes[0].start();
            zxid = wait_for_writes(nodes, Some(zxid), 100).1;
        }
    });
    proves_itself(&report, 1);
}

#[test]
fn a_leader_killed_under_load_is_replaced_and_comes_back_with_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let report = under_load(ensemble(dir.path(), 3), |nodes| {
        let (led, zxid) = wait_for_writes(nodes, None, 2 * i64::from(KEYS));
        nodes[led].kill();
        let (_, zxid) = wait_for_writes(nodes, Some(zxid), 100);
        nodes[led].start();
        wait_for("the killed server to be back", || nodes[led].status().filter(|(_, at)| *at >= zxid));
    });
    proves_itself(&report, 3);
}
