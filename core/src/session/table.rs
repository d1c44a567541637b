//! The replicated session table.
//!
//! Owns each session's timeout, password, attachment number and the paths of its ephemerals. Never decides
//! when a session dies. It stays the same on all nodes because only the machine changes it, in log order, and it
//! is listed in the order of ids wherever order can be seen.
#![forbid(unsafe_code)]

use foldhash::fast::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Length of a session's password: the protocol's.
pub const PASSWORD_BYTES: usize = 16;

/// One session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Negotiated timeout, ms.
    pub timeout_ms: i32,
    /// What a reattach must present.
    pub password: [u8; PASSWORD_BYTES],
    /// Number of the attachment that may write, from 1.
    pub attachment: u32,
    /// Its ephemerals, in the order in which they go when it closes.
    pub ephemerals: BTreeSet<Arc<str>>,
}

/// All sessions.
#[derive(Clone, Default, Debug)]
pub struct SessionTable {
    sessions: HashMap<i64, Session, RandomState>,
}

impl SessionTable {
    /// The session, if it lives.
    pub fn get(&self, id: i64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// The session, to be changed.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// Adds a session, or replaces one.
    pub fn insert(&mut self, id: i64, session: Session) {
        self.sessions.insert(id, session);
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: i64) -> Option<Session> {
        self.sessions.remove(&id)
    }

    /// All sessions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// All sessions by id.
    pub fn sorted(&self) -> Vec<(i64, &Session)> {
        let mut sessions: Vec<_> = self.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| *id);
        sessions
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// Whether `presented` is the password. Takes the same time wherever the first difference is.
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
