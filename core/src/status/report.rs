//! The table of an ensemble's servers, its JSON form, and the verdict.
//!
//! Owns the definition of a healthy ensemble.
//! Never asks a server.
//! Correct because only roles that servers report of themselves count: a leader that was not asked is not
//! assumed.

#![forbid(unsafe_code)]

use super::{NodeStatus, Row};
use serde_json::{Value, json};
use std::fmt::Write;

/// Health of the ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All servers that were asked serve, and one leads or is standalone.
    Healthy,
    /// One server leads, and something else is wrong.
    Degraded {
        /// One sentence for each problem.
        why: Vec<String>,
    },
    /// No server leads, or more than one does.
    NoSingleLeader {
        /// One sentence for each problem.
        why: Vec<String>,
    },
}

/// The answers of all servers that were asked.
#[derive(Clone, PartialEq, Debug)]
pub struct EnsembleStatus {
    /// In the order in which the operator named the servers.
    pub rows: Vec<Row>,
}

const HEAD: [&str; 12] = [
    "SERVER",
    "NODE",
    "ROLE",
    "TERM",
    "ZXID",
    "APPLIED",
    "COMMIT",
    "LAG",
    "LAG ms",
    "CONNS",
    "AVG/MAX ms",
    "VERSION",
];

impl EnsembleStatus {
    pub fn verdict(&self) -> Verdict {
        let told = || self.rows.iter().filter_map(|r| r.told.as_ref().ok().map(|n| (&r.server, n)));
        let leads = |n: &NodeStatus| n.role == "leader" || (n.role == "standalone" && self.rows.len() == 1);
        let leaders: Vec<&String> = told().filter(|(_, n)| leads(n)).map(|(server, _)| server).collect();
        let mut why = Vec::new();
        for row in &self.rows {
            match &row.told {
                Err(reason) => why.push(format!("{} is unreachable: {reason}", row.server)),
                Ok(node)
                    if matches!(node.role.as_str(), "leader" | "follower" | "observer") || leads(node) => {}
                Ok(node) => why.push(format!("{} is {}", row.server, node.role)),
            }
            if let Ok(node) = &row.told
                && !node.blocked.is_empty()
            {
                why.push(format!("{}: nothing is written: {}", row.server, node.blocked));
            }
            if let Ok(node) = &row.told
                && !node.left_behind.is_empty()
            {
                why.push(format!("{} leads, and {}", row.server, node.left_behind));
            }
            if row.told.as_ref().is_ok_and(|node| node.disk_full) {
                why.push(format!(
                    "{}: its disk is full; it logs nothing more until space is freed",
                    row.server
                ));
            }
        }
        if leaders.len() == 1 {
            let followed: std::collections::BTreeSet<u64> =
                told().filter_map(|(_, n)| n.leader).filter(|leader| *leader != 0).collect();
            if followed.len() > 1 {
                why.push(format!("servers disagree on who leads: nodes {followed:?}"));
            }
            return if why.is_empty() { Verdict::Healthy } else { Verdict::Degraded { why } };
        }
        if leaders.is_empty() {
            // A leader may exist that was not asked.
            let followed: std::collections::BTreeSet<u64> =
                told().filter_map(|(_, n)| n.leader).filter(|leader| *leader != 0).collect();
            let followed: Vec<String> = followed.iter().map(u64::to_string).collect();
            why.push(match followed.is_empty() {
                true => "none of these servers leads".to_owned(),
                false => format!(
                    "none of these servers leads, and they follow node {}: name all servers of the ensemble",
                    followed.join(", ")
                ),
            });
        } else {
            let names: Vec<&str> = leaders.iter().map(|s| s.as_str()).collect();
            why.push(format!("more than one leads: {}", names.join(", ")));
        }
        Verdict::NoSingleLeader { why }
    }

    /// Remarks that are no problems: what a membership change waits for, and members without a vote.
    pub fn notes(&self) -> Vec<String> {
        let told = self.rows.iter().filter_map(|r| r.told.as_ref().ok().map(|n| (&r.server, n)));
        told.filter(|(_, n)| !n.membership_wait.is_empty())
            .map(|(server, n)| format!("{server}: {}", n.membership_wait))
            .collect()
    }

    /// The table, one line for each row.
    pub fn table(&self) -> String {
        let cells: Vec<[String; 12]> = self.rows.iter().map(cells).collect();
        let width =
            |i: usize| cells.iter().map(|c| c[i].chars().count()).max().unwrap_or(0).max(HEAD[i].len());
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut out = String::new();
        let mut line = |cells: &[String]| {
            let mut text = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(text, "{cell:width$}  ");
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&HEAD.map(str::to_owned));
        for (row, cells) in self.rows.iter().zip(&cells) {
            match &row.told {
                Ok(_) => line(cells),
                Err(reason) => line(&[row.server.clone(), format!("unreachable: {reason}")]),
            }
        }
        out
    }

    /// The table as JSON. A figure that a server does not report is `null`.
    pub fn json(&self) -> String {
        let servers: Vec<Value> = self.rows.iter().map(server_json).collect();
        let (health, why) = match self.verdict() {
            Verdict::Healthy => ("healthy", Vec::new()),
            Verdict::Degraded { why } => ("degraded", why),
            Verdict::NoSingleLeader { why } => ("no single leader", why),
        };
        format!("{:#}\n", json!({ "health": health, "why": why, "servers": servers }))
    }
}

fn server_json(row: &Row) -> Value {
    match &row.told {
        Err(reason) => json!({ "server": row.server, "unreachable": reason }),
        Ok(n) => json!({
            "server": row.server,
            "node": n.id,
            "role": n.role,
            "term": n.term,
            "zxid": n.zxid.map(|z| format!("0x{z:x}")),
            "applied": n.applied,
            "commit": n.commit,
            "lag_entries": n.lag_entries,
            "lag_ms": n.lag_ms,
            "leader": n.leader,
            "writes_blocked": n.blocked,
            "membership_wait": n.membership_wait,
            "left_behind": n.left_behind,
            "disk_full": n.disk_full,
            "connections": n.connections,
            "latency_avg_ms": n.latency_avg_ms,
            "latency_max_ms": n.latency_max_ms,
            "version": n.version,
        }),
    }
}

/// The cells of a row. Only the first is set for an unreachable server.
fn cells(row: &Row) -> [String; 12] {
    let mut cells: [String; 12] = Default::default();
    cells[0].clone_from(&row.server);
    let Ok(n) = &row.told else { return cells };
    let number = |v: Option<u64>| v.map_or("-".to_owned(), |v| v.to_string());
    let latency = match (n.latency_avg_ms, n.latency_max_ms) {
        (Some(avg), Some(max)) => format!("{avg:.1}/{max:.0}"),
        _ => "-".to_owned(),
    };
    let behind = [
        number(n.id),
        n.role.clone(),
        number(n.term),
        n.zxid.map_or("-".to_owned(), |z| format!("0x{z:x}")),
        number(n.applied),
        number(n.commit),
        number(n.lag_entries),
        number(n.lag_ms),
        number(n.connections),
        latency,
        n.version.clone().unwrap_or("-".to_owned()),
    ];
    cells[1..].clone_from_slice(&behind);
    cells
}
