//! `paddock cluster` and `paddock status` as real processes. Hazards:
//!
//! - servers that outlive the command that started them
//! - a dead node that is not reported
//! - data or ports lost between two runs
//! - a status that says healthy when it is not

mod common;

use common::{Client, PATIENCE, scratch};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A running `paddock cluster`. Dropping it kills it, and the kernel then kills its servers.
struct Cluster {
    child: Child,
    lines: Receiver<String>,
    /// All lines of output so far.
    said: Vec<String>,
}

impl Cluster {
    fn start(dir: &Path, nodes: u8, flags: &[&str]) -> Cluster {
        let mut child = Command::new(env!("CARGO_BIN_EXE_paddock"))
            .args(["cluster", "--nodes", &nodes.to_string(), "--shards", "1", "--dir"])
            .arg(dir.join("ensemble"))
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| tell.send(l))
        });
        let mut cluster = Cluster { child, lines, said: Vec::new() };
        cluster.wait_for("ready: ");
        cluster
    }

    /// Waits for the next line that contains `part`.
    fn wait_for(&mut self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("no line with '{part}' ({e}) after {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    fn connect_string(&self) -> String {
        let line = self.said.iter().find_map(|l| l.strip_prefix("connect string: "));
        line.expect("a connect string").to_owned()
    }

    /// Process numbers of the servers, from the last line about each node.
    fn pids(&self) -> Vec<Pid> {
        let mut pids = std::collections::BTreeMap::new();
        for line in &self.said {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["node", node, _, _, "pid", pid, ..] = words[..] {
                pids.insert(node.to_owned(), Pid::from_raw(pid.parse().unwrap()).unwrap());
            }
        }
        pids.into_values().collect()
    }

    fn client(&self) -> Client {
        let server = self.connect_string().split(',').next().unwrap().to_owned();
        let socket = TcpStream::connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client::open(socket, 0, [0; 16], 30_000).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the command with `signal` and gives its exit code.
    fn stop(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until none of the processes exists. The child of a dead parent is reaped by init, or stays a zombie
/// in a container without one. Both count as dead.
fn all_gone(pids: &[Pid]) {
    let begun = std::time::Instant::now();
    let alive = |pid: &Pid| match std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
        Err(_) => false,
    };
    while pids.iter().any(alive) {
        assert!(begun.elapsed() < PATIENCE, "servers outlived their parent: {pids:?}");
        std::thread::yield_now();
    }
}

/// Output and exit code of `paddock status`.
fn status(servers: &str, flags: &[&str]) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_paddock"))
        .args(["status", servers])
        .args(flags)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

/// Start, write, stop, and start again: same ports, all data present.
fn what_was_written_survives_the_cluster(nodes: u8) {
    let (_guard, dir) = scratch();
    let cluster = Cluster::start(&dir, nodes, &[]);
    let servers = cluster.connect_string();
    assert_eq!(servers.split(',').count(), usize::from(nodes));
    assert_eq!(cluster.client().create("/kept", b"x", 0).unwrap().err, 0);
    let (table, code) = status(&servers, &[]);
    assert_eq!(code, 0, "{table}");
    assert_eq!(table.lines().count(), 1 + usize::from(nodes), "{table}");
    let pids = cluster.pids();
    assert_eq!(pids.len(), usize::from(nodes));
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
    all_gone(&pids);
    let (table, code) = status(&servers, &["--json"]);
    assert_eq!(code, 4, "{table}");
    assert!(table.contains("\"unreachable\""), "{table}");
    let again = Cluster::start(&dir, nodes, &[]);
    assert_eq!(again.connect_string(), servers);
    assert_eq!(again.client().get("/kept").unwrap().unwrap().0, b"x");
    assert_eq!(again.stop(Signal::INT), Some(0));
}

#[test]
fn one_nodes_data_and_port_survive_the_command() {
    what_was_written_survives_the_cluster(1);
}

#[test]
fn three_nodes_data_and_ports_survive_the_command() {
    what_was_written_survives_the_cluster(3);
}

#[test]
fn leadership_moves_by_command_and_back() {
    let (_guard, dir) = scratch();
    let cluster = Cluster::start(&dir, 3, &[]);
    let servers = cluster.connect_string();
    let lead = |server: &str| {
        let done = Command::new(env!("CARGO_BIN_EXE_paddock")).args(["lead", server]).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    };
    for server in servers.split(',').chain(servers.split(',').take(1)) {
        lead(server);
        let (table, _) = status(server, &[]);
        assert!(table.contains("leader"), "{table}");
    }
    assert_eq!(cluster.client().create("/after", b"x", 0).unwrap().err, 0);
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
}

#[test]
fn servers_do_not_outlive_a_killed_parent() {
    let (_guard, dir) = scratch();
    let cluster = Cluster::start(&dir, 1, &[]);
    let pids = cluster.pids();
    assert_eq!(cluster.stop(Signal::KILL), None);
    all_gone(&pids);
}

#[test]
fn a_paused_server_is_stopped_too() {
    let (_guard, dir) = scratch();
    let cluster = Cluster::start(&dir, 1, &[]);
    let pids = cluster.pids();
    kill_process(pids[0], Signal::STOP).unwrap();
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
    all_gone(&pids);
}

/// Repeats `paddock status` until it has this exit code, since an election takes time.
fn status_becomes(servers: &str, want: i32) -> String {
    let begun = std::time::Instant::now();
    loop {
        let (table, code) = status(servers, &["--timeout", "1000"]);
        if code == want {
            return table;
        }
        assert!(begun.elapsed() < PATIENCE, "status still exits with {code}:\n{table}");
    }
}

#[test]
fn status_tells_a_lost_node_from_a_lost_majority() {
    let (_guard, dir) = scratch();
    let mut cluster = Cluster::start(&dir, 3, &["--restart", "--set", "tickTime=500"]);
    let (servers, pids) = (cluster.connect_string(), cluster.pids());
    kill_process(pids[1], Signal::STOP).unwrap();
    let table = status_becomes(&servers, 1);
    assert!(table.contains("no answer within 1000 ms"), "{table}");
    kill_process(pids[2], Signal::STOP).unwrap();
    status_becomes(&servers, 4);
    for pid in &pids[1..] {
        kill_process(*pid, Signal::CONT).unwrap();
    }
    status_becomes(&servers, 0);
    for (number, pid) in (1..).zip(&pids) {
        kill_process(*pid, Signal::KILL).unwrap();
        cluster.wait_for(&format!("node {number} ended"));
    }
    for _ in &pids {
        cluster.wait_for("participant");
    }
    status_becomes(&servers, 0);
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
}

/// The answer to a four-letter word.
fn word(server: &str, word: &str) -> String {
    let mut answer = String::new();
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(word.as_bytes()).unwrap();
    // A node that closes without an answer does not serve.
    let _ = socket.read_to_string(&mut answer);
    answer
}

#[test]
fn a_node_that_the_log_left_behind_gets_a_snapshot_and_goes_on_in_the_same_process() {
    const WRITES: usize = 600;
    let (_guard, dir) = scratch();
    // With this snapCount two checkpoints are soon taken, and the log is truncated.
    let cluster = Cluster::start(&dir, 3, &["--set", "snapCount=40"]);
    let servers: Vec<String> = cluster.connect_string().split(',').map(str::to_owned).collect();
    let client = |server: &str| {
        let socket = TcpStream::connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Client::open(socket, 0, [0; 16], 30_000)
    };
    let behind = servers.iter().position(|s| word(s, "srvr").contains("Mode: follower")).expect("a follower");
    let pid = cluster.pids()[behind];
    let mut writer = client(&servers[(behind + 1) % 3]).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    for n in 0..WRITES {
        assert_eq!(writer.create(&format!("/n{n}"), &[7; 1000], 0).unwrap().err, 0);
    }
    kill_process(pid, Signal::CONT).unwrap();

    let begun = std::time::Instant::now();
    let last = format!("/n{}", WRITES - 1);
    let log = dir.join(format!("ensemble/node-{}/log", behind + 1));
    let reopened = || std::fs::read_to_string(&log).unwrap().contains("the data directory is opened again");
    let has_all =
        || client(&servers[behind]).and_then(|mut c| c.get(&last)).is_ok_and(|found| found.is_some());
    while !(reopened() && has_all()) {
        assert!(begun.elapsed() < PATIENCE, "{}", std::fs::read_to_string(&log).unwrap());
        std::thread::yield_now();
    }
    // The node is a full member: it receives what is written from now on.
    let mut on_it = client(&servers[behind]).unwrap();
    assert_eq!(on_it.create("/after", b"", 0).unwrap().err, 0);
    assert_eq!(on_it.get("/n0").unwrap().unwrap().0, [7; 1000]);
    assert_eq!(cluster.pids()[behind], pid);
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
}

#[test]
fn the_last_nodes_death_is_told_and_ends_the_command() {
    let (_guard, dir) = scratch();
    let mut cluster = Cluster::start(&dir, 1, &[]);
    kill_process(cluster.pids()[0], Signal::KILL).unwrap();
    let line = cluster.wait_for("node 1 ended");
    assert!(line.contains("SIGKILL") && line.contains("listening on"), "{line}");
    assert_eq!(cluster.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_node_comes_back_when_that_is_asked_for() {
    let (_guard, dir) = scratch();
    let mut cluster = Cluster::start(&dir, 1, &["--restart"]);
    let first = cluster.pids();
    kill_process(first[0], Signal::KILL).unwrap();
    cluster.wait_for("node 1 ended");
    cluster.wait_for("node 1  standalone");
    assert_ne!(cluster.pids(), first);
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
}

#[test]
fn a_node_runs_by_itself_from_its_file() {
    let (_guard, dir) = scratch();
    let cluster = Cluster::start(&dir, 1, &["--set", "tickTime=500"]);
    let server = cluster.connect_string();
    assert_eq!(cluster.stop(Signal::TERM), Some(0));
    let config = dir.join("ensemble/node-1/zoo.cfg");
    let mut alone = Command::new(env!("CARGO_BIN_EXE_paddock"))
        .args(["serve", "--shards", "1", "--config"])
        .arg(&config)
        .env("NO_COLOR", "1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(alone.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the server ended");
    }
    assert!(line.contains(&server), "{line}");
    kill_process(Pid::from_child(&alone), Signal::TERM).unwrap();
    stderr.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(alone.wait().unwrap().code(), Some(0));
}

#[test]
fn a_port_in_use_is_told_before_anything_is_written() {
    let (_guard, dir) = scratch();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_paddock"))
        .args(["cluster", "--nodes", "1", "--client-port", &port, "--dir"])
        .arg(dir.join("ensemble"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("in use"), "{text}");
    assert!(!dir.join("ensemble/node-1").exists());
}
