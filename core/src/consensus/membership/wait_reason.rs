//! What the membership waits for, in words.
//!
//! Owns the text that an operator reads in the log and in `mntr` while a reconfiguration is under way or a
//! participant has no vote. Never decides. Correct because it is drawn from the input of the next step. It
//! holds nothing that grows during a wait, so the same wait has the same words and is logged once.

use super::progress::progress;
use super::{CATCH_UP_NS_MAX, CATCH_UP_STALL_NS, MembershipPlanner, View};

/// The reason of a wait: logged once, and in `mntr` as long as it lasts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Waiting {
    /// Empty: nothing waits.
    pub text: String,
    /// A client waits for its answer.
    pending: bool,
}

impl Waiting {
    /// Logs the reason if it differs from `before`.
    pub(super) fn tell(&self, before: &Waiting) {
        if self == before {
            return;
        }
        match (self.text.is_empty(), self.pending) {
            (false, true) => tracing::info!("{}", self.text),
            (false, false) => tracing::warn!("{}", self.text),
            (true, _) => {
                if !before.pending {
                    tracing::info!("every participant has its vote");
                }
            }
        }
    }
}

impl MembershipPlanner {
    /// The reason why no step can be taken just now.
    pub(super) fn waiting(&self, view: &View<'_>) -> Waiting {
        if view.state.members.members.is_empty() {
            return Waiting::default();
        }
        let Some(pending) = &view.state.pending else {
            let text = match self.list(view, &self.voteless(view)) {
                servers if servers.is_empty() => servers,
                servers => format!("no vote until caught up: {servers}"),
            };
            return Waiting { text, pending: false };
        };
        let missing: Vec<u8> = pending.members.voters().filter(|node| !self.counts(view, *node)).collect();
        let voters = pending.members.voters().count();
        let text = match missing.is_empty() {
            // The last step has to show its effect first.
            true => String::new(),
            false => format!(
                "reconfiguration {} waits for {}: {} of its {voters} voters are there, {} are needed; at most {} s without progress, \
                 {} s in all",
                pending.number,
                self.list(view, &missing),
                voters - missing.len(),
                voters / 2 + 1,
                CATCH_UP_STALL_NS / 1_000_000_000,
                CATCH_UP_NS_MAX / 1_000_000_000
            ),
        };
        Waiting { text, pending: true }
    }

    /// Participants without a vote.
    fn voteless(&self, view: &View<'_>) -> Vec<u8> {
        view.state.members.voters().filter(|node| !view.raft.voters.contains(&u64::from(*node))).collect()
    }

    /// Servers, each with its state; empty without any.
    pub(super) fn list(&self, view: &View<'_>, nodes: &[u8]) -> String {
        let all: Vec<String> =
            nodes.iter().map(|node| format!("server {node} ({})", self.matter(view, *node))).collect();
        all.join(", ")
    }

    fn matter(&self, view: &View<'_>, node: u8) -> &'static str {
        let Some(identity) = self.links.get(&node) else { return "not connected" };
        match progress(view, node) {
            _ if view.state.is_foreign(node, identity) => "with another data directory than before",
            Some(p) if p.snapshot => "it is sent a snapshot",
            Some(_) if !self.is_heard(view, node) => "it does not answer",
            _ => "it catches up with the log",
        }
    }
}
