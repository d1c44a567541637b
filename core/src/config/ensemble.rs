//! The ensemble that a configuration describes, and the number of this server in it.
//!
//! Owns the meaning of server lines, of the dynamic file and of `myid`, as in ZooKeeper 3.9.
//! Never dials a server.
//! Correct because every contradiction is an error before anything is opened: a node with another node's
//! number could vote twice.

#![forbid(unsafe_code)]

use super::findings::{ConfigError, Finding, LinePosition};
use super::keys;
use super::listeners::{any_address, resolve};
use super::values::{self, Values};
use crate::members::{MemberRole, Members, MembersError, NODE_MAX, is_wildcard, parse_node};
use crate::properties::{Property, parse};
use paddock_transport::engine::Address;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// File in the data directory that holds this server's number.
pub const MYID: &str = "myid";

/// The servers of an ensemble, as this server's configuration lists them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ensemble {
    pub node: u8,
    /// All servers, including this one. Cluster number and version are zero and no identity is set: the data
    /// directories hold what the ensemble has agreed on since.
    pub members: Members,
    /// Whether the peer listener uses every interface instead of the address in the server's own line.
    pub listen_all: bool,
}

impl Ensemble {
    /// The listener for peers: on the address in this server's own line, or on every interface.
    pub fn peer_listener(&self) -> Result<Address, PeerAddressError> {
        let Some(me) = self.members.get(self.node) else {
            return Err(PeerAddressError { host: String::new(), port: 0 });
        };
        if self.listen_all {
            return Ok(any_address(me.peer_port));
        }
        resolve(&me.host, me.peer_port)
            .map_err(|()| PeerAddressError { host: me.host.clone(), port: me.peer_port })
    }

    /// The role in this server's own line.
    pub fn role(&self) -> MemberRole {
        self.members.get(self.node).map_or(MemberRole::Observer, |m| m.role)
    }
}

/// The host in this server's own line cannot be resolved.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host}:{port}, the address in this server's own line, cannot be resolved: correct the line, or let the server listen on \
     every interface with quorumListenOnAllIPs=true"
)]
pub struct PeerAddressError {
    pub host: String,
    pub port: u16,
}

/// The settings that server lines and `myid` decide.
#[derive(Debug)]
pub(super) struct Servers {
    /// `None` on a standalone server.
    pub ensemble: Option<Ensemble>,
    /// This server's number; 1 unless a server line or `myid` sets it.
    pub node: u8,
    /// Address for clients in the server's own line, as host and port.
    pub client: Option<(String, u16)>,
    /// File of the key `dynamicConfigFile`.
    pub dynamic: Option<PathBuf>,
    pub standalone_enabled: bool,
}

/// Combines server lines, the dynamic file and `myid`.
pub(super) fn settle(
    file: &Values<'_>,
    data_dir: &Path,
    read: &dyn Fn(&Path) -> io::Result<String>,
    findings: &mut Vec<Finding>,
) -> Result<Servers, ConfigError> {
    let standalone_enabled = file.switch("standaloneEnabled")?.unwrap_or(true);
    let dynamic = file.text("dynamicConfigFile").map(PathBuf::from);
    let Lines { members, at } = members(file, dynamic.as_deref(), read)?;
    let (voters, observers) = (members.voters().count(), members.observers().count());
    match (voters, observers) {
        (0, 0) if standalone_enabled => {
            return Ok(Servers { ensemble: None, node: 1, client: None, dynamic, standalone_enabled });
        }
        (0, 0) => return Err(ConfigError::NoParticipants),
        (0, _) => return Err(ConfigError::ObserversAlone),
        (1, 1..) if standalone_enabled => return Err(ConfigError::ObserversAlone),
        (1, _) if standalone_enabled => return one_server(members, &at, dynamic, findings),
        (1 | 2, _) => findings.push(Finding::NoLossTolerated { voters }),
        (n, _) if n % 2 == 0 => findings.push(Finding::EvenVoters { voters }),
        _ => {}
    }
    let node = myid(data_dir, &members, read)?;
    let Some(me) = members.get(node) else { return Err(ConfigError::NoParticipants) };
    check_role(file, node, me.role, findings)?;
    let nowhere = members.members.iter().filter(|(_, m)| is_wildcard(&m.host));
    findings.extend(nowhere.map(|(n, _)| {
        let line = at.get(n).copied().unwrap_or_default();
        Finding::Nowhere { at: LinePosition { line, dynamic: dynamic.clone() }, node: *n, own: *n == node }
    }));
    let client = me.client_parts();
    let listen_all = file.switch("quorumListenOnAllIPs")?.unwrap_or(false);
    let ensemble = Some(Ensemble { node, members, listen_all });
    Ok(Servers { ensemble, node, client, dynamic, standalone_enabled })
}

/// A single server line: as in ZooKeeper the server runs standalone, with a finding that the line is
/// ignored.
fn one_server(
    members: Members,
    at: &BTreeMap<u8, u32>,
    dynamic: Option<PathBuf>,
    findings: &mut Vec<Finding>,
) -> Result<Servers, ConfigError> {
    let Some((node, me)) = members.members.first_key_value() else { return Err(ConfigError::NoParticipants) };
    let line = at.get(node).copied().unwrap_or_default();
    findings.push(Finding::OneServer { at: LinePosition { line, dynamic: dynamic.clone() }, node: *node });
    let client = me.client_parts();
    Ok(Servers { ensemble: None, node: *node, client, dynamic, standalone_enabled: true })
}

/// The servers, and the line of each in its file.
#[derive(Default)]
struct Lines {
    members: Members,
    at: BTreeMap<u8, u32>,
}

/// The server lines of the file, or of the dynamic file that it names.
fn members(
    file: &Values<'_>,
    dynamic: Option<&Path>,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Lines, ConfigError> {
    let lines = file.all().filter(|p| keys::is_server_line(&p.key));
    let Some(path) = dynamic else {
        return collect(lines, |p, error| ConfigError::Server { line: p.line, key: p.key.clone(), error });
    };
    if let Some(p) = lines.into_iter().next() {
        return Err(ConfigError::ServerBesideDynamic { line: p.line, key: p.key.clone() });
    }
    let text = read(path)
        .map_err(|source| ConfigError::Dynamic { path: path.to_owned(), reason: source.to_string() })?;
    let wrong = |reason: String| ConfigError::Dynamic { path: path.to_owned(), reason };
    let properties = parse(&text).map_err(|e| wrong(e.to_string()))?;
    let found = collect(properties.iter().filter(|p| p.key != "version"), |p, error| {
        wrong(format!("line {}: {}: {error}", p.line, p.key))
    })?;
    // Without servers the file was lost or truncated. A standalone start would serve an empty tree.
    if found.at.is_empty() { Err(wrong("no server.N lines".to_owned())) } else { Ok(found) }
}

fn collect<'a>(
    lines: impl Iterator<Item = &'a Property>,
    wrong: impl Fn(&Property, MembersError) -> ConfigError,
) -> Result<Lines, ConfigError> {
    let mut found = Lines::default();
    for p in lines {
        let key = keys::plain(&p.key);
        found.members.add_line(key, &p.value).map_err(|e| wrong(p, e))?;
        if let Some(Ok(node)) = key.strip_prefix("server.").map(parse_node) {
            found.at.insert(node, p.line);
        }
    }
    Ok(found)
}

fn myid(
    data_dir: &Path,
    members: &Members,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<u8, ConfigError> {
    let path = data_dir.join(MYID);
    let text = match read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ConfigError::MyIdMissing { path }),
        Err(e) => return Err(ConfigError::MyIdUnreadable { path, reason: e.to_string() }),
    };
    let text = text.trim();
    let node = match text.parse::<i64>() {
        Ok(n) if (1..=i64::from(NODE_MAX)).contains(&n) => n as u8,
        Ok(number) => return Err(ConfigError::MyIdRange { path, number }),
        Err(_) => {
            let text: String = text.chars().take(20).collect();
            return Err(ConfigError::MyIdNoNumber { path, text });
        }
    };
    if members.get(node).is_none() {
        let known: Vec<String> = members.members.keys().map(u8::to_string).collect();
        return Err(ConfigError::MyIdStranger { path, node, known: known.join(", ") });
    }
    Ok(node)
}

/// Reports a `peerType` that contradicts the server's own line. The line counts, as in ZooKeeper.
fn check_role(
    file: &Values<'_>,
    node: u8,
    role: MemberRole,
    findings: &mut Vec<Finding>,
) -> Result<(), ConfigError> {
    let Some(p) = file.last("peerType") else { return Ok(()) };
    let told = match p.value.to_ascii_lowercase().as_str() {
        "observer" => MemberRole::Observer,
        "participant" => MemberRole::Participant,
        _ => return Err(values::bad(p, "participant or observer".to_owned())),
    };
    if told != role {
        findings.push(Finding::PeerType { line: p.line, node, told, role });
    }
    Ok(())
}

/// Replaces a dynamic file by the server lines of `members`. A reader finds the old text or the new one,
/// complete, even after a power failure. A symbolic link stays, and its target is replaced.
pub fn write_dynamic(path: &Path, members: &Members) -> io::Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = folder.join(temporary);
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(members.server_lines().as_bytes())?;
    if let Ok(old) = std::fs::metadata(&path) {
        file.set_permissions(old.permissions())?;
    }
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    std::fs::File::open(&folder)?.sync_all()
}
