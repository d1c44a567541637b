//! Which nodes are present, ready, still catching up, or still to be told of their removal.
//!
//! Owns what the leader remembers between two looks: the last move of a joining node, the commit index when a
//! learner came, and when a removed node got the entry that removes it. Never decides. Correct because all of
//! it may be forgotten: then the waits begin again.

use super::{
    CATCH_UP_NS_MAX, CATCH_UP_STALL_NS, LINGER_NS, MembershipPlanner, PRESENT_NS, PROMOTE_LAG_ENTRIES,
    Progress, TOLD_NS, View,
};
use std::collections::BTreeMap;

/// Memory of the planner. Bounded by the node ids.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Number of the pending reconfiguration, and since when this leader drives it.
    attempt: Option<(u64, u64)>,
    /// Learners that will get a vote.
    catching_up: BTreeMap<u8, Advance>,
    /// Commit index when each learner was first seen.
    came: BTreeMap<u64, u64>,
    /// Time of the last look at which Raft had heard from each node.
    heard: BTreeMap<u64, u64>,
    /// Former members that are still learners.
    lingering: BTreeMap<u8, Lingering>,
}

/// Progress of a node at its last move.
#[derive(Debug, Default)]
struct Advance {
    matched: u64,
    at_ns: u64,
    /// A new link counts as a move.
    moved: bool,
}

#[derive(Debug)]
struct Lingering {
    /// Index that the node must have.
    index: u64,
    since_ns: u64,
    reached_ns: Option<u64>,
}

impl Memory {
    /// Takes the report of a new link to the node.
    pub(super) fn moved(&mut self, node: u8) {
        if let Some(advance) = self.catching_up.get_mut(&node) {
            advance.moved = true;
        }
    }
}

impl MembershipPlanner {
    /// Notes which nodes moved since the last look.
    pub(super) fn look(&mut self, view: &View<'_>) {
        let memory = &mut self.memory;
        let number = view.state.pending.as_ref().map(|pending| pending.number);
        match (memory.attempt, number) {
            (Some((known, _)), Some(number)) if known == number => {}
            (_, number) => {
                memory.attempt = number.map(|number| (number, view.now_ns));
                memory.catching_up.clear();
            }
        }
        if let Some(pending) = &view.state.pending {
            for node in pending.members.voters().filter(|node| !view.raft.voters.contains(&u64::from(*node)))
            {
                let found = progress(view, node);
                let matched = found.map_or(0, |p| p.matched);
                let fresh = Advance { at_ns: view.now_ns, ..Advance::default() };
                let advance = memory.catching_up.entry(node).or_insert(fresh);
                // The progress of a snapshot transfer is not visible here. It counts as moving while its link
                // is up.
                let receives = found.is_some_and(|p| p.snapshot) && self.links.contains_key(&node);
                if matched > advance.matched || receives || std::mem::take(&mut advance.moved) {
                    (advance.matched, advance.at_ns) = (matched, view.now_ns);
                }
            }
        }
        memory.heard.retain(|node, _| view.raft.contains(*node));
        for found in view.progress.iter().filter(|p| p.active) {
            memory.heard.insert(found.node, view.now_ns);
        }
        memory.came.retain(|node, _| view.raft.learners.contains(node));
        for node in &view.raft.learners {
            memory.came.entry(*node).or_insert(view.commit);
        }
        memory.lingering.retain(|node, _| view.state.leaving.contains_key(node));
        for node in view.state.leaving.keys() {
            let lingering = memory.lingering.entry(*node).or_insert(Lingering {
                index: view.applied,
                since_ns: view.now_ns,
                reached_ns: None,
            });
            if progress(view, *node).is_some_and(|p| p.matched >= lingering.index) {
                lingering.reached_ns.get_or_insert(view.now_ns);
            }
        }
    }

    /// Whether the node is a voter that answers.
    pub(super) fn is_present(&self, view: &View<'_>, node: u8) -> bool {
        let answers = |p: &Progress| self.is_heard(view, node) && !p.snapshot;
        node == self.node || (self.is_known(view, node) && progress(view, node).is_some_and(answers))
    }

    /// Whether Raft has heard from the node within [`PRESENT_NS`].
    pub(super) fn is_heard(&self, view: &View<'_>, node: u8) -> bool {
        let last_ns = self.memory.heard.get(&u64::from(node));
        last_ns.is_some_and(|at_ns| view.now_ns.saturating_sub(*at_ns) < PRESENT_NS)
    }

    /// Whether the node may get a vote, or leadership, and nothing would wait for it. A short log may hold
    /// only the last entries while a snapshot is missing. So a learner must have what was committed when it
    /// came.
    pub(super) fn is_ready(&self, view: &View<'_>, node: u8) -> bool {
        let came = self.memory.came.get(&u64::from(node)).copied().unwrap_or(0);
        let near =
            |p: &Progress| p.matched >= came && p.matched.saturating_add(PROMOTE_LAG_ENTRIES) >= view.commit;
        node == self.node || (self.is_present(view, node) && progress(view, node).is_some_and(near))
    }

    /// Whether the node has a link and its recorded data directory.
    fn is_known(&self, view: &View<'_>, node: u8) -> bool {
        self.links.get(&node).is_some_and(|identity| !view.state.is_foreign(node, identity))
    }

    /// Since when the pending reconfiguration is driven by this leader.
    pub(super) fn attempt_ns(&self, view: &View<'_>) -> u64 {
        self.memory.attempt.map_or(0, |(_, since_ns)| view.now_ns.saturating_sub(since_ns))
    }

    /// Whether the reconfiguration still waits for the node.
    pub(super) fn is_catching_up(&self, view: &View<'_>, node: u8) -> bool {
        let still = |advance: &Advance| view.now_ns.saturating_sub(advance.at_ns) < CATCH_UP_STALL_NS;
        self.attempt_ns(view) < CATCH_UP_NS_MAX && self.memory.catching_up.get(&node).is_some_and(still)
    }

    /// Whether a former member must still be sent the log.
    pub(super) fn is_lingering(&self, view: &View<'_>, node: u8) -> bool {
        self.memory.lingering.get(&node).is_some_and(|lingering| {
            let told = |at_ns: u64| view.now_ns.saturating_sub(at_ns) >= TOLD_NS;
            let over = view.now_ns.saturating_sub(lingering.since_ns) >= LINGER_NS;
            !over && !lingering.reached_ns.is_some_and(told)
        })
    }

    /// The ready node of `nodes` with the longest log.
    pub(super) fn farthest(&self, view: &View<'_>, nodes: impl Iterator<Item = u8>) -> Option<u8> {
        nodes
            .filter(|node| *node != self.node && self.is_ready(view, *node))
            .max_by_key(|node| (progress(view, *node).map_or(0, |p| p.matched), u8::MAX - node))
    }
}

pub(super) fn progress<'v>(view: &View<'v>, node: u8) -> Option<&'v Progress> {
    view.progress.iter().find(|p| p.node == u64::from(node))
}
