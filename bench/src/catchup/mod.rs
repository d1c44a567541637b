//! `paddock-bench catchup`: a node that is far behind, or has lost its disk, comes back under load.
//!
//! Owns four cases, each on a new ensemble of real processes. A node is only restarted, for comparison. A
//! node missed many writes and finds all of them in the others' logs. A node finds the logs truncated and
//! needs a snapshot. A node has an empty data directory.
//!
//! Correct because one uninterrupted load on the leader is measured second by second, before the node comes
//! back and while it catches up. The node has caught up when it reports, as applied, the zxid that the
//! leader had applied when the node came back. The seconds of several rounds count together, so a second in
//! which another process held the machine is one of many. Seconds in which the host disturbed the memory
//! are counted separately (see [`crate::canary`]).

mod outcome;

use self::outcome::{CatchUpDocument, CatchUpOutcome, Round, phases, text};
use crate::canary::Canary;
use crate::common::Common;
use crate::ensemble::nodes::{Ensemble, Weight, field};
use crate::load::Load;
use crate::server::{Cores, Program, Served};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use paddock_loadgen::report::thousands;
use paddock_loadgen::run::wall_ms;
use paddock_transport::event_loop::Choice;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Interval at which the returning node is asked for its zxid.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A node far behind, and one with an empty disk, catch up under load: how long it takes and what clients
/// notice.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  paddock-bench catchup
  paddock-bench catchup --late-dir /dev/shm
  paddock-bench catchup --cases empty --entries 100000 --rate 5000

Three nodes on one core, the load generator on the others. The load of the measurement is an open loop on the leader.")]
pub struct CatchupArgs {
    /// Cases to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CASE")]
    cases: Vec<Case>,
    /// Rounds of each case, each on a new ensemble; their seconds count together
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Lowest number of writes that the node misses
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    entries: u64,
    /// Operations per second on the leader while the node catches up
    #[arg(long, default_value_t = 10_000.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Share of reads among these operations
    #[arg(long, default_value_t = 0.95, value_name = "SHARE")]
    reads: f64,
    /// Seconds of load before the node comes back
    #[arg(long, default_value_t = 8, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=3600))]
    before: u64,
    /// Seconds of load after the node comes back; the node must have caught up within them
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=3600))]
    after: u64,
    /// Let the node that comes back compete for the leader's core as its equal; otherwise it gets what the
    /// others leave, as if it had a machine of its own (by chrt of util-linux)
    #[arg(long)]
    compete: bool,
    /// Number of znodes to write
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    value_size: u32,
    /// Event loop of Paddock: auto, uring or epoll
    #[arg(long, default_value_t, value_name = "NAME")]
    transport: Choice,
    /// Parent of the data of the node that comes back, so that its disk is not the leader's: /dev/shm will
    /// do
    #[arg(long, value_name = "DIR")]
    late_dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Reason why the node is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    /// Restarted, and hardly behind: what the start alone costs the other processes on the machine
    Restart,
    /// Stopped; the others kept all missed writes in their logs
    Log,
    /// Stopped; the others have snapshots instead of the older entries
    Snapshot,
    /// Stopped, and its data directory emptied
    Empty,
}

impl Case {
    fn title(self) -> &'static str {
        match self {
            Case::Restart => "restarted, not behind",
            Case::Log => "behind, by the log",
            Case::Snapshot => "behind, by a snapshot",
            Case::Empty => "empty disk",
        }
    }

    fn settings(self) -> Vec<String> {
        match self {
            // More entries than any run writes, so that no snapshot is taken.
            Case::Log => vec!["snapCount=1000000000".to_owned()],
            Case::Restart | Case::Snapshot | Case::Empty => Vec::new(),
        }
    }
}

/// The leader alone as a target: its address and process id.
struct Leader(SocketAddr, Vec<u32>);

impl Served for Leader {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.0]
    }

    fn pids(&self) -> Vec<u32> {
        self.1.clone()
    }
}

pub fn run(args: &CatchupArgs) -> anyhow::Result<()> {
    let cores = args.common.cores()?;
    let cases = if args.cases.is_empty() { Case::value_variants().to_vec() } else { args.cases.clone() };
    let outcomes = cases
        .into_iter()
        .map(|case| {
            let rounds: anyhow::Result<Vec<Round>> =
                (1..=args.rounds).map(|number| round(args, case, number, &cores)).collect();
            Ok(CatchUpOutcome::of(case, &rounds.with_context(|| case.title())?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let document = CatchUpDocument::new(args, cores, outcomes);
    args.common.publish(&document, text(&document))
}

fn round(args: &CatchupArgs, case: Case, number: u32, cores: &Cores) -> anyhow::Result<Round> {
    let say = |what: &str| {
        args.common.say(&format!("catchup: {}, round {number} of {}: {what}", case.title(), args.rounds));
    };
    let parent = args.common.parent();
    let program = Program::Paddock(args.transport);
    let mut ensemble = Ensemble::new(program, 3, Some(cores.server), case.settings(), &parent)?;
    ensemble.start()?;
    let leader = ensemble.leader()?;
    let late = (leader + 1) % ensemble.nodes();
    let target = Leader(ensemble.address(leader), ensemble.pid(leader).into_iter().collect());
    // The tree is filled before the node is stopped.
    load(args, 0.0, None, Duration::from_millis(100), Duration::ZERO).run(&target, cores)?;
    let mut left_at = ensemble.zxid(late)?;
    if case != Case::Restart {
        ensemble.stop(late)?;
    }
    // All cases are measured after the same number of writes.
    let goal = left_at + args.entries;
    while ensemble.zxid(leader)? < goal {
        let missed = ensemble.zxid(leader)?.saturating_sub(left_at);
        say(&format!("{} of {} writes", thousands(missed as f64), thousands(args.entries as f64)));
        load(args, 0.0, None, Duration::from_secs(2), Duration::ZERO).run(&target, cores)?;
    }
    if let Some(parent) = args.late_dir.as_ref().filter(|_| case != Case::Restart) {
        ensemble.take_to(late, parent)?;
    }
    if case == Case::Empty {
        ensemble.wipe(late)?;
    }
    if ensemble.leader()? != leader {
        bail!("another node leads than before; the machine is too busy for a measurement");
    }
    say("load on the leader");
    let (before, after) = (Duration::from_secs(args.before), Duration::from_secs(args.after));
    let whole = load(args, args.reads, Some(args.rate), before + after, Duration::from_secs(1));
    let canary = Canary::start(cores.generator.first().copied())?;
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let driven = scope.spawn(|| whole.run_telling(&target, cores, tell));
        // The tree was filled before the first second. A load that fails sends no more seconds, and returns
        // its error at the end.
        while told.recv().is_ok_and(|second| second < args.before) {}
        if case == Case::Restart {
            left_at = ensemble.zxid(late)?;
            ensemble.stop(late)?;
        }
        let missed = ensemble.zxid(leader)?.saturating_sub(left_at);
        let goal = ensemble.zxid(leader)?;
        let (began, began_ms) = (Instant::now(), wall_ms());
        let weight = if args.compete { Weight::Equal } else { Weight::Idle };
        let launched = ensemble.launch(late, weight)?;
        let waiting = scope.spawn(|| launched.ready("/"));
        let mut caught_up = None;
        while caught_up.is_none() && began.elapsed() < after {
            std::thread::sleep(ASK_EVERY);
            caught_up = ensemble.zxid(late).is_ok_and(|zxid| zxid >= goal).then(Instant::now);
        }
        let running = waiting.join().map_err(|_| anyhow::anyhow!("waiting for the node panicked"))??;
        let serves_seconds = running.started_in.as_secs_f64();
        ensemble.joined(late, running);
        let report = driven.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        let state =
            ensemble.mntr(late).ok().and_then(|text| field(&text, "zk_server_state").map(str::to_owned));
        let caught_up = caught_up.with_context(|| {
            format!(
                "the node had not caught up after {} s ({})",
                args.after,
                state.clone().unwrap_or_default()
            )
        })?;
        let caught_up_seconds = (caught_up - began).as_secs_f64();
        let from = (began_ms - report.result.measured_from_ms) as f64 / 1000.0;
        let round = Round {
            missed,
            caught_up_seconds,
            serves_seconds,
            state: state.unwrap_or_default(),
            laps: phases(&report.result, from, from + caught_up_seconds.max(serves_seconds), &canary.stop()?),
            errors: report.result.errors.total,
        };
        say(&format!("caught up in {caught_up_seconds:.1} s; {}", round.p99s()));
        Ok(round)
    })
}

fn load(args: &CatchupArgs, reads: f64, rate: Option<f64>, duration: Duration, warmup: Duration) -> Load {
    Load {
        reads,
        connections: 64,
        // Without a rate only the writes matter, so pipelines are deep.
        outstanding: rate.is_none().then_some(128),
        rate,
        keys: args.keys,
        value_bytes: args.value_size,
        duration,
        warmup,
        check: true,
    }
}
