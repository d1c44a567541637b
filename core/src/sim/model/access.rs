//! ACL checks.
//!
//! Owns the reading of an ACL: `world:anyone`, an id's own entry, and `super`, which has all rights. Never
//! sees a client: ids come with the command, or with the request that is checked.

use crate::command::Identity;
use paddock_transport::wire::perms;

/// An ACL as a list of (permissions, scheme, id).
pub type Entries = Vec<(i32, String, String)>;

/// Whether these ids hold one of the needed permissions.
pub fn allows(acl: &Entries, needed: i32, who: &[Identity]) -> bool {
    let is = |scheme: &str, id: &str| who.iter().any(|own| own.scheme == scheme && own.id == id);
    let granted = acl.iter().filter(|(perms, ..)| perms & needed != 0);
    who.iter().any(|own| own.scheme == "super")
        || granted.into_iter().any(|(_, scheme, id)| (scheme == "world" && id == "anyone") || is(scheme, id))
}

/// The list as getACL returns it. Only ids that may change the list see the hash of a digest.
pub fn shown(acl: &Entries, who: &[Identity]) -> Entries {
    let all = allows(acl, perms::ADMIN, who);
    let entry = |(perms, scheme, id): &(i32, String, String)| match id.split_once(':') {
        Some((user, _)) if scheme == "digest" && !all => (*perms, scheme.clone(), format!("{user}:x")),
        _ => (*perms, scheme.clone(), id.clone()),
    };
    acl.iter().map(entry).collect()
}
