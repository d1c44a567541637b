//! Paddock's transport: the ZooKeeper wire codec, the engine and loop traits, and the event loops.
//!
//! Owns bytes on their way between sockets and engines. Never knows a tree, a session table or Raft.
//! Correct because an engine does no I/O and a loop knows no protocol: each is tested without the other.

pub mod accept;
pub mod engine;
mod epoll;
pub mod event_loop;
pub mod inproc;
pub mod io;
mod socket;
mod uring;
pub mod wake;
pub mod wire;
