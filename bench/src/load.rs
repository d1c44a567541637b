//! The load: `paddock-load` as a child process on cores of its own, with its report read back.

use crate::server::{Cores, Served, forget_process, sibling, spawn_on};
use anyhow::{Context, bail};
use paddock_loadgen::report::{IdleReport, Report};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Settings of a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Share of reads, 0 to 1.
    pub reads: f64,
    pub connections: u32,
    /// Requests in flight per connection; `None`: the generator's default.
    pub outstanding: Option<u32>,
    /// Requests per second of an open loop; `None`: closed loop.
    pub rate: Option<f64>,
    pub keys: u32,
    pub value_bytes: u32,
    /// Length of the measured time.
    pub duration: Duration,
    /// Time under load before the measured time.
    pub warmup: Duration,
    /// Whether answers are checked. Those of the echo server cannot be.
    pub check: bool,
}

impl Load {
    /// Drives `server` and returns the report.
    pub fn run(&self, server: &impl Served, cores: &Cores) -> anyhow::Result<Report> {
        self.drive(server, cores, None)
    }

    /// Drives `server`. Sends the number of elapsed seconds to `seconds` after each second of the measured
    /// time.
    pub fn run_telling(
        &self,
        server: &impl Served,
        cores: &Cores,
        seconds: Sender<u64>,
    ) -> anyhow::Result<Report> {
        self.drive(server, cores, Some(seconds))
    }

    fn drive(
        &self,
        server: &impl Served,
        cores: &Cores,
        seconds: Option<Sender<u64>>,
    ) -> anyhow::Result<Report> {
        let mut args = vec![
            "run".to_owned(),
            // A benchmark measures time. Other tests show that no write is lost.
            "--no-verify".to_owned(),
            format!("--reads={}", self.reads),
            format!("--connections={}", self.connections),
            format!("--keys={}", self.keys),
            format!("--value-size={}", self.value_bytes),
            format!("--duration={}ms", self.duration.as_millis()),
            format!("--warmup={}ms", self.warmup.as_millis()),
        ];
        args.extend(self.outstanding.map(|n| format!("--outstanding={n}")));
        args.extend(self.rate.map(|rate| format!("--rate={rate:.0}")));
        args.extend((!self.check).then(|| "--no-check".to_owned()));
        let report: Report = generate(args, server, cores, seconds)?;
        if !report.verdict.correct {
            bail!("wrong answers: {}", report.result.wrong_examples.join("; "));
        }
        Ok(report)
    }
}

/// Holds `connections` sessions that only ping on `server`.
pub fn idle(
    server: &impl Served,
    cores: &Cores,
    connections: u32,
    timeout: Duration,
    duration: Duration,
) -> anyhow::Result<IdleReport> {
    let args = vec![
        "idle".to_owned(),
        format!("--connections={connections}"),
        format!("--timeout-ms={}", timeout.as_millis()),
        format!("--duration={}ms", duration.as_millis()),
    ];
    let report: IdleReport = generate(args, server, cores, None)?;
    if report.wrong_answers > 0 {
        bail!("{} wrong answers", report.wrong_answers);
    }
    Ok(report)
}

fn generate<T: DeserializeOwned>(
    args: Vec<String>,
    server: &impl Served,
    cores: &Cores,
    seconds: Option<Sender<u64>>,
) -> anyhow::Result<T> {
    let mut command = Command::new(sibling("paddock-load")?);
    command
        .args(&args)
        .arg(format!("--target={}", list(&server.addresses())))
        .arg(format!("--server-pid={}", list(&server.pids())))
        .arg(format!("--cores={}", list(&cores.generator)))
        .arg(format!("--threads={}", cores.generator.len()))
        .arg("--json=-")
        .args(seconds.is_none().then_some("--quiet"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if seconds.is_some() {
        command.stderr(Stdio::piped());
    }
    let said = || format!("paddock-load {}", args.join(" "));
    // The child is pinned as a whole, so that its main thread does not run on the server's core.
    let mut child = spawn_on(cores.generator.first().copied(), &mut command).with_context(said)?;
    let progress = seconds.zip(child.stderr.take());
    let listener =
        progress.map(|(seconds, lines)| std::thread::spawn(move || listen(BufReader::new(lines), &seconds)));
    let mut document = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut document)?;
    }
    if let Some(listener) = listener {
        listener.join().map_err(|_| anyhow::anyhow!("listening to paddock-load panicked"))?;
    }
    let status = child.wait()?;
    forget_process(child.id());
    serde_json::from_str(&document).with_context(|| {
        format!("{} ended with {status} and without a report (its message is above)", said())
    })
}

/// Sends the number of each second that has ended. Lines that are no progress go to standard error.
fn listen(lines: impl BufRead, seconds: &Sender<u64>) {
    for line in lines.lines().map_while(Result::ok) {
        let (what, text) = line.split_once(' ').unwrap_or((&line, ""));
        match (what, text.trim_start().split_once(" s ")) {
            // The receiver may be gone.
            ("load", Some((second, _))) => drop(second.parse().map(|second| seconds.send(second))),
            ("load" | "preload" | "warm-up", _) => {}
            _ => eprintln!("{line}"),
        }
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Parses a number of seconds from the command line.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds between 0.01 and 3600, for example 5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paddock_loadgen::counts::Second;
    use paddock_loadgen::progress::second_text;

    #[test]
    fn the_seconds_of_a_run_are_told_as_it_says_them() {
        let load = |second| {
            format!("load {}\n", second_text(&Second { second, operations: 9, ..Second::default() }))
        };
        let said = format!(
            "preload 7 of 9\nwarm-up 1.0 s to go\n{}{}load waiting for the last replies\n",
            load(0),
            load(1)
        );
        let (tell, told) = std::sync::mpsc::channel();
        listen(said.as_bytes(), &tell);
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), [1, 2]);
    }
}
