//! The network: byte streams between clients, shards and cores.
//!
//! Owns what is on its way and who cannot reach whom. Never reorders or doubles bytes of one stream: a lost packet of TCP is
//! a delay. It stays deterministic because every delay and every cut comes from the world's stream of chance, and because
//! wires are kept in the order of their numbers.

use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Number of a wire.
pub type WireId = u64;

/// A place in the network: a node's host or a client's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Host {
    /// A node, by its place in the world's list.
    Node(usize),
    /// A client, by its place in the world's list.
    Client(usize),
}

/// Who holds an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// A client.
    Client(usize),
    /// An engine of one life of a node: 0 is the core, shards follow.
    Engine {
        /// The node.
        node: usize,
        /// Which of its lives.
        life: u64,
        /// The engine.
        engine: usize,
    },
}

impl End {
    /// Where it is.
    pub fn host(self) -> Host {
        match self {
            End::Client(n) => Host::Client(n),
            End::Engine { node, .. } => Host::Node(node),
        }
    }
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// To the accepting end: somebody connects.
    Open,
    /// To the end that asked: the connection stands.
    Accepted,
    /// Bytes.
    Bytes(Vec<u8>),
    /// No more bytes will come.
    End,
    /// The other end is gone.
    Reset,
}

/// A connection. End 0 asked for it.
#[derive(Debug)]
pub struct Wire {
    /// Both ends.
    pub ends: [End; 2],
    /// On the way towards each end, with the time of arrival.
    pub flight: [VecDeque<(u64, Parcel)>; 2],
    /// Number of the listener that it came to.
    pub listener: u16,
    /// Whether an end let it go.
    pub gone: [bool; 2],
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Least delay, ns.
    pub delay_min_ns: u64,
    /// Usual largest delay, ns.
    pub delay_max_ns: u64,
    /// One parcel in so many is late by up to a hundred times as much.
    pub late_one_in: u64,
}

/// See the module doc.
pub struct Net {
    /// All connections, by number.
    pub wires: BTreeMap<WireId, Wire>,
    next: WireId,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(Host, Host)>,
    /// Now.
    pub weather: Weather,
}

impl Net {
    /// A network in good order.
    pub fn new(weather: Weather) -> Net {
        Net { wires: BTreeMap::new(), next: 1, cut: BTreeSet::new(), weather }
    }

    /// A new connection; nothing is on its way yet.
    pub fn wire(&mut self, from: End, to: End, listener: u16) -> WireId {
        let id = self.next;
        self.next += 1;
        let wire = Wire { ends: [from, to], flight: Default::default(), listener, gone: [false; 2] };
        self.wires.insert(id, wire);
        id
    }

    /// Puts a parcel on its way towards `end`; the time of its arrival.
    pub fn send(&mut self, id: WireId, end: usize, parcel: Parcel, now: u64, rng: &mut Rng) -> Option<u64> {
        let weather = &self.weather;
        let mut delay = rng.range(weather.delay_min_ns, weather.delay_max_ns);
        if weather.late_one_in > 0 && rng.one_in(weather.late_one_in) {
            delay *= rng.range(2, 100);
        }
        let wire = self.wires.get_mut(&id)?;
        let after = wire.flight[end].back().map_or(0, |(at, _)| *at);
        let at = (now + delay).max(after);
        wire.flight[end].push_back((at, parcel));
        Some(at)
    }

    /// Whether nothing gets from one host to another.
    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Lets nothing through from one host to another any more.
    pub fn cut(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    /// Lets everything through again between these.
    pub fn mend(&mut self, a: Host, b: Host) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
    }

    /// Lets everything through.
    pub fn mend_all(&mut self) {
        self.cut.clear();
    }

    /// Forgets wires that both ends let go.
    pub fn sweep(&mut self, id: WireId) {
        if self.wires.get(&id).is_some_and(|w| w.gone == [true; 2]) {
            self.wires.remove(&id);
        }
    }
}
