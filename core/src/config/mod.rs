//! The settings of the server, from files, flags and defaults.
//!
//! Owns every setting, its default and its range.
//! Never opens a client listener or a data directory.
//! Correct because a [`Config`] comes from [`Config::standalone`], whose values are constants, or from
//! [`read`], which checks every value.

#![forbid(unsafe_code)]

mod ensemble;
mod file;
mod findings;
pub mod keys;
mod listeners;
mod values;

pub use ensemble::{Ensemble, MYID, PeerAddressError, write_dynamic};
pub use file::{load, read};
pub use findings::{ConfigError, Finding, LinePosition};

use paddock_transport::engine::Address;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// ZooKeeper's port for clients.
pub const CLIENT_PORT: u16 = 2181;
/// ZooKeeper's default limit of a request frame, bytes: 1 MiB less one.
pub const JUTE_MAX_BUFFER_BYTES: u32 = 0xf_ffff;
/// Tick without a configuration file, ms: that of ZooKeeper's sample files.
pub const TICK_TIME_MS: u32 = 2000;
/// Tick with a configuration file that sets none, ms: ZooKeeper's default.
pub const TICK_TIME_FILE_MS: u32 = 3000;
/// Connections per client address with a configuration file that sets no limit: ZooKeeper's default.
pub const MAX_CLIENT_CNXNS_FILE: u32 = 60;
/// Commands between two checkpoints: ZooKeeper's default.
pub const SNAP_COUNT: u64 = 100_000;
/// `initLimit` of ZooKeeper's sample files, ticks.
pub const INIT_LIMIT_TICKS: u32 = 10;
/// `syncLimit` of ZooKeeper's sample files, ticks.
pub const SYNC_LIMIT_TICKS: u32 = 5;
/// Smallest `paddock.maxStaleness`, ms. Below a few confirmations by the quorum, clients would be closed
/// again and again.
pub const MAX_STALENESS_MIN_MS: u32 = 100;
/// Longest session timeout, ms: the maximum of the protocol's signed field.
const SESSION_TIMEOUT_MAX_MS: u64 = i32::MAX as u64;

/// Complete settings of one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Directory of log, snapshots and identity.
    pub data_dir: PathBuf,
    /// This server's number, 1 to 254. Without an ensemble 1, or that of the only server line.
    pub node: u8,
    /// `None` on a standalone server.
    pub ensemble: Option<Ensemble>,
    /// Whether one voter is no ensemble: neither at the start nor as the result of a `reconfig`.
    pub standalone_enabled: bool,
    /// File of the server lines, rewritten with [`write_dynamic`] when the membership changes.
    pub dynamic_file: Option<PathBuf>,
    /// Listeners for clients.
    pub listen: Vec<Address>,
    /// Further listeners for clients, numbered after those of `listen`. All their reads are linearizable.
    pub listen_linearizable: Vec<Address>,
    /// Whether reads are linearizable on all listeners.
    pub linearizable: bool,
    /// Unit of session expiry, ms.
    pub tick_time_ms: u32,
    /// Shortest session timeout granted, ms.
    pub min_session_timeout_ms: u32,
    /// Longest session timeout granted, ms.
    pub max_session_timeout_ms: u32,
    /// Connections per client address; 0 = no limit.
    pub max_client_cnxns: u32,
    /// Longest request frame, bytes.
    pub jute_max_buffer_bytes: u32,
    /// Whether a write waits for the disk.
    pub force_sync: bool,
    /// Commands between two checkpoints.
    pub snap_count: u64,
    /// Enabled four-letter words: names separated by commas, or `*`; see
    /// [`crate::admin::words::Words::parse`].
    pub whitelist: String,
    /// The superuser, as `super:hash`.
    pub super_digest: Option<String>,
    /// Whether ACLs are ignored.
    pub skip_acl: bool,
    /// Whether TTL znodes are allowed.
    pub extended_types: bool,
    /// Whether `reconfig` is allowed.
    pub reconfig: bool,
    /// `initLimit`, ms. A server that is not in service so long after its start logs why and keeps trying: a
    /// joining server gets all the time that its catch-up needs.
    pub init_limit_ms: u32,
    /// Longest silence of a follower, ms; see `max_staleness_ms`.
    pub sync_limit_ms: u32,
    /// How long after the quorum's last confirmation this server answers reads, ms.
    pub max_staleness_ms: u32,
    /// Whether read-only clients are served without a quorum.
    pub read_only_mode: bool,
    pub raft: RaftClock,
}

/// Raft's clock, independent of `tickTime`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RaftClock {
    /// Unit of Raft's clock, ms.
    pub tick_ms: u32,
    /// Interval of the leader's heartbeats, ms; a multiple of the tick.
    pub heartbeat_ms: u32,
    /// Shortest election timeout, ms; a multiple of the tick. Each node draws its own between this and twice
    /// this.
    pub election_ms: u32,
}

impl RaftClock {
    /// Unit of Raft's clock, ns.
    pub fn tick_ns(self) -> u64 {
        u64::from(self.tick_ms) * 1_000_000
    }

    /// Ticks between two heartbeats of the leader.
    pub fn heartbeat_ticks(self) -> usize {
        (self.heartbeat_ms / self.tick_ms) as usize
    }

    /// Fewest ticks without a leader before a node becomes a candidate.
    pub fn election_ticks(self) -> usize {
        (self.election_ms / self.tick_ms) as usize
    }
}

/// Heartbeats and elections are multiples of the tick. Five lost heartbeats lead to an election. The range
/// of timeouts makes simultaneous candidates rare.
impl Default for RaftClock {
    fn default() -> Self {
        Self { tick_ms: 20, heartbeat_ms: 60, election_ms: 300 }
    }
}

impl Config {
    /// Settings without a configuration file: loopback only, no limit per client address, all four-letter
    /// words.
    pub fn standalone(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            node: 1,
            ensemble: None,
            standalone_enabled: true,
            dynamic_file: None,
            listen_linearizable: Vec::new(),
            linearizable: false,
            listen: vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, CLIENT_PORT)))],
            tick_time_ms: TICK_TIME_MS,
            min_session_timeout_ms: 2 * TICK_TIME_MS,
            max_session_timeout_ms: 20 * TICK_TIME_MS,
            max_client_cnxns: 0,
            jute_max_buffer_bytes: JUTE_MAX_BUFFER_BYTES,
            force_sync: true,
            snap_count: SNAP_COUNT,
            whitelist: "*".to_owned(),
            super_digest: None,
            skip_acl: false,
            extended_types: false,
            reconfig: false,
            init_limit_ms: INIT_LIMIT_TICKS * TICK_TIME_MS,
            sync_limit_ms: SYNC_LIMIT_TICKS * TICK_TIME_MS,
            max_staleness_ms: SYNC_LIMIT_TICKS * TICK_TIME_MS,
            read_only_mode: false,
            raft: RaftClock::default(),
        }
    }

    /// All client listeners, in the order of [`paddock_transport::engine::Origin::listener`].
    pub fn listeners(&self) -> impl Iterator<Item = &Address> {
        self.listen.iter().chain(&self.listen_linearizable)
    }

    /// Whether reads on the `listener`th of [`Config::listeners`] are linearizable.
    pub fn is_linearizable(&self, listener: u16) -> bool {
        self.linearizable || usize::from(listener) >= self.listen.len()
    }

    /// `name = value` of every setting in force, for `paddock check` and the log.
    pub fn effective(&self) -> Vec<(String, String)> {
        let joined = |all: &[Address]| all.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
        let mut all: Vec<(String, String)> = [
            ("dataDir", self.data_dir.display().to_string()),
            ("serverId", self.node.to_string()),
            ("listen", joined(&self.listen)),
            ("listenLinearizable", joined(&self.listen_linearizable)),
            ("paddock.readConsistency", if self.linearizable { "linearizable" } else { "local" }.to_owned()),
            ("tickTime", self.tick_time_ms.to_string()),
            ("minSessionTimeout", self.min_session_timeout_ms.to_string()),
            ("maxSessionTimeout", self.max_session_timeout_ms.to_string()),
            ("maxClientCnxns", self.max_client_cnxns.to_string()),
            ("jute.maxbuffer", self.jute_max_buffer_bytes.to_string()),
            ("forceSync", if self.force_sync { "yes" } else { "no" }.to_owned()),
            ("snapCount", self.snap_count.to_string()),
            ("4lw.commands.whitelist", self.whitelist.clone()),
            ("superDigest", if self.super_digest.is_some() { "(set)" } else { "(none)" }.to_owned()),
            ("skipACL", if self.skip_acl { "yes" } else { "no" }.to_owned()),
            ("extendedTypesEnabled", self.extended_types.to_string()),
            ("reconfigEnabled", self.reconfig.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(ensemble) = &self.ensemble {
            let of_ensemble = [
                ("peerType", ensemble.role().to_string()),
                ("initLimit", (self.init_limit_ms / self.tick_time_ms).to_string()),
                ("syncLimit", (self.sync_limit_ms / self.tick_time_ms).to_string()),
                ("paddock.maxStaleness", self.max_staleness_ms.to_string()),
                ("readonlymode.enabled", self.read_only_mode.to_string()),
                ("standaloneEnabled", self.standalone_enabled.to_string()),
                ("quorumListenOnAllIPs", ensemble.listen_all.to_string()),
                ("paddock.raft.tick", self.raft.tick_ms.to_string()),
                ("paddock.raft.heartbeat", self.raft.heartbeat_ms.to_string()),
                ("paddock.raft.election", self.raft.election_ms.to_string()),
            ];
            all.extend(of_ensemble.map(|(name, value)| (name.to_owned(), value)));
            let servers = &ensemble.members.members;
            all.extend(servers.iter().map(|(node, member)| (format!("server.{node}"), member.spec())));
        }
        all
    }
}

impl Config {
    /// The lines of the word `conf`: ZooKeeper's keys in its order and with its values, then Paddock's own.
    /// The membership, which follows in the answer, is not included.
    pub fn conf_lines(&self) -> Vec<String> {
        let port =
            self.listeners().find_map(|a| if let Address::Tcp(at) = a { Some(at.port()) } else { None });
        let effective = self.effective();
        let value = |name: &str| {
            let found = effective.iter().find(|(n, _)| n == name);
            found.map_or_else(String::new, |(_, value)| value.clone())
        };
        let me = self.ensemble.as_ref().and_then(|e| e.members.get(self.node).map(|m| (e, m)));
        let mut lines = vec![
            ("clientPort", port.map_or("-1".to_owned(), |p| p.to_string())),
            ("secureClientPort", "-1".to_owned()),
        ];
        for name in ["dataDir", "tickTime", "maxClientCnxns", "minSessionTimeout", "maxSessionTimeout"] {
            lines.push((name, value(name)));
        }
        lines.push(("serverId", if me.is_some() { self.node.to_string() } else { "0".to_owned() }));
        if let Some((ensemble, me)) = me {
            let observer = u8::from(ensemble.role() == crate::members::MemberRole::Observer);
            lines.extend([
                ("initLimit", value("initLimit")),
                ("syncLimit", value("syncLimit")),
                ("electionAlg", "3".to_owned()),
                ("electionPort", me.election_port.to_string()),
                ("quorumPort", me.peer_port.to_string()),
                ("peerType", observer.to_string()),
            ]);
        }
        let mut all: Vec<String> = lines.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let ours = effective.iter().filter(|(name, _)| !name.starts_with("server."));
        let ours = ours.filter(|(name, _)| !lines.iter().any(|(known, _)| known == name));
        all.extend(ours.map(|(name, value)| format!("{name}={value}")));
        all
    }
}

/// Reads `HOST:PORT`, `PORT` (loopback), `:PORT` (every interface) or `unix:PATH`. Names are resolved.
pub fn parse_listen(text: &str) -> Result<Vec<Address>, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("unix: needs a path, such as unix:/run/paddock.sock".to_owned());
        }
        return Ok(vec![Address::Unix(PathBuf::from(path))]);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let port =
            text.parse::<u16>().map_err(|_| format!("'{text}' is not a port: 0 (a free one) to 65535"))?;
        return Ok(vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))]);
    }
    if let Some(port) = text.strip_prefix(':').filter(|port| !port.contains(':')) {
        let port =
            port.parse::<u16>().map_err(|_| format!("'{port}' is not a port: 0 (a free one) to 65535"))?;
        return Ok(vec![listeners::any_address(port)]);
    }
    let resolved =
        std::net::ToSocketAddrs::to_socket_addrs(text).map_err(|e| match text.rsplit_once(':') {
            Some((host, port))
                if port.parse::<u16>().is_ok() && (!host.contains(':') || host.starts_with('[')) =>
            {
                format!("'{host}' is no address and no name that is known here ({e})")
            }
            _ => format!(
                "'{text}' is not HOST:PORT (IPv6 addresses stand in brackets), PORT, :PORT or unix:PATH"
            ),
        })?;
    let all: Vec<Address> = resolved.map(Address::Tcp).collect();
    if all.is_empty() { Err(format!("'{text}' resolves to no address")) } else { Ok(all) }
}

#[cfg(test)]
mod tests;
