//! Reads a `zoo.cfg` into a [`Config`].
//!
//! Owns the meaning and range of each key.
//! Never ignores a key silently: a key that has no effect, is unknown, or is refused becomes a [`Finding`]
//! or an error with key and line.
//! Correct because one function for each type reads the values, with the range beside the key.

#![forbid(unsafe_code)]

use super::ensemble::{self, Servers};
use super::findings::{ConfigError, Finding};
use super::keys::{self, Known};
use super::listeners::listeners;
use super::values::Values;
use super::{
    Config, INIT_LIMIT_TICKS, JUTE_MAX_BUFFER_BYTES, MAX_CLIENT_CNXNS_FILE, MAX_STALENESS_MIN_MS, RaftClock,
    SESSION_TIMEOUT_MAX_MS, SYNC_LIMIT_TICKS, TICK_TIME_FILE_MS,
};
use crate::admin::words::Words;
use crate::members::MembersError;
use crate::properties::parse;
use paddock_transport::engine::Address;
use std::io;
use std::path::{Path, PathBuf};

/// Reads a configuration file and the files it refers to. `data_dir` replaces the file's own.
pub fn load(path: &Path, data_dir: Option<&Path>) -> Result<(Config, Vec<Finding>), String> {
    let text = read_text(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    read(&text, data_dir, &read_text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads UTF-8, or else Latin-1, which Java uses for properties files: an umlaut in an old comment must not
/// prevent a start.
fn read_text(path: &Path) -> io::Result<String> {
    let bytes = std::fs::read(path)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| e.into_bytes().into_iter().map(char::from).collect()))
}

/// Reads the text of a configuration file. `other` reads the files that it refers to (`myid`, the dynamic
/// file).
pub fn read(
    text: &str,
    data_dir: Option<&Path>,
    other: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<(Config, Vec<Finding>), ConfigError> {
    let properties = parse(text)?;
    let mut findings = Vec::new();
    for p in &properties {
        let (line, key) = (p.line, p.key.clone());
        match keys::known(&p.key) {
            Known::Effective => {}
            Known::Guard if is_off(&p.value) => {}
            Known::Guard => return Err(ConfigError::Unprotected { line, key, value: p.value.clone() }),
            Known::Hierarchy => {
                let error = MembersError::Hierarchy { key: p.key.clone() };
                return Err(ConfigError::Server { line, key, error });
            }
            Known::NoEffect => findings.push(Finding::NoEffect { line, key }),
            Known::Unknown => {
                let nearest = keys::nearest(&p.key);
                findings.push(Finding::Unknown { line, key, nearest });
            }
        }
    }
    let file = Values(&properties);
    let data_dir = match (data_dir, file.text("dataDir")) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(dir)) => PathBuf::from(dir),
        (None, None) => return Err(ConfigError::NoDataDir),
    };
    let mut config = Config::standalone(data_dir);
    let servers = ensemble::settle(&file, &config.data_dir, other, &mut findings)?;
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
    if let Some(p) = file.last("4lw.commands.whitelist") {
        let misfits = Words::parse(&p.value).1;
        findings.extend(misfits.into_iter().map(|misfit| Finding::Word { line: p.line, misfit }));
    }
    config.super_digest = file.text("DigestAuthenticationProvider.superDigest").map(str::to_owned);
    if let Some(p) = file.last("DigestAuthenticationProvider.superDigest").filter(|p| !is_digest(&p.value)) {
        findings.push(Finding::SuperDigest { line: p.line });
    }
    config.skip_acl = file.switch("skipACL")?.unwrap_or(false);
    config.extended_types = file.switch("extendedTypesEnabled")?.unwrap_or(false);
    config.reconfig = file.switch("reconfigEnabled")?.unwrap_or(false);
    listeners(&mut config, &file, &servers)?;
    quorum(&mut config, &file, servers)?;
    apart(&config)?;
    Ok((config, findings))
}

/// Refuses one port for clients and for other servers. Without this check the bind would fail as if another
/// process held the port.
fn apart(config: &Config) -> Result<(), ConfigError> {
    let peers = config.ensemble.as_ref().map(|e| e.peer_listener());
    // A host name that cannot be resolved now may resolve at the start, which reports the error otherwise.
    let Some(Ok(Address::Tcp(peers))) = peers else { return Ok(()) };
    let clash = config.listeners().find_map(|clients| match clients {
        Address::Tcp(at) if at.port() == peers.port() && at.port() != 0 => {
            let all = at.ip().is_unspecified() || peers.ip().is_unspecified();
            (all || at.ip() == peers.ip()).then_some(at)
        }
        _ => None,
    });
    match clash {
        None => Ok(()),
        Some(at) => {
            Err(ConfigError::ClientsAtPeers { node: config.node, port: at.port(), clients: at.to_string() })
        }
    }
}

/// Settings of the ensemble: limits, Raft's clock, and the servers.
fn quorum(config: &mut Config, file: &Values<'_>, servers: Servers) -> Result<(), ConfigError> {
    let tick_ms = u64::from(config.tick_time_ms);
    // Sums in ms must fit the signed 32 bits of the protocol and of the metrics.
    let ticks_max = (i32::MAX as u64 / tick_ms).max(1);
    let limit = |key: &'static str, default: u32| -> Result<u32, ConfigError> {
        match file.number(key, 1, ticks_max)? {
            Some(ticks) => Ok((ticks * tick_ms) as u32),
            None if servers.ensemble.is_some() => Err(ConfigError::LimitMissing { key, example: default }),
            None => Ok((u64::from(default).min(ticks_max) * tick_ms) as u32),
        }
    };
    config.init_limit_ms = limit("initLimit", INIT_LIMIT_TICKS)?;
    config.sync_limit_ms = limit("syncLimit", SYNC_LIMIT_TICKS)?;
    config.max_staleness_ms = file
        .number("paddock.maxStaleness", MAX_STALENESS_MIN_MS.into(), i32::MAX as u64)?
        .map_or(config.sync_limit_ms, |ms| ms as u32);
    config.read_only_mode = file.switch("readonlymode.enabled")?.unwrap_or(false);
    config.raft = raft_clock(file)?;
    config.node = servers.node;
    config.dynamic_file = servers.dynamic;
    config.standalone_enabled = servers.standalone_enabled;
    config.ensemble = servers.ensemble;
    Ok(())
}

fn raft_clock(file: &Values<'_>) -> Result<RaftClock, ConfigError> {
    let clock = RaftClock::default();
    let get = |key, default: u32| file.number(key, 1, 60_000).map(|ms| ms.unwrap_or(default.into()));
    let tick_ms = get("paddock.raft.tick", clock.tick_ms)?;
    let heartbeat_ms = get("paddock.raft.heartbeat", clock.heartbeat_ms)?;
    let election_ms = get("paddock.raft.election", clock.election_ms)?;
    let whole = heartbeat_ms.is_multiple_of(tick_ms) && election_ms.is_multiple_of(tick_ms);
    if !whole || election_ms < 3 * heartbeat_ms {
        return Err(ConfigError::RaftClock { tick_ms, heartbeat_ms, election_ms });
    }
    let (tick_ms, heartbeat_ms, election_ms) = (tick_ms as u32, heartbeat_ms as u32, election_ms as u32);
    Ok(RaftClock { tick_ms, heartbeat_ms, election_ms })
}

fn session_range(file: &Values<'_>, tick_ms: u32) -> Result<(u32, u32), ConfigError> {
    // -1 stands for the default, as in ZooKeeper.
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

/// Whether the value is a name and a SHA-1 digest in base64, or empty (no superuser).
fn is_digest(value: &str) -> bool {
    let base64 = |c: u8| c.is_ascii_alphanumeric() || c == b'+' || c == b'/';
    value.is_empty()
        || value.split_once(':').is_some_and(|(_, digest)| {
            digest.len() == 28 && digest.strip_suffix('=').is_some_and(|d| d.bytes().all(base64))
        })
}

fn is_off(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0" | "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/var/lib/z\nclientPort=2181\n";

    /// Reads a text that refers to no other file.
    fn plain(text: &str) -> Result<(Config, Vec<Finding>), ConfigError> {
        read(text, None, &|_| Err(io::ErrorKind::NotFound.into()))
    }

    #[test]
    fn zookeepers_sample_file_works_as_it_is() {
        let (config, findings) = plain(SAMPLE).unwrap();
        assert_eq!(
            (config.tick_time_ms, config.min_session_timeout_ms, config.max_session_timeout_ms),
            (2000, 4000, 40000)
        );
        assert_eq!(config.max_client_cnxns, 60);
        assert_eq!(config.whitelist, "srvr");
        assert_eq!(findings, []);
        assert_eq!(
            (config.init_limit_ms, config.sync_limit_ms, config.max_staleness_ms),
            (20_000, 10_000, 10_000)
        );
        assert_eq!((config.ensemble, config.node), (None, 1));
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_neighbour() {
        let (_, findings) = plain(&format!("{SAMPLE}maxClientCnxn=5\n")).unwrap();
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
            let error = plain(&format!("{SAMPLE}{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 6: ") && error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn session_timeouts_that_contradict_each_other_are_refused() {
        let text = format!("{SAMPLE}minSessionTimeout=9000\nmaxSessionTimeout=8000\n");
        assert!(matches!(plain(&text), Err(ConfigError::SessionRange { min: 9000, max: 8000 })));
        let (config, _) = plain(&format!("{SAMPLE}minSessionTimeout=-1\n")).unwrap();
        assert_eq!(config.min_session_timeout_ms, 4000);
    }

    #[test]
    fn a_quorum_or_a_protection_we_lack_is_refused_not_ignored() {
        let text = format!("{SAMPLE}group.1=1:2:3\n");
        assert!(matches!(plain(&text), Err(ConfigError::Server { line: 6, .. })));
        let text = format!("{SAMPLE}enforce.auth.enabled=true\n");
        assert!(matches!(plain(&text), Err(ConfigError::Unprotected { .. })));
        assert!(plain(&format!("{SAMPLE}enforce.auth.enabled=false\n")).is_ok());
    }

    #[test]
    fn missing_directory_or_port_says_what_to_add() {
        assert!(plain("clientPort=1\n").unwrap_err().to_string().contains("dataDir="));
        assert!(plain("dataDir=x\n").unwrap_err().to_string().contains("clientPort="));
    }

    #[test]
    fn hexadecimal_buffer_sizes_are_read_as_java_reads_them() {
        let (config, _) = plain(&format!("{SAMPLE}jute.maxbuffer=0x400000\n")).unwrap();
        assert_eq!(config.jute_max_buffer_bytes, 4 << 20);
    }
}
