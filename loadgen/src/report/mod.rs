//! What a run found, as data and as text.
//!
//! Owns the shape of the JSON document (its version is in it; fields are added, not renamed) and the printed
//! summary, and the judgement whether the figures are the server's or the generator's. Never measures anything.

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
/// A thread that is on a core for at least this share of the time is the limit of what it can do.
pub const SATURATED: f64 = 0.95;

/// The report of `paddock-load run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub report_version: u32,
    /// Who measured.
    pub tool: Tool,
    /// When, and on what.
    pub provenance: Provenance,
    /// What was asked for.
    pub workload: WorkloadSummary,
    /// The server.
    pub server: ServerSummary,
    /// What came out.
    pub result: RunResult,
    /// Who used the processor.
    pub cpu: Cpu,
    /// What to know before believing the figures.
    pub verdict: Verdict,
}

/// The program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it was built with optimisation.
    pub optimised: bool,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Self {
            name: "paddock-load".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// Where figures come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The command line.
    pub command: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// The machine that the generator ran on.
    pub machine: Machine,
}

/// The settings of a run, after defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSummary {
    /// Share of reads.
    pub reads: f64,
    /// `closed` or `open`.
    pub loop_kind: String,
    /// Requests per second intended, in an open loop.
    pub rate: Option<f64>,
    /// `poisson` or `constant`, in an open loop.
    pub arrivals: Option<String>,
    /// Sessions.
    pub connections: u32,
    /// Those that write, when they are not all.
    #[serde(default)]
    pub writers: Option<u32>,
    /// Requests in flight per connection.
    pub outstanding: u32,
    /// Generator threads.
    pub threads: usize,
    /// Event loop of the generator.
    pub transport: String,
    /// Znodes.
    pub keys: u32,
    /// Bytes of each value.
    pub value_bytes: u32,
    /// `uniform` or `zipf`.
    pub distribution: String,
    /// Exponent of a Zipf distribution.
    pub zipf_exponent: Option<f64>,
    /// Root of the tree.
    pub root: String,
    /// Seed of all randomness.
    pub seed: u64,
    /// Whether answers were checked.
    pub checked: bool,
    /// Load before measuring, seconds.
    pub warmup_seconds: f64,
    /// Time to be measured, seconds.
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

/// The server as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerSummary {
    /// Its addresses.
    pub targets: Vec<String>,
    /// Whether it ran inside the generator's process.
    pub embedded: bool,
    /// What it calls itself, if it says.
    pub version: Option<String>,
    /// Its processes, when their CPU time was looked at.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// The first of them; in reports since before there could be several.
    pub pid: Option<u32>,
}

/// What came out of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Time that was measured, seconds.
    pub seconds: f64,
    /// Operations answered without error in it.
    pub operations: u64,
    /// The same per second.
    pub throughput: f64,
    /// The same per kind of operation.
    pub by_operation: BTreeMap<String, OperationResult>,
    /// Error replies.
    pub errors: CountByKind,
    /// Requests lost with their connection: carried out or not.
    pub outcome_unknown: u64,
    /// Requests that an open loop could not send in time; they count in the latencies with the time they had waited.
    pub unsent: u64,
    /// ViolationKind answers: anything here makes the exit code 3.
    pub wrong_answers: CountByKind,
    /// The first wrong answers, in words.
    pub wrong_examples: Vec<String>,
    /// What happened to connections.
    pub connections: BTreeMap<String, u64>,
    /// How late requests left after their intended instants (open loop).
    pub send_lateness: Option<LatencySummary>,
    /// Wall clock at the beginning of the measured time, from which seconds and gaps count, ms since the Unix epoch.
    #[serde(default)]
    pub measured_from_ms: i64,
    /// Second by second.
    pub per_second: Vec<Second>,
    /// When nothing was answered, and what became of sessions; of runs through failures.
    #[serde(default)]
    pub availability: Option<Availability>,
    /// What reading everything back at the end showed.
    #[serde(default)]
    pub verification: Option<Verification>,
}

/// One kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationResult {
    /// Answered without error in the measured time.
    pub operations: u64,
    /// The same per second.
    pub throughput: f64,
    /// From the intended instant (open loop) or from sending (closed loop).
    pub latency: LatencySummary,
    /// From sending, in an open loop: what a generator that omits coordination would report.
    pub latency_from_send: Option<LatencySummary>,
}

/// Numbers by name, and their sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CountByKind {
    /// The sum.
    pub total: u64,
    /// By name.
    pub by_kind: BTreeMap<String, u64>,
}

impl CountByKind {
    fn of(counts: impl Iterator<Item = (String, u64)>) -> Self {
        let by_kind: BTreeMap<_, _> = counts.filter(|&(_, n)| n > 0).collect();
        Self { total: by_kind.values().sum(), by_kind }
    }
}

/// Who used the processor during the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// The generator's own threads.
    pub generator: CpuUsage,
    /// The server's, when it is embedded or its process id is known.
    pub server: Option<CpuUsage>,
    /// The generator's CPU time per operation, ns.
    pub generator_ns_per_operation: f64,
    /// The server's CPU time per operation, ns.
    pub server_ns_per_operation: Option<f64>,
}

/// What to know before believing the figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// No wrong answer and no missing reply.
    pub correct: bool,
    /// A generator thread was saturated and no server thread was.
    pub generator_was_the_bottleneck: bool,
    /// In words.
    pub notes: Vec<String>,
}

/// Everything a report is made of.
#[derive(Debug)]
pub struct Findings<'a> {
    /// The settings.
    pub config: &'a RunConfig,
    /// Threads of the generator.
    pub threads: usize,
    /// Its event loop.
    pub transport: String,
    /// The server.
    pub server: ServerSummary,
    /// All threads' counts together.
    pub counts: &'a Counts,
    /// Wall clock at the beginning of the measured time.
    pub measured_from_ms: i64,
    /// The seconds.
    pub per_second: Vec<Second>,
    /// Gaps of reads and of writes in them.
    pub gaps: (Gaps, Gaps),
    /// What reading everything back showed.
    pub verification: Option<Verification>,
    /// Time measured, seconds.
    pub seconds: f64,
    /// When the run began.
    pub started_ms: i64,
    /// CPU time of the generator.
    pub generator: CpuUsage,
    /// CPU time of the server, if known.
    pub server_cpu: Option<CpuUsage>,
}

impl Report {
    /// Puts a report together.
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

/// The first wrong answers, each with where it was given.
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

/// The report of `paddock-load idle`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    /// [`REPORT_VERSION`].
    pub report_version: u32,
    /// Who measured.
    pub tool: Tool,
    /// When, and on what.
    pub provenance: Provenance,
    /// The server.
    pub server: ServerSummary,
    /// Sessions that stayed.
    pub sessions: u32,
    /// Their timeout, ms.
    pub timeout_ms: u64,
    /// How long, seconds.
    pub seconds: f64,
    /// Their pings.
    pub pings: LatencySummary,
    /// What happened to connections.
    pub connections: BTreeMap<String, u64>,
    /// Sessions taken up again after their connections were lost.
    #[serde(default)]
    pub reattached: u64,
    /// Sessions opened in place of expired ones.
    #[serde(default)]
    pub new_sessions: u64,
    /// Sessions that expired although their server had been heard within half of their timeout.
    #[serde(default)]
    pub expired_early: u64,
    /// ViolationKind answers.
    pub wrong_answers: u64,
    /// CPU time of the generator.
    pub generator: CpuUsage,
    /// CPU time of the server, if known.
    pub server_cpu: Option<CpuUsage>,
}

/// The latencies of all operations together, for a `.hgrm` file.
pub fn all_latencies(counts: &Counts) -> Latencies {
    let mut all = Latencies::default();
    for latencies in &counts.latency {
        all.merge(latencies);
    }
    all
}
