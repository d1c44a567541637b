//! `paddock-bench catchup`: a node that is far behind, or has lost its disk, comes back while clients work.
//!
//! Owns four cases, each on a new ensemble of real processes: a node that is only restarted, for comparison; one that missed
//! so many writes and finds all of them in the others' logs; one that finds the logs truncated and needs a snapshot; one with
//! an empty data directory. It stays honest because one uninterrupted load on the leader is measured second by second, before the node comes back and while it catches
//! up; because "caught up" is what the node itself says: it has applied what the leader had applied when it came back; and
//! because the seconds of several rounds count together: a second in which something else held the machine is then one of many.

use crate::common::Common;
use crate::ensemble::nodes::{Ensemble, Weight, field};
use crate::figures::{median, ratio, times};
use crate::load::Load;
use crate::provenance::Provenance;
use crate::server::{Cores, Program, Served};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use paddock_loadgen::report::{RunResult, duration, thousands};
use paddock_loadgen::tally::Second;
use paddock_transport::event_loop::Choice;
use serde::Serialize;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Version of the JSON document.
const DOCUMENT_VERSION: u32 = 2;
/// How often the node is asked how far it has come.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Seconds at the edges of a run and of its phases that belong to neither.
const EDGE_SECONDS: f64 = 0.1;

/// A node far behind, and one with an empty disk, catch up under load: how long it takes and what clients notice.
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
    /// Writes that the node misses
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    entries: u64,
    /// Operations per second on the leader while the node catches up
    #[arg(long, default_value_t = 10_000.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Share of reads among them
    #[arg(long, default_value_t = 0.95, value_name = "SHARE")]
    reads: f64,
    /// Seconds of load before the node comes back
    #[arg(long, default_value_t = 8, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=3600))]
    before: u64,
    /// Seconds of load from then on; the node must have caught up within them
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=3600))]
    after: u64,
    /// Let the node that comes back compete for the leader's core as its equal; otherwise it gets what the others leave, as
    /// if it had a machine of its own (by chrt of util-linux)
    #[arg(long)]
    compete: bool,
    /// Znodes
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    value_size: u32,
    /// Event loop of Paddock: auto, uring or epoll
    #[arg(long, default_value_t, value_name = "NAME")]
    transport: Choice,
    /// Where the node that comes back has its data then, so that its disk is not the leader's: /dev/shm will do
    #[arg(long, value_name = "DIR")]
    late_dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// How the node fell behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    /// It is restarted and missed nothing to speak of: what its start alone costs whoever shares a machine with it
    Restart,
    /// It was stopped; the others kept everything that it missed in their logs
    Log,
    /// It was stopped; the others have snapshots instead of the older entries
    Snapshot,
    /// Its data directory was emptied
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
            // Beyond what is written here.
            Case::Log => vec!["snapCount=1000000000".to_owned()],
            Case::Restart | Case::Snapshot | Case::Empty => Vec::new(),
        }
    }
}

/// Latency of a phase of the load, all operations together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Phase {
    seconds: usize,
    operations_per_second: f64,
    /// Median of the seconds' medians.
    p50_us: f64,
    /// Median of the seconds' p99.
    p99_us: f64,
    /// The worst second's p99.
    p99_max_us: f64,
}

/// The seconds of a load before the node came back, while it caught up, and after that.
type Phases<T> = [T; 3];

/// One round of a case.
struct Round {
    /// Writes that the node had missed, by the zxids of leader and node.
    missed: u64,
    /// From its start until it had applied what the leader had applied at its start.
    caught_up_seconds: f64,
    /// From its start until it served clients.
    serves_seconds: f64,
    /// What it calls itself in the end.
    state: String,
    seconds: Phases<Vec<Second>>,
    errors: u64,
}

/// What came out of one case: medians of its rounds, and the seconds of all of them.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    case: Case,
    rounds: usize,
    missed: f64,
    caught_up_seconds: f64,
    caught_up_seconds_max: f64,
    serves_seconds: f64,
    states: Vec<String>,
    before: Phase,
    during: Phase,
    after: Phase,
    /// p99 during as a multiple of p99 before.
    p99_ratio: Option<f64>,
    errors: u64,
}

impl Outcome {
    fn of(case: Case, rounds: &[Round]) -> Self {
        let middle = |pick: &dyn Fn(&Round) -> f64| median(rounds.iter().map(pick).collect());
        let [before, during, after] =
            std::array::from_fn(|phase| Phase::of(rounds.iter().flat_map(|round| &round.seconds[phase])));
        let mut states: Vec<String> = rounds.iter().map(|round| round.state.clone()).collect();
        states.sort();
        states.dedup();
        Self {
            case,
            rounds: rounds.len(),
            missed: middle(&|round| round.missed as f64),
            caught_up_seconds: middle(&|round| round.caught_up_seconds),
            caught_up_seconds_max: rounds.iter().map(|round| round.caught_up_seconds).fold(0.0, f64::max),
            serves_seconds: middle(&|round| round.serves_seconds),
            states,
            before,
            during,
            after,
            p99_ratio: ratio(during.p99_us, before.p99_us),
            errors: rounds.iter().map(|round| round.errors).sum(),
        }
    }
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    cores: Cores,
    entries: u64,
    rate: f64,
    reads: f64,
    rounds: u32,
    /// Whether the node that came back competed for the leader's core.
    compete: bool,
    /// Whether its data lay on another disk than the leader's.
    own_disk: bool,
    keys: u32,
    value_bytes: u32,
    outcomes: Vec<Outcome>,
}

/// The leader alone as a target.
struct Leader(SocketAddr, Vec<u32>);

impl Served for Leader {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.0]
    }

    fn pids(&self) -> Vec<u32> {
        self.1.clone()
    }
}

/// Runs the subcommand.
pub fn run(args: &CatchupArgs) -> anyhow::Result<()> {
    let cores = args.common.cores()?;
    let cases = if args.cases.is_empty() { Case::value_variants().to_vec() } else { args.cases.clone() };
    let outcomes = cases
        .into_iter()
        .map(|case| {
            let rounds: anyhow::Result<Vec<Round>> =
                (1..=args.rounds).map(|number| round(args, case, number, &cores)).collect();
            Ok(Outcome::of(case, &rounds.with_context(|| case.title())?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let document = Document {
        document_version: DOCUMENT_VERSION,
        bench: "catchup",
        provenance: Provenance::here(),
        cores,
        entries: args.entries,
        rate: args.rate,
        reads: args.reads,
        rounds: args.rounds,
        compete: args.compete,
        own_disk: args.late_dir.is_some(),
        keys: args.keys,
        value_bytes: args.value_size,
        outcomes,
    };
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
    // The tree is there before the node goes.
    load(args, 0.0, None, Duration::from_millis(100), Duration::ZERO).run(&target, cores)?;
    let mut left_at = ensemble.zxid(late)?;
    if case != Case::Restart {
        ensemble.stop(late)?;
    }
    // All have the same behind them when they are measured.
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
    std::thread::scope(|scope| {
        let driven = scope.spawn(|| (whole.run(&target, cores), Instant::now()));
        // One second of warm-up, and one in which the generator comes up: where exactly is known in the end.
        std::thread::sleep(before + Duration::from_secs(2));
        if case == Case::Restart {
            left_at = ensemble.zxid(late)?;
            ensemble.stop(late)?;
        }
        let missed = ensemble.zxid(leader)?.saturating_sub(left_at);
        let (began, goal) = (Instant::now(), ensemble.zxid(leader)?);
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
        let (report, ended) = driven.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        let report = report?;
        let state =
            ensemble.mntr(late).ok().and_then(|text| field(&text, "zk_server_state").map(str::to_owned));
        let caught_up = caught_up.with_context(|| {
            format!(
                "the node had not caught up after {} s ({})",
                args.after,
                state.clone().unwrap_or_default()
            )
        })?;
        // The load's own seconds end with it.
        let at = |instant: Instant| report.result.seconds - ended.duration_since(instant).as_secs_f64();
        let (from, until) = (at(began), at(caught_up));
        say(&format!("caught up in {:.1} s", (caught_up - began).as_secs_f64()));
        Ok(Round {
            missed,
            caught_up_seconds: (caught_up - began).as_secs_f64(),
            serves_seconds,
            state: state.unwrap_or_default(),
            seconds: [
                within(&report.result, 0.0, from),
                within(&report.result, from - 1.0 + EDGE_SECONDS, until + 1.0 - EDGE_SECONDS),
                within(&report.result, until, report.result.seconds),
            ],
            errors: report.result.errors.total,
        })
    })
}

/// The seconds that lie wholly between two points of the load.
fn within(result: &RunResult, from: f64, until: f64) -> Vec<Second> {
    let lies = |second: u32| f64::from(second) >= from && f64::from(second) + 1.0 <= until;
    result.per_second.iter().filter(|s| lies(s.second)).cloned().collect()
}

impl Phase {
    fn of<'a>(seconds: impl Iterator<Item = &'a Second>) -> Self {
        let seconds: Vec<&Second> = seconds.collect();
        let of = |pick: &dyn Fn(&Second) -> f64| median(seconds.iter().map(|second| pick(second)).collect());
        Self {
            seconds: seconds.len(),
            operations_per_second: of(&|s| s.operations as f64),
            p50_us: of(&|s| s.p50_us),
            p99_us: of(&|s| s.p99_us),
            p99_max_us: seconds.iter().map(|s| s.p99_us).fold(0.0, f64::max),
        }
    }
}

fn load(args: &CatchupArgs, reads: f64, rate: Option<f64>, duration: Duration, warmup: Duration) -> Load {
    Load {
        reads,
        connections: 64,
        // Deep pipelines where the writes themselves are all that is wanted.
        outstanding: rate.is_none().then_some(128),
        rate,
        keys: args.keys,
        value_bytes: args.value_size,
        duration,
        warmup,
        check: true,
    }
}

fn text(document: &Document) -> String {
    let mut out = format!(
        "{}\nnote     3 nodes on core {}, generator on {:?}; {} znodes of {} bytes; open loop of {} ops/s on the leader, {} % reads\n\
         note     the node that comes back {}; its data is on {}\n\
         note     {} rounds of each case; p99: median of all rounds' seconds' p99 (in brackets the worst second's); times: the median (the slowest)\n\n",
        document.provenance,
        document.cores.server,
        document.cores.generator,
        thousands(document.keys.into()),
        document.value_bytes,
        thousands(document.rate),
        document.reads * 100.0,
        if document.compete {
            "competes for the core as an equal"
        } else {
            "gets what the others leave of the core, as if it had its own machine"
        },
        if document.own_disk { "another disk than the leader's" } else { "the leader's disk" },
        document.rounds,
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "  {:<22} {:>11} {:>17} {:>8} {:>20} {:>20} {:>20} {:>6}  state",
        "case", "missed", "caught up", "serves", "p99 before", "during", "after", "ratio"
    );
    for o in &document.outcomes {
        let p99 = |p: Phase| format!("{} ({})", duration(p.p99_us), duration(p.p99_max_us));
        let _ = writeln!(
            out,
            "  {:<22} {:>11} {:>17} {:>6.2} s {:>20} {:>20} {:>20} {:>6}  {}{}",
            o.case.title(),
            thousands(o.missed),
            format!("{:.2} s ({:.2} s)", o.caught_up_seconds, o.caught_up_seconds_max),
            o.serves_seconds,
            p99(o.before),
            p99(o.during),
            p99(o.after),
            times(o.p99_ratio),
            o.states.join(", "),
            if o.errors > 0 { format!("; {} errors", thousands(o.errors as f64)) } else { String::new() },
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_counts_only_its_whole_seconds() {
        let second = |second: u32, p99_us: f64| Second { second, p99_us, ..Second::default() };
        let per_second = vec![second(0, 1.0), second(1, 9.0), second(2, 3.0), second(3, 5.0)];
        let result = RunResult { per_second, ..RunResult::default() };
        let found = Phase::of(within(&result, 0.5, 4.0).iter());
        assert_eq!((found.seconds, found.p99_us, found.p99_max_us), (3, 5.0, 9.0));
        assert_eq!(within(&result, 0.0, 0.9), []);
    }

    #[test]
    fn one_disturbed_round_does_not_decide_a_case() {
        let round = |p99_us: f64, caught_up_seconds: f64| Round {
            missed: 7,
            caught_up_seconds,
            serves_seconds: 1.0,
            state: "follower".to_owned(),
            seconds: [4.0, p99_us, 4.0].map(|p99_us| vec![Second { p99_us, ..Second::default() }]),
            errors: 1,
        };
        let found = Outcome::of(Case::Log, &[round(6.0, 1.0), round(90.0, 9.0), round(5.0, 2.0)]);
        assert_eq!((found.p99_ratio, found.during.p99_max_us, found.during.seconds), (Some(1.5), 90.0, 3));
        assert_eq!((found.caught_up_seconds, found.caught_up_seconds_max), (2.0, 9.0));
        assert_eq!((found.states, found.errors), (vec!["follower".to_owned()], 3));
    }
}
