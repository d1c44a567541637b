//! `paddock-bench idle`: CPU time of a server whose sessions only ping.

use crate::common::Single;
use crate::load;
use crate::provenance::Provenance;
use anyhow::Context;
use clap::Args;
use paddock_loadgen::report::{IdleReport, duration, thousands};
use serde::Serialize;
use std::time::Duration;

/// The share of a core that pinging sessions take.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  paddock-bench idle
  paddock-bench idle --connections 10000 --timeout-ms 6000 --duration 30 --json idle.json")]
pub struct IdleArgs {
    #[command(flatten)]
    single: Single,
    /// Number of sessions to hold
    #[arg(long, default_value_t = 1000, value_name = "N")]
    connections: u32,
    /// Session timeout: clients ping every third of it
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    timeout_ms: u64,
    /// Length of the measurement, in seconds
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: u64,
}

#[derive(Debug, Serialize)]
struct IdleDocument {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    /// CPU time of all the server's threads, as a share of one core.
    server_share: f64,
    pings_per_second: f64,
    report: IdleReport,
}

pub fn run(args: &IdleArgs) -> anyhow::Result<()> {
    let common = &args.single.common;
    let (installation, cores) = args.single.install()?;
    let server = installation.start("/")?;
    common.say(&format!("idle: {} sessions for {} s", thousands(args.connections.into()), args.duration));
    let (timeout, time) = (Duration::from_millis(args.timeout_ms), Duration::from_secs(args.duration));
    let report = load::idle(&server, &cores, args.connections, timeout, time)?;
    server.stop()?;
    let used = report.server_cpu.as_ref().context("the server's CPU time could not be read")?;
    let document = IdleDocument {
        document_version: 1,
        bench: "idle",
        provenance: Provenance::here(),
        server_share: used.cpu_seconds / used.seconds,
        pings_per_second: report.pings.count as f64 / report.seconds,
        report,
    };
    let d = &document;
    let text = format!(
        "{}\n\n  {} sessions, timeout {} ms, {:.0} s: {:.1} pings/s, p99 {}; server CPU {:.2} % of a core",
        d.provenance,
        thousands(args.connections.into()),
        args.timeout_ms,
        d.report.seconds,
        d.pings_per_second,
        duration(d.report.pings.p99_us),
        d.server_share * 100.0,
    );
    common.publish(&document, text)
}
