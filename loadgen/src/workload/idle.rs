//! Idle sessions: they connect, ping when the protocol demands it, and stay.
//!
//! Owns the length of their stay and the latency of their pings. Never sends a request. The server's CPU
//! time, which such a run is for, is measured elsewhere.

use super::{Control, START_POLL_NS};
use crate::check::{Place, Violation};
use crate::counts::Counts;
use crate::session::{Reply, Sessions, Workload};
use paddock_transport::engine::{Next, Now};
use paddock_transport::io::Io;
use std::sync::Arc;

/// Longest wait for the server to close the sessions.
const CLOSE_NS: u64 = 5_000_000_000;
/// Interval between two checks for an early end.
const STOP_POLL_NS: u64 = 200_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdlePhase {
    Waiting { announced: bool },
    Staying { until_ns: u64 },
    Closing { until_ns: u64 },
}

/// One thread's idle sessions.
#[derive(Debug)]
pub struct Idle {
    control: Arc<Control>,
    duration_ns: u64,
    phase: IdlePhase,
    counts: Counts,
    pings: crate::histogram::Latencies,
}

impl Idle {
    /// Sessions that stay for `duration_ns` after the start that `control` announces.
    pub fn new(control: Arc<Control>, duration_ns: u64) -> Self {
        Self {
            control,
            duration_ns,
            phase: IdlePhase::Waiting { announced: false },
            counts: Counts::default(),
            pings: Default::default(),
        }
    }

    /// Counts of the thread, and the latencies of its pings.
    pub fn into_counts(mut self, sessions: &Sessions<()>) -> (Counts, crate::histogram::Latencies) {
        for (trouble, count) in sessions.troubles() {
            self.counts.troubles[trouble as usize] = count;
        }
        self.counts.moves = sessions.moves();
        (self.counts, self.pings)
    }
}

impl Workload for Idle {
    type Request = ();

    fn ready(&mut self, _now: Now, _index: usize, _sessions: &mut Sessions<()>, _io: &mut Io) {}

    fn replied(
        &mut self,
        _now: Now,
        _index: usize,
        _request: (),
        _reply: Reply<'_>,
        _sessions: &mut Sessions<()>,
        _io: &mut Io,
    ) -> i64 {
        0
    }

    fn lost(&mut self, _now: Now, _request: ()) {}

    fn violation(&mut self, violation: Violation, place: Place) {
        self.counts.report_violation(violation, 1, Some(place));
    }

    fn ponged(&mut self, now: Now, sent_ns: u64) {
        if matches!(self.phase, IdlePhase::Staying { .. }) {
            self.pings.record(now.mono_ns.saturating_sub(sent_ns));
        }
    }

    fn turn(&mut self, now: Now, sessions: &mut Sessions<()>, io: &mut Io) -> Next {
        match self.phase {
            IdlePhase::Waiting { announced } => {
                if !announced && sessions.ready() == sessions.len() {
                    self.phase = IdlePhase::Waiting { announced: true };
                    self.control.announce_ready();
                }
                if self.control.stopped() {
                    return Next::Stop;
                }
                match self.control.start_ns().filter(|&start_ns| start_ns <= now.mono_ns) {
                    Some(start_ns) => {
                        self.phase = IdlePhase::Staying { until_ns: start_ns + self.duration_ns };
                        Next::Again
                    }
                    None => Next::Sleep { deadline_ns: Some(now.mono_ns + START_POLL_NS) },
                }
            }
            IdlePhase::Staying { until_ns } if now.mono_ns < until_ns && !self.control.stopped() => {
                Next::Sleep { deadline_ns: Some(until_ns.min(now.mono_ns + STOP_POLL_NS)) }
            }
            IdlePhase::Staying { .. } => {
                sessions.close_all(now, io);
                self.phase = IdlePhase::Closing { until_ns: now.mono_ns + CLOSE_NS };
                Next::Again
            }
            IdlePhase::Closing { until_ns } if !sessions.all_gone() && now.mono_ns < until_ns => {
                Next::Sleep { deadline_ns: Some(until_ns) }
            }
            IdlePhase::Closing { .. } => Next::Stop,
        }
    }
}
