//! The rate at which the leader sends to nodes that are far behind.
//!
//! Owns the log ranges that wait to be read and the snapshot chunks that wait to be sent. Also owns the
//! commit latency with and without catch-up traffic: disk, network and cores are shared with clients that
//! write.
//!
//! Never delays new entries. Never delays catch-up traffic while there are no writes.
//!
//! Correct because Raft or the receiver asks again for everything that does not arrive. Bounded by the
//! fetches that Raft asks for and by the windows of the transfers. Catch-up terminates: the minimum rate is
//! a multiple of the write rate. If commits stay slow at the minimum, another reason slows them, and the
//! baseline is learned again.

use crate::consensus::raft::Fetch;
use crate::consensus::raft::cold_entries::FETCH_BYTES_MAX;
use crate::peers::message::{Message, SnapshotMessage};
use std::collections::VecDeque;

/// Minimum rate, bytes per second: a GiB takes two minutes.
const FLOOR_BYTES: u64 = 8 * 1024 * 1024;
/// Minimum rate as a multiple of the write rate.
const FLOOR_OF_WRITTEN: u64 = 2;
/// Initial rate, bytes per second: about what one core sends beside its work.
const START_BYTES: u64 = 64 * 1024 * 1024;
/// Maximum rate, bytes per second: in effect no limit.
const CEILING_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Commits between two adjustments of the rate: some tens of ms under load, and enough for a mean.
const COMMITS_JUDGED: u32 = 16;
/// Latency that is tolerated above one and a half times the baseline: the jitter of a quiet disk.
const SLACK_NS: u64 = 100_000;
/// Time without a commit and without a batch in flight after which catch-up disturbs no write.
const QUIET_NS: u64 = 100_000_000;
/// Age from which a batch in flight no longer delays catch-up. Its commit may need the nodes that are behind.
const STUCK_NS: u64 = 1_000_000_000;
/// Time after the last range or chunk during which it may still slow commits down.
const ECHO_NS: u64 = 1_000_000_000;
/// Adjustments in which the baseline follows commits that stay slow at the minimum rate: some seconds under
/// load.
const USED_TO: u64 = 64;
/// Bytes by which log ranges and chunks may be ahead of each other.
const AHEAD_BYTES: i64 = FETCH_BYTES_MAX as i64;
/// Interval over which the write rate is measured.
const COUNTED_NS: u64 = 1_000_000_000;

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct CatchUpThrottle {
    fetches: VecDeque<Fetch>,
    chunks: VecDeque<(u8, Message)>,
    /// Bytes that log ranges are ahead of chunks, within [`AHEAD_BYTES`]. Both share the rate in equal parts.
    ahead: i64,
    rate: CatchUpRate,
}

impl CatchUpThrottle {
    /// Notes that a batch was proposed.
    pub(in crate::consensus) fn proposed(&mut self, bytes: u64, now_ns: u64) {
        self.rate.proposed.push_back(now_ns);
        self.rate.count(bytes, now_ns);
    }

    /// Notes that the oldest batch in flight is applied.
    pub(in crate::consensus) fn committed(&mut self, now_ns: u64) {
        if let Some(since) = self.rate.proposed.pop_front() {
            self.rate.commit_took(now_ns.saturating_sub(since), now_ns);
        }
    }

    /// Begins again in another term or role. Batches in flight may never be applied, and the baseline is
    /// unknown. Waiting chunks are dropped, since another leader sends snapshots. Waiting log ranges stay:
    /// Raft knows whether it still needs them.
    pub(in crate::consensus) fn restart(&mut self) {
        self.rate = CatchUpRate::default();
        self.chunks.clear();
        self.ahead = 0;
    }

    /// Queues a range of the log that is to be read.
    pub(in crate::consensus) fn fetch(&mut self, fetch: Fetch) {
        self.fetches.push_back(fetch);
    }

    /// Queues a chunk of a snapshot. Returns any other message, which the caller sends at once. A resent
    /// chunk waits once. Waiting chunks of another file to the same node are dropped.
    pub(in crate::consensus) fn chunk(&mut self, to: u8, message: Message) -> Option<Message> {
        let Some((index, offset)) = chunk_position(&message) else {
            if matches!(message, Message::Snapshot(SnapshotMessage::Stop { .. })) {
                self.link_down(to);
            }
            return Some(message);
        };
        self.chunks.retain(|(node, waiting)| {
            *node != to || chunk_position(waiting).is_some_and(|(of, _)| of == index)
        });
        let known =
            |(node, waiting): &(u8, Message)| *node == to && chunk_position(waiting) == Some((index, offset));
        if !self.chunks.iter().any(known) {
            self.chunks.push_back((to, message));
        }
        debug_assert_eq!(self.chunks.iter().filter(|chunk| known(chunk)).count(), 1, "a chunk waits once");
        None
    }

    /// Drops the waiting chunks for a node without a link.
    pub(in crate::consensus) fn link_down(&mut self, node: u8) {
        self.chunks.retain(|(to, _)| *to != node);
    }

    /// The next range of the log that may be read now.
    pub(in crate::consensus) fn next_fetch(&mut self, now_ns: u64) -> Option<Fetch> {
        let may = self.is_logs_turn() && self.rate.is_due(now_ns);
        let fetch = self.fetches.pop_front_if(|_| may)?;
        self.rate.spend(fetch.bytes_max, now_ns);
        self.note_share(i64::try_from(fetch.bytes_max).unwrap_or(AHEAD_BYTES));
        Some(fetch)
    }

    /// The next chunk that may be sent now, and its receiver.
    pub(in crate::consensus) fn next_chunk(&mut self, now_ns: u64) -> Option<(u8, Message)> {
        let may = !self.is_logs_turn() && self.rate.is_due(now_ns);
        let (to, message) = self.chunks.pop_front_if(|_| may)?;
        if let Message::Snapshot(SnapshotMessage::Chunk { bytes, .. }) = &message {
            self.rate.spend(bytes.len() as u64, now_ns);
            self.note_share(-(bytes.len() as i64));
        }
        Some((to, message))
    }

    /// Whether a log range goes next. Without turns one kind could starve the other while both wait.
    fn is_logs_turn(&self) -> bool {
        self.chunks.is_empty() || (!self.fetches.is_empty() && self.ahead <= 0)
    }

    /// Counts bytes of a log range, or with a minus of a chunk.
    fn note_share(&mut self, bytes: i64) {
        self.ahead = self.ahead.saturating_add(bytes).clamp(-AHEAD_BYTES, AHEAD_BYTES);
    }

    /// Time at which the next waiting range or chunk may go; `None`: none waits.
    pub(in crate::consensus) fn deadline_ns(&self) -> Option<u64> {
        (!self.fetches.is_empty() || !self.chunks.is_empty()).then(|| self.rate.due_ns())
    }
}

/// (snapshot index, offset) of a chunk; `None` for other messages.
fn chunk_position(message: &Message) -> Option<(u64, u64)> {
    match message {
        Message::Snapshot(SnapshotMessage::Chunk { index, offset, .. }) => Some((*index, *offset)),
        _ => None,
    }
}

/// The rate of catch-up traffic, adapted to the commit latency.
#[derive(Debug)]
struct CatchUpRate {
    /// Times at which the batches in flight were proposed, in order. Bounded by the batches in flight.
    proposed: VecDeque<u64>,
    /// Baseline: mean commit latency without catch-up traffic; 0: not known.
    usual_ns: u64,
    /// Mean latency of the latest commits.
    lately_ns: u64,
    /// Commits since the last adjustment.
    commits: u32,
    /// Time of the last commit.
    committed_ns: u64,
    /// The rate, at least [`FLOOR_BYTES`].
    bytes_per_second: u64,
    /// Time at which the next range or chunk may go.
    next_ns: u64,
    /// Time at which the last range or chunk went; `None`: none went yet.
    last_sent_ns: Option<u64>,
    /// (bytes written, time since which they are counted).
    written: (u64, u64),
    /// Write rate of the last interval.
    written_per_second: u64,
}

impl Default for CatchUpRate {
    fn default() -> Self {
        Self {
            proposed: VecDeque::new(),
            usual_ns: 0,
            lately_ns: 0,
            commits: 0,
            committed_ns: 0,
            bytes_per_second: START_BYTES,
            next_ns: 0,
            last_sent_ns: None,
            written: (0, 0),
            written_per_second: 0,
        }
    }
}

impl CatchUpRate {
    /// Time at which the next range or chunk may go, unless something is proposed or committed before.
    fn due_ns(&self) -> u64 {
        let quiet_ns = self.committed_ns + QUIET_NS;
        self.next_ns.min(self.proposed.front().map_or(quiet_ns, |since_ns| quiet_ns.max(since_ns + STUCK_NS)))
    }

    fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns()
    }

    /// Takes `bytes` out of the rate. Counts from now on, so that bytes sent while there were no writes are
    /// no debt.
    fn spend(&mut self, bytes: u64, now_ns: u64) {
        debug_assert!(self.bytes_per_second >= FLOOR_BYTES, "the rate has a minimum");
        self.last_sent_ns = Some(now_ns);
        self.next_ns = now_ns + bytes.saturating_mul(1_000_000_000) / self.bytes_per_second;
    }

    fn count(&mut self, bytes: u64, now_ns: u64) {
        let (written, since_ns) = &mut self.written;
        *written += bytes;
        let over_ns = now_ns.saturating_sub(*since_ns);
        if over_ns >= COUNTED_NS {
            self.written_per_second = (u128::from(*written) * 1_000_000_000 / u128::from(over_ns)) as u64;
            self.written = (0, now_ns);
        }
    }

    fn commit_took(&mut self, took_ns: u64, now_ns: u64) {
        self.committed_ns = now_ns;
        if self.usual_ns == 0 {
            (self.usual_ns, self.lately_ns) = (took_ns.max(1), took_ns);
        }
        self.lately_ns = mean(self.lately_ns, took_ns, 8);
        if self.last_sent_ns.is_none_or(|last_sent_ns| now_ns >= last_sent_ns + ECHO_NS) {
            self.usual_ns = mean(self.usual_ns, took_ns, 32).max(1);
            self.commits = 0;
            return;
        }
        self.commits += 1;
        if self.commits >= COMMITS_JUDGED {
            self.commits = 0;
            self.judge();
        }
        debug_assert!(self.usual_ns > 0 && self.commits < COMMITS_JUDGED);
    }

    /// Adjusts the rate: up by an eighth while commits are about as fast as usual, else down by half.
    fn judge(&mut self) {
        debug_assert!(self.usual_ns > 0, "the baseline is known after the first commit");
        let floor = FLOOR_BYTES.max(FLOOR_OF_WRITTEN * self.written_per_second);
        if self.lately_ns <= self.usual_ns + self.usual_ns / 2 + SLACK_NS {
            self.bytes_per_second = (self.bytes_per_second + self.bytes_per_second / 8).min(CEILING_BYTES);
            return;
        }
        if self.bytes_per_second <= floor {
            self.usual_ns = mean(self.usual_ns, self.lately_ns, USED_TO);
        }
        self.bytes_per_second = (self.bytes_per_second / 2).max(floor);
        debug_assert!(self.bytes_per_second >= FLOOR_BYTES, "the rate has a minimum");
    }
}

/// A running mean in which the newest value counts one part in `parts`.
fn mean(before: u64, newest: u64, parts: u64) -> u64 {
    (before * (parts - 1) + newest) / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const FETCH_BYTES: u64 = 1 << 20;

    /// Runs a leader for `ms` milliseconds that proposes a batch of `bytes` each ms, with a commit latency of
    /// `took_ns`. Returns the bytes per second for a node that is further behind than that time allows.
    fn catch_up_rate(throttle: &mut CatchUpThrottle, from_ms: u64, ms: u64, bytes: u64, took_ns: u64) -> u64 {
        let (mut sent, mut now_ns) = (0, from_ms * MS);
        for _ in 0..ms {
            now_ns += MS;
            throttle.fetches.push_back(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            while let Some(fetch) = throttle.next_fetch(now_ns) {
                sent += fetch.bytes_max;
                throttle.fetches.push_back(fetch);
                if sent > ms * FETCH_BYTES {
                    return sent * 1000 / ms;
                }
            }
            throttle.fetches.clear();
            throttle.proposed(bytes, now_ns - took_ns);
            throttle.committed(now_ns);
        }
        sent * 1000 / ms
    }

    /// A throttle with a baseline of 1 ms.
    fn calm(bytes: u64) -> CatchUpThrottle {
        let mut throttle = CatchUpThrottle::default();
        for ms in 1..3000 {
            throttle.proposed(bytes, ms * MS);
            throttle.committed((ms + 1) * MS);
        }
        throttle
    }

    #[test]
    fn catch_up_does_not_slow_writes_down() {
        let mut throttle = calm(10);
        let fast = catch_up_rate(&mut throttle, 3000, 1000, 10, MS);
        assert!(fast > START_BYTES, "{fast} B/s though commits take as long as ever");
        catch_up_rate(&mut throttle, 4000, 400, 10, 3 * MS);
        assert_eq!(throttle.rate.bytes_per_second, FLOOR_BYTES);
    }

    #[test]
    fn the_floor_lets_a_node_catch_up_with_what_is_written_meanwhile() {
        // 30 MB/s.
        let mut throttle = calm(30_000);
        catch_up_rate(&mut throttle, 3000, 400, 30_000, 10 * MS);
        let slow = throttle.rate.bytes_per_second;
        assert!((59_000_000..80_000_000).contains(&slow), "{slow} B/s");
    }

    #[test]
    fn commits_that_are_slow_for_another_reason_do_not_slow_catch_up_for_ever() {
        let mut throttle = calm(10);
        catch_up_rate(&mut throttle, 3000, 400, 10, 3 * MS);
        assert_eq!(throttle.rate.bytes_per_second, FLOOR_BYTES);
        catch_up_rate(&mut throttle, 3400, 4000, 10, 3 * MS);
        assert!(throttle.rate.bytes_per_second > START_BYTES, "{}", throttle.rate.bytes_per_second);
    }

    #[test]
    fn without_writes_nothing_waits() {
        let mut throttle = calm(10);
        catch_up_rate(&mut throttle, 3000, 1000, 10, 3 * MS);
        throttle.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: u64::MAX, token: 0 });
        let now_ns = 4000 * MS + QUIET_NS;
        assert!(throttle.next_fetch(now_ns).is_some());
        throttle.fetch(Fetch { to: 2, low: 9, high: 19, bytes_max: 1, token: 0 });
        assert!(throttle.next_fetch(now_ns + 1).is_some());
    }

    #[test]
    fn a_slow_commit_holds_catch_up_back_until_it_counts_as_stuck() {
        let mut throttle = CatchUpThrottle::default();
        let (mut sent, mut last_ns) = (0, 0);
        // One batch at a time, with a latency of 150 ms, and of three times that during catch-up.
        for ms in 1..120_000 {
            let now_ns = ms * MS;
            let took_ns = if ms < 30_000 { 150 * MS } else { 450 * MS };
            if ms == 1 || now_ns >= last_ns + took_ns {
                throttle.committed(now_ns);
                throttle.proposed(10, now_ns);
                last_ns = now_ns;
            }
            throttle.fetches.clear();
            throttle.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            if ms >= 30_000 && throttle.next_fetch(now_ns).is_some() && ms >= 60_000 {
                sent += FETCH_BYTES;
            }
        }
        assert!(sent / 60 <= 2 * FLOOR_BYTES, "{} B/s though commits are slow", sent / 60);
        // Nothing is committed any more, perhaps since a majority needs the node that is behind.
        let stuck_ns = last_ns + STUCK_NS;
        assert!(throttle.next_fetch(stuck_ns).is_some());
        throttle.fetch(Fetch { to: 2, low: 9, high: 19, bytes_max: 1, token: 0 });
        assert!(throttle.next_fetch(stuck_ns + 1).is_some());
    }

    #[test]
    fn bytes_sent_while_there_were_no_writes_are_no_debt_later() {
        let mut throttle = calm(10);
        let quiet_ns = 3000 * MS + QUIET_NS;
        for n in 0..1000 {
            throttle.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            assert!(throttle.next_fetch(quiet_ns + n).is_some());
        }
        throttle.proposed(10, quiet_ns);
        throttle.committed(quiet_ns + MS);
        throttle.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
        let one_piece_ns = FETCH_BYTES * 1_000_000_000 / FLOOR_BYTES;
        assert!(throttle.deadline_ns().is_some_and(|at_ns| at_ns <= quiet_ns + MS + one_piece_ns));
        assert!(throttle.rate.next_ns <= quiet_ns + MS + one_piece_ns, "a GiB is not waited off");
    }

    #[test]
    fn only_chunks_wait_and_a_lost_link_drops_them() {
        let mut throttle = CatchUpThrottle::default();
        let chunk = Message::Snapshot(SnapshotMessage::Chunk { index: 1, offset: 0, bytes: vec![0; 9] });
        let stop = Message::Snapshot(SnapshotMessage::Stop { index: 1, why: String::new() });
        assert!(throttle.chunk(2, stop).is_some());
        assert!(throttle.chunk(2, chunk.clone()).is_none() && throttle.chunk(3, chunk).is_none());
        throttle.link_down(2);
        assert_eq!(throttle.next_chunk(1).map(|(to, _)| to), Some(3));
        assert!(throttle.next_chunk(1).is_none());
    }

    #[test]
    fn log_ranges_and_snapshot_chunks_share_the_rate() {
        let chunk = |offset| {
            let bytes = vec![0; 128 * 1024];
            Message::Snapshot(SnapshotMessage::Chunk { index: 1, offset, bytes })
        };
        let mut throttle = calm(10);
        let (mut of_log, mut of_snapshot, mut offset) = (0, 0, 0);
        for ms in 3000..13_000 {
            let now_ns = ms * MS;
            // Each node asks for the next part as soon as it has one, and the core handles snapshots first.
            if throttle.chunks.is_empty() {
                offset += 128 * 1024;
                assert!(throttle.chunk(3, chunk(offset)).is_none());
            }
            if throttle.fetches.is_empty() {
                throttle.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            }
            while throttle.next_chunk(now_ns).is_some() {
                of_snapshot += 128 * 1024;
            }
            while let Some(fetch) = throttle.next_fetch(now_ns) {
                of_log += fetch.bytes_max;
            }
            throttle.proposed(10, now_ns - 3 * MS);
            throttle.committed(now_ns);
        }
        assert!(of_log > of_snapshot / 2 && of_snapshot > of_log / 2, "{of_log} and {of_snapshot} bytes");
    }

    #[test]
    fn a_chunk_that_is_sent_again_while_it_waits_goes_once() {
        let mut throttle = CatchUpThrottle::default();
        let chunk =
            |index, offset| Message::Snapshot(SnapshotMessage::Chunk { index, offset, bytes: vec![0; 9] });
        for _ in 0..100 {
            assert!(throttle.chunk(2, chunk(1, 0)).is_none() && throttle.chunk(3, chunk(1, 0)).is_none());
        }
        assert_eq!(throttle.chunks.len(), 2);
        // With a chunk of another file, or a Stop, the waiting chunks of the file before are of no use.
        assert!(throttle.chunk(2, chunk(8, 0)).is_none());
        assert_eq!(throttle.chunks.len(), 2);
        let stop = Message::Snapshot(SnapshotMessage::Stop { index: 8, why: String::new() });
        assert!(throttle.chunk(2, stop).is_some());
        assert_eq!(throttle.next_chunk(1).map(|(to, _)| to), Some(3));
        assert!(throttle.next_chunk(1).is_none());
    }
}
