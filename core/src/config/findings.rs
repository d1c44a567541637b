//! What there is to say about a configuration file: what an operator should know, and why it can't be used.
//!
//! Owns the words. Never reads a file. It stays correct because each message names its place and says what to do.

#![forbid(unsafe_code)]

use crate::admin::words::Misfit;
use crate::members::{MemberRole, MembersError, NODE_MAX};
use crate::properties::BadEscape;
use std::path::PathBuf;

/// Where a server line stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinePosition {
    /// Line.
    pub line: u32,
    /// The dynamic file; `None`: the configuration file itself.
    pub dynamic: Option<PathBuf>,
}

impl std::fmt::Display for LinePosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.dynamic {
            Some(path) => write!(f, "dynamicConfigFile={}: line {}", path.display(), self.line),
            None => write!(f, "line {}", self.line),
        }
    }
}

/// Something an operator should know about a file that is valid all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A ZooKeeper key that changes nothing here.
    NoEffect {
        /// Line.
        line: u32,
        /// Key.
        key: String,
    },
    /// Not a key of ZooKeeper, which would take it as a system property.
    Unknown {
        /// Line.
        line: u32,
        /// Key.
        key: String,
        /// The known key that was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// An ensemble that stands still when one voter is lost.
    NoLossTolerated {
        /// How many voters.
        voters: usize,
    },
    /// One voter more than needed.
    EvenVoters {
        /// How many voters.
        voters: usize,
    },
    /// A server line whose address is no place.
    Nowhere {
        /// The server line.
        at: LinePosition,
        /// The server's number.
        node: u8,
        /// Whether it is this server's own line.
        own: bool,
    },
    /// A single server line: the server runs standalone.
    OneServer {
        /// The line.
        at: LinePosition,
        /// Its number.
        node: u8,
    },
    /// A name in `4lw.commands.whitelist` that enables nothing.
    Word {
        /// Line.
        line: u32,
        /// The name.
        misfit: Misfit,
    },
    /// A superuser whom nobody can be.
    SuperDigest {
        /// Line.
        line: u32,
    },
    /// `peerType` and the server's own line contradict each other.
    PeerType {
        /// Line of `peerType`.
        line: u32,
        /// This server.
        node: u8,
        /// What `peerType` says.
        told: MemberRole,
        /// What the server's line says; it counts.
        role: MemberRole,
    },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finding::NoEffect { line, key } => {
                write!(f, "line {line}: {key} is accepted and has no effect yet")
            }
            Finding::Unknown { line, key, nearest: Some(near) } => {
                write!(f, "line {line}: {key} is not a known key; did you mean {near}?")
            }
            Finding::Unknown { line, key, nearest: None } => {
                write!(f, "line {line}: {key} is not a known key")
            }
            Finding::NoLossTolerated { voters } => {
                write!(
                    f,
                    "{voters} participant(s): no loss of a server is tolerated; at least 3 are needed for that"
                )
            }
            Finding::EvenVoters { voters } => write!(
                f,
                "{voters} participants tolerate no more losses than {}: consider an odd number",
                voters - 1
            ),
            Finding::Nowhere { at, node, own: true } => write!(
                f,
                "{at}: server.{node}, this server's own line, says every interface: the other servers and clients that read the \
                 configuration cannot reach it there. Write the address that they know, and quorumListenOnAllIPs=true"
            ),
            Finding::Nowhere { at, node, own: false } => {
                write!(
                    f,
                    "{at}: server.{node} is another server, and its address is no place: this server cannot dial it"
                )
            }
            Finding::OneServer { at, node } => write!(
                f,
                "{at}: server.{node} is the only server: it runs standalone (standaloneEnabled=false makes it an ensemble of one)"
            ),
            Finding::Word { line, misfit: Misfit { name, known: true } } => write!(
                f,
                "line {line}: 4lw.commands.whitelist names {name}, which is accepted and has no answer yet"
            ),
            Finding::Word { line, misfit: Misfit { name, known: false } } => {
                write!(f, "line {line}: 4lw.commands.whitelist names {name}, which is no four-letter word")
            }
            Finding::SuperDigest { line } => write!(
                f,
                "line {line}: DigestAuthenticationProvider.superDigest is not NAME:DIGEST with the SHA-1 digest of NAME:PASSWORD in \
                 base64 (28 characters): nobody can be the superuser"
            ),
            Finding::PeerType { line, node, told, role } => write!(
                f,
                "line {line}: peerType={told} contradicts server.{node}, which says {role}; the server line counts"
            ),
        }
    }
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not a properties file.
    #[error(transparent)]
    Syntax(#[from] BadEscape),
    /// A value out of its range or of the wrong kind.
    #[error("line {line}: {key}={value}: write {expected}")]
    Value {
        /// Line.
        line: u32,
        /// Key.
        key: String,
        /// As written.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// `dataDir` is missing.
    #[error("dataDir is missing; add a line such as dataDir=/var/lib/paddock")]
    NoDataDir,
    /// No listener.
    #[error("no clientPort; add a line such as clientPort=2181 (secureClientPort is not served yet)")]
    NoListener,
    /// The minimum is above the maximum.
    #[error(
        "minSessionTimeout ({min} ms) is above maxSessionTimeout ({max} ms); raise the one or lower the other"
    )]
    SessionRange {
        /// Minimum, ms.
        min: u64,
        /// Maximum, ms.
        max: u64,
    },
    /// A server line that cannot be used.
    #[error("line {line}: {key}: {error}")]
    Server {
        /// Line.
        line: u32,
        /// Key.
        key: String,
        /// What is wrong with it.
        error: MembersError,
    },
    /// Server lines beside a dynamic file.
    #[error(
        "line {line}: {key} must stand in the file that dynamicConfigFile names, or dynamicConfigFile must go"
    )]
    ServerBesideDynamic {
        /// Line.
        line: u32,
        /// Key.
        key: String,
    },
    /// The dynamic file cannot be used.
    #[error("dynamicConfigFile={}: {reason}", path.display())]
    Dynamic {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody votes.
    #[error("standaloneEnabled=false needs at least one server.N line of a participant")]
    NoParticipants,
    /// Observers with nobody to follow.
    #[error(
        "observers need an ensemble to follow: add server.N lines of participants (one participant with observers needs \
         standaloneEnabled=false)"
    )]
    ObserversAlone,
    /// A key without which an ensemble cannot run.
    #[error("{key} is missing: with several server.N lines add a line such as {key}={example} (in ticks)")]
    LimitMissing {
        /// Key.
        key: &'static str,
        /// A usual value.
        example: u32,
    },
    /// Address for clients told twice.
    #[error(
        "clientPort/clientPortAddress say {file}, but the line of this server (server.{node}) says {line}: remove one of them"
    )]
    ClientAddress {
        /// This server.
        node: u8,
        /// By the keys.
        file: String,
        /// By the server's line.
        line: String,
    },
    /// Clients and other servers on one port.
    #[error(
        "port {port} is that of clients ({clients}) and the first one of this server's own line (server.{node}), for the other \
         servers: give clients another one"
    )]
    ClientsAtPeers {
        /// This server.
        node: u8,
        /// The port.
        port: u16,
        /// Where clients would connect.
        clients: String,
    },
    /// Both kinds of reads on one port.
    #[error(
        "paddock.linearizableClientPort={port} is the other port for clients as well: give it one of its own (or write \
         paddock.readConsistency=linearizable, and no second port)"
    )]
    TwoPortsInOne {
        /// The port.
        port: u16,
    },
    /// The client address of the server's own line.
    #[error(
        "the line of this server names '{host}' as its address for clients, which is no address of this machine"
    )]
    ClientHost {
        /// The host.
        host: String,
    },
    /// No number.
    #[error(
        "{} is missing: with several server.N lines each server needs its own number there, such as: echo 1 > {}",
        path.display(), path.display()
    )]
    MyIdMissing {
        /// Where it is looked for.
        path: PathBuf,
    },
    /// The number cannot be read.
    #[error("cannot read this server's number from {}: {reason}", path.display())]
    MyIdUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something else than a number.
    #[error("{} holds '{text}', which is not a number; write the N of this server's server.N line", path.display())]
    MyIdNoNumber {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        text: String,
    },
    /// A number that no server can have.
    #[error("{} holds {number}; server numbers are 1 to {NODE_MAX}", path.display())]
    MyIdRange {
        /// The file.
        path: PathBuf,
        /// Its number.
        number: i64,
    },
    /// A number without a server line.
    #[error(
        "{} says that this is server {node}, but there is no server.{node} line (there are: {known}); correct the one or the \
         other", path.display()
    )]
    MyIdStranger {
        /// The file.
        path: PathBuf,
        /// Its number.
        node: u8,
        /// The numbers of the server lines.
        known: String,
    },
    /// Raft's clock contradicts itself.
    #[error(
        "paddock.raft.tick={tick_ms}, paddock.raft.heartbeat={heartbeat_ms}, paddock.raft.election={election_ms}: a heartbeat \
         must be a multiple of the tick, and an election timeout a multiple of the tick of at least three heartbeats"
    )]
    RaftClock {
        /// Tick.
        tick_ms: u64,
        /// Heartbeat.
        heartbeat_ms: u64,
        /// Election timeout.
        election_ms: u64,
    },
    /// A protection that this version cannot give is asked for.
    #[error(
        "line {line}: {key}={value} asks for a protection that this version cannot give: clients would be served without it; \
         remove the line to accept that"
    )]
    Unprotected {
        /// Line.
        line: u32,
        /// Key.
        key: String,
        /// As written.
        value: String,
    },
}
