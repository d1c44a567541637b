//! The bootstrap guard: whether a node without data may take part in founding an ensemble.
//!
//! Owns that judgement and its text for operators. Never looks at a link and never ends an election. It says
//! whether this node may campaign, and whether it may exchange votes with other nodes without data.
//!
//! An empty data directory looks the same at a first start and after the loss of a disk. Where a majority of
//! the disks is lost, Raft's majority consists of nodes that remember nothing. Correct because of two rules:
//!
//! - While a configured server is known to belong to an ensemble, to have data, or to disagree about the
//!   members, this node founds nothing. A lost connection to that server changes nothing. Only the server
//!   itself, met again without data, or a new start of this node does.
//! - A server that this node has not met since its start gets [`FOUNDING_GRACE_NS`], and longer while it
//!   takes connections: it may be reading its data. Only then is a majority enough.
//!
//! Neither rule concerns a node with an entry in its log: there Raft alone decides. A candidate with a log
//! always gets votes. It is elected only by nodes that know each other's data directories.

use crate::consensus::raft::codec;
use crate::peers::config::{BACKOFF_MAX_NS, HANDSHAKE_NS, PATIENCE_NS};
use crate::peers::message::RaftMessage;
use crate::peers::{Contact, Refusal};
use std::fmt;

/// Time for which a node without data waits for servers that it has not met since its start. It covers the
/// longest pause before a dial and one dial of either side that takes as long as it may.
pub(in crate::consensus) const FOUNDING_GRACE_NS: u64 = 5_000_000_000;

const _: () = assert!(FOUNDING_GRACE_NS >= HANDSHAKE_NS + BACKOFF_MAX_NS + PATIENCE_NS);

/// The judgement about the other servers.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// This node has a log: Raft decides.
    Settled,
    /// No server has data, or the others had their time.
    Free,
    /// Servers that have not been met, within their time.
    Awaiting(Vec<u8>),
    /// Servers that take connections and have not said yet what they have. They may be reading their data.
    Starting(Vec<u8>),
    /// Servers that have data, an ensemble, or other members.
    Held(Vec<(u8, Contact)>),
}

/// See the module doc.
#[derive(Debug)]
pub(in crate::consensus) struct BootstrapGuard {
    /// The other configured servers.
    others: Vec<u8>,
    since_ns: Option<u64>,
    verdict: Verdict,
}

impl BootstrapGuard {
    /// `blank`: this node has no entry in its log. `others` are all configured servers without this one.
    pub(in crate::consensus) fn new(blank: bool, others: Vec<u8>) -> Self {
        let verdict = match blank {
            true if others.is_empty() => Verdict::Free,
            true => Verdict::Awaiting(others.clone()),
            false => Verdict::Settled,
        };
        Self { others, since_ns: None, verdict }
    }

    /// Takes the report that this node's log has an entry.
    pub(in crate::consensus) fn is_settled(&self) -> bool {
        self.verdict == Verdict::Settled
    }

    pub(in crate::consensus) fn settle(&mut self) {
        self.verdict = Verdict::Settled;
    }

    /// Judges again, from the last contact with each other server.
    pub(in crate::consensus) fn look(&mut self, now_ns: u64, contact: impl Fn(u8) -> Contact) {
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        let met: Vec<(u8, Contact)> = self.others.iter().map(|&node| (node, contact(node))).collect();
        let is_in_the_way = |contact| matches!(contact, Contact::Settled | Contact::Refused(_));
        let held: Vec<(u8, Contact)> = met.iter().copied().filter(|(_, c)| is_in_the_way(*c)).collect();
        let are = |wanted: Contact| -> Vec<u8> {
            met.iter().filter(|(_, c)| *c == wanted).map(|(node, _)| *node).collect()
        };
        let (missing, silent) = (are(Contact::None), are(Contact::Silent));
        self.verdict = if !held.is_empty() {
            Verdict::Held(held)
        } else if !silent.is_empty() {
            Verdict::Starting(silent)
        } else if missing.is_empty() || now_ns.saturating_sub(since_ns) >= FOUNDING_GRACE_NS {
            Verdict::Free
        } else {
            Verdict::Awaiting(missing)
        };
    }

    /// Whether this node must not campaign.
    pub(in crate::consensus) fn holds(&self) -> bool {
        matches!(self.verdict, Verdict::Awaiting(_) | Verdict::Starting(_) | Verdict::Held(_))
    }

    /// Whether a message of a peer must be dropped.
    pub(in crate::consensus) fn holds_back(&self, message: &RaftMessage) -> bool {
        self.holds() && codec::would_found(message)
    }

    /// Why this node founds nothing, for operators.
    pub(in crate::consensus) fn why(&self) -> Option<String> {
        match &self.verdict {
            Verdict::Settled | Verdict::Free => None,
            Verdict::Awaiting(missing) => Some(format!(
                "this server has no data yet and waits up to {} s for {}, which may have some",
                FOUNDING_GRACE_NS / 1_000_000_000,
                Servers(missing)
            )),
            Verdict::Starting(silent) => Some(format!(
                "this server has no data yet and waits for {}, which may have some: connections are taken there and not \
                 answered, so it is starting or hangs",
                Servers(silent)
            )),
            Verdict::Held(held) => {
                let reasons: Vec<String> = held.iter().map(|(node, c)| reason(*node, *c)).collect();
                Some(format!(
                    "this server has no data and begins nothing new, since {}. If a leader is to come, it feeds this server; \
                     otherwise see \"No leader, and nothing to wait for\" in docs/OPERATIONS.md",
                    reasons.join("; ")
                ))
            }
        }
    }
}

fn reason(node: u8, contact: Contact) -> String {
    match contact {
        Contact::Refused(Refusal::OtherFounders) => {
            format!(
                "server {node} begins with other voters: make the server.N lines of all the same, and start again who had others"
            )
        }
        Contact::Refused(Refusal::UnknownNode) => {
            format!("server {node} belongs to an ensemble without this one: add it with reconfig")
        }
        Contact::Refused(Refusal::Removed) => format!("server {node} says that this one was removed"),
        Contact::Refused(Refusal::WrongVersion) => format!("server {node} runs another release"),
        Contact::Refused(_) => format!("server {node} refuses this one (see the log)"),
        Contact::None | Contact::Silent | Contact::Empty | Contact::Settled => {
            format!("server {node} has data or belongs to an ensemble")
        }
    }
}

/// Numbers of servers, in words.
pub(in crate::consensus) struct Servers<'a>(pub(in crate::consensus) &'a [u8]);

impl fmt::Display for Servers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u8::to_string).collect();
        match &numbers[..] {
            [one] => write!(f, "server {one}"),
            [first @ .., last] => write!(f, "servers {} and {last}", first.join(", ")),
            [] => write!(f, "nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft::codec::outgoing;
    use raft::eraftpb::MessageType;

    const SECOND: u64 = 1_000_000_000;

    pub(in crate::consensus) fn looked(
        founding: &mut BootstrapGuard,
        at_ns: u64,
        contacts: &[Contact],
    ) -> bool {
        founding.look(at_ns, |node| contacts[usize::from(node) - 2]);
        !founding.holds()
    }

    #[test]
    fn all_together_begin_at_once_and_a_majority_when_the_rest_had_its_time() {
        use Contact::{Empty, None};
        let mut founding = BootstrapGuard::new(true, vec![2, 3]);
        assert!(founding.holds());
        assert!(!looked(&mut founding, SECOND, &[Empty, None]));
        assert!(founding.why().unwrap().contains("server 3"), "{:?}", founding.why());
        assert!(looked(&mut founding, SECOND, &[Empty, Empty]) && founding.why().is_none());
        assert!(!looked(&mut founding, SECOND + FOUNDING_GRACE_NS - 1, &[Empty, None]));
        assert!(looked(&mut founding, SECOND + FOUNDING_GRACE_NS, &[Empty, None]));
    }

    #[test]
    fn who_has_data_is_waited_for_without_end_also_when_its_link_is_gone() {
        use Contact::{Empty, None, Refused, Settled};
        let mut founding = BootstrapGuard::new(true, vec![2, 3]);
        for contact in [Settled, Refused(Refusal::UnknownNode), Refused(Refusal::OtherFounders)] {
            assert!(!looked(&mut founding, 100 * SECOND, &[Empty, contact]));
            assert!(!looked(&mut founding, 1000 * SECOND, &[Empty, contact]));
            assert!(founding.why().unwrap().contains("server 3"), "{:?}", founding.why());
        }
        // The server came back without data as well.
        assert!(looked(&mut founding, 1001 * SECOND, &[Empty, Empty]));
        // A server that comes late with data stops a founding that has not begun.
        assert!(looked(&mut founding, 1001 * SECOND, &[Empty, None]));
        assert!(!looked(&mut founding, 1002 * SECOND, &[Empty, Settled]));
        founding.settle();
        assert!(!founding.holds() && founding.why().is_none());
    }

    #[test]
    fn who_is_still_reading_its_data_is_waited_for_while_it_is_there() {
        use Contact::{Empty, None, Silent};
        let mut founding = BootstrapGuard::new(true, vec![2, 3]);
        assert!(!looked(&mut founding, SECOND, &[Empty, None]));
        assert!(!looked(&mut founding, 1000 * SECOND, &[Empty, Silent]));
        assert!(founding.why().unwrap().contains("server 3, which may have some"), "{:?}", founding.why());
        assert!(looked(&mut founding, 1001 * SECOND, &[Empty, None]));
    }

    #[test]
    fn nobody_else_and_a_log_need_no_waiting() {
        assert!(!BootstrapGuard::new(true, Vec::new()).holds());
        assert!(!BootstrapGuard::new(false, vec![2, 3]).holds());
    }

    #[test]
    fn what_is_held_back_is_what_makes_a_leader_of_nothing() {
        let said = |kind, index| {
            let m = raft::eraftpb::Message {
                msg_type: kind,
                from: 2,
                to: 1,
                term: 3,
                index,
                ..Default::default()
            };
            outgoing(m).unwrap()
        };
        let held = BootstrapGuard::new(true, vec![2, 3]);
        for kind in [
            MessageType::MsgRequestVote,
            MessageType::MsgRequestPreVote,
            MessageType::MsgRequestVoteResponse,
            MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgTimeoutNow,
        ] {
            assert!(held.holds_back(&said(kind, 0)), "{kind:?}");
            assert!(!BootstrapGuard::new(false, vec![2, 3]).holds_back(&said(kind, 0)), "{kind:?}");
        }
        // A candidate with a log gets this vote.
        for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
            assert!(!held.holds_back(&said(kind, 7)), "{kind:?}");
        }
        assert!(!held.holds_back(&said(MessageType::MsgAppend, 0)));
        assert!(!held.holds_back(&said(MessageType::MsgHeartbeat, 0)));
    }
}
