//! Checkpoints: tree and machine into a snapshot, and back.
//!
//! Owns what a snapshot's blocks contain ([`block`]), the thread that writes them ([`Checkpointer`]) and
//! the way back into memory ([`load`]).
//!
//! Never stops the core: it writes from a held version, on a thread of the lowest priority.
//!
//! Correct because the hold and the machine's image are taken at the same version, between two entries of
//! the log. Storage gives the file its name only once it is durable.

#![deny(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

pub mod block;
mod load;
mod thread;
mod write;

pub use load::{LoadError, Loaded, load};
pub use thread::{CheckpointOutcome, Checkpointer};
pub use write::{Job, WriteError, write};
