//! A majority of the disks is lost. Hazards: the emptied servers form a new ensemble beside the one with
//! data, no server reports why nothing is written, and the recovery command fails.

mod common;

use common::ensemble::{Ensemble, until};
use std::path::Path;
use std::process::{Command, Output};

const CONFIG: &str = "tickTime=500\ninitLimit=20\nsyncLimit=10\n";
const SESSION_MS: i32 = 10_000;

fn force_new_ensemble(config: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paddock"));
    command.arg("force-new-ensemble").arg("--config").arg(config).args(flags).output().unwrap()
}

#[test]
fn two_emptied_servers_wait_for_the_third_and_an_operator_makes_it_go_on() {
    let mut ensemble = Ensemble::start(3, CONFIG);
    assert_eq!(ensemble.client(3, SESSION_MS).create("/kept", b"1", 0).unwrap().err, 0);
    ensemble.client(3, SESSION_MS).sync().unwrap();
    for node in [1, 2] {
        ensemble.kill(node);
        ensemble.lose_disk(node);
    }
    for node in [1, 2] {
        ensemble.launch(node);
    }
    let says = |ensemble: &Ensemble, node: u8, what: &str| {
        until(&format!("node {node} says: {what}"), || {
            ensemble.word(node, "srvr").ok()?.contains(what).then_some(())
        });
    };
    says(&ensemble, 3, "no leader can be elected: servers 1 and 2");
    for node in [1, 2] {
        says(&ensemble, node, "server 3 has data or belongs to an ensemble");
    }

    let config = ensemble.config(3);
    let refused = force_new_ensemble(&config, &["--others-are-lost"]);
    assert_eq!(refused.status.code(), Some(3), "it runs: {refused:?}");
    ensemble.kill(3);
    assert_eq!(force_new_ensemble(&config, &[]).status.code(), Some(2));
    let done = force_new_ensemble(&config, &["--others-are-lost"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("server 3 goes on alone"), "{done:?}");
    ensemble.launch(3);

    // The emptied servers, which waited, are caught up and vote again.
    ensemble.wait_until_all_serve();
    // Each of them knows that the change is complete. Before, none could lead without the third.
    for node in 1..=3 {
        until("three vote", || (ensemble.value(node, "zk_quorum_size")? == "3").then_some(()));
    }
    ensemble.kill(3);
    let mut client = ensemble.client(1, SESSION_MS);
    client.sync().unwrap();
    assert_eq!(client.get("/kept").unwrap().unwrap().0, b"1");
    assert_eq!(client.create("/after", b"", 0).unwrap().err, 0);
}
