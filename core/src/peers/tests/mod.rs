//! Links under test: nodes of the in-process loop, and connections whose other end the test holds.
//!
//! Time stands still until a test moves it. Then it goes from deadline to deadline, as a real loop's time
//! does.

mod hostile;
mod links;
mod members;
mod names;
mod noise;

use super::frame::{self, Frame, FrameKind, Inbox};
use super::greeting::{GREETING_BYTES, Greeting, PROTOCOL_VERSION, Refusal};
use super::*;
use crate::members::{Member, MemberRole, Members};
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::inproc::{InProc, Wire};
use paddock_transport::io::Io;
use std::net::{Ipv4Addr, SocketAddr};

const PORT: u16 = 2888;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// Limit of steps within which a rig must come to rest.
const STEPS_MAX: usize = 2000;

fn ip(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, node)
}

fn address(node: u8) -> PeerAddress {
    PeerAddress { node, host: ip(node).to_string(), port: PORT }
}

fn config(node: u8, members: &[u8]) -> PeersConfig {
    PeersConfig {
        node,
        cluster: [0; 16],
        identity: [node; 16],
        incarnation: 1,
        data: false,
        founders: 0,
        members: members.iter().copied().map(address).collect(),
        seed: u64::from(node),
    }
}

fn members(version: i64, nodes: &[u8]) -> Members {
    let member = |node: &u8| {
        let host = ip(*node).to_string();
        let role = MemberRole::Participant;
        (
            *node,
            Member {
                host,
                peer_port: PORT,
                election_port: 3888,
                role,
                client: None,
                identity: Some([*node; 16]),
            },
        )
    };
    Members { cluster: [7; 16], version, members: nodes.iter().map(member).collect() }
}

fn message(number: u64) -> Message {
    Message::RoundConfirmed { number, index: number + 1, shut: false }
}

fn large(number: u64, bytes: usize) -> Message {
    Message::Snapshot(message::SnapshotMessage::Chunk {
        index: number,
        offset: 0,
        bytes: vec![number as u8; bytes],
    })
}

impl Peers {
    /// Whether a link to the node is up and the core has taken its [`PeerEvent::Up`].
    fn is_up(&self, node: u8) -> bool {
        self.peers.get(&node).is_some_and(|p| p.link.is_some() && p.ups_untaken == 0)
    }
}

/// One node: its links, and the events that they reported.
struct Node {
    peers: Peers,
    told: Vec<String>,
    messages: Vec<Message>,
    /// Whether the node takes events.
    awake: bool,
    /// Whether the node ignores new connections.
    mute: bool,
    deadline_ns: Option<u64>,
}

impl Node {
    fn new(config: PeersConfig) -> Self {
        Self {
            peers: Peers::new(config, Box::new(InlineResolver::default())),
            told: Vec::new(),
            messages: Vec::new(),
            awake: true,
            mute: false,
            deadline_ns: None,
        }
    }

    fn take(&mut self) {
        while let Some(event) = self.peers.next_event() {
            match event {
                PeerEvent::Up { node, incarnation, identity } => {
                    self.told.push(format!("up {node}.{incarnation} {}", identity[0]));
                }
                PeerEvent::Down { node } => self.told.push(format!("down {node}")),
                PeerEvent::Removed { by } => self.told.push(format!("removed by {by}")),
                PeerEvent::Message { message, .. } => self.messages.push(message),
            }
        }
    }

    fn error(&mut self, of: u8) -> String {
        self.peers.peers.get(&of).and_then(|peer| peer.last_error.clone()).unwrap_or_default()
    }
}

impl Engine for Node {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        if !self.mute {
            self.peers.opened(now, conn, origin, io);
        }
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
        self.deadline_ns = self.peers.turn(now, io);
        if self.awake {
            self.take();
        }
        Next::Sleep { deadline_ns: self.deadline_ns }
    }
    fn park(&mut self) -> bool {
        !self.peers.is_ready()
    }
}

/// Some nodes, numbered from 1. Node `n` listens at `ip(n)`.
struct Rig {
    inproc: InProc,
    nodes: Vec<Node>,
    now: Now,
}

impl Rig {
    fn new(configs: Vec<PeersConfig>) -> Self {
        let mut inproc = InProc::new(configs.len());
        for (at, config) in configs.iter().enumerate() {
            inproc.listen(at, Address::Tcp(SocketAddr::from((ip(config.node), PORT))));
        }
        let nodes = configs.into_iter().map(Node::new).collect();
        Self { inproc, nodes, now: Now { mono_ns: 1000 * SECOND, wall_ms: 0 } }
    }

    /// `count` nodes that are configured to be one ensemble.
    fn ensemble(count: u8) -> Self {
        let all: Vec<u8> = (1..=count).collect();
        Self::new(all.iter().map(|n| config(*n, &all)).collect())
    }

    fn node(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    fn node_at(&mut self, at: usize) -> &mut Node {
        &mut self.nodes[at]
    }

    fn step(&mut self) -> bool {
        let mut engines: Vec<&mut dyn Engine> = self.nodes.iter_mut().map(|n| n as &mut dyn Engine).collect();
        self.inproc.step(self.now, &mut engines)
    }

    fn run(&mut self) {
        assert!((0..STEPS_MAX).any(|_| !self.step()), "it does not come to rest");
    }

    /// Advances time, from deadline to deadline.
    fn pass(&mut self, ns: u64) {
        let end = self.now.mono_ns + ns;
        self.run();
        while self.now.mono_ns < end {
            let next = self.nodes.iter().filter_map(|n| n.deadline_ns).min().unwrap_or(end);
            self.now.mono_ns = next.clamp(self.now.mono_ns + 1, end);
            self.run();
        }
    }

    fn send(&mut self, from: u8, to: u8, message: &Message) -> bool {
        let at = usize::from(from) - 1;
        self.nodes[at].peers.send(to, message, self.inproc.io(at))
    }

    /// Replaces the node's process. The old one's connections are reset.
    fn restart(&mut self, number: u8, config: PeersConfig) {
        let at = usize::from(number) - 1;
        for conn in self.nodes[at].peers.links.keys() {
            self.inproc.io(at).abort(*conn);
        }
        let told = std::mem::take(&mut self.nodes[at].told);
        self.nodes[at] = Node::new(config);
        self.nodes[at].told = told;
    }

    fn told(&mut self, number: u8) -> Vec<String> {
        std::mem::take(&mut self.node(number).told)
    }

    /// A connection to node 1, held by the test, with a greeting sent on it.
    fn wire(&mut self, greeting: &Greeting) -> Wire {
        let wire = self.inproc.dial(0);
        self.inproc.send(wire, &greeting.encode());
        self.run();
        wire
    }

    /// A connection whose greeting node 1 accepted.
    fn link(&mut self, node: u8) -> Wire {
        let wire = self.wire(&hello(node));
        let answer = self.inproc.received(wire);
        let answer = Greeting::decode(&answer).unwrap().expect("no answer to the greeting");
        assert_eq!((answer.refusal, answer.node, answer.wanted), (None, 1, node));
        wire
    }

    /// The refusal that arrived at the test's end.
    fn refusal(&mut self, wire: Wire) -> Option<Refusal> {
        let bytes = self.inproc.received(wire);
        assert!(self.inproc.is_closed(wire), "the connection is not closed");
        Greeting::decode(&bytes).unwrap().and_then(|g| g.refusal)
    }
}

/// The greeting of node `node` when it dials node 1.
fn hello(node: u8) -> Greeting {
    Greeting {
        version: PROTOCOL_VERSION,
        node,
        wanted: 1,
        refusal: None,
        member: false,
        data: false,
        life: 0,
        cluster: [0; 16],
        identity: [node; 16],
        incarnation: 1,
        attempt: 1,
        members_version: 0,
        founders: 0,
    }
}

fn frame_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_message(message, &mut bytes).expect("it fits a frame");
    bytes
}
