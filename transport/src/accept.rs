//! Listening sockets, and the distribution of accepted connections over loops.
//!
//! Owns the listeners and the round robin. One acceptor lives in one loop and hands each descriptor to the
//! next loop before anything is read from it, so a connection never moves. Never reads from or writes to a
//! connection.
//!
//! Correct because accepting pauses for [`ACCEPT_PAUSE`] when descriptors run out, and logs that once.
//! Only time or closed connections cure such an error, so that immediate retries would spin.

#![forbid(unsafe_code)]

use crate::engine::{Address, Closed, Origin};
use crate::event_loop::{Adoption, LoopHandle};
use crate::socket;
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections that the kernel may hold before they are accepted: a burst of reconnecting clients after a
/// failover. The kernel lowers it to `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long accepting pauses after an error such as EMFILE. Long enough to cost nothing, and short enough
/// that clients, which retry for seconds, do not notice.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a bind to an address in use is retried. The listener of a killed process outlives it until the
/// kernel has torn down its io_uring (some 15 ms on an idle machine). A supervisor's restart would find
/// the address taken.
pub const BIND_PATIENCE: Duration = Duration::from_millis(1500);

/// Pause between two tries within [`BIND_PATIENCE`].
const BIND_RETRY: Duration = Duration::from_millis(10);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is bound by another socket.
    #[error("{address} is in use: stop the other process or choose another address")]
    InUse { address: Address },
    /// The address is not on this machine, or needs a privilege that the process lacks.
    #[error("cannot listen on {address}: {source}{}", advice(source))]
    Failed { address: Address, source: std::io::Error },
}

/// Advice for errors that an operator can cure; empty otherwise.
fn advice(source: &std::io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::ADDRNOTAVAIL) => "; no interface of this machine has this address: write one that it has",
        Some(Errno::ACCESS) => {
            "; a port below 1024 needs CAP_NET_BIND_SERVICE, a unix socket a folder that this user may write: allow it, or \
             choose another address"
        }
        _ => "",
    }
}

/// A listening socket. Dropping it closes it and removes a unix socket's path.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens on `address`. TCP port 0 takes any free port, see [`Listener::local_address`]. A unix
    /// socket's path without a listener (left by a killed process) is taken over. An address in use is
    /// retried for up to [`BIND_PATIENCE`].
    pub fn bind(address: &Address) -> Result<Listener, ListenError> {
        let begun = Instant::now();
        loop {
            let source = match Self::try_bind(address) {
                Ok(listener) => return Ok(listener),
                Err(source) => source,
            };
            if Errno::from_io_error(&source) != Some(Errno::ADDRINUSE) {
                return Err(ListenError::Failed { address: address.clone(), source });
            }
            if begun.elapsed() >= BIND_PATIENCE {
                return Err(ListenError::InUse { address: address.clone() });
            }
            std::thread::sleep(BIND_RETRY);
        }
    }

    /// The bound address, with its port filled in.
    pub fn local_address(&self) -> &Address {
        &self.address
    }

    /// A second handle on the same socket, which listens while either handle lives. Dropping the first
    /// handle removes the path of a unix socket.
    pub fn share(&self) -> std::io::Result<Listener> {
        Ok(Listener { socket: self.socket.try_clone()?, address: self.address.clone(), path: None })
    }

    fn try_bind(address: &Address) -> std::io::Result<Listener> {
        let socket = socket::socket_for(address)?;
        let at = socket::sockaddr(address)?;
        let mut path = None;
        match address {
            Address::Tcp(_) => {
                socket.set_reuse_address(true)?;
                socket.bind(&at)?;
            }
            Address::Unix(p) => {
                if let Err(e) = socket.bind(&at) {
                    let in_use = Errno::from_io_error(&e) == Some(Errno::ADDRINUSE);
                    if !in_use || !is_abandoned(address, p) {
                        return Err(e);
                    }
                    std::fs::remove_file(p)?;
                    socket.bind(&at)?;
                }
                path = Some(p.clone());
            }
        }
        socket.listen(LISTEN_BACKLOG)?;
        // Accepting must never wait: a connection may be reset between its announcement and the accept.
        socket.set_nonblocking(true)?;
        let address = match address {
            Address::Tcp(_) => {
                let bound = socket.local_addr()?.as_socket().ok_or(Errno::AFNOSUPPORT)?;
                Address::Tcp(bound)
            }
            Address::Unix(_) => address.clone(),
        };
        Ok(Listener { socket: socket.into(), address, path })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a socket file has no listener behind it.
fn is_abandoned(address: &Address, path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket
        && socket::start_connect(address).is_err_and(|e| Errno::from_io_error(&e) == Some(Errno::CONNREFUSED))
}

/// Accepts on its listeners and distributes the connections over its loops. Give it to one of them with
/// [`crate::event_loop::EventLoop::accept_with`].
pub struct Acceptor {
    pub(crate) listeners: Vec<Listening>,
    targets: Vec<LoopHandle>,
    next: usize,
}

impl Acceptor {
    /// Deals connections of `listeners` (numbered in this order, see [`Origin::listener`]) round-robin to
    /// `targets`.
    ///
    /// # Panics
    /// If `targets` is empty.
    pub fn new(listeners: Vec<Listener>, targets: Vec<LoopHandle>) -> Acceptor {
        assert!(!targets.is_empty(), "an acceptor needs a loop to deal to");
        let listeners = listeners.into_iter().map(Listening::new).collect();
        Acceptor { listeners, targets, next: 0 }
    }

    /// Hands a new connection to the next loop. If every loop refuses, the connection is closed.
    pub(crate) fn deal(&mut self, fd: OwnedFd, listener: usize) {
        let from = &self.listeners[listener].listener.address;
        // A peer that has gone already has no address: its connection is dropped.
        let Ok(peer) = socket::peer_of(&fd, from) else { return };
        if matches!(peer, Address::Tcp(_)) {
            let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
        }
        let origin = Origin { peer, listener: Some(listener as u16) };
        let mut adoption = Adoption { fd, origin };
        for _ in 0..self.targets.len() {
            let target = &self.targets[self.next];
            self.next = (self.next + 1) % self.targets.len();
            match target.try_adopt(adoption) {
                Ok(()) => return,
                Err(refused) => adoption = refused,
            }
        }
        tracing::debug!(peer = %adoption.origin.peer, "no loop takes the connection: closed");
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("listeners", &self.listeners.iter().map(|l| &l.listener.address).collect::<Vec<_>>())
            .field("targets", &self.targets.len())
            .finish_non_exhaustive()
    }
}

/// A listener and the state of accepting on it.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listener: Listener,
    /// Time (`Now::mono_ns`) before which the loop does not accept here.
    pub(crate) resting_until: Option<u64>,
    failure_logged: bool,
}

impl Listening {
    fn new(listener: Listener) -> Listening {
        Listening { listener, resting_until: None, failure_logged: false }
    }

    /// Records a successful accept, and logs the end of earlier failures.
    pub(crate) fn accepted(&mut self) {
        if std::mem::take(&mut self.failure_logged) {
            tracing::info!(listener = %self.listener.address, "accepting connections again");
        }
    }

    /// Records a failed accept. Returns `true` if a retry would fail too: the listener then pauses until
    /// `resting_until`.
    pub(crate) fn failed(&mut self, errno: Errno, now_ns: u64) -> bool {
        // These errors concern one connection. All others may repeat at once, so that going on would spin.
        if matches!(errno, Errno::CONNABORTED | Errno::INTR | Errno::AGAIN | Errno::PROTO) {
            return false;
        }
        if !std::mem::replace(&mut self.failure_logged, true) {
            let advice = match errno {
                Errno::MFILE => ": raise the limit of open files (ulimit -n, LimitNOFILE=)",
                Errno::NFILE => ": raise fs.file-max",
                _ => "",
            };
            tracing::warn!(listener = %self.listener.address, "cannot accept: {errno}{advice}; trying again every {ACCEPT_PAUSE:?}");
        }
        self.resting_until = Some(now_ns + ACCEPT_PAUSE.as_nanos() as u64);
        true
    }
}

/// The [`Closed`] of a connection that ends because of `errno`.
pub(crate) fn reason(errno: Errno) -> Closed {
    match socket::is_peers_doing(errno) {
        true => Closed::ByPeer,
        false => Closed::Failed(errno.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_a_killed_process_still_holds_for_a_moment_is_waited_for() {
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let dying = Listener::bind(&any).expect("a free port");
        let address = dying.local_address().clone();
        let (tell, about_to_bind) = std::sync::mpsc::channel();
        let kernel = std::thread::spawn(move || {
            about_to_bind.recv().expect("the other side binds");
            drop(dying);
        });
        tell.send(()).expect("the thread waits");
        let next = Listener::bind(&address);
        kernel.join().expect("no panic");
        assert_eq!(next.expect("it was waited for").local_address(), &address);
    }

    #[test]
    fn an_address_of_another_machine_is_told_as_such() {
        let documentation = Address::Tcp("192.0.2.1:0".parse().expect("an address"));
        let error = Listener::bind(&documentation).expect_err("no machine has it").to_string();
        assert!(error.contains("192.0.2.1") && error.contains("no interface of this machine"), "{error}");
    }

    #[test]
    fn an_address_that_stays_in_use_is_told_after_the_named_patience() {
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let other = Listener::bind(&any).expect("a free port");
        let begun = Instant::now();
        assert!(matches!(Listener::bind(other.local_address()), Err(ListenError::InUse { .. })));
        assert!(begun.elapsed() >= BIND_PATIENCE);
    }
}
