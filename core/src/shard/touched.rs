//! The sessions heard from since the last report to the consensus core.
//!
//! Owns the list of the current beat and the time of the last report. Never renews a lease: see
//! [`super::leases`].

use super::config::ShardConfig;
use super::connection::Connection;
use super::leases::{Leases, Liveness, heard_on_group_of_one};
use super::{Shard, read_only};
use crate::submit::Submit;
use paddock_transport::engine::{ConnId, Now};

/// The report in preparation.
pub(super) struct Touched {
    /// Number of the current beat, from 1. A connection noted in a beat carries its number.
    beat: u64,
    sessions: Vec<i64>,
    /// Connections of the sessions; empty while no leases are needed.
    connections: Vec<ConnId>,
    reported_ns: u64,
    /// A session would expire before the next regular report.
    urgent: bool,
}

impl Touched {
    pub fn new() -> Self {
        Self { beat: 1, sessions: Vec::new(), connections: Vec::new(), reported_ns: 0, urgent: false }
    }

    /// Notes that the shard heard from a client. `false`: the session may have expired, and the
    /// connection must close.
    #[inline]
    pub fn note(
        &mut self,
        connection: &mut Connection,
        leases: &Leases,
        config: &ShardConfig,
        now: Now,
    ) -> bool {
        if connection.read_only {
            read_only::heard(connection, now);
        } else if connection.touched_beat != self.beat {
            if leases.are_on() {
                self.connections.push(connection.id);
            } else {
                match heard_on_group_of_one(connection, now.mono_ns, config.touch_beat_ns()) {
                    Liveness::Alive => {}
                    Liveness::Urgent => self.urgent = true,
                    Liveness::MaybeExpired => return false,
                }
            }
            connection.touched_beat = self.beat;
            self.sessions.push(connection.session);
        }
        true
    }

    /// When the next report is due; `None` without sessions to report. Also `None` for a report that is
    /// overdue or urgent: it found the ring full, and the retry after [`super::config::SUBMIT_RETRY_NS`]
    /// covers it.
    pub fn deadline_ns(&self, now: Now, beat_ns: u64) -> Option<u64> {
        (!self.sessions.is_empty())
            .then(|| self.reported_ns + beat_ns)
            .filter(|due_ns| !self.urgent && *due_ns > now.mono_ns)
    }
}

impl Shard {
    /// Reports the sessions heard from: once per beat, or at once if one of them is urgent.
    pub(super) fn report_touched(&mut self, now: Now) {
        let beat_ns = self.config.touch_beat_ns();
        let touched = &mut self.touched;
        if touched.sessions.is_empty() || (!touched.urgent && now.mono_ns < touched.reported_ns + beat_ns) {
            return;
        }
        if self.submit_queue.has_room() {
            let sessions = std::mem::take(&mut touched.sessions);
            let connections = std::mem::take(&mut touched.connections);
            if self.leases.are_on() {
                self.leases.reported(now.mono_ns, connections);
            }
            self.submit_queue.push_untracked(Submit::Touched { sessions, at_ns: now.mono_ns });
            (touched.reported_ns, touched.urgent) = (now.mono_ns, false);
            touched.beat += 1;
        }
    }
}
