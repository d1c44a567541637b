//! The figures of one measurement, from a report of `paddock-load`, and their medians.

use paddock_loadgen::histogram::LatencySummary;
use paddock_loadgen::report::Report;
use serde::Serialize;

/// Figures of one measurement, or medians of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Operations per second of the measured time.
    pub throughput: f64,
    /// Latency of reads; `None` if the load has none.
    pub reads: Option<Quantiles>,
    /// Latency of writes; `None` if the load has none.
    pub writes: Option<Quantiles>,
    /// CPU time of all the server's threads per operation.
    pub server_ns_per_operation: f64,
    /// CPU time of the server's busiest thread as a share of the measured time.
    pub server_busiest: f64,
    /// CPU time of the generator's busiest thread as a share of the measured time.
    pub generator_busiest: f64,
    pub errors: u64,
    /// Requests that could not be sent in time.
    pub unsent: u64,
}

/// Quantiles of a latency, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

impl Quantiles {
    /// Quantiles of `summary`; `None` if nothing was recorded.
    pub fn of(summary: &LatencySummary) -> Option<Self> {
        let of = || Self { p50_us: summary.p50_us, p99_us: summary.p99_us, p999_us: summary.p999_us };
        (summary.count > 0).then(of)
    }
}

impl Figures {
    /// Figures of one report.
    pub fn of(report: &Report) -> Self {
        let latency = |op: &str| report.result.by_operation.get(op).and_then(|r| Quantiles::of(&r.latency));
        Self {
            throughput: report.result.throughput,
            reads: latency("get"),
            writes: latency("set"),
            server_ns_per_operation: report.cpu.server_ns_per_operation.unwrap_or_default(),
            server_busiest: report.cpu.server.as_ref().map_or(0.0, |s| s.busiest),
            generator_busiest: report.cpu.generator.busiest,
            errors: report.result.errors.total,
            unsent: report.result.unsent,
        }
    }

    /// The median of each figure. Errors and unsent requests are summed.
    pub fn median(all: &[Figures]) -> Figures {
        let of = |pick: &dyn Fn(&Figures) -> f64| median(all.iter().map(pick).collect());
        let latency = |pick: &dyn Fn(&Figures) -> Option<Quantiles>| {
            let found: Vec<Quantiles> = all.iter().filter_map(pick).collect();
            let of = |pick: &dyn Fn(&Quantiles) -> f64| median(found.iter().map(pick).collect());
            (!found.is_empty()).then(|| Quantiles {
                p50_us: of(&|q| q.p50_us),
                p99_us: of(&|q| q.p99_us),
                p999_us: of(&|q| q.p999_us),
            })
        };
        Figures {
            throughput: of(&|f| f.throughput),
            reads: latency(&|f| f.reads),
            writes: latency(&|f| f.writes),
            server_ns_per_operation: of(&|f| f.server_ns_per_operation),
            server_busiest: of(&|f| f.server_busiest),
            generator_busiest: of(&|f| f.generator_busiest),
            errors: all.iter().map(|f| f.errors).sum(),
            unsent: all.iter().map(|f| f.unsent).sum(),
        }
    }
}

/// The median. For an even number of values, the mean of the middle two; 0 for none.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => 0.0,
        n if n % 2 == 1 => all[n / 2],
        n => (all[n / 2 - 1] + all[n / 2]) / 2.0,
    }
}

/// The quotient of `a` and `b`; `None` if `b` is not positive.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// A ratio as tables show it.
pub fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_and_errors_add_up() {
        let figures = |throughput, errors| Figures {
            throughput,
            errors,
            reads: Some(Quantiles { p50_us: throughput, ..Quantiles::default() }),
            ..Figures::default()
        };
        let all = [figures(3.0, 1), figures(100.0, 0), figures(1.0, 2)];
        let median = Figures::median(&all);
        assert_eq!((median.throughput, median.errors), (3.0, 3));
        assert_eq!(median.reads.unwrap().p50_us, 3.0);
        assert_eq!(median.writes, None);
    }
}
