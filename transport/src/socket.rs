//! Socket calls that both socket loops share, for TCP and unix stream sockets.
//!
//! Owns nothing. Never waits: a call that takes time is started here and finished by a loop.

#![forbid(unsafe_code)]

use crate::engine::Address;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The kernel's form of an address.
pub(crate) fn sockaddr(address: &Address) -> io::Result<SockAddr> {
    match address {
        Address::Tcp(at) => Ok(SockAddr::from(*at)),
        Address::Unix(path) => SockAddr::unix(path),
    }
}

/// A socket for `address`, with `TCP_NODELAY` set on TCP.
pub(crate) fn socket_for(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp(at) => {
            let socket = Socket::new(Domain::for_address(*at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_tcp_nodelay(true)?;
            Ok(socket)
        }
        Address::Unix(_) => Socket::new(Domain::UNIX, Type::STREAM, None),
    }
}

/// How far a connection attempt got without waiting.
pub(crate) enum Attempt {
    /// The connection is established.
    Connected(OwnedFd),
    /// The attempt continues in the kernel. Writability announces its end.
    Started(OwnedFd),
    /// The listener's queue is full (unix sockets only). The kernel dropped the attempt, and the caller
    /// must retry.
    Busy,
}

/// Begins to connect without waiting.
pub(crate) fn start_connect(address: &Address) -> io::Result<Attempt> {
    let to = sockaddr(address)?;
    let socket = socket_for(address)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to) {
        Ok(()) => Ok(Attempt::Connected(socket.into())),
        Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
            Ok(Attempt::Started(socket.into()))
        }
        Err(e) if e.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => Ok(Attempt::Busy),
        Err(e) => Err(e),
    }
}

/// The remote address of an accepted connection. Unix peers carry the listener's address.
pub(crate) fn peer_of(fd: impl AsFd, listener: &Address) -> io::Result<Address> {
    match listener {
        Address::Unix(_) => Ok(listener.clone()),
        Address::Tcp(_) => {
            let peer = rustix::net::getpeername(fd)?.ok_or(Errno::NOTCONN)?;
            let at = std::net::SocketAddr::try_from(peer).map_err(io::Error::from)?;
            Ok(Address::Tcp(at))
        }
    }
}

/// Whether the peer caused this error of an established connection.
pub(crate) fn is_peers_doing(errno: Errno) -> bool {
    matches!(errno, Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::SHUTDOWN)
}
