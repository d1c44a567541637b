//! One Raft node: its drains, and their order.

use super::log_window::Span;
use super::misbehaviour::MISBEHAVIOUR_TICKS;
use super::node::*;
use super::*;
use crate::config::RaftClock;
use ::raft::eraftpb::{Entry, Message, MessageType};

fn alone(applied: u64, applied_term: u64, term: u64) -> RaftNode {
    RaftNode::new(GroupStart {
        node: 1,
        membership: Membership::new(vec![1], Vec::new()),
        vote: Vote { term, node: 1 },
        applied,
        span: Span::new(applied + 1, applied_term, Vec::new()),
        tail: Vec::new(),
        seed: 7,
        clock: RaftClock::default(),
    })
    .unwrap()
}

/// Drains until nothing is left, reporting all as durable when told to.
fn drain_all(g: &mut RaftNode, durable: bool) -> (Vec<LogEntry>, Vec<LogEntry>) {
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
            membership: Membership::new(vec![1, 2, 3], Vec::new()),
            vote: Vote::default(),
            applied: 0,
            span: Span::new(1, 0, []),
            tail: Vec::new(),
            seed,
            clock: RaftClock::default(),
        };
        let mut g = RaftNode::new(start).unwrap();
        let mut ticks = 0;
        while g.role() == Role::Follower {
            g.tick();
            ticks += 1;
        }
        ticks
    };
    for seed in 0..20 {
        assert_eq!(timeout(seed), timeout(seed));
        // 300 to 600 ms by ticks of 20 ms.
        assert!((15..30).contains(&timeout(seed)));
    }
    assert!((0..20).any(|seed| timeout(seed) != timeout(0)));
}

/// Entries from node 2 as the leader, behind entry `index` of `log_term`.
fn append(term: u64, (index, log_term): (u64, u64), entries: &[(u64, u64)]) -> RaftMessage {
    let entries = entries.iter().map(|&(index, term)| Entry { index, term, ..Entry::default() });
    let message = Message {
        msg_type: MessageType::MsgAppend,
        from: 2,
        to: 1,
        term,
        log_term,
        index,
        entries: entries.collect::<Vec<_>>().into(),
        ..Message::default()
    };
    codec::outgoing(message).unwrap()
}

#[test]
fn a_server_that_stood_alone_is_not_counted_for_the_log_of_an_ensemble_that_it_never_belonged_to() {
    let mut g = alone(0, 0, 0);
    g.campaign().unwrap();
    for _ in 0..5 {
        g.propose(b"its own".to_vec()).unwrap();
    }
    drain_all(&mut g, true);
    assert_eq!(g.commit(), 6);
    // The other nodes have an ensemble without this log. Entries committed here are not in it.
    for message in
        [append(5, (3, 5), &[(4, 5)]), append(5, (0, 0), &[(1, 4), (2, 5)]), append(5, (6, 5), &[])]
    {
        g.step(message);
        let mut e = Effects::default();
        while g.drain(&mut e) {
            assert!(e.messages.is_empty() && e.after.is_empty(), "{:?} {:?}", e.messages, e.after);
            g.persisted(e.number);
        }
        assert_eq!((g.role(), g.commit()), (Role::Leader, 6));
    }
    // A leader of the same ensemble may send committed entries again.
    g.step(append(5, (3, 1), &[(4, 1)]));
    let mut e = Effects::default();
    let mut answered = 0;
    while g.drain(&mut e) {
        g.persisted(e.number);
        answered += e.messages.len() + e.after.len();
    }
    assert_eq!((answered, g.role()), (1, Role::Follower));
}

/// A follower of node 2 in term 3, with an entry of that term that is committed.
fn follower() -> RaftNode {
    RaftNode::new(GroupStart {
        node: 1,
        membership: Membership::new(vec![1, 2, 3], Vec::new()),
        vote: Vote { term: 3, node: 2 },
        applied: 5,
        span: Span::new(1, 0, [(1, 3)]),
        tail: Vec::new(),
        seed: 7,
        clock: RaftClock::default(),
    })
    .unwrap()
}

#[test]
fn a_peer_that_claims_to_lead_again_and_again_fills_no_log() {
    let mut g = follower();
    let said = |from, kind: MessageType, index, log_term, commit| RaftMessage {
        kind: kind as i32 as u8,
        to: 1,
        from,
        term: 3,
        index,
        log_term,
        commit,
        ..RaftMessage::default()
    };
    g.step(said(2, MessageType::MsgHeartbeat, 0, 0, 5));
    assert_eq!(g.leader(), 2);
    let lines = crate::logged::lines(|| {
        for _ in 0..1000 {
            g.step(said(3, MessageType::MsgHeartbeat, 0, 0, 5));
            g.step(said(2, MessageType::MsgHeartbeat, 0, 0, 9));
            g.step(said(2, MessageType::MsgAppend, 5, 2, 5));
        }
    });
    assert_eq!(lines, 3, "one for each thing that is wrong");
    assert_eq!((g.leader(), g.commit()), (2, 5));
    // A later line appears again.
    let lines = crate::logged::lines(|| {
        for _ in 0..2 * MISBEHAVIOUR_TICKS {
            g.tick();
            g.step(said(2, MessageType::MsgHeartbeat, 0, 0, 5));
            g.step(said(3, MessageType::MsgHeartbeat, 0, 0, 5));
        }
    });
    assert_eq!(lines, 2);
}
