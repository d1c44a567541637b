//! How fast nodes that are far behind are fed.
//!
//! Owns what the leader would read of the log or send of a snapshot, until it may; and how long its commits
//! take, usually and while it feeds: disk, network and cores are shared with those who write. Never holds
//! back what is new, nor anything where nobody writes. It stays correct because everything that is fed is
//! asked for again if it does not come; bounded by what may be on its way, here or not; and it ends, because
//! the floor is a multiple of what is written meanwhile, and because commits that stay slow at the floor are
//! slow for another reason, to which it gets used.

use crate::consensus::raft::Fetch;
use crate::consensus::raft::cold_entries::FETCH_BYTES_MAX;
use crate::peers::message::{Message, SnapshotMessage};
use std::collections::VecDeque;

/// Bytes per second that are always fed: a GiB takes two minutes.
const FLOOR_BYTES: u64 = 8 * 1024 * 1024;
/// The floor as a multiple of what is written.
const FLOOR_OF_WRITTEN: u64 = 2;
/// Bytes per second with which a feed begins, about what one core sends beside its work.
const START_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes per second above which nothing is counted any more.
const CEILING_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Commits after which the pace is judged: some tens of ms under load, and enough for a mean.
const COMMITS_JUDGED: u32 = 16;
/// What commits may take longer than usual beside half as long again: the jitter of a quiet disk.
const SLACK_NS: u64 = 100_000;
/// Without a commit for this long, and without a batch that is under way, nobody is in the way.
const QUIET_NS: u64 = 100_000_000;
/// A batch that is under way for so long keeps nobody from being fed: its commit may need whoever is behind.
const STUCK_NS: u64 = 1_000_000_000;
/// How long after the last piece commits may still be slow because of it.
const ECHO_NS: u64 = 1_000_000_000;
/// Judgements in which a leader gets used to commits that stay slow at the floor: some seconds under load.
const USED_TO: u64 = 64;
/// Bytes by which those who are fed from the log and those who are sent a snapshot may differ before the
/// others have their turn.
const AHEAD_BYTES: i64 = FETCH_BYTES_MAX as i64;
/// Over which time writes are counted.
const COUNTED_NS: u64 = 1_000_000_000;

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct CatchUpThrottle {
    fetches: VecDeque<Fetch>,
    chunks: VecDeque<(u8, Message)>,
    /// Bytes that the log's ranges had more than the chunks, as far as it matters: they share the pace in
    /// equal parts.
    ahead: i64,
    pace: Pace,
}

impl CatchUpThrottle {
    /// A batch of so many bytes was proposed.
    pub(in crate::consensus) fn proposed(&mut self, bytes: u64, now_ns: u64) {
        self.pace.proposed.push_back(now_ns);
        self.pace.count(bytes, now_ns);
    }

    /// The oldest batch proposed is applied.
    pub(in crate::consensus) fn committed(&mut self, now_ns: u64) {
        if let Some(since) = self.pace.proposed.pop_front() {
            self.pace.took(now_ns.saturating_sub(since), now_ns);
        }
    }

    /// Another term, or another part in it: what was proposed may never be applied, and what is usual is to
    /// be learned. What was to be sent of a snapshot is another leader's concern; ranges of the log go back
    /// to the group, which knows.
    pub(in crate::consensus) fn restart(&mut self) {
        self.pace = Pace::default();
        self.chunks.clear();
        self.ahead = 0;
    }

    /// A range of the log is to be read.
    pub(in crate::consensus) fn fetch(&mut self, fetch: Fetch) {
        self.fetches.push_back(fetch);
    }

    /// Takes what is a part of a snapshot, until it may be sent; what else a transfer says comes back, to be
    /// sent at once. What is sent again while it waits is not kept twice, and nothing of a file that is not
    /// sent any more.
    pub(in crate::consensus) fn chunk(&mut self, to: u8, message: Message) -> Option<Message> {
        let Some((index, offset)) = place(&message) else {
            if matches!(message, Message::Snapshot(SnapshotMessage::Stop { .. })) {
                self.link_down(to);
            }
            return Some(message);
        };
        self.chunks
            .retain(|(node, waiting)| *node != to || place(waiting).is_some_and(|(of, _)| of == index));
        let known = |(node, waiting): &(u8, Message)| *node == to && place(waiting) == Some((index, offset));
        if !self.chunks.iter().any(known) {
            self.chunks.push_back((to, message));
        }
        None
    }

    /// Nobody is there any more to be sent anything.
    pub(in crate::consensus) fn link_down(&mut self, node: u8) {
        self.chunks.retain(|(to, _)| *to != node);
    }

    /// The next range that may be read.
    pub(in crate::consensus) fn next_fetch(&mut self, now_ns: u64) -> Option<Fetch> {
        let may = self.is_logs_turn() && self.pace.is_due(now_ns);
        let fetch = self.fetches.pop_front_if(|_| may)?;
        self.pace.spend(fetch.bytes_max, now_ns);
        self.had(i64::try_from(fetch.bytes_max).unwrap_or(AHEAD_BYTES));
        Some(fetch)
    }

    /// The next chunk that may be sent.
    pub(in crate::consensus) fn next_chunk(&mut self, now_ns: u64) -> Option<(u8, Message)> {
        let may = !self.is_logs_turn() && self.pace.is_due(now_ns);
        let (to, message) = self.chunks.pop_front_if(|_| may)?;
        if let Message::Snapshot(SnapshotMessage::Chunk { bytes, .. }) = &message {
            self.pace.spend(bytes.len() as u64, now_ns);
            self.had(-(bytes.len() as i64));
        }
        Some((to, message))
    }

    /// Whether the next piece is one of the log: where both wait, each kind would always be there first.
    fn is_logs_turn(&self) -> bool {
        self.chunks.is_empty() || (!self.fetches.is_empty() && self.ahead <= 0)
    }

    fn had(&mut self, bytes: i64) {
        self.ahead = self.ahead.saturating_add(bytes).clamp(-AHEAD_BYTES, AHEAD_BYTES);
    }

    /// When something that waits may go on.
    pub(in crate::consensus) fn deadline_ns(&self) -> Option<u64> {
        (!self.fetches.is_empty() || !self.chunks.is_empty()).then(|| self.pace.due_ns())
    }
}

/// Which part of which file it is.
fn place(message: &Message) -> Option<(u64, u64)> {
    match message {
        Message::Snapshot(SnapshotMessage::Chunk { index, offset, .. }) => Some((*index, *offset)),
        _ => None,
    }
}

#[derive(Debug)]
struct Pace {
    /// When each batch that is under way was proposed; as many as may be.
    proposed: VecDeque<u64>,
    /// How long a commit takes while nobody is fed; 0: not known.
    usual_ns: u64,
    /// How long it takes now.
    lately_ns: u64,
    /// Commits since the pace was judged.
    commits: u32,
    committed_ns: u64,
    /// Bytes per second.
    rate: u64,
    /// When the next piece may go.
    next_ns: u64,
    /// When the last one went, if any did.
    fed_ns: Option<u64>,
    /// Bytes written since, and per second before.
    written: (u64, u64),
    written_per_second: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            proposed: VecDeque::new(),
            usual_ns: 0,
            lately_ns: 0,
            commits: 0,
            committed_ns: 0,
            rate: START_BYTES,
            next_ns: 0,
            fed_ns: None,
            written: (0, 0),
            written_per_second: 0,
        }
    }
}

impl Pace {
    /// When the next piece may go, if nothing is committed until then.
    fn due_ns(&self) -> u64 {
        let quiet_ns = self.committed_ns + QUIET_NS;
        self.next_ns.min(self.proposed.front().map_or(quiet_ns, |since_ns| quiet_ns.max(since_ns + STUCK_NS)))
    }

    fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns()
    }

    /// What went while nobody was in the way is no debt: counted from now on, never from the piece before.
    fn spend(&mut self, bytes: u64, now_ns: u64) {
        self.fed_ns = Some(now_ns);
        self.next_ns = now_ns + bytes.saturating_mul(1_000_000_000) / self.rate;
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

    fn took(&mut self, took_ns: u64, now_ns: u64) {
        self.committed_ns = now_ns;
        if self.usual_ns == 0 {
            (self.usual_ns, self.lately_ns) = (took_ns.max(1), took_ns);
        }
        self.lately_ns = mean(self.lately_ns, took_ns, 8);
        if self.fed_ns.is_none_or(|fed_ns| now_ns >= fed_ns + ECHO_NS) {
            self.usual_ns = mean(self.usual_ns, took_ns, 32).max(1);
            self.commits = 0;
            return;
        }
        self.commits += 1;
        if self.commits >= COMMITS_JUDGED {
            self.commits = 0;
            self.judge();
        }
    }

    fn judge(&mut self) {
        let floor = FLOOR_BYTES.max(FLOOR_OF_WRITTEN * self.written_per_second);
        if self.lately_ns <= self.usual_ns + self.usual_ns / 2 + SLACK_NS {
            self.rate = (self.rate + self.rate / 8).min(CEILING_BYTES);
            return;
        }
        if self.rate <= floor {
            self.usual_ns = mean(self.usual_ns, self.lately_ns, USED_TO);
        }
        self.rate = (self.rate / 2).max(floor);
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

    /// A leader that proposes a batch of `bytes` each ms, of which each takes `took_ns`, and somebody who is
    /// behind by more than there is time for. Gives the bytes per second that he is fed in `ms` milliseconds.
    fn fed(feed: &mut CatchUpThrottle, from_ms: u64, ms: u64, bytes: u64, took_ns: u64) -> u64 {
        let (mut fed, mut now_ns) = (0, from_ms * MS);
        for _ in 0..ms {
            now_ns += MS;
            feed.fetches.push_back(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            while let Some(fetch) = feed.next_fetch(now_ns) {
                fed += fetch.bytes_max;
                feed.fetches.push_back(fetch);
                if fed > ms * FETCH_BYTES {
                    return fed * 1000 / ms;
                }
            }
            feed.fetches.clear();
            feed.proposed(bytes, now_ns - took_ns);
            feed.committed(now_ns);
        }
        fed * 1000 / ms
    }

    /// One that knows what is usual: commits of 1 ms.
    fn calm(bytes: u64) -> CatchUpThrottle {
        let mut feed = CatchUpThrottle::default();
        for ms in 1..3000 {
            feed.proposed(bytes, ms * MS);
            feed.committed((ms + 1) * MS);
        }
        feed
    }

    #[test]
    fn who_writes_is_not_slowed_down_by_one_who_is_behind() {
        let mut feed = calm(10);
        let fast = fed(&mut feed, 3000, 1000, 10, MS);
        assert!(fast > START_BYTES, "{fast} B/s though commits take as long as ever");
        fed(&mut feed, 4000, 400, 10, 3 * MS);
        assert_eq!(feed.pace.rate, FLOOR_BYTES);
    }

    #[test]
    fn the_floor_lets_a_node_catch_up_with_what_is_written_meanwhile() {
        // 30 MB/s.
        let mut feed = calm(30_000);
        fed(&mut feed, 3000, 400, 30_000, 10 * MS);
        let slow = feed.pace.rate;
        assert!((59_000_000..80_000_000).contains(&slow), "{slow} B/s");
    }

    #[test]
    fn commits_that_are_slow_for_another_reason_do_not_slow_the_feed_for_ever() {
        let mut feed = calm(10);
        fed(&mut feed, 3000, 400, 10, 3 * MS);
        assert_eq!(feed.pace.rate, FLOOR_BYTES);
        fed(&mut feed, 3400, 4000, 10, 3 * MS);
        assert!(feed.pace.rate > START_BYTES, "{}", feed.pace.rate);
    }

    #[test]
    fn where_nobody_writes_nothing_waits() {
        let mut feed = calm(10);
        fed(&mut feed, 3000, 1000, 10, 3 * MS);
        feed.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: u64::MAX, token: 0 });
        let now_ns = 4000 * MS + QUIET_NS;
        assert!(feed.next_fetch(now_ns).is_some());
        feed.fetch(Fetch { to: 2, low: 9, high: 19, bytes_max: 1, token: 0 });
        assert!(feed.next_fetch(now_ns + 1).is_some());
    }

    #[test]
    fn who_waits_long_for_a_commit_is_in_the_way_until_it_is_stuck() {
        let mut feed = CatchUpThrottle::default();
        let (mut fed, mut last_ns) = (0, 0);
        // One batch at a time, of 150 ms each, and of three times that while somebody is fed.
        for ms in 1..120_000 {
            let now_ns = ms * MS;
            let took_ns = if ms < 30_000 { 150 * MS } else { 450 * MS };
            if ms == 1 || now_ns >= last_ns + took_ns {
                feed.committed(now_ns);
                feed.proposed(10, now_ns);
                last_ns = now_ns;
            }
            feed.fetches.clear();
            feed.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            if ms >= 30_000 && feed.next_fetch(now_ns).is_some() && ms >= 60_000 {
                fed += FETCH_BYTES;
            }
        }
        assert!(fed / 60 <= 2 * FLOOR_BYTES, "{} B/s though commits are slow", fed / 60);
        // Nothing is committed any more: perhaps who is behind is needed for that.
        let stuck_ns = last_ns + STUCK_NS;
        assert!(feed.next_fetch(stuck_ns).is_some());
        feed.fetch(Fetch { to: 2, low: 9, high: 19, bytes_max: 1, token: 0 });
        assert!(feed.next_fetch(stuck_ns + 1).is_some());
    }

    #[test]
    fn what_went_while_nobody_wrote_is_no_debt_when_somebody_does() {
        let mut feed = calm(10);
        let quiet_ns = 3000 * MS + QUIET_NS;
        for n in 0..1000 {
            feed.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            assert!(feed.next_fetch(quiet_ns + n).is_some());
        }
        feed.proposed(10, quiet_ns);
        feed.committed(quiet_ns + MS);
        feed.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
        let one_piece_ns = FETCH_BYTES * 1_000_000_000 / FLOOR_BYTES;
        assert!(feed.deadline_ns().is_some_and(|at_ns| at_ns <= quiet_ns + MS + one_piece_ns));
        assert!(feed.pace.next_ns <= quiet_ns + MS + one_piece_ns, "a GiB is not waited off");
    }

    #[test]
    fn only_chunks_wait_and_not_for_one_who_is_gone() {
        let mut feed = CatchUpThrottle::default();
        let chunk = Message::Snapshot(SnapshotMessage::Chunk { index: 1, offset: 0, bytes: vec![0; 9] });
        let stop = Message::Snapshot(SnapshotMessage::Stop { index: 1, why: String::new() });
        assert!(feed.chunk(2, stop).is_some());
        assert!(feed.chunk(2, chunk.clone()).is_none() && feed.chunk(3, chunk).is_none());
        feed.link_down(2);
        assert_eq!(feed.next_chunk(1).map(|(to, _)| to), Some(3));
        assert!(feed.next_chunk(1).is_none());
    }

    #[test]
    fn a_node_that_needs_the_log_and_one_that_needs_a_snapshot_are_fed_alike() {
        let chunk = |offset| {
            let bytes = vec![0; 128 * 1024];
            Message::Snapshot(SnapshotMessage::Chunk { index: 1, offset, bytes })
        };
        let mut feed = calm(10);
        let (mut of_log, mut of_snapshot, mut offset) = (0, 0, 0);
        for ms in 3000..13_000 {
            let now_ns = ms * MS;
            // Each asks for the next piece as soon as it has one, and the core looks after snapshots first.
            if feed.chunks.is_empty() {
                offset += 128 * 1024;
                assert!(feed.chunk(3, chunk(offset)).is_none());
            }
            if feed.fetches.is_empty() {
                feed.fetch(Fetch { to: 2, low: 1, high: 9, bytes_max: FETCH_BYTES, token: 0 });
            }
            while feed.next_chunk(now_ns).is_some() {
                of_snapshot += 128 * 1024;
            }
            while let Some(fetch) = feed.next_fetch(now_ns) {
                of_log += fetch.bytes_max;
            }
            feed.proposed(10, now_ns - 3 * MS);
            feed.committed(now_ns);
        }
        assert!(of_log > of_snapshot / 2 && of_snapshot > of_log / 2, "{of_log} and {of_snapshot} bytes");
    }

    #[test]
    fn a_chunk_that_is_sent_again_while_it_waits_goes_once() {
        let mut feed = CatchUpThrottle::default();
        let chunk =
            |index, offset| Message::Snapshot(SnapshotMessage::Chunk { index, offset, bytes: vec![0; 9] });
        for _ in 0..100 {
            assert!(feed.chunk(2, chunk(1, 0)).is_none() && feed.chunk(3, chunk(1, 0)).is_none());
        }
        assert_eq!(feed.chunks.len(), 2);
        // Another file, or none any more: what waited of the one before is of no use.
        assert!(feed.chunk(2, chunk(8, 0)).is_none());
        assert_eq!(feed.chunks.len(), 2);
        let stop = Message::Snapshot(SnapshotMessage::Stop { index: 8, why: String::new() });
        assert!(feed.chunk(2, stop).is_some());
        assert_eq!(feed.next_chunk(1).map(|(to, _)| to), Some(3));
        assert!(feed.next_chunk(1).is_none());
    }
}
