//! The embedded server: Paddock in the generator's own process, for a run without `--target`.
//!
//! Owns every use of `paddock-core` in this crate: the server, its cores and its signals. Never drives the
//! server: the load reaches it over TCP, as it reaches any other. Correct because no other module imports
//! `paddock-core`. A run against a named server therefore executes no server code but the signal handler.
//! (The test `failures` starts server processes itself.)

use crate::config::RunConfig;
use crate::machine::CpuSample;
use paddock_core::config::Config;
use paddock_core::server::{Server, ServerOptions, cores};
use paddock_transport::engine::Address;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tempfile::TempDir;
use thiserror::Error;

pub use paddock_core::server::stop_signal;

/// Why the embedded server did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EmbeddedServerError {
    /// The data directory could not be made.
    #[error(
        "making a temporary directory for the embedded server: {0}; set TMPDIR to one that can be written, or give --target"
    )]
    Directory(io::Error),
    /// The server refused its settings, or could not bind, open or recover.
    #[error("starting the embedded server: {0}")]
    Server(#[from] paddock_core::server::StartError),
    /// This process was not found in `/proc`.
    #[error("reading /proc/self: {0}")]
    Proc(io::Error),
}

/// A running server on a loopback port, with a temporary data directory.
pub struct EmbeddedServer {
    server: Server,
    // Declared after the server: fields are dropped in order, so the directory outlives the server.
    directory: TempDir,
    /// Thread ids of this process from before the server started.
    other_threads: Vec<u32>,
}

impl EmbeddedServer {
    /// Starts a server beside a generator of `threads` threads.
    pub fn start(config: &RunConfig, threads: usize) -> Result<Self, EmbeddedServerError> {
        let before = CpuSample::read(None, 0).map_err(EmbeddedServerError::Proc)?;
        let other_threads = before.threads.iter().map(|thread| thread.tid).collect();
        let directory = tempfile::Builder::new()
            .prefix("paddock-load-")
            .tempdir()
            .map_err(EmbeddedServerError::Directory)?;
        let mut settings = Config::standalone(directory.path().to_owned());
        settings.listen = vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
        let mut options = ServerOptions::new(settings);
        options.transport = config.transport;
        options.cores = cores::usable().ok().and_then(|usable| server_cores(usable, &config.cores, threads));
        Ok(Self { server: Server::start(options)?, directory, other_threads })
    }

    /// Addresses that clients connect to.
    pub fn addresses(&self) -> Vec<Address> {
        self.server.client_addresses().to_vec()
    }

    /// Thread ids of this process from before the server started: none of them is a server thread.
    pub fn other_threads(&self) -> &[u32] {
        &self.other_threads
    }

    /// Stops the server and removes its directory. A failure is only logged: the results are in hand.
    pub fn stop(self) {
        if let Err(error) = self.server.stop() {
            tracing::warn!("the embedded server did not stop cleanly: {error}");
        }
        if let Err(error) = self.directory.close() {
            tracing::warn!("the embedded server's directory was not removed: {error}");
        }
    }
}

/// Cores for the embedded server: those that the generator's threads do not need. `None`: there are too few
/// for both, so server and generator share all cores.
fn server_cores(usable: Vec<usize>, pinned: &[u32], threads: usize) -> Option<Vec<usize>> {
    let mut left: Vec<usize> = usable.into_iter().filter(|&core| !pinned.contains(&(core as u32))).collect();
    if pinned.is_empty() {
        left.truncate(left.len().saturating_sub(threads));
    }
    (!left.is_empty()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_and_embedded_server_do_not_share_cores_if_there_are_enough() {
        assert_eq!(server_cores(vec![0, 1], &[], 1), Some(vec![0]));
        assert_eq!(server_cores(vec![0, 1, 2, 3], &[], 1), Some(vec![0, 1, 2]));
        assert_eq!(server_cores(vec![0, 1, 2, 3], &[0, 1], 2), Some(vec![2, 3]));
        assert_eq!(server_cores(vec![0], &[], 1), None);
    }
}
