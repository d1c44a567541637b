//! Entries that a peer far behind needs and that are not in memory any more.
//!
//! Owns the fetches under way, and the fetched ranges until they are sent. Never reads the log: ranges leave
//! as [`Fetch`] and come back by [`RaftNode::fetched`](super::node::RaftNode::fetched). Correct because
//! entries below the window are applied, so they never change. Bounded by the number of fetches and of kept
//! ranges; a peer that goes without asks again with its next heartbeat response.

use crate::consensus::raft::codec;
use crate::consensus::raft::log_window::LogWindow;
use crate::consensus::raft::{Fetch, LogEntry};
use raft::RawNode;

/// Bytes of one fetch: several append messages, so that a peer is fed without a pause between two fetches.
pub(in crate::consensus) const FETCH_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Fetches under way, and ranges kept. As many peers may be behind at different positions without slowing
/// each other.
const FETCHES_MAX: usize = 4;

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct ColdEntries {
    /// Fetches that were handed out and have not come back.
    under_way: Vec<Fetch>,
    token: u64,
}

impl ColdEntries {
    /// Adds to `fetches` the positions that the window missed and that no fetch covers yet.
    pub(in crate::consensus) fn wanted(&mut self, node: &RawNode<LogWindow>, fetches: &mut Vec<Fetch>) {
        for low in node.store().take_misses() {
            let known = self.under_way.iter().any(|f| f.low == low);
            if known || self.under_way.len() >= FETCHES_MAX {
                continue;
            }
            let waiting = node.raft.prs().iter().filter(|(_, p)| p.next_idx == low).map(|(&id, _)| id);
            let Some(to) = waiting.min() else { continue };
            self.token += 1;
            let high = node.store().warm();
            let fetch = Fetch { to, low, high, bytes_max: FETCH_BYTES_MAX, token: self.token };
            self.under_way.push(fetch);
            fetches.push(fetch);
        }
    }

    /// Takes the entries of a fetch and sends them to the peers that wait for them.
    pub(in crate::consensus) fn fetched(
        &mut self,
        node: &mut RawNode<LogWindow>,
        fetch: Fetch,
        entries: Vec<LogEntry>,
    ) {
        let before = self.under_way.len();
        self.under_way.retain(|f| f.token != fetch.token);
        let whole = entries.iter().zip(fetch.low..).all(|(e, index)| e.index == index);
        if self.under_way.len() == before || entries.is_empty() || !whole {
            return;
        }
        let range = fetch.low..fetch.low + entries.len() as u64;
        let entries = entries.into_iter().map(codec::crate_entry).collect();
        node.mut_store().keep_cold(entries, FETCHES_MAX);
        let mut peers: Vec<u64> = node.raft.prs().iter().map(|(&id, _)| id).collect();
        peers.sort_unstable();
        for peer in peers {
            let waits = |node: &RawNode<LogWindow>| {
                let p = node.raft.prs().get(peer)?;
                (peer != node.raft.id && !p.is_paused() && range.contains(&p.next_idx)).then_some(p.next_idx)
            };
            while node.raft.state == raft::StateRole::Leader
                && let Some(next) = waits(node)
            {
                node.raft.send_append(peer);
                if waits(node) == Some(next) {
                    break;
                }
            }
        }
    }
}
