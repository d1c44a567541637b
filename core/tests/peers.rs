//! The links between nodes on real sockets: node numbers, order under load in both directions, and a node
//! that leaves and returns.

use crossbeam_channel::{Receiver, Sender, unbounded};
use paddock_core::peers::message::SnapshotMessage;
use paddock_core::peers::{Message, PeerAddress, PeerEvent, Peers, PeersConfig, ThreadResolver};
use paddock_transport::accept::{Acceptor, Listener};
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::event_loop::{Choice, EventLoop, LoopHandle, LoopKind, LoopOptions, choose};
use paddock_transport::io::Io;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time limit of each wait: a failing test must not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages that each node sends over each new link.
const MESSAGES: u64 = 60;

/// Together many times the size of a socket buffer, so that messages arrive in pieces.
const MESSAGE_BYTES: usize = 64 * 1024;

#[derive(Debug, PartialEq)]
enum Told {
    Up(u8, u64),
    Down(u8),
    /// All messages of a link have arrived, in order.
    All(u8),
}

/// A core that sends numbered messages over each new link and counts those that arrive.
struct Core {
    peers: Peers,
    told: Sender<Told>,
    stop: Arc<AtomicBool>,
    /// By node: the next number to send, and the next number to arrive.
    links: BTreeMap<u8, (u64, u64)>,
}

impl Core {
    fn take(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Up { node, incarnation, .. } => {
                self.links.insert(node, (0, 0));
                let _ = self.told.send(Told::Up(node, incarnation));
            }
            PeerEvent::Down { node } => {
                self.links.remove(&node).expect("it was up");
                let _ = self.told.send(Told::Down(node));
            }
            PeerEvent::Message { node, message } => {
                let (_, next) = self.links.get_mut(&node).expect("it is up");
                assert_eq!(message, numbered(*next), "the order of node {node}'s messages");
                *next += 1;
                if *next == MESSAGES {
                    let _ = self.told.send(Told::All(node));
                }
            }
            PeerEvent::Removed { by } => panic!("removed by {by}"),
        }
    }
}

impl Engine for Core {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        self.peers.opened(now, conn, origin, io);
    }
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        self.peers.received(now, conn, bytes, io);
    }
    fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        self.peers.eof(now, conn, io);
    }
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.peers.closed(now, conn, why, io);
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        if self.stop.load(Ordering::Acquire) {
            return Next::Stop;
        }
        let deadline_ns = self.peers.turn(now, io);
        while let Some(event) = self.peers.next_event() {
            self.take(event);
        }
        let mut more = false;
        for (node, (next, _)) in &mut self.links {
            while *next < MESSAGES && self.peers.send(*node, &numbered(*next), io) {
                *next += 1;
            }
            more |= *next < MESSAGES;
        }
        if more { Next::Again } else { Next::Sleep { deadline_ns } }
    }
    fn park(&mut self) -> bool {
        !self.peers.is_ready() && !self.stop.load(Ordering::Acquire)
    }
}

fn numbered(number: u64) -> Message {
    Message::Snapshot(SnapshotMessage::Chunk {
        index: number,
        offset: 0,
        bytes: vec![number as u8; MESSAGE_BYTES],
    })
}

/// A node on its own thread.
struct Node {
    told: Receiver<Told>,
    stop: Arc<AtomicBool>,
    handle: LoopHandle,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    fn start(kind: LoopKind, listener: Listener, config: PeersConfig) -> Node {
        let mut event_loop = EventLoop::new(kind, LoopOptions::default()).unwrap();
        let handle = event_loop.handle();
        event_loop.accept_with(Acceptor::new(vec![listener], vec![handle.clone()]));
        let peers = Peers::new(config, Box::new(ThreadResolver::new(handle.waker())));
        let (sender, told) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let mut core = Core { peers, told: sender, stop: Arc::clone(&stop), links: BTreeMap::new() };
        let thread = std::thread::spawn(move || event_loop.run(&mut core).unwrap());
        Node { told, stop, handle, thread: Some(thread) }
    }

    /// Waits for these events, in any order.
    fn expect(&self, mut all: Vec<Told>) {
        while !all.is_empty() {
            let told = self.told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("still to come: {all:?}"));
            let at = all.iter().position(|t| *t == told);
            all.remove(at.unwrap_or_else(|| panic!("{told:?} instead of {all:?}")));
        }
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.waker().wake();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn three_nodes(kind: LoopKind) {
    let any: Address = "127.0.0.1:0".parse().unwrap();
    let listeners: Vec<Listener> = (0..3).map(|_| Listener::bind(&any).unwrap()).collect();
    let addresses: Vec<Address> = listeners.iter().map(|l| l.local_address().clone()).collect();
    let port = |at: usize| match &addresses[at] {
        Address::Tcp(at) => at.port(),
        Address::Unix(_) => unreachable!("it listens on TCP"),
    };
    let members: Vec<PeerAddress> = (0..3)
        .map(|at| PeerAddress { node: at as u8 + 1, host: "localhost".to_owned(), port: port(at) })
        .collect();
    let config = |node: u8, incarnation| PeersConfig {
        node,
        cluster: [0; 16],
        identity: [node; 16],
        incarnation,
        data: false,
        founders: 0,
        members: members.clone(),
        seed: u64::from(node),
    };
    let mut nodes: Vec<Node> =
        listeners.into_iter().zip(1..).map(|(l, node)| Node::start(kind, l, config(node, 1))).collect();
    for node in 1..=3 {
        let others = (1..=3).filter(|n| *n != node);
        nodes[usize::from(node) - 1].expect(others.flat_map(|n| [Told::Up(n, 1), Told::All(n)]).collect());
    }
    nodes[1].stop();
    nodes[0].expect(vec![Told::Down(2)]);
    nodes[2].expect(vec![Told::Down(2)]);
    nodes[1] = Node::start(kind, Listener::bind(&addresses[1]).unwrap(), config(2, 2));
    nodes[0].expect(vec![Told::Up(2, 2), Told::All(2)]);
    nodes[2].expect(vec![Told::Up(2, 2), Told::All(2)]);
    nodes[1].expect(vec![Told::Up(1, 1), Told::All(1), Told::Up(3, 1), Told::All(3)]);
    nodes.iter_mut().for_each(Node::stop);
}

#[test]
fn links_hold_their_promises_on_epoll() {
    three_nodes(LoopKind::Epoll);
}

#[test]
fn links_hold_their_promises_on_uring() {
    match choose(Choice::Uring) {
        Ok(_) => three_nodes(LoopKind::Uring),
        Err(why) => eprintln!("not run here: {why}"),
    }
}
