//! Names: resolved again at each dial, slowly answered, or not at all.

use super::*;
use crate::peers::config::*;
use paddock_transport::wake::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// The test's names and their addresses; `None` for no answer at all.
#[derive(Default)]
struct Book {
    names: BTreeMap<String, Option<Result<IpAddr, String>>>,
    asked: Vec<u8>,
    open: Vec<(u8, String, u16)>,
}

#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Book>>);

impl Resolver for Desk {
    fn request(&mut self, node: u8, host: &str, port: u16) {
        let mut book = self.0.lock().unwrap();
        book.asked.push(node);
        book.open.push((node, host.to_owned(), port));
    }
    fn poll(&mut self) -> Option<(u8, Result<SocketAddr, String>)> {
        let mut book = self.0.lock().unwrap();
        let at =
            book.open.iter().position(|(_, host, _)| book.names.get(host).is_some_and(Option::is_some))?;
        let (node, host, port) = book.open.remove(at);
        let answer = book.names[&host].clone()?;
        Some((node, answer.map(|ip| SocketAddr::new(ip, port))))
    }
    fn is_ready(&self) -> bool {
        false
    }
}

fn rig(desk: &Desk) -> Rig {
    let mut rig = Rig::ensemble(2);
    let mut config = config(2, &[]);
    config.members = vec![PeerAddress { node: 1, host: "one.example".into(), port: PORT }];
    rig.node(2).peers = Peers::new(config, Box::new(desk.clone()));
    // Node 1 does not dial.
    rig.node(1).peers.peers.get_mut(&2).unwrap().address = None;
    rig
}

#[test]
fn a_name_that_fails_first_and_succeeds_then_is_dialled() {
    let desk = Desk::default();
    desk.0.lock().unwrap().names.insert("one.example".into(), Some(Err("no such name".into())));
    let mut rig = rig(&desk);
    rig.pass(3 * SECOND);
    assert!(rig.node(2).error(1).contains("no such name"));
    assert!(desk.0.lock().unwrap().asked.len() > 3);
    desk.0.lock().unwrap().names.insert("one.example".into(), Some(Ok(ip(1).into())));
    rig.pass(BACKOFF_MAX_NS);
    assert!(rig.node(2).peers.is_up(1));
}

#[test]
fn a_name_is_asked_for_at_each_dial_so_that_a_node_may_move() {
    let desk = Desk::default();
    desk.0.lock().unwrap().names.insert("one.example".into(), Some(Ok(ip(77).into())));
    let mut rig = rig(&desk);
    rig.pass(SECOND);
    assert!(rig.node(2).error(1).contains("cannot be reached"));
    desk.0.lock().unwrap().names.insert("one.example".into(), Some(Ok(ip(1).into())));
    rig.pass(BACKOFF_MAX_NS);
    assert!(rig.node(2).peers.is_up(1));
}

#[test]
fn an_answer_that_never_comes_is_a_failure_and_one_that_comes_too_late_is_none() {
    let desk = Desk::default();
    let mut rig = rig(&desk);
    rig.pass(RESOLVE_NS);
    assert!(rig.node(2).error(1).contains("not resolved in time"), "{}", rig.node(2).error(1));
    desk.0.lock().unwrap().names.insert("one.example".into(), Some(Ok(ip(1).into())));
    rig.run();
    assert!(!rig.node(2).peers.is_up(1), "it comes between two dials");
    rig.pass(BACKOFF_MAX_NS);
    assert!(rig.node(2).peers.is_up(1));
}

#[test]
fn numbers_need_no_thread_and_names_do_not_block_the_loop() {
    let waker = Waker::new().unwrap();
    let mut resolver = ThreadResolver::new(Arc::clone(&waker));
    for host in ["127.0.0.1", "::1", "[::1]"] {
        resolver.request(3, host, 5);
        let (node, at) = resolver.poll().unwrap();
        assert_eq!((node, at.unwrap().port()), (3, 5));
    }
    resolver.request(4, "localhost", 7);
    resolver.request(4, "localhost", 7);
    waker.raise();
    while !resolver.is_ready() {
        let mut fds = [PollFd::from_borrowed_fd(waker.event(), PollFlags::IN)];
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_ne!(poll(&mut fds, Some(&patience)).unwrap(), 0, "an answer was slept through");
    }
    let (node, at) = resolver.poll().unwrap();
    let at = at.unwrap();
    assert!(node == 4 && at.port() == 7 && at.ip().is_loopback());
    assert!(resolver.poll().is_none(), "one question of a node at a time");
}
