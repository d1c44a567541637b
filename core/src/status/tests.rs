//! Hazards of the table: figures that are not reported, answers of other programs, several leaders, none.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

const SRVR: &str = "Zookeeper version: 3.9.6-paddock-0.1.0, built on 2026-01-01 00:00 UTC\nLatency min/avg/max: \
                    0/2.2723/46\nReceived: 609\nSent: 675\nConnections: 3\nOutstanding: 0\nZxid: 0x15d\nMode: follower\n\
                    Node count: 46\n";
const MNTR: &str = "zk_version\t3.9.6-paddock-0.1.0, built on 2026-01-01 00:00 UTC\nzk_server_state\tfollower\n\
                    paddock_node\t2\npaddock_term\t7\npaddock_applied_index\t90\npaddock_commit_index\t95\n\
                    paddock_lag_entries\t5\npaddock_lag_ms\t12\npaddock_leader\t3\nzk_num_alive_connections\t4\n";

fn node(role: &str) -> NodeStatus {
    NodeStatus { role: role.to_owned(), ..NodeStatus::default() }
}

fn report(told: Vec<Result<NodeStatus, String>>) -> EnsembleStatus {
    let rows = told.into_iter().enumerate().map(|(i, told)| Row { server: format!("h{i}:2181"), told });
    EnsembleStatus { rows: rows.collect() }
}

#[test]
fn a_figure_that_is_not_told_is_absent_not_zero() {
    let full = read(SRVR, MNTR).unwrap();
    assert_eq!((full.id, full.term, full.applied, full.commit), (Some(2), Some(7), Some(90), Some(95)));
    assert_eq!((full.lag_entries, full.lag_ms, full.leader), (Some(5), Some(12), Some(3)));
    assert_eq!((full.connections, full.zxid, full.latency_max_ms), (Some(4), Some(0x15d), Some(46.0)));
    assert_eq!((full.role.as_str(), full.version.as_deref()), ("follower", Some("3.9.6-paddock-0.1.0")));
    let refused = "mntr is not executed because it is not in the whitelist.\n";
    let less = read(SRVR, refused).unwrap();
    assert_eq!((less.id, less.term, less.connections, less.role.as_str()), (None, None, Some(3), "follower"));
    let table = report(vec![Ok(less)]).table();
    let absent = table.lines().nth(1).unwrap().split_whitespace().filter(|cell| *cell == "-").count();
    assert_eq!(absent, 6, "{table}");
}

#[test]
fn an_answer_of_something_else_is_not_taken_for_a_server() {
    let error = read("HTTP/1.1 400 Bad Request\r\n\r\n", "").unwrap_err();
    assert!(error.contains("HTTP/1.1 400"), "{error}");
    assert_eq!(read(&format!("{NOT_SERVING}\n"), "").unwrap().role, "not serving");
    for garbage in ["zk_version", "paddock_term\tx\npaddock_node\t-1\n", "\t\t\n\t", "paddock_term\tNaN\n"] {
        assert_eq!(monitored(garbage), NodeStatus::default(), "{garbage:?}");
    }
}

#[test]
fn healthy_means_exactly_one_leader_and_nobody_missing() {
    let (leader, follower) = (node("leader"), node("follower"));
    assert_eq!(
        report(vec![Ok(leader.clone()), Ok(follower.clone()), Ok(node("observer"))]).verdict(),
        Verdict::Healthy
    );
    assert_eq!(report(vec![Ok(node("standalone"))]).verdict(), Verdict::Healthy);
    let missing = report(vec![Ok(leader.clone()), Err("connection refused".to_owned())]);
    assert!(
        matches!(missing.verdict(), Verdict::Degraded { why } if why[0].contains("h1:2181 is unreachable"))
    );
    let sick = report(vec![Ok(leader.clone()), Ok(node("read-only"))]);
    assert!(matches!(sick.verdict(), Verdict::Degraded { why } if why == ["h1:2181 is read-only"]));
    for rows in [
        vec![Ok(follower.clone())],
        vec![Ok(leader.clone()), Ok(leader.clone())],
        vec![Ok(node("standalone")), Ok(node("standalone"))],
        vec![Err("x".to_owned())],
    ] {
        assert!(matches!(report(rows.clone()).verdict(), Verdict::NoSingleLeader { .. }), "{rows:?}");
    }
    let alone = report(vec![Ok(NodeStatus { leader: Some(3), ..follower.clone() })]);
    assert!(
        matches!(alone.verdict(), Verdict::NoSingleLeader { why } if why[0].contains("they follow node 3: name all"))
    );
    let full = NodeStatus { blocked: "the disk is full".to_owned(), ..leader.clone() };
    let stuck = report(vec![Ok(full), Ok(NodeStatus { leader: Some(0), ..follower.clone() })]);
    assert!(
        matches!(stuck.verdict(), Verdict::Degraded { why } if why == ["h0:2181: nothing is written: the disk is full"])
    );
    let lonely = NodeStatus { left_behind: "node 2 is 9 entries behind".to_owned(), ..leader.clone() };
    assert!(
        matches!(report(vec![Ok(lonely), Ok(follower.clone())]).verdict(), Verdict::Degraded { why } if why == ["h0:2181 leads, and node 2 is 9 entries behind"])
    );
    // A server with a full disk serves for a while as if nothing was wrong.
    let behind = monitored("paddock_disk_full\t1\n");
    let behind = NodeStatus { role: "follower".to_owned(), ..behind };
    let behind = report(vec![Ok(leader.clone()), Ok(behind)]);
    assert!(
        matches!(behind.verdict(), Verdict::Degraded { why } if why[0].starts_with("h1:2181: its disk is full"))
    );
    let follows = |n: u64| NodeStatus { leader: Some(n), ..follower.clone() };
    let torn = report(vec![Ok(leader), Ok(follows(1)), Ok(follows(2))]);
    assert!(matches!(torn.verdict(), Verdict::Degraded { why } if why[0].contains("disagree")));
}

#[test]
fn a_reconfiguration_that_waits_is_told_and_makes_nobody_ill() {
    let waits = monitored("paddock_membership_wait\treconfiguration 2 waits for server 4\n");
    let waits = report(vec![Ok(NodeStatus { role: "leader".to_owned(), ..waits }), Ok(node("follower"))]);
    assert_eq!(waits.notes(), ["h0:2181: reconfiguration 2 waits for server 4"]);
    assert_eq!(waits.verdict(), Verdict::Healthy);
}

#[test]
fn an_unreachable_servers_reason_does_not_widen_the_columns() {
    let text = report(vec![Ok(node("leader")), Err("no answer within 2000 ms".to_owned())]).table();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0].find("NODE"), lines[2].find("unreachable"), "{text}");
    assert_eq!(lines[0].find("ROLE"), lines[1].find("leader"), "{text}");
}

#[test]
fn json_says_what_is_unknown_as_null() {
    let report = report(vec![Ok(node("leader")), Err("gone".to_owned())]);
    let parsed: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(parsed["health"], "degraded");
    assert_eq!(parsed["servers"][0]["term"], serde_json::Value::Null);
    assert_eq!(parsed["servers"][1]["unreachable"], "gone");
}

#[test]
fn connect_strings_are_read_as_clients_write_them() {
    let read = |text| parse_servers(text).unwrap();
    assert_eq!(read("a:1, b ,[::1]:3,[::2]/chroot"), ["a:1", "b:2181", "[::1]:3", "[::2]:2181"]);
    for bad in ["", "/", ",", "a:", "a:0", ":1", "a:x", "::1", "a:99999"] {
        assert!(parse_servers(bad).is_err(), "{bad}");
    }
    assert!(parse_servers(&"a,".repeat(SERVERS_MAX + 1)).is_err());
}

/// Answers one connection after another with what `talk` writes, until the test ends.
fn server(talk: impl Fn(&mut std::net::TcpStream, &[u8; 4]) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut word = [0; 4];
            if socket.read_exact(&mut word).is_ok() {
                talk(&mut socket, &word);
            }
        }
    });
    address
}

#[test]
fn leadership_that_cannot_be_had_is_told_with_its_reason_and_what_to_do() {
    let patience = Duration::from_millis(300);
    let why = |mntr: String, answer: &'static str| {
        let server = server(move |s, word| {
            let text = match word {
                b"srvr" => SRVR,
                b"mntr" => &mntr,
                _ => answer,
            };
            drop(s.write_all(text.as_bytes()));
        });
        lead(&server, patience).unwrap_err()
    };
    let full = why(MNTR.to_owned(), "the disk of this server's data directory is full\n");
    assert_eq!(full, "it answers: the disk of this server's data directory is full");
    // A server that does not report its full disk.
    let full = why(format!("{MNTR}paddock_disk_full\t1\n"), "asked\n");
    assert!(full.contains("its disk is full: free space") && !full.contains("vote"), "{full}");
    let none =
        MNTR.replace("paddock_leader\t3", "paddock_leader\t0") + "paddock_write_block_reason\tno leader\n";
    let none = why(none, "asked\n");
    assert!(none.ends_with("knows no leader that could hand over: no leader"), "{none}");
    // A server that reports that it knows no leader, until the election ends.
    let none = why(MNTR.to_owned(), crate::admin::text::NO_LEADER);
    assert!(none.contains("300 ms") && none.contains("knows no leader that could hand over"), "{none}");
    let (looks, led) = (AtomicU64::new(0), SRVR.replace("Mode: follower", "Mode: leader"));
    let electing = server(move |s, word| {
        let text = match word {
            b"srvr" if looks.fetch_add(1, Ordering::Relaxed) > 0 => &led,
            b"srvr" => SRVR,
            b"mntr" => MNTR,
            _ => crate::admin::text::NO_LEADER,
        };
        drop(s.write_all(text.as_bytes()));
    });
    assert_eq!(lead(&electing, Duration::from_secs(60)), Ok(()));
    assert!(why(MNTR.to_owned(), "asked\n").contains("Has it a vote"));
    let refused = why(MNTR.to_owned(), "lead is not executed because it is not in the whitelist.\n");
    assert!(refused.contains("add it by name to 4lw.commands.whitelist"), "{refused}");
}

#[test]
fn a_server_that_never_answers_or_never_ends_is_given_up() {
    let patience = Duration::from_millis(200);
    let hold = std::sync::Mutex::new(Vec::new());
    let silent = server(move |s, _| hold.lock().unwrap().push(s.try_clone()));
    let endless = server(|s, _| while s.write_all(&[b'x'; 65536]).is_ok() {});
    let closing = server(|_, _| ());
    let good = server(|s, _| drop(s.write_all(SRVR.as_bytes())));
    let vacant = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let report = ask_all(&[silent, endless, closing, good, vacant, "no such host:1".to_owned()], patience);
    let why = |i: usize| report.rows[i].told.clone().unwrap_err();
    assert!(why(0).contains("no answer within 200 ms"), "{}", why(0));
    assert!(why(1).contains("not an answer") || why(1).contains("no answer within"), "{}", why(1));
    assert!(why(2).contains("without an answer") || why(2).contains("reset"), "{}", why(2));
    assert_eq!(report.rows[3].told.as_ref().unwrap().role, "follower");
    assert!(why(4).contains("refused"), "{}", why(4));
    assert!(why(5).contains("no such host"), "{}", why(5));
}
