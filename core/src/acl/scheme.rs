//! The schemes: what an id must look like and whom an entry means (spec 02 §5.3).
//!
//! Owns `world`, `ip` and `digest`. Never looks anything up: other schemes (`sasl`, `x509`) have no provider
//! here, so their entries can be neither stored by clients nor matched. It stays correct because addresses are
//! compared as bytes after both were parsed, never as text.
#![forbid(unsafe_code)]

use super::Identified;
use crate::command::Identity;
use base64::Engine as _;
use sha1::{Digest, Sha1};
use std::net::Ipv6Addr;

/// The id that a connection gets for the auth data `user:password`: `user:base64(sha1(user:password))`. Without a
/// colon the whole is the user.
pub fn digest_id(user_password: &str) -> String {
    let user = user_password.split(':').next().unwrap_or_default();
    let hash = Sha1::digest(user_password.as_bytes());
    format!("{user}:{}", base64::engine::general_purpose::STANDARD.encode(hash))
}

/// Whether ids of `scheme` can stand in an ACL.
pub(super) fn has_provider(scheme: &str) -> bool {
    matches!(scheme, "world" | "ip" | "digest")
}

/// Whether `scheme` has a provider and it accepts `id` in an ACL.
pub(super) fn is_valid(scheme: &str, id: &str) -> bool {
    match scheme {
        "world" => id == "anyone",
        // Exactly two parts, counted as Java's split does: empty ones at the end are dropped.
        "digest" => id.trim_end_matches(':').split(':').count() == 2,
        "ip" => Masked::parse(id).is_some(),
        _ => false,
    }
}

/// Whether ids of this scheme are what `auth` in an ACL expands to.
pub(super) fn is_authenticated(scheme: &str) -> bool {
    scheme == "digest"
}

/// Whether one of `ids` is meant by the ACL id `of` (which is not the world).
pub(super) fn matches_any<I: Identified>(of: &Identity, ids: &[I]) -> bool {
    let same = || ids.iter().filter(|id| id.scheme() == of.scheme);
    match of.scheme.as_str() {
        "digest" => same().any(|id| id.id() == of.id),
        "ip" => Masked::parse(&of.id)
            .is_some_and(|net| same().any(|id| parse_address(id.id()).is_some_and(|a| net.holds(a)))),
        _ => false,
    }
}

/// An address of either family, left-aligned in 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Address {
    bits: u32,
    value: u128,
}

/// An address with the number of leading bits that count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Masked {
    address: Address,
    prefix: u32,
}

impl Masked {
    fn parse(text: &str) -> Option<Masked> {
        let (address, prefix) = match text.split_once('/') {
            None => (parse_address(text)?, None),
            Some((address, prefix)) => (parse_address(address)?, Some(parse_java_int(prefix)?)),
        };
        let prefix = match prefix {
            None => address.bits,
            Some(prefix) => u32::try_from(prefix).ok().filter(|p| *p <= address.bits)?,
        };
        Some(Masked { address, prefix })
    }

    /// Families never match each other, not even with `/0`.
    fn holds(&self, other: Address) -> bool {
        let differing = self.address.value ^ other.value;
        self.address.bits == other.bits && (self.prefix == 0 || differing >> (128 - self.prefix) == 0)
    }
}

fn parse_address(text: &str) -> Option<Address> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|a| Address { bits: 128, value: u128::from(a) });
    }
    // Not `Ipv4Addr`: ZooKeeper's parser takes leading zeros and a sign.
    let mut value: u32 = 0;
    let mut parts = 0;
    for part in text.split('.') {
        let byte = u8::try_from(parse_java_int(part)?).ok()?;
        value = value << 8 | u32::from(byte);
        parts += 1;
    }
    (parts == 4).then_some(Address { bits: 32, value: u128::from(value) << 96 })
}

/// As Java's `Integer.parseInt`: one sign, then digits, nothing else.
fn parse_java_int(text: &str) -> Option<i32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[(&str, &str)]) -> Vec<Identity> {
        list.iter().map(|(scheme, id)| Identity { scheme: (*scheme).into(), id: (*id).into() }).collect()
    }

    fn ip_matches(expression: &str, address: &str) -> bool {
        matches_any(&Identity { scheme: "ip".into(), id: expression.into() }, &ids(&[("ip", address)]))
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
        let of = Identity { scheme: "digest".into(), id: "1.2.3.4".into() };
        assert!(!matches_any(&of, &ids(&[("ip", "1.2.3.4")])));
        assert!(matches_any(&of, &ids(&[("ip", "9.9.9.9"), ("digest", "1.2.3.4")])));
        let sasl = Identity { scheme: "sasl".into(), id: "bob".into() };
        assert!(!matches_any(&sasl, &ids(&[("sasl", "bob")])), "no provider");
    }
}
