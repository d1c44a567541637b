//! The `raft` crate behind [`Group`].
//!
//! Owns the Raft node, its window of recent entries, and the jitter of its elections. Never lets anything from outside
//! reach protobuf, and never uses leases. It stays correct because durability is reported by drain number, in order,
//! and because the crate's own draw from the thread's random numbers is overwritten by ours at each change of term or
//! part: two runs with the same seed and the same inputs do the same.

use super::group::{Effects, EntryKind, Group, GroupError, LogEntry, ProposeError, Role, Vote};
use super::window::Window;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};

/// Length of a tick, ns: fine enough that heartbeat and election times are multiples of it.
pub const TICK_NS: u64 = 20_000_000;
/// Ticks between heartbeats: 60 ms.
const HEARTBEAT_TICKS: usize = 3;
/// Least ticks without a leader before a node stands for election: 300 ms, five lost heartbeats.
const ELECTION_TICKS_MIN: usize = 15;
/// Ticks below which it certainly does: 600 ms, so that two nodes seldom stand at once.
const ELECTION_TICKS_MAX: usize = 30;
/// Bytes of committed entries handed out at once: a few batches, so that apply returns to the loop between them.
const COMMITTED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes in one append message to a peer.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Append messages under way to one peer.
const MESSAGES_IN_FLIGHT_MAX: usize = 256;

const _: () = assert!(HEARTBEAT_TICKS * 5 <= ELECTION_TICKS_MIN && ELECTION_TICKS_MIN < ELECTION_TICKS_MAX);

/// From what a node starts.
#[derive(Clone, Debug)]
pub struct GroupStart {
    /// This node's number in the group.
    pub node: u64,
    /// The group's voters.
    pub voters: Vec<u64>,
    /// What was recovered of elections.
    pub vote: Vote,
    /// Index of the last entry that was applied in recovery.
    pub applied: u64,
    /// Its term.
    pub applied_term: u64,
    /// Seed of the election jitter.
    pub seed: u64,
}

/// A Raft node.
pub struct RaftGroup {
    node: RawNode<Window>,
    /// The newest one that was drained or recovered.
    vote: Vote,
    jitter: u64,
    /// Term and part for which the jitter was drawn.
    drawn_for: (u64, StateRole),
    alone: bool,
}

impl RaftGroup {
    /// Sets a node up behind what recovery has applied.
    pub fn new(start: &GroupStart) -> Result<Self, GroupError> {
        let hard_state = HardState {
            term: start.vote.term,
            vote: start.vote.node,
            commit: start.applied,
            ..HardState::default()
        };
        let members = ConfState { voters: start.voters.clone(), ..ConfState::default() };
        let window = Window::new(start.applied, start.applied_term, hard_state, members);
        let config = Config {
            id: start.node,
            election_tick: ELECTION_TICKS_MIN,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: ELECTION_TICKS_MIN,
            max_election_tick: ELECTION_TICKS_MAX,
            applied: start.applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let node = RawNode::new(&config, window, &super::raft_log::logger())
            .map_err(|e| GroupError(e.to_string()))?;
        let mut group = Self {
            node,
            vote: start.vote,
            jitter: start.seed,
            drawn_for: (u64::MAX, StateRole::Follower),
            alone: start.voters == [start.node],
        };
        group.draw();
        Ok(group)
    }

    /// Overwrites the crate's own draw of the election timeout whenever it made one.
    fn draw(&mut self) {
        let now = (self.node.raft.term, self.node.raft.state);
        if self.drawn_for != now {
            self.drawn_for = now;
            let span = (ELECTION_TICKS_MAX - ELECTION_TICKS_MIN) as u64;
            let ticks = ELECTION_TICKS_MIN + (splitmix(&mut self.jitter) % span) as usize;
            self.node.raft.set_randomized_election_timeout(ticks);
        }
    }
}

impl Group for RaftGroup {
    fn tick(&mut self) {
        self.node.tick();
        self.draw();
    }

    fn campaign(&mut self) -> Result<(), GroupError> {
        let done = self.node.campaign().map_err(|e| GroupError(e.to_string()));
        self.draw();
        done
    }

    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ProposeError> {
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader);
        }
        self.node.propose(Vec::new(), payload).map_err(|_| ProposeError::Busy)
    }

    fn read_index(&mut self, round: u64) {
        self.node.read_index(round.to_le_bytes().to_vec());
    }

    fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.node.mut_store().release(index);
    }

    fn drain(&mut self, effects: &mut Effects) -> bool {
        effects.clear();
        if !self.node.has_ready() {
            return false;
        }
        let mut ready = self.node.ready();
        effects.number = ready.number();
        // The index of commit alone is not worth a record: recovery finds it again.
        let vote = ready.hs().map_or(self.vote, |h| Vote { term: h.term, node: h.vote });
        if vote != self.vote {
            self.vote = vote;
            effects.vote = Some(vote);
        }
        effects.entries.extend(ready.entries().iter().map(entry));
        effects.committed.extend(ready.take_committed_entries().iter().map(entry));
        effects.reads.extend(ready.take_read_states().into_iter().filter_map(|r| {
            let round = u64::from_le_bytes(r.request_ctx.try_into().ok()?);
            Some((round, r.index))
        }));
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        self.node.advance_append_async(ready);
        self.draw();
        true
    }

    fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    fn term(&self) -> u64 {
        self.node.raft.term
    }

    fn alone(&self) -> bool {
        self.alone
    }
}

fn entry(e: &Entry) -> LogEntry {
    let kind = match e.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Batch,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Membership,
    };
    LogEntry { index: e.index, term: e.term, kind, payload: e.data.clone() }
}

/// SplitMix64: a whole stream from any seed, in three lines.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(applied: u64, applied_term: u64, term: u64) -> RaftGroup {
        RaftGroup::new(&GroupStart {
            node: 1,
            voters: vec![1],
            vote: Vote { term, node: 1 },
            applied,
            applied_term,
            seed: 7,
        })
        .unwrap()
    }

    /// Drains until nothing is left, reporting all as durable when told to.
    fn drain_all(g: &mut RaftGroup, durable: bool) -> (Vec<LogEntry>, Vec<LogEntry>) {
        let (mut appended, mut committed) = (Vec::new(), Vec::new());
        let mut e = Effects::default();
        while g.drain(&mut e) {
            appended.append(&mut e.entries);
            committed.append(&mut e.committed);
            if durable {
                g.persisted(e.number);
            }
            if let Some(last) = committed.last() {
                g.applied(last.index);
            }
        }
        (appended, committed)
    }

    #[test]
    fn a_group_of_one_leads_at_once_in_its_first_term() {
        let mut g = alone(0, 0, 0);
        g.campaign().unwrap();
        assert_eq!((g.role(), g.term(), g.alone()), (Role::Leader, 1, true));
        let (appended, committed) = drain_all(&mut g, true);
        assert_eq!(appended, committed);
        assert_eq!((appended[0].index, appended[0].term, appended[0].payload.len()), (1, 1, 0));
    }

    #[test]
    fn nothing_is_committed_before_it_is_durable() {
        let mut g = alone(5, 2, 2);
        g.campaign().unwrap();
        g.propose(b"one".to_vec()).unwrap();
        let mut e = Effects::default();
        assert!(g.drain(&mut e));
        assert_eq!(e.vote, Some(Vote { term: 3, node: 1 }));
        assert_eq!(e.entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(), [(6, 3), (7, 3)]);
        assert!(e.committed.is_empty());
        let first = e.number;
        g.propose(b"two".to_vec()).unwrap();
        assert!(g.drain(&mut e) && e.committed.is_empty() && e.entries.len() == 1);
        let second = e.number;
        g.persisted(first);
        assert!(g.drain(&mut e));
        assert_eq!(e.committed.iter().map(|e| e.index).collect::<Vec<_>>(), [6, 7]);
        g.applied(7);
        g.persisted(second);
        assert!(g.drain(&mut e));
        assert_eq!(&e.committed[0].payload[..], b"two");
    }

    #[test]
    fn a_read_round_is_answered_only_after_the_own_term_has_committed() {
        let mut g = alone(5, 2, 2);
        g.campaign().unwrap();
        g.read_index(1);
        let mut e = Effects::default();
        assert!(g.drain(&mut e) && e.reads.is_empty());
        g.persisted(e.number);
        drain_all(&mut g, true);
        g.read_index(2);
        assert!(g.drain(&mut e));
        assert_eq!(e.reads, [(2, 6)]);
    }

    #[test]
    fn the_election_jitter_comes_from_the_seed() {
        let timeout = |seed| {
            let start = GroupStart {
                node: 1,
                voters: vec![1, 2, 3],
                vote: Vote::default(),
                applied: 0,
                applied_term: 0,
                seed,
            };
            let mut g = RaftGroup::new(&start).unwrap();
            let mut ticks = 0;
            while g.role() == Role::Follower {
                g.tick();
                ticks += 1;
            }
            ticks
        };
        for seed in 0..20 {
            assert_eq!(timeout(seed), timeout(seed));
            assert!((ELECTION_TICKS_MIN..ELECTION_TICKS_MAX).contains(&timeout(seed)));
        }
        assert!((0..20).any(|seed| timeout(seed) != timeout(0)));
    }
}
