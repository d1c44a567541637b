//! Latency histograms: recording, percentiles, and the text form that plotting tools read.
//!
//! Owns bounds and units: nanoseconds inside, microseconds in reports, milliseconds in `.hgrm` files as in
//! HdrHistogram's own tools. Never knows what was measured. Correct because a value beyond the bounds is
//! recorded as the bound and never dropped.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// Finest resolution, ns. 16: below the duration of one request over shared memory.
const LOWEST_NS: u64 = 16;
/// Longest latency that is told apart, ns. One hour: longer than any run waits for an answer.
const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant digits of the histograms of a whole run.
const DIGITS: u8 = 3;
/// Significant digits of the histograms of one second. A tenth of the memory, and enough for a chart.
const DIGITS_INTERVAL: u8 = 2;
/// Lines per halving of the distance to 100 % in a `.hgrm` file, as in HdrHistogram's own tools.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::with_digits(DIGITS)
    }
}

impl Latencies {
    /// A histogram coarse enough to be kept and reset every second.
    pub fn interval() -> Self {
        Self::with_digits(DIGITS_INTERVAL)
    }

    fn with_digits(digits: u8) -> Self {
        Self(Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, digits).expect("the bounds are constants"))
    }

    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds the latencies of `other`, which has the same number of digits.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Number of recorded latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Latency in µs that the share `quantile` of operations does not exceed; 0 when empty.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { micros(self.0.value_at_quantile(quantile)) }
    }

    /// Longest latency in µs; 0 when empty.
    pub fn max_us(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { micros(self.0.max()) }
    }

    pub fn summary(&self) -> LatencySummary {
        let empty = self.0.is_empty();
        LatencySummary {
            count: self.count(),
            min_us: if empty { 0.0 } else { micros(self.0.min()) },
            mean_us: if empty { 0.0 } else { self.0.mean() / 1e3 },
            stdev_us: if empty { 0.0 } else { self.0.stdev() / 1e3 },
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            p9999_us: self.quantile_us(0.9999),
            max_us: self.max_us(),
        }
    }

    /// Writes the percentile spectrum in HdrHistogram's text form, in milliseconds.
    pub fn write_hgrm(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>14} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let mut total = 0;
        for step in self.0.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            total += step.count_since_last_iteration();
            let (value, quantile) = (millis(step.value_iterated_to()), step.quantile_iterated_to());
            if quantile < 1.0 {
                writeln!(out, "{value:14.6} {quantile:2.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))?;
            } else {
                writeln!(out, "{value:14.6} {quantile:2.12} {total:10}")?;
            }
        }
        let (mean, deviation) = if self.0.is_empty() { (0.0, 0.0) } else { (self.0.mean(), self.0.stdev()) };
        writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", mean / 1e6, deviation / 1e6)?;
        writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", self.max_us() / 1e3, self.count())?;
        let sub_buckets = 2 * 10u64.pow(u32::from(self.0.sigfig())).next_power_of_two();
        writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", self.0.buckets(), sub_buckets)
    }
}

/// Latency figures of one kind of operation. All zero when nothing was recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Number of operations measured.
    pub count: u64,
    pub min_us: f64,
    pub mean_us: f64,
    pub stdev_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latencies = Latencies::default();
        for us in 1..=10_000u64 {
            latencies.record(us * 1000);
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 10_000);
        for (got, wanted) in [(summary.p50_us, 5000.0), (summary.p99_us, 9900.0), (summary.max_us, 10_000.0)]
        {
            assert!((got / wanted - 1.0f64).abs() < 0.002, "{got} instead of {wanted}");
        }
    }

    #[test]
    fn a_latency_beyond_all_bounds_is_kept_at_the_bound() {
        let mut latencies = Latencies::default();
        latencies.record(u64::MAX);
        latencies.record(0);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.max_us() >= HIGHEST_NS as f64 / 1e3 * 0.999);
    }

    #[test]
    fn nothing_recorded_is_all_zero_and_still_a_valid_file() {
        let latencies = Latencies::default();
        assert_eq!(latencies.summary(), LatencySummary::default());
        let mut text = Vec::new();
        latencies.write_hgrm(&mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("Total count    =            0]"));
    }

    #[test]
    fn the_hgrm_text_is_what_plotting_tools_parse() {
        let mut latencies = Latencies::default();
        for us in 1..=1000u64 {
            latencies.record(us * 1000);
        }
        let mut text = Vec::new();
        latencies.write_hgrm(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let mut lines = text.lines();
        let heads: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(heads, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let (comments, rows): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("#["));
        assert_eq!(comments.len(), 3);
        let mut last = (0.0, -1.0, 0);
        for row in &rows {
            let fields: Vec<_> = row.split_whitespace().collect();
            assert!(fields.len() == 4 || (fields.len() == 3 && row == rows.last().unwrap()), "{row}");
            let now: (f64, f64, u64) =
                (fields[0].parse().unwrap(), fields[1].parse().unwrap(), fields[2].parse().unwrap());
            assert!(now.0 >= last.0 && now.1 >= last.1 && now.2 >= last.2, "{row}");
            last = now;
        }
        assert!((last.0 - 1.0f64).abs() < 0.01, "the last value is the longest, in ms: {}", last.0);
        assert_eq!((last.1, last.2), (1.0, 1000));
    }
}
