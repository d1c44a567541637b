//! Clients that send garbage, half a frame, silence, or a 2 GiB length, or never read their replies. None of
//! them harms another client, and each costs bounded memory.

mod common;

use common::{Process, create, scratch, transports};
use paddock_transport::wire::{Request, put_request};
use std::io::{Read, Write};
use std::net::Shutdown;

const HOSTILE: usize = 200;
/// Memory that all hostile clients together may cost, KiB. Two hundred peers with a full output buffer and a
/// large reply in progress stay far below it.
const MEMORY_KIB_MAX: u64 = 400 * 1024;

fn harmless(transport: &str, attack: impl Fn(&Process, usize) -> Box<dyn std::any::Any>) {
    let (_guard, dir) = scratch();
    let server = Process::start(&dir, "maxClientCnxns=0\nforceSync=no\n", &["--transport", transport]);
    let mut honest = server.client(30_000);
    honest.create("/honest", &[7; 100], 0).unwrap();
    honest.create("/large", &vec![1; 900_000], 0).unwrap();
    let before = server.resident_kib();
    // Kept open until the end, so that their cost is included in the measurement.
    let held: Vec<_> = (0..HOSTILE).map(|i| attack(&server, i)).collect();
    for n in 0..200u32 {
        assert_eq!(honest.get("/honest").unwrap().unwrap().0, [7; 100]);
        assert_eq!(honest.set("/honest", &[7; 100]).unwrap().err, 0, "write {n}");
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < MEMORY_KIB_MAX, "{HOSTILE} hostile clients cost {grown} KiB");
    drop(held);
    assert_eq!(server.terminate(), Some(0));
}

fn both(attack: impl Fn(&Process, usize) -> Box<dyn std::any::Any>) {
    for transport in transports() {
        harmless(transport, &attack);
    }
}

#[test]
fn garbage_is_closed() {
    both(|server, i| {
        let mut socket = server.socket();
        let garbage: Vec<u8> =
            (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> (i % 24)) as u8).collect();
        let _ = socket.write_all(&[&[0xff], &garbage[..]].concat());
        let _ = socket.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "garbage was answered");
        Box::new(socket)
    });
}

#[test]
fn a_length_of_two_gigabytes_is_closed_and_allocates_nothing() {
    both(|server, _| {
        let mut socket = server.socket();
        socket.write_all(&0x7fff_ffff_i32.to_be_bytes()).unwrap();
        assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
        let mut client = server.client(30_000);
        client.socket.write_all(&0x7fff_ffff_i32.to_be_bytes()).unwrap();
        assert!(client.receive().is_err());
        Box::new(socket)
    });
}

#[test]
fn half_a_frame_and_silence_costs_what_was_sent() {
    both(|server, _| {
        let mut client = server.client(30_000);
        let mut frame = Vec::new();
        put_request(&mut frame, 1, &create("/half", &[0; 900_000], 0));
        client.socket.write_all(&frame[..100]).unwrap();
        Box::new(client)
    });
}

#[test]
fn a_client_that_never_reads_is_not_served_further() {
    both(|server, _| {
        let client = server.client(30_000);
        client.socket.set_nonblocking(true).unwrap();
        let mut requests = Vec::new();
        for xid in 1..=400 {
            put_request(&mut requests, xid, &Request::GetData { path: "/large".into(), watch: false });
        }
        // The kernel takes what fits; the answers would be 360 MB.
        let _ = (&client.socket).write(&requests);
        Box::new(client)
    });
}

#[test]
fn unread_watches_and_writes_are_bounded_too() {
    both(|server, i| {
        let client = server.client(30_000);
        client.socket.set_nonblocking(true).unwrap();
        let mut requests = Vec::new();
        let path = format!("/flood{i}");
        put_request(&mut requests, 1, &create(&path, b"", 0));
        for xid in 2..=600 {
            put_request(&mut requests, xid, &Request::GetData { path: path.as_str().into(), watch: true });
            put_request(
                &mut requests,
                xid,
                &Request::SetData { path: path.as_str().into(), data: Some(&[0; 100]), version: -1 },
            );
        }
        let _ = (&client.socket).write(&requests);
        Box::new(client)
    });
}
