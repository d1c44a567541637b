//! The process runs out of descriptors while clients connect.
//!
//! The danger: a loop that spins on EMFILE, drops its listener, or never accepts again. The limit applies
//! to the process, so this file holds one test, which has its process to itself.

mod support;

use paddock_transport::event_loop::LoopKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::AsRawFd;
use support::{Family, Heard, available, server};

#[test]
fn accepting_rests_and_goes_on_when_descriptors_are_free_again() {
    for kind in [LoopKind::Uring, LoopKind::Epoll] {
        if available(kind) {
            run_out(kind);
        }
    }
}

fn run_out(kind: LoopKind) {
    let before = getrlimit(Resource::Nofile);
    let lowest_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    // Before the loop starts: io_uring reads the limit when accepting is armed.
    setrlimit(Resource::Nofile, Rlimit { current: Some(lowest_free + 40), maximum: before.maximum }).unwrap();
    let server = server(kind, Family::Tcp);
    let _first = server.dial();
    server.hear_opened();
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    let _second = server.dial(); // The client's end takes the last descriptor.
    let turns = server.ask(|probe, now, _| {
        probe.deadline_ns = Some(now.mono_ns + 250_000_000); // Longer than two pauses of accepting.
        probe.turns
    });
    let Heard::Deadline(_, until) = server.hear() else { panic!("accepted without a descriptor") };
    assert!(until - turns < 20, "{} turns in a quarter of a second", until - turns);
    hoard.pop();
    server.hear_opened();
    drop(hoard);
    setrlimit(Resource::Nofile, before).unwrap();
}
