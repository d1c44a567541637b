//! The table that `paddock-bench peers` prints.

use super::{PeersCell, PeersDocument, PeersRow};
use crate::figures::times;
use paddock_loadgen::report::{duration, thousands};
use std::fmt::Write;

/// A thread with a smaller share of time on its core was not the limit.
const BUSY: f64 = 0.95;

impl PeersRow {
    /// The heading of the row.
    pub(super) fn title(self, connections: u32) -> String {
        match self {
            PeersRow::Reads1 => format!("{connections} connections x 1 in flight, reads alone"),
            PeersRow::Reads16 => format!("{connections} connections x 16 in flight, reads alone"),
            PeersRow::Mixed16 => format!("{connections} connections x 16 in flight, 95 % reads"),
            PeersRow::Writes16 => format!("{connections} connections x 16 in flight, writes alone"),
            PeersRow::HalfRate => {
                format!("{connections} connections, 95 % reads at half of each server's saturation")
            }
        }
    }
}

pub(super) fn text(document: &PeersDocument) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, document);
    out
}

fn write(out: &mut String, document: &PeersDocument) -> std::fmt::Result {
    writeln!(out, "{}", document.provenance)?;
    for note in &document.notes {
        writeln!(out, "note     {note}")?;
    }
    writeln!(
        out,
        "note     {} znodes of {} bytes; medians of {} rounds of {} s; latencies of reads (of writes, where there are no reads)",
        thousands(document.keys.into()),
        document.value_bytes,
        document.cells.first().map_or(0, |c| c.rounds.len()),
        document.seconds,
    )?;
    let mut row = None;
    for cell in &document.cells {
        if row.replace(cell.row) != Some(cell.row) {
            writeln!(out, "\n{}", cell.row.title(document.connections))?;
            writeln!(
                out,
                "  {:<14} {:>10} {:>7} {:>10} {:>10} {:>10} {:>12} {:>7} {:>8}  limit",
                "server", "ops/s", "x ZK", "p50", "p99", "p99.9", "CPU ns/op", "x echo", "ZK CPU x"
            )?;
        }
        write_cell(out, cell)?;
    }
    Ok(())
}

fn write_cell(out: &mut String, cell: &PeersCell) -> std::fmt::Result {
    let f = &cell.figures;
    let latency = f.reads.or(f.writes).unwrap_or_default();
    let limit = match (cell.row, f.server_busiest >= BUSY, f.generator_busiest >= BUSY) {
        (PeersRow::HalfRate, ..) => "rate",
        (_, true, _) => "server",
        (_, false, true) => "generator",
        (_, false, false) => "neither",
    };
    write!(
        out,
        "  {:<14} {:>10} {:>7} {:>10} {:>10} {:>10} {:>12.0} {:>7} {:>8}  {limit}",
        cell.server,
        thousands(f.throughput),
        times(cell.throughput_to_zookeeper),
        duration(latency.p50_us),
        duration(latency.p99_us),
        duration(latency.p999_us),
        f.server_ns_per_operation,
        times(cell.cpu_to_echo),
        times(cell.work_to_zookeeper),
    )?;
    if let (Some(_), Some(writes)) = (f.reads, f.writes) {
        write!(out, "; writes p50 {} p99 {}", duration(writes.p50_us), duration(writes.p99_us))?;
    }
    if f.errors > 0 {
        write!(out, "; {} errors", thousands(f.errors as f64))?;
    }
    if f.unsent > 0 {
        write!(out, "; {} not sent in time", thousands(f.unsent as f64))?;
    }
    writeln!(out)
}
