//! `paddock-bench peers`: the echo floor, Paddock and a real ZooKeeper, on the same core, in the same run.
//!
//! Owns the order of the measurements. Never starts a process itself: [`crate::server`] does. Correct by
//! alternating: each row is measured on every server before the next round begins, so other activity of the
//! machine falls on all of them. A figure is the median of the rounds. All servers are bound to one core,
//! and only one of them is under load at a time. The generator has the other cores.

mod table;

use crate::common::{Common, Laps, Rival};
use crate::figures::{Figures, median, ratio};
use crate::load::Load;
use crate::provenance::Provenance;
use crate::server::{Cores, Installation, Program, Running};
use anyhow::Context;
use clap::{Args, ValueEnum};
use paddock_loadgen::progress::Meter;
use paddock_transport::event_loop::{Choice, LoopKind, choose};
use serde::Serialize;

const DOCUMENT_VERSION: u32 = 1;

/// The echo floor, Paddock and ZooKeeper side by side: throughput, latency, server CPU per operation.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  paddock-bench peers
  paddock-bench peers --zookeeper ~/.cache/paddock-peers/lib --transport both --json peers.json
  paddock-bench peers --rows reads-1,mixed-16 --rounds 1 --duration 2

Each server is bound to one core, the load generator to the others. Figures are medians of the rounds.")]
pub struct PeersArgs {
    #[command(flatten)]
    rival: Rival,
    /// Event loop of the echo server and of Paddock: the default one, a named one, or both
    #[arg(long, value_enum, default_value_t = Transports::Auto)]
    transport: Transports,
    /// Rows to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROW")]
    rows: Vec<PeersRow>,
    #[command(flatten)]
    laps: Laps,
    /// Number of sessions to open
    #[arg(long, default_value_t = 64, value_name = "N")]
    connections: u32,
    #[command(flatten)]
    common: Common,
}

/// Event loops that the echo server and Paddock are measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transports {
    /// io_uring where the kernel allows it, epoll elsewhere
    Auto,
    /// The io_uring loop only
    Uring,
    /// The epoll loop only
    Epoll,
    /// One after the other
    Both,
}

impl Transports {
    fn choices(self) -> anyhow::Result<Vec<Choice>> {
        Ok(match self {
            Transports::Auto => match choose(Choice::Auto)?.0 {
                LoopKind::Uring => vec![Choice::Uring],
                LoopKind::Epoll => vec![Choice::Epoll],
            },
            Transports::Uring => vec![Choice::Uring],
            Transports::Epoll => vec![Choice::Epoll],
            Transports::Both => vec![Choice::Uring, Choice::Epoll],
        })
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PeersRow {
    /// Reads alone, one in flight per connection
    #[value(name = "reads-1")]
    #[serde(rename = "reads-1")]
    Reads1,
    /// Reads alone, 16 in flight
    #[value(name = "reads-16")]
    #[serde(rename = "reads-16")]
    Reads16,
    /// 95 % reads, 16 in flight
    #[value(name = "mixed-16")]
    #[serde(rename = "mixed-16")]
    Mixed16,
    /// Writes alone, 16 in flight
    #[value(name = "writes-16")]
    #[serde(rename = "writes-16")]
    Writes16,
    /// 95 % reads at half of the rate that mixed-16 reached: an open loop, latency from the intended
    /// instant
    #[value(name = "half-rate")]
    HalfRate,
}

impl PeersRow {
    fn reads(self) -> f64 {
        match self {
            PeersRow::Reads1 | PeersRow::Reads16 => 1.0,
            PeersRow::Mixed16 | PeersRow::HalfRate => 0.95,
            PeersRow::Writes16 => 0.0,
        }
    }

    fn outstanding(self) -> Option<u32> {
        match self {
            PeersRow::Reads1 => Some(1),
            PeersRow::Reads16 | PeersRow::Mixed16 | PeersRow::Writes16 => Some(16),
            PeersRow::HalfRate => None,
        }
    }
}

/// All rounds of one row on one server.
#[derive(Clone, Debug, Serialize)]
struct PeersCell {
    row: PeersRow,
    server: String,
    /// Medians of the rounds.
    figures: Figures,
    /// Server CPU per operation as a multiple of the echo's on the same loop.
    cpu_to_echo: Option<f64>,
    /// Throughput as a multiple of ZooKeeper's.
    throughput_to_zookeeper: Option<f64>,
    /// ZooKeeper's CPU time per operation as a multiple of this server's: the ratio of throughputs if each
    /// had its core to itself. Unlike throughput, this remains valid when other processes disturb the
    /// machine.
    work_to_zookeeper: Option<f64>,
    rounds: Vec<Figures>,
}

/// The JSON document of `paddock-bench peers`.
#[derive(Debug, Serialize)]
struct PeersDocument {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    cores: Cores,
    connections: u32,
    keys: u32,
    value_bytes: u32,
    seconds: f64,
    warmup_seconds: f64,
    cells: Vec<PeersCell>,
    notes: Vec<String>,
}

struct Contestant {
    program: Program,
    running: Running,
    // Holds the data directory. Declared after the process, so that it is removed after the process ends.
    _installation: Installation,
}

pub fn run(args: &PeersArgs) -> anyhow::Result<()> {
    let cores = args.common.cores()?;
    let mut contestants = start(args, &cores)?;
    let rows = if args.rows.is_empty() { PeersRow::value_variants().to_vec() } else { args.rows.clone() };
    let steps = u64::from(args.laps.rounds + 1) * (rows.len() * contestants.len()) as u64;
    let mut meter = Meter::new(args.common.progress(), "peers", steps);
    let mut measured: Vec<Vec<Vec<Figures>>> = vec![vec![Vec::new(); contestants.len()]; rows.len()];
    let mut saturation: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut step = 0;
    // A lap that does not count: the tree is filled, a JVM has compiled the hot code, and each server's
    // rate is known.
    for (at, contestant) in contestants.iter_mut().enumerate() {
        step += rows.len() as u64;
        meter.line(step, || format!("lap 0: {}", contestant.program.name()));
        let report = load(args, contestant, PeersRow::Mixed16, None).run(&contestant.running, &cores)?;
        saturation[at].push(report.result.throughput);
    }
    for round in 1..=args.laps.rounds {
        for (r, &row) in rows.iter().enumerate() {
            for (at, contestant) in contestants.iter().enumerate() {
                let rate = (row == PeersRow::HalfRate).then(|| saturated(&saturation[at]) / 2.0);
                let report =
                    load(args, contestant, row, rate).run(&contestant.running, &cores).with_context(
                        || format!("{} on {}", row.title(args.connections), contestant.program.name()),
                    )?;
                if row == PeersRow::Mixed16 {
                    saturation[at].push(report.result.throughput);
                }
                step += 1;
                meter.line(step, || {
                    let name = contestant.program.name();
                    format!(
                        "round {round}: {}, {name}: {:.0}/s",
                        row.title(args.connections),
                        report.result.throughput
                    )
                });
                measured[r][at].push(Figures::of(&report));
            }
        }
    }
    meter.finish();
    let programs: Vec<Program> = contestants.iter().map(|c| c.program.clone()).collect();
    let cells = rows.iter().zip(measured).flat_map(|(&row, all)| cells(row, &programs, all)).collect();
    let mut notes = vec![format!("servers on core {}, generator on {:?}", cores.server, cores.generator)];
    if cores.shared() {
        notes.push("server and generator share a core: throughput and latency mean little".to_owned());
    }
    let document = PeersDocument {
        document_version: DOCUMENT_VERSION,
        bench: "peers",
        provenance: Provenance::here(),
        cores,
        connections: args.connections,
        keys: args.laps.keys,
        value_bytes: args.laps.value_size,
        seconds: args.laps.duration,
        warmup_seconds: args.laps.warmup,
        cells,
        notes,
    };
    args.common.publish(&document, table::text(&document))
}

/// The rate at which a server was saturated: the median of the rounds, or of the first lap while there is
/// none.
fn saturated(seen: &[f64]) -> f64 {
    median(seen.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(seen).to_vec())
}

fn start(args: &PeersArgs, cores: &Cores) -> anyhow::Result<Vec<Contestant>> {
    let mut programs = Vec::new();
    for choice in args.transport.choices()? {
        programs.extend([Program::Echo(choice), Program::Paddock(choice)]);
    }
    programs.extend(args.rival.program("peers")?);
    let parent = args.common.parent();
    let contestants = programs.into_iter().map(|program| {
        let installation = Installation::new(program.clone(), Some(cores.server), &parent)?;
        let running = installation.start("/")?;
        Ok(Contestant { program, running, _installation: installation })
    });
    contestants.collect()
}

fn load(args: &PeersArgs, contestant: &Contestant, row: PeersRow, rate: Option<f64>) -> Load {
    Load {
        reads: row.reads(),
        connections: args.connections,
        outstanding: row.outstanding(),
        rate,
        keys: args.laps.keys,
        value_bytes: args.laps.value_size,
        duration: args.laps.duration(),
        warmup: args.laps.warmup(),
        check: !matches!(contestant.program, Program::Echo(_)),
    }
}

fn cells(row: PeersRow, programs: &[Program], measured: Vec<Vec<Figures>>) -> Vec<PeersCell> {
    let medians: Vec<Figures> = measured.iter().map(|rounds| Figures::median(rounds)).collect();
    let of = |wanted: &dyn Fn(&Program) -> bool| programs.iter().position(wanted).map(|at| &medians[at]);
    let zookeeper = of(&|p| matches!(p, Program::ZooKeeper(_)));
    let cells = programs.iter().zip(measured).zip(&medians).map(|((program, rounds), figures)| {
        let echo = match program {
            Program::Paddock(choice) | Program::Echo(choice) => of(&|p| *p == Program::Echo(*choice)),
            Program::ZooKeeper(_) => None,
        };
        PeersCell {
            row,
            server: program.name(),
            figures: figures.clone(),
            cpu_to_echo: echo.and_then(|e| ratio(figures.server_ns_per_operation, e.server_ns_per_operation)),
            throughput_to_zookeeper: zookeeper.and_then(|z| ratio(figures.throughput, z.throughput)),
            work_to_zookeeper: zookeeper
                .and_then(|z| ratio(z.server_ns_per_operation, figures.server_ns_per_operation)),
            rounds,
        }
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn the_lap_that_warms_up_does_not_tell_the_rate() {
        assert_eq!(saturated(&[7.0]), 7.0);
        assert_eq!(saturated(&[7.0, 20.0, 10.0]), 15.0);
    }

    #[test]
    fn paddock_is_held_against_the_echo_on_its_own_loop() {
        let programs = [
            Program::Echo(Choice::Uring),
            Program::Paddock(Choice::Uring),
            Program::Echo(Choice::Epoll),
            Program::Paddock(Choice::Epoll),
            Program::ZooKeeper(PathBuf::new()),
        ];
        let one = |throughput, server_ns_per_operation| {
            vec![Figures { throughput, server_ns_per_operation, ..Figures::default() }]
        };
        let measured = vec![one(9.0, 10.0), one(8.0, 12.0), one(7.0, 20.0), one(6.0, 30.0), one(2.0, 0.0)];
        let cells = cells(PeersRow::Reads1, &programs, measured);
        let ratios: Vec<_> = cells.iter().map(|c| (c.cpu_to_echo, c.throughput_to_zookeeper)).collect();
        let expected = [
            (Some(1.0), Some(4.5)),
            (Some(1.2), Some(4.0)),
            (Some(1.0), Some(3.5)),
            (Some(1.5), Some(3.0)),
            (None, Some(1.0)),
        ];
        assert_eq!(ratios, expected);
    }
}
