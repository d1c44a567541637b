//! Memory of an idle connection: at most 4 KiB of user space, on each loop.
//!
//! The danger: a buffer per connection that is kept after use, which ten thousand quiet clients multiply.
//! The test counts with an allocator of its own, hence one test in this file.

mod support;

use paddock_transport::event_loop::LoopKind;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Family, available, echo_server};

const CONNECTIONS: usize = 1500;
/// Bytes in user space that the design allows an idle connection.
const BYTES_PER_CONNECTION_MAX: usize = 4096;

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn idle_connections_hold_little_memory() {
    for kind in [LoopKind::Uring, LoopKind::Epoll] {
        for family in [Family::Tcp, Family::Unix] {
            if available(kind) {
                count(kind, family);
            }
        }
    }
}

fn count(kind: LoopKind, family: Family) {
    let server = echo_server(kind, family);
    let mut clients = Vec::with_capacity(CONNECTIONS);
    clients.push(server.dial());
    clients[0].exchange(b"warm");
    let before = ALLOCATED.load(Ordering::Relaxed);
    clients.extend((1..CONNECTIONS).map(|_| server.dial()));
    // Every client sends at once, more than fits in a small buffer. Then all are quiet.
    let message = [9; 10_000];
    for client in &mut clients {
        client.write_all(&message).unwrap();
    }
    for client in &mut clients {
        let mut back = [0; 10_000];
        client.read_exact(&mut back).unwrap();
    }
    server.ask(|_, _, _| {});
    let held = ALLOCATED.load(Ordering::Relaxed).saturating_sub(before);
    // Buffers kept for the next turn belong to the loop, not to a connection. They count here too.
    assert!(
        held / CONNECTIONS <= BYTES_PER_CONNECTION_MAX,
        "{kind}: {} bytes per connection",
        held / CONNECTIONS
    );
    eprintln!("{kind} {family:?}: {} bytes per idle connection", held / CONNECTIONS);
}
