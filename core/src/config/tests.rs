//! Hazards of an ensemble's configuration. The node starts under another node's number, counts another
//! majority, or serves on an address that was not meant.

use super::*;
use crate::members::{MemberRole, Members};
use std::io;
use std::path::Path;

const THREE: &str = "tickTime=1000\ninitLimit=10\nsyncLimit=5\ndataDir=/data\nclientPort=2181\n\
                     server.1=127.0.0.1:2888:3888\nserver.2=127.0.0.1:2889:3889\nserver.3=127.0.0.1:2890:3890:observer\n\
                     server.4=127.0.0.1:2891:3891\n";

/// Reads `text`, which may refer to `files`.
fn with(text: &str, files: &[(&str, &str)]) -> Result<(Config, Vec<Finding>), ConfigError> {
    read(text, None, &|path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or(io::ErrorKind::NotFound.into())
    })
}

fn settled(text: &str, myid: &str) -> (Config, Vec<Finding>) {
    with(text, &[("/data/myid", myid)]).unwrap()
}

fn refused(text: &str, files: &[(&str, &str)]) -> String {
    with(text, files).unwrap_err().to_string()
}

#[test]
fn a_zookeeper_ensembles_file_works_as_it_is() {
    let (config, findings) = settled(THREE, " 3\n");
    let ensemble = config.ensemble.as_ref().unwrap();
    assert_eq!((ensemble.node, config.node, ensemble.role()), (3, 3, MemberRole::Observer));
    assert_eq!(ensemble.members.voters().collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!((ensemble.members.cluster, ensemble.members.version), ([0; 16], 0));
    assert_eq!((config.init_limit_ms, config.sync_limit_ms, config.max_staleness_ms), (10_000, 5_000, 5_000));
    assert!(!ensemble.listen_all && !config.read_only_mode && !config.linearizable);
    assert_eq!(findings, []);
}

#[test]
fn a_node_that_does_not_know_who_it_is_does_not_start() {
    assert!(refused(THREE, &[]).contains("/data/myid is missing"));
    for (text, part) in [
        ("", "holds '', which is not a number"),
        ("one", "holds 'one'"),
        ("0", "holds 0; server numbers are 1 to 254"),
        ("255", "1 to 254"),
        ("-1", "1 to 254"),
        ("7", "no server.7 line (there are: 1, 2, 3, 4)"),
    ] {
        let error = refused(THREE, &[("/data/myid", text)]);
        assert!(error.contains(part) && error.contains("/data/myid"), "{text}: {error}");
    }
}

#[test]
fn myid_is_looked_for_where_the_data_really_lies() {
    let other = |path: &Path| match path == Path::new("/elsewhere/myid") {
        true => Ok("2".to_owned()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let (config, _) = read(THREE, Some(Path::new("/elsewhere")), &other).unwrap();
    assert_eq!((config.node, config.data_dir.as_path()), (2, Path::new("/elsewhere")));
}

#[test]
fn another_kind_of_majority_is_refused_not_ignored() {
    for line in ["group.1=1:2:4", "weight.1=3"] {
        let error = refused(&format!("{THREE}{line}\n"), &[("/data/myid", "1")]);
        assert!(error.starts_with("line 10: ") && error.contains("hierarchical"), "{error}");
    }
    let error = refused(&format!("{THREE}server.5=a:1:2|b:1:2\n"), &[("/data/myid", "1")]);
    assert!(error.contains("server.5: several addresses"), "{error}");
}

#[test]
fn limits_without_which_zookeeper_does_not_start_are_asked_for() {
    for key in ["initLimit", "syncLimit"] {
        let without: String =
            THREE.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
        let error = refused(&without, &[("/data/myid", "1")]);
        assert!(error.contains(&format!("{key} is missing")), "{error}");
    }
}

#[test]
fn one_server_is_a_standalone_with_its_number() {
    let text = "dataDir=/data\nserver.7=a:1:2;2182\n";
    let (config, findings) = with(text, &[]).unwrap();
    assert_eq!((config.node, config.ensemble), (7, None));
    assert!(config.listen[0].to_string().ends_with(":2182"));
    assert_eq!(findings, [Finding::OneServer { at: LinePosition { line: 2, dynamic: None }, node: 7 }]);
    let text = "dataDir=/data\nserver.7=a:1:2;2182\nstandaloneEnabled=false\ninitLimit=1\nsyncLimit=1\n";
    let (config, _) = settled(text, "7");
    assert!(!config.standalone_enabled);
    assert_eq!(config.ensemble.unwrap().members.members.len(), 1);
}

#[test]
fn observers_have_somebody_to_follow() {
    let base = "dataDir=/data\nclientPort=1\n";
    for lines in ["server.1=a:1:2:observer\n", "server.1=a:1:2\nserver.2=b:1:2:observer\n"] {
        assert!(refused(&format!("{base}{lines}"), &[("/data/myid", "1")]).contains("to follow"));
    }
    assert!(refused(&format!("{base}standaloneEnabled=false\n"), &[]).contains("at least one server.N"));
}

#[test]
fn numbers_of_voters_that_waste_or_tolerate_nothing_are_told() {
    let base = "dataDir=/data\nclientPort=1\ninitLimit=1\nsyncLimit=1\n";
    let lines = |n: u8| (1..=n).map(|i| format!("server.{i}=h{i}:1:2\n")).collect::<String>();
    for (n, want) in [
        (2, vec![Finding::NoLossTolerated { voters: 2 }]),
        (3, vec![]),
        (4, vec![Finding::EvenVoters { voters: 4 }]),
    ] {
        assert_eq!(settled(&format!("{base}{}", lines(n)), "1").1, want, "{n}");
    }
}

#[test]
fn an_address_that_is_no_place_is_told() {
    let lines = "dataDir=/data\nclientPort=3\ninitLimit=1\nsyncLimit=1\nserver.1=0.0.0.0:1:2\nserver.2=[::]:1:2\nserver.3=c:1:2\n";
    let at = |line| LinePosition { line, dynamic: None };
    let want = [
        Finding::Nowhere { at: at(5), node: 1, own: true },
        Finding::Nowhere { at: at(6), node: 2, own: false },
    ];
    assert_eq!(settled(lines, "1").1, want);
}

#[test]
fn a_warning_about_a_server_line_names_the_file_in_which_it_stands() {
    let text = "dataDir=/data\nclientPort=3\ninitLimit=1\nsyncLimit=1\ndynamicConfigFile=/etc/zoo.dynamic\n";
    let servers = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=0.0.0.0:1:2\n";
    let (_, findings) = with(text, &[("/data/myid", "1"), ("/etc/zoo.dynamic", servers)]).unwrap();
    let text = findings[0].to_string();
    assert!(text.starts_with("dynamicConfigFile=/etc/zoo.dynamic: line 3: server.3 is another"), "{text}");
}

#[test]
fn an_address_for_clients_that_contradicts_the_server_line_is_refused_without_a_port_too() {
    let text = THREE.replace("clientPort=2181\n", "clientPortAddress=1.2.3.4\n");
    let text = text.replace("server.1=", "server.1=127.0.0.1:2888:3888;127.0.0.1:2181\n#");
    let error = refused(&text, &[("/data/myid", "1")]);
    assert!(
        error.contains("say 1.2.3.4, but the line of this server (server.1) says 127.0.0.1:2181"),
        "{error}"
    );
    settled(&text.replace("1.2.3.4", "127.0.0.1"), "1");
}

#[test]
fn both_kinds_of_reads_on_one_port_are_not_taken_for_a_port_in_use() {
    let error = refused(&format!("{THREE}paddock.linearizableClientPort=2181\n"), &[("/data/myid", "1")]);
    assert!(error.starts_with("paddock.linearizableClientPort=2181 is the other port"), "{error}");
    let free = "dataDir=/data\nclientPort=0\npaddock.linearizableClientPort=0\n";
    assert_eq!(with(free, &[]).unwrap().0.listeners().count(), 2);
}

#[test]
fn a_superuser_whom_nobody_can_be_is_told() {
    let told = |value: &str| {
        let text = format!("{THREE}DigestAuthenticationProvider.superDigest={value}\n");
        settled(&text, "1").1.iter().map(Finding::to_string).collect::<String>()
    };
    for wrong in ["secret", "super:secret", "super:", "super:AAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        assert!(told(wrong).starts_with("line 10: DigestAuthenticationProvider.superDigest"), "{wrong}");
    }
    assert_eq!(told("super:D/InIHSb7yEEbrWz8b9l71RjZJU="), "");
}

#[test]
fn a_word_that_enables_nothing_is_told_with_its_line() {
    let (_, findings) = settled(&format!("{THREE}4lw.commands.whitelist=ruok, dump,rouk\n"), "1");
    let told: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(
        told,
        [
            "line 10: 4lw.commands.whitelist names dump, which is accepted and has no answer yet",
            "line 10: 4lw.commands.whitelist names rouk, which is no four-letter word"
        ]
    );
}

#[test]
fn a_peer_type_that_contradicts_the_server_line_is_told_and_loses() {
    let (config, findings) = settled(&format!("{THREE}peerType=observer\n"), "1");
    assert_eq!(config.ensemble.unwrap().role(), MemberRole::Participant);
    let text = findings[0].to_string();
    assert!(text.contains("peerType=observer contradicts server.1"), "{text}");
    assert_eq!(settled(&format!("{THREE}peerType=Observer\n"), "3").1, []);
    assert!(
        refused(&format!("{THREE}peerType=x\n"), &[("/data/myid", "1")]).contains("participant or observer")
    );
}

#[test]
fn the_client_port_told_twice_must_be_the_same() {
    let base = "dataDir=/data\nserver.1=h:1:2;127.0.0.1:2181\nclientPort=";
    assert_eq!(with(&format!("{base}2181\n"), &[]).unwrap().0.listen[0].to_string(), "127.0.0.1:2181");
    let error = refused(&format!("{base}2182\n"), &[]);
    assert!(error.contains("0.0.0.0:2182") && error.contains("127.0.0.1:2181"), "{error}");
    let error = refused(&format!("{base}2181\nclientPortAddress=127.0.0.2\n"), &[]);
    assert!(error.contains("server.1"), "{error}");
    let anywhere = "dataDir=/data\nserver.1=h:1:2;2181\nclientPort=2181\nclientPortAddress=127.0.0.1\n";
    assert_eq!(with(anywhere, &[]).unwrap().0.listen[0].to_string(), "127.0.0.1:2181");
}

#[test]
fn a_dynamic_file_holds_the_servers_and_nothing_else() {
    let base = "dataDir=/data\nclientPort=1\ninitLimit=1\nsyncLimit=1\ndynamicConfigFile=/etc/zoo.dynamic\n";
    let servers = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2;2181\nversion=100000000\n";
    let files = [("/data/myid", "2"), ("/etc/zoo.dynamic", servers)];
    let (config, _) = with(base, &files).unwrap();
    assert_eq!(config.ensemble.unwrap().members.members.len(), 3);
    assert_eq!(config.dynamic_file.unwrap(), Path::new("/etc/zoo.dynamic"));
    assert!(refused(&format!("{base}server.4=d:1:2\n"), &files).contains("must stand in the file"));
    assert!(refused(base, &[]).contains("/etc/zoo.dynamic: "));
    for (text, part) in
        [("clientPort=1\n", "line 1: clientPort"), ("\n", "no server.N"), ("server.1=a\n", "HOST:PORT")]
    {
        let error = refused(base, &[("/etc/zoo.dynamic", text)]);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_dynamic_file_is_replaced_whole_and_its_link_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::write(&real, "server.1=a:1:2\n# old\n").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let members = Members::parse_text("server.2=b:3:4:observer;5\nversion=7").unwrap();
    write_dynamic(&link, &members).unwrap();
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "server.2=b:3:4:observer;0.0.0.0:5\n");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays behind");
    assert!(write_dynamic(&dir.path().join("no/such/file"), &members).is_err());
}

#[test]
fn linearizable_listeners_are_told_from_the_others() {
    let base = "dataDir=/data\nclientPort=2181\nclientPortAddress=127.0.0.1\n";
    let (config, _) = with(&format!("{base}paddock.linearizableClientPort=2182\n"), &[]).unwrap();
    let all: Vec<String> = config.listeners().map(Address::to_string).collect();
    assert_eq!(all, ["127.0.0.1:2181", "127.0.0.1:2182"]);
    assert_eq!((config.is_linearizable(0), config.is_linearizable(1)), (false, true));
    let (config, _) = with(&format!("{base}paddock.readConsistency=linearizable\n"), &[]).unwrap();
    assert!(config.is_linearizable(0));
    // A server line that limits clients to one address limits them on both ports.
    let lines = THREE.replace("clientPort=2181\n", "").replacen(":3888", ":3888;127.0.0.1:2181", 1);
    let (config, _) = settled(&format!("{lines}paddock.linearizableClientPort=2182\n"), "1");
    assert_eq!(config.listen_linearizable[0].to_string(), "127.0.0.1:2182");
    assert!(
        refused(&format!("{base}paddock.readConsistency=strong\n"), &[]).contains("local or linearizable")
    );
    assert!(with("dataDir=/data\npaddock.linearizableClientPort=2182\n", &[]).unwrap().0.listen.is_empty());
}

#[test]
fn rafts_clock_and_the_bound_of_staleness_have_ranges() {
    let (config, _) = settled(&format!("{THREE}paddock.maxStaleness=750\npaddock.raft.election=600\n"), "1");
    assert_eq!((config.max_staleness_ms, config.raft.election_ms), (750, 600));
    for line in ["paddock.raft.tick=50", "paddock.raft.heartbeat=200", "paddock.raft.election=310"] {
        let error = refused(&format!("{THREE}{line}\n"), &[("/data/myid", "1")]);
        assert!(error.contains("three heartbeats"), "{line}: {error}");
    }
    assert!(
        refused(&format!("{THREE}paddock.maxStaleness=99\n"), &[("/data/myid", "1")]).contains("from 100")
    );
    let error = refused(&THREE.replace("syncLimit=5", "syncLimit=4000000"), &[("/data/myid", "1")]);
    assert!(error.contains("from 1 to 2147483"), "{error}");
}

#[test]
fn clients_do_not_get_the_port_of_the_other_servers() {
    for (one, other) in [
        ("clientPort=2181", "clientPort=2888"),
        ("clientPort=2181", "clientPort=2888\nclientPortAddress=127.0.0.1"),
        ("clientPort=2181", "clientPort=2181\npaddock.linearizableClientPort=2888"),
    ] {
        let error = refused(&THREE.replace(one, other), &[("/data/myid", "1")]);
        assert!(error.contains("port 2888") && error.contains("server.1"), "{error}");
    }
    // Another server's port on another host, and another address of this one, do not collide.
    settled(&THREE.replace("clientPort=2181", "clientPort=2889"), "1");
    settled(&THREE.replace("clientPort=2181", "clientPort=2888\nclientPortAddress=127.0.0.2"), "1");
}

#[test]
fn a_comment_in_latin_1_keeps_nobody_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zoo.cfg");
    std::fs::write(&file, b"# f\xfcr M\xfcller\ndataDir=/d\nclientPort=2181\n").unwrap();
    assert_eq!(load(&file, None).unwrap().0.data_dir, Path::new("/d"));
    std::fs::write(&file, "dataDir=/größe\nclientPort=2181\n").unwrap();
    assert_eq!(load(&file, None).unwrap().0.data_dir, Path::new("/größe"));
}

#[test]
fn what_is_in_force_names_every_server() {
    let lines: Vec<String> = settled(THREE, "1")
        .0
        .effective()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    for want in [
        "serverId=1",
        "peerType=participant",
        "paddock.maxStaleness=5000",
        "server.3=127.0.0.1:2890:3890:observer",
    ] {
        assert!(lines.iter().any(|l| l == want), "{want} in {lines:?}");
    }
}

#[test]
fn the_word_conf_tells_zookeepers_keys_as_zookeeper_does() {
    let lines = settled(THREE, "3").0.conf_lines();
    let known = [
        "clientPort=2181",
        "secureClientPort=-1",
        "dataDir=/data",
        "tickTime=1000",
        "maxClientCnxns=60",
        "minSessionTimeout=2000",
        "maxSessionTimeout=20000",
        "serverId=3",
        "initLimit=10",
        "syncLimit=5",
        "electionAlg=3",
        "electionPort=3890",
        "quorumPort=2890",
        "peerType=1",
    ];
    assert_eq!(lines[..known.len()], known);
    let mut names: Vec<&str> = lines.iter().filter_map(|l| l.split('=').next()).collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "a key comes twice: {lines:?}");
    assert!(!lines.iter().any(|l| l.starts_with("server.")));
    assert!(
        with("dataDir=/d\nclientPort=1\n", &[]).unwrap().0.conf_lines().contains(&"serverId=0".to_owned())
    );
}
