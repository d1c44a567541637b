//! Taking commits: watches fire, sessions move, results go out, sessions close.
//!
//! Owns the order of these within one commit. Never reads the tree: what it needs comes with the commit.

use super::config::NOTIFICATIONS_UNREAD_MAX_BYTES;
use super::connection::{Connection, Phase, Waiting};
use super::read_only::Recalled;
use super::rounds::ROUND_SLOT;
use super::{Shard, uplink};
use crate::acl::{self, AclList, perms};
use crate::commit::{Change, ChangeKind, Outcome, Reply, SessionEvent};
use crate::mutation::{Mutation, mutated};
use crate::ring::Published;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wire::{Response, event, reply};

impl Shard {
    /// Takes every commit there is and moves to the newest version.
    pub(super) fn take_commits(&mut self, now: Now, io: &mut Io) {
        let mut took = false;
        if self.watches.is_empty()
            && self.sessions.is_empty()
            && self.outstanding == 0
            && self.rounds.none_asked()
            && self.commits.has_more()
        {
            // Nobody here waits for anything: only the newest matters.
            if let Some(published) = self.commits.skip_to_newest() {
                self.zxid = published.commit.zxid;
                took = true;
            }
        }
        while self.commits.has_more() {
            took = true;
            self.take_commit(now, io);
        }
        // Only the newest: after a sleep, versions that were published meanwhile may be gone already.
        if (took || !self.standing)
            && let Some(published) = self.commits.current()
        {
            self.reader.move_to(&published.version);
            self.standing = true;
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
                    scratch: &mut self.scratch,
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

        // Results may close connections and bind sessions, which needs the whole shard: the few that are ours are moved
        // out of the shared slot first.
        let shard = self.config.id;
        let ours: Vec<Reply> = commit.replies.iter().filter(|r| r.ticket.shard == shard).cloned().collect();
        for slot in cut_off {
            self.close(now, slot, io);
        }
        for reply in ours {
            if uplink::split_token(reply.ticket.token).0 == ROUND_SLOT {
                self.take_round(now, &reply, io);
            } else {
                self.take_result(now, reply, io);
            }
        }
        // Once more: a client that was attached here in this commit may have moved on in the same one.
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

    /// Notes the result of one submission and sends all that are in order now.
    fn take_result(&mut self, now: Now, reply: Reply, io: &mut Io) {
        let (slot, number) = uplink::split_token(reply.ticket.token);
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
            // A refusal may have waited behind results of later zxids, and stands before others: a client's time never goes back.
            connection.told_zxid = connection.told_zxid.max(zxid);
            let zxid = if let Outcome::NotOrdered(_) = outcome { connection.told_zxid } else { zxid };
            let answered = match pending.what {
                Waiting::Session { read_only, new } => {
                    // A new session is refused when its id is taken already, by a start of this node under a clock that
                    // went back: no expiry, and the client's next attempt gets another id.
                    let taken = new && outcome == Outcome::Refused;
                    let outcome = if taken { Outcome::Drop } else { outcome };
                    self.session_result(now, slot, outcome, read_only, pending.since_ns, io);
                    continue;
                }
                Waiting::Recall { session, timeout_ms, password } => {
                    let since_ns = pending.since_ns;
                    self.recalled(
                        now,
                        slot,
                        Recalled { session, timeout_ms, password, since_ns },
                        &outcome,
                        io,
                    );
                    continue;
                }
                Waiting::Write | Waiting::Close => answer_write(connection, pending.xid, zxid, outcome, io),
                Waiting::Reconfig => {
                    connection.barrier = false;
                    answer_write(connection, pending.xid, zxid, outcome, io)
                }
                Waiting::Sync { ref path } => {
                    connection.barrier = false;
                    answer_sync(connection, pending.xid, zxid, path, outcome, io)
                }
            };
            if answered {
                connection.sent += 1;
                cells.packets_sent.add(1);
            }
            if !answered || matches!(pending.what, Waiting::Close) {
                self.close(now, slot, io);
            }
        }
    }
}

/// The connection that has the session under an older attachment than this.
fn outdated(
    sessions: &super::Sessions,
    connections: &mut super::Connections,
    session: i64,
    attachment: u32,
) -> Option<u32> {
    let slot = sessions.get(&session).copied()?;
    connections.slot(slot).is_some_and(|c| c.attachment < attachment).then_some(slot)
}

/// Whether the connection lives on.
fn answer_write(connection: &Connection, xid: i32, zxid: i64, outcome: Outcome, io: &mut Io) -> bool {
    let Some(out) = io.out(connection.id) else { return false };
    if mutated(Mutation::LoseReply) && zxid % 32 == 0 {
        return true;
    }
    match outcome {
        Outcome::Ok(record) => reply::put_record(out.bytes(), xid, zxid, &record),
        Outcome::Err(code) | Outcome::NotOrdered(code) => reply::put_error(out.bytes(), xid, zxid, code),
        // The others answer what was not asked here: nothing that may be told to the client.
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

/// Sends the notifications of one change.
struct Notify<'s> {
    connections: &'s mut super::Connections,
    scratch: &'s mut Vec<u8>,
    cells: &'s crate::stats::ShardCells,
    policy: u32,
    /// Connections that do not read their notifications.
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
        self.scratch.clear();
        reply::put_notification(self.scratch, zxid, kind, path);
        for slot in to {
            let Some(connection) = self.connections.slot(*slot) else { continue };
            if connection.phase != Phase::Open {
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
            out.bytes().extend_from_slice(self.scratch);
            if mutated(Mutation::DoubleNotification) && zxid % 4 == 0 {
                out.bytes().extend_from_slice(self.scratch);
            }
            connection.sent += 1;
            self.cells.watch_events.add(1);
            self.cells.packets_sent.add(1);
        }
    }
}
