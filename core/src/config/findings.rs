//! Messages about a configuration file: findings for the operator, and errors that make the file unusable.
//!
//! Owns the texts.
//! Never reads a file.
//! Correct because each message names the line or file, and says how to correct it.

#![forbid(unsafe_code)]

use crate::admin::words::Misfit;
use crate::members::{MemberRole, MembersError, NODE_MAX};
use crate::properties::BadEscape;
use std::path::PathBuf;

/// Position of a server line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinePosition {
    /// Counted from 1.
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

/// A message about a file that is valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A ZooKeeper key without effect in Paddock.
    NoEffect { line: u32, key: String },
    /// Not a key of ZooKeeper, which would set it as a system property.
    Unknown {
        line: u32,
        key: String,
        /// The most similar known key, if there is one.
        nearest: Option<&'static str>,
    },
    /// An ensemble that stops when one voter is lost.
    NoLossTolerated { voters: usize },
    /// An even number of voters, one more than needed.
    EvenVoters { voters: usize },
    /// A server line with a wildcard address.
    Nowhere {
        at: LinePosition,
        node: u8,
        /// Whether the line is this server's own.
        own: bool,
    },
    /// A single server line: the server runs standalone.
    OneServer { at: LinePosition, node: u8 },
    /// A name in `4lw.commands.whitelist` that enables nothing.
    Word { line: u32, misfit: Misfit },
    /// A `superDigest` that no password has.
    SuperDigest { line: u32 },
    /// `peerType` and the server's own line contradict each other.
    PeerType {
        /// Line of `peerType`.
        line: u32,
        node: u8,
        /// The role in `peerType`.
        told: MemberRole,
        /// The role in the server's own line, which counts.
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
                 base64 (28 characters): no client can be the superuser"
            ),
            Finding::PeerType { line, node, told, role } => write!(
                f,
                "line {line}: peerType={told} contradicts server.{node}, which says {role}; the server line counts"
            ),
        }
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not Java's properties syntax.
    #[error(transparent)]
    Syntax(#[from] BadEscape),
    /// A value out of range or of the wrong type.
    #[error("line {line}: {key}={value}: write {expected}")]
    Value {
        line: u32,
        key: String,
        value: String,
        /// Values that would be accepted.
        expected: String,
    },
    #[error("dataDir is missing; add a line such as dataDir=/var/lib/paddock")]
    NoDataDir,
    #[error("no clientPort; add a line such as clientPort=2181 (secureClientPort is not served yet)")]
    NoListener,
    #[error(
        "minSessionTimeout ({min} ms) is above maxSessionTimeout ({max} ms); raise the one or lower the other"
    )]
    SessionRange {
        /// In ms.
        min: u64,
        /// In ms.
        max: u64,
    },
    /// A server line that cannot be used.
    #[error("line {line}: {key}: {error}")]
    Server { line: u32, key: String, error: MembersError },
    /// Server lines beside a dynamic file.
    #[error(
        "line {line}: {key} must stand in the file that dynamicConfigFile names, or dynamicConfigFile must go"
    )]
    ServerBesideDynamic { line: u32, key: String },
    #[error("dynamicConfigFile={}: {reason}", path.display())]
    Dynamic { path: PathBuf, reason: String },
    #[error("standaloneEnabled=false needs at least one server.N line of a participant")]
    NoParticipants,
    /// Observers without a participant to follow.
    #[error(
        "observers need an ensemble to follow: add server.N lines of participants (one participant with observers needs \
         standaloneEnabled=false)"
    )]
    ObserversAlone,
    /// A key without which an ensemble cannot run.
    #[error("{key} is missing: with several server.N lines add a line such as {key}={example} (in ticks)")]
    LimitMissing {
        key: &'static str,
        /// A usual value, in ticks.
        example: u32,
    },
    /// Two different addresses for clients.
    #[error(
        "clientPort/clientPortAddress say {file}, but the line of this server (server.{node}) says {line}: remove one of them"
    )]
    ClientAddress {
        node: u8,
        /// Address from `clientPort` and `clientPortAddress`.
        file: String,
        /// Address from the server's own line.
        line: String,
    },
    /// Clients and other servers on one port.
    #[error(
        "port {port} is that of clients ({clients}) and the first one of this server's own line (server.{node}), for the other \
         servers: give clients another one"
    )]
    ClientsAtPeers {
        node: u8,
        port: u16,
        /// Address of the client listener.
        clients: String,
    },
    /// One port for local and for linearizable reads.
    #[error(
        "paddock.linearizableClientPort={port} is the other port for clients as well: give it one of its own (or write \
         paddock.readConsistency=linearizable, and no second port)"
    )]
    TwoPortsInOne { port: u16 },
    /// A client address in the server's own line that is no address of this machine.
    #[error(
        "the line of this server names '{host}' as its address for clients, which is no address of this machine"
    )]
    ClientHost { host: String },
    #[error(
        "{} is missing: with several server.N lines each server needs its own number there, such as: echo 1 > {}",
        path.display(), path.display()
    )]
    MyIdMissing {
        /// Where the file is expected.
        path: PathBuf,
    },
    #[error("cannot read this server's number from {}: {reason}", path.display())]
    MyIdUnreadable { path: PathBuf, reason: String },
    #[error("{} holds '{text}', which is not a number; write the N of this server's server.N line", path.display())]
    MyIdNoNumber {
        path: PathBuf,
        /// First 20 characters of the file.
        text: String,
    },
    /// A number outside of 1 to [`NODE_MAX`].
    #[error("{} holds {number}; server numbers are 1 to {NODE_MAX}", path.display())]
    MyIdRange { path: PathBuf, number: i64 },
    /// A number without a server line.
    #[error(
        "{} says that this is server {node}, but there is no server.{node} line (there are: {known}); correct the one or the \
         other", path.display()
    )]
    MyIdStranger {
        path: PathBuf,
        node: u8,
        /// The numbers of the server lines.
        known: String,
    },
    /// Times that are no multiples of the tick, or too close to each other.
    #[error(
        "paddock.raft.tick={tick_ms}, paddock.raft.heartbeat={heartbeat_ms}, paddock.raft.election={election_ms}: a heartbeat \
         must be a multiple of the tick, and an election timeout a multiple of the tick of at least three heartbeats"
    )]
    RaftClock { tick_ms: u64, heartbeat_ms: u64, election_ms: u64 },
    /// A key asks for a protection that this version cannot give.
    #[error(
        "line {line}: {key}={value} asks for a protection that this version cannot give: clients would be served without it; \
         remove the line to accept that"
    )]
    Unprotected { line: u32, key: String, value: String },
}
