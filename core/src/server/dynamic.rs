//! Keeps the file of `dynamicConfigFile` equal to the ensemble's membership.
//!
//! Owns the time of each write.
//! Never takes the membership from the file: it comes from the log.
//! Correct because only an applied membership is written. A failed write is reported once, and leaves the
//! file out of date.

#![forbid(unsafe_code)]

use crate::config::{Config, write_dynamic};
use crate::members::Members;
use crossbeam_channel::Receiver;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Interval of the comparisons: soon after a change an operator should find it in the file.
const LOOK: Duration = Duration::from_secs(1);

/// The file, and the membership that it was last compared with.
pub(super) struct DynamicFile {
    path: Option<PathBuf>,
    /// Number of this node, which could not start with a file that does not name it. While the node joins,
    /// and after its removal, the file stays unchanged.
    node: u8,
    /// The text compared last: nothing is written twice, and a failure is reported once.
    seen: String,
}

impl DynamicFile {
    pub(super) fn new(config: &Config) -> Self {
        let path = config.dynamic_file.clone().filter(|_| config.ensemble.is_some());
        Self { path, node: config.node, seen: String::new() }
    }

    /// The times of comparisons. Without a file there are none: an idle server is not woken.
    pub(super) fn ticks(&self) -> Receiver<Instant> {
        if self.path.is_some() { crossbeam_channel::tick(LOOK) } else { crossbeam_channel::never() }
    }

    /// Updates the file from the text of `/zookeeper/config`. An empty text is not known yet.
    pub(super) fn look(&mut self, config_text: String) {
        let Some(path) = &self.path else { return };
        if config_text.is_empty() || config_text == self.seen {
            return;
        }
        let members = Members::parse_text(&config_text);
        self.seen = config_text;
        let Some(members) = members.ok().filter(|members| members.get(self.node).is_some()) else { return };
        let there = std::fs::read_to_string(path).ok().and_then(|text| Members::parse_text(&text).ok());
        if there.is_some_and(|there| there.members == members.members) {
            return;
        }
        match write_dynamic(path, &members) {
            Ok(()) => tracing::info!("{} holds membership {:x} now", path.display(), members.version),
            Err(error) => tracing::warn!(
                "{} is out of date, membership {:x} could not be written to it: {error}",
                path.display(),
                members.version
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_of_the_members_is_written_and_an_operators_file_is_left_alone_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zoo.dynamic");
        let own = "# by hand\nserver.1 = a:1:2\nserver.2=b:1:2\n";
        std::fs::write(&path, own).unwrap();
        let mut file = DynamicFile { path: Some(path.clone()), node: 1, seen: String::new() };
        let read = || std::fs::read_to_string(&path).unwrap();
        file.look(String::new());
        file.look("server.1=a:1:2:participant\nserver.2=b:1:2:participant\nversion=100000001".to_owned());
        assert_eq!(read(), own);
        file.look("server.2=b:1:2:participant\nserver.3=c:1:2:observer\nversion=100000008".to_owned());
        assert_eq!(read(), own, "it is not in it");
        file.look("server.1=a:1:2:participant\nserver.3=c:1:2:observer\nversion=100000009".to_owned());
        assert_eq!(read(), "server.1=a:1:2:participant\nserver.3=c:1:2:observer\n");
        // An operator's later edit stays until the next change.
        std::fs::write(&path, own).unwrap();
        file.look("server.1=a:1:2:participant\nserver.3=c:1:2:observer\nversion=100000009".to_owned());
        assert_eq!(read(), own);
    }

    #[test]
    fn a_file_that_cannot_be_written_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = DynamicFile { path: Some(dir.path().join("no/dir")), node: 1, seen: String::new() };
        file.look("server.1=a:1:2:participant\nversion=1".to_owned());
        file.look("not a membership".to_owned());
    }
}
