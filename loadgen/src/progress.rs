//! What a run tells while it runs: a live line on a terminal, one plain line a second in a pipe, or nothing.
//!
//! Owns standard error during a run. Never touches standard output: that is for results.

use crate::config::Progress;
use crate::counts::Second;
use crate::report::{duration, thousands};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// At most one plain line per this time.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// One stretch of work with a known size.
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
    /// A meter for `what`, `total` long.
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

    /// So much is done; `text` says it in words.
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

    /// A line that must not be missed, whatever the time.
    pub fn line(&mut self, done: u64, text: impl FnOnce() -> String) {
        if let Face::Lines { next } = &mut self.face {
            *next = Instant::now() - Duration::from_millis(1);
        }
        self.update(done, text);
    }

    /// The work is over.
    pub fn finish(self) {
        if let Face::Terminal(bar) = self.face {
            bar.finish_and_clear();
        }
    }
}

/// A second in words.
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
