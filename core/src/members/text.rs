//! The membership as text: `server.N=` lines of configuration files, of `/zookeeper/config` and of reconfig
//! requests.
//!
//! Owns the grammar for reading and writing.
//! Never resolves a name, and never decides whether a membership makes sense.
//! Correct because [`Member::parse`] reads what [`Member::spec`] writes (a test), and because a line that
//! Paddock does not understand is an error.

use super::{Member, MemberRole, Members, NODE_MAX};
use crate::properties;

/// Why a text is not a membership.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The value of a server line has another form.
    #[error("'{spec}' is not HOST:PORT:PORT[:participant|:observer][;[HOST:]PORT]")]
    Form { spec: String },
    /// Not a whole number from 1 to 65535.
    #[error("'{text}' is not a port: a whole number from 1 to 65535")]
    Port { text: String },
    /// Peer link and election have the same port.
    #[error("the second port must differ from the first one ({port})")]
    SamePorts { port: u16 },
    /// Neither participant nor observer.
    #[error("'{text}' is no role: write participant or observer")]
    Role { text: String },
    /// Several addresses of one server, which ZooKeeper allows.
    #[error("several addresses of one server (multiAddress, '|') are not supported: keep one of them")]
    MultiAddress,
    /// Not a number from 1 to [`NODE_MAX`].
    #[error("'{text}' is no server number: write server.N with N from 1 to {NODE_MAX}")]
    Number { text: String },
    /// The key is neither `server.N` nor `version`.
    #[error("'{key}' does not belong here: only server.N=… and version=… lines do")]
    Key { key: String },
    /// ZooKeeper's hierarchical quorums.
    #[error("'{key}': groups and weights (hierarchical quorums) are not supported; remove these lines")]
    Hierarchy { key: String },
    /// The version is not a hexadecimal number.
    #[error("version={text} is not a hexadecimal number")]
    Version { text: String },
    /// Two lines for one server number.
    #[error("server.{node} comes twice")]
    Twice { node: u8 },
    /// Two servers with the same host and port.
    #[error("server.{first} and server.{second} have an address in common")]
    SharedAddress {
        /// The smaller number.
        first: u8,
        /// The larger number.
        second: u8,
    },
    /// A bad escape of the properties syntax.
    #[error(transparent)]
    Escape(#[from] properties::BadEscape),
}

impl Member {
    /// Reads the value of a server line, such as `host:2888:3888:observer;2181`.
    pub fn parse(spec: &str) -> Result<Member, MembersError> {
        let form = || MembersError::Form { spec: spec.to_owned() };
        let (server, client) = match spec.split_once(';') {
            Some((server, client)) => (server, Some(client)),
            None => (spec, None),
        };
        if server.contains('|') {
            return Err(MembersError::MultiAddress);
        }
        let (host, rest) = split_host(server).ok_or_else(form)?;
        let mut parts = rest.split(':');
        let (Some(peer), Some(election)) = (parts.next(), parts.next()) else { return Err(form()) };
        let (peer_port, election_port) = (port(peer)?, port(election)?);
        let role = match parts.next() {
            None => MemberRole::Participant,
            Some(text) if text.eq_ignore_ascii_case("participant") => MemberRole::Participant,
            Some(text) if text.eq_ignore_ascii_case("observer") => MemberRole::Observer,
            Some(text) => return Err(MembersError::Role { text: text.to_owned() }),
        };
        if parts.next().is_some() {
            return Err(form());
        }
        if peer_port == election_port {
            return Err(MembersError::SamePorts { port: peer_port });
        }
        let client = client.map(client_address).transpose()?;
        Ok(Member { host, peer_port, election_port, role, client, identity: None })
    }

    /// The value of a server line, such as `host:2888:3888:participant;0.0.0.0:2181`.
    pub fn spec(&self) -> String {
        let host = bracketed(&self.host);
        let client = self.client.as_ref().map_or_else(String::new, |c| format!(";{c}"));
        format!("{host}:{}:{}:{}{client}", self.peer_port, self.election_port, self.role)
    }

    /// Whether the two members have a host and port in common. A wildcard client address counts as the
    /// member's own host.
    pub fn shares_address(&self, other: &Member) -> bool {
        let mine = self.endpoints();
        other.endpoints().iter().any(|e| mine.contains(e))
    }

    fn endpoints(&self) -> Vec<(String, u16)> {
        let host = self.host.to_ascii_lowercase();
        let mut all = vec![(host.clone(), self.peer_port), (host.clone(), self.election_port)];
        if let Some((at, port)) = self.client_parts() {
            let at = if is_wildcard(&at) { host } else { at.to_ascii_lowercase() };
            all.push((at, port));
        }
        all
    }

    /// Host and port for clients, if the line gives them.
    pub fn client_parts(&self) -> Option<(String, u16)> {
        let (host, port) = split_host(self.client.as_deref()?)?;
        Some((host, port.parse().ok()?))
    }
}

impl Members {
    /// The text of `/zookeeper/config`: a line for each server, then the version without a newline. Empty
    /// without servers.
    pub fn config_text(&self) -> String {
        if self.members.is_empty() {
            return String::new();
        }
        format!("{}version={:x}", self.server_lines(), self.version)
    }

    /// The server lines, each with a newline: the content of a dynamic configuration file.
    pub fn server_lines(&self) -> String {
        self.members.iter().map(|(node, member)| format!("server.{node}={}\n", member.spec())).collect()
    }

    /// Reads server lines and an optional `version=` line: the reverse of [`Members::config_text`].
    /// Identities and the ensemble's number are not in the text.
    pub fn parse_text(text: &str) -> Result<Members, MembersError> {
        let mut members = Members::default();
        for property in properties::parse(text)? {
            if property.key == "version" {
                let version = u64::from_str_radix(&property.value, 16)
                    .map_err(|_| MembersError::Version { text: property.value.clone() })?;
                members.version = version as i64;
            } else {
                members.add_line(&property.key, &property.value)?;
            }
        }
        Ok(members)
    }

    /// Adds the server of a line `key=value`.
    pub fn add_line(&mut self, key: &str, value: &str) -> Result<(), MembersError> {
        if key.starts_with("group") || key.starts_with("weight") {
            return Err(MembersError::Hierarchy { key: key.to_owned() });
        }
        let Some(number) = key.strip_prefix("server.") else {
            return Err(MembersError::Key { key: key.to_owned() });
        };
        self.add(parse_node(number)?, Member::parse(value)?)
    }

    /// Adds a member, unless its number or one of its addresses is taken.
    pub fn add(&mut self, node: u8, member: Member) -> Result<(), MembersError> {
        if self.members.contains_key(&node) {
            return Err(MembersError::Twice { node });
        }
        if let Some((other, _)) = self.members.iter().find(|(_, m)| m.shares_address(&member)) {
            let (first, second) = (node.min(*other), node.max(*other));
            return Err(MembersError::SharedAddress { first, second });
        }
        self.members.insert(node, member);
        Ok(())
    }
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MemberRole::Participant => "participant",
            MemberRole::Observer => "observer",
        })
    }
}

/// Reads one `server.N=spec` item of reconfig's `joiningServers`.
pub fn parse_assignment(text: &str) -> Result<(u8, Member), MembersError> {
    let text = text.trim();
    let (key, value) = text.split_once('=').ok_or_else(|| MembersError::Form { spec: text.to_owned() })?;
    let key = key.trim();
    let number = key.strip_prefix("server.").ok_or_else(|| MembersError::Key { key: key.to_owned() })?;
    Ok((parse_node(number)?, Member::parse(value.trim())?))
}

/// Reads a server number, 1 to [`NODE_MAX`].
pub fn parse_node(text: &str) -> Result<u8, MembersError> {
    match text.trim().parse::<u8>() {
        Ok(node) if (1..=NODE_MAX).contains(&node) => Ok(node),
        _ => Err(MembersError::Number { text: text.to_owned() }),
    }
}

/// The host in the form that precedes a port: IPv6 in brackets.
pub fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Whether the host stands for every interface.
pub fn is_wildcard(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// Splits at the colon after the host. Removes the brackets of an IPv6 host.
fn split_host(text: &str) -> Option<(String, &str)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':')?)
        }
        None => text.split_once(':')?,
    };
    let good = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',');
    good.then(|| (host.to_owned(), rest))
}

/// Reads `[host:]port`. A missing host becomes `0.0.0.0`, as ZooKeeper shows it.
fn client_address(text: &str) -> Result<String, MembersError> {
    if !text.contains(':') {
        return Ok(format!("0.0.0.0:{}", port(text)?));
    }
    let (host, rest) = split_host(text).ok_or_else(|| MembersError::Form { spec: format!(";{text}") })?;
    Ok(format!("{}:{}", bracketed(&host), port(rest)?))
}

fn port(text: &str) -> Result<u16, MembersError> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(MembersError::Port { text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for spec in [
            "a:2888:3888:participant",
            "10.0.0.1:1:2:observer;0.0.0.0:2181",
            "[::1]:2888:3888:participant;[fe80::1]:2181",
            "zk-0.zk.default.svc:2888:3888:participant;10.0.0.7:2181",
        ] {
            assert_eq!(Member::parse(spec).unwrap().spec(), spec);
        }
    }

    #[test]
    fn short_forms_get_zookeepers_defaults() {
        assert_eq!(Member::parse("h:1:2;2181").unwrap().spec(), "h:1:2:participant;0.0.0.0:2181");
        assert_eq!(Member::parse("h:1:2:OBSERVER").unwrap().role, MemberRole::Observer);
    }

    #[test]
    fn a_line_of_another_meaning_is_an_error_that_names_it() {
        for (spec, part) in [
            ("", "HOST:PORT:PORT"),
            ("h", "HOST:PORT:PORT"),
            ("h:1", "HOST:PORT:PORT"),
            (":1:2", "HOST:PORT:PORT"),
            ("h:1:2:participant:x", "HOST:PORT:PORT"),
            ("h:1:1", "must differ"),
            ("h:0:2", "'0' is not a port"),
            ("h:1:65536", "'65536' is not a port"),
            ("h:1:2:leader", "'leader' is no role"),
            ("h:1:2;", "'' is not a port"),
            ("h:1:2;x:y", "'y' is not a port"),
            ("h:1:2;:5", "HOST:PORT:PORT"),
            ("a:1:2|b:1:2", "multiAddress"),
            ("[::1:1:2", "HOST:PORT:PORT"),
            ("[a]:1:2", "HOST:PORT:PORT"),
            ("::1:2:3", "HOST:PORT:PORT"),
            ("a b:1:2", "HOST:PORT:PORT"),
        ] {
            let error = Member::parse(spec).unwrap_err().to_string();
            assert!(error.contains(part), "{spec}: {error}");
        }
        for (line, part) in [
            ("server.0=h:1:2", "no server number"),
            ("server.255=h:1:2", "no server number"),
            ("server.x=h:1:2", "no server number"),
            ("group.1=1:2:3", "hierarchical"),
            ("weight.1=2", "hierarchical"),
            ("clientPort=1", "does not belong here"),
            ("version=xyz", "hexadecimal"),
            ("server.1=h:1:2\nserver.1=h:3:4", "comes twice"),
            ("server.7=h:1:2\nserver.3=H:2:4", "server.3 and server.7 have an address"),
        ] {
            let error = Members::parse_text(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_configuration_nodes_text_is_that_of_zookeeper() {
        let text = "server.1=127.0.0.1:2780:2783:participant;127.0.0.1:2791\nversion=100000000";
        let members = Members::parse_text(text).unwrap();
        assert_eq!(members.version, 1 << 32);
        assert_eq!(members.config_text(), text);
        assert_eq!(Members::default().config_text(), "");
    }

    #[test]
    fn servers_come_in_the_order_of_their_numbers() {
        let members = Members::parse_text("server.10=a:1:2\nserver.9=b:1:2:observer\n").unwrap();
        assert_eq!(members.server_lines(), "server.9=b:1:2:observer\nserver.10=a:1:2:participant\n");
    }

    #[test]
    fn clients_ports_on_all_interfaces_collide_only_on_one_host() {
        let a = Member::parse("a:1:2;2181").unwrap();
        assert!(!a.shares_address(&Member::parse("b:1:2;2181").unwrap()));
        assert!(a.shares_address(&Member::parse("A:3:4;2181").unwrap()));
        assert!(a.shares_address(&Member::parse("b:3:4;a:2").unwrap()));
    }

    #[test]
    fn a_reconfig_request_names_its_joiners_one_by_one() {
        let (node, member) = parse_assignment(" server.4=h:1:2:observer;2181 ").unwrap();
        assert_eq!((node, member.client_parts()), (4, Some(("0.0.0.0".to_owned(), 2181))));
        assert!(parse_assignment("server.4").is_err());
        assert!(parse_assignment("4=h:1:2;3").is_err());
    }
}
