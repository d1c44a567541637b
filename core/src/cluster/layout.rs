//! The directory of a local ensemble: one folder for each node, with its configuration, data and log.
//!
//! Owns the files and the ports that they name.
//! Never starts a process, and never changes an existing configuration: the files say what the ensemble is,
//! edited by hand or not.
//! Correct because the first node's configuration marks a directory as complete and is written last. A
//! directory with data but without that file is refused.

#![forbid(unsafe_code)]

use crate::config::{self, Finding, MYID};
use crate::members::{MemberRole, NODE_MAX};
use paddock_transport::engine::Address;
use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Configuration file in a node's folder.
const CONFIG: &str = "zoo.cfg";

/// The ensemble that the command asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Directory of the ensemble.
    pub dir: PathBuf,
    /// Number of voters.
    pub nodes: u8,
    /// Number of observers.
    pub observers: u8,
    /// Client port of the first node, the others count up; `None`: free ports.
    pub client_port: Option<u16>,
    /// Further lines of each configuration file.
    pub set: Vec<String>,
}

/// Files and addresses of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLayout {
    pub node: u8,
    pub role: MemberRole,
    /// The node's folder.
    pub dir: PathBuf,
    pub config: PathBuf,
    /// Standard error of the server goes to this file.
    pub log: PathBuf,
    /// Where clients connect.
    pub client: SocketAddr,
}

/// Why there is no such ensemble.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    #[error("{nodes} nodes and {observers} observers: an ensemble has at most {NODE_MAX} servers")]
    TooMany {
        /// Number of voters.
        nodes: u8,
        /// Number of observers.
        observers: u8,
    },
    /// The directory holds another ensemble.
    #[error("{} holds {there}, and {wanted} is asked for; ask for what it holds, or choose another --dir", dir.display())]
    Other {
        dir: PathBuf,
        /// The ensemble in the directory.
        there: String,
        /// The ensemble that the command asks for.
        wanted: String,
    },
    /// A node has data and no configuration.
    #[error("{} holds data, but {} is missing; restore it, or remove the directory", dir.display(), config.display())]
    Incomplete {
        /// A node's folder with data.
        dir: PathBuf,
        config: PathBuf,
    },
    /// An existing configuration cannot be used.
    #[error("{reason}")]
    Config {
        /// Names the file, or the `--set` at fault.
        reason: String,
    },
    /// `--set` for files that exist already.
    #[error("{} is there already: edit its */{CONFIG} instead of giving --set, or choose another --dir", dir.display())]
    SetTooLate { dir: PathBuf },
    /// The client ports would exceed 65535.
    #[error("client ports from {base} for {total} servers end above 65535; choose a lower --client-port")]
    NoSuchPorts {
        /// The lowest client port.
        base: u16,
        /// Number of servers.
        total: u8,
    },
    /// A client port is taken.
    #[error(
        "client port {port}: {source}; stop the program that uses it, or choose another --client-port (without it free ones are taken)"
    )]
    ClientPort { port: u16, source: io::Error },
    /// A `--set` that is no line of a configuration file.
    #[error("--set {line}: write KEY=VALUE")]
    Set { line: String },
    /// The system refused a file or a port.
    #[error("{doing} failed: {source}")]
    System { doing: String, source: io::Error },
}

fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LayoutError {
    move |source| LayoutError::System { doing: doing.into(), source }
}

/// Finds the ensemble in its directory, or creates it. Gives the nodes in the order of their numbers.
pub fn prepare(wanted: &Wanted) -> Result<Vec<NodeLayout>, LayoutError> {
    let total = wanted.nodes.checked_add(wanted.observers).filter(|t| *t <= NODE_MAX);
    let total = total.ok_or(LayoutError::TooMany { nodes: wanted.nodes, observers: wanted.observers })?;
    if let Some(line) =
        wanted.set.iter().find(|l| !l.contains('=') || l.starts_with('=') || l.contains(['\n', '\r']))
    {
        return Err(LayoutError::Set { line: line.clone() });
    }
    let failed = system(format!("making {}", wanted.dir.display()));
    let dir =
        std::fs::create_dir_all(&wanted.dir).and_then(|()| wanted.dir.canonicalize()).map_err(failed)?;
    if !folder(&dir, 1).join(CONFIG).exists() {
        make(&dir, wanted, total)?;
    } else if !wanted.set.is_empty() {
        return Err(LayoutError::SetTooLate { dir });
    }
    find(&dir, wanted, total)
}

fn folder(dir: &Path, node: u8) -> PathBuf {
    dir.join(format!("node-{node}"))
}

fn make(dir: &Path, wanted: &Wanted, total: u8) -> Result<(), LayoutError> {
    for node in 1..=NODE_MAX {
        let dir = folder(dir, node);
        if dir.join("data").join("meta").exists() {
            return Err(LayoutError::Incomplete { config: dir.join(CONFIG), dir });
        }
    }
    let ports = free_ports(wanted, total)?;
    let mut servers = String::new();
    for (node, [client, peer, election]) in (1..=total).zip(&ports) {
        let role = if node <= wanted.nodes { MemberRole::Participant } else { MemberRole::Observer };
        let _ = writeln!(servers, "server.{node}=127.0.0.1:{peer}:{election}:{role};127.0.0.1:{client}");
    }
    check_set(&config_text(&folder(dir, 1).join("data"), wanted, &ports[0], &servers), wanted, dir)?;
    // The first node's file comes last: it marks the directory as complete.
    for node in (1..=total).rev() {
        let dir = folder(dir, node);
        let text = config_text(&dir.join("data"), wanted, &ports[0], &servers);
        let failed = system(format!("writing {}", dir.display()));
        write_node(&dir, node, &text).map_err(failed)?;
    }
    Ok(())
}

/// Validates the first node's configuration before anything is written. Otherwise a directory with a wrong
/// one would have to be removed before the next `--set`.
fn check_set(text: &str, wanted: &Wanted, dir: &Path) -> Result<(), LayoutError> {
    let wrong = |what: String| LayoutError::Config { reason: of_set(text, &wanted.set, &what) };
    let (config, findings) =
        config::read(text, None, &|_| Ok("1".to_owned())).map_err(|e| wrong(e.to_string()))?;
    let typo = |f: &&Finding| match f {
        Finding::Word { misfit, .. } => !misfit.known,
        f => matches!(f, Finding::Unknown { .. }),
    };
    if let Some(unknown) = findings.iter().find(typo) {
        return Err(wrong(unknown.to_string()));
    }
    let data = folder(dir, 1).join("data");
    if config.data_dir != data {
        return Err(wrong("dataDir cannot be given: each node's is in its folder".to_owned()));
    }
    Ok(())
}

/// Attributes an error in a file that was never written to the `--set` it comes from, not to a line number.
fn of_set(text: &str, set: &[String], what: &str) -> String {
    let found = what.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let Some((number, rest)) = found.and_then(|(n, rest)| Some((n.parse::<usize>().ok()?, rest))) else {
        return format!("with --set: {what}");
    };
    match text.lines().nth(number.wrapping_sub(1)) {
        Some(line) if set.iter().any(|given| given == line) => format!("--set {line}: {rest}"),
        _ => format!("with --set: {rest}"),
    }
}

fn config_text(data: &Path, wanted: &Wanted, first: &[u16; 3], servers: &str) -> String {
    // A backslash would be an escape in a properties file.
    let data = data.display().to_string().replace('\\', "\\\\");
    let mut text = format!(
        "# Made by `paddock cluster`; yours to edit. By itself: paddock serve --config THIS_FILE\n\
         tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\n4lw.commands.whitelist=*,lead\ndataDir={data}\n"
    );
    match (wanted.nodes, wanted.observers) {
        (1, 0) => {
            let _ = write!(text, "clientPortAddress=127.0.0.1\nclientPort={}\n", first[0]);
        }
        (1, _) => text.push_str("standaloneEnabled=false\n"),
        _ => {}
    }
    wanted.set.iter().for_each(|line| {
        let _ = writeln!(text, "{line}");
    });
    if (wanted.nodes, wanted.observers) != (1, 0) {
        text.push_str(servers);
    }
    text
}

fn write_node(dir: &Path, node: u8, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir.join("data"))?;
    write_myid(dir, node)?;
    // Renamed into place, so that an existing file is complete.
    std::fs::write(dir.join("zoo.cfg.tmp"), text)?;
    std::fs::rename(dir.join("zoo.cfg.tmp"), dir.join(CONFIG))
}

fn write_myid(dir: &Path, node: u8) -> io::Result<()> {
    std::fs::create_dir_all(dir.join("data"))?;
    std::fs::write(dir.join("data").join(MYID), format!("{node}\n"))
}

/// Client, peer and election port of each node. All are bound at once, so that no two are equal.
fn free_ports(wanted: &Wanted, total: u8) -> Result<Vec<[u16; 3]>, LayoutError> {
    let mut held = Vec::new();
    let mut free = |port: u16| -> io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let any = || system("looking for free ports on 127.0.0.1");
    let mut clients = Vec::new();
    for i in 0..total {
        clients.push(match wanted.client_port {
            None => free(0).map_err(any())?,
            Some(base) => {
                let port = base.checked_add(i.into()).ok_or(LayoutError::NoSuchPorts { base, total })?;
                free(port).map_err(|source| LayoutError::ClientPort { port, source })?
            }
        });
    }
    clients.into_iter().map(|client| Ok([client, free(0).map_err(any())?, free(0).map_err(any())?])).collect()
}

/// Reads the files and compares them with what is wanted.
fn find(dir: &Path, wanted: &Wanted, total: u8) -> Result<Vec<NodeLayout>, LayoutError> {
    let there = (1..=NODE_MAX).take_while(|n| folder(dir, *n).join(CONFIG).exists()).count();
    let other = |there: String, wanted: String| LayoutError::Other { dir: dir.to_owned(), there, wanted };
    if there != usize::from(total) {
        return Err(other(format!("{there} node(s)"), format!("{total}")));
    }
    let mut layouts = Vec::new();
    for node in 1..=total {
        layouts.push(find_node(dir, node)?);
    }
    let observers = layouts.iter().filter(|p| p.role == MemberRole::Observer).count();
    if observers != usize::from(wanted.observers) {
        return Err(other(format!("{observers} observer(s)"), wanted.observers.to_string()));
    }
    if let Some(base) = wanted.client_port.filter(|base| *base != layouts[0].client.port()) {
        return Err(other(format!("client port {}", layouts[0].client.port()), base.to_string()));
    }
    Ok(layouts)
}

fn find_node(dir: &Path, node: u8) -> Result<NodeLayout, LayoutError> {
    let dir = folder(dir, node);
    let path = dir.join(CONFIG);
    let wrong = |reason: String| LayoutError::Config { reason: format!("{}: {reason}", path.display()) };
    // A removed data directory (to see a node return without its disk) gets its number again.
    if !dir.join("data").join(MYID).exists() {
        write_myid(&dir, node).map_err(system(format!("writing {}", dir.display())))?;
    }
    let (config, _) = config::load(&path, None).map_err(|reason| LayoutError::Config { reason })?;
    if config.data_dir.canonicalize().ok() != dir.join("data").canonicalize().ok() {
        let (named, own) = (config.data_dir.display(), dir.join("data"));
        return Err(wrong(format!(
            "dataDir={named} is not {}; was the directory moved? edit it",
            own.display()
        )));
    }
    if config.ensemble.is_some() && config.node != node {
        return Err(wrong(format!("data/{MYID} holds {}, not {node}", config.node)));
    }
    let tcp = config.listeners().find_map(|a| if let Address::Tcp(at) = a { Some(*at) } else { None });
    let mut client = tcp.ok_or_else(|| wrong("no TCP port for clients".to_owned()))?;
    if client.ip().is_unspecified() {
        client.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let role = config.ensemble.as_ref().map_or(MemberRole::Participant, config::Ensemble::role);
    Ok(NodeLayout { node, role, config: path, log: dir.join("log"), dir, client })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(dir: &Path, nodes: u8, observers: u8) -> Wanted {
        Wanted { dir: dir.join("ensemble"), nodes, observers, client_port: None, set: Vec::new() }
    }

    #[test]
    fn an_ensemble_once_made_keeps_its_ports() {
        let dir = tempfile::tempdir().unwrap();
        let first = prepare(&wanted(dir.path(), 3, 2)).unwrap();
        assert_eq!(prepare(&wanted(dir.path(), 3, 2)).unwrap(), first);
        let roles: Vec<MemberRole> = first.iter().map(|p| p.role).collect();
        assert_eq!(roles[2..4], [MemberRole::Participant, MemberRole::Observer]);
        let (config, findings) = config::load(&first[4].config, None).unwrap();
        let ensemble = config.ensemble.unwrap();
        assert_eq!((ensemble.node, ensemble.members.members.len()), (5, 5));
        assert_eq!(findings, []);
    }

    #[test]
    fn another_ensemble_than_the_one_in_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let port = prepare(&wanted(dir.path(), 3, 0)).unwrap()[0].client.port();
        for (other, part) in [
            (wanted(dir.path(), 5, 0), "holds 3 node(s), and 5"),
            (wanted(dir.path(), 1, 0), "holds 3 node(s), and 1"),
            (wanted(dir.path(), 2, 1), "holds 0 observer(s), and 1"),
            (Wanted { client_port: Some(port ^ 1), ..wanted(dir.path(), 3, 0) }, "client port"),
            (Wanted { set: vec!["a=1".to_owned()], ..wanted(dir.path(), 3, 0) }, "edit its"),
            (Wanted { set: vec!["a".to_owned()], ..wanted(dir.path(), 3, 0) }, "KEY=VALUE"),
            (wanted(dir.path(), 200, 55), "at most 254"),
        ] {
            let error = prepare(&other).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn one_node_is_a_standalone_and_one_with_observers_an_ensemble() {
        let dir = tempfile::tempdir().unwrap();
        let alone = prepare(&wanted(dir.path(), 1, 0)).unwrap();
        assert_eq!(config::load(&alone[0].config, None).unwrap(), {
            let mut config = config::Config::standalone(alone[0].dir.join("data"));
            config.listen = vec![Address::Tcp(alone[0].client)];
            config.whitelist = "*,lead".to_owned();
            (config, Vec::new())
        });
        let dir = tempfile::tempdir().unwrap();
        let led = prepare(&wanted(dir.path(), 1, 1)).unwrap();
        assert_eq!(config::load(&led[0].config, None).unwrap().0.ensemble.unwrap().members.members.len(), 2);
    }

    #[test]
    fn a_lost_disk_gets_its_number_again_and_lost_configuration_is_not_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let made = prepare(&wanted(dir.path(), 3, 0)).unwrap();
        std::fs::remove_dir_all(made[1].dir.join("data")).unwrap();
        assert_eq!(prepare(&wanted(dir.path(), 3, 0)).unwrap(), made);
        std::fs::write(made[2].dir.join("data").join("meta"), "").unwrap();
        std::fs::remove_file(&made[0].config).unwrap();
        let error = prepare(&wanted(dir.path(), 3, 0)).unwrap_err().to_string();
        assert!(error.contains("node-3 holds data"), "{error}");
    }

    #[test]
    fn a_moved_directory_does_not_serve_the_old_places_data() {
        let dir = tempfile::tempdir().unwrap();
        prepare(&wanted(dir.path(), 1, 0)).unwrap();
        std::fs::rename(dir.path().join("ensemble"), dir.path().join("moved")).unwrap();
        let moved = Wanted { dir: dir.path().join("moved"), ..wanted(dir.path(), 1, 0) };
        let error = prepare(&moved).unwrap_err().to_string();
        assert!(error.contains("was the directory moved"), "{error}");
    }

    #[test]
    fn a_wrong_line_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for (line, part) in [
            ("tickTime=abc", "--set tickTime=abc: tickTime=abc: write a whole number"),
            ("tickTme=500", "--set tickTme=500: tickTme is not a known key; did you mean tickTime?"),
            ("4lw.commands.whitelist=rouk", "names rouk, which is no four-letter word"),
            ("server.1=a:1:2", "with --set: server.1"),
            ("=5", "write KEY=VALUE"),
            ("dataDir=/tmp", "each node's is in its folder"),
        ] {
            let set = vec!["syncLimit=9".to_owned(), line.to_owned()];
            let error = prepare(&Wanted { set, ..wanted(dir.path(), 3, 0) }).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let set = vec!["tickTime=500".to_owned()];
        assert_eq!(prepare(&Wanted { set, ..wanted(dir.path(), 3, 0) }).unwrap().len(), 3);
    }

    #[test]
    fn a_client_port_that_is_not_to_be_had_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        for (base, part) in
            [(taken, format!("client port {taken}: ")), (65_535, "end above 65535".to_owned())]
        {
            let wanted = Wanted { client_port: Some(base), ..wanted(dir.path(), 2, 0) };
            let error = prepare(&wanted).unwrap_err().to_string();
            assert!(
                error.contains(&part) && error.contains("another --client-port") | (base == 65_535),
                "{error}"
            );
        }
        drop(held);
    }

    #[test]
    fn named_client_ports_count_up_and_further_lines_reach_every_node() {
        let dir = tempfile::tempdir().unwrap();
        let base = free_ports(&wanted(dir.path(), 1, 0), 1).unwrap()[0][0].clamp(1024, 60_000);
        let made = prepare(&Wanted {
            client_port: Some(base),
            set: vec!["tickTime=500".to_owned()],
            ..wanted(dir.path(), 2, 0)
        });
        // Another process may hold the second port. Then the error names it, and nothing was written.
        let Ok(made) = made else { return assert!(!folder(&dir.path().join("ensemble"), 1).exists()) };
        assert_eq!((made[0].client.port(), made[1].client.port()), (base, base + 1));
        assert_eq!(config::load(&made[1].config, None).unwrap().0.tick_time_ms, 500);
    }
}
