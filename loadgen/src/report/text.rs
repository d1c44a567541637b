//! Reports for readers at a terminal: a few aligned lines, with units that fit the numbers.

use super::{IdleReport, Report};
use crate::histogram::LatencySummary;
use crate::machine::CpuUsage;
use std::fmt::Write;

impl Report {
    /// The summary of a run.
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
        if let Some(availability) = &r.availability {
            availability.write_text(out)?;
        }
        if let Some(verification) = &r.verification {
            verification.write_text(out)?;
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

impl IdleReport {
    /// The summary of an idle run.
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
        for (what, n) in [
            ("sessions taken up again", self.reattached),
            ("new sessions in place of expired ones", self.new_sessions),
            ("sessions expired early", self.expired_early),
        ] {
            if n > 0 {
                writeln!(out, "note: {n} {what}")?;
            }
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

/// Formats `1234567.8` as `1 234 568`.
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

/// Formats a time given in µs with three digits and the unit that fits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_times_carry_the_unit_that_fits() {
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(1_234_567.0), "1 234 567");
        assert_eq!(duration(0.25), "250 ns");
        assert_eq!(duration(9.126), "9.13 µs");
        assert_eq!(duration(850.0), "850 µs");
        assert_eq!(duration(12_345.0), "12.3 ms");
        assert_eq!(duration(1_400_000.0), "1.40 s");
    }
}
