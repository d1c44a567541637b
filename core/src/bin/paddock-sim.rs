//! `paddock-sim`: runs seeds of the simulation and reports violations.
//!
//! Exit codes:
//!
//! - 0: no promise was broken; with `--mutations`, each defect was caught.
//! - 1: a promise was broken, or a defect was missed.
//! - 2: wrong flags, or no seed could be drawn.

use clap::Parser;
use paddock_core::mutation::Mutation;
use paddock_core::sim::run::{self, Sum};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper bound of fresh seeds: short enough to type, and far above the ranges that CI keeps.
const FRESH_BELOW: u64 = 1_000_000_000_000;

/// Deterministic simulation of whole nodes: the same seed is the same run, everywhere and always.
#[derive(Parser)]
#[command(after_help = "Example: paddock-sim --seeds 0..2000 --jobs 2 --minutes 15")]
struct Arguments {
    /// Runs only this seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs the seeds FROM..TO.
    #[arg(long, default_value = "0..100", value_parser = range)]
    seeds: (u64, u64),
    /// Runs this many seeds in a row. The first is drawn at random and printed.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["seed", "seeds"])]
    fresh: Option<u64>,
    /// Goes on after a seed that fails, and prints each failure.
    #[arg(long)]
    keep_going: bool,
    /// Number of voters in every run; otherwise the seed decides.
    #[arg(long)]
    voters: Option<usize>,
    /// Number of runs in parallel.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Ends after this many minutes, even if seeds are left.
    #[arg(long)]
    minutes: Option<u64>,
    /// Switches a deliberate defect on in every run.
    #[arg(long, value_parser = mutation)]
    mutation: Option<Mutation>,
    /// Shows the nodes' log lines, with the events among them once a seed has failed.
    #[arg(long)]
    log: bool,
    /// Shows that each deliberate defect is caught within this many seeds.
    #[arg(long, value_name = "SEEDS")]
    mutations: Option<u64>,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write FROM..TO")?;
    let number = |t: &str| t.parse().map_err(|e| format!("`{t}`: {e}"));
    Ok((number(from)?, number(to)?))
}

fn mutation(text: &str) -> Result<Mutation, String> {
    let all = || Mutation::ALL.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
    Mutation::ALL.iter().copied().find(|m| m.name() == text).ok_or_else(|| format!("one of {}", all()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.log {
        tracing_subscriber::fmt().without_time().with_writer(std::io::stderr).init();
    }
    if let Some(seeds) = arguments.mutations {
        return mutations(seeds);
    }
    let (from, to) = match (arguments.seed, arguments.fresh) {
        (Some(seed), _) => (seed, seed + 1),
        (None, Some(count)) => {
            let first = match draw_first() {
                Ok(first) => first,
                Err(error) => {
                    eprintln!(
                        "paddock-sim: no first seed could be drawn: {error}. Name a range with --seeds FROM..TO"
                    );
                    return ExitCode::from(2);
                }
            };
            println!("seeds {first}..{}", first + count);
            (first, first + count)
        }
        (None, None) => arguments.seeds,
    };
    let begun = Instant::now();
    let limit = arguments.minutes.map(|m| Duration::from_secs(60 * m));
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                let goes_on = || arguments.keep_going || !failed.load(Ordering::Relaxed);
                while goes_on() && limit.is_none_or(|limit| begun.elapsed() < limit) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let report = run::seed(seed, arguments.voters, arguments.mutation);
                    if report.violation.is_some() {
                        failed.store(true, Ordering::Relaxed);
                        println!(
                            "{}",
                            run::failure(&report, arguments.voters, arguments.mutation).join("\n")
                        );
                    }
                    sum.lock().unwrap_or_else(|e| e.into_inner()).add(&report);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
    println!("{}", sum.lines().join("\n"));
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    ExitCode::from(u8::from(failed.into_inner()))
}

/// Draws the first seed of a fresh range from the system; two ranges hardly ever overlap.
fn draw_first() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes) % FRESH_BELOW)
}

fn mutations(seeds: u64) -> ExitCode {
    let mut missed = false;
    for mutation in Mutation::ALL {
        let caught = run::catch(*mutation, seeds);
        match &caught {
            Some((seed, checker)) => println!("{:<24} caught by {checker} (seed {seed})", mutation.name()),
            None => println!("{:<24} NOT CAUGHT within {seeds} seeds", mutation.name()),
        }
        missed |= caught.is_none();
    }
    ExitCode::from(u8::from(missed))
}
