//! The table that `paddock-bench ensemble` prints.

use super::{EnsembleCell, EnsembleDocument};
use crate::figures::{Quantiles, times};
use paddock_loadgen::report::{duration, thousands};
use std::fmt::Write;

pub(super) fn text(document: &EnsembleDocument) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, document);
    out
}

fn write(out: &mut String, document: &EnsembleDocument) -> std::fmt::Result {
    writeln!(out, "{}", document.provenance)?;
    for note in &document.notes {
        writeln!(out, "note     {note}")?;
    }
    writeln!(
        out,
        "note     {} nodes, {} connections x {} in flight, {} znodes of {} bytes; medians of {} rounds of {} s",
        document.nodes,
        document.connections,
        document.outstanding,
        thousands(document.keys.into()),
        document.value_bytes,
        document.cells.first().map_or(0, |c| c.rounds.len()),
        document.seconds,
    )?;
    let mut row = None;
    for cell in &document.cells {
        if row.replace(cell.row) != Some(cell.row) {
            writeln!(out, "\n{}", cell.row.title())?;
            writeln!(
                out,
                "  {:<14} {:>10} {:>7} {:>10} {:>10} {:>10} {:>10} {:>12} {:>8}",
                "ensemble",
                "ops/s",
                "x ZK",
                "read p50",
                "read p99",
                "write p50",
                "write p99",
                "CPU ns/op",
                "ZK CPU x"
            )?;
        }
        write_cell(out, cell)?;
    }
    Ok(())
}

fn write_cell(out: &mut String, cell: &EnsembleCell) -> std::fmt::Result {
    let f = &cell.figures;
    let time = |of: Option<Quantiles>, pick: fn(Quantiles) -> f64| {
        of.map_or_else(|| "-".to_owned(), |quantiles| duration(pick(quantiles)))
    };
    write!(
        out,
        "  {:<14} {:>10} {:>7} {:>10} {:>10} {:>10} {:>10} {:>12.0} {:>8}",
        cell.ensemble,
        thousands(f.throughput),
        times(cell.throughput_to_zookeeper),
        time(f.reads, |q| q.p50_us),
        time(f.reads, |q| q.p99_us),
        time(f.writes, |q| q.p50_us),
        time(f.writes, |q| q.p99_us),
        f.server_ns_per_operation,
        times(cell.work_to_zookeeper),
    )?;
    if f.errors > 0 {
        write!(out, "  {} errors", thousands(f.errors as f64))?;
    }
    writeln!(out)
}
