//! The findings of a run, as data and as text.
//!
//! Owns the shape of the JSON document and the printed summary. Judges whether the figures show the limit
//! of the server or of the generator. Never measures anything. Correct because the document carries its
//! version, and fields are added but never renamed.

mod availability;
mod text;

pub use availability::{Availability, Verification, VerifiedServer};
pub use text::{duration, thousands};

use crate::check::{Place, Violation};
use crate::config::{Arrivals, Distribution, RunConfig};
use crate::counts::{Counts, Second};
use crate::gaps::Gaps;
use crate::histogram::{Latencies, LatencySummary};
use crate::keyspace::Op;
use crate::machine::{CpuUsage, Machine};
use crate::session::Trouble;
use paddock_transport::wire::error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON document. Grows when a field changes its meaning.
pub const REPORT_VERSION: u32 = 1;
/// Share of time on a core from which a thread counts as saturated.
pub const SATURATED: f64 = 0.95;

/// The JSON document of `paddock-load run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`REPORT_VERSION`] in new reports.
    pub report_version: u32,
    pub tool: Tool,
    pub provenance: Provenance,
    pub workload: WorkloadSummary,
    pub server: ServerSummary,
    pub result: RunResult,
    pub cpu: Cpu,
    pub verdict: Verdict,
}

/// The program that measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
    /// Whether the build was optimised.
    pub optimised: bool,
}

impl Tool {
    pub fn this() -> Self {
        Self {
            name: "paddock-load".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// Origin of the figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub command: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// The machine that the generator ran on.
    pub machine: Machine,
}

/// Settings of a run, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSummary {
    /// Share of reads, 0 to 1.
    pub reads: f64,
    /// One of `closed` and `open`.
    pub loop_kind: String,
    /// Intended requests per second of an open loop.
    pub rate: Option<f64>,
    /// In an open loop, `poisson` or `constant`.
    pub arrivals: Option<String>,
    pub connections: u32,
    /// Number of connections that write; `None`: all of them.
    #[serde(default)]
    pub writers: Option<u32>,
    /// Requests in flight per connection.
    pub outstanding: u32,
    /// Number of generator threads.
    pub threads: usize,
    /// Event loop of the generator.
    pub transport: String,
    pub keys: u32,
    pub value_bytes: u32,
    /// One of `uniform` and `zipf`.
    pub distribution: String,
    pub zipf_exponent: Option<f64>,
    /// Path of the tree's root.
    pub root: String,
    pub seed: u64,
    pub checked: bool,
    /// Time under load before the measured time.
    pub warmup_seconds: f64,
    /// Configured length of the measured time.
    pub duration_seconds: f64,
}

impl WorkloadSummary {
    /// The settings of `config` as they took effect.
    pub fn of(config: &RunConfig, threads: usize, transport: &str) -> Self {
        let arrivals = match config.arrivals {
            Arrivals::Poisson => "poisson",
            Arrivals::Constant => "constant",
        };
        let (distribution, zipf_exponent) = match config.distribution {
            Distribution::Uniform => ("uniform", None),
            Distribution::Zipf { exponent } => ("zipf", Some(exponent)),
        };
        Self {
            reads: config.reads,
            loop_kind: if config.rate.is_some() { "open" } else { "closed" }.to_owned(),
            rate: config.rate,
            arrivals: config.rate.map(|_| arrivals.to_owned()),
            connections: config.connections,
            writers: config.writers,
            outstanding: config.outstanding(),
            threads,
            transport: transport.to_owned(),
            keys: config.keys,
            value_bytes: config.value_bytes,
            distribution: distribution.to_owned(),
            zipf_exponent,
            root: config.root.clone(),
            seed: config.seed,
            checked: config.check,
            warmup_seconds: config.warmup.as_secs_f64(),
            duration_seconds: config.duration.as_secs_f64(),
        }
    }
}

/// Description of the server, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerSummary {
    /// Addresses of the servers.
    pub targets: Vec<String>,
    /// Whether the server ran inside the generator's process.
    pub embedded: bool,
    /// Version in the server's answer to `srvr`.
    pub version: Option<String>,
    /// Process ids of the servers, if their CPU time was measured.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// First element of `pids`, kept for readers of older reports.
    pub pid: Option<u32>,
}

/// Results of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Length of the measured time.
    pub seconds: f64,
    /// Operations answered without error within the measured time.
    pub operations: u64,
    /// Operations per second of the measured time.
    pub throughput: f64,
    /// Results by name of the operation: `get` and `set`.
    pub by_operation: BTreeMap<String, OperationResult>,
    /// Error replies by name of the error.
    pub errors: CountByKind,
    /// Requests lost with their connections. The server may or may not have executed them.
    pub outcome_unknown: u64,
    /// Requests that an open loop could not send in time. Their waiting times count in the latencies.
    pub unsent: u64,
    /// Violations by kind. A run with any of them ends with exit code 3.
    pub wrong_answers: CountByKind,
    /// The first violations in words.
    pub wrong_examples: Vec<String>,
    /// Connection events by name.
    pub connections: BTreeMap<String, u64>,
    /// Delay between intended and actual sending, in an open loop.
    pub send_lateness: Option<LatencySummary>,
    /// Wall clock at the beginning of the measured time, ms since the Unix epoch. Seconds and gaps count
    /// from there.
    #[serde(default)]
    pub measured_from_ms: i64,
    pub per_second: Vec<Second>,
    /// Gaps, sessions and lost requests, in a run through failures.
    #[serde(default)]
    pub availability: Option<Availability>,
    /// Result of the final reading back, if there was one.
    #[serde(default)]
    pub verification: Option<Verification>,
}

/// Results of one kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationResult {
    /// Operations answered without error within the measured time.
    pub operations: u64,
    /// Operations per second of the measured time.
    pub throughput: f64,
    /// Latency from the intended instant (open loop) or from sending (closed loop).
    pub latency: LatencySummary,
    /// Latency from sending, in an open loop. A generator with coordinated omission would report this.
    pub latency_from_send: Option<LatencySummary>,
}

/// Counts by name, and their sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CountByKind {
    pub total: u64,
    pub by_kind: BTreeMap<String, u64>,
}

impl CountByKind {
    fn of(counts: impl Iterator<Item = (String, u64)>) -> Self {
        let by_kind: BTreeMap<_, _> = counts.filter(|&(_, n)| n > 0).collect();
        Self { total: by_kind.values().sum(), by_kind }
    }
}

/// CPU time within the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// The generator's own threads.
    pub generator: CpuUsage,
    /// The server's threads, if it is embedded or its process id is known.
    pub server: Option<CpuUsage>,
    pub generator_ns_per_operation: f64,
    pub server_ns_per_operation: Option<f64>,
}

/// Judgement of the results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// No violation and no missing reply, and at least one server was read back if any was to be.
    pub correct: bool,
    /// A generator thread was saturated and no server thread was.
    pub generator_was_the_bottleneck: bool,
    /// Cautions about the figures, in words.
    pub notes: Vec<String>,
}

/// Everything that a report is made from.
#[derive(Debug)]
pub struct Findings<'a> {
    pub config: &'a RunConfig,
    /// Number of generator threads.
    pub threads: usize,
    /// Event loop of the generator.
    pub transport: String,
    pub server: ServerSummary,
    /// Sum of all threads' counts.
    pub counts: &'a Counts,
    /// Wall clock at the beginning of the measured time, ms since the Unix epoch.
    pub measured_from_ms: i64,
    pub per_second: Vec<Second>,
    /// Gaps of reads and gaps of writes.
    pub gaps: (Gaps, Gaps),
    pub verification: Option<Verification>,
    /// Length of the measured time.
    pub seconds: f64,
    /// Wall clock at the beginning of the run, ms since the Unix epoch.
    pub started_ms: i64,
    pub generator: CpuUsage,
    /// `None` if the server is not embedded and its process id is not known.
    pub server_cpu: Option<CpuUsage>,
}

impl Report {
    pub fn new(findings: Findings<'_>) -> Self {
        let Findings { config, counts, seconds, .. } = findings;
        let per = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let operations: u64 = counts.completed.iter().sum();
        let open = config.rate.is_some();
        let by_operation = Op::ALL
            .iter()
            .map(|&op| {
                let at = op as usize;
                let result = OperationResult {
                    operations: counts.completed[at],
                    throughput: per(counts.completed[at]),
                    latency: counts.latency[at].summary(),
                    latency_from_send: open.then(|| counts.from_send[at].summary()),
                };
                (op.name().to_owned(), result)
            })
            .collect();
        let error_name = |code: i32| error::name(code).map_or_else(|| format!("error {code}"), str::to_owned);
        let troubles = Trouble::ALL.iter().map(|&t| (t.name().to_owned(), counts.troubles[t as usize]));
        let per_operation = |cpu: &CpuUsage| cpu.cpu_seconds * 1e9 / operations.max(1) as f64;
        let result = RunResult {
            seconds,
            operations,
            throughput: per(operations),
            by_operation,
            errors: CountByKind::of(counts.errors.iter().map(|(&code, &n)| (error_name(code), n))),
            outcome_unknown: counts.outcome_unknown,
            unsent: counts.unsent,
            wrong_answers: CountByKind::of(
                counts.violations.iter().map(|(kind, &n)| (kind.name().to_owned(), n)),
            ),
            wrong_examples: wrong_examples(counts, &findings.server),
            connections: troubles.filter(|&(_, n)| n > 0).collect(),
            send_lateness: open.then(|| counts.lateness.summary()),
            measured_from_ms: findings.measured_from_ms,
            per_second: findings.per_second,
            availability: config.through_failures.then(|| Availability::new(config, counts, findings.gaps)),
            verification: findings.verification,
        };
        let cpu = Cpu {
            generator_ns_per_operation: per_operation(&findings.generator),
            server_ns_per_operation: findings.server_cpu.as_ref().map(per_operation),
            generator: findings.generator,
            server: findings.server_cpu,
        };
        let workload = WorkloadSummary::of(config, findings.threads, &findings.transport);
        let mut verdict = judge(&result, &cpu);
        verdict.notes.extend(result.availability.iter().flat_map(|a| a.notes(&workload)));
        Self {
            report_version: REPORT_VERSION,
            tool: Tool::this(),
            provenance: Provenance {
                command: config.command.clone(),
                started_ms: findings.started_ms,
                machine: Machine::read(),
            },
            workload,
            server: findings.server,
            verdict,
            result,
            cpu,
        }
    }
}

/// The first violations in words, with the server and session of each.
fn wrong_examples(counts: &Counts, server: &ServerSummary) -> Vec<String> {
    let words = |(violation, place): &(Violation, Option<Place>)| match place {
        Some(Place { target, session }) => {
            let target = server.targets.get(*target).map_or("an unknown server", String::as_str);
            format!("{violation} (by {target}, session {session:#x})")
        }
        None => violation.to_string(),
    };
    counts.examples.iter().map(words).collect()
}

fn judge(result: &RunResult, cpu: &Cpu) -> Verdict {
    let mut notes = Vec::new();
    let saturated = cpu.generator.busiest >= SATURATED;
    let server_saturated = cpu.server.as_ref().map(|s| s.busiest >= SATURATED);
    let bottleneck = saturated && server_saturated == Some(false);
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    match (saturated, server_saturated) {
        (true, Some(false)) => notes.push(format!(
            "the generator was the bottleneck: its busiest thread was on a core {} of the time, the server's {}; use more --threads",
            percent(cpu.generator.busiest),
            percent(cpu.server.as_ref().map_or(0.0, |s| s.busiest)),
        )),
        (true, None) => notes.push(format!(
            "the generator may have been the bottleneck: its busiest thread was on a core {} of the time; use more --threads, or give --server-pid",
            percent(cpu.generator.busiest),
        )),
        _ => {}
    }
    if result.unsent > 0 {
        notes.push(format!(
            "the server did not keep up: {} requests could not be sent in time; they count with the time they had waited",
            thousands(result.unsent as f64)
        ));
    }
    if result.outcome_unknown > 0 {
        notes.push(format!(
            "{} requests were lost with their connections and may or may not have been carried out",
            thousands(result.outcome_unknown as f64)
        ));
    }
    for (kind, n) in &result.connections {
        notes.push(format!("connections: {kind} {n}"));
    }
    if result.operations == 0 {
        notes.push("nothing was answered in the measured time".to_owned());
    }
    if cfg!(debug_assertions) {
        notes.push("built without optimisation: figures mean nothing (use --release)".to_owned());
    }
    let mut correct = result.wrong_answers.total == 0;
    if let Some(verification) = &result.verification {
        correct &= verification.complete > 0;
        notes.extend(verification.notes());
    }
    Verdict { correct, generator_was_the_bottleneck: bottleneck, notes }
}

/// The JSON document of `paddock-load idle`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    /// Always [`REPORT_VERSION`] in new reports.
    pub report_version: u32,
    pub tool: Tool,
    pub provenance: Provenance,
    pub server: ServerSummary,
    /// Number of sessions that were held.
    pub sessions: u32,
    pub timeout_ms: u64,
    /// Length of the measured time.
    pub seconds: f64,
    /// Round-trip times of pings.
    pub pings: LatencySummary,
    /// Connection events by name.
    pub connections: BTreeMap<String, u64>,
    /// Sessions attached again after their connections were lost.
    #[serde(default)]
    pub reattached: u64,
    /// Sessions opened in place of expired ones.
    #[serde(default)]
    pub new_sessions: u64,
    /// Sessions that expired although their server had answered within the last half of their timeout.
    #[serde(default)]
    pub expired_early: u64,
    pub wrong_answers: u64,
    pub generator: CpuUsage,
    /// `None` if the server is not embedded and its process id is not known.
    pub server_cpu: Option<CpuUsage>,
}

/// Latencies of all operations together, for a `.hgrm` file.
pub fn all_latencies(counts: &Counts) -> Latencies {
    let mut all = Latencies::default();
    for latencies in &counts.latency {
        all.merge(latencies);
    }
    all
}
