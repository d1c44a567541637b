//! Latencies: recording, percentiles, and the text form that plotting tools read.
//!
//! Owns the histograms' bounds and units (nanoseconds inside, microseconds in reports, milliseconds in `.hgrm` files as
//! HdrHistogram's own tools write). Never knows what was measured. A value beyond the bounds is recorded as the bound
//! and never dropped.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// The finest difference told, in ns. 16: below the time that one request takes over shared memory.
const LOWEST_NS: u64 = 16;
/// The longest latency told, in ns. An hour: longer than any run waits for an answer.
const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant digits of the totals.
const DIGITS: u8 = 3;
/// Significant digits of the second-by-second histograms: a tenth of the memory, enough for a chart.
const DIGITS_INTERVAL: u8 = 2;
/// Lines per halving of the distance to 100 % in a `.hgrm` file; what HdrHistogram's own tools use.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::with_digits(DIGITS)
    }
}

impl Latencies {
    /// Coarse enough to be kept and reset every second.
    pub fn interval() -> Self {
        Self::with_digits(DIGITS_INTERVAL)
    }

    fn with_digits(digits: u8) -> Self {
        Self(Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, digits).expect("the bounds are constants"))
    }

    /// Records one latency.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds what another thread recorded.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that the share `quantile` stays within, in µs.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { micros(self.0.value_at_quantile(quantile)) }
    }

    /// The longest one, in µs.
    pub fn max_us(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { micros(self.0.max()) }
    }

    /// The figures of a report.
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

/// The figures that a report gives of one kind of operation, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Operations measured.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Standard deviation.
    pub stdev_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % are not longer.
    pub p90_us: f64,
    /// 99 % are not longer.
    pub p99_us: f64,
    /// 99.9 % are not longer.
    pub p999_us: f64,
    /// 99.99 % are not longer.
    pub p9999_us: f64,
    /// The longest.
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
