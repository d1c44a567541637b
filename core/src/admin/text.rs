//! The text of each four-letter word's answer, as ZooKeeper writes it.
//!
//! Owns the layout that monitoring tools parse. Never gathers: counters and client lines are passed in. It stays correct
//! because the formats are fixed by spec 03 section 1 and pinned by tests.

use crate::admin::words::{Word, Words};
use crate::stats::{Mode, Stats};
use std::fmt::Write;

/// The version that the words report: tools parse `^Zookeeper version: (\d+\.\d+\.\d+)` to learn which protocol level
/// they may expect, so the number is ZooKeeper's and the revision is ours.
pub const VERSION: &str =
    concat!("3.9.6-paddock-", env!("CARGO_PKG_VERSION"), ", built on 2026-01-01 00:00 UTC");

/// One client connection as `stat` and `cons` show it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientLine {
    /// Remote address.
    pub peer: String,
    /// ZooKeeper's interest bits: 0 the asking connection, 1 reading, 5 reading and writing.
    pub interest: u8,
    /// Requests waiting.
    pub queued: u64,
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// The session: id, negotiated timeout in ms.
    pub session: Option<(i64, i32)>,
    /// Established at, ms since the Unix epoch.
    pub established_ms: i64,
}

/// What an answer is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Counters.
    pub stats: &'a Stats,
    /// Enabled words.
    pub words: Words,
    /// Lines for `conf`.
    pub conf_lines: &'a [String],
    /// Clients for `stat` and `cons`, the asking one included.
    pub clients: &'a [ClientLine],
    /// Wall clock, ms since the Unix epoch.
    pub now_ms: i64,
}

/// The answer to `word`.
pub fn answer(word: Word, facts: &Facts<'_>) -> String {
    if !facts.words.allows(word) {
        return format!("{} is not executed because it is not in the whitelist.\n", word.name());
    }
    let serving = facts.stats.mode() != Mode::NotServing;
    match word {
        Word::Ruok => "imok".to_owned(),
        Word::Isro if serving => "rw".to_owned(),
        Word::Isro => "null".to_owned(),
        _ if !serving => "This ZooKeeper instance is not currently serving requests\n".to_owned(),
        Word::Srvr => {
            let mut out = version_line();
            server_lines(&mut out, facts.stats);
            out
        }
        Word::Stat => {
            let mut out = version_line();
            out.push_str("Clients:\n");
            for c in facts.clients {
                let _ = writeln!(out, " {}", brief(c));
            }
            out.push('\n');
            server_lines(&mut out, facts.stats);
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
        Word::Conf => facts.conf_lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect(),
        Word::Wchs => format!(
            "{} connections watching {} paths\nTotal watches:{}\n",
            facts.stats.sum(|s| &s.watching_connections),
            facts.stats.sum(|s| &s.watched_paths),
            facts.stats.sum(|s| &s.watches)
        ),
        // Not among the answered words, so the whitelist has refused them above.
        _ => String::new(),
    }
}

fn version_line() -> String {
    format!("Zookeeper version: {VERSION}\n")
}

fn server_lines(out: &mut String, stats: &Stats) {
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
        stats.mode().name(),
        stats.node().znodes.get(),
    );
}

/// Average in ms as ZooKeeper prints it: up to four fraction digits, at least one.
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
        stats.mode().name(),
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
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(stats: &'a Stats, clients: &'a [ClientLine]) -> Facts<'a> {
        Facts { stats, words: Words::parse("*").0, conf_lines: &[], clients, now_ms: 5_000 }
    }

    #[test]
    fn srvr_has_the_lines_that_tools_parse() {
        let stats = Stats::new(2, 0);
        stats.set_mode(Mode::Standalone);
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
        stats.set_mode(Mode::Standalone);
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
        assert_eq!(answer(Word::Mntr, &f), "This ZooKeeper instance is not currently serving requests\n");
    }

    #[test]
    fn a_word_outside_the_whitelist_is_refused_by_name() {
        let stats = Stats::new(1, 0);
        let f = Facts { words: Words::default(), ..facts(&stats, &[]) };
        assert_eq!(answer(Word::Cons, &f), "cons is not executed because it is not in the whitelist.\n");
    }
}
