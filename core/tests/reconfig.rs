//! The membership of a running ensemble changes. Hazards:
//!
//! - a removed server that continues
//! - a server that votes with an empty disk
//! - a change that is lost with the leader that it removes
//! - clients that a returning server never answers

mod common;

use common::ensemble::{Ensemble, until};
use paddock_transport::wire::{Limits, Request, Response, error, opcode};

const CONFIG: &str = "tickTime=500\ninitLimit=20\nsyncLimit=10\nreconfigEnabled=true\nskipACL=yes\n";
const SESSION_MS: i32 = 10_000;
/// Documented exit code: removed from its ensemble.
const EXIT_REMOVED: i32 = 5;

fn remove(node: &str) -> Request<'_> {
    Request::Reconfig { joining: None, leaving: Some(node.into()), new_members: None, config_id: -1 }
}

#[test]
fn servers_are_removed_the_leader_too_and_a_lost_disk_is_filled_again() {
    let mut ensemble = Ensemble::start(4, CONFIG);
    let leader = ensemble.leader();
    let [removed, wiped, other] = ensemble.followers()[..] else { panic!("three follow") };
    let mut client = ensemble.client(other, SESSION_MS);
    assert_eq!(client.create("/a", b"1", 0).unwrap().err, 0);

    let number = removed.to_string();
    let answer = client.call(&remove(&number)).unwrap();
    assert_eq!(answer.err, 0);
    let Ok(Response::Data(text, stat)) = Response::decode(opcode::RECONFIG, &answer.body, Limits::NONE)
    else {
        panic!("no configuration")
    };
    let text = String::from_utf8(text.unwrap().to_vec()).unwrap();
    assert!(!text.contains(&format!("server.{removed}=")), "{text}");
    assert!(text.ends_with(&format!("version={:x}", stat.mzxid)), "{text}");
    assert_eq!(ensemble.ends(removed), Some(EXIT_REMOVED));

    ensemble.kill(wiped);
    ensemble.lose_disk(wiped);
    ensemble.launch(wiped);
    let mut there = ensemble.client(wiped, SESSION_MS);
    assert_eq!(there.create("/b", b"2", 0).unwrap().err, 0, "its commands are numbered from one again");
    assert!(there.get("/a").unwrap().is_some());

    let number = leader.to_string();
    assert_eq!(client.call(&remove(&number)).unwrap().err, 0);
    assert_eq!(ensemble.ends(leader), Some(EXIT_REMOVED));
    assert_ne!(ensemble.leader(), leader);
    until("both have the write", || there.create("/c", b"3", 0).ok().filter(|answer| answer.err == 0));
    client.sync().unwrap();
    assert!(client.get("/c").unwrap().is_some());
}

#[test]
fn a_server_that_never_comes_is_named_while_it_is_waited_for_and_holds_up_no_later_change() {
    let ensemble = Ensemble::start(3, CONFIG);
    let leader = ensemble.leader();
    let mut client = ensemble.client(leader, SESSION_MS);
    let waits_for = |what: &str| {
        until(&format!("mntr says: {what:?}"), || {
            let told = ensemble.value(leader, "paddock_membership_wait")?;
            (told.contains(what) && told.is_empty() == what.is_empty()).then_some(())
        });
    };
    waits_for("");
    // No server listens on these ports of an address that only this test uses.
    let joining = Some("server.4=127.99.99.99:2:3;4".into());
    client.send(&Request::Reconfig { joining, leaving: None, new_members: None, config_id: -1 }).unwrap();
    waits_for("waits for server 4 (not connected)");
    assert_eq!(client.receive().unwrap().err, 0, "three of four are a quorum");
    waits_for("no vote until caught up: server 4 (not connected)");
    let joining = Some("server.5=127.99.99.99:5:6:observer;7".into());
    let observer = Request::Reconfig { joining, leaving: None, new_members: None, config_id: -1 };
    assert_eq!(client.call(&observer).unwrap().err, 0);
    assert_eq!(client.call(&remove("4,5")).unwrap().err, 0);
    waits_for("");
    let missing: Vec<String> = (4..8).map(|n| format!("server.{n}=127.99.99.99:{n}2:{n}3;{n}4")).collect();
    let joining = Some(missing.join(",").into());
    let too_many = Request::Reconfig { joining, leaving: None, new_members: None, config_id: -1 };
    assert_eq!(client.call(&too_many).unwrap().err, error::NEW_CONFIG_NO_QUORUM);
    waits_for("");
}
