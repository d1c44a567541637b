//! The server that a run drives: the one that was given, or one of our own for the occasion.
//!
//! Owns the embedded server and its temporary directory for as long as the run lasts. Never decides how it is driven.

use crate::config::{RunConfig, Target};
use crate::machine::CpuSample;
use crate::report::ServerSummary;
use paddock_core::config::Config;
use paddock_core::server::{Server, ServerOptions, cores};
use paddock_transport::engine::Address;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use thiserror::Error;

/// How long a server may take to say its version. It need not say it at all.
const VERSION_PATIENCE: Duration = Duration::from_millis(500);
/// Its answer is a few hundred bytes.
const VERSION_BYTES_MAX: u64 = 16 * 1024;

/// Why there is no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// No place for its data.
    #[error(
        "making a temporary directory for the embedded server: {0}; set TMPDIR to one that can be written, or give --target"
    )]
    Directory(io::Error),
    /// It did not start.
    #[error("starting the embedded server: {0}")]
    Server(#[from] paddock_core::server::StartError),
    /// This process was not found in `/proc`.
    #[error("reading /proc/self: {0}")]
    Proc(io::Error),
}

/// The server of a run.
pub struct ServerUnderTest {
    /// Where it is.
    pub targets: Arc<[Target]>,
    /// Its processes, when known and not ours.
    pub pids: Vec<u32>,
    version: Option<String>,
    embedded: Option<Embedded>,
}

/// A server of our own. Its directory goes after it.
struct Embedded {
    server: Server,
    directory: TempDir,
    /// Threads that were there before it.
    others: Vec<u32>,
}

impl ServerUnderTest {
    /// The targets of `config`, or an embedded server for a generator of `threads` threads.
    pub fn find(config: &RunConfig, threads: usize) -> Result<Self, StartError> {
        let (targets, embedded): (Arc<[Target]>, _) = if config.targets.is_empty() {
            let embedded = Embedded::start(config, threads)?;
            let target = |address: &Address| Target { text: address.to_string(), address: address.clone() };
            (embedded.server.client_addresses().iter().map(target).collect(), Some(embedded))
        } else {
            (config.targets.clone().into(), None)
        };
        let version = targets.first().and_then(|target| version(&target.address));
        Ok(Self { targets, pids: config.server_pids.clone(), version, embedded })
    }

    /// For an embedded server: the threads of this process that were there before it.
    pub fn other_threads(&self) -> Option<&[u32]> {
        self.embedded.as_ref().map(|e| &e.others[..])
    }

    /// For the report.
    pub fn summary(&self) -> ServerSummary {
        ServerSummary {
            targets: self.targets.iter().map(|t| t.text.clone()).collect(),
            embedded: self.embedded.is_some(),
            version: self.version.clone(),
            pids: self.pids.clone(),
            pid: self.pids.first().copied(),
        }
    }

    /// Stops it if it is ours.
    pub fn stop(self) {
        let Some(Embedded { server, directory, .. }) = self.embedded else { return };
        if let Err(error) = server.stop() {
            tracing::warn!("the embedded server did not stop cleanly: {error}");
        }
        if let Err(error) = directory.close() {
            tracing::warn!("the embedded server's directory was not removed: {error}");
        }
    }
}

impl Embedded {
    fn start(config: &RunConfig, threads: usize) -> Result<Self, StartError> {
        let others =
            CpuSample::read(None, 0).map_err(StartError::Proc)?.threads.iter().map(|t| t.tid).collect();
        let directory =
            tempfile::Builder::new().prefix("paddock-load-").tempdir().map_err(StartError::Directory)?;
        let mut settings = Config::standalone(directory.path().to_owned());
        settings.listen = vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
        let mut options = ServerOptions::new(settings);
        options.transport = config.transport;
        options.cores = cores::usable().ok().and_then(|usable| servers_cores(usable, &config.cores, threads));
        Ok(Self { server: Server::start(options)?, directory, others })
    }
}

/// The cores that the embedded server gets: those that the generator's threads need not. `None`: there are not enough
/// for both, so each takes what it finds.
fn servers_cores(usable: Vec<usize>, pinned: &[u32], threads: usize) -> Option<Vec<usize>> {
    let mut left: Vec<usize> = usable.into_iter().filter(|&core| !pinned.contains(&(core as u32))).collect();
    if pinned.is_empty() {
        left.truncate(left.len().saturating_sub(threads));
    }
    (!left.is_empty()).then_some(left)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_and_embedded_server_do_not_share_cores_if_there_are_enough() {
        assert_eq!(servers_cores(vec![0, 1], &[], 1), Some(vec![0]));
        assert_eq!(servers_cores(vec![0, 1, 2, 3], &[], 1), Some(vec![0, 1, 2]));
        assert_eq!(servers_cores(vec![0, 1, 2, 3], &[0, 1], 2), Some(vec![2, 3]));
        assert_eq!(servers_cores(vec![0], &[], 1), None);
    }
}
