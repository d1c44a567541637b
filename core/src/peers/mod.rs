//! The links between the nodes of an ensemble.
//!
//! Owns the connections to the other members, the handshake by which both ends learn with whom they talk, reconnecting with
//! backoff, and the framing of messages. Never looks into a message beyond its framing, and never keeps one for a link that
//! is down: whoever sends learns that it was not sent. It stays correct because a frame has a length, a version and a
//! checksum, an archive is checked before it is used, and a link that carries anything else is closed with a reason.

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

/// What the links tell the consensus core, in order for each node.
#[derive(Debug)]
pub enum PeerEvent {
    /// A link to the node stands; everything before it is forgotten on both sides.
    Up {
        /// The node.
        node: u8,
        /// Number of its start.
        incarnation: u64,
        /// Identity of its data directory.
        identity: [u8; 16],
    },
    /// The link is gone.
    Down {
        /// The node.
        node: u8,
    },
    /// The node says something.
    Message {
        /// The node.
        node: u8,
        /// What.
        message: Message,
    },
    /// The node says that this one was removed from the ensemble.
    Removed {
        /// Who says so.
        by: u8,
    },
}
