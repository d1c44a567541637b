//! What the server runs with, once files, flags and defaults are settled.
//!
//! Owns every setting, its default and its range. Never opens a socket or a data directory. It stays correct because
//! a [`Config`] is only made by [`Config::standalone`] and [`read`], and both end in the same validation.

#![forbid(unsafe_code)]

mod file;
pub mod keys;
pub mod properties;

pub use file::{ConfigError, Finding, read};

use paddock_transport::engine::Address;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// ZooKeeper's client port.
pub const CLIENT_PORT: u16 = 2181;
/// ZooKeeper's default limit of a request frame, bytes: 1 MiB less one.
pub const JUTE_MAX_BUFFER_BYTES: u32 = 0xf_ffff;
/// Tick without a configuration file, ms: that of ZooKeeper's sample files.
pub const TICK_TIME_MS: u32 = 2000;
/// Tick with a configuration file that names none, ms: ZooKeeper's default.
pub const TICK_TIME_FILE_MS: u32 = 3000;
/// Connections per client address with a configuration file that names no limit.
pub const MAX_CLIENT_CNXNS_FILE: u32 = 60;
/// Commands between two checkpoints.
pub const SNAP_COUNT: u64 = 100_000;
/// Largest session timeout accepted, ms: what the protocol's signed field can carry.
const SESSION_TIMEOUT_MAX_MS: u64 = i32::MAX as u64;

/// Every setting, settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Where log, snapshots and identity live.
    pub data_dir: PathBuf,
    /// Client listeners.
    pub listen: Vec<Address>,
    /// The unit of session expiry, ms.
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
    /// Four-letter words that are answered: names and commas, or `*`; see [`crate::admin::words::Words::parse`].
    pub whitelist: String,
    /// `super:hash` of the superuser, if there is one.
    pub super_digest: Option<String>,
    /// No ACL is checked.
    pub skip_acl: bool,
    /// TTL znodes are allowed.
    pub extended_types: bool,
    /// `reconfig` is allowed.
    pub reconfig: bool,
}

impl Config {
    /// What runs without a configuration file: loopback only, no limit per client address, all four-letter words.
    pub fn standalone(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
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
        }
    }

    /// `name = value` of everything that is in force, one a line, for `paddock check` and the log.
    pub fn effective(&self) -> Vec<(&'static str, String)> {
        let listen: Vec<String> = self.listen.iter().map(Address::to_string).collect();
        vec![
            ("dataDir", self.data_dir.display().to_string()),
            ("listen", listen.join(",")),
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
    }
}

/// Reads `HOST:PORT`, `PORT` (loopback), `:PORT` (every interface) or `unix:PATH`; names are resolved.
pub fn parse_listen(text: &str) -> Result<Vec<Address>, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("unix: needs a path, such as unix:/run/paddock.sock".to_owned());
        }
        return Ok(vec![Address::Unix(PathBuf::from(path))]);
    }
    if let Ok(port) = text.parse::<u16>() {
        return Ok(vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))]);
    }
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse::<u16>().map_err(|_| format!("'{port}' is not a port"))?;
        return Ok(vec![file::any_address(port)]);
    }
    let resolved = std::net::ToSocketAddrs::to_socket_addrs(text)
        .map_err(|e| format!("'{text}' is not HOST:PORT, PORT, :PORT or unix:PATH ({e})"))?;
    let all: Vec<Address> = resolved.map(Address::Tcp).collect();
    if all.is_empty() { Err(format!("'{text}' resolves to no address")) } else { Ok(all) }
}
