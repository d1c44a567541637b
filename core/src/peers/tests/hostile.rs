//! Bytes that no peer sends: each ends its connection with a reason, and has no other effect.

use super::*;
use crate::peers::config::*;
use crate::peers::crc::crc32c;
use crate::peers::frame::{HEADER_BYTES, kind_of};
use crate::peers::message::{ArchivedMessage, KINDS, RaftMessage, SnapshotMessage};

/// A frame header with both checksums right.
fn header(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xb5, kind, 0, 0];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c(body).to_le_bytes());
    bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
    bytes
}

#[test]
fn a_stranger_is_closed_at_his_first_bytes() {
    let strangers: [(&[u8], &str); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], "election protocol"),
        (&[0x16, 0x03, 0x01, 0x02, 0x00], "TLS"),
        (&[0, 0, 0, 45, 0, 0, 0, 0], "clients have their own"),
        (b"ruok", "does not speak"),
        (b"P", ""),
        (b"PDKX", "does not speak"),
    ];
    for (bytes, what) in strangers {
        let mut rig = Rig::new(vec![config(1, &[1, 2])]);
        let wire = rig.inproc.dial(0);
        rig.inproc.send(wire, bytes);
        rig.run();
        assert_eq!(rig.inproc.is_closed(wire), !what.is_empty());
        assert!(rig.inproc.received(wire).is_empty(), "a stranger is told nothing");
        if let Err(why) = Greeting::decode(bytes) {
            assert!(why.to_string().contains(what), "{why}");
        }
    }
}

#[test]
fn one_byte_at_a_time_is_as_good_as_a_packet() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.inproc.dial(0);
    let mut bytes = hello(2).encode().to_vec();
    bytes.extend_from_slice(&frame_of(&message(3)));
    for byte in &bytes {
        assert!(rig.node(1).messages.is_empty());
        rig.inproc.send(wire, &[*byte]);
        rig.run();
    }
    assert_eq!(rig.node(1).messages, [message(3)]);
}

#[test]
fn a_greeting_of_which_one_bit_is_wrong_is_none() {
    let good = hello(2).encode();
    for at in 0..GREETING_BYTES {
        for bit in 0..8 {
            let mut bytes = good;
            bytes[at] ^= 1 << bit;
            assert!(Greeting::decode(&bytes).is_err(), "byte {at}, bit {bit}");
        }
        assert_eq!(Greeting::decode(&good[..at]), Ok(None));
    }
    assert_eq!(Greeting::decode(&good), Ok(Some(hello(2))));
}

#[test]
fn a_frame_of_which_one_bit_is_wrong_ends_the_link_and_tells_the_core_nothing() {
    let good = frame_of(&message(3));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let mut inbox = Inbox::default();
            inbox.push(&bytes);
            assert!(inbox.frame().is_err(), "byte {at}, bit {bit}");
        }
    }
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    let mut bytes = good;
    *bytes.last_mut().unwrap() ^= 1;
    rig.inproc.send(wire, &bytes);
    rig.run();
    assert!(rig.inproc.is_closed(wire) && rig.node(1).messages.is_empty());
    assert_eq!(rig.told(1), ["up 2.1 2", "down 2"]);
    assert!(rig.node(1).error(2).contains("checksum"), "{}", rig.node(1).error(2));
}

#[test]
fn frames_that_lie_end_the_link() {
    let archive = [0xee; 64];
    let mut nonsense = header(1, 64, &archive);
    nonsense.extend_from_slice(&archive);
    let mut full_sign_of_life = header(2, 16, &[0; 16]);
    full_sign_of_life.extend_from_slice(&[0; 16]);
    let cases: [(Vec<u8>, &str); 7] = [
        (header(1, 1 << 31, &[]), "2147483648 bytes"),
        (header(1, FRAME_BYTES_MAX as u32 + 1, &[]), "at most"),
        (header(1, 0, &[]), "cannot be read"),
        (header(9, 0, &[]), "kind 9"),
        (header(4, 0, &[]), "no frame"),
        (nonsense, "cannot be read"),
        (full_sign_of_life, "no frame"),
    ];
    for (bytes, what) in cases {
        let mut rig = Rig::new(vec![config(1, &[1, 2])]);
        let wire = rig.link(2);
        rig.inproc.send(wire, &bytes);
        rig.run();
        assert!(rig.inproc.is_closed(wire), "{what}");
        assert!(rig.node(1).error(2).contains(what), "{what}: {}", rig.node(1).error(2));
    }
}

#[test]
fn a_message_that_cannot_be_read_is_told_with_its_kind_and_what_to_do() {
    let (term, number, index, zxid, digest) = (1, 2, 3, 4, 5);
    let (incarnation, seq, full, shut) = (6, 7, false, false);
    let raft = RaftMessage { entries: vec![], context: vec![1; 40], ..RaftMessage::default() };
    let all = [
        Message::Raft(raft),
        Message::Forward { term, commands: vec![] },
        Message::Expect { term, incarnation, seq },
        Message::Round { term, number, touched: vec![8; 9], applied: index, full, zxid, digest },
        Message::RoundConfirmed { number, index, shut },
        Message::Disputed { index, zxid, logged: digest, digest },
        Message::Computed { zxid, digest },
        Message::Lead { term },
        Message::Snapshot(SnapshotMessage::Want { index, offset: 0 }),
        Message::Room { full, shut },
        Message::Return { term, incarnation, seq, number },
    ];
    assert_eq!(all.len(), KINDS.len());
    for message in all {
        let name = format!("{message:?}");
        let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let payload = rkyv::to_bytes::<rkyv::rancor::Error>(&message).unwrap();
        assert_eq!(kind_of(&payload), name);
    }
    assert_eq!(kind_of(&[]), "a kind that this build does not know");
    // A message of which only the kind is valid.
    let mut bytes = [0xff; size_of::<ArchivedMessage>()];
    bytes[0] = 1;
    let mut wrong = header(1, bytes.len() as u32, &bytes);
    wrong.extend_from_slice(&bytes);
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.link(2);
    rig.inproc.send(wire, &wrong);
    rig.run();
    let text = rig.node(1).error(2);
    let start = format!("a message of {} bytes (Forward) cannot be read: ", bytes.len());
    assert!(text.starts_with(&start) && text.ends_with("run the same release on all nodes"), "{text}");
    // The text that `rkyv`'s default error has in a build without debug assertions.
    assert!(!text.contains("without error information"), "{text}");
}

#[test]
fn an_announced_length_reserves_nothing() {
    let mut inbox = Inbox::default();
    inbox.push(&header(1, FRAME_BYTES_MAX as u32, &[]));
    inbox.push(&[1; 100]);
    assert_eq!(inbox.frame(), Ok(None));
    assert!(inbox.capacity() < 1024);
}

#[test]
fn a_large_message_is_not_paid_for_ever() {
    let mut inbox = Inbox::default();
    inbox.push(&frame_of(&large(1, 2 * INBOX_KEEP_BYTES)));
    assert!(matches!(inbox.frame(), Ok(Some(Frame::Message(..)))));
    assert_eq!(inbox.capacity(), 0);
}

#[test]
fn who_says_nothing_is_closed_in_time_and_crowds_nobody_out() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let mut silent: Vec<Wire> = (0..STRANGERS_MAX).map(|_| rig.inproc.dial(0)).collect();
    rig.run();
    rig.now.mono_ns += MS;
    silent.push(rig.inproc.dial(0));
    rig.run();
    assert_eq!(silent.iter().filter(|w| rig.inproc.is_closed(**w)).count(), 1, "the oldest one");
    rig.link(2);
    assert!(rig.node(1).peers.is_up(2));
    rig.pass(HANDSHAKE_NS);
    assert!(silent.iter().all(|w| rig.inproc.is_closed(*w)));
    assert!(rig.node(1).peers.is_up(2));
}

#[test]
fn a_greeting_is_refused_with_its_reason() {
    let cases = [
        (Greeting { version: 99, ..hello(2) }, Refusal::WrongVersion),
        (Greeting { cluster: [9; 16], ..hello(2) }, Refusal::WrongCluster),
        (Greeting { wanted: 3, ..hello(2) }, Refusal::NotForMe),
        (hello(3), Refusal::UnknownNode),
        (hello(1), Refusal::Duplicate),
        (hello(0), Refusal::UnknownNode),
        (hello(255), Refusal::UnknownNode),
    ];
    for (greeting, why) in cases {
        let mut rig = Rig::new(vec![config(1, &[1, 2])]);
        rig.node(1).peers.update(&members(5, &[1, 2]));
        let wire = rig.wire(&greeting);
        assert_eq!(rig.refusal(wire), Some(why), "{greeting:?}");
        assert!(rig.told(1).is_empty());
        assert!(rig.node(1).peers.links.is_empty());
    }
}

#[test]
fn a_refusal_is_understood_at_the_other_end() {
    let mut rig = Rig::new(vec![config(1, &[1, 2]), config(2, &[1, 2])]);
    rig.node(1).peers.update(&members(5, &[1, 2]));
    rig.node(2).peers.cluster = [9; 16];
    rig.run();
    let wrong = "it refused us: another ensemble; check its configuration";
    assert!(rig.node(2).error(1).contains(wrong), "{}", rig.node(2).error(1));
    assert!(rig.node(1).error(2).contains("we refused it: another ensemble (cluster 09090909"));
    // Once the cluster id is corrected, the link comes up by itself.
    rig.node(2).peers.cluster = [0; 16];
    rig.pass(2 * BACKOFF_MAX_NS);
    assert!(rig.node(1).peers.is_up(2) && rig.node(2).peers.is_up(1));
}

#[test]
fn what_is_said_after_a_refusal_or_a_close_is_not_heard() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let wire = rig.inproc.dial(0);
    rig.inproc.send(wire, &Greeting { version: 9, ..hello(2) }.encode());
    rig.inproc.send(wire, &hello(2).encode());
    rig.inproc.send(wire, &frame_of(&message(1)));
    rig.run();
    assert!(rig.told(1).is_empty() && rig.node(1).messages.is_empty());
    let wire = rig.link(2);
    rig.inproc.finish(wire);
    rig.run();
    assert!(rig.inproc.is_closed(wire));
    assert_eq!(rig.told(1), ["up 2.1 2", "down 2"]);
}

#[test]
fn the_bytes_of_the_protocol_do_not_change_unnoticed() {
    let greeting = Greeting {
        member: true,
        refusal: Some(Refusal::Removed),
        cluster: [0xcc; 16],
        incarnation: 0x0102,
        attempt: 0x0304,
        members_version: 0x0506,
        data: true,
        founders: 0x0708,
        life: 0x090a,
        ..hello(2)
    };
    let bytes = greeting.encode();
    assert_eq!(bytes[..12], [b'P', b'D', b'K', b'P', 3, 0, 2, 1, 5, 3, 10, 9]);
    assert_eq!(bytes[16..32], [0xcc; 16]);
    assert_eq!(bytes[32..48], [2; 16]);
    assert_eq!(bytes[48..56], [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[56..64], [4, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[64..72], [6, 5, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[72..], [8, 7, 0, 0, 0, 0, 0, 0]);
    let mut here = Vec::new();
    frame::put(FrameKind::Goodbye, &[5], &mut here);
    assert_eq!(here[..8], [0xb5, 4, 0, 0, 1, 0, 0, 0]);
    assert_eq!(here.len(), HEADER_BYTES + 16);
}

#[test]
fn a_storm_of_links_under_a_members_number_fills_no_log() {
    let mut rig = Rig::new(vec![config(1, &[1, 2])]);
    let lines = crate::logged::lines(|| {
        for attempt in 0..500 {
            let mut identity = [9; 16];
            identity[..8].copy_from_slice(&u64::to_le_bytes(attempt));
            let wire = rig.wire(&Greeting { identity, attempt, ..hello(2) });
            assert!(rig.node(1).peers.is_up(2));
            rig.inproc.finish(wire);
            rig.pass(2 * MS);
        }
    });
    // The first link and its end, and later lines that carry counts.
    assert!((2..=6).contains(&lines), "{lines} lines in a second");
}
