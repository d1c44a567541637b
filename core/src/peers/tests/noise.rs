//! Random bytes, and changed streams of a real peer: never a panic, never a message that was not sent.

use super::*;
use proptest::prelude::*;

/// A peer's stream: a greeting, then messages of several sizes, keep-alives and a probe.
fn stream() -> Vec<u8> {
    let mut bytes = hello(2).encode().to_vec();
    for number in 0..4 {
        frame::put_message(&large(number, 50 * number as usize), &mut bytes).unwrap();
        frame::put_message(&message(number), &mut bytes).unwrap();
        frame::put(FrameKind::Here, &[], &mut bytes);
    }
    frame::put(FrameKind::Probe, &[], &mut bytes);
    bytes
}

fn sent() -> Vec<Message> {
    (0..4).flat_map(|number| [large(number, 50 * number as usize), message(number)]).collect()
}

fn play(bytes: &[u8], cut: usize) -> Rig {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    rig.inproc.set_fragments(&[cut]);
    let wire = rig.inproc.dial(0);
    rig.inproc.send(wire, bytes);
    rig.pass(10 * MS);
    rig.inproc.finish(wire);
    rig.pass(100 * MS);
    rig
}

#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Cut(usize, usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        (any::<usize>(), 1..=255u8).prop_map(|(at, with)| Change::Flip(at, with)),
        (any::<usize>(), 1..200usize).prop_map(|(at, n)| Change::Cut(at, n)),
        (any::<usize>(), 1..200usize).prop_map(|(at, n)| Change::Repeat(at, n)),
        (any::<usize>(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match change {
        Change::Flip(at, with) => bytes[at % length] ^= with,
        Change::Cut(at, n) => drop(bytes.drain(at % length..(at % length + n).min(length))),
        Change::Repeat(at, n) => {
            let piece = bytes[at % length..(at % length + n).min(length)].to_vec();
            bytes.splice(at % length..at % length, piece);
        }
        Change::Insert(at, piece) => drop(bytes.splice(at % length..at % length, piece.iter().copied())),
    }
}

#[test]
fn the_unchanged_stream_is_understood_at_every_cut() {
    for cut in [1, 15, 16, 17, 1000] {
        let mut rig = play(&stream(), cut);
        assert_eq!(rig.node(1).messages, sent());
        assert_eq!(rig.told(1), ["up 2.1 2", "down 2"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), known in 0..3usize, cut in 1..200usize) {
        // From the beginning, after the greeting, and after the first bytes of a frame.
        let mut all = [&[][..], &hello(2).encode()[..], &frame_of(&message(1))[..1]][..known].concat();
        all.extend_from_slice(&bytes);
        let mut rig = play(&all, cut);
        prop_assert!(rig.node(1).messages.is_empty());
        prop_assert!(rig.node(1).peers.links.values().all(|l| l.side != crate::peers::peer::Side::Accepted));
    }

    #[test]
    fn a_changed_stream_is_understood_up_to_the_change(changes in prop::collection::vec(change(), 1..4), cut in 1..300usize) {
        let mut bytes = stream();
        changes.iter().for_each(|c| apply(&mut bytes, c));
        let mut rig = play(&bytes, cut);
        // Such a change can lose or repeat whole frames, but cannot make one.
        let sent = sent();
        prop_assert!(rig.node(1).messages.iter().all(|m| sent.contains(m)));
        let told = rig.told(1);
        prop_assert!(told.is_empty() || told == ["up 2.1 2", "down 2"], "{:?}", told);
    }

    #[test]
    fn an_archive_with_a_right_checksum_and_wrong_content_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<usize>(), 1..=255u8), 0..6),
    ) {
        // As from a peer of another build: the framing is valid, the message is not.
        let mut real = frame_of(&large(1, 40))[frame::HEADER_BYTES..].to_vec();
        flips.iter().for_each(|(at, with)| { let at = at % real.len(); real[at] ^= with });
        for payload in [bytes, real] {
            let mut framed = Vec::new();
            frame::put(FrameKind::Message, &payload, &mut framed);
            let mut inbox = Inbox::default();
            inbox.push(&framed);
            let _ = inbox.frame();
        }
    }
}
