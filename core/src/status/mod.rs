//! `paddock status`: the state of an ensemble, seen from outside.
//!
//! Owns the queries, the table and the verdict.
//! Never speaks the client protocol, and never changes a server. Four-letter words are enough, and ZooKeeper
//! answers them too.
//! Correct because the verdict rests on the roles that servers report of themselves. A figure that a server
//! does not report is shown as absent.

#![forbid(unsafe_code)]

mod ask;
mod report;

pub use ask::{ANSWER_MAX_BYTES, AskError, ask};
pub use report::{EnsembleStatus, Verdict};

use crate::admin::text::NO_LEADER;
use std::time::{Duration, Instant};

/// Servers asked at once, each by its own thread: the maximum of an ensemble.
pub const SERVERS_MAX: usize = 254;

/// Default time limit for one answer, longer than any turn of a healthy server.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two checks whether a server leads.
const LEAD_POLL: Duration = Duration::from_millis(200);

/// Beginning of the answer of a server without a quorum.
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests";

/// End of the answer to a word that is not enabled.
const NOT_ALLOWED: &str = "not in the whitelist";

/// Figures of one server. `None`: not reported.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeStatus {
    pub id: Option<u64>,
    /// leader, follower, observer, standalone, read-only, or not serving.
    pub role: String,
    pub term: Option<u64>,
    /// Last zxid applied.
    pub zxid: Option<u64>,
    /// Index of the last entry applied.
    pub applied: Option<u64>,
    /// Index of the last entry that the server knows to be committed.
    pub commit: Option<u64>,
    /// Committed entries that the server has not applied.
    pub lag_entries: Option<u64>,
    /// Time since the quorum confirmed that the server is up to date, ms.
    pub lag_ms: Option<u64>,
    /// Number of the leader; 0: none.
    pub leader: Option<u64>,
    /// Why the server accepts no writes; empty while it accepts them.
    pub blocked: String,
    /// On the leader: what a membership change waits for, or which members have no vote yet; empty: neither.
    pub membership_wait: String,
    /// On the leader: members that miss entries and acknowledge none, how far behind each is, and why;
    /// empty: none.
    pub left_behind: String,
    /// Whether the log has no room for another segment.
    pub disk_full: bool,
    /// Open client connections.
    pub connections: Option<u64>,
    /// Average latency of requests, ms.
    pub latency_avg_ms: Option<f64>,
    /// Largest latency of a request, ms.
    pub latency_max_ms: Option<f64>,
    /// Version without the build date.
    pub version: Option<String>,
}

/// A row of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// As given by the operator.
    pub server: String,
    /// The server's figures, or why there is no answer.
    pub told: Result<NodeStatus, String>,
}

/// Asks all servers in parallel. Gives their rows in the same order.
pub fn ask_all(servers: &[String], patience: Duration) -> EnsembleStatus {
    let rows = std::thread::scope(|scope| {
        let asking: Vec<_> = servers.iter().map(|s| scope.spawn(move || ask_one(s, patience))).collect();
        let told = asking.into_iter().map(|thread| match thread.join() {
            Ok(told) => told,
            Err(_) => Err("asking it failed; the message is above".to_owned()),
        });
        servers.iter().zip(told).map(|(server, told)| Row { server: server.clone(), told }).collect()
    });
    EnsembleStatus { rows }
}

/// Reads a connect string: `HOST[:PORT]` separated by commas. A path at the end (a client's chroot) is
/// ignored.
pub fn parse_servers(text: &str) -> Result<Vec<String>, String> {
    let mut servers = Vec::new();
    let list = text.split('/').next().unwrap_or_default();
    for server in list.split(',').map(str::trim).filter(|s| !s.is_empty()) {
        let inner = server.rsplit_once(']').map_or(server, |(_, behind)| behind);
        let (host, port) = match inner.rsplit_once(':') {
            Some((_, port)) => (&server[..server.len() - port.len() - 1], port),
            None => (server, "2181"),
        };
        let good = port.parse::<u16>().is_ok_and(|p| p > 0) && !host.is_empty();
        if !good || (host.contains(':') && !host.starts_with('[')) {
            return Err(format!(
                "'{server}' is not HOST:PORT with a port from 1 to 65535 (IPv6 addresses stand in brackets)"
            ));
        }
        servers.push(format!("{host}:{port}"));
    }
    match servers.len() {
        0 => Err("no server named; write HOST:PORT,HOST:PORT".to_owned()),
        1..=SERVERS_MAX => Ok(servers),
        n => Err(format!("{n} servers; at most {SERVERS_MAX} can be asked at once")),
    }
}

/// Asks a server to become the leader, and waits until it leads.
pub fn lead(server: &str, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    let (mut found, mut leaderless) = (NodeStatus::default(), false);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(why_it_does_not_lead(&found, leaderless, patience));
        }
        found = ask_one(server, left)?;
        if found.role == "leader" || found.role == "standalone" {
            return Ok(());
        }
        let answer = ask(server, "lead", left).map_err(|e| e.to_string())?;
        // True during an election too, which this server may win.
        leaderless = answer.starts_with(NO_LEADER);
        if !leaderless && !answer.starts_with("asked") {
            return Err(match answer.contains(NOT_ALLOWED) {
                true => "it does not take the word `lead`: add it by name to 4lw.commands.whitelist in that server's \
                         configuration (`*` does not include it), and restart it"
                    .to_owned(),
                false => format!("it answers: {}", answer.trim()),
            });
        }
        // A transfer of leadership takes a few round trips. Repeating the word does no harm.
        std::thread::sleep(LEAD_POLL.min(left));
    }
}

/// The reason after the time limit has passed.
fn why_it_does_not_lead(found: &NodeStatus, leaderless: bool, patience: Duration) -> String {
    let after = format!("it is {} after {} ms", found.role, patience.as_millis());
    // Servers of earlier releases accept `lead` even when their disk is full.
    if found.disk_full {
        return format!(
            "{after}, and its disk is full: free space on it and ask again, or ask another server to lead"
        );
    }
    if leaderless || found.leader == Some(0) {
        let why = if found.blocked.is_empty() { "an election may be under way" } else { &found.blocked };
        return format!("{after}, and knows no leader that could hand over: {why}");
    }
    format!(
        "{after}. Has it a vote, and is it caught up (paddock status)? An election may also have chosen another server meanwhile: \
         ask again"
    )
}

fn ask_one(server: &str, patience: Duration) -> Result<NodeStatus, String> {
    let srvr = ask(server, "srvr", patience).map_err(|e| e.to_string())?;
    // A server that does not enable `mntr` still answers `srvr`.
    let mntr = ask(server, "mntr", patience).unwrap_or_default();
    read(&srvr, &mntr)
}

/// Reads the answers of `srvr` and `mntr`.
fn read(srvr: &str, mntr: &str) -> Result<NodeStatus, String> {
    if srvr.starts_with(NOT_SERVING) {
        return Ok(NodeStatus { role: "not serving".to_owned(), ..monitored(mntr) });
    }
    let line = |name: &str| srvr.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let Some(version) = line("Zookeeper version:") else {
        let first: String = srvr.lines().next().unwrap_or_default().chars().take(60).collect();
        return Err(format!("not an answer of this protocol: '{first}'"));
    };
    let mut node = monitored(mntr);
    node.version.get_or_insert_with(|| version.to_owned());
    node.version = node.version.map(|v| v.split(',').next().unwrap_or_default().to_owned());
    node.role = line("Mode:").unwrap_or("not serving").to_owned();
    let hex = line("Zxid:").and_then(|z| z.strip_prefix("0x"));
    node.zxid = hex.and_then(|z| u64::from_str_radix(z, 16).ok());
    node.connections = node.connections.or_else(|| line("Connections:")?.parse().ok());
    let mut latency =
        line("Latency min/avg/max:").into_iter().flat_map(|l| l.split('/')).map(|v| v.parse().ok());
    (node.latency_avg_ms, node.latency_max_ms) = (latency.nth(1).flatten(), latency.next().flatten());
    Ok(node)
}

/// Reads the answer of `mntr`.
fn monitored(mntr: &str) -> NodeStatus {
    let text = |key: &str| {
        let find = |key: &str| mntr.lines().filter_map(|l| l.split_once('\t')).find(|(k, _)| *k == key);
        find(key).or_else(|| find(&format!("zk_{key}"))).map(|(_, value)| value.trim().to_owned())
    };
    // Some metrics providers print all values as floating point. -1 stands for "unknown".
    let number = |key: &str| text(key)?.parse::<f64>().ok().filter(|v| *v >= 0.0).map(|v| v as u64);
    NodeStatus {
        id: number("paddock_node").or_else(|| number("node_id")),
        role: String::new(),
        term: number("paddock_term"),
        zxid: None,
        applied: number("paddock_applied_index"),
        commit: number("paddock_commit_index"),
        lag_entries: number("paddock_lag_entries"),
        lag_ms: number("paddock_lag_ms"),
        leader: number("paddock_leader"),
        blocked: text("paddock_write_block_reason").unwrap_or_default(),
        membership_wait: text("paddock_membership_wait").unwrap_or_default(),
        left_behind: text("paddock_left_behind_nodes").unwrap_or_default(),
        disk_full: number("paddock_disk_full").is_some_and(|v| v != 0),
        connections: number("num_alive_connections"),
        latency_avg_ms: None,
        latency_max_ms: None,
        version: text("version"),
    }
}

#[cfg(test)]
mod tests;
