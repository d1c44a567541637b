//! Links among well-behaved nodes: established, kept, lost, established again, and one per pair in all
//! cases.

use super::*;
use crate::peers::config::*;
use crate::peers::peer::{Side, backoff};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn two_nodes_find_each_other_and_keep_the_order_of_messages_at_every_cut() {
    for cut in [1, 7, 16, 80, 1000] {
        let mut rig = Rig::ensemble(2);
        rig.inproc.set_fragments(&[cut]);
        rig.run();
        assert_eq!(rig.told(1), ["up 2.1 2"]);
        assert_eq!(rig.told(2), ["up 1.1 1"]);
        for number in 0..50 {
            assert!(
                rig.send(1, 2, &message(number)) && rig.send(2, 1, &large(number, 100 * number as usize))
            );
        }
        rig.run();
        assert_eq!(rig.node(2).messages, (0..50).map(message).collect::<Vec<_>>());
        assert_eq!(rig.node(1).messages, (0..50).map(|n| large(n, 100 * n as usize)).collect::<Vec<_>>());
        assert_eq!(rig.inproc.io(0).connections(), 1);
        let mut links = rig.nodes[0].peers.links.values();
        assert!(links.all(|l| l.side == Side::Accepted), "the larger number dials");
        assert!(rig.told(1).is_empty() && rig.told(2).is_empty(), "it is still the first link");
    }
}

#[test]
fn every_pair_has_one_link() {
    let mut rig = Rig::ensemble(5);
    rig.pass(10 * SECOND);
    for node in 1..=5 {
        assert_eq!(rig.inproc.io(usize::from(node) - 1).connections(), 4);
        assert_eq!(rig.told(node).iter().filter(|t| t.starts_with("up")).count(), 4);
        assert!((1..=5).all(|other| other == node || rig.node(node).peers.is_up(other)));
    }
}

#[test]
fn a_node_alone_wants_nothing() {
    let mut rig = Rig::ensemble(1);
    rig.run();
    assert_eq!(rig.node(1).deadline_ns, None);
}

#[test]
fn the_smaller_number_dials_when_the_larger_does_not_know_it() {
    let mut rig = Rig::new(vec![config(1, &[1, 2]), config(2, &[])]);
    rig.node(1).peers.update(&members(5, &[1, 2]));
    rig.pass(PATIENCE_NS - 1);
    assert!(rig.told(1).is_empty());
    rig.pass(1);
    assert_eq!((rig.told(1).len(), rig.told(2).len()), (1, 1));
}

#[test]
fn nodes_that_dial_at_the_same_time_keep_the_same_connection() {
    for lead in 0..12 {
        for fragment in [40, 1000] {
            let mut rig = Rig::ensemble(2);
            rig.inproc.set_fragments(&[fragment]);
            rig.inproc.set_chunks_per_step(1);
            // Both nodes dial now, one of them some steps earlier than the other.
            let dial_now = |rig: &mut Rig, node: u8| {
                let now = rig.now.mono_ns;
                let peer = rig.node(node).peers.peers.values_mut().next().unwrap();
                peer.dial = crate::peers::peer::Dial::At(now);
                rig.node(node).peers.due_ns = 0;
            };
            let (first, second) = if lead % 2 == 0 { (1, 2) } else { (2, 1) };
            let far = crate::peers::peer::Dial::At(u64::MAX - 1);
            rig.node(second).peers.peers.values_mut().next().unwrap().dial = far;
            dial_now(&mut rig, first);
            (0..lead / 2).for_each(|_| {
                rig.step();
            });
            if !rig.node(second).peers.is_up(first) {
                dial_now(&mut rig, second);
            }
            rig.pass(3 * SECOND);
            assert_eq!(
                (rig.told(1), rig.told(2)),
                (vec!["up 2.1 2".into()], vec!["up 1.1 1".into()]),
                "{lead} {fragment}"
            );
            assert_eq!((rig.inproc.io(0).connections(), rig.inproc.io(1).connections()), (1, 1));
        }
    }
}

#[test]
fn a_restarted_node_is_down_before_it_is_up_again() {
    let mut rig = Rig::ensemble(3);
    rig.run();
    for (round, number) in [(2, 3), (3, 1), (4, 2)] {
        (1..=3).for_each(|n| drop(rig.told(n)));
        let again = PeersConfig { incarnation: round, ..config(number, &[1, 2, 3]) };
        rig.restart(number, again);
        rig.pass(PATIENCE_NS + 2 * BACKOFF_MAX_NS);
        for other in (1..=3).filter(|n| *n != number) {
            assert_eq!(rig.told(other), [format!("down {number}"), format!("up {number}.{round} {number}")]);
        }
    }
}

#[test]
fn a_restarted_peer_takes_the_place_of_a_link_that_nobody_noticed_dead() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let old = rig.link(2);
    let new = rig.wire(&Greeting { incarnation: 2, ..hello(2) });
    assert!(rig.inproc.is_closed(old));
    assert_eq!(rig.told(1), ["up 2.1 2", "down 2", "up 2.2 2"]);
    rig.inproc.send(old, &frame_of(&message(1)));
    rig.inproc.send(new, &frame_of(&message(2)));
    rig.run();
    assert_eq!(rig.node(1).messages, [message(2)]);
}

#[test]
fn an_answer_to_an_earlier_link_does_not_get_into_the_next_one() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    rig.node(1).awake = false;
    rig.link(2);
    let second = rig.wire(&Greeting { incarnation: 2, ..hello(2) });
    let mut sent = Vec::new();
    for _ in 0..3 {
        let event = rig.node(1).peers.next_event().unwrap();
        sent.push((matches!(event, PeerEvent::Up { .. }), rig.send(1, 2, &message(7))));
    }
    assert_eq!(sent, [(true, false), (false, false), (true, true)], "up, down, up");
    rig.run();
    let mut inbox = Inbox::default();
    inbox.push(&rig.inproc.received(second));
    assert!(inbox.greeting().unwrap().is_some());
    assert!(matches!(inbox.frame(), Ok(Some(Frame::Message(..)))));
}

#[test]
fn of_two_dials_of_one_start_the_later_counts_whichever_is_read_first() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let second = rig.wire(&Greeting { attempt: 2, ..hello(2) });
    let first = rig.wire(&Greeting { attempt: 1, ..hello(2) });
    assert_eq!(rig.refusal(first), Some(Refusal::Duplicate));
    let third = rig.wire(&Greeting { attempt: 3, ..hello(2) });
    assert!(rig.inproc.is_closed(second) && !rig.inproc.is_closed(third));
    assert_eq!(rig.told(1), ["up 2.1 2", "down 2", "up 2.1 2"]);
}

#[test]
fn a_second_node_of_the_same_number_does_not_push_out_the_first() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let first = rig.link(2);
    let other = Greeting { identity: [99; 16], incarnation: 50, ..hello(2) };
    let second = rig.wire(&other);
    assert_eq!(rig.refusal(second), Some(Refusal::Duplicate));
    let mut inbox = Inbox::default();
    inbox.push(&rig.inproc.received(first));
    assert_eq!(inbox.frame().unwrap(), Some(Frame::Probe));
    // The old link is alive, so it stays.
    let mut here = Vec::new();
    frame::put(FrameKind::Here, &[], &mut here);
    rig.inproc.send(first, &here);
    rig.pass(2 * PROBE_NS);
    assert!(rig.node(1).peers.is_up(2));
    // The old link does not answer, so the other node's next dial is accepted.
    let second = rig.wire(&other);
    assert_eq!(rig.refusal(second), Some(Refusal::Duplicate));
    rig.pass(PROBE_NS);
    assert!(!rig.node(1).peers.is_up(2));
    rig.told(1);
    rig.wire(&other);
    assert_eq!(rig.told(1), ["up 2.50 99"]);
}

#[test]
fn another_life_under_the_same_number_of_a_start_is_an_old_copy() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let of = |life, attempt| Greeting { life, attempt, ..hello(2) };
    let first = rig.wire(&of(7, 1));
    assert!(rig.node(1).peers.is_up(2));
    // Beside the present link, and after the link is gone.
    let copy = rig.wire(&of(8, 2));
    assert_eq!(rig.refusal(copy), Some(Refusal::OldCopy));
    assert!(rig.node(1).peers.is_up(2));
    rig.inproc.finish(first);
    rig.run();
    let copy = rig.wire(&of(8, 3));
    assert_eq!(rig.refusal(copy), Some(Refusal::OldCopy));
    assert!(rig.node(1).error(2).contains("an older copy was put back"), "{}", rig.node(1).error(2));
    // The same start again, the next start, and a start without a random number.
    for again in [of(7, 4), Greeting { incarnation: 2, ..of(9, 1) }, Greeting { incarnation: 2, ..of(0, 2) }]
    {
        rig.wire(&again);
        assert!(rig.node(1).peers.is_up(2), "{again:?}");
    }
}

#[test]
fn an_answer_is_given_to_a_probe() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    let mut probe = Vec::new();
    frame::put(FrameKind::Probe, &[], &mut probe);
    rig.inproc.send(wire, &probe);
    rig.run();
    let mut inbox = Inbox::default();
    inbox.push(&rig.inproc.received(wire));
    assert_eq!(inbox.frame().unwrap(), Some(Frame::Here));
}

#[test]
fn a_link_that_carries_nothing_stays() {
    let mut rig = Rig::ensemble(3);
    rig.pass(300 * SECOND);
    for node in 1..=3 {
        assert_eq!(rig.told(node).len(), 2, "no link was lost");
    }
}

#[test]
fn a_node_that_stood_still_does_not_blame_its_links() {
    let mut rig = Rig::ensemble(2);
    rig.pass(SECOND / 2);
    for pause in [2, 4, 6, 60] {
        rig.now.mono_ns += pause * SECOND;
        rig.pass(SECOND / 2);
        assert_eq!((rig.node(1).told.len(), rig.node(2).told.len()), (1, 1), "{pause} s");
    }
}

#[test]
fn a_goodbye_does_not_wait_for_a_peer_that_does_not_read() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    rig.inproc.set_window(wire, 0);
    assert!(rig.send(1, 2, &large(1, 2 * STRETCH_BYTES)));
    rig.run();
    rig.nodes[0].peers.refuse(2, Refusal::Removed, rig.inproc.io(0));
    rig.run();
    assert!(rig.inproc.is_closed(wire) && rig.inproc.io(0).connections() == 0);
}

#[test]
fn a_half_open_link_is_closed_and_dialled_again() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    let mut partial = frame_of(&message(1));
    partial.pop();
    rig.inproc.send(wire, &partial);
    rig.pass(SILENCE_NS - 1);
    assert!(rig.node(1).peers.is_up(2));
    rig.pass(1);
    assert!(rig.inproc.is_closed(wire) && !rig.node(1).peers.is_up(2));
    assert_eq!(rig.told(1), ["up 2.1 2", "down 2"]);
    assert!(rig.node(1).error(2).contains("nothing was heard for 5000 ms"));
    rig.pass(PATIENCE_NS + BACKOFF_MAX_NS);
    assert!(rig.node(1).error(2).contains("cannot be reached"), "it was dialled: {}", rig.node(1).error(2));
}

#[test]
fn a_peer_that_does_not_read_costs_a_named_amount_of_memory() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    rig.inproc.set_window(wire, 0);
    let mut taken = 0;
    while rig.send(1, 2, &large(taken, 1 << 20)) {
        taken += 1;
        rig.step();
        assert!(taken < 100);
    }
    let io = rig.inproc.io(0);
    let unsent = rig.nodes[0].peers.unsent(2, io);
    assert!(unsent > UNSENT_BYTES_MAX && unsent < UNSENT_BYTES_MAX + (2 << 20), "{unsent}");
    assert!(rig.node(1).peers.is_up(2), "it is slow, not dead");
    rig.inproc.set_window(wire, usize::MAX);
    rig.run();
    assert!(rig.send(1, 2, &message(0)));
    rig.run();
    let mut inbox = Inbox::default();
    inbox.push(&rig.inproc.received(wire));
    for number in 0..taken {
        assert!(matches!(inbox.frame().unwrap(), Some(Frame::Message(m, _)) if m == large(number, 1 << 20)));
    }
    assert!(matches!(inbox.frame().unwrap(), Some(Frame::Message(m, _)) if m == message(0)));
}

#[test]
fn a_peer_that_asks_and_does_not_read_is_not_answered_without_end() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    rig.inproc.set_window(wire, 0);
    let mut probes = Vec::new();
    (0..10_000).for_each(|_| frame::put(FrameKind::Probe, &[], &mut probes));
    for _ in 0..20 {
        rig.inproc.send(wire, &probes);
        rig.run();
    }
    let io = rig.inproc.io(0);
    let unsent = rig.nodes[0].peers.unsent(2, io);
    assert!(unsent <= STRETCH_BYTES + probes.len(), "{unsent}");
    assert!(rig.node(1).peers.is_up(2));
    // A node that reads again is answered again.
    rig.inproc.set_window(wire, usize::MAX);
    rig.run();
    rig.inproc.received(wire);
    rig.inproc.send(wire, &probes[..frame::HEADER_BYTES]);
    rig.run();
    let mut inbox = Inbox::default();
    inbox.push(&rig.inproc.received(wire));
    assert_eq!(inbox.frame().unwrap(), Some(Frame::Here));
}

#[test]
fn a_core_that_takes_nothing_stops_the_reading_and_not_the_link() {
    let mut rig = Rig::ensemble(2);
    rig.run();
    rig.node(1).awake = false;
    rig.inproc.set_fragments(&[1 << 20]);
    rig.inproc.set_chunks_per_step(4);
    let mut sent = 0;
    for _ in 0..100 {
        if rig.send(2, 1, &large(sent, 1 << 20)) {
            sent += 1;
        }
        rig.step();
    }
    let untaken = std::iter::from_fn(|| rig.nodes[0].peers.next_event()).collect::<Vec<_>>();
    let bytes = untaken.len() << 20;
    assert!(bytes <= UNTAKEN_BYTES_MAX + (8 << 20), "{bytes}");
    rig.pass(2 * SILENCE_NS);
    assert!(rig.node(1).peers.is_up(2));
    rig.node(1).awake = true;
    rig.pass(MS);
    let messages = untaken.into_iter().filter_map(|e| match e {
        PeerEvent::Message { message, .. } => Some(message),
        _ => None,
    });
    let all: Vec<Message> = messages.chain(std::mem::take(&mut rig.node(1).messages)).collect();
    assert_eq!(all.len() as u64, sent);
    assert!(all.iter().enumerate().all(|(at, m)| *m == large(at as u64, 1 << 20)));
}

#[test]
fn nothing_is_taken_for_a_node_without_a_link() {
    let mut rig = Rig::ensemble(1);
    assert!(!rig.send(1, 2, &message(1)) && !rig.send(1, 1, &message(1)));
}

#[test]
fn a_message_larger_than_a_frame_is_not_taken_and_harms_nobody() {
    let mut rig = Rig::ensemble(2);
    rig.run();
    assert!(!rig.send(1, 2, &large(1, FRAME_BYTES_MAX)));
    assert!(rig.send(1, 2, &message(2)));
    rig.run();
    assert_eq!(rig.node(2).messages, [message(2)]);
}

/// Answers at once, and counts the requests for node 3: each dial begins with one.
#[derive(Default)]
struct Counted {
    inner: InlineResolver,
    asked: Arc<AtomicU64>,
}

impl Resolver for Counted {
    fn request(&mut self, node: u8, host: &str, port: u16) {
        self.asked.fetch_add(u64::from(node == 3), Ordering::Relaxed);
        self.inner.request(node, host, port);
    }
    fn poll(&mut self) -> Option<(u8, Result<SocketAddr, String>)> {
        self.inner.poll()
    }
    fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }
}

#[test]
fn dials_come_in_growing_pauses_and_never_in_a_loop() {
    let (mut random, mut sum) = (1, 0);
    for failures in 0..100 {
        let pause = backoff(failures, &mut random);
        assert!((BACKOFF_MIN_NS / 2..=BACKOFF_MAX_NS).contains(&pause));
        assert!(failures < 10 || pause >= BACKOFF_MAX_NS / 2);
        sum += pause;
    }
    assert!(sum > 40 * BACKOFF_MAX_NS);
    let mut rig = Rig::new(vec![config(1, &[1, 2]), config(2, &[1, 2, 3])]);
    let counted = Counted::default();
    let asked = Arc::clone(&counted.asked);
    rig.node(2).peers = Peers::new(config(2, &[1, 2, 3]), Box::new(counted));
    rig.pass(60 * SECOND);
    let dials = asked.load(Ordering::Relaxed);
    assert!((60..=140).contains(&dials), "{dials} dials in a minute");
    assert!(rig.node(1).peers.links.values().all(|l| l.side == Side::Accepted));
}

#[test]
fn the_same_seed_dials_at_the_same_times() {
    let dials = |seed| {
        let mut rig = Rig::new(vec![PeersConfig { seed, ..config(1, &[1, 2]) }]);
        let mut times = Vec::new();
        for _ in 0..20 {
            let next = rig.node(1).deadline_ns.unwrap_or(0).saturating_sub(rig.now.mono_ns);
            rig.pass(next.max(1));
            times.push(rig.now.mono_ns);
        }
        times
    };
    assert_eq!(dials(3), dials(3));
    assert_ne!(dials(3), dials(4));
}
