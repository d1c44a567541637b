//! The schemes of ACL ids: which ids are well-formed, and which connections an entry applies to (spec 02
//! §5.3).
//!
//! Owns `world`, `ip` and `digest`.
//! Never accepts another scheme: `sasl` and `x509` have no provider here, so clients cannot store entries of
//! theirs, and such entries match no connection.
//! Correct because addresses are parsed before they are compared.
#![forbid(unsafe_code)]

use super::{AclEntry, Identified};
use base64::Engine as _;
use ipnet::IpNet;
use sha1::{Digest, Sha1};
use std::net::{IpAddr, Ipv6Addr};

/// The id of a connection that sent the auth data `user:password`: `user:base64(sha1(user:password))`. Auth
/// data without a colon is all user name.
pub fn digest_id(user_password: &str) -> String {
    let user = user_password.split(':').next().unwrap_or_default();
    let hash = Sha1::digest(user_password.as_bytes());
    format!("{user}:{}", base64::engine::general_purpose::STANDARD.encode(hash))
}

/// Whether an ACL may hold ids of `scheme`.
pub(super) fn has_provider(scheme: &str) -> bool {
    matches!(scheme, "world" | "ip" | "digest")
}

/// Whether `scheme` has a provider and it accepts `id` in an ACL.
pub(super) fn is_valid(scheme: &str, id: &str) -> bool {
    match scheme {
        "world" => id == "anyone",
        // Exactly two parts, counted as Java's split counts: without empty parts at the end.
        "digest" => id.trim_end_matches(':').split(':').count() == 2,
        "ip" => parse_network(id).is_some(),
        _ => false,
    }
}

/// Whether `auth` in a requested ACL expands to ids of this scheme.
pub(super) fn is_authenticated(scheme: &str) -> bool {
    scheme == "digest"
}

/// Whether `entry`, which is not for the world, applies to one of `ids`. IPv4 and IPv6 never match each
/// other, not even with `/0`.
pub(super) fn matches_any<I: Identified>(entry: &AclEntry, ids: &[I]) -> bool {
    let mut same = ids.iter().filter(|id| id.scheme() == entry.id.scheme);
    match (entry.id.scheme.as_str(), &entry.network) {
        ("digest", _) => same.any(|id| id.id() == entry.id.id),
        ("ip", Some(network)) => same.any(|id| parse_address(id.id()).is_some_and(|a| network.contains(&a))),
        _ => false,
    }
}

/// Parses the id of an `ip` entry: an address, or an address and the number of its leading bits that count.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    let Some((address, prefix)) = text.split_once('/') else {
        return parse_address(text).map(IpNet::from);
    };
    let prefix = u8::try_from(parse_java_int(prefix)?).ok()?;
    IpNet::new(parse_address(address)?, prefix).ok()
}

fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    // `Ipv4Addr` refuses leading zeros and a sign, which ZooKeeper's parser accepts.
    let mut parts = text.split('.').map(|part| u8::try_from(parse_java_int(part)?).ok());
    let octets = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then(|| IpAddr::from(octets))
}

/// As Java's `Integer.parseInt`: one sign, then digits, nothing else.
fn parse_java_int(text: &str) -> Option<i32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Identity;

    fn ids(list: &[(&str, &str)]) -> Vec<Identity> {
        list.iter().map(|(scheme, id)| Identity { scheme: (*scheme).into(), id: (*id).into() }).collect()
    }

    fn entry(scheme: &str, id: &str) -> AclEntry {
        AclEntry::new(1, Identity { scheme: scheme.into(), id: id.into() })
    }

    fn ip_matches(expression: &str, address: &str) -> bool {
        matches_any(&entry("ip", expression), &ids(&[("ip", address)]))
    }

    #[test]
    fn the_digest_of_bob_is_the_one_of_the_real_server() {
        assert_eq!(digest_id("bob:pw"), "bob:ikIaKsbtGweaHnb/jKn7OHqbunM=");
        assert_eq!(digest_id("abc").split(':').next(), Some("abc"));
        // The user ends at the first colon; the password may hold more of them.
        assert!(digest_id("u:p:q").starts_with("u:"));
        assert_ne!(digest_id("u:p:q"), digest_id("u:p"));
    }

    #[test]
    fn digest_ids_have_exactly_two_parts() {
        for (id, valid) in [
            ("a:b", true),
            (":b", true),
            ("a:b:", true),
            ("a:b::", true),
            ("", false),
            ("x", false),
            ("a:", false),
            (":", false),
            ("a:b:c", false),
            ("a::c", false),
        ] {
            assert_eq!(is_valid("digest", id), valid, "{id:?}");
        }
    }

    #[test]
    fn ip_ids_that_may_be_stored() {
        for (id, valid) in [
            ("1.2.3.4", true),
            ("1.2.3.4/0", true),
            ("1.2.3.4/32", true),
            ("01.2.3.004/+8", true),
            ("::1", true),
            ("2001:db8::/32", true),
            ("::/0", true),
            ("::1/128", true),
            ("::ffff:1.2.3.4", true),
            ("300.1.1.1", false),
            ("1.1.1.1/33", false),
            ("1.1.1.1/-1", false),
            ("1.1.1", false),
            ("1.1.1.1.1", false),
            ("1.1.1.1/", false),
            ("1.1.1.1/8/8", false),
            ("1.1.1.-1", false),
            ("", false),
            ("host", false),
            ("::1/129", false),
            (":::", false),
            ("12345::", false),
            ("fe80::1%eth0", false),
        ] {
            assert_eq!(is_valid("ip", id), valid, "{id:?}");
        }
    }

    #[test]
    fn ip_matching_compares_the_leading_bits_within_a_family() {
        for (expression, address, matches) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.2.0/24", "10.1.2.255", true),
            ("10.1.2.77/24", "10.1.2.1", true),
            ("10.1.2.0/24", "10.1.3.0", false),
            ("10.1.2.128/25", "10.1.2.127", false),
            ("10.0.0.0/7", "11.255.0.1", true),
            ("10.0.0.0/7", "12.0.0.0", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "1.2.3.4", false),
            ("::/0", "fe80::1", true),
            ("::1", "0:0:0:0:0:0:0:1", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1/128", "::1", true),
            ("1.2.3.4", "garbage", false),
            ("garbage", "1.2.3.4", false),
        ] {
            assert_eq!(ip_matches(expression, address), matches, "{expression} {address}");
        }
    }

    #[test]
    fn schemes_do_not_match_across_each_other() {
        let of = entry("digest", "1.2.3.4");
        assert!(!matches_any(&of, &ids(&[("ip", "1.2.3.4")])));
        assert!(matches_any(&of, &ids(&[("ip", "9.9.9.9"), ("digest", "1.2.3.4")])));
        let sasl = entry("sasl", "bob");
        assert!(!matches_any(&sasl, &ids(&[("sasl", "bob")])), "no provider");
    }
}
