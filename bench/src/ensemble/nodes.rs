//! Ensembles of real processes: three or more Paddocks, or as many ZooKeepers, from one and the same configuration.
//!
//! Owns their directories, ports and processes. Never measures anything. It stays honest because all programs get the same
//! settings in the same file, start in the same way, and sync as they come.

use crate::server::{Directory, Launched, Program, Running, Served, sibling, zookeeper};
use anyhow::{Context, bail, ensure};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a node may take to answer a four-letter word.
const WORD_PATIENCE: Duration = Duration::from_secs(5);
/// A word's answer is a few kilobytes.
const WORD_BYTES_MAX: u64 = 1 << 20;

/// How a node competes with the others for their core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// As their equal.
    Equal,
    /// It gets what they leave, as if it had a machine of its own (the kernel's idle class, by `chrt`).
    Idle,
}

/// One node of an ensemble.
#[derive(Debug)]
struct Place {
    client: SocketAddr,
    peer: u16,
    election: u16,
    running: Option<Running>,
    /// Its data, if it does not lie with the others'. After the process.
    elsewhere: Option<Directory>,
}

/// An ensemble. Dropped, its processes are killed and its data goes.
#[derive(Debug)]
pub struct Ensemble {
    program: Program,
    core: Option<u32>,
    /// Further lines of the configuration.
    settings: Vec<String>,
    places: Vec<Place>,
    // After the processes.
    directory: Directory,
}

impl Ensemble {
    /// `nodes` voters of `program` with new data directories below `parent`; all threads of all nodes are bound to `core`.
    pub fn new(
        program: Program,
        nodes: u8,
        core: Option<u32>,
        settings: Vec<String>,
        parent: &Path,
    ) -> anyhow::Result<Self> {
        ensure!(!matches!(program, Program::Echo(_)), "the echo server forms no ensemble");
        let directory = Directory::new(parent)?;
        // All are held at once, so that no two are the same.
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

    /// Starts every node that does not run, and returns when all of them serve.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let missing: Vec<usize> =
            (0..self.places.len()).filter(|&node| self.places[node].running.is_none()).collect();
        // All at once: none serves before a majority is there.
        let launched: Vec<Launched> =
            missing.iter().map(|&node| self.launch(node, Weight::Equal)).collect::<Result<_, _>>()?;
        for (node, launched) in missing.into_iter().zip(launched) {
            self.places[node].running = Some(launched.ready("/")?);
        }
        Ok(())
    }

    /// Starts one node; it may not serve yet.
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

    /// A node that was launched serves.
    pub fn joined(&mut self, node: usize, running: Running) {
        self.places[node].running = Some(running);
    }

    /// Stops one node.
    pub fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        let running = self.places[node].running.take().context("it does not run")?;
        running.stop()?;
        Ok(())
    }

    /// Takes the data of a node that does not run.
    pub fn wipe(&self, node: usize) -> anyhow::Result<()> {
        ensure!(self.places[node].running.is_none(), "node {} runs", node + 1);
        let data = self.data(node).canonicalize()?;
        std::fs::remove_dir_all(&data)?;
        std::fs::create_dir_all(&data)?;
        self.write_myid(node)
    }

    /// Takes the data of a node that does not run to another disk: a new directory below `parent`.
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

    /// Its name in tables.
    pub fn name(&self) -> String {
        self.program.name()
    }

    /// Which node leads: asked until one says so.
    pub fn leader(&self) -> anyhow::Result<usize> {
        for node in 0..self.places.len() {
            let leads = |text: String| field(&text, "zk_server_state").is_some_and(|state| state == "leader");
            if self.mntr(node).is_ok_and(leads) {
                return Ok(node);
            }
        }
        bail!("no node of {} says that it leads", self.name())
    }

    /// Where a node's clients connect.
    pub fn address(&self, node: usize) -> SocketAddr {
        self.places[node].client
    }

    /// Its process, if it runs.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.places[node].running.as_ref().map(Running::pid)
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.places.len()
    }

    /// A node's answer to `mntr`.
    pub fn mntr(&self, node: usize) -> anyhow::Result<String> {
        four_letters(self.places[node].client, "mntr")
    }

    /// The zxid up to which a node has applied, by its own word.
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

/// A line's value in the answer to `mntr`.
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
