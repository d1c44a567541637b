//! The client listeners that a file asks for.
//!
//! Owns the meaning of `clientPort`, `clientPortAddress`, the client part of the server's own line, and the
//! keys that make reads linearizable.
//! Never opens a client listener.
//! Correct because two addresses for the same listener are an error unless they are equal.

#![forbid(unsafe_code)]

use super::Config;
use super::ensemble::Servers;
use super::findings::ConfigError;
use super::values::{Values, bad};
use crate::members::is_wildcard;
use crate::properties::Property;
use paddock_transport::engine::Address;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Every interface, IPv4 and IPv6 where the kernel has IPv6, as Java binds.
pub(super) fn any_address(port: u16) -> Address {
    let v6 = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    Address::Tcp(if v6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    })
}

/// Decides where clients connect. The server's own line may give the port instead of `clientPort`. If both
/// do, they must agree, as in ZooKeeper.
pub(super) fn listeners(
    config: &mut Config,
    file: &Values<'_>,
    servers: &Servers,
) -> Result<(), ConfigError> {
    let port = file.number("clientPort", 0, u16::MAX.into())?.map(|p| p as u16);
    let host = file.last("clientPortAddress");
    let plain = match (port, &servers.client) {
        (None, None) => None,
        (Some(port), None) => Some(at(host, port)?),
        (None, Some((line_host, port))) => {
            let named = host.map(|p| p.value.as_str()).filter(|h| !is_wildcard(h));
            if let Some(named) = named.filter(|h| h != line_host) {
                return Err(ConfigError::ClientAddress {
                    node: servers.node,
                    file: named.to_owned(),
                    line: format!("{line_host}:{port}"),
                });
            }
            Some(resolve(line_host, *port).map_err(|()| no_address(line_host))?)
        }
        (Some(port), Some((line_host, line_port))) => {
            let named = host.map(|p| p.value.as_str()).filter(|h| !is_wildcard(h));
            if port != *line_port || named.is_some_and(|h| !is_wildcard(line_host) && h != line_host) {
                return Err(ConfigError::ClientAddress {
                    node: servers.node,
                    file: format!("{}:{port}", named.unwrap_or("0.0.0.0")),
                    line: format!("{line_host}:{line_port}"),
                });
            }
            Some(if named.is_some() {
                at(host, port)?
            } else {
                resolve(line_host, port).map_err(|()| no_address(line_host))?
            })
        }
    };
    config.linearizable = match file.last("paddock.readConsistency") {
        None => false,
        Some(p) if p.value.eq_ignore_ascii_case("local") => false,
        Some(p) if p.value.eq_ignore_ascii_case("linearizable") => true,
        Some(p) => return Err(bad(p, "local or linearizable".to_owned())),
    };
    let linearizable = file.number("paddock.linearizableClientPort", 0, u16::MAX.into())?;
    let beside = |port| match &plain {
        Some(Address::Tcp(plain)) => Ok(Address::Tcp(SocketAddr::new(plain.ip(), port))),
        _ => at(host, port),
    };
    if let (Some(port @ 1..), Some(Address::Tcp(plain))) = (linearizable, &plain)
        && u64::from(plain.port()) == port
    {
        return Err(ConfigError::TwoPortsInOne { port: plain.port() });
    }
    config.listen_linearizable = linearizable.map(|p| beside(p as u16)).transpose()?.into_iter().collect();
    config.listen = plain.into_iter().collect();
    if config.listen.is_empty() && config.listen_linearizable.is_empty() {
        return Err(ConfigError::NoListener);
    }
    Ok(())
}

/// `port` on the interface that `clientPortAddress` names, or on all interfaces.
fn at(host: Option<&Property>, port: u16) -> Result<Address, ConfigError> {
    let Some(p) = host else { return Ok(any_address(port)) };
    resolve(&p.value, port).map_err(|()| bad(p, "a host name or an address of this machine".to_owned()))
}

pub(super) fn resolve(host: &str, port: u16) -> Result<Address, ()> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "0.0.0.0" {
        return Ok(any_address(port));
    }
    let found = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    found.map(Address::Tcp).ok_or(())
}

fn no_address(host: &str) -> ConfigError {
    ConfigError::ClientHost { host: host.to_owned() }
}
