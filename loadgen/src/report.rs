//! What a run found, as data and as text.
//!
//! Owns the shape of the JSON document (its version is in it; fields are added, not renamed) and the printed
//! summary, and the judgement whether the figures are the server's or the generator's. Never measures anything.

use crate::config::{Arrivals, Distribution, RunConfig};
use crate::histogram::{Latencies, LatencySummary};
use crate::keyspace::Op;
use crate::machine::{CpuUsage, Machine};
use crate::session::Trouble;
use crate::tally::{Second, Tally};
use paddock_transport::wire::error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

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
    /// Its process, when its CPU time was looked at.
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
    pub errors: Counts,
    /// Requests lost with their connection: carried out or not.
    pub outcome_unknown: u64,
    /// Requests that an open loop could not send in time; they count in the latencies with the time they had waited.
    pub unsent: u64,
    /// Wrong answers: anything here makes the exit code 3.
    pub wrong_answers: Counts,
    /// The first wrong answers, in words.
    pub wrong_examples: Vec<String>,
    /// What happened to connections.
    pub connections: BTreeMap<String, u64>,
    /// How late requests left after their intended instants (open loop).
    pub send_lateness: Option<LatencySummary>,
    /// Second by second.
    pub per_second: Vec<Second>,
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
pub struct Counts {
    /// The sum.
    pub total: u64,
    /// By name.
    pub by_kind: BTreeMap<String, u64>,
}

impl Counts {
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
    pub tally: &'a Tally,
    /// The seconds.
    pub per_second: Vec<Second>,
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
        let Findings { config, tally, seconds, .. } = findings;
        let per = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let operations: u64 = tally.completed.iter().sum();
        let open = config.rate.is_some();
        let by_operation = Op::ALL
            .iter()
            .map(|&op| {
                let at = op as usize;
                let result = OperationResult {
                    operations: tally.completed[at],
                    throughput: per(tally.completed[at]),
                    latency: tally.latency[at].summary(),
                    latency_from_send: open.then(|| tally.from_send[at].summary()),
                };
                (op.name().to_owned(), result)
            })
            .collect();
        let error_name = |code: i32| error::name(code).map_or_else(|| format!("error {code}"), str::to_owned);
        let troubles = Trouble::ALL.iter().map(|&t| (t.name().to_owned(), tally.troubles[t as usize]));
        let per_operation = |cpu: &CpuUsage| cpu.cpu_seconds * 1e9 / operations.max(1) as f64;
        let result = RunResult {
            seconds,
            operations,
            throughput: per(operations),
            by_operation,
            errors: Counts::of(tally.errors.iter().map(|(&code, &n)| (error_name(code), n))),
            outcome_unknown: tally.outcome_unknown,
            unsent: tally.unsent,
            wrong_answers: Counts::of(tally.wrong.iter().map(|(wrong, &n)| (wrong.name().to_owned(), n))),
            wrong_examples: tally.examples.iter().map(ToString::to_string).collect(),
            connections: troubles.filter(|&(_, n)| n > 0).collect(),
            send_lateness: open.then(|| tally.lateness.summary()),
            per_second: findings.per_second,
        };
        let cpu = Cpu {
            generator_ns_per_operation: per_operation(&findings.generator),
            server_ns_per_operation: findings.server_cpu.as_ref().map(per_operation),
            generator: findings.generator,
            server: findings.server_cpu,
        };
        Self {
            report_version: REPORT_VERSION,
            tool: Tool::this(),
            provenance: Provenance {
                command: config.command.clone(),
                started_ms: findings.started_ms,
                machine: Machine::read(),
            },
            workload: WorkloadSummary::of(config, findings.threads, &findings.transport),
            server: findings.server,
            verdict: judge(&result, &cpu),
            result,
            cpu,
        }
    }

    /// The summary that a run prints.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let (w, r) = (&self.workload, &self.result);
        let server =
            if self.server.embedded { "embedded server".to_owned() } else { self.server.targets.join(", ") };
        let version = self.server.version.as_deref().map(|v| format!(" ({v})")).unwrap_or_default();
        writeln!(out, "{server}{version}")?;
        let load = match (w.rate, &w.arrivals) {
            (Some(rate), Some(arrivals)) => format!("open loop, {} requests/s ({arrivals})", thousands(rate)),
            _ => format!("closed loop, {} in flight per connection", w.outstanding),
        };
        let spread = w.zipf_exponent.map_or_else(|| w.distribution.clone(), |e| format!("zipf({e})"));
        writeln!(
            out,
            "{load}; {} connections, {} thread(s), {}; {:.0} % reads; {} keys of {} B, {spread}",
            w.connections,
            w.threads,
            w.transport,
            w.reads * 100.0,
            thousands(f64::from(w.keys)),
            w.value_bytes,
        )?;
        writeln!(
            out,
            "\n{:<10} {:>14} operations/s   ({} in {:.2} s)",
            "throughput",
            thousands(r.throughput),
            thousands(r.operations as f64),
            r.seconds
        )?;
        let kinds: Vec<_> = r.errors.by_kind.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!("   ({})", kinds.join(", ")) };
        writeln!(out, "{:<10} {:>14}{kinds}", "errors", thousands(r.errors.total as f64))?;
        let checked =
            if w.checked { thousands(r.wrong_answers.total as f64) } else { "not checked".to_owned() };
        writeln!(out, "{:<10} {checked:>14}", "wrong")?;
        for (name, n) in
            [("unknown", r.outcome_unknown), ("unsent", r.unsent)].into_iter().filter(|&(_, n)| n > 0)
        {
            writeln!(out, "{name:<10} {:>14}", thousands(n as f64))?;
        }
        writeln!(
            out,
            "\n{:<10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "latency", "per second", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, op) in r.by_operation.iter().filter(|(_, op)| op.latency.count > 0) {
            write_latency(out, name, op.throughput, &op.latency)?;
        }
        for (name, op) in &r.by_operation {
            if let Some(latency) = op.latency_from_send.as_ref().filter(|l| l.count > 0) {
                write_latency(out, &format!("{name} (sent)"), op.throughput, latency)?;
            }
        }
        if let Some(late) = &r.send_lateness {
            write_latency(out, "lateness", w.rate.unwrap_or(0.0), late)?;
        }
        writeln!(out)?;
        write_cpu(out, "generator", &self.cpu.generator, self.cpu.generator_ns_per_operation)?;
        if let (Some(cpu), Some(per)) = (&self.cpu.server, self.cpu.server_ns_per_operation) {
            write_cpu(out, "server", cpu, per)?;
        }
        for example in &r.wrong_examples {
            writeln!(out, "WRONG: {example}")?;
        }
        for note in &self.verdict.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }
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
    Verdict { correct: result.wrong_answers.total == 0, generator_was_the_bottleneck: bottleneck, notes }
}

fn write_latency(out: &mut String, name: &str, throughput: f64, l: &LatencySummary) -> std::fmt::Result {
    writeln!(
        out,
        "{name:<10} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
        thousands(throughput),
        duration(l.p50_us),
        duration(l.p90_us),
        duration(l.p99_us),
        duration(l.p999_us),
        duration(l.max_us)
    )
}

fn write_cpu(out: &mut String, who: &str, cpu: &CpuUsage, per_operation: f64) -> std::fmt::Result {
    writeln!(
        out,
        "{who:<10} busiest thread {:>3.0} %, {:.2} cores in all, {:.0} ns of CPU per operation",
        cpu.busiest * 100.0,
        if cpu.seconds > 0.0 { cpu.cpu_seconds / cpu.seconds } else { 0.0 },
        per_operation
    )
}

/// `1234567.8` as `1 234 568`.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A time given in µs, with three digits and the unit that fits.
pub fn duration(us: f64) -> String {
    match us {
        _ if us < 1.0 => format!("{:.0} ns", us * 1e3),
        _ if us < 10.0 => format!("{us:.2} µs"),
        _ if us < 100.0 => format!("{us:.1} µs"),
        _ if us < 1e3 => format!("{us:.0} µs"),
        _ if us < 1e4 => format!("{:.2} ms", us / 1e3),
        _ if us < 1e5 => format!("{:.1} ms", us / 1e3),
        _ if us < 1e6 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
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
    /// Wrong answers.
    pub wrong_answers: u64,
    /// CPU time of the generator.
    pub generator: CpuUsage,
    /// CPU time of the server, if known.
    pub server_cpu: Option<CpuUsage>,
}

impl IdleReport {
    /// The summary that is printed.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let Self { sessions, timeout_ms, seconds, pings, .. } = self;
        writeln!(out, "{sessions} idle sessions, timeout {timeout_ms} ms, {seconds:.1} s")?;
        writeln!(
            out,
            "pings      {} (p50 {}, p99 {}, max {})",
            pings.count,
            duration(pings.p50_us),
            duration(pings.p99_us),
            duration(pings.max_us)
        )?;
        for (kind, n) in &self.connections {
            writeln!(out, "note: connections: {kind} {n}")?;
        }
        let share =
            |cpu: &CpuUsage| if cpu.seconds > 0.0 { cpu.cpu_seconds / cpu.seconds * 100.0 } else { 0.0 };
        writeln!(out, "generator  {:.2} % of a core", share(&self.generator))?;
        match &self.server_cpu {
            Some(cpu) => writeln!(out, "server     {:.2} % of a core", share(cpu)),
            None => writeln!(out, "server     CPU unknown: give --server-pid to have it measured"),
        }
    }
}

/// The latencies of all operations together, for a `.hgrm` file.
pub fn all_latencies(tally: &Tally) -> Latencies {
    let mut all = Latencies::default();
    for latencies in &tally.latency {
        all.merge(latencies);
    }
    all
}
