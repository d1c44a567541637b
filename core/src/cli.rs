//! The command line of `paddock`.
//!
//! Owns flags, messages and exit codes.
//! Never serves.
//! Correct because flags end in the same [`Config`] as a file does. Each error is printed once, here, with
//! advice.

#![forbid(unsafe_code)]

use crate::cluster::layout::Wanted;
use crate::cluster::{self, ClusterError};
use crate::config::{self, Config, Finding};
use crate::server::{Server, ServerOptions};
use crate::status::{self, Verdict};
use clap::{Args, Parser, Subcommand};
use paddock_transport::event_loop::Choice;
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Success.
const EXIT_OK: u8 = 0;
/// A failure while the server ran.
const EXIT_FAILED: u8 = 1;
/// Wrong flags or configuration (clap uses the same code).
const EXIT_USAGE: u8 = 2;
/// The data directory cannot be used, or the server could not start.
const EXIT_START: u8 = 3;
/// `status`: no server leads, or more than one does.
const EXIT_NO_LEADER: u8 = 4;

/// The server was removed from its ensemble.
const EXIT_REMOVED: u8 = 5;

/// Paddock: a coordination server that speaks ZooKeeper's client protocol.
#[derive(Parser, Debug)]
#[command(name = "paddock", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 clean stop, 1 failed while running, 2 wrong flags or configuration, \
3 could not start, 5 removed from its ensemble by a reconfiguration. Where a command has others, its own --help \
tells them.\nLog level: RUST_LOG=debug (default info), on \
standard error.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server until SIGTERM or SIGINT.
    #[command(
        after_help = "Examples:\n  paddock serve\n  paddock serve --listen 0.0.0.0:2181 --data-dir /var/lib/paddock\n  \
                            paddock serve --config /etc/zookeeper/conf/zoo.cfg"
    )]
    Serve(Serve),
    /// Validate a configuration file and print what is in force; unknown keys are errors.
    #[command(
        after_help = "Example:\n  paddock check --config /etc/zookeeper/conf/zoo.cfg\n\nWarnings go to standard error.\nExit \
                      codes: 0 it can be used, 2 it cannot, or has unknown keys."
    )]
    Check {
        /// A ZooKeeper configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make a new ensemble from this server's data, when a majority of the data directories is gone for good.
    #[command(
        after_help = "Example:\n  paddock force-new-ensemble --config /etc/zookeeper/conf/zoo.cfg --others-are-lost\n\nThe server must not \
                            run. It is the only voter afterwards. Start it, then the others with empty data directories: they catch up \
                            and get their votes back. Writes that only the lost directories had are lost. Never start a server on one \
                            of the lost directories again. Of several servers with data take the one with the highest ZXID in `paddock \
                            status`, or after \"recovered zxid\" in its log.\nExit codes: 0 done, 2 wrong \
                            flags or configuration, 3 not done."
    )]
    ForceNewEnsemble(ForceNewEnsemble),
    /// The former name of `force-new-ensemble`.
    #[command(hide = true)]
    Refound(ForceNewEnsemble),
    /// Run a whole local ensemble of real processes until SIGTERM or SIGINT.
    #[command(
        after_help = "Examples:\n  paddock cluster --nodes 3\n  paddock cluster --nodes 5 --observers 2 --dir /tmp/five \
                            --client-port 2181 --set tickTime=1000\n\nEach node has a folder DIR/node-N with zoo.cfg, data \
                            and log, and also runs by itself: paddock serve --config DIR/node-1/zoo.cfg. An existing directory \
                            is used again, with its ports.\nExit codes: 0 stopped cleanly, 1 all nodes have ended or one did \
                            not stop cleanly, 2 wrong flags or another ensemble in the directory, 3 a process could not be started."
    )]
    Cluster(Cluster),
    /// Show the servers of an ensemble: roles, terms, zxids, lags.
    #[command(
        after_help = "Example:\n  paddock status 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183\n\nAsks `srvr` and `mntr`; \
                            what a server does not tell is shown as -. Name all servers: a server that was not \
                            asked does not count.\nExit codes: 0 all serve and exactly one leads, 1 one leads and another is \
                            missing, does not serve, follows another leader or has a full disk, 2 wrong flags, 4 none of those \
                            asked leads, or more than one does."
    )]
    Status(Status),
    /// Make a server the leader of its ensemble, before maintenance of the one that leads.
    #[command(
        after_help = "Example:\n  paddock lead 127.0.0.1:2182\n\nThe server needs `lead` in its 4lw.commands.whitelist \
                            (`*` does not include it), a vote, \
                            and room on its disk.\nExit codes: 0 it leads, 2 wrong flags, 4 it does not lead \
                            within the time."
    )]
    Lead {
        /// Address of the server: HOST:PORT.
        #[arg(value_name = "SERVER")]
        server: String,
        /// Time limit, ms.
        #[arg(long, default_value_t = 10_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
        timeout: u64,
    },
}

#[derive(Args, Debug)]
struct Cluster {
    /// Number of voters.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=254))]
    nodes: u8,
    /// Observers: read replicas without a vote.
    #[arg(long, default_value_t = 0, value_name = "N")]
    observers: u8,
    /// Directory of the ensemble.
    #[arg(long, default_value = "paddock-cluster", value_name = "DIR")]
    dir: PathBuf,
    /// Client port of node 1 on 127.0.0.1; the others count up [default: free ones]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    client_port: Option<u16>,
    /// A further line of each node's configuration file, such as tickTime=1000. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Restart a node that has ended.
    #[arg(long)]
    restart: bool,
    /// Event loop of each node: auto takes io_uring where the kernel allows it.
    #[arg(long, default_value = "auto", value_name = "auto|uring|epoll")]
    transport: Choice,
    /// Reading shards of each node [default: one for each usable core but the first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,
}

#[derive(Args, Debug)]
struct ForceNewEnsemble {
    /// The server's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Confirms that the data directories of a majority of the servers are gone for good.
    #[arg(long, required = true)]
    others_are_lost: bool,
}

#[derive(Args, Debug)]
struct Status {
    /// Addresses of the servers: HOST:PORT,HOST:PORT…
    #[arg(default_value = "127.0.0.1:2181", value_name = "SERVERS")]
    servers: Vec<String>,
    /// Time limit for one server's answer, ms.
    #[arg(long, default_value_t = status::PATIENCE.as_millis() as u64, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Serve {
    /// A ZooKeeper configuration file (zoo.cfg); without it Paddock serves 127.0.0.1:2181.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen: HOST:PORT, PORT, :PORT (every interface) or unix:PATH. Repeatable; replaces the
    /// file's listeners.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Directory of log and snapshots; replaces the file's dataDir [default: that, or ./paddock-data
    /// without a file]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Event loop: auto takes io_uring where the kernel allows it.
    #[arg(long, default_value = "auto", value_name = "auto|uring|epoll")]
    transport: Choice,
    /// Reading shards [default: one for each usable core but the first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,
    /// End when the parent process with this number ends.
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<u32>,
}

/// Runs the command and gives the process's exit code.
pub fn run(cli: Cli) -> ExitCode {
    ExitCode::from(match cli.command {
        Command::Serve(flags) => serve(flags),
        Command::Check { config } => check(&config),
        Command::ForceNewEnsemble(flags) => force_new_ensemble(&flags.config),
        Command::Refound(flags) => {
            eprintln!(
                "paddock: `refound` is the former name of this command; it is now `paddock force-new-ensemble`"
            );
            force_new_ensemble(&flags.config)
        }
        Command::Cluster(flags) => cluster(flags),
        Command::Status(flags) => status(&flags),
        Command::Lead { server, timeout } => lead(&server, Duration::from_millis(timeout)),
    })
}

fn serve(flags: Serve) -> u8 {
    init_log();
    if let Some(parent) = flags.exit_with_parent
        && let Err(message) = exit_with(parent)
    {
        return fail(EXIT_START, &message);
    }
    let (config, findings) = match settle(&flags) {
        Ok(settled) => settled,
        Err(message) => return fail(EXIT_USAGE, &message),
    };
    tell(flags.config.as_deref(), &findings);
    let options = ServerOptions {
        transport: flags.transport,
        shards: flags.shards.map(usize::from),
        ..ServerOptions::new(config)
    };
    let stop = match crate::server::stop_signal() {
        Ok(stop) => stop,
        Err(error) => return fail(EXIT_START, &format!("cannot watch for SIGTERM: {error}")),
    };
    let server = match Server::start(options) {
        Ok(server) => server,
        Err(error) => return fail(EXIT_START, &error.to_string()),
    };
    match server.run_until(&stop) {
        Ok(()) => EXIT_OK,
        Err(error) if error.removed => fail(EXIT_REMOVED, &error.to_string()),
        Err(error) => fail(EXIT_FAILED, &error.to_string()),
    }
}

/// Makes the kernel kill this process when its parent ends in any way: servers of a test or an experiment
/// must not stay behind. A server survives a kill without damage.
fn exit_with(parent: u32) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| format!("cannot tie this process to its parent: {e}"))?;
    // The parent may have ended before the request reached the kernel.
    let now = rustix::process::getppid().map(Pid::as_raw_nonzero).map(|p| p.get() as u32);
    if now == Some(parent) { Ok(()) } else { Err(format!("the parent {parent} is gone")) }
}

fn cluster(flags: Cluster) -> u8 {
    init_log();
    let mut pass: Vec<OsString> = vec!["--transport".into(), flags.transport.to_string().into()];
    if let Some(shards) = flags.shards {
        pass.extend(["--shards".into(), shards.to_string().into()]);
    }
    let options = cluster::Options {
        wanted: Wanted {
            dir: flags.dir,
            nodes: flags.nodes,
            observers: flags.observers,
            client_port: flags.client_port,
            set: flags.set,
        },
        flags: pass,
        restart: flags.restart,
    };
    match cluster::run(&options, &mut io::stdout()) {
        Ok(()) => EXIT_OK,
        Err(error @ ClusterError::Layout(_)) => fail(EXIT_USAGE, &error.to_string()),
        Err(error @ (ClusterError::AllEnded | ClusterError::Unclean { .. })) => {
            fail(EXIT_FAILED, &error.to_string())
        }
        Err(error) => fail(EXIT_START, &error.to_string()),
    }
}

fn status(flags: &Status) -> u8 {
    let servers = match status::parse_servers(&flags.servers.join(",")) {
        Ok(servers) => servers,
        Err(message) => return fail(EXIT_USAGE, &message),
    };
    let report = status::ask_all(&servers, Duration::from_millis(flags.timeout));
    let text = if flags.json { report.json() } else { report.table() };
    // A reader may close the pipe early. The exit code still counts.
    let _ = io::stdout().write_all(text.as_bytes());
    report.notes().iter().for_each(|note| eprintln!("paddock: {note}"));
    let (code, why) = match report.verdict() {
        Verdict::Healthy => return EXIT_OK,
        Verdict::Degraded { why } => (EXIT_FAILED, why),
        Verdict::NoSingleLeader { why } => (EXIT_NO_LEADER, why),
    };
    why.iter().for_each(|reason| eprintln!("paddock: {reason}"));
    code
}

fn lead(server: &str, patience: Duration) -> u8 {
    let server = match status::parse_servers(server) {
        Ok(servers) if servers.len() == 1 => servers.into_iter().next().unwrap_or_default(),
        Ok(_) => return fail(EXIT_USAGE, "name one server: the one that shall lead"),
        Err(message) => return fail(EXIT_USAGE, &message),
    };
    match status::lead(&server, patience) {
        Ok(()) => {
            println!("{server} leads");
            EXIT_OK
        }
        Err(why) => fail(EXIT_NO_LEADER, &format!("{server} does not lead: {why}")),
    }
}

fn check(path: &Path) -> u8 {
    let (config, findings) = match config::load(path, None) {
        Ok(read) => read,
        Err(message) => return fail(EXIT_USAGE, &message),
    };
    for (name, value) in config.effective() {
        println!("{name} = {value}");
    }
    let mut unknown = 0;
    for finding in &findings {
        eprintln!("{}: {finding}", path.display());
        unknown += usize::from(matches!(finding, Finding::Unknown { .. }));
    }
    if unknown == 0 {
        EXIT_OK
    } else {
        fail(EXIT_USAGE, &format!("{unknown} unknown key(s) in {}", path.display()))
    }
}

fn force_new_ensemble(path: &Path) -> u8 {
    init_log();
    let config = match config::load(path, None) {
        Ok((config, findings)) => {
            tell(Some(path), &findings);
            config
        }
        Err(message) => return fail(EXIT_USAGE, &message),
    };
    match crate::server::force_new_ensemble(&config) {
        Ok(done) => {
            println!(
                "server {} goes on alone, with {} znodes as of zxid {:#x}. Start it, and then the others with empty data \
                 directories (but for myid)",
                config.node, done.znodes, done.zxid
            );
            EXIT_OK
        }
        Err(error) => fail(EXIT_START, &error.to_string()),
    }
}

fn settle(flags: &Serve) -> Result<(Config, Vec<Finding>), String> {
    let (mut config, findings) = match &flags.config {
        Some(path) => config::load(path, flags.data_dir.as_deref())?,
        None => (Config::standalone(PathBuf::from("paddock-data")), Vec::new()),
    };
    if let Some(dir) = &flags.data_dir {
        config.data_dir.clone_from(dir);
    }
    if !flags.listen.is_empty() {
        config.listen.clear();
        config.listen_linearizable.clear();
        for text in &flags.listen {
            config.listen.extend(config::parse_listen(text).map_err(|e| format!("--listen: {e}"))?);
        }
    }
    Ok((config, findings))
}

/// Logs the findings of a configuration file.
fn tell(file: Option<&Path>, findings: &[Finding]) {
    for finding in findings {
        match file {
            Some(path) => tracing::warn!("{}: {finding}", path.display()),
            None => tracing::warn!("{finding}"),
        }
    }
}

fn fail(code: u8, message: &str) -> u8 {
    eprintln!("paddock: {message}");
    code
}

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    log.with_env_filter(filter).init();
}
