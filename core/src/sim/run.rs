//! Runs of many seeds, in sequence or in parallel, and their report.
//!
//! Owns the sums over runs. A seed that fails is run a second time with its events kept as text;
//! determinism makes both runs the same.

use super::world::{Plan, RunReport, SECOND, Violation, World};
use crate::mutation::{self, Mutation};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Virtual time with faults in one run, ns.
pub const FAULTY_NS: u64 = 30 * SECOND;

/// Runs a plan. A panic of a node counts as a violation.
fn run(plan: &Plan) -> RunReport {
    catch_unwind(AssertUnwindSafe(|| World::run(plan))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let what = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        let violation =
            Violation { checker: "panic".to_owned(), what: what.unwrap_or_else(|| "a panic".to_owned()) };
        RunReport { seed: plan.seed, violation: Some(violation), ..RunReport::default() }
    })
}

/// Runs one seed, with or without a defect. A failure comes with its last events.
pub fn seed(seed: u64, voters: Option<usize>, mutation: Option<Mutation>) -> RunReport {
    mutation::mutate(mutation);
    let mut plan = Plan { seed, trace: false, faulty_ns: FAULTY_NS, voters };
    let mut report = run(&plan);
    if report.violation.is_some() {
        plan.trace = true;
        report = run(&plan);
    }
    mutation::mutate(None);
    report
}

/// Tries seeds until one of the expected checkers catches the defect. Returns the seed and the checker.
pub fn catch(mutation: Mutation, seeds: u64) -> Option<(u64, String)> {
    mutation::mutate(Some(mutation));
    let voters = Some(mutation.nodes_min());
    let caught = (0..seeds).find_map(|seed| {
        let report = run(&Plan { seed, trace: false, faulty_ns: FAULTY_NS, voters });
        let caught = report.violation.map(|violation| violation.checker);
        caught
            .filter(|c| mutation.caught_by().split('|').any(|name| name == c))
            .map(|checker| (seed, checker))
    });
    mutation::mutate(None);
    caught
}

/// Totals over many runs.
#[derive(Default, Debug)]
pub struct Sum {
    pub seeds: u64,
    pub simulated_ns: u64,
    pub answered: u64,
    /// Writes among `answered` that were refused because disks were full.
    pub refused: u64,
    /// Log entries, over all runs.
    pub entries: u64,
    /// Terms that appear in the logs.
    pub terms: u64,
    pub events: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

impl Sum {
    /// Adds the counts of one run.
    pub fn add(&mut self, report: &RunReport) {
        self.seeds += 1;
        self.simulated_ns += report.simulated_ns;
        self.answered += report.answered;
        self.refused += report.refused;
        self.entries += report.entries;
        self.terms += report.terms;
        self.events += report.events;
        for (kind, count) in &report.faults {
            *self.faults.entry(kind).or_insert(0) += count;
        }
    }

    /// The lines to print.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} seeds, {} s simulated, {} requests answered ({} writes refused), {} log entries, {} terms, {} events",
            self.seeds,
            self.simulated_ns / SECOND,
            self.answered,
            self.refused,
            self.entries,
            self.terms,
            self.events
        )];
        lines.extend(self.faults.iter().map(|(kind, count)| format!("  {count:>8}  {kind}")));
        lines
    }
}

/// The lines to print for a failure; none if there was no violation.
pub fn failure(report: &RunReport, voters: Option<usize>, mutation: Option<Mutation>) -> Vec<String> {
    let Some(violation) = &report.violation else { return Vec::new() };
    let switched = mutation.map(|m| format!(" --mutation {}", m.name())).unwrap_or_default();
    let among = voters.map(|n| format!(" --voters {n}")).unwrap_or_default();
    let mut lines = vec![
        format!("seed {} FAILED: {}", report.seed, violation.checker),
        format!("  {}", violation.what),
        "  the last events:".to_owned(),
    ];
    lines.extend(report.last.iter().map(|line| format!("  {line}")));
    lines.push(format!(
        "  replay: cargo run --profile sim -p paddock-core --features sim --bin paddock-sim -- --seed {}{among}{switched}",
        report.seed
    ));
    lines
}
