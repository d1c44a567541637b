//! The command line of `paddock`.
//!
//! Owns flags, messages and exit codes. Never serves anything itself. It stays correct because flags end in the same
//! [`Config`] as a file does, and every error is printed once, here, with what to do.

#![forbid(unsafe_code)]

use crate::config::{self, Config, Finding};
use crate::server::{Server, ServerOptions};
use clap::{Args, Parser, Subcommand};
use paddock_transport::event_loop::Choice;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Everything went well.
const EXIT_OK: u8 = 0;
/// The server stopped because something failed while it ran.
const EXIT_FAILED: u8 = 1;
/// Wrong flags or configuration (clap uses the same code).
const EXIT_USAGE: u8 = 2;
/// The data directory can't be used, or the server could not start.
const EXIT_START: u8 = 3;

/// Paddock: a coordination server that speaks ZooKeeper's client protocol.
#[derive(Parser, Debug)]
#[command(name = "paddock", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 clean stop, 1 failed while running, 2 wrong flags or configuration, \
3 could not start.\nLog level: RUST_LOG=debug (default info), on standard error.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server until SIGTERM or SIGINT.
    #[command(
        after_help = "Examples:\n  paddock serve\n  paddock serve --listen 0.0.0.0:2181 --data-dir /var/lib/paddock\n  \
                            paddock serve --config /etc/zookeeper/conf/zoo.cfg"
    )]
    Serve(Serve),
    /// Validate a configuration file and print what is in force; unknown keys are errors.
    #[command(after_help = "Example:\n  paddock check --config /etc/zookeeper/conf/zoo.cfg")]
    Check {
        /// A ZooKeeper configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Serve {
    /// A ZooKeeper configuration file (zoo.cfg); without it Paddock serves 127.0.0.1:2181.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen: HOST:PORT, PORT, :PORT (every interface) or unix:PATH. May be given several times; replaces the
    /// file's listeners.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Where log and snapshots live [default: ./paddock-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Event loop: auto takes io_uring where the kernel allows it.
    #[arg(long, default_value = "auto", value_name = "auto|uring|epoll")]
    transport: Choice,
    /// Reading shards [default: one for each usable core but the first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,
}

/// Runs the command and gives the process's exit code.
pub fn run(cli: Cli) -> ExitCode {
    ExitCode::from(match cli.command {
        Command::Serve(flags) => serve(flags),
        Command::Check { config } => check(&config),
    })
}

fn serve(flags: Serve) -> u8 {
    init_log();
    let (config, findings) = match settle(&flags) {
        Ok(settled) => settled,
        Err(message) => return fail(EXIT_USAGE, &message),
    };
    for finding in findings {
        tracing::warn!("{finding}");
    }
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
        Err(error) => fail(EXIT_FAILED, &error.to_string()),
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
