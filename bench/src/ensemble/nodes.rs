//! Ensembles of real processes: several Paddocks, or as many ZooKeepers, with one and the same
//! configuration.
//!
//! Owns their directories, ports and processes. Never measures anything. Correct because all programs get
//! the same settings in the same file, start in the same way, and sync by their own defaults.

use crate::server::{Directory, Launched, Program, Running, Served, sibling, zookeeper};
use anyhow::{Context, bail, ensure};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest wait for a node's answer to a monitoring command such as `srvr` or `mntr`.
const WORD_PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer to a monitoring command that is read. Nodes send a few kilobytes.
const WORD_BYTES_MAX: u64 = 1 << 20;

/// Scheduling of a node that shares a core with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Same priority as the other nodes.
    Equal,
    /// The kernel's idle class, set with `chrt`: the node gets what the others leave, as if it had its own
    /// machine.
    Idle,
}

/// One node of an ensemble.
#[derive(Debug)]
struct Place {
    client: SocketAddr,
    peer: u16,
    election: u16,
    running: Option<Running>,
    /// Data directory outside the ensemble's. Declared after the process, so that it is removed after the
    /// process ends.
    elsewhere: Option<Directory>,
}

/// An ensemble. Dropping it kills the processes and removes their data.
#[derive(Debug)]
pub struct Ensemble {
    program: Program,
    core: Option<u32>,
    /// Further lines of the configuration file.
    settings: Vec<String>,
    places: Vec<Place>,
    // Declared after the processes, so that it is removed after they end.
    directory: Directory,
}

impl Ensemble {
    /// Prepares `nodes` voters of `program` with new data directories below `parent`. All threads of all
    /// nodes are bound to `core`.
    pub fn new(
        program: Program,
        nodes: u8,
        core: Option<u32>,
        settings: Vec<String>,
        parent: &Path,
    ) -> anyhow::Result<Self> {
        ensure!(!matches!(program, Program::Echo(_)), "the echo server forms no ensemble");
        let directory = Directory::new(parent)?;
        // All listeners are held at once, so that all ports differ.
        let mut held = Vec::new();
        let mut free = || -> anyhow::Result<u16> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let mut places = Vec::new();
        for _ in 0..nodes {
            let client = SocketAddr::from((Ipv4Addr::LOCALHOST, free()?));
            places.push(Place { client, peer: free()?, election: free()?, running: None, elsewhere: None });
        }
        let ensemble = Self { program, core, settings, places, directory };
        for node in 0..ensemble.places.len() {
            std::fs::create_dir_all(ensemble.data(node))?;
            std::fs::write(ensemble.config(node), ensemble.text(node))?;
            ensemble.write_myid(node)?;
        }
        Ok(ensemble)
    }

    /// Starts every node that is not running, and waits until all of them serve.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let missing: Vec<usize> =
            (0..self.places.len()).filter(|&node| self.places[node].running.is_none()).collect();
        // Started together, since none serves before a majority is up.
        let launched: Vec<Launched> =
            missing.iter().map(|&node| self.launch(node, Weight::Equal)).collect::<Result<_, _>>()?;
        for (node, launched) in missing.into_iter().zip(launched) {
            self.places[node].running = Some(launched.ready("/")?);
        }
        Ok(())
    }

    /// Starts one node, which may not serve yet.
    pub fn launch(&self, node: usize, weight: Weight) -> anyhow::Result<Launched> {
        let name = format!("{} node {}", self.program.name(), node + 1);
        let client = self.places[node].client;
        let mut command = self.command(node)?;
        if weight == Weight::Idle {
            let mut yielding = Command::new("chrt");
            yielding.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args());
            command = yielding;
        }
        Launched::start(name, command, self.core, &self.folder(node), client)
    }

    /// Hands back a launched node that serves now.
    pub fn joined(&mut self, node: usize, running: Running) {
        self.places[node].running = Some(running);
    }

    /// Stops one node with SIGTERM and waits for its end.
    pub fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        let running = self.places[node].running.take().context("it does not run")?;
        running.stop()?;
        Ok(())
    }

    /// Deletes the data of a stopped node, except for its `myid`.
    pub fn wipe(&self, node: usize) -> anyhow::Result<()> {
        ensure!(self.places[node].running.is_none(), "node {} runs", node + 1);
        let data = self.data(node).canonicalize()?;
        std::fs::remove_dir_all(&data)?;
        std::fs::create_dir_all(&data)?;
        self.write_myid(node)
    }

    /// Moves the data of a stopped node to another disk: into a new directory below `parent`.
    pub fn take_to(&mut self, node: usize, parent: &Path) -> anyhow::Result<()> {
        ensure!(self.places[node].running.is_none(), "node {} runs", node + 1);
        let (from, elsewhere) = (self.data(node), Directory::new(parent)?);
        let to = elsewhere.path().join("data");
        let status = Command::new("cp").arg("-a").args([&from, &to]).status().context("running cp")?;
        ensure!(status.success(), "copying {} to {}: cp ended with {status}", from.display(), to.display());
        std::fs::remove_dir_all(&from)?;
        std::os::unix::fs::symlink(&to, &from)?;
        self.places[node].elsewhere = Some(elsewhere);
        Ok(())
    }

    /// The name in tables.
    pub fn name(&self) -> String {
        self.program.name()
    }

    /// Index of the node that reports itself as leader. Asks each node once.
    pub fn leader(&self) -> anyhow::Result<usize> {
        for node in 0..self.places.len() {
            let leads = |text: String| field(&text, "zk_server_state").is_some_and(|state| state == "leader");
            if self.mntr(node).is_ok_and(leads) {
                return Ok(node);
            }
        }
        bail!("no node of {} says that it leads", self.name())
    }

    /// Address that a node's clients connect to.
    pub fn address(&self, node: usize) -> SocketAddr {
        self.places[node].client
    }

    /// Process id of a node; `None` while it is stopped.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.places[node].running.as_ref().map(Running::pid)
    }

    /// Number of nodes, stopped ones included.
    pub fn nodes(&self) -> usize {
        self.places.len()
    }

    /// A node's answer to `mntr`.
    pub fn mntr(&self, node: usize) -> anyhow::Result<String> {
        four_letters(self.places[node].client, "mntr")
    }

    /// Zxid that a node reports as applied, from its answer to `srvr`.
    pub fn zxid(&self, node: usize) -> anyhow::Result<u64> {
        let text = four_letters(self.places[node].client, "srvr")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
        let zxid = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        zxid.with_context(|| format!("node {} does not tell its zxid: {text}", node + 1))
    }

    fn folder(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node-{}", node + 1))
    }

    fn data(&self, node: usize) -> PathBuf {
        self.folder(node).join("data")
    }

    fn config(&self, node: usize) -> PathBuf {
        self.folder(node).join("zoo.cfg")
    }

    fn write_myid(&self, node: usize) -> anyhow::Result<()> {
        Ok(std::fs::write(self.data(node).join("myid"), format!("{}\n", node + 1))?)
    }

    fn text(&self, node: usize) -> String {
        let mut text = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=*\n",
            self.data(node).display(),
            self.places[node].client.port(),
        );
        // Writing to a string cannot fail.
        for line in &self.settings {
            let _ = writeln!(text, "{line}");
        }
        for (n, Place { peer, election, .. }) in self.places.iter().enumerate() {
            let _ = writeln!(text, "server.{}=127.0.0.1:{peer}:{election}", n + 1);
        }
        text
    }

    fn command(&self, node: usize) -> anyhow::Result<Command> {
        let config = self.config(node);
        Ok(match &self.program {
            Program::ZooKeeper(jars) => zookeeper(jars, &config),
            Program::Echo(_) => bail!("the echo server forms no ensemble"),
            Program::Paddock(transport) => {
                let mut command = Command::new(sibling("paddock")?);
                command.args(["serve", "--transport", &transport.to_string(), "--config"]).arg(config);
                command
            }
        })
    }
}

impl Served for Ensemble {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.places.iter().filter(|p| p.running.is_some()).map(|p| p.client).collect()
    }

    fn pids(&self) -> Vec<u32> {
        (0..self.nodes()).filter_map(|node| self.pid(node)).collect()
    }
}

/// Value of the line `key` in an answer to `mntr`.
pub fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'))
}

fn four_letters(to: SocketAddr, word: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, WORD_PATIENCE)?;
    stream.set_read_timeout(Some(WORD_PATIENCE))?;
    stream.write_all(word.as_bytes())?;
    let mut text = String::new();
    stream.take(WORD_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use paddock_transport::event_loop::Choice;

    #[test]
    fn all_nodes_are_told_the_same_members_and_their_own_ports() {
        let dir = tempfile::tempdir().unwrap();
        let settings = vec!["snapCount=7".to_owned()];
        let mut made = Ensemble::new(Program::Paddock(Choice::Auto), 3, None, settings, dir.path()).unwrap();
        let texts: Vec<String> =
            (0..3).map(|node| std::fs::read_to_string(made.config(node)).unwrap()).collect();
        let servers = |text: &str| {
            text.lines().filter(|l| l.starts_with("server.")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((servers(&texts[0]).len(), servers(&texts[0])), (3, servers(&texts[2])));
        assert!(texts[1].contains("snapCount=7\n"));
        assert!(texts[1].contains(&format!("clientPort={}\n", made.address(1).port())));
        made.wipe(1).unwrap();
        assert_eq!(std::fs::read_to_string(made.data(1).join("myid")).unwrap(), "2\n");
        let other = tempfile::tempdir().unwrap();
        made.take_to(1, other.path()).unwrap();
        assert!(made.data(1).canonicalize().unwrap().starts_with(other.path().canonicalize().unwrap()));
        made.wipe(1).unwrap();
        assert_eq!(std::fs::read_to_string(made.data(1).join("myid")).unwrap(), "2\n");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "zk_server_state_x\tno\nzk_server_state\tleader\n";
        assert_eq!(field(text, "zk_server_state"), Some("leader"));
        assert_eq!(field(text, "zk_server"), None);
    }
}
