//! The watches that a client believes to have.
//!
//! Owns the paths by kind of watch, changed by answers and by events that end a watch. Never asks the
//! server.

use paddock_transport::wire::{Request, WatchMode, WatcherKind, error, event};
use std::collections::BTreeSet;

/// See the module doc.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) data: BTreeSet<String>,
    pub(super) exist: BTreeSet<String>,
    pub(super) child: BTreeSet<String>,
    pub(super) persistent: BTreeSet<String>,
    pub(super) recursive: BTreeSet<String>,
}

impl Book {
    /// Removes the one-shot watches that an event ends.
    pub(super) fn fired(&mut self, kind: i32, path: &str) {
        match kind {
            event::NODE_CREATED | event::NODE_DATA_CHANGED => {
                self.data.remove(path);
                self.exist.remove(path);
            }
            event::NODE_DELETED => {
                self.data.remove(path);
                self.exist.remove(path);
                self.child.remove(path);
            }
            _ => {
                self.child.remove(path);
            }
        }
    }

    /// Records watches armed and removed by an answered request.
    pub(super) fn note(&mut self, request: &Request<'_>, err: i32) {
        let missing = err == error::NO_NODE;
        match request {
            Request::Exists { path, watch: true } if missing => {
                self.exist.insert(path.to_string());
            }
            Request::Exists { path, watch: true } | Request::GetData { path, watch: true } if err == 0 => {
                self.data.insert(path.to_string());
            }
            Request::GetChildren { path, watch: true } | Request::GetChildren2 { path, watch: true }
                if err == 0 =>
            {
                self.child.insert(path.to_string());
            }
            Request::AddWatch { path, mode } if err == 0 => {
                let list = match mode {
                    WatchMode::Persistent => &mut self.persistent,
                    WatchMode::PersistentRecursive => &mut self.recursive,
                };
                list.insert(path.to_string());
            }
            Request::RemoveWatches { path, kind } if err == 0 => {
                let any = *kind == WatcherKind::Any;
                if any || *kind == WatcherKind::Data {
                    self.data.remove(&**path);
                    self.exist.remove(&**path);
                }
                if any || *kind == WatcherKind::Children {
                    self.child.remove(&**path);
                }
                if any || *kind == WatcherKind::Persistent {
                    self.persistent.remove(&**path);
                }
                if any || *kind == WatcherKind::PersistentRecursive {
                    self.recursive.remove(&**path);
                }
            }
            _ => {}
        }
    }
}
