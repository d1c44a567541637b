//! The network: byte streams between clients, shards and cores.
//!
//! Owns what is in flight, and which hosts cannot reach each other.
//!
//! Never reorders or repeats bytes of one stream: a lost TCP packet is a delay.
//!
//! Correct (deterministic) because every delay and every cut comes from the world's random stream, and
//! wires are ordered by number.

use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Number of a wire, in order of creation.
pub type WireId = u64;

/// A host in the network: a node's or a client's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Host {
    /// A node, by its index in the world's list.
    Node(usize),
    /// A client, by its index in the world's list.
    Client(usize),
}

/// The holder of one end of a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// A client, by its index.
    Client(usize),
    /// An engine of one process of a node. Engine 0 is the core; shards follow.
    Engine {
        /// The node, by its index.
        node: usize,
        /// Number of the node's process.
        life: u64,
        engine: usize,
    },
}

impl End {
    /// The host of the holder.
    pub fn host(self) -> Host {
        match self {
            End::Client(n) => Host::Client(n),
            End::Engine { node, .. } => Host::Node(node),
        }
    }
}

/// One delivery over a wire.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// To the accepting end: a connection request.
    Open,
    /// To the connecting end: the connection is accepted.
    Accepted,
    Bytes(Vec<u8>),
    /// The sender sends no more bytes.
    End,
    /// The sender tore the connection down.
    Reset,
}

/// A connection. End 0 is the connecting end.
#[derive(Debug)]
pub struct Wire {
    pub ends: [End; 2],
    /// Parcels in flight to each end, with their times of arrival.
    pub flight: [VecDeque<(u64, Parcel)>; 2],
    /// Number of the accepting listener.
    pub listener: u16,
    /// Whether each end closed the wire.
    pub gone: [bool; 2],
}

/// Delays of the network.
#[derive(Clone, Debug)]
pub struct Weather {
    pub delay_min_ns: u64,
    /// Largest delay of a parcel that is not late.
    pub delay_max_ns: u64,
    /// One parcel in this many is late, with up to a hundred times its delay. 0 for none.
    pub late_one_in: u64,
}

/// See the module doc.
pub struct Net {
    pub wires: BTreeMap<WireId, Wire>,
    next: WireId,
    /// Directions in which nothing is delivered.
    cut: BTreeSet<(Host, Host)>,
    /// Delays that new parcels get.
    pub weather: Weather,
}

impl Net {
    /// A network without cuts.
    pub fn new(weather: Weather) -> Net {
        Net { wires: BTreeMap::new(), next: 1, cut: BTreeSet::new(), weather }
    }

    /// Creates a wire, with nothing in flight.
    pub fn wire(&mut self, from: End, to: End, listener: u16) -> WireId {
        let id = self.next;
        self.next += 1;
        let wire = Wire { ends: [from, to], flight: Default::default(), listener, gone: [false; 2] };
        self.wires.insert(id, wire);
        id
    }

    /// Sends a parcel to `end`. Returns the time of its arrival.
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

    /// Cuts the direction from one host to another.
    pub fn cut(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    /// Ends cuts between two hosts, in both directions.
    pub fn mend(&mut self, a: Host, b: Host) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
    }

    /// Ends all cuts between hosts.
    pub fn mend_all(&mut self) {
        self.cut.clear();
    }

    /// Forgets the wire if both ends closed it.
    pub fn sweep(&mut self, id: WireId) {
        if self.wires.get(&id).is_some_and(|w| w.gone == [true; 2]) {
            self.wires.remove(&id);
        }
    }
}
