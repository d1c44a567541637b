//! Resolves host names for the links.
//!
//! Owns the trait, and a resolver without a thread for numeric addresses, tests and the simulation. Never
//! blocks.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Resolves at most one name per node at a time.
pub trait Resolver {
    /// Asks for the address of a node. A request is dropped if an earlier one for the same node is
    /// unanswered.
    fn request(&mut self, node: u8, host: &str, port: u16);
    /// The next answer, in any order of requests.
    fn poll(&mut self) -> Option<(u8, Result<SocketAddr, String>)>;
    /// Whether [`Resolver::poll`] has an answer. The loop asks before it sleeps.
    fn is_ready(&self) -> bool;
}

/// Resolves numeric addresses, and the names added to it.
#[derive(Debug, Default)]
pub struct InlineResolver {
    names: BTreeMap<String, IpAddr>,
    answers: VecDeque<(u8, Result<SocketAddr, String>)>,
}

impl InlineResolver {
    /// Adds a name to the table.
    pub fn with(mut self, host: &str, at: IpAddr) -> Self {
        self.names.insert(host.to_owned(), at);
        self
    }
}

impl Resolver for InlineResolver {
    fn request(&mut self, node: u8, host: &str, port: u16) {
        let at = numeric(host).or_else(|| self.names.get(host).copied());
        let answer = at
            .map(|ip| SocketAddr::new(ip, port))
            .ok_or_else(|| format!("no address is known for the name '{host}'"));
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
