//! Messages for an operator who has made a mistake. Hazards: a warning that does not name its file, and a
//! wrong value that is reported as another mistake.

mod common;

use common::ensemble::until;
use common::{PATIENCE, Process};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

/// Documented exit codes: wrong flags or configuration; could not start.
const EXIT_USAGE: i32 = 2;
const EXIT_START: i32 = 3;

fn paddock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paddock")).args(arguments).env("NO_COLOR", "1").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A configuration whose data directory cannot exist: nothing is ever served.
fn configuration(dir: &Path, lines: &str) -> String {
    let (file, taken) = (dir.join("zoo.cfg"), dir.join("taken"));
    std::fs::write(&taken, "no directory").unwrap();
    std::fs::write(&file, format!("dataDir={}\nclientPort=0\n{lines}", taken.join("data").display()))
        .unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_warning_about_a_configuration_names_its_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = configuration(dir.path(), "maxClientCnxn=1\n4lw.commands.whitelist=rouk\n");
    let want = [
        format!("{file}: line 3: maxClientCnxn is not a known key; did you mean maxClientCnxns?"),
        format!("{file}: line 4: 4lw.commands.whitelist names rouk"),
    ];
    let verbs: [(&[&str], i32); 3] = [
        (&["serve", "--config", &file], EXIT_START),
        (&["check", "--config", &file], EXIT_USAGE),
        (&["force-new-ensemble", "--config", &file, "--others-are-lost"], EXIT_START),
    ];
    for (verb, code) in verbs {
        let output = paddock(verb);
        let said = said(&output);
        assert!(want.iter().all(|line| said.contains(line)), "{verb:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{verb:?}: {said}");
    }
}

#[test]
fn a_wrong_flag_is_told_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = configuration(dir.path(), "");
    let ensemble = dir.path().join("ensemble");
    let ensemble = ensemble.to_str().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["serve", "--listen", "99999"], "--listen: '99999' is not a port"),
        (&["serve", "--listen", ":x"], "'x' is not a port"),
        (&["serve", "--listen", "no host:1"], "'no host' is no address and no name that is known here"),
        (&["serve", "--listen", "::1"], "'::1' is not HOST:PORT"),
        (&["status", "a:99999"], "with a port from 1 to 65535"),
        (&["lead", "a:1,b:1"], "name one server"),
        (&["force-new-ensemble", "--config", &file], "--others-are-lost"),
        (&["cluster", "--dir", &file], "failed: "),
        (
            &["cluster", "--dir", ensemble, "--set", "initLimit=0"],
            "--set initLimit=0: initLimit=0: write a whole number",
        ),
    ];
    for (arguments, what) in cases {
        let output = paddock(arguments);
        let said = said(&output);
        assert!(said.contains(what), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(EXIT_USAGE), "{arguments:?}: {said}");
    }
}

#[test]
fn the_former_name_of_force_new_ensemble_works_and_names_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = configuration(dir.path(), "");
    let [former, present] = ["refound", "force-new-ensemble"].map(|command| {
        let output = paddock(&[command, "--config", &file, "--others-are-lost"]);
        assert_eq!(output.status.code(), Some(EXIT_START), "{output:?}");
        said(&output)
    });
    let hint =
        "paddock: `refound` is the former name of this command; it is now `paddock force-new-ensemble`\n";
    assert!(!present.is_empty() && !present.contains(hint), "{present}");
    assert_eq!(former, format!("{hint}{present}"), "the former name does what the present one does");
    assert!(!said(&paddock(&["--help"])).contains("refound"));
}

#[test]
fn a_port_that_the_system_chose_is_told_by_conf() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), "4lw.commands.whitelist=conf\n", &[]);
    let conf = || {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"conf").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        (!answer.contains("not currently serving")).then_some(answer)
    };
    let answer = until("it serves", conf);
    let port = format!("clientPort={}\n", server.address.port());
    assert!(answer.starts_with(&port) && !answer.contains(":0\n"), "{answer}");
}
