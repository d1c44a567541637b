//! The replicated session table.
//!
//! Owns each session's timeout, password, attachment number and the paths of its ephemeral znodes.
//! Never decides when a session dies.
//! Correct because only the state machine changes it, in the order of the log. Where the order of sessions
//! is visible, they are listed by id.
#![forbid(unsafe_code)]

use foldhash::fast::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Fixed by ZooKeeper's protocol.
pub const PASSWORD_BYTES: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Negotiated timeout, ms.
    pub timeout_ms: i32,
    /// A client must present this password to reattach.
    pub password: [u8; PASSWORD_BYTES],
    /// Number of the attachment that may write, from 1.
    pub attachment: u32,
    /// Paths of the session's ephemeral znodes, in the order of their removal at the close.
    pub ephemerals: BTreeSet<Arc<str>>,
}

/// All live sessions, by id.
#[derive(Clone, Default, Debug)]
pub struct SessionTable {
    sessions: HashMap<i64, Session, RandomState>,
}

impl SessionTable {
    pub fn get(&self, id: i64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub fn get_mut(&mut self, id: i64) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub fn insert(&mut self, id: i64, session: Session) {
        self.sessions.insert(id, session);
    }

    pub fn remove(&mut self, id: i64) -> Option<Session> {
        self.sessions.remove(&id)
    }

    /// In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// In the order of ids.
    pub fn sorted(&self) -> Vec<(i64, &Session)> {
        let mut sessions: Vec<_> = self.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| *id);
        sessions
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// Whether `presented` is the password. The time does not depend on the position of the first difference.
pub fn password_matches(password: &[u8; PASSWORD_BYTES], presented: &[u8]) -> bool {
    presented.len() == PASSWORD_BYTES
        && password.iter().zip(presented).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_long_and_wrong_passwords_never_match() {
        let password = [7; PASSWORD_BYTES];
        assert!(password_matches(&password, &[7; 16]));
        assert!(!password_matches(&password, &[]));
        assert!(!password_matches(&password, &[7; 15]));
        assert!(!password_matches(&password, &[7; 17]));
        let mut wrong = password;
        wrong[15] = 8;
        assert!(!password_matches(&password, &wrong));
    }

    #[test]
    fn listing_is_by_id() {
        let mut table = SessionTable::default();
        for id in [5, -3, 9, 0] {
            let session =
                Session { timeout_ms: 1, password: [0; 16], attachment: 1, ephemerals: BTreeSet::new() };
            table.insert(id, session);
        }
        assert_eq!(table.sorted().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [-3, 0, 5, 9]);
    }
}
