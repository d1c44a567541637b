//! Settings of a run: targets, load, shape of the keys.
//!
//! Owns the settings and their validation. Never reads a command line (that is `cli`) and never starts
//! anything. Correct because a run begins with [`RunConfig::validate`], which refuses what cannot work.

use crate::gaps::GAP_MS_DEFAULT;
use crate::keyspace::KEYS_MAX;
use crate::value::VALUE_BYTES_MIN;
use paddock_transport::engine::Address;
use paddock_transport::event_loop::Choice;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Requests in flight per connection in a closed loop, by default. 16: deep enough that a server can batch,
/// shallow enough that latency still means something.
pub const OUTSTANDING_CLOSED_DEFAULT: u32 = 16;
/// Requests in flight per connection in an open loop, by default. The bound only protects memory:
/// ZooKeeper's own limit of requests in its pipeline (`globalOutstandingLimit`).
pub const OUTSTANDING_OPEN_DEFAULT: u32 = 1000;
/// Most connections of one run. A process has about a million descriptors at best, and one address has 64 k
/// ports to a target.
pub const CONNECTIONS_MAX: u32 = 1_000_000;
/// Most requests in flight per connection. With more, memory of the queue is measured instead of the
/// server.
pub const OUTSTANDING_MAX: u32 = 1_000_000;
/// Most bytes of a value. A request must fit `jute.maxbuffer`'s default of 1 MiB with its path and header.
pub const VALUE_BYTES_MAX: u32 = 1_000_000;

/// One server to drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address as the user wrote it, for messages and reports.
    pub text: String,
    pub address: Address,
}

impl FromStr for Target {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let address = if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(ConfigError::Target {
                    text: text.into(),
                    why: "the path after unix: is empty".into(),
                });
            }
            Address::Unix(PathBuf::from(path))
        } else {
            let mut found = text.to_socket_addrs().map_err(|e| ConfigError::Target {
                text: text.into(),
                why: format!("{e}; write HOST:PORT, for example 127.0.0.1:2181, or unix:/path"),
            })?;
            let address = found.next().ok_or_else(|| ConfigError::Target {
                text: text.into(),
                why: "the name has no address".into(),
            })?;
            Address::Tcp(address)
        };
        Ok(Self { text: text.to_owned(), address })
    }
}

/// Distribution of the intended instants of an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Exponential gaps, as of independent users.
    Poisson,
    /// Equal gaps, as of a metronome.
    Constant,
}

/// Distribution of the keys that are read and written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Every key equally often.
    Uniform,
    /// The k-th most popular key has weight `1 / k^exponent`.
    Zipf {
        /// Greater than zero. YCSB uses 0.99.
        exponent: f64,
    },
}

/// Credentials, sent on each connection right after the handshake request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// An authentication scheme of the server, such as `digest`.
    pub scheme: String,
    /// For the scheme `digest`: `user:password`.
    pub credentials: String,
}

impl FromStr for Auth {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (scheme, credentials) = text.split_once(':').ok_or(ConfigError::Auth)?;
        if scheme.is_empty() || credentials.is_empty() {
            return Err(ConfigError::Auth);
        }
        Ok(Self { scheme: scheme.to_owned(), credentials: credentials.to_owned() })
    }
}

/// Verbosity on standard error while a run is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A live line on a terminal, otherwise one plain line a second.
    Live,
    Quiet,
}

/// Settings of `paddock-load run`. The subcommand `idle` uses a part of them.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Servers; connections are dealt out over them in turn. Empty: the run starts an embedded server.
    pub targets: Vec<Target>,
    /// Share of reads, 0 to 1.
    pub reads: f64,
    /// Sessions, each on a connection of its own.
    pub connections: u32,
    /// Requests in flight per connection. `None`: the default of the kind of loop.
    pub outstanding: Option<u32>,
    /// Requests per second of an open loop. `None`: closed loop.
    pub rate: Option<f64>,
    /// Distribution of an open loop's instants.
    pub arrivals: Arrivals,
    /// Length of the measured time.
    pub duration: Duration,
    /// Time under the same load before the measured time.
    pub warmup: Duration,
    /// Number of znodes that are read and written.
    pub keys: u32,
    pub value_bytes: u32,
    pub distribution: Distribution,
    /// Threads of the generator. `None`: derived from the number of usable cores.
    pub threads: Option<u32>,
    /// Event loop of the generator and of the embedded server.
    pub transport: Choice,
    /// Seed of all random choices.
    pub seed: u64,
    pub check: bool,
    /// Servers are expected to fail under the load. The report then lists times without answers.
    pub through_failures: bool,
    /// A session that expires although its server answered within the last half of its timeout is a
    /// violation.
    pub sessions_must_live: bool,
    /// Read all keys back through every server at the end. `None`: with several targets, or through
    /// failures.
    pub verify_at_end: Option<bool>,
    /// Longest time without answers that is not yet a gap, ms.
    pub gap_ms: u64,
    /// Number of connections that write; the others only read. `None`: all connections write.
    pub writers: Option<u32>,
    /// Cores that the generator's threads are pinned to in turn. Empty: no pinning.
    pub cores: Vec<u32>,
    /// Path of the tree's root.
    pub root: String,
    /// Process ids of the servers on this machine, to report their CPU time.
    pub server_pids: Vec<u32>,
    /// Session timeout to ask for.
    pub session_timeout: Duration,
    pub auth: Option<Auth>,
    /// The command line, for the report.
    pub command: Vec<String>,
    pub progress: Progress,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            reads: 0.95,
            connections: 64,
            outstanding: None,
            rate: None,
            arrivals: Arrivals::Poisson,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
            keys: 100_000,
            value_bytes: 100,
            distribution: Distribution::Uniform,
            threads: None,
            transport: Choice::Auto,
            seed: 1,
            check: true,
            through_failures: false,
            sessions_must_live: false,
            verify_at_end: None,
            gap_ms: GAP_MS_DEFAULT,
            writers: None,
            cores: Vec::new(),
            root: "/paddock-load".to_owned(),
            server_pids: Vec::new(),
            session_timeout: Duration::from_secs(30),
            auth: None,
            command: Vec::new(),
            progress: Progress::Quiet,
        }
    }
}

impl RunConfig {
    /// Refuses settings that cannot work. The error names the option to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range =
            |option, ok: bool, wanted| if ok { Ok(()) } else { Err(ConfigError::Range { option, wanted }) };
        range("--reads", (0.0..=1.0).contains(&self.reads), "a share between 0 and 1, for example 0.95")?;
        range("--connections", (1..=CONNECTIONS_MAX).contains(&self.connections), "between 1 and 1000000")?;
        let outstanding = self.outstanding();
        range("--outstanding", (1..=OUTSTANDING_MAX).contains(&outstanding), "between 1 and 1000000")?;
        let rate_ok = self.rate.is_none_or(|r| r.is_finite() && (0.001..=1e9).contains(&r));
        range("--rate", rate_ok, "requests per second between 0.001 and 1000000000")?;
        range(
            "--duration",
            self.duration >= Duration::from_millis(1),
            "longer than nothing, for example 10s",
        )?;
        let day = Duration::from_secs(86_400);
        range("--duration", self.duration <= day * 7, "at most 7 days")?;
        range("--warmup", self.warmup <= day, "at most a day")?;
        range("--keys", (1..=KEYS_MAX).contains(&self.keys), "between 1 and 100000000")?;
        let value_ok = self.value_bytes <= VALUE_BYTES_MAX;
        range("--value-size", value_ok, "at most 1000000 bytes: a request must fit jute.maxbuffer")?;
        if let Distribution::Zipf { exponent } = self.distribution {
            let exponent_ok = exponent.is_finite() && exponent > 0.0 && exponent <= 10.0;
            range("--zipf-exponent", exponent_ok, "greater than 0 and at most 10, for example 0.99")?;
        }
        range("--threads", self.threads.is_none_or(|t| (1..=1024).contains(&t)), "between 1 and 1024")?;
        let timeout_ok = (Duration::from_millis(100)..=day).contains(&self.session_timeout);
        range("--timeout-ms", timeout_ok, "between 100 ms and a day")?;
        if self.check && self.value_bytes < VALUE_BYTES_MIN {
            return Err(ConfigError::ValueTooSmall);
        }
        range("--gap-ms", (1..=3_600_000).contains(&self.gap_ms), "between 1 and 3600000")?;
        let writers_ok = self.writers.is_none_or(|w| (1..=self.connections).contains(&w));
        range("--writers", writers_ok, "between 1 and --connections")?;
        if self.verify_at_end == Some(true) && !self.check {
            return Err(ConfigError::VerifyUnchecked);
        }
        if self.reads < 1.0 && self.keys < self.connections {
            return Err(ConfigError::FewerKeysThanConnections {
                keys: self.keys,
                connections: self.connections,
            });
        }
        let root = self.root.strip_prefix('/').unwrap_or("");
        if root.is_empty() || root.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(ConfigError::Root { root: self.root.clone() });
        }
        Ok(())
    }

    /// The setting, or the default of the kind of loop.
    pub fn outstanding(&self) -> u32 {
        let default = if self.rate.is_some() { OUTSTANDING_OPEN_DEFAULT } else { OUTSTANDING_CLOSED_DEFAULT };
        self.outstanding.unwrap_or(default)
    }

    /// Whether all keys are read back at the end of the run.
    pub fn verifies(&self) -> bool {
        self.check && self.verify_at_end.unwrap_or(self.through_failures || self.targets.len() > 1)
    }

    /// Threads of this run, given the number of cores that this process may use. The default is a third of
    /// them: a server does more per request than its load generator. Never more than there are connections.
    pub fn threads(&self, usable_cores: usize) -> usize {
        let wanted = self.threads.map_or((usable_cores / 3).max(1), |t| t as usize);
        wanted.min(self.connections as usize).max(1)
    }
}

/// A setting that cannot work.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number out of its range.
    #[error("{option} must be {wanted}")]
    Range {
        /// The flag, as written on the command line.
        option: &'static str,
        /// The accepted range in words.
        wanted: &'static str,
    },
    /// A target that is not an address.
    #[error("--target {text}: {why}")]
    Target {
        /// The target as the user wrote it.
        text: String,
        why: String,
    },
    /// Credentials that are not `scheme:credentials`.
    #[error("--auth must be SCHEME:CREDENTIALS, for example digest:user:password")]
    Auth,
    /// A value too small for the fields that the checker needs.
    #[error(
        "--value-size must be at least {VALUE_BYTES_MIN} so that answers can be checked (or add --no-check)"
    )]
    ValueTooSmall,
    /// Fewer keys than connections. Each key has one writer, so each writing connection needs a key.
    #[error(
        "--keys {keys} is less than --connections {connections}: each connection writes keys of its own; use at least as many keys"
    )]
    FewerKeysThanConnections { keys: u32, connections: u32 },
    /// Verification without checks: only a checked run knows the acknowledged values.
    #[error("--verify-at-end compares values with what was acknowledged: leave --no-check out")]
    VerifyUnchecked,
    /// A root that is not an absolute path below `/`.
    #[error("--root {root}: give an absolute path below /, for example /paddock-load")]
    Root { root: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_valid_run() {
        RunConfig::default().validate().unwrap();
    }

    #[test]
    fn a_target_is_an_address_or_a_unix_path_or_an_error_that_says_how() {
        let tcp: Target = "127.0.0.1:2181".parse().unwrap();
        assert_eq!(tcp.address, Address::Tcp("127.0.0.1:2181".parse().unwrap()));
        let unix: Target = "unix:/run/paddock.sock".parse().unwrap();
        assert_eq!(unix.address, Address::Unix("/run/paddock.sock".into()));
        let message = "127.0.0.1".parse::<Target>().unwrap_err().to_string();
        assert!(message.contains("HOST:PORT"), "{message}");
        assert!("unix:".parse::<Target>().is_err());
    }

    #[test]
    fn settings_that_cannot_work_name_the_option() {
        let refused = |change: fn(&mut RunConfig)| {
            let mut config = RunConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.reads = 1.5).contains("--reads"));
        assert!(refused(|c| c.connections = 0).contains("--connections"));
        assert!(refused(|c| c.outstanding = Some(0)).contains("--outstanding"));
        assert!(refused(|c| c.rate = Some(f64::NAN)).contains("--rate"));
        assert!(refused(|c| c.keys = 0).contains("--keys"));
        assert!(refused(|c| c.keys = 10).contains("--keys"));
        assert!(refused(|c| c.value_bytes = 4).contains("--no-check"));
        assert!(
            refused(|c| c.distribution = Distribution::Zipf { exponent: -1.0 }).contains("--zipf-exponent")
        );
        assert!(refused(|c| c.root = "/".into()).contains("--root"));
        assert!(refused(|c| c.root = "/a//b".into()).contains("--root"));
    }

    #[test]
    fn an_open_loop_is_not_throttled_by_the_closed_loops_window() {
        let closed = RunConfig::default();
        let open = RunConfig { rate: Some(1000.0), ..RunConfig::default() };
        assert_eq!(closed.outstanding(), OUTSTANDING_CLOSED_DEFAULT);
        assert_eq!(open.outstanding(), OUTSTANDING_OPEN_DEFAULT);
    }
}
