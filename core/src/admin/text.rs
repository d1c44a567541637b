//! The text of each four-letter word's answer, in the form that ZooKeeper gives it and monitoring tools
//! parse.
//!
//! Owns the layout of the answers.
//! Never collects the figures: counters and client lines are passed in.
//! Correct because the formats are fixed by spec 03 section 1 and pinned by tests.

use crate::admin::words::{Word, Words};
use crate::stats::{ServerState, Stats};
use std::fmt::Write;

/// Version in the answers. Tools parse `^Zookeeper version: (\d+\.\d+\.\d+)` to learn the protocol level, so
/// the number is ZooKeeper's, and the revision is Paddock's.
pub const VERSION: &str =
    concat!("3.9.6-paddock-", env!("CARGO_PKG_VERSION"), ", built on 2026-01-01 00:00 UTC");

/// One client connection as `stat` and `cons` show it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientLine {
    /// Remote address and port.
    pub peer: String,
    /// ZooKeeper's interest bits: 0 the asking connection, 1 reading, 5 reading and writing.
    pub interest: u8,
    /// Requests waiting for their reply.
    pub queued: u64,
    /// Frames received from the client.
    pub received: u64,
    /// Frames sent to the client.
    pub sent: u64,
    /// Id and negotiated timeout in ms.
    pub session: Option<(i64, i32)>,
    /// Time of the connect, ms since the Unix epoch.
    pub established_ms: i64,
}

/// The figures that answers are made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub stats: &'a Stats,
    pub words: Words,
    /// Lines of the word `conf`, without the membership.
    pub conf_lines: &'a [String],
    /// Clients for `stat` and `cons`, including the asking one.
    pub clients: &'a [ClientLine],
    /// Wall clock, ms since the Unix epoch.
    pub now_ms: i64,
    /// The clients that the asked shard serves.
    pub serving: Serving,
    /// Age of the quorum's last confirmation, ms. 0 on a standalone node; `None`: never confirmed.
    pub lag_ms: Option<u64>,
}

/// The clients that a node serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serving {
    /// None: the quorum does not confirm this node.
    Nobody,
    /// Read-only clients: the quorum does not confirm this node.
    ReadOnly,
    /// All clients.
    Full,
}

impl Facts<'_> {
    fn serving(&self) -> Serving {
        match (self.serving, self.stats.mode()) {
            (Serving::Full, ServerState::NotServing) => Serving::Nobody,
            (serving, _) => serving,
        }
    }
    /// The server state as `srvr` and `mntr` name it.
    fn mode_name(&self) -> &'static str {
        match self.serving() {
            Serving::ReadOnly => "read-only",
            _ => self.stats.mode().name(),
        }
    }
}

/// The answer to `word`, whitelist applied.
pub fn answer(word: Word, facts: &Facts<'_>) -> String {
    if !facts.words.allows(word) {
        return format!("{} is not executed because it is not in the whitelist.\n", word.name());
    }
    match word {
        Word::Ruok => "imok".to_owned(),
        Word::Lead => match why_not_to_lead(facts.stats) {
            Some(why) => format!("{why}\n"),
            None => "asked; srvr tells who leads\n".to_owned(),
        },
        Word::Isro => match facts.serving() {
            Serving::Full => "rw",
            Serving::ReadOnly => "ro",
            Serving::Nobody => "null",
        }
        .to_owned(),
        _ if facts.serving() == Serving::Nobody => not_serving(word, facts),
        Word::Srvr => {
            let mut out = version_lines(facts);
            server_lines(&mut out, facts);
            out
        }
        Word::Stat => {
            let mut out = version_lines(facts);
            out.push_str("Clients:\n");
            for c in facts.clients {
                let _ = writeln!(out, " {}", brief(c));
            }
            out.push('\n');
            server_lines(&mut out, facts);
            out
        }
        Word::Cons => {
            let mut out = String::new();
            for c in facts.clients {
                let _ = writeln!(out, " {}", full(c));
            }
            out.push('\n');
            out
        }
        Word::Mntr => monitor(facts),
        Word::Conf => {
            let mut out: String = facts.conf_lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect();
            let membership = facts.stats.membership();
            if !membership.is_empty() {
                let _ = write!(out, "membership: \n{membership}");
            }
            out
        }
        Word::Wchs => format!(
            "{} connections watching {} paths\nTotal watches:{}\n",
            facts.stats.sum(|s| &s.watching_connections),
            facts.stats.sum(|s| &s.watched_paths),
            facts.stats.sum(|s| &s.watches)
        ),
        // The whitelist has refused all other words above.
        _ => String::new(),
    }
}

/// Answer to `lead` while there is no leader to hand over. Temporary during an election.
pub const NO_LEADER: &str = "this server knows no leader that could hand over to it, so nobody was asked. Ask again when there is one \
                             (paddock_leader in mntr)";

/// Why this server cannot lead, and what to do; `None`: it can.
pub fn why_not_to_lead(stats: &Stats) -> Option<&'static str> {
    if stats.node().disk_full.get() != 0 {
        return Some(
            "the disk of this server's data directory is full, so it is not made the leader: free space on it and ask again, \
             or ask another server to lead",
        );
    }
    if stats.mode() == ServerState::Observer {
        return Some(
            "this server has no vote, being an observer or not caught up yet: it cannot lead. Ask one of the voters to",
        );
    }
    (stats.node().leader_id.get() == 0).then_some(NO_LEADER)
}

/// ZooKeeper's sentence, followed by the reason, which ZooKeeper does not give.
fn not_serving(word: Word, facts: &Facts<'_>) -> String {
    let mut out = "This ZooKeeper instance is not currently serving requests\n".to_owned();
    let reason = facts.stats.write_block();
    if !reason.is_empty() {
        let _ = writeln!(out, "{reason}");
    } else if facts.stats.node().disk_full.get() != 0 {
        out.push_str(
            "the disk of this server's data directory is full: it logs nothing more and falls behind\n",
        );
    }
    if word == Word::Mntr {
        ensemble_rows(&mut out, facts);
    }
    out
}

fn version_lines(facts: &Facts<'_>) -> String {
    let mut out = format!("Zookeeper version: {VERSION}\n");
    if facts.serving() == Serving::ReadOnly {
        out.push_str("READ-ONLY mode; serving only read-only clients\n");
    }
    out
}

fn server_lines(out: &mut String, facts: &Facts<'_>) {
    let stats = facts.stats;
    let _ = write!(
        out,
        "Latency min/avg/max: 0/{}/{}\nReceived: {}\nSent: {}\nConnections: {}\nOutstanding: {}\nZxid: {:#x}\nMode: {}\nNode count: {}\n",
        average_latency(stats),
        stats.max(|s| &s.latency_max_us) / 1000,
        stats.sum(|s| &s.packets_received),
        stats.sum(|s| &s.packets_sent),
        stats.sum(|s| &s.connections),
        stats.sum(|s| &s.outstanding),
        stats.zxid(),
        facts.mode_name(),
        stats.node().znodes.get(),
    );
    if stats.mode() == ServerState::Leader && facts.serving() == Serving::Full {
        let [last, min, max] = proposal_sizes(stats);
        let _ = writeln!(out, "Proposal sizes last/min/max: {last}/{min}/{max}");
    }
}

/// Size of the last, smallest and largest proposal, bytes; -1 before the first, as in ZooKeeper.
fn proposal_sizes(stats: &Stats) -> [i64; 3] {
    let node = stats.node();
    let none = node.proposal_bytes_last.get() == 0;
    [&node.proposal_bytes_last, &node.proposal_bytes_min, &node.proposal_bytes_max]
        .map(|cell| if none { -1 } else { cell.get() as i64 })
}

/// Average in ms, with one to four fraction digits as in ZooKeeper.
fn average_latency(stats: &Stats) -> String {
    let count = stats.sum(|s| &s.latency_count).max(1);
    let ms = stats.sum(|s| &s.latency_sum_us) as f64 / 1000.0 / count as f64;
    let mut text = format!("{ms:.4}");
    while text.ends_with('0') && !text.ends_with(".0") {
        text.pop();
    }
    text
}

fn brief(c: &ClientLine) -> String {
    format!("/{}[{}](queued={},recved={},sent={})", c.peer, c.interest, c.queued, c.received, c.sent)
}

fn full(c: &ClientLine) -> String {
    let mut line = brief(c);
    if let Some((session, timeout_ms)) = c.session {
        line.pop();
        let _ = write!(line, ",sid={session:#x},est={},to={timeout_ms})", c.established_ms);
    }
    line
}

fn monitor(facts: &Facts<'_>) -> String {
    let stats = facts.stats;
    let mut out = format!(
        "zk_version\t{VERSION}\nzk_server_state\t{}\nzk_avg_latency\t{}\n",
        facts.mode_name(),
        average_latency(stats)
    );
    let rows = [
        ("min_latency", 0),
        ("max_latency", stats.max(|s| &s.latency_max_us) / 1000),
        ("packets_received", stats.sum(|s| &s.packets_received)),
        ("packets_sent", stats.sum(|s| &s.packets_sent)),
        ("num_alive_connections", stats.sum(|s| &s.connections)),
        ("outstanding_requests", stats.sum(|s| &s.outstanding)),
        ("znode_count", stats.node().znodes.get()),
        ("watch_count", stats.sum(|s| &s.watches)),
        ("ephemerals_count", stats.node().ephemerals.get()),
        ("approximate_data_size", stats.node().data_bytes.get()),
        ("global_sessions", stats.node().global_sessions.get()),
        ("uptime", facts.now_ms.saturating_sub(stats.started_ms()).max(0) as u64),
        ("connection_rejected", stats.sum(|s| &s.connections_rejected)),
        ("reads_served", stats.sum(|s| &s.reads_served)),
        ("writes_forwarded", stats.sum(|s| &s.writes_forwarded)),
        ("watch_events", stats.sum(|s| &s.watch_events)),
        ("bytes_received_count", stats.sum(|s| &s.bytes_received)),
        ("auth_failed_count", stats.sum(|s| &s.auth_failed)),
    ];
    for (key, value) in rows {
        let _ = writeln!(out, "zk_{key}\t{value}");
    }
    ensemble_rows(&mut out, facts);
    out
}

/// Rows of members of an ensemble: ZooKeeper's keys, then Paddock's.
fn ensemble_rows(out: &mut String, facts: &Facts<'_>) {
    let (stats, node) = (facts.stats, facts.stats.node());
    let peer_state = match (facts.serving(), stats.mode()) {
        (_, ServerState::Standalone) => {
            if node.disk_full.get() != 0 {
                out.push_str("paddock_disk_full\t1\n");
            }
            return;
        }
        (Serving::Nobody | Serving::ReadOnly, _) | (_, ServerState::NotServing) => "looking",
        (_, ServerState::Leader) => "leading - broadcast",
        (_, ServerState::Follower) => "following - broadcast",
        (_, ServerState::Observer) => "observing - broadcast",
    };
    let _ = writeln!(out, "zk_peer_state\t{peer_state}\nzk_quorum_size\t{}", node.quorum_size.get());
    if stats.mode() == ServerState::Leader {
        let [last, min, max] = proposal_sizes(stats);
        let since_ms = node.leading_since_ms.get() as i64;
        let rows = [
            ("followers", node.followers.get() as i64),
            ("learners", (node.synced_followers.get() + node.synced_observers.get()) as i64),
            ("synced_followers", node.synced_followers.get() as i64),
            ("synced_non_voting_followers", 0),
            ("synced_observers", node.synced_observers.get() as i64),
            ("pending_syncs", node.pending_syncs.get() as i64),
            ("leader_uptime", if since_ms == 0 { 0 } else { facts.now_ms.saturating_sub(since_ms).max(0) }),
            ("last_proposal_size", last),
            ("min_proposal_size", min),
            ("max_proposal_size", max),
        ];
        for (key, value) in rows {
            let _ = writeln!(out, "zk_{key}\t{value}");
        }
    }
    let rows = [
        ("node", node.node_id.get()),
        ("leader", node.leader_id.get()),
        ("term", node.term.get()),
        ("commit_index", node.commit_index.get()),
        ("applied_index", node.applied_index.get()),
        ("lag_entries", node.lag_entries.get()),
        ("disk_full", node.disk_full.get()),
        ("elections", node.elections.get()),
        ("observers", node.observers.get()),
        ("stale_closed", stats.sum(|s| &s.stale_closed)),
        ("leases_run_out", stats.sum(|s| &s.leases_run_out)),
        ("read_only_sessions", stats.sum(|s| &s.read_only_sessions)),
        ("read_rounds", stats.sum(|s| &s.read_rounds)),
    ];
    for (key, value) in rows {
        let _ = writeln!(out, "paddock_{key}\t{value}");
    }
    // The lag of a node that was never confirmed is unknown.
    if let Some(lag_ms) = facts.lag_ms {
        let _ = writeln!(out, "paddock_lag_ms\t{lag_ms}");
    }
    let _ = writeln!(out, "paddock_write_block_reason\t{}", stats.write_block());
    if stats.mode() == ServerState::Leader {
        let _ = writeln!(out, "paddock_membership_wait\t{}", stats.membership_wait());
        let _ = writeln!(out, "paddock_left_behind\t{}", node.left_behind.get());
        let _ = writeln!(out, "paddock_left_behind_nodes\t{}", stats.left_behind());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(stats: &'a Stats, clients: &'a [ClientLine]) -> Facts<'a> {
        let (words, _) = Words::parse("*");
        Facts {
            stats,
            words,
            conf_lines: &[],
            clients,
            now_ms: 5_000,
            serving: Serving::Full,
            lag_ms: Some(7),
        }
    }

    #[test]
    fn srvr_has_the_lines_that_tools_parse() {
        let stats = Stats::new(2, 0);
        stats.set_mode(ServerState::Standalone);
        stats.set_zxid(0x15d);
        stats.node().znodes.set(46);
        stats.shard(0).latency_count.set(4);
        stats.shard(0).latency_sum_us.set(9_088);
        stats.shard(1).latency_max_us.set(46_900);
        stats.shard(1).connections.set(3);
        let text = answer(Word::Srvr, &facts(&stats, &[]));
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("Zookeeper version: 3.9.6"));
        assert_eq!(lines.next().unwrap(), "Latency min/avg/max: 0/2.272/46");
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "Received: 0",
                "Sent: 0",
                "Connections: 3",
                "Outstanding: 0",
                "Zxid: 0x15d",
                "Mode: standalone",
                "Node count: 46"
            ]
        );
    }

    #[test]
    fn stat_lists_clients_between_version_and_figures() {
        let stats = Stats::new(1, 0);
        stats.set_mode(ServerState::Standalone);
        let clients = [ClientLine {
            peer: "127.0.0.1:47186".into(),
            interest: 1,
            received: 6,
            sent: 7,
            session: Some((0x1_0000, 20_000)),
            ..ClientLine::default()
        }];
        let text = answer(Word::Stat, &facts(&stats, &clients));
        assert!(
            text.contains("Clients:\n /127.0.0.1:47186[1](queued=0,recved=6,sent=7)\n\nLatency"),
            "{text}"
        );
        let text = answer(Word::Cons, &facts(&stats, &clients));
        assert_eq!(text, " /127.0.0.1:47186[1](queued=0,recved=6,sent=7,sid=0x10000,est=0,to=20000)\n\n");
    }

    #[test]
    fn a_node_that_does_not_serve_says_so_but_is_ok() {
        let stats = Stats::new(1, 0);
        let f = facts(&stats, &[]);
        assert_eq!(answer(Word::Ruok, &f), "imok");
        assert_eq!(answer(Word::Isro, &f), "null");
        assert_eq!(answer(Word::Stat, &f), "This ZooKeeper instance is not currently serving requests\n");
        stats.set_mode(ServerState::Follower);
        stats.set_write_block("no leader: 2 of 5 voters reachable");
        let f = Facts { serving: Serving::Nobody, ..f };
        let first =
            "This ZooKeeper instance is not currently serving requests\nno leader: 2 of 5 voters reachable\n";
        assert_eq!(answer(Word::Srvr, &f), first);
        let text = answer(Word::Mntr, &f);
        assert!(text.starts_with(first) && text.contains("zk_peer_state\tlooking\n"), "{text}");
        assert!(text.contains("paddock_write_block_reason\tno leader: 2 of 5 voters reachable\n"), "{text}");
    }

    #[test]
    fn a_leader_tells_what_leaders_tell_and_a_follower_does_not() {
        let stats = Stats::new(1, 0);
        stats.set_mode(ServerState::Leader);
        stats.set_leading(Some(2_000));
        assert!(answer(Word::Srvr, &facts(&stats, &[])).ends_with("Proposal sizes last/min/max: -1/-1/-1\n"));
        for bytes in [122, 36, 56] {
            stats.note_proposal(bytes);
        }
        stats.node().synced_followers.set(2);
        stats.node().synced_observers.set(1);
        stats.node().quorum_size.set(3);
        stats.set_membership_wait("reconfiguration 2 waits for server 4");
        stats.node().left_behind.set(1);
        stats.set_left_behind("node 2 is 906 entries behind");
        let f = facts(&stats, &[]);
        let text = answer(Word::Srvr, &f);
        assert!(
            text.contains("Mode: leader\nNode count: 0\nProposal sizes last/min/max: 56/36/122\n"),
            "{text}"
        );
        let text = answer(Word::Mntr, &f);
        for row in [
            "zk_server_state\tleader",
            "zk_peer_state\tleading - broadcast",
            "zk_quorum_size\t3",
            "zk_learners\t3",
            "zk_leader_uptime\t3000",
            "paddock_lag_ms\t7",
            "paddock_membership_wait\treconfiguration 2 waits for server 4",
            "paddock_left_behind\t1",
            "paddock_left_behind_nodes\tnode 2 is 906 entries behind",
        ] {
            assert!(text.contains(&format!("{row}\n")), "{row} is missing: {text}");
        }
        stats.set_mode(ServerState::Follower);
        stats.set_leading(None);
        let text = answer(Word::Mntr, &f) + &answer(Word::Srvr, &f);
        assert!(text.contains("zk_peer_state\tfollowing - broadcast\n"), "{text}");
        assert!(!text.contains("zk_learners") && !text.contains("Proposal"), "{text}");
        stats.set_mode(ServerState::Standalone);
        assert!(!answer(Word::Mntr, &f).contains("paddock_"));
    }

    #[test]
    fn a_full_disk_is_told_where_writes_go_on_without_this_server_too() {
        let stats = Stats::new(1, 0);
        stats.node().disk_full.set(1);
        for mode in [ServerState::Standalone, ServerState::Follower] {
            stats.set_mode(mode);
            assert!(answer(Word::Mntr, &facts(&stats, &[])).contains("paddock_disk_full\t1\n"), "{mode:?}");
        }
        let behind = Facts { serving: Serving::Nobody, ..facts(&stats, &[]) };
        assert!(answer(Word::Srvr, &behind).contains("data directory is full"));
    }

    #[test]
    fn a_server_that_cannot_lead_says_why_and_is_not_asked_in_vain() {
        let stats = Stats::new(1, 0);
        let facts = Facts { words: Words::parse("lead").0, ..facts(&stats, &[]) };
        stats.set_mode(ServerState::Follower);
        assert!(answer(Word::Lead, &facts).starts_with(NO_LEADER));
        stats.node().leader_id.set(2);
        assert!(answer(Word::Lead, &facts).starts_with("asked"));
        stats.node().disk_full.set(1);
        // The node reports its full disk even when it is too far behind to serve.
        for serving in [Serving::Full, Serving::Nobody] {
            let text = answer(Word::Lead, &Facts { serving, ..facts });
            assert!(text.contains("is full") && text.contains("free space"), "{text}");
        }
        stats.node().disk_full.set(0);
        stats.set_mode(ServerState::Observer);
        assert!(answer(Word::Lead, &facts).contains("observer"));
    }

    #[test]
    fn a_read_only_node_says_so_everywhere() {
        let stats = Stats::new(1, 0);
        stats.set_mode(ServerState::Follower);
        let f = Facts { serving: Serving::ReadOnly, ..facts(&stats, &[]) };
        assert_eq!(answer(Word::Isro, &f), "ro");
        let text = answer(Word::Srvr, &f);
        assert_eq!(text.lines().nth(1), Some("READ-ONLY mode; serving only read-only clients"));
        assert!(text.contains("Mode: read-only\n"), "{text}");
        assert!(answer(Word::Mntr, &f).contains("zk_server_state\tread-only\n"));
    }

    #[test]
    fn conf_ends_with_the_membership_of_an_ensemble() {
        let stats = Stats::new(1, 0);
        stats.set_mode(ServerState::Follower);
        stats.set_membership("server.1=a:2:3:participant\nversion=100000000".to_owned());
        assert_eq!(
            answer(Word::Conf, &facts(&stats, &[])),
            "membership: \nserver.1=a:2:3:participant\nversion=100000000"
        );
    }

    #[test]
    fn a_word_outside_the_whitelist_is_refused_by_name() {
        let stats = Stats::new(1, 0);
        let f = Facts { words: Words::default(), ..facts(&stats, &[]) };
        assert_eq!(answer(Word::Cons, &f), "cons is not executed because it is not in the whitelist.\n");
    }
}
