//! One list of conversations, run on each socket loop over both address families.
//!
//! A loop that the kernel denies is skipped with a line that says so.

mod support;

use paddock_transport::accept::{Acceptor, Listener};
use paddock_transport::engine::{Address, Closed, ConnId, Origin};
use paddock_transport::event_loop::{EventLoop, LoopKind, LoopOptions};
use paddock_transport::io::OUTPUT_HIGH_WATER_BYTES;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{
    FAMILIES, Family, Heard, Running, Stream, any_address, available, echo_server, run, server, start,
};

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn echo_under_fragmentation(kind: LoopKind, family: Family) {
    let server = echo_server(kind, family);
    let mut client = server.dial();
    for byte in pattern(300) {
        client.exchange(&[byte]);
    }
    for length in [4095, 4096, 4097, 65_536, 100_000] {
        client.exchange(&pattern(length));
    }
}

fn thousands_of_messages(kind: LoopKind, family: Family) {
    const MESSAGES: usize = 20_000;
    const LENGTH: usize = 100;
    let server = echo_server(kind, family);
    let mut reader = server.dial();
    let mut writer = reader.split();
    let all = pattern(MESSAGES * LENGTH);
    let sent = all.clone();
    let writing = std::thread::spawn(move || {
        for message in sent.chunks(LENGTH) {
            writer.write_all(message).unwrap();
        }
    });
    let mut back = vec![0; all.len()];
    reader.read_exact(&mut back).unwrap();
    assert!(back == all, "the echo differs");
    writing.join().unwrap();
}

fn many_connections_at_once(kind: LoopKind, family: Family) {
    let server = echo_server(kind, family);
    let mut clients: Vec<Stream> = (0..500).map(|_| server.dial()).collect();
    let hello = pattern(50);
    for client in &mut clients {
        client.write_all(&hello).unwrap();
    }
    for client in &mut clients {
        let mut back = vec![0; hello.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, hello);
    }
    assert_eq!(server.ask(|_, _, io| io.connections()), 500);
}

fn more_bursts_than_receive_buffers(kind: LoopKind, family: Family) {
    let options = LoopOptions {
        receive_buffers: 4,
        receive_buffer_bytes: 64,
        ring_entries: 8,
        ..LoopOptions::default()
    };
    let server = start(kind, family, options, true);
    let mut clients: Vec<Stream> = (0..30).map(|_| server.dial()).collect();
    let burst = pattern(3000);
    for client in &mut clients {
        client.write_all(&burst).unwrap();
    }
    for client in &mut clients {
        let mut back = vec![0; burst.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == burst, "the echo differs");
    }
}

fn input_over_the_turns_share(kind: LoopKind, family: Family) {
    let options = LoopOptions { input_bytes_per_turn_max: 100, ..LoopOptions::default() };
    let server = start(kind, family, options, true);
    let mut client = server.dial();
    client.exchange(&pattern(50_000));
    client.exchange(&pattern(50_000));
}

fn half_close_is_told_after_the_last_byte(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut client = server.dial();
    let conn = server.hear_opened();
    client.write_all(b"the last words").unwrap();
    client.finish();
    assert_eq!(server.hear_bytes(conn, 14), b"the last words");
    assert_eq!(server.hear(), Heard::Eof(conn));
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
    assert_eq!(client.rest(), b"");
}

fn replies_follow_a_half_close(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    server.ask(|probe, _, _| probe.close_on_eof = false);
    let mut client = server.dial();
    let conn = server.hear_opened();
    client.finish();
    assert_eq!(server.hear(), Heard::Eof(conn));
    server.order(move |_, _, io| {
        io.out(conn).unwrap().bytes().extend_from_slice(b"a late reply");
        io.close(conn);
    });
    assert_eq!(client.rest(), b"a late reply");
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
}

fn a_reset_ends_the_connection(kind: LoopKind, _: Family) {
    for paused in [false, true] {
        let server = server(kind, Family::Tcp);
        let client = server.dial();
        let conn = server.hear_opened();
        if paused {
            server.ask(move |_, _, io| io.pause_input(conn));
        }
        let Stream::Tcp(stream) = client else { unreachable!("a TCP client") };
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(stream);
        if paused {
            // Until the engine reads again, the kernel may not report the peer's end.
            server.ask(move |_, _, io| io.resume_input(conn));
        }
        assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByPeer));
    }
}

fn a_peer_that_does_not_read_holds_output_until_it_drains(kind: LoopKind, family: Family) {
    const PART: usize = 1 << 20;
    const PARTS: usize = 12;
    let server = server(kind, family);
    let mut client = server.dial();
    let conn = server.hear_opened();
    let part = pattern(PART);
    let written = part.clone();
    server.order(move |_, _, io| {
        let value = bytes::Bytes::from(written);
        for _ in 0..PARTS {
            let out = io.out(conn).unwrap();
            out.bytes().extend_from_slice(b"head");
            out.push_shared(value.clone());
        }
    });
    // The other connections are unaffected.
    let mut other = server.dial();
    let bystander = server.hear_opened();
    other.write_all(b"hello").unwrap();
    server.hear_bytes(bystander, 5);
    assert!(server.ask(move |_, _, io| io.unsent(conn)) > OUTPUT_HIGH_WATER_BYTES);
    let mut back = vec![0; PART + 4];
    for _ in 0..PARTS {
        client.read_exact(&mut back).unwrap();
        assert!(back[..4] == *b"head" && back[4..] == part, "the output differs");
    }
    assert_eq!(server.hear(), Heard::Drained(conn));
    assert_eq!(server.ask(move |_, _, io| io.unsent(conn)), 0);
    assert_eq!(server.heard(), None);
}

fn output_grows_while_a_send_is_under_way(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut client = server.dial();
    let conn = server.hear_opened();
    let all = pattern(6 << 20);
    for part in all.chunks(100_000) {
        let part = part.to_vec();
        server.ask(move |_, _, io| io.out(conn).unwrap().bytes().extend_from_slice(&part));
    }
    let mut back = vec![0; all.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == all, "the output differs");
}

fn a_paused_connection_is_not_read_until_resumed(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut client = server.dial();
    let conn = server.hear_opened();
    let mut other = server.dial();
    let bystander = server.hear_opened();
    let mut round_trip = || {
        other.write_all(b"?").unwrap();
        server.hear_bytes(bystander, 1);
    };
    server.ask(move |_, _, io| io.pause_input(conn));
    round_trip(); // By now the loop has acted on the request.
    client.write_all(b"not yet").unwrap();
    (0..3).for_each(|_| round_trip());
    server.ask(move |_, _, io| io.resume_input(conn));
    assert_eq!(server.hear_bytes(conn, 7), b"not yet");
    // Paused and resumed within one turn. Then in two turns, with input and an end of stream in between.
    server.ask(move |_, _, io| {
        io.pause_input(conn);
        io.resume_input(conn);
    });
    client.write_all(b"now").unwrap();
    assert_eq!(server.hear_bytes(conn, 3), b"now");
    server.ask(move |_, _, io| io.pause_input(conn));
    client.write_all(b"and").unwrap();
    client.finish();
    server.ask(move |_, _, io| io.resume_input(conn));
    assert_eq!(server.hear_bytes(conn, 3), b"and");
    assert_eq!(server.hear(), Heard::Eof(conn));
}

fn a_refused_connect_is_told_with_its_reason(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let (address, _folder) = any_address(family);
    let unused = Listener::bind(&address).unwrap();
    let unused_address = unused.local_address().clone();
    drop(unused);
    let conn = server.ask(move |_, _, io| io.connect(unused_address));
    let refused = match family {
        Family::Tcp => libc::ECONNREFUSED,
        Family::Unix => libc::ENOENT,
    };
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ConnectFailed(refused)));
}

fn a_client_end_talks_to_a_server_end(kind: LoopKind, family: Family) {
    let echo = echo_server(kind, family);
    let client = server(kind, family);
    let to = echo.address.clone();
    let conn = client.ask({
        let to = to.clone();
        move |_, _, io| {
            let conn = io.connect(to);
            // Written before the connection is established: leaves as soon as it is.
            io.out(conn).unwrap().bytes().extend_from_slice(b"early");
            conn
        }
    });
    assert_eq!(client.hear(), Heard::Opened(conn, Origin { peer: to, listener: None }));
    assert_eq!(client.hear_bytes(conn, 5), b"early");
    let all = pattern(OUTPUT_HIGH_WATER_BYTES / 2);
    let sent = all.clone();
    client.order(move |_, _, io| io.out(conn).unwrap().bytes().extend_from_slice(&sent));
    assert!(client.hear_bytes(conn, all.len()) == all, "the echo differs");
    client.order(move |_, _, io| io.close(conn));
    assert_eq!(client.hear(), Heard::Closed(conn, Closed::ByEngine));
    echo.hear_opened();
    assert!(matches!(echo.hear(), Heard::Eof(_)));
    assert!(matches!(echo.hear(), Heard::Closed(_, Closed::ByEngine)));
}

fn a_connect_given_up_at_once_ends_once(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let address = server.address.clone();
    let conn = server.ask(move |_, _, io| {
        let conn = io.connect(address);
        io.close(conn);
        conn
    });
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
}

fn connections_are_dealt_round_robin(kind: LoopKind, family: Family) {
    let (address, folder) = any_address(family);
    let listener = Listener::bind(&address).unwrap();
    let address = listener.local_address().clone();
    let mut first = EventLoop::new(kind, LoopOptions::default()).unwrap();
    let second = EventLoop::new(kind, LoopOptions::default()).unwrap();
    first.accept_with(Acceptor::new(vec![listener], vec![first.handle(), second.handle()]));
    let first = run(first, address.clone(), false, folder);
    let second = run(second, address, false, None);
    let mut clients: Vec<Stream> = (0..6).map(|_| first.dial()).collect();
    let conns: Vec<ConnId> =
        [&first, &second, &first, &second, &first, &second].map(|l| l.hear_opened()).into();
    for (n, (client, conn)) in clients.iter_mut().zip(conns).enumerate() {
        let here = if n % 2 == 0 { &first } else { &second };
        client.write_all(&[n as u8]).unwrap();
        assert_eq!(here.hear_bytes(conn, 1), [n as u8]);
    }
}

fn a_descriptor_can_be_adopted(kind: LoopKind, _: Family) {
    let server = server(kind, Family::Unix);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let origin = Origin { peer: "127.0.0.1:9".parse().unwrap(), listener: Some(3) };
    server.handle.adopt(theirs.into(), origin.clone()).unwrap();
    let Heard::Opened(conn, from) = server.hear() else { panic!("not opened") };
    assert_eq!(from, origin);
    (&ours).write_all(b"hello").unwrap();
    assert_eq!(server.hear_bytes(conn, 5), b"hello");
}

fn every_order_of_other_threads_is_heard(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let count = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..500 {
                    let count = Arc::clone(&count);
                    server.ask(move |_, _, _| count.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), 2000);
}

fn a_deadline_is_kept_without_spinning(kind: LoopKind, family: Family) {
    const AHEAD_NS: u64 = 30_000_000;
    let server = server(kind, family);
    let (set, turns) = server.ask(|probe, now, _| {
        probe.deadline_ns = Some(now.mono_ns + AHEAD_NS);
        (now.mono_ns + AHEAD_NS, probe.turns)
    });
    let Heard::Deadline(now, until) = server.hear() else { panic!("no deadline") };
    assert!(now.mono_ns >= set);
    assert!(now.wall_ms > 1_500_000_000_000);
    assert!(until - turns <= 5, "slept through it in {} turns", until - turns);
}

fn a_close_waits_for_its_output(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut client = server.dial();
    let conn = server.hear_opened();
    let all = pattern(5 << 20);
    let sent = all.clone();
    server.ask(move |_, _, io| {
        io.out(conn).unwrap().bytes().extend_from_slice(&sent);
        io.close(conn);
        assert!(io.out(conn).is_none() && !io.is_open(conn));
    });
    assert!(client.rest() == all, "the output differs");
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
}

fn a_close_does_not_wait_for_ever_for_a_peer_that_does_not_read(kind: LoopKind, family: Family) {
    let options = LoopOptions { close_flush: std::time::Duration::from_millis(20), ..LoopOptions::default() };
    let server = start(kind, family, options, false);
    let _client = server.dial();
    let conn = server.hear_opened();
    server.ask(move |_, _, io| {
        io.out(conn).unwrap().bytes().resize(64 << 20, 1);
        io.close(conn);
    });
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
}

fn an_abort_drops_output_the_kernel_still_reads(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut client = server.dial();
    let conn = server.hear_opened();
    server.ask(move |_, _, io| io.out(conn).unwrap().bytes().resize(32 << 20, 7));
    server.ask(move |_, _, io| io.abort(conn));
    assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
    let some = client.rest();
    assert!(some.len() < 32 << 20 && some.iter().all(|&b| b == 7));
}

fn a_peer_that_leaves_with_output_pending_is_let_go(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let client = server.dial();
    let conn = server.hear_opened();
    server.ask(|probe, _, _| probe.close_on_eof = false);
    server.ask(move |_, _, io| io.out(conn).unwrap().bytes().resize(32 << 20, 7));
    drop(client);
    loop {
        match server.hear() {
            Heard::Eof(id) => assert_eq!(id, conn),
            Heard::Closed(id, why) => {
                assert_eq!((id, why), (conn, Closed::ByPeer));
                break;
            }
            other => panic!("heard {other:?}"),
        }
    }
}

fn a_reused_slot_has_another_generation(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut old: Option<ConnId> = None;
    for _ in 0..5 {
        let mut client = server.dial();
        let conn = server.hear_opened();
        if let Some(old) = old {
            assert_eq!(conn.index(), old.index());
            assert_ne!(conn, old);
            assert!(server.ask(move |_, _, io| {
                io.abort(old);
                io.out(old).is_none() && io.is_open(conn)
            }));
        }
        client.write_all(b"x").unwrap();
        server.hear_bytes(conn, 1);
        drop(client);
        assert_eq!(server.hear(), Heard::Eof(conn));
        assert_eq!(server.hear(), Heard::Closed(conn, Closed::ByEngine));
        old = Some(conn);
    }
}

fn a_stop_flushes_and_closes_everything(kind: LoopKind, family: Family) {
    let server = server(kind, family);
    let mut clients: Vec<Stream> = (0..10).map(|_| server.dial()).collect();
    let conns: Vec<ConnId> = (0..10).map(|_| server.hear_opened()).collect();
    let all = pattern(2 << 20);
    let sent = all.clone();
    let written = conns.clone();
    server.ask(move |probe, _, io| {
        for conn in written {
            io.out(conn).unwrap().bytes().extend_from_slice(&sent);
        }
        probe.stop = true;
    });
    std::thread::scope(|s| {
        for client in &mut clients {
            s.spawn(|| assert!(client.rest() == all, "the output differs"));
        }
    });
    let address = server.address.clone();
    let heard = server.stop();
    for conn in conns {
        assert_eq!(heard.iter().filter(|h| **h == Heard::Closed(conn, Closed::ByEngine)).count(), 1);
    }
    match &address {
        Address::Tcp(at) => assert!(std::net::TcpStream::connect(at).is_err()),
        Address::Unix(path) => assert!(!path.exists()),
    }
}

fn a_stop_does_not_wait_for_ever_for_a_peer_that_does_not_read(kind: LoopKind, family: Family) {
    let options = LoopOptions { stop_flush: std::time::Duration::from_millis(20), ..LoopOptions::default() };
    let server = start(kind, family, options, false);
    let _client = server.dial();
    let conn = server.hear_opened();
    server.ask(move |_, _, io| io.out(conn).unwrap().bytes().resize(64 << 20, 1));
    assert_eq!(server.stop(), [Heard::Closed(conn, Closed::ByEngine)]);
}

const STORM_CLIENTS: u64 = 6;
/// Connections that each client of a storm makes.
const STORM_ROUNDS: u64 = 150;

/// Clients send, stop, reset and vanish at any moment, while the engine pauses, closes and aborts.
/// Each connection ends exactly once, and no client receives another client's bytes.
fn a_storm_leaves_nothing_behind(kind: LoopKind, family: Family) {
    let options = LoopOptions {
        receive_buffers: 16,
        receive_buffer_bytes: 512,
        ring_entries: 16,
        ..LoopOptions::default()
    };
    let server = start(kind, family, options, true);
    std::thread::scope(|s| {
        for seed in 0..STORM_CLIENTS {
            let server = &server;
            s.spawn(move || storm_client(server, seed));
        }
    });
    let counters = server.handle.clone();
    let heard = server.stop();
    let opened = heard.iter().filter(|h| matches!(h, Heard::Opened(..))).count();
    let mut closed: Vec<ConnId> = heard
        .iter()
        .filter_map(|h| if let Heard::Closed(conn, _) = h { Some(*conn) } else { None })
        .collect();
    assert_eq!(opened, closed.len());
    closed.sort();
    closed.dedup();
    assert_eq!(opened, closed.len(), "some ended twice");
    assert_eq!(counters.counters().opened(), counters.counters().closed());
}

fn storm_client(server: &Running, seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..STORM_ROUNDS {
        let mut client = server.dial();
        let bytes = vec![seed as u8; draw(40_000) as usize];
        let way = draw(5);
        let (slot, whim) = (draw(STORM_CLIENTS) as u32, draw(40));
        server.order(move |_, _, io| {
            // Addresses whichever generation of the slot is open.
            for generation in 0..(STORM_CLIENTS * STORM_ROUNDS) as u32 {
                let conn = ConnId::new(slot, generation);
                if io.is_open(conn) {
                    match whim {
                        0 => io.abort(conn),
                        1 => io.close(conn),
                        2..=9 => io.pause_input(conn),
                        _ => io.resume_input(conn),
                    }
                }
            }
        });
        let _ = client.write_all(&bytes[..bytes.len() / 2]);
        // Resumes every connection: the read below would never return on a paused one.
        server.order(|_, _, io| {
            for slot in 0..STORM_CLIENTS as u32 {
                for generation in 0..(STORM_CLIENTS * STORM_ROUNDS) as u32 {
                    io.resume_input(ConnId::new(slot, generation));
                }
            }
        });
        match (way, &client) {
            (0, _) => continue,
            (1, Stream::Tcp(stream)) => {
                let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
                continue;
            }
            _ => {}
        }
        let mut back = vec![0; 1000];
        let read = client.read(&mut back).unwrap_or(0);
        assert!(back[..read].iter().all(|&b| b == seed as u8), "another client's bytes");
    }
}

macro_rules! conversations {
    ($($case:ident,)*) => {
        mod uring {
            $(#[test] fn $case() { super::hold(super::LoopKind::Uring, super::$case); })*
        }
        mod epoll {
            $(#[test] fn $case() { super::hold(super::LoopKind::Epoll, super::$case); })*
        }
    };
}

fn hold(kind: LoopKind, conversation: fn(LoopKind, Family)) {
    if available(kind) {
        FAMILIES.into_iter().for_each(|family| conversation(kind, family));
    }
}

conversations! {
    echo_under_fragmentation,
    thousands_of_messages,
    many_connections_at_once,
    more_bursts_than_receive_buffers,
    input_over_the_turns_share,
    half_close_is_told_after_the_last_byte,
    replies_follow_a_half_close,
    a_reset_ends_the_connection,
    a_peer_that_does_not_read_holds_output_until_it_drains,
    output_grows_while_a_send_is_under_way,
    a_paused_connection_is_not_read_until_resumed,
    a_refused_connect_is_told_with_its_reason,
    a_client_end_talks_to_a_server_end,
    a_connect_given_up_at_once_ends_once,
    connections_are_dealt_round_robin,
    a_descriptor_can_be_adopted,
    every_order_of_other_threads_is_heard,
    a_deadline_is_kept_without_spinning,
    a_close_waits_for_its_output,
    a_close_does_not_wait_for_ever_for_a_peer_that_does_not_read,
    an_abort_drops_output_the_kernel_still_reads,
    a_peer_that_leaves_with_output_pending_is_let_go,
    a_reused_slot_has_another_generation,
    a_storm_leaves_nothing_behind,
    a_stop_flushes_and_closes_everything,
    a_stop_does_not_wait_for_ever_for_a_peer_that_does_not_read,
}

#[test]
fn an_abandoned_unix_path_is_taken_over_and_a_used_one_is_not() {
    let (address, _folder) = any_address(Family::Unix);
    let Address::Unix(path) = &address else { unreachable!("a unix address") };
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    let listener = Listener::bind(&address).unwrap();
    let refused = Listener::bind(&address).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    drop(listener);
    std::fs::write(path, "a file").unwrap();
    Listener::bind(&address).unwrap_err();
    assert_eq!(std::fs::read(path).unwrap(), b"a file");
}
