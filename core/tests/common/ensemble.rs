//! Ensembles of real processes on loopback, for tests that kill, pause and restart them.

use super::{Client, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Time limit of a four-letter word: a paused node never answers.
const WORD_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two polls, so that polling does not slow the ensemble down.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Lines of each node's log that a failing test shows.
const LOG_LINES_SHOWN: usize = 15;

/// Repeats `ask` until it gives a value.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {} s for this: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Stops threads when dropped, even when a test fails earlier.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Node {
    address: SocketAddr,
    dir: PathBuf,
    child: Option<Child>,
}

/// Nodes 1 to n, all voters. Dropping it kills them.
pub struct Ensemble {
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Ensemble {
    /// Starts `voters` nodes with `config` as further lines of their configuration, and waits until all
    /// serve.
    pub fn start(voters: u8, config: &str) -> Ensemble {
        let dir = tempfile::tempdir().unwrap();
        let ip = own_address();
        let held: Vec<[TcpListener; 3]> =
            (0..voters).map(|_| [(); 3].map(|()| TcpListener::bind((ip, 0)).unwrap())).collect();
        let mut servers = String::new();
        let mut nodes = Vec::new();
        for (number, listeners) in (1..).zip(&held) {
            let [client, peer, election] = listeners.each_ref().map(|l| l.local_addr().unwrap());
            let (peer, election) = (peer.port(), election.port());
            writeln!(servers, "server.{number}={ip}:{peer}:{election};{client}").unwrap();
            nodes.push(Node { address: client, dir: dir.path().join(format!("node-{number}")), child: None });
        }
        for (number, node) in (1..).zip(&nodes) {
            let data = node.dir.join("data");
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join("myid"), format!("{number}\n")).unwrap();
            let data = data.display();
            let text =
                format!("4lw.commands.whitelist=*\nmaxClientCnxns=0\ndataDir={data}\n{config}{servers}");
            std::fs::write(node.dir.join("zoo.cfg"), text).unwrap();
        }
        drop(held);
        let mut ensemble = Ensemble { nodes, _dir: dir };
        ensemble.all().into_iter().for_each(|node| ensemble.launch(node));
        ensemble.wait_until_all_serve();
        ensemble
    }

    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node) - 1]
    }

    pub fn all(&self) -> Vec<u8> {
        (1..=self.nodes.len() as u8).collect()
    }

    /// Numbers of the nodes whose process was not killed.
    pub fn running(&self) -> Vec<u8> {
        self.all().into_iter().filter(|n| self.node(*n).child.is_some()).collect()
    }

    /// Path of the node's configuration file.
    pub fn config(&self, node: u8) -> PathBuf {
        self.node(node).dir.join("zoo.cfg")
    }

    /// Starts or restarts a node. Even numbers use the epoll loop.
    pub fn launch(&mut self, node: u8) {
        let dir = self.node(node).dir.clone();
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_paddock"))
            .args([
                "serve",
                "--shards",
                "1",
                "--transport",
                super::transports()[usize::from(node.is_multiple_of(2))],
            ])
            .arg("--config")
            .arg(dir.join("zoo.cfg"))
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let before = self.nodes[usize::from(node) - 1].child.replace(child);
        assert!(before.is_none(), "node {node} runs already");
    }

    /// Sends SIGKILL and waits until the process is dead.
    pub fn kill(&mut self, node: u8) {
        let mut child = self.nodes[usize::from(node) - 1].child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The exit code of a node that ends by itself.
    pub fn ends(&mut self, node: u8) -> Option<i32> {
        let child = self.nodes[usize::from(node) - 1].child.as_mut().expect("the node runs");
        let status = until(&format!("node {node} ends"), || child.try_wait().unwrap());
        self.nodes[usize::from(node) - 1].child = None;
        status.code()
    }

    /// Empties the data directory of a node that does not run.
    pub fn lose_disk(&self, node: u8) {
        let data = self.node(node).dir.join("data");
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("myid"), format!("{node}\n")).unwrap();
    }

    fn signal(&self, node: u8, signal: Signal) {
        let child = self.node(node).child.as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Sends SIGSTOP and waits until no thread of the node runs.
    pub fn pause(&self, node: u8) {
        self.signal(node, Signal::STOP);
        let pid = self.node(node).child.as_ref().expect("the node runs").id();
        until("every thread of the paused node stands", || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let stands = |task: PathBuf| {
                let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
                stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
            };
            tasks.map(|task| task.unwrap().path()).all(stands).then_some(())
        });
    }

    /// Sends SIGCONT.
    pub fn resume(&self, node: u8) {
        self.signal(node, Signal::CONT);
    }

    /// The answer to a four-letter word.
    pub fn word(&self, node: u8, word: &str) -> io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&self.node(node).address, WORD_PATIENCE)?;
        socket.set_read_timeout(Some(WORD_PATIENCE))?;
        socket.write_all(word.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A value of `mntr`; `None` while there is none.
    pub fn value(&self, node: u8, key: &str) -> Option<String> {
        let answer = self.word(node, "mntr").ok()?;
        let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'))?;
        Some(value.to_owned())
    }

    fn number(&self, node: u8, key: &str) -> Option<u64> {
        self.value(node, key)?.parse().ok()
    }

    /// Waits until all running nodes agree on a leader, and gives it.
    pub fn leader(&self) -> u8 {
        let running = self.running();
        until("all nodes agree who leads", || {
            let first =
                (self.number(running[0], "paddock_leader")?, self.number(running[0], "paddock_term")?);
            let (leader, _) = first;
            let agree = |node: &u8| {
                (self.number(*node, "paddock_leader"), self.number(*node, "paddock_term"))
                    == (Some(first.0), Some(first.1))
            };
            let leader = u8::try_from(leader).ok().filter(|l| running.contains(l))?;
            (running[1..].iter().all(agree) && self.value(leader, "zk_server_state")? == "leader")
                .then_some(leader)
        })
    }

    /// The running nodes that do not lead.
    pub fn followers(&self) -> Vec<u8> {
        let leader = self.leader();
        self.running().into_iter().filter(|n| *n != leader).collect()
    }

    /// Waits until every running node serves clients.
    pub fn wait_until_all_serve(&self) {
        for node in self.running() {
            until(&format!("node {node} serves"), || (self.word(node, "isro").ok()? == "rw").then_some(()));
        }
    }

    /// A connection without a handshake.
    pub fn socket(&self, node: u8) -> io::Result<TcpStream> {
        let socket = TcpStream::connect(self.node(node).address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// A client with a new session, as soon as the node grants one.
    pub fn client(&self, node: u8, timeout_ms: i32) -> Client {
        until(&format!("node {node} opens a session"), || {
            Client::open(self.socket(node).ok()?, 0, [0; 16], timeout_ms).ok().filter(|c| c.session != 0)
        })
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|n| n.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            return;
        }
        for (number, node) in (1..).zip(&self.nodes) {
            let log = std::fs::read_to_string(node.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- node {number}, end of its log");
            lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A loopback address for one ensemble alone. The ports of a killed node stay free, because outgoing
/// connections use 127.0.0.1 as their own address.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + (high & 0x7f), low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}
