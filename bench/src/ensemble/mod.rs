//! `paddock-bench ensemble`: an ensemble of Paddocks and one of ZooKeepers, on the same machine, in the
//! same run.
//!
//! Owns the order of the measurements. Never starts a process itself: [`nodes`] does. Correct because each
//! row is measured on both ensembles before the next round begins, and a figure is the median of the
//! rounds. CPU time is that of all processes of an ensemble together. Clients connect to all nodes in turn,
//! and answers are checked.

pub mod nodes;
mod table;

use crate::common::{Common, Laps, Rival};
use crate::figures::{Figures, ratio};
use crate::load::Load;
use crate::provenance::Provenance;
use crate::server::{Cores, Program};
use anyhow::Context;
use clap::{Args, ValueEnum};
use nodes::Ensemble;
use paddock_loadgen::progress::Meter;
use paddock_transport::event_loop::Choice;
use serde::Serialize;

const DOCUMENT_VERSION: u32 = 1;

/// An ensemble of Paddocks beside one of ZooKeepers: throughput, latency, CPU of all nodes per operation.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  paddock-bench ensemble
  paddock-bench ensemble --nodes 5 --rows reads-95 --rounds 1 --duration 2
  paddock-bench ensemble --outstanding 1 --json ensemble.json

All nodes are bound to one core, the load generator to the others. Figures are medians of the rounds.")]
pub struct EnsembleArgs {
    /// Number of voters per ensemble
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=11))]
    nodes: u8,
    #[command(flatten)]
    rival: Rival,
    /// Event loop of Paddock: auto, uring or epoll
    #[arg(long, default_value_t, value_name = "NAME")]
    transport: Choice,
    /// Rows to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROW")]
    rows: Vec<EnsembleRow>,
    #[command(flatten)]
    laps: Laps,
    /// Sessions, dealt out over the nodes
    #[arg(long, default_value_t = 66, value_name = "N")]
    connections: u32,
    /// Requests in flight per connection
    #[arg(long, default_value_t = 16, value_name = "N")]
    outstanding: u32,
    #[command(flatten)]
    common: Common,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
enum EnsembleRow {
    /// 99 % reads, 1 % writes
    #[value(name = "reads-99")]
    #[serde(rename = "reads-99")]
    Reads99,
    /// 95 % reads, 5 % writes
    #[value(name = "reads-95")]
    #[serde(rename = "reads-95")]
    Reads95,
    /// 90 % reads, 10 % writes
    #[value(name = "reads-90")]
    #[serde(rename = "reads-90")]
    Reads90,
    /// Writes without any reads
    #[value(name = "writes")]
    #[serde(rename = "writes")]
    Writes,
}

impl EnsembleRow {
    fn reads(self) -> f64 {
        match self {
            EnsembleRow::Reads99 => 0.99,
            EnsembleRow::Reads95 => 0.95,
            EnsembleRow::Reads90 => 0.90,
            EnsembleRow::Writes => 0.0,
        }
    }

    fn title(self) -> &'static str {
        match self {
            EnsembleRow::Reads99 => "99 % reads",
            EnsembleRow::Reads95 => "95 % reads",
            EnsembleRow::Reads90 => "90 % reads",
            EnsembleRow::Writes => "writes alone",
        }
    }
}

/// All rounds of one row on one ensemble.
#[derive(Clone, Debug, Serialize)]
struct EnsembleCell {
    row: EnsembleRow,
    ensemble: String,
    /// Medians of the rounds.
    figures: Figures,
    /// Throughput as a multiple of ZooKeeper's.
    throughput_to_zookeeper: Option<f64>,
    /// ZooKeeper's CPU time per operation, of all its nodes, as a multiple of this ensemble's. Unlike
    /// throughput, this remains valid when other processes disturb the machine.
    work_to_zookeeper: Option<f64>,
    rounds: Vec<Figures>,
}

/// The JSON document of `paddock-bench ensemble`.
#[derive(Debug, Serialize)]
struct EnsembleDocument {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    cores: Cores,
    nodes: u8,
    connections: u32,
    outstanding: u32,
    keys: u32,
    value_bytes: u32,
    seconds: f64,
    warmup_seconds: f64,
    cells: Vec<EnsembleCell>,
    notes: Vec<String>,
}

pub fn run(args: &EnsembleArgs) -> anyhow::Result<()> {
    let cores = args.common.cores()?;
    let mut ensembles = start(args, &cores)?;
    let rows = if args.rows.is_empty() { EnsembleRow::value_variants().to_vec() } else { args.rows.clone() };
    let laps = u64::from(args.laps.rounds) * rows.len() as u64 + 1;
    let mut meter = Meter::new(args.common.progress(), "ensemble", laps * ensembles.len() as u64);
    let mut step = 0;
    // A lap that does not count: the tree is filled, and a JVM has compiled the hot code.
    for ensemble in &ensembles {
        step += 1;
        meter.line(step, || format!("lap 0: {}", ensemble.name()));
        load(args, EnsembleRow::Reads95).run(ensemble, &cores)?;
    }
    let mut measured: Vec<Vec<Vec<Figures>>> = vec![vec![Vec::new(); ensembles.len()]; rows.len()];
    for round in 1..=args.laps.rounds {
        for (r, &row) in rows.iter().enumerate() {
            for (at, ensemble) in ensembles.iter().enumerate() {
                let said = || format!("{} on {}", row.title(), ensemble.name());
                let report = load(args, row).run(ensemble, &cores).with_context(said)?;
                step += 1;
                meter.line(step, || format!("round {round}: {}: {:.0}/s", said(), report.result.throughput));
                measured[r][at].push(Figures::of(&report));
            }
        }
    }
    meter.finish();
    let names: Vec<(String, bool)> = programs(args)?
        .iter()
        .map(|program| (program.name(), matches!(program, Program::ZooKeeper(_))))
        .collect();
    let cells = rows.iter().zip(measured).flat_map(|(&row, all)| cells(row, &names, all)).collect();
    let mut notes = vec![format!(
        "all nodes of an ensemble on core {}, generator on {:?}; the other ensemble is idle meanwhile",
        cores.server, cores.generator
    )];
    if cores.shared() {
        notes.push("nodes and generator share a core: throughput and latency mean little".to_owned());
    }
    ensembles.clear();
    let document = EnsembleDocument {
        document_version: DOCUMENT_VERSION,
        bench: "ensemble",
        provenance: Provenance::here(),
        cores,
        nodes: args.nodes,
        connections: args.connections,
        outstanding: args.outstanding,
        keys: args.laps.keys,
        value_bytes: args.laps.value_size,
        seconds: args.laps.duration,
        warmup_seconds: args.laps.warmup,
        cells,
        notes,
    };
    args.common.publish(&document, table::text(&document))
}

fn programs(args: &EnsembleArgs) -> anyhow::Result<Vec<Program>> {
    let own = Program::Paddock(args.transport);
    Ok([own].into_iter().chain(args.rival.program("ensemble")?).collect())
}

fn start(args: &EnsembleArgs, cores: &Cores) -> anyhow::Result<Vec<Ensemble>> {
    let parent = args.common.parent();
    let ensembles = programs(args)?.into_iter().map(|program| {
        let mut ensemble = Ensemble::new(program, args.nodes, Some(cores.server), Vec::new(), &parent)?;
        ensemble.start()?;
        Ok(ensemble)
    });
    ensembles.collect()
}

fn load(args: &EnsembleArgs, row: EnsembleRow) -> Load {
    Load {
        reads: row.reads(),
        connections: args.connections,
        outstanding: Some(args.outstanding),
        rate: None,
        keys: args.laps.keys,
        value_bytes: args.laps.value_size,
        duration: args.laps.duration(),
        warmup: args.laps.warmup(),
        check: true,
    }
}

fn cells(row: EnsembleRow, names: &[(String, bool)], measured: Vec<Vec<Figures>>) -> Vec<EnsembleCell> {
    let medians: Vec<Figures> = measured.iter().map(|rounds| Figures::median(rounds)).collect();
    let zookeeper = names.iter().position(|(_, is_zookeeper)| *is_zookeeper).map(|at| &medians[at]);
    let cells = names.iter().zip(measured).zip(&medians).map(|(((name, _), rounds), figures)| EnsembleCell {
        row,
        ensemble: name.clone(),
        figures: figures.clone(),
        throughput_to_zookeeper: zookeeper.and_then(|z| ratio(figures.throughput, z.throughput)),
        work_to_zookeeper: zookeeper
            .and_then(|z| ratio(z.server_ns_per_operation, figures.server_ns_per_operation)),
        rounds,
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ensemble_is_held_against_zookeeper() {
        let one = |throughput, server_ns_per_operation| {
            vec![Figures { throughput, server_ns_per_operation, ..Figures::default() }]
        };
        let names = [("paddock".to_owned(), false), ("zookeeper".to_owned(), true)];
        let cells = cells(EnsembleRow::Writes, &names, vec![one(30.0, 2.0), one(10.0, 5.0)]);
        let ratios: Vec<_> = cells.iter().map(|c| (c.throughput_to_zookeeper, c.work_to_zookeeper)).collect();
        assert_eq!(ratios, [(Some(3.0), Some(2.5)), (Some(1.0), Some(1.0))]);
    }
}
