//! The servers that are measured: child processes, each bound to one core, with data directories of their
//! own.
//!
//! Owns their start and end. Never measures anything. Correct because all servers start the same way, on
//! the same core and disk, with their own defaults. Each is ready when it answers a read.

use crate::client::Client;
use anyhow::{Context, bail, ensure};
use paddock_transport::event_loop::Choice;
use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest start of a server: a JVM on a busy machine, or a recovery of millions of znodes.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for a server to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// Longest single attempt to read from a starting server. ZooKeeper never answers requests that arrive
/// while it starts.
const TRY_PATIENCE: Duration = Duration::from_secs(1);
/// Interval between two looks at a starting or stopping server.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Heap limit from ZooKeeper's own start script.
const ZOOKEEPER_HEAP: &str = "-Xmx1000m";
/// Bytes from the end of a server's output that an error shows.
const LOG_TAIL_BYTES: usize = 4000;

/// Child processes and directories that must not outlive this process. A signal ends it without unwinding,
/// so the destructors of [`Running`] and [`Directory`] do not suffice.
static LEFT_BEHIND: Mutex<Remains> = Mutex::new(Remains { processes: Vec::new(), directories: Vec::new() });

#[derive(Debug)]
struct Remains {
    processes: Vec<u32>,
    directories: Vec<PathBuf>,
}

fn left_behind() -> MutexGuard<'static, Remains> {
    LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes SIGINT and SIGTERM end this process together with its servers.
pub fn clean_up_on_signal() -> std::io::Result<()> {
    let signals = paddock_core::server::stop_signal()?;
    std::thread::Builder::new().name("bench-signals".to_owned()).spawn(move || {
        let Ok(signal) = signals.recv() else { return };
        let remains = left_behind();
        for &pid in &remains.processes {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                // The process may have ended already.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for directory in &remains.directories {
            let _ = std::fs::remove_dir_all(directory);
        }
        // The lock is still held, so no further process can start.
        std::process::exit(128 + signal);
    })?;
    Ok(())
}

/// A server program and its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The echo floor: `paddock-bench echo`, on this transport.
    Echo(Choice),
    /// The server `paddock serve`, on this transport.
    Paddock(Choice),
    /// ZooKeeper, from the jars in this directory.
    ZooKeeper(PathBuf),
}

impl Program {
    /// The name in tables.
    pub fn name(&self) -> String {
        match self {
            Program::Echo(transport) => format!("echo {transport}"),
            Program::Paddock(transport) => format!("paddock {transport}"),
            Program::ZooKeeper(_) => "zookeeper".to_owned(),
        }
    }
}

/// A directory for servers' data. Removed when dropped, or when a signal ends this process.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// Makes a directory below `parent`.
    pub fn new(parent: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("paddock-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("making a directory in {} (see --dir)", parent.display()))?;
        left_behind().directories.push(directory.path().to_owned());
        Ok(Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        left_behind().directories.retain(|directory| directory != self.0.path());
    }
}

/// A server that can be started, stopped, and started again on the same data.
#[derive(Debug)]
pub struct Installation {
    program: Program,
    /// Core that all threads are bound to; `None`: any core of this process.
    core: Option<u32>,
    address: SocketAddr,
    directory: Directory,
}

/// Target of a load: one server or one ensemble.
pub trait Served {
    /// Addresses that clients connect to.
    fn addresses(&self) -> Vec<SocketAddr>;
    /// Process ids, to measure CPU time.
    fn pids(&self) -> Vec<u32>;
}

impl Served for Running {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.address]
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.pid()]
    }
}

/// A server that was started and may not answer yet.
pub struct Launched {
    name: String,
    log: PathBuf,
    began: Instant,
    running: Running,
}

impl Launched {
    /// Starts `command` in `directory`. Its output goes to a file there.
    pub fn start(
        name: String,
        mut command: Command,
        core: Option<u32>,
        directory: &Path,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let log = directory.join("server.log");
        let out = File::options().create(true).append(true).open(&log)?;
        command.current_dir(directory).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let began = Instant::now();
        let child = spawn_on(core, &mut command).with_context(|| format!("starting {name}"))?;
        Ok(Self { name, log, began, running: Running { child, address, started_in: Duration::ZERO } })
    }

    /// Waits until the server has answered a read of `path`.
    pub fn ready(self, path: &str) -> anyhow::Result<Running> {
        let Self { name, log, began, mut running } = self;
        let failed = |why: String| {
            let text = std::fs::read(&log).unwrap_or_default();
            let tail =
                String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
            anyhow::anyhow!("{name} {why}:\n{tail}")
        };
        loop {
            if let Ok(mut client) = Client::connect(running.address, TRY_PATIENCE)
                && let Ok(found) = client.get(path)
            {
                running.started_in = began.elapsed();
                if found.is_none() {
                    return Err(failed(format!("has no znode {path}")));
                }
                let _ = client.close();
                return Ok(running);
            }
            if let Some(status) = running.child.try_wait()? {
                return Err(failed(format!("ended while it started ({status})")));
            }
            if began.elapsed() > START_PATIENCE {
                return Err(failed(format!("did not answer within {} s", START_PATIENCE.as_secs())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Address that clients connect to.
    pub address: SocketAddr,
    /// Time from the start of the process to the answer to its first read.
    pub started_in: Duration,
}

impl Installation {
    /// Installs `program` with a new data directory below `parent`.
    pub fn new(program: Program, core: Option<u32>, parent: &Path) -> anyhow::Result<Self> {
        if let Program::ZooKeeper(jars) = &program {
            ensure!(jars.is_dir(), "--zookeeper {}: no such directory of jars", jars.display());
        }
        let directory = Directory::new(parent)?;
        // The port is free at this moment. If another process takes it meanwhile, the server's own message
        // says so.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Ok(Self { program, core, address, directory })
    }

    /// The name in tables.
    pub fn name(&self) -> String {
        self.program.name()
    }

    /// Starts the server and waits until it has answered a read of `path`.
    pub fn start(&self, path: &str) -> anyhow::Result<Running> {
        Launched::start(self.name(), self.command()?, self.core, self.directory.path(), self.address)?
            .ready(path)
    }

    fn command(&self) -> anyhow::Result<Command> {
        let data = self.directory.path().join("data");
        let listen = self.address.to_string();
        Ok(match &self.program {
            Program::Echo(transport) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["echo", "--transport", &transport.to_string(), "--listen", &listen]);
                command
            }
            Program::Paddock(transport) => {
                let mut command = Command::new(sibling("paddock")?);
                command.args(["serve", "--transport", &transport.to_string(), "--listen", &listen]);
                command.arg("--data-dir").arg(data);
                command
            }
            Program::ZooKeeper(jars) => {
                let file = self.directory.path().join("zoo.cfg");
                let port = self.address.port();
                let settings = format!(
                    "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
                     admin.enableServer=false\nmaxClientCnxns=0\n",
                    data.display()
                );
                std::fs::write(&file, settings)?;
                zookeeper(jars, &file)
            }
        })
    }
}

/// The command that starts ZooKeeper from `jars` with the configuration file `config`.
pub fn zookeeper(jars: &Path, config: &Path) -> Command {
    let mut classes: OsString = jars.to_owned().into_os_string();
    classes.push("/*");
    let mut command = Command::new("java");
    command.args([ZOOKEEPER_HEAP, "-cp"]).arg(classes);
    command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(config);
    command
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        Memory::of(self.pid())
    }

    /// Sends SIGTERM and waits for the end of the process. Returns how long that took.
    pub fn stop(mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > STOP_PATIENCE {
                bail!("a server did not stop within {} s of SIGTERM", STOP_PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(began.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors are ignored: the process has ended already, or cannot be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        forget_process(self.child.id());
    }
}

/// Forgets a child that was waited for. Its process id may be given to another process.
pub fn forget_process(pid: u32) {
    left_behind().processes.retain(|&known| known != pid);
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Memory that the process allocated.
    pub anonymous_bytes: u64,
    /// Mapped files: code, and a log that is read through a map. The kernel may drop their pages at any
    /// time.
    pub file_bytes: u64,
}

impl Memory {
    /// Reads the kernel's figures from `/proc/PID/status`.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let bytes =
            |field: &str| memory_field(&status, field).with_context(|| format!("{path} has no {field}"));
        Ok(Self { anonymous_bytes: bytes("RssAnon")?, file_bytes: bytes("RssFile")? })
    }
}

fn memory_field(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Starts `command` with all its threads bound to `core`. A child inherits the affinity mask of the thread
/// that starts it. So a thread is made for that, bound, and then starts the child.
///
/// A caller that has waited for the child calls [`forget_process`].
pub fn spawn_on(core: Option<u32>, command: &mut Command) -> std::io::Result<Child> {
    let mut remains = left_behind();
    let child = match core {
        None => command.spawn(),
        Some(core) => std::thread::scope(|scope| {
            let starter = scope.spawn(|| {
                paddock_loadgen::machine::pin(core)?;
                command.spawn()
            });
            starter.join().unwrap_or_else(|_| Err(std::io::Error::other("the starting thread panicked")))
        }),
    }?;
    remains.processes.push(child.id());
    Ok(child)
}

/// Directory that the project's scripts put ZooKeeper's jars in; `None` if it does not exist.
pub fn default_jars() -> Option<PathBuf> {
    let jars = PathBuf::from(std::env::var_os("HOME")?).join(".cache/paddock-peers/lib");
    jars.is_dir().then_some(jars)
}

/// Path of the binary `name` beside this one.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.is_file(),
        "{} is not there: build all programs with `cargo build --release --bins`",
        path.display()
    );
    Ok(path)
}

/// Division of the usable cores between server and generator.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cores {
    /// Core of the server, or of all nodes of an ensemble.
    pub server: u32,
    /// Cores of the generator. Equal to the server's if there is only one.
    pub generator: Vec<u32>,
}

impl Cores {
    /// Gives the server `server`, or the last usable core, since the first often takes the interrupts. The
    /// generator gets the rest.
    pub fn divide(server: Option<u32>) -> anyhow::Result<Self> {
        let usable: Vec<u32> = paddock_core::server::cores::usable()?.into_iter().map(|c| c as u32).collect();
        Self::of(&usable, server)
    }

    fn of(usable: &[u32], server: Option<u32>) -> anyhow::Result<Self> {
        let server = server.or(usable.last().copied()).context("no usable core")?;
        ensure!(usable.contains(&server), "core {server} is not usable here: choose one of {usable:?}");
        let rest: Vec<u32> = usable.iter().copied().filter(|&core| core != server).collect();
        // With a single core both share it, and the tables say so.
        Ok(Self { server, generator: if rest.is_empty() { vec![server] } else { rest } })
    }

    /// Whether server and generator share a core.
    pub fn shared(&self) -> bool {
        self.generator.contains(&self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_text() {
        let status = "Name:\tx\nVmRSS:\t    1200 kB\nRssAnon:\t    1000 kB\nRssFile:\t     200 kB\n";
        assert_eq!(memory_field(status, "RssAnon"), Some(1_024_000));
        assert_eq!(memory_field(status, "RssShmem"), None);
        assert!(Memory::of(std::process::id()).unwrap().anonymous_bytes > 0);
    }

    #[test]
    fn the_server_has_its_core_to_itself_if_there_are_two() {
        assert_eq!(Cores::of(&[0, 1, 2], None).unwrap(), Cores { server: 2, generator: vec![0, 1] });
        assert_eq!(Cores::of(&[0, 1, 2], Some(0)).unwrap(), Cores { server: 0, generator: vec![1, 2] });
        let alone = Cores::of(&[3], None).unwrap();
        assert!(alone.shared() && alone.server == 3);
        assert!(Cores::of(&[0, 1], Some(7)).is_err());
    }

    #[test]
    fn a_child_is_bound_and_its_parent_is_not() {
        let core = paddock_core::server::cores::usable().unwrap()[0] as u32;
        let before = paddock_core::server::cores::usable().unwrap();
        let mut command = Command::new("cat");
        let mut child =
            spawn_on(Some(core), command.arg("/proc/self/status").stdout(Stdio::piped())).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
        assert!(child.wait().unwrap().success());
        forget_process(child.id());
        assert!(text.contains(&format!("Cpus_allowed_list:\t{core}\n")), "{text}");
        assert_eq!(paddock_core::server::cores::usable().unwrap(), before);
    }
}
