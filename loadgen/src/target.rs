//! The server that a run drives: the targets of the command line, or an embedded server.
//!
//! Owns the list of targets, the server's version, and the embedded server for as long as the run lasts.
//! Never decides how the server is driven. Correct because `stop` takes the value: no run can use a stopped
//! server.

use crate::config::{RunConfig, Target};
use crate::embedded::{EmbeddedServer, EmbeddedServerError};
use crate::report::ServerSummary;
use paddock_transport::engine::Address;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for the answer to `srvr`. A slow server only loses its version in the report.
const VERSION_PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer to `srvr` that is read. Servers send a few hundred bytes.
const VERSION_BYTES_MAX: u64 = 16 * 1024;

/// The server of a run.
pub struct ServerUnderTest {
    /// Servers that sessions connect to, in turn.
    pub targets: Arc<[Target]>,
    /// Process ids of the servers; empty when unknown or when the server is embedded.
    pub pids: Vec<u32>,
    version: Option<String>,
    embedded: Option<EmbeddedServer>,
}

impl ServerUnderTest {
    /// The targets of `config`, or an embedded server for a generator of `threads` threads.
    pub fn find(config: &RunConfig, threads: usize) -> Result<Self, EmbeddedServerError> {
        let (targets, embedded): (Arc<[Target]>, _) = if config.targets.is_empty() {
            let embedded = EmbeddedServer::start(config, threads)?;
            let target = |address: Address| Target { text: address.to_string(), address };
            (embedded.addresses().into_iter().map(target).collect(), Some(embedded))
        } else {
            (config.targets.clone().into(), None)
        };
        let version = targets.first().and_then(|target| version(&target.address));
        Ok(Self { targets, pids: config.server_pids.clone(), version, embedded })
    }

    /// For an embedded server: thread ids of this process from before the server started.
    pub fn other_threads(&self) -> Option<&[u32]> {
        self.embedded.as_ref().map(EmbeddedServer::other_threads)
    }

    /// The server's part of a report.
    pub fn summary(&self) -> ServerSummary {
        ServerSummary {
            targets: self.targets.iter().map(|t| t.text.clone()).collect(),
            embedded: self.embedded.is_some(),
            version: self.version.clone(),
            pids: self.pids.clone(),
            pid: self.pids.first().copied(),
        }
    }

    /// Stops an embedded server. Servers of the command line keep running.
    pub fn stop(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop();
        }
    }
}

/// Version in the answer to the command `srvr`; `None` if the server at `address` does not answer it.
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
    // Bytes from before a timeout are kept: the version is on the first line.
    let _ = stream.take(VERSION_BYTES_MAX).read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}
