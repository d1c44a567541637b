//! The links between the nodes of an ensemble.
//!
//! Owns the connections to the other members, the handshake that identifies both ends, reconnecting with
//! backoff, and the framing of messages.
//!
//! Never looks into a message beyond its framing, and never queues one for a link that is down: the sender
//! learns that it was not sent.
//!
//! Correct because a frame has a length, a version and a checksum, and an archive is checked before it is
//! used. A link that carries anything else is closed with a reason.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

pub mod config;
mod crc;
mod dial;
mod frame;
mod greeting;
mod handshake;
mod links;
pub mod message;
mod peer;
pub mod resolver;
pub mod resolver_thread;
#[cfg(test)]
mod tests;

pub use config::{PeerAddress, PeersConfig};
pub use greeting::{PROTOCOL_VERSION, Refusal, founders};
pub use links::Peers;
pub use message::Message;
pub use peer::Contact;
pub use resolver::{InlineResolver, Resolver};
pub use resolver_thread::ThreadResolver;

/// Events for the consensus core, in order for each node.
#[derive(Debug)]
pub enum PeerEvent {
    /// A link to the node is up. Both sides forget everything that was sent before.
    Up {
        node: u8,
        /// Number of the node's start.
        incarnation: u64,
        /// Identity of the node's data directory.
        identity: [u8; 16],
    },
    /// The link to the node is gone.
    Down { node: u8 },
    /// A message from the node.
    Message { node: u8, message: Message },
    /// A node reports that this node was removed from the ensemble.
    Removed {
        /// Number of the node that reports it.
        by: u8,
    },
}
