//! Progress of a run: a live line on a terminal, one plain line a second in a pipe, or nothing.
//!
//! Owns standard error during a run. Never touches standard output: that is for results.

use crate::config::Progress;
use crate::counts::Second;
use crate::report::{duration, thousands};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Display of one stage of work with a known size.
#[derive(Debug)]
pub struct Meter {
    face: Face,
    what: &'static str,
    total: u64,
}

#[derive(Debug)]
enum Face {
    Quiet,
    Terminal(ProgressBar),
    Lines { next: Instant },
}

impl Meter {
    /// A display for `what`, which ends at `total`.
    pub fn new(progress: Progress, what: &'static str, total: u64) -> Self {
        let face = match progress {
            Progress::Quiet => Face::Quiet,
            Progress::Live if std::io::stderr().is_terminal() => {
                let style = ProgressStyle::with_template("{prefix:<9} {bar:30} {msg}");
                let bar = ProgressBar::new(total).with_prefix(what);
                Face::Terminal(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
            }
            Progress::Live => Face::Lines { next: Instant::now() + LINE_EVERY },
        };
        Self { face, what, total }
    }

    /// Shows `done` of the total, with `text`.
    pub fn update(&mut self, done: u64, text: impl FnOnce() -> String) {
        match &mut self.face {
            Face::Quiet => {}
            Face::Terminal(bar) => {
                bar.set_position(done.min(self.total));
                bar.set_message(text());
            }
            Face::Lines { next } => {
                let now = Instant::now();
                if now >= *next {
                    *next = now + LINE_EVERY;
                    eprintln!("{} {}", self.what, text());
                }
            }
        }
    }

    /// Shows a line regardless of the time since the last one.
    pub fn line(&mut self, done: u64, text: impl FnOnce() -> String) {
        if let Face::Lines { next } = &mut self.face {
            *next = Instant::now() - Duration::from_millis(1);
        }
        self.update(done, text);
    }

    /// Removes the live line.
    pub fn finish(self) {
        if let Face::Terminal(bar) = self.face {
            bar.finish_and_clear();
        }
    }
}

/// One line about one second of a load.
pub fn second_text(second: &Second) -> String {
    let errors = if second.errors > 0 { format!("   {} errors", second.errors) } else { String::new() };
    if second.operations == 0 {
        return format!("{:>3} s   nothing was answered{errors}", second.second + 1);
    }
    format!(
        "{:>3} s   {:>11} operations   p50 {}   p99 {}   max {}{errors}",
        second.second + 1,
        thousands(second.operations as f64),
        duration(second.p50_us),
        duration(second.p99_us),
        duration(second.max_us),
    )
}
