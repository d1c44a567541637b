//! Results of the rounds of a case, and the document that is made from them.
//!
//! Owns the assignment of the load's seconds to phases. Never runs a load. Seconds in which the machine's
//! memory was slow (see [`crate::canary`]) count as disturbed. Disturbed seconds enter only the figures "of
//! all", beside those of undisturbed seconds.

use super::{Case, CatchupArgs};
use crate::canary::Disturbances;
use crate::figures::{median, ratio, times};
use crate::provenance::Provenance;
use crate::server::Cores;
use paddock_loadgen::counts::Second;
use paddock_loadgen::report::{RunResult, duration, thousands};
use serde::Serialize;
use std::fmt::Write as _;

const DOCUMENT_VERSION: u32 = 3;
/// Shortest overlap with the time of catching up that makes a second count for it, s.
const EDGE_SECONDS: f64 = 0.1;

/// Values for the seconds before the node came back, until it had caught up and served, and after that.
pub(super) type Phases<T> = [T; 3];

/// One second of the load.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lap {
    pub(super) second: Second,
    /// Whether the machine's memory was slow in this second.
    pub(super) disturbed: bool,
}

/// One round of a case.
pub(super) struct Round {
    /// Writes that the node had missed, by the zxids of leader and node.
    pub(super) missed: u64,
    /// Time from the node's start until it had applied what the leader had applied at that start.
    pub(super) caught_up_seconds: f64,
    /// Time from the node's start until it served clients.
    pub(super) serves_seconds: f64,
    /// The node's `zk_server_state` at the end.
    pub(super) state: String,
    pub(super) laps: Phases<Vec<Lap>>,
    pub(super) errors: u64,
}

impl Round {
    /// The p99 of each second until the node had caught up, for progress output. Disturbed seconds are in
    /// brackets.
    pub(super) fn p99s(&self) -> String {
        let text = |lap: &Lap| {
            let p99 = duration(lap.second.p99_us);
            if lap.disturbed { format!("({p99})") } else { p99 }
        };
        let [before, during, _] =
            self.laps.each_ref().map(|laps| laps.iter().map(text).collect::<Vec<_>>().join(", "));
        format!("each second's p99 {before}, then {during}")
    }
}

/// Latency of a phase of the load, all operations together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Phase {
    /// Number of undisturbed seconds.
    seconds: usize,
    /// Number of disturbed seconds. Only `p99_of_all_us` takes them into account.
    disturbed: usize,
    operations_per_second: f64,
    /// Median of the seconds' medians.
    p50_us: f64,
    /// Median of the seconds' p99.
    p99_us: f64,
    /// Highest p99 of any second.
    p99_max_us: f64,
    p99_of_all_us: f64,
}

impl Phase {
    fn of<'a>(laps: impl Iterator<Item = &'a Lap>) -> Self {
        let laps: Vec<&Lap> = laps.collect();
        let calm: Vec<&Second> = laps.iter().filter(|lap| !lap.disturbed).map(|lap| &lap.second).collect();
        let of = |pick: &dyn Fn(&Second) -> f64| median(calm.iter().map(|second| pick(second)).collect());
        Self {
            seconds: calm.len(),
            disturbed: laps.len() - calm.len(),
            operations_per_second: of(&|s| s.operations as f64),
            p50_us: of(&|s| s.p50_us),
            p99_us: of(&|s| s.p99_us),
            p99_max_us: calm.iter().map(|s| s.p99_us).fold(0.0, f64::max),
            p99_of_all_us: median(laps.iter().map(|lap| lap.second.p99_us).collect()),
        }
    }
}

/// Results of one case: medians of its rounds, and the seconds of all rounds together.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CatchUpOutcome {
    case: Case,
    rounds: usize,
    missed: f64,
    caught_up_seconds: f64,
    caught_up_seconds_max: f64,
    serves_seconds: f64,
    states: Vec<String>,
    before: Phase,
    during: Phase,
    after: Phase,
    /// Quotient of the p99 during and before catching up, undisturbed seconds only.
    p99_ratio: Option<f64>,
    /// Quotient of the p99 during and before catching up, disturbed seconds included.
    p99_ratio_of_all: Option<f64>,
    errors: u64,
}

impl CatchUpOutcome {
    pub(super) fn of(case: Case, rounds: &[Round]) -> Self {
        let middle = |pick: &dyn Fn(&Round) -> f64| median(rounds.iter().map(pick).collect());
        let [before, during, after] =
            std::array::from_fn(|phase| Phase::of(rounds.iter().flat_map(|round| &round.laps[phase])));
        let mut states: Vec<String> = rounds.iter().map(|round| round.state.clone()).collect();
        states.sort();
        states.dedup();
        Self {
            case,
            rounds: rounds.len(),
            missed: middle(&|round| round.missed as f64),
            caught_up_seconds: middle(&|round| round.caught_up_seconds),
            caught_up_seconds_max: rounds.iter().map(|round| round.caught_up_seconds).fold(0.0, f64::max),
            serves_seconds: middle(&|round| round.serves_seconds),
            states,
            before,
            during,
            after,
            p99_ratio: ratio(during.p99_us, before.p99_us),
            p99_ratio_of_all: ratio(during.p99_of_all_us, before.p99_of_all_us),
            errors: rounds.iter().map(|round| round.errors).sum(),
        }
    }
}

/// Splits the seconds of a load into phases. The node came back after `from` seconds and had caught up
/// after `until`.
pub(super) fn phases(
    result: &RunResult,
    from: f64,
    until: f64,
    disturbances: &Disturbances,
) -> Phases<Vec<Lap>> {
    let within = |from: f64, until: f64| {
        let lies = |second: u32| f64::from(second) >= from && f64::from(second) + 1.0 <= until;
        result
            .per_second
            .iter()
            .filter(|s| lies(s.second))
            .map(|second| lap(result, second, disturbances))
            .collect()
    };
    [
        within(0.0, from),
        within(from - 1.0 + EDGE_SECONDS, until + 1.0 - EDGE_SECONDS),
        within(until, result.seconds),
    ]
}

fn lap(result: &RunResult, second: &Second, disturbances: &Disturbances) -> Lap {
    let began_ms = result.measured_from_ms + i64::from(second.second) * 1000;
    Lap { second: *second, disturbed: disturbances.any(began_ms, began_ms + 1000) }
}

/// The JSON document of `paddock-bench catchup`.
#[derive(Debug, Serialize)]
pub(super) struct CatchUpDocument {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    cores: Cores,
    entries: u64,
    rate: f64,
    reads: f64,
    rounds: u32,
    /// Whether the node that came back competed for the leader's core.
    compete: bool,
    /// Whether the data of the node that came back was on another disk than the leader's.
    own_disk: bool,
    keys: u32,
    value_bytes: u32,
    outcomes: Vec<CatchUpOutcome>,
}

impl CatchUpDocument {
    pub(super) fn new(args: &CatchupArgs, cores: Cores, outcomes: Vec<CatchUpOutcome>) -> Self {
        Self {
            document_version: DOCUMENT_VERSION,
            bench: "catchup",
            provenance: Provenance::here(),
            cores,
            entries: args.entries,
            rate: args.rate,
            reads: args.reads,
            rounds: args.rounds,
            compete: args.compete,
            own_disk: args.late_dir.is_some(),
            keys: args.keys,
            value_bytes: args.value_size,
            outcomes,
        }
    }
}

/// The document as a table for a terminal.
pub(super) fn text(document: &CatchUpDocument) -> String {
    let mut out = format!(
        "{}\nnote     3 nodes on core {}, generator on {:?}; {} znodes of {} bytes; open loop of {} ops/s on the leader, {} % reads\n\
         note     the node that comes back {}; its data is on {}\n\
         note     {} rounds of each case; p99: median of all rounds' seconds' p99 (in brackets the worst second's); times: the median (the slowest)\n\
         note     disturbed: seconds in which memory of the bench's own was slow, before, during and after; only \"of all\" counts them\n\n",
        document.provenance,
        document.cores.server,
        document.cores.generator,
        thousands(document.keys.into()),
        document.value_bytes,
        thousands(document.rate),
        document.reads * 100.0,
        if document.compete {
            "competes for the core as an equal"
        } else {
            "gets what the others leave of the core, as if it had its own machine"
        },
        if document.own_disk { "another disk than the leader's" } else { "the leader's disk" },
        document.rounds,
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "  {:<22} {:>11} {:>17} {:>8} {:>20} {:>20} {:>20} {:>6} {:>6}  {:<15}  state",
        "case",
        "missed",
        "caught up",
        "serves",
        "p99 before",
        "during",
        "after",
        "ratio",
        "of all",
        "disturbed"
    );
    for o in &document.outcomes {
        let p99 = |p: Phase| format!("{} ({})", duration(p.p99_us), duration(p.p99_max_us));
        let seconds = |pick: fn(&Phase) -> usize| {
            [&o.before, &o.during, &o.after].map(|phase| pick(phase).to_string()).join("+")
        };
        let _ = writeln!(
            out,
            "  {:<22} {:>11} {:>17} {:>6.2} s {:>20} {:>20} {:>20} {:>6} {:>6}  {:<15}  {}{}",
            o.case.title(),
            thousands(o.missed),
            format!("{:.2} s ({:.2} s)", o.caught_up_seconds, o.caught_up_seconds_max),
            o.serves_seconds,
            p99(o.before),
            p99(o.during),
            p99(o.after),
            times(o.p99_ratio),
            times(o.p99_ratio_of_all),
            format!("{} of {}", seconds(|p| p.disturbed), seconds(|p| p.seconds + p.disturbed)),
            o.states.join(", "),
            if o.errors > 0 { format!("; {} errors", thousands(o.errors as f64)) } else { String::new() },
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm(p99_us: f64) -> Lap {
        Lap { second: Second { p99_us, ..Second::default() }, disturbed: false }
    }

    #[test]
    fn a_phase_counts_only_its_whole_seconds() {
        let second = |second: u32, p99_us: f64| Second { second, p99_us, ..Second::default() };
        let per_second = vec![second(0, 1.0), second(1, 9.0), second(2, 3.0), second(3, 5.0), second(4, 6.0)];
        let result = RunResult { per_second, seconds: 5.0, ..RunResult::default() };
        let found = phases(&result, 1.0, 2.5, &Disturbances::default())
            .map(|laps| laps.iter().map(|lap| lap.second.second).collect::<Vec<_>>());
        assert_eq!(found, [vec![0], vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn a_second_that_the_machine_disturbed_is_counted_apart() {
        let phase = Phase::of([calm(4.0), Lap { disturbed: true, ..calm(90.0) }, calm(6.0)].iter());
        assert_eq!((phase.seconds, phase.disturbed, phase.p99_us, phase.p99_of_all_us), (2, 1, 5.0, 6.0));
        assert_eq!(phase.p99_max_us, 6.0);
    }

    #[test]
    fn one_disturbed_round_does_not_decide_a_case() {
        let round = |p99_us: f64, caught_up_seconds: f64| Round {
            missed: 7,
            caught_up_seconds,
            serves_seconds: 1.0,
            state: "follower".to_owned(),
            laps: [4.0, p99_us, 4.0].map(|p99_us| vec![calm(p99_us)]),
            errors: 1,
        };
        let found = CatchUpOutcome::of(Case::Log, &[round(6.0, 1.0), round(90.0, 9.0), round(5.0, 2.0)]);
        assert_eq!((found.p99_ratio, found.during.p99_max_us, found.during.seconds), (Some(1.5), 90.0, 3));
        assert_eq!((found.caught_up_seconds, found.caught_up_seconds_max), (2.0, 9.0));
        assert_eq!((found.states, found.errors), (vec!["follower".to_owned()], 3));
    }
}
