//! Parts of a report that concern failures: times without answers, lost and expired sessions, and the final
//! reading back.
//!
//! Owns these parts of the JSON document and of the printed summary. Never measures.

use super::WorkloadSummary;
use super::text::{duration, thousands};
use crate::config::RunConfig;
use crate::counts::Counts;
use crate::gaps::{Gap, Gaps};
use crate::session::Trouble;
use serde::{Deserialize, Serialize};
use std::fmt::{Result, Write};

/// Factor on the mean interval between requests. With exponential intervals, fewer than one in 20 000 is
/// longer.
const SELDOM: f64 = 10.0;
/// Gaps that the text lists one by one.
const GAPS_TOLD: usize = 20;

/// Availability of the servers during a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Availability {
    /// Longest time without a success that is not yet a gap, ms.
    pub gap_threshold_ms: u64,
    /// Gaps between answered reads; `None` if the load has no reads.
    pub read_gaps: Option<Gaps>,
    /// Gaps between answered writes; `None` if the load has no writes.
    pub write_gaps: Option<Gaps>,
    /// Established connections that the server closed, or that were given up because the server was silent.
    pub connection_losses: u64,
    /// Attempts to connect that failed or were closed in the handshake.
    pub failed_attempts: u64,
    /// Sessions attached again after their connections were lost.
    pub reattached: u64,
    /// Sessions that had expired when they were to be attached again.
    pub expired_sessions: u64,
    /// Expired sessions whose server had answered within the last half of the session timeout.
    pub expired_early: u64,
    /// Sessions opened in place of expired ones.
    pub new_sessions: u64,
    /// Writes lost with their connections: the server may or may not have applied them.
    pub writes_of_unknown_outcome: u64,
    /// Reads lost with their connections.
    pub reads_unanswered: u64,
    /// Violations of all kinds, those of the final reading back included.
    pub wrong_answers: u64,
}

impl Availability {
    /// Derives the figures from `counts` and from `gaps`, which are those of reads and of writes.
    pub fn new(config: &RunConfig, counts: &Counts, gaps: (Gaps, Gaps)) -> Self {
        let troubles = |kinds: [Trouble; 2]| kinds.iter().map(|&kind| counts.troubles[kind as usize]).sum();
        let moves = counts.moves;
        Self {
            gap_threshold_ms: config.gap_ms,
            read_gaps: (config.reads > 0.0).then_some(gaps.0),
            write_gaps: (config.reads < 1.0).then_some(gaps.1),
            connection_losses: troubles([Trouble::ConnectionLost, Trouble::ServerSilent]),
            failed_attempts: troubles([Trouble::ConnectFailed, Trouble::HandshakeClosed]),
            reattached: moves.reattached,
            expired_sessions: moves.expired,
            expired_early: moves.expired_early,
            new_sessions: moves.renewed,
            writes_of_unknown_outcome: counts.writes_unknown,
            reads_unanswered: counts.outcome_unknown - counts.writes_unknown,
            wrong_answers: counts.violations_total(),
        }
    }

    /// Cautions about the gaps: with a low rate, some times without an answer are times without a request.
    pub(super) fn notes(&self, workload: &WorkloadSummary) -> Vec<String> {
        let Some(rate) = workload.rate else { return Vec::new() };
        let seldom = |share: f64| share > 0.0 && 1e3 / (rate * share) > self.gap_threshold_ms as f64 / SELDOM;
        [("writes", 1.0 - workload.reads), ("reads", workload.reads)]
            .into_iter()
            .filter(|&(_, share)| seldom(share))
            .map(|(name, share)| {
                format!(
                    "{name} come every {:.1} ms on average: some of their gaps are the load's own (raise --rate or --gap-ms)",
                    1e3 / (rate * share)
                )
            })
            .collect()
    }

    pub(super) fn write_text(&self, out: &mut String) -> Result {
        writeln!(out, "\navailability (times longer than {} ms without an answer)", self.gap_threshold_ms)?;
        for (name, gaps, other) in
            [("writes", &self.write_gaps, "reads"), ("reads", &self.read_gaps, "writes")]
        {
            let Some(gaps) = gaps else { continue };
            let answered = |gap: &Gap| thousands((gap.reads + gap.writes) as f64);
            writeln!(
                out,
                "{name:<10} {} gaps, longest {}, {} in all; {} {other} answered meanwhile",
                gaps.count,
                ms(gaps.longest_ms),
                ms(gaps.total_ms),
                thousands((gaps.reads + gaps.writes) as f64),
            )?;
            // The longest gaps, in order of time.
            let mut told: Vec<&Gap> = gaps.list.iter().collect();
            told.sort_by_key(|gap| std::cmp::Reverse(gap.length_ms));
            told.truncate(GAPS_TOLD);
            told.sort_by_key(|gap| gap.start_ms);
            for gap in told {
                let at = gap.start_ms as f64 / 1e3;
                writeln!(
                    out,
                    "  at {at:>9.3} s   {:>8}   {} {other} answered",
                    ms(gap.length_ms),
                    answered(gap)
                )?;
            }
            if gaps.list.len() > GAPS_TOLD {
                writeln!(out, "  … and {} shorter ones (in the JSON document)", gaps.list.len() - GAPS_TOLD)?;
            }
        }
        writeln!(
            out,
            "sessions   {} connections lost, {} attempts failed; {} reattached, {} expired ({} early), {} new",
            self.connection_losses,
            self.failed_attempts,
            self.reattached,
            self.expired_sessions,
            self.expired_early,
            self.new_sessions,
        )?;
        writeln!(
            out,
            "in flight  {} writes of unknown outcome, {} reads unanswered",
            thousands(self.writes_of_unknown_outcome as f64),
            thousands(self.reads_unanswered as f64),
        )
    }
}

/// Result of reading every key back through every server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Servers in the order in which they were read.
    pub servers: Vec<VerifiedServer>,
    /// Number of servers that returned all keys.
    pub complete: usize,
}

/// Result of reading every key back through one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedServer {
    /// Address as given on the command line.
    pub server: String,
    /// Whether the server returned all keys.
    pub complete: bool,
    /// Number of keys that the server returned.
    pub keys: u32,
    /// Highest zxid in any reply of the server.
    pub zxid: i64,
    /// Violations found while reading back. They are also part of the run's counts and examples.
    pub wrong_answers: u64,
}

impl Verification {
    pub(super) fn notes(&self) -> Vec<String> {
        let unread = self.servers.iter().filter(|server| !server.complete);
        let mut notes: Vec<String> = unread
            .map(|s| {
                format!(
                    "{} was not read back: {} keys came, then nothing",
                    s.server,
                    thousands(s.keys.into())
                )
            })
            .collect();
        if self.complete == 0 {
            notes.push("no server could be read back: whether writes were lost is unknown".to_owned());
        }
        notes
    }

    pub(super) fn write_text(&self, out: &mut String) -> Result {
        for server in self.servers.iter().filter(|server| server.complete) {
            writeln!(
                out,
                "read back  {}: {} keys at zxid {:#x}, {} wrong",
                server.server,
                thousands(server.keys.into()),
                server.zxid,
                server.wrong_answers,
            )?;
        }
        Ok(())
    }
}

fn ms(ms: u64) -> String {
    duration(ms as f64 * 1e3)
}
