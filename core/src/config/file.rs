//! A `zoo.cfg` becomes a [`Config`].
//!
//! Owns the meaning and range of each key. Never drops one silently: what has no effect, is unknown, or is refused comes
//! back as a [`Finding`] or an error that names key and line. It stays correct because values are read by one
//! function per type, with the range beside the key.

#![forbid(unsafe_code)]

use super::keys::{self, Known};
use super::properties::{BadEscape, Property, parse};
use super::{
    Config, JUTE_MAX_BUFFER_BYTES, MAX_CLIENT_CNXNS_FILE, SESSION_TIMEOUT_MAX_MS, TICK_TIME_FILE_MS,
};
use paddock_transport::engine::Address;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

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
    #[error("line {line}: {key}={value}: {expected}")]
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
    /// Several `server.N` lines.
    #[error("{servers} server.N lines: this version runs standalone; keep one of them or none")]
    Ensemble {
        /// How many.
        servers: usize,
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

/// Reads the text of a configuration file.
pub fn read(text: &str) -> Result<(Config, Vec<Finding>), ConfigError> {
    let properties = parse(text)?;
    let mut findings = Vec::new();
    for p in &properties {
        let (line, key) = (p.line, p.key.clone());
        match keys::known(&p.key) {
            Known::Effective => {}
            Known::Guard if is_off(&p.value) => {}
            Known::Guard => return Err(ConfigError::Unprotected { line, key, value: p.value.clone() }),
            Known::NoEffect => findings.push(Finding::NoEffect { line, key }),
            Known::Unknown => {
                let nearest = keys::nearest(&p.key);
                findings.push(Finding::Unknown { line, key, nearest });
            }
        }
    }
    let servers = properties.iter().filter(|p| keys::plain(&p.key).starts_with("server.")).count();
    if servers > 1 {
        return Err(ConfigError::Ensemble { servers });
    }
    let file = Values(&properties);
    let mut config = Config::standalone(PathBuf::from(file.text("dataDir").ok_or(ConfigError::NoDataDir)?));
    config.listen = listeners(&file)?;
    config.tick_time_ms =
        file.number("tickTime", 1, u64::from(u32::MAX / 20))?.unwrap_or(TICK_TIME_FILE_MS.into()) as u32;
    let (min, max) = session_range(&file, config.tick_time_ms)?;
    (config.min_session_timeout_ms, config.max_session_timeout_ms) = (min, max);
    config.max_client_cnxns =
        file.number("maxClientCnxns", 0, i32::MAX as u64)?.unwrap_or(MAX_CLIENT_CNXNS_FILE.into()) as u32;
    config.jute_max_buffer_bytes = file
        .integer("jute.maxbuffer", 1024, i64::from(i32::MAX) - 1024)?
        .unwrap_or(JUTE_MAX_BUFFER_BYTES.into()) as u32;
    config.force_sync = file.switch("forceSync")?.unwrap_or(true);
    config.snap_count = file.number("snapCount", 2, u64::MAX)?.unwrap_or(config.snap_count);
    config.whitelist = file.text("4lw.commands.whitelist").unwrap_or("srvr").to_owned();
    config.super_digest = file.text("DigestAuthenticationProvider.superDigest").map(str::to_owned);
    config.skip_acl = file.switch("skipACL")?.unwrap_or(false);
    config.extended_types = file.switch("extendedTypesEnabled")?.unwrap_or(false);
    config.reconfig = file.switch("reconfigEnabled")?.unwrap_or(false);
    Ok((config, findings))
}

/// Every interface, both families where the kernel has IPv6, as Java binds.
pub(super) fn any_address(port: u16) -> Address {
    let v6 = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    Address::Tcp(if v6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    })
}

fn listeners(file: &Values<'_>) -> Result<Vec<Address>, ConfigError> {
    let Some(port) = file.number("clientPort", 0, u16::MAX.into())? else {
        return Err(ConfigError::NoListener);
    };
    let port = port as u16;
    let Some(p) = file.last("clientPortAddress") else { return Ok(vec![any_address(port)]) };
    let host = p.value.trim_start_matches('[').trim_end_matches(']');
    match (host, port).to_socket_addrs().ok().and_then(|mut all| all.next()) {
        Some(address) => Ok(vec![Address::Tcp(address)]),
        None => Err(bad(p, "a host name or an address of this machine".to_owned())),
    }
}

fn session_range(file: &Values<'_>, tick_ms: u32) -> Result<(u32, u32), ConfigError> {
    // -1 is ZooKeeper's way to say "the default".
    let get = |key, default: u64| -> Result<u64, ConfigError> {
        Ok(file
            .integer(key, -1, SESSION_TIMEOUT_MAX_MS as i64)?
            .filter(|v| *v >= 0)
            .map_or(default, |v| v as u64))
    };
    let min = get("minSessionTimeout", 2 * u64::from(tick_ms))?;
    let max = get("maxSessionTimeout", 20 * u64::from(tick_ms))?;
    if min > max {
        return Err(ConfigError::SessionRange { min, max });
    }
    Ok((min as u32, max.min(SESSION_TIMEOUT_MAX_MS) as u32))
}

fn is_off(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0" | "")
}

fn bad(p: &Property, expected: String) -> ConfigError {
    ConfigError::Value { line: p.line, key: p.key.clone(), value: p.value.clone(), expected }
}

/// The file's pairs, read by type. Of a key that comes twice the last one counts.
struct Values<'a>(&'a [Property]);

impl<'a> Values<'a> {
    fn last(&self, key: &str) -> Option<&'a Property> {
        self.0.iter().rev().find(|p| keys::plain(&p.key) == key)
    }
    fn text(&self, key: &str) -> Option<&'a str> {
        self.last(key).map(|p| p.value.as_str()).filter(|v| !v.is_empty())
    }
    fn number(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, ConfigError> {
        let Some(p) = self.last(key) else { return Ok(None) };
        match p.value.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(bad(p, format!("a whole number from {min} to {max}"))),
        }
    }
    /// Decimal or 0x…, as Java's `Integer.getInteger` takes it.
    fn integer(&self, key: &str, min: i64, max: i64) -> Result<Option<i64>, ConfigError> {
        let Some(p) = self.last(key) else { return Ok(None) };
        let parsed = match p.value.strip_prefix("0x").or_else(|| p.value.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => p.value.parse(),
        };
        match parsed {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(bad(p, format!("a whole number from {min} to {max}"))),
        }
    }
    fn switch(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(p) = self.last(key) else { return Ok(None) };
        match p.value.to_ascii_lowercase().as_str() {
            "yes" | "true" => Ok(Some(true)),
            "no" | "false" => Ok(Some(false)),
            _ => Err(bad(p, "yes or no (true or false)".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/var/lib/z\nclientPort=2181\n";

    #[test]
    fn zookeepers_sample_file_works_as_it_is() {
        let (config, findings) = read(SAMPLE).unwrap();
        assert_eq!(
            (config.tick_time_ms, config.min_session_timeout_ms, config.max_session_timeout_ms),
            (2000, 4000, 40000)
        );
        assert_eq!(config.max_client_cnxns, 60);
        assert_eq!(config.whitelist, "srvr");
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("initLimit is accepted"));
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_neighbour() {
        let (_, findings) = read(&format!("{SAMPLE}maxClientCnxn=5\n")).unwrap();
        assert_eq!(
            findings.last().unwrap().to_string(),
            "line 6: maxClientCnxn is not a known key; did you mean maxClientCnxns?"
        );
    }

    #[test]
    fn values_out_of_range_name_line_and_range() {
        for (line, part) in [
            ("tickTime=0", "from 1"),
            ("clientPort=70000", "from 0 to 65535"),
            ("maxClientCnxns=-1", "from 0"),
            ("forceSync=maybe", "yes or no"),
            ("clientPortAddress=256.1.1.1", "host name"),
            ("jute.maxbuffer=5", "from 1024"),
        ] {
            let error = read(&format!("{SAMPLE}{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 6: ") && error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn session_timeouts_that_contradict_each_other_are_refused() {
        let text = format!("{SAMPLE}minSessionTimeout=9000\nmaxSessionTimeout=8000\n");
        assert!(matches!(read(&text), Err(ConfigError::SessionRange { min: 9000, max: 8000 })));
        let (config, _) = read(&format!("{SAMPLE}minSessionTimeout=-1\n")).unwrap();
        assert_eq!(config.min_session_timeout_ms, 4000);
    }

    #[test]
    fn an_ensemble_or_a_protection_we_lack_is_refused_not_ignored() {
        let text = format!("{SAMPLE}server.1=a:1:2\nserver.2=b:1:2\n");
        assert!(matches!(read(&text), Err(ConfigError::Ensemble { servers: 2 })));
        let text = format!("{SAMPLE}enforce.auth.enabled=true\n");
        assert!(matches!(read(&text), Err(ConfigError::Unprotected { .. })));
        assert!(read(&format!("{SAMPLE}enforce.auth.enabled=false\n")).is_ok());
    }

    #[test]
    fn missing_directory_or_port_says_what_to_add() {
        assert!(read("clientPort=1\n").unwrap_err().to_string().contains("dataDir="));
        assert!(read("dataDir=x\n").unwrap_err().to_string().contains("clientPort="));
    }

    #[test]
    fn hexadecimal_buffer_sizes_are_read_as_java_reads_them() {
        let (config, _) = read(&format!("{SAMPLE}jute.maxbuffer=0x400000\n")).unwrap();
        assert_eq!(config.jute_max_buffer_bytes, 4 << 20);
    }
}
