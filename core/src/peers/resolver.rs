//! How the links learn the address behind a name.
//!
//! Owns the border, and a resolver without a thread for numeric addresses, tests and the simulation. Never blocks.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Answers as many questions as there are nodes, one at a time for each.
pub trait Resolver {
    /// Asks for the address of a node. A question for a node that was asked for already and not answered may be dropped.
    fn request(&mut self, node: u8, host: &str, port: u16);
    /// The next answer, in any order.
    fn poll(&mut self) -> Option<(u8, Result<SocketAddr, String>)>;
    /// Whether [`Resolver::poll`] has an answer: asked before a loop goes to sleep.
    fn is_ready(&self) -> bool;
}

/// Knows numeric addresses, and the names that it was told.
#[derive(Debug, Default)]
pub struct InlineResolver {
    names: BTreeMap<String, IpAddr>,
    answers: VecDeque<(u8, Result<SocketAddr, String>)>,
}

impl InlineResolver {
    /// With a name from now on.
    pub fn with(mut self, host: &str, at: IpAddr) -> Self {
        self.names.insert(host.to_owned(), at);
        self
    }
}

impl Resolver for InlineResolver {
    fn request(&mut self, node: u8, host: &str, port: u16) {
        let at = numeric(host).or_else(|| self.names.get(host).copied());
        let answer =
            at.map(|ip| SocketAddr::new(ip, port)).ok_or_else(|| format!("nobody knows the name '{host}'"));
        self.answers.push_back((node, answer));
    }

    fn poll(&mut self) -> Option<(u8, Result<SocketAddr, String>)> {
        self.answers.pop_front()
    }

    fn is_ready(&self) -> bool {
        !self.answers.is_empty()
    }
}

/// A numeric address, in brackets or not.
pub(super) fn numeric(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    inner.parse().ok()
}
