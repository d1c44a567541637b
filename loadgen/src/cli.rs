//! The command line of `paddock-load`.
//!
//! Owns flags, exit codes and the places that results are written to. Never measures anything. Correct
//! because flags only fill a `RunConfig`, which the run validates itself.

use crate::check::ViolationKind;
use crate::config::{Arrivals, Auth, Distribution, Progress, RunConfig, Target};
use crate::gaps::GAP_MS_DEFAULT;
use crate::histogram::Latencies;
use crate::keyspace::Op;
use crate::report::all_latencies;
use crate::run::{Outcome, RunError, idle_until, run_until};
use clap::{Args, Parser, Subcommand, ValueEnum};
use paddock_transport::event_loop::Choice;
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Every answer was correct.
pub const EXIT_OK: u8 = 0;
/// The run could not be made, or its results could not be written.
pub const EXIT_COULD_NOT_RUN: u8 = 1;
/// The command line is invalid.
pub const EXIT_USAGE: u8 = 2;
/// The server gave wrong answers or left requests without a reply.
pub const EXIT_WRONG_ANSWERS: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  every answer was right
  1  the run could not be made (the message says why and what to do)
  2  the command line makes no sense
  3  wrong answers or missing replies";

const RUN_EXAMPLES: &str = "\
Examples:
  paddock-load run
      An embedded server, 64 connections, 95 % reads, 10 s: throughput and latencies on standard output.
  paddock-load run --target 127.0.0.1:2181 --reads 0.99 --connections 1000 --rate 200000
      A server of yours under 200 000 requests per second that come whether it keeps up or not.
  paddock-load run --target zk1:2181,zk2:2181,zk3:2181 --distribution zipf --json run.json --hgrm run.hgrm
      An ensemble, popular and unpopular keys, everything written down.
  paddock-load run --target zk1:2181,zk2:2181,zk3:2181 --through-failures --rate 5000 --writers 16 --timeout-ms 6000 --duration 10m
      The same while servers are killed: times without writes, lost or wrong answers, all keys read back at the end.

Exit codes:
  0  every answer was right
  1  the run could not be made (the message says why and what to do)
  2  the command line makes no sense
  3  wrong answers or missing replies";

const IDLE_EXAMPLES: &str = "\
Example:
  paddock-load idle --target 127.0.0.1:2181 --connections 1000 --timeout-ms 30000 --server-pid $(pidof paddock)";

/// Drives any ZooKeeper-protocol server with a read-mostly load and checks its answers.
#[derive(Debug, Parser)]
#[command(name = "paddock-load", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill a tree, drive reads and writes, check every answer, report throughput and latencies.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Hold sessions that only ping, and report what they cost.
    #[command(after_help = IDLE_EXAMPLES)]
    Idle(IdleArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// Servers, HOST:PORT or unix:/PATH, separated by commas; none: an embedded server is started
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = parse::<Target>)]
    target: Vec<Target>,
    /// Threads of the generator [default: a third of the usable cores, at least 1]
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Event loop of the generator (and of the embedded server): auto, uring or epoll
    #[arg(long, default_value = "auto", value_name = "NAME")]
    transport: Choice,
    /// Pin the generator's threads to these cores, for example 1 or 2,3 or 4-7
    #[arg(long, value_name = "LIST", value_parser = core_list)]
    cores: Option<CoreList>,
    /// Process ids of the servers, separated by commas, to report their CPU time
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
    /// Session timeout to ask for, in milliseconds
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    timeout_ms: u64,
    /// A session that expires although its server was heard within half of its timeout is a wrong answer
    #[arg(long)]
    sessions_must_live: bool,
    /// Credentials for each connection, for example digest:user:password
    #[arg(long, value_name = "SCHEME:CREDENTIALS", value_parser = parse::<Auth>)]
    auth: Option<Auth>,
    /// Write the report as JSON to this file (- for standard output, which then carries nothing else)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print nothing while running
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// Share of reads, 0 to 1
    #[arg(long, default_value_t = 0.95, value_name = "SHARE")]
    reads: f64,
    /// Sessions, each on its own connection
    #[arg(long, default_value_t = 64, value_name = "N")]
    connections: u32,
    /// Requests in flight per connection [default: 16; with --rate: 1000]
    #[arg(long, value_name = "N")]
    outstanding: Option<u32>,
    /// Open loop: send this many requests per second whether or not replies come
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Open loop: how the instants of sending are spread
    #[arg(long, value_enum, default_value_t = ArrivalsArg::Poisson)]
    arrivals: ArrivalsArg,
    /// How long to measure, for example 10s, 500ms, 2m
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    duration: Duration,
    /// How long to run the same load before measuring
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration)]
    warmup: Duration,
    /// Znodes to read and write
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    value_size: u32,
    /// Which keys are asked for
    #[arg(long, value_enum, default_value_t = DistributionArg::Uniform)]
    distribution: DistributionArg,
    /// Exponent of --distribution zipf
    #[arg(long, default_value_t = 0.99, value_name = "S")]
    zipf_exponent: f64,
    /// Root of the tree. The tree stays there afterwards and is used again by the next run
    #[arg(long, default_value = "/paddock-load", value_name = "PATH")]
    root: String,
    /// Write percentile spectra in HdrHistogram's text form: FILE for all operations, and one per operation
    /// beside it
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Do not check answers
    #[arg(long)]
    no_check: bool,
    /// Servers are expected to fail: connections move on to the next target, and the report lists times
    /// without answers
    #[arg(long)]
    through_failures: bool,
    /// With --through-failures: a time without answers that is longer than this is a gap, in milliseconds
    #[arg(long, default_value_t = GAP_MS_DEFAULT, value_name = "MS")]
    gap_ms: u64,
    /// Read all keys back through every target at the end [default: with several targets or
    /// --through-failures]
    #[arg(long, overrides_with = "no_verify")]
    verify_at_end: bool,
    /// Do not read keys back at the end
    #[arg(long)]
    no_verify: bool,
    /// Only this many connections write, the others only read: their reads never wait behind a write of the
    /// same session
    #[arg(long, value_name = "N")]
    writers: Option<u32>,
}

#[derive(Debug, Args)]
struct IdleArgs {
    #[command(flatten)]
    common: Common,
    /// Sessions, each on its own connection
    #[arg(long, default_value_t = 1000, value_name = "N")]
    connections: u32,
    /// How long the sessions stay, for example 30s
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    duration: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArrivalsArg {
    /// Independent users: exponential gaps
    Poisson,
    /// Equal gaps, as of a metronome
    Constant,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DistributionArg {
    /// Every key equally often
    Uniform,
    /// Few keys very often, many seldom
    Zipf,
}

#[derive(Clone, Debug)]
struct CoreList(Vec<u32>);

/// Runs the command line `args` and returns the exit code. `stop` ends a run early.
pub fn main(args: impl IntoIterator<Item = OsString>, stop: &AtomicBool) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to standard output: clap knows which.
            let code = if error.use_stderr() { EXIT_USAGE } else { EXIT_OK };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = match cli.command {
        Command::Run(args) => run(*args, command, stop),
        Command::Idle(args) => idle(args, command, stop),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Run(RunError::Config(error))) => {
            eprintln!("paddock-load: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(failure) => {
            eprintln!("paddock-load: {failure}");
            ExitCode::from(EXIT_COULD_NOT_RUN)
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

fn run(args: RunArgs, command: Vec<String>, stop: &AtomicBool) -> Result<u8, Failure> {
    let arrivals = match args.arrivals {
        ArrivalsArg::Poisson => Arrivals::Poisson,
        ArrivalsArg::Constant => Arrivals::Constant,
    };
    let distribution = match args.distribution {
        DistributionArg::Uniform => Distribution::Uniform,
        DistributionArg::Zipf => Distribution::Zipf { exponent: args.zipf_exponent },
    };
    let json = args.common.json.clone();
    let config = RunConfig {
        reads: args.reads,
        connections: args.connections,
        outstanding: args.outstanding,
        rate: args.rate,
        arrivals,
        duration: args.duration,
        warmup: args.warmup,
        keys: args.keys,
        value_bytes: args.value_size,
        distribution,
        seed: args.seed,
        check: !args.no_check,
        through_failures: args.through_failures,
        verify_at_end: match (args.verify_at_end, args.no_verify) {
            (false, false) => None,
            (wanted, _) => Some(wanted),
        },
        gap_ms: args.gap_ms,
        writers: args.writers,
        root: args.root,
        ..common(args.common, command)
    };
    let Outcome { report, counts } = run_until(&config, stop)?;
    emit(json.as_deref(), &report, || report.text())?;
    if let Some(path) = &args.hgrm {
        write_hgrm(path, &all_latencies(&counts))?;
        for op in Op::ALL.into_iter().filter(|&op| counts.latency[op as usize].count() > 0) {
            write_hgrm(&beside(path, op.name()), &counts.latency[op as usize])?;
        }
    }
    if report.verdict.correct {
        return Ok(EXIT_OK);
    }
    let missing = counts.violations.get(&ViolationKind::MissingReply).copied().unwrap_or(0);
    let wrong = counts.violations_total() - missing;
    if wrong + missing == 0 {
        eprintln!("paddock-load: no server could be read back at the end");
    } else {
        eprintln!("paddock-load: {wrong} wrong answers, {missing} missing replies");
    }
    Ok(EXIT_WRONG_ANSWERS)
}

fn idle(args: IdleArgs, command: Vec<String>, stop: &AtomicBool) -> Result<u8, Failure> {
    let json = args.common.json.clone();
    let config = RunConfig {
        connections: args.connections,
        duration: args.duration,
        reads: 1.0,
        ..common(args.common, command)
    };
    let report = idle_until(&config, stop)?;
    emit(json.as_deref(), &report, || report.text())?;
    Ok(if report.wrong_answers == 0 { EXIT_OK } else { EXIT_WRONG_ANSWERS })
}

fn common(args: Common, command: Vec<String>) -> RunConfig {
    RunConfig {
        targets: args.target,
        threads: args.threads,
        transport: args.transport,
        cores: args.cores.map(|list| list.0).unwrap_or_default(),
        server_pids: args.server_pid,
        sessions_must_live: args.sessions_must_live,
        session_timeout: Duration::from_millis(args.timeout_ms),
        auth: args.auth,
        command,
        progress: if args.quiet { Progress::Quiet } else { Progress::Live },
        ..RunConfig::default()
    }
}

/// Writes the text to standard output, unless the JSON document goes there. Writes the document to its
/// file.
fn emit(json: Option<&Path>, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let to_stdout = json.is_some_and(|path| path == Path::new("-"));
    let written = |path: &Path, result: io::Result<()>| {
        result.map_err(|source| Failure::Write { path: path.to_owned(), source })
    };
    let stdout = Path::new("standard output");
    if !to_stdout {
        written(stdout, io::stdout().write_all(text().as_bytes()))?;
    }
    let Some(path) = json else { return Ok(()) };
    let document = |out: &mut dyn Write| -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
        out.flush()
    };
    if to_stdout {
        written(stdout, document(&mut io::stdout().lock()))
    } else {
        written(path, File::create(path).and_then(|file| document(&mut BufWriter::new(file))))
    }
}

fn write_hgrm(path: &Path, latencies: &Latencies) -> Result<(), Failure> {
    let write = || {
        let mut out = BufWriter::new(File::create(path)?);
        latencies.write_hgrm(&mut out)?;
        out.flush()
    };
    write().map_err(|source| Failure::Write { path: path.to_owned(), source })
}

/// Inserts `name` before the extension: `run.hgrm` and `get` make `run.get.hgrm`.
fn beside(path: &Path, name: &str) -> PathBuf {
    let extension = path.extension().map(|e| format!("{name}.{}", e.to_string_lossy()));
    path.with_extension(extension.unwrap_or_else(|| name.to_owned()))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, T::Err> {
    text.parse()
}

/// Parses `10s`, `500ms`, `2m` or `1h`. A number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` is no unit of time: use ms, s, m or h, for example 10s")),
    };
    let number: f64 = number.parse().map_err(|_| "write a time like 10s, 500ms or 2m".to_owned())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|e| e.to_string())
}

/// Parses lists such as `1`, `2,3` or `4-7,9`.
fn core_list(text: &str) -> Result<CoreList, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |s: &str| {
            s.trim().parse::<u32>().map_err(|_| format!("`{part}` is no core: write 1 or 2,3 or 4-7"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last - first > 4096 {
            return Err(format!("`{part}` is no range of cores"));
        }
        cores.extend(first..=last);
    }
    Ok(CoreList(cores))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(duration("10").unwrap(), Duration::from_secs(10));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert!(duration("10 years").unwrap_err().contains("unit"));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(core_list("1").unwrap().0, [1]);
        assert_eq!(core_list("4-6,9").unwrap().0, [4, 5, 6, 9]);
        assert!(core_list("a").is_err());
        assert!(core_list("6-4").is_err());
    }

    #[test]
    fn a_file_per_operation_lies_beside_the_whole() {
        assert_eq!(beside(Path::new("/x/run.hgrm"), "get"), Path::new("/x/run.get.hgrm"));
        assert_eq!(beside(Path::new("run"), "get"), Path::new("run.get"));
    }
}
