//! The server that a run drives: the one that was given, or one of our own for the occasion.
//!
//! Owns the embedded server and its temporary directory for as long as the run lasts. Never decides how it is driven.

use crate::config::{RunConfig, Target};
use crate::report::ServerSummary;
use paddock_transport::engine::Address;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long a server may take to say its version. It need not say it at all.
const VERSION_PATIENCE: Duration = Duration::from_millis(500);
/// Its answer is a few hundred bytes.
const VERSION_BYTES_MAX: u64 = 16 * 1024;

/// Why there is no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// None was named.
    #[error("name a server: --target 127.0.0.1:2181")]
    NoTarget,
}

/// The server of a run.
#[derive(Debug)]
pub struct ServerUnderTest {
    /// Where it is.
    pub targets: Arc<[Target]>,
    /// Its process, when known and not ours.
    pub pid: Option<u32>,
    version: Option<String>,
}

impl ServerUnderTest {
    /// The targets of `config`.
    pub fn find(config: &RunConfig) -> Result<Self, StartError> {
        if config.targets.is_empty() {
            return Err(StartError::NoTarget);
        }
        let targets: Arc<[Target]> = config.targets.clone().into();
        let version = targets.first().and_then(|target| version(&target.address));
        Ok(Self { targets, pid: config.server_pid, version })
    }

    /// For an embedded server: the threads of this process that are neither its nor the generator's.
    pub fn other_threads(&self) -> Option<&[u32]> {
        None
    }

    /// For the report.
    pub fn summary(&self, _config: &RunConfig) -> ServerSummary {
        ServerSummary {
            targets: self.targets.iter().map(|t| t.text.clone()).collect(),
            embedded: false,
            version: self.version.clone(),
            pid: self.pid,
        }
    }

    /// Stops it if it is ours.
    pub fn stop(self) {}
}

/// What the server at `address` calls itself, if it answers the four-letter word `srvr`.
fn version(address: &Address) -> Option<String> {
    let answer = match address {
        Address::Tcp(tcp) => {
            let stream = TcpStream::connect_timeout(tcp, VERSION_PATIENCE).ok()?;
            stream.set_read_timeout(Some(VERSION_PATIENCE)).ok()?;
            ask(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).ok()?;
            stream.set_read_timeout(Some(VERSION_PATIENCE)).ok()?;
            ask(stream)
        }
    }?;
    let line = answer.lines().find_map(|line| line.split_once("version:"))?.1;
    let version = line.split(',').next()?.split("--").next()?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

fn ask(mut stream: impl Read + Write) -> Option<String> {
    stream.write_all(b"srvr").ok()?;
    let mut answer = Vec::new();
    // What came before a timeout is good enough.
    let _ = stream.take(VERSION_BYTES_MAX).read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}
