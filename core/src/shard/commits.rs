//! Taking commits: firing watches, moving sessions, sending results, ending sessions.
//!
//! Owns the order of these steps within one commit. Never reads the tree, because a commit carries its
//! changes. Correct because every step of a commit is done before a request is served at its version.

use super::config::NOTIFICATIONS_UNREAD_MAX_BYTES;
use super::connection::{Connection, ConnectionPhase, PendingKind};
use super::linearizable::ROUND_SLOT;
use super::read_only::LookedUpSession;
use super::{Shard, submit_queue};
use crate::acl::{self, AclList, perms};
use crate::commit::{Change, ChangeKind, Outcome, Reply, SessionEvent};
use crate::mutation::{Mutation, mutated};
use crate::ring::Published;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wire::{Response, event, reply};

impl Shard {
    /// Takes all available commits and pins the reader to the newest version.
    pub(super) fn take_commits(&mut self, now: Now, io: &mut Io) {
        let mut took = false;
        if self.watches.is_empty()
            && self.sessions.is_empty()
            && self.outstanding == 0
            && self.read_rounds.none_asked()
            && self.commits.has_more()
        {
            // No client of this shard waits for a result or an event, so only the newest version matters.
            if let Some(published) = self.commits.skip_to_newest() {
                self.zxid = published.commit.zxid;
                took = true;
            }
        }
        while self.commits.has_more() {
            took = true;
            self.take_commit(now, io);
        }
        // Only the newest version: after a sleep, versions published meanwhile may be reclaimed already.
        if (took || !self.pinned)
            && let Some(published) = self.commits.current()
        {
            self.reader.move_to(&published.version);
            self.pinned = true;
        }
    }

    fn take_commit(&mut self, now: Now, io: &mut Io) {
        let Some(Published { commit, .. }) = self.commits.next() else { return };
        self.zxid = commit.zxid;
        let cells = self.stats.shard(self.config.id);
        cells.commits_taken.add(1);

        let mut cut_off = Vec::new();
        if !self.watches.is_empty() {
            for change in &commit.changes {
                self.watches.fire(change, &mut self.hits);
                let mut notify = Notify {
                    connections: &mut self.connections,
                    notification: &mut self.notification,
                    cells,
                    policy: self.config.policy,
                    cut_off: &mut cut_off,
                    io,
                };
                notify.change(change, &self.hits.own, &self.hits.parent);
            }
        }

        let (mut closing, mut moved) = (Vec::new(), Vec::new());
        for event in &commit.sessions {
            match *event {
                SessionEvent::Moved { session, attachment } => {
                    cut_off.extend(outdated(&self.sessions, &mut self.connections, session, attachment));
                    moved.push((session, attachment));
                }
                SessionEvent::Closed { session } => closing.push(session),
            }
        }

        // Results close connections and bind sessions, which borrows the whole shard. This shard's few
        // results are therefore copied out of the shared slot first.
        let shard = self.config.id;
        let ours: Vec<Reply> = commit.replies.iter().filter(|r| r.ticket.shard == shard).cloned().collect();
        for slot in cut_off {
            self.close(now, slot, io);
        }
        for reply in ours {
            if submit_queue::split_token(reply.ticket.token).0 == ROUND_SLOT {
                self.take_round(now, &reply, io);
            } else {
                self.take_result(now, reply, io);
            }
        }
        // Again after the results: a session attached here in this commit may have moved on in the same
        // commit.
        for (session, attachment) in moved {
            if let Some(slot) = outdated(&self.sessions, &mut self.connections, session, attachment) {
                self.close(now, slot, io);
            }
        }
        for session in closing {
            if let Some(slot) = self.sessions.get(&session).copied() {
                self.close(now, slot, io);
            }
        }
    }

    /// Stores the result of one submission and sends every result that is next in order.
    fn take_result(&mut self, now: Now, reply: Reply, io: &mut Io) {
        let (slot, number) = submit_queue::split_token(reply.ticket.token);
        let Some(connection) = self.connections.slot(slot) else { return };
        let Some(pending) = connection.pending.iter_mut().find(|p| p.number == number) else { return };
        pending.result = Some(reply);
        loop {
            let Some(connection) = self.connections.slot(slot) else { return };
            let Some(Reply { zxid, outcome, .. }) =
                connection.pending.front_mut().and_then(|p| p.result.take())
            else {
                return;
            };
            let Some(pending) = connection.pending.pop_front() else { return };
            connection.pending_bytes -= pending.bytes;
            connection.trim_pending();
            self.outstanding -= 1;
            let cells = self.stats.shard(self.config.id);
            let latency_us = now.mono_ns.saturating_sub(pending.since_ns) / 1000;
            cells.latency_count.add(1);
            cells.latency_sum_us.add(latency_us);
            cells.latency_max_us.raise(latency_us);
            Self::mark_ready(&mut self.ready, connection);
            // The zxid of a refusal may be older than that of a result sent before it. A client's zxid
            // never decreases.
            connection.told_zxid = connection.told_zxid.max(zxid);
            let zxid = if let Outcome::NotOrdered(_) = outcome { connection.told_zxid } else { zxid };
            let answered = match pending.kind {
                PendingKind::Session { read_only, new } => {
                    // A new session is refused if its id is taken, which a clock that went back before a
                    // restart can cause. The session has not expired: the connection closes, and the next
                    // attempt gets another id.
                    let taken = new && outcome == Outcome::Refused;
                    let outcome = if taken { Outcome::Drop } else { outcome };
                    self.session_result(now, slot, outcome, read_only, pending.since_ns, io);
                    continue;
                }
                PendingKind::Lookup { session, timeout_ms, password } => {
                    let since_ns = pending.since_ns;
                    self.session_looked_up(
                        now,
                        slot,
                        LookedUpSession { session, timeout_ms, password, since_ns },
                        &outcome,
                        io,
                    );
                    continue;
                }
                PendingKind::Write | PendingKind::Close => {
                    answer_write(connection, pending.xid, zxid, outcome, io)
                }
                PendingKind::Reconfig => {
                    connection.barrier = false;
                    answer_write(connection, pending.xid, zxid, outcome, io)
                }
                PendingKind::Sync { ref path } => {
                    connection.barrier = false;
                    answer_sync(connection, pending.xid, zxid, path, outcome, io)
                }
            };
            if answered {
                connection.sent += 1;
                cells.packets_sent.add(1);
            }
            if !answered || matches!(pending.kind, PendingKind::Close) {
                self.close(now, slot, io);
            }
        }
    }
}

/// Slot of the connection that has the session under an attachment older than `attachment`.
fn outdated(
    sessions: &super::Sessions,
    connections: &mut super::Connections,
    session: i64,
    attachment: u32,
) -> Option<u32> {
    let slot = sessions.get(&session).copied()?;
    connections.slot(slot).is_some_and(|c| c.attachment < attachment).then_some(slot)
}

/// Sends the result of a write. `false`: the connection must close.
fn answer_write(connection: &Connection, xid: i32, zxid: i64, outcome: Outcome, io: &mut Io) -> bool {
    let Some(out) = io.out(connection.id) else { return false };
    if mutated(Mutation::LoseReply) && zxid % 32 == 0 {
        return true;
    }
    match outcome {
        Outcome::Ok(record) => reply::put_record(out.bytes(), xid, zxid, &record),
        Outcome::Err(code) | Outcome::NotOrdered(code) => reply::put_error(out.bytes(), xid, zxid, code),
        // No outcome of a write: the client may be told nothing.
        Outcome::Drop
        | Outcome::Attached { .. }
        | Outcome::Refused
        | Outcome::Deferred
        | Outcome::Synced
        | Outcome::Recalled { .. } => {
            return false;
        }
    }
    true
}

/// Sends the result of a sync. `false`: the connection must close.
fn answer_sync(
    connection: &Connection,
    xid: i32,
    zxid: i64,
    path: &str,
    outcome: Outcome,
    io: &mut Io,
) -> bool {
    let Some(out) = io.out(connection.id) else { return false };
    match outcome {
        Outcome::Synced | Outcome::Ok(_) => {
            reply::put_response(out.bytes(), xid, zxid, &Response::Path(path.into()));
        }
        Outcome::Err(code) | Outcome::NotOrdered(code) => reply::put_error(out.bytes(), xid, zxid, code),
        Outcome::Drop
        | Outcome::Attached { .. }
        | Outcome::Refused
        | Outcome::Deferred
        | Outcome::Recalled { .. } => return false,
    }
    true
}

/// Sends the notifications of a commit's changes.
struct Notify<'s> {
    connections: &'s mut super::Connections,
    notification: &'s mut Vec<u8>,
    cells: &'s crate::stats::ShardCells,
    policy: u32,
    /// Slots of connections that do not read their notifications and must close.
    cut_off: &'s mut Vec<u32>,
    io: &'s mut Io,
}

impl Notify<'_> {
    fn change(&mut self, change: &Change, own: &[u32], parent: &[u32]) {
        let kind = match change.kind {
            ChangeKind::Created => event::NODE_CREATED,
            ChangeKind::Deleted => event::NODE_DELETED,
            ChangeKind::DataChanged => event::NODE_DATA_CHANGED,
        };
        self.send(change.zxid, kind, &change.path, Some(&change.acl), own);
        let above = crate::watch::parent(&change.path).unwrap_or("/");
        self.send(change.zxid, event::NODE_CHILDREN_CHANGED, above, change.parent_acl.as_deref(), parent);
    }

    fn send(&mut self, zxid: i64, kind: i32, path: &str, acl: Option<&AclList>, to: &[u32]) {
        if to.is_empty() {
            return;
        }
        self.notification.clear();
        reply::put_notification(self.notification, zxid, kind, path);
        for slot in to {
            let Some(connection) = self.connections.slot(*slot) else { continue };
            if connection.phase != ConnectionPhase::Open {
                continue;
            }
            if acl.is_some_and(|list| !acl::allowed(list, perms::READ, &connection.identities, self.policy)) {
                self.cells.watch_events_filtered.add(1);
                continue;
            }
            if self.io.unsent(connection.id) > NOTIFICATIONS_UNREAD_MAX_BYTES {
                tracing::warn!(peer = %connection.peer, "connection closed: it does not read its notifications");
                self.cut_off.push(*slot);
                continue;
            }
            if mutated(Mutation::DropNotification) && zxid % 4 == 0 {
                continue;
            }
            let Some(out) = self.io.out(connection.id) else { continue };
            out.bytes().extend_from_slice(self.notification);
            if mutated(Mutation::DoubleNotification) && zxid % 4 == 0 {
                out.bytes().extend_from_slice(self.notification);
            }
            connection.sent += 1;
            self.cells.watch_events.add(1);
            self.cells.packets_sent.add(1);
        }
    }
}
