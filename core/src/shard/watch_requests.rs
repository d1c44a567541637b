//! Requests about watches.
//!
//! Owns setWatches with its missed events, and the mapping of watch kinds and modes. Never fires a watch:
//! commits do. Correct because missed events are determined at the version of the turn. An earlier change
//! is seen there, and a later one fires the watch that was armed.

use super::connection::Connection;
use super::read_replies::ReadView;
use crate::watch::{WatcherFilter, WatcherMode, Watches, WatchesFull};
use paddock_transport::wire::{SetWatches, WatchMode, WatcherKind, event, reply};

/// Zxid of missed events, which are sent later than the transaction that caused them.
const CATCH_UP_ZXID: i64 = -1;

pub(super) fn kind(of: WatcherKind) -> WatcherFilter {
    match of {
        WatcherKind::Children => WatcherFilter::Children,
        WatcherKind::Data => WatcherFilter::Data,
        WatcherKind::Any => WatcherFilter::Any,
        WatcherKind::Persistent => WatcherFilter::Persistent,
        WatcherKind::PersistentRecursive => WatcherFilter::Recursive,
    }
}

pub(super) fn mode(of: WatchMode) -> WatcherMode {
    match of {
        WatchMode::Persistent => WatcherMode::Persistent,
        WatchMode::PersistentRecursive => WatcherMode::Recursive,
    }
}

/// Arms the watches that a reconnecting client lists, or sends the events that it missed (spec 02 section
/// 8.3). Returns the number of events.
pub(super) fn set_watches(
    view: &ReadView<'_>,
    watches: &mut Watches,
    slot: u32,
    request: &SetWatches<'_>,
    out: &mut Vec<u8>,
) -> Result<u64, WatchesFull> {
    let since = request.relative_zxid;
    view.visit(request.data.len() + request.exist.len() + request.child.len());
    let mut events = 0;
    let mut tell = |kind: i32, path: &str| {
        reply::put_notification(out, CATCH_UP_ZXID, kind, path);
        events += 1;
    };
    for path in request.data.iter() {
        match view.reader.get(&path) {
            None => tell(event::NODE_DELETED, &path),
            Some(znode) if znode.stat().mzxid > since => tell(event::NODE_DATA_CHANGED, &path),
            Some(_) => watches.add(slot, &path, WatcherMode::Data)?,
        }
    }
    for path in request.exist.iter() {
        match view.reader.get(&path) {
            Some(_) => tell(event::NODE_CREATED, &path),
            None => watches.add(slot, &path, WatcherMode::Data)?,
        }
    }
    for path in request.child.iter() {
        match view.reader.get(&path) {
            None => tell(event::NODE_DELETED, &path),
            Some(znode) if znode.stat().pzxid > since => tell(event::NODE_CHILDREN_CHANGED, &path),
            Some(_) => watches.add(slot, &path, WatcherMode::Child)?,
        }
    }
    for path in request.persistent.iter() {
        watches.add(slot, &path, WatcherMode::Persistent)?;
    }
    for path in request.persistent_recursive.iter() {
        watches.add(slot, &path, WatcherMode::Recursive)?;
    }
    Ok(events)
}

/// Whether a watch could not be armed. The connection must close then, because its client believes that
/// the watch is armed.
pub(super) fn refuse_watches(armed: Result<(), WatchesFull>, connection: &Connection) -> bool {
    armed.is_err_and(|full| {
        tracing::warn!(peer = %connection.peer, session = connection.session, %full, "connection closed");
        true
    })
}
