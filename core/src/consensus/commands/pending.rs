//! This node's numbered stream of commands, each kept until its result is applied here.
//!
//! Owns the numbers, the undecided commands, and the tickets that wait for them.
//!
//! Never decides where commands go. The leader takes them in order ([`PendingCommands::take_for_send`]) and
//! names the number from which it wants them again ([`PendingCommands::rewind`]).
//!
//! Correct because a number belongs to one command for ever. A command leaves only when its own result, or
//! that of a later command, is applied here. Each new leader is sent the rest, and the machine skips the
//! numbers that it has seen.
//!
//! Two kinds of command lose their effect and keep their number:
//!
//! - An expiry that is sent again. A deposed leader decided it, and the next leader has newer reports of
//!   the session.
//! - A session request whose connection is gone ([`PendingCommands::disarm`]). The session stays with the
//!   connection that has it by now.
//!
//! If the original command is ordered all the same, because a leader has it, the machine skips the changed
//! one.

use crate::command::{Command, Identity, Op};
use crate::commit::Ticket;
use crate::consensus::config::{PENDING_BYTES_MAX, PENDING_COMMANDS_MAX};
use crate::machine::StreamPosition;
use crate::mutation::{Mutation, mutated};
use std::collections::VecDeque;

/// Estimated bytes of a command beside its body and identities.
const COMMAND_OVERHEAD_BYTES: usize = 128;

/// A command whose result is not known.
#[derive(Debug)]
struct Pending {
    seq: u64,
    ticket: Option<Ticket>,
    bytes: usize,
    /// `None` while taken to be sent. In a standalone node for good, since no leader can ask for the
    /// command again.
    command: Option<Command>,
}

/// See the module doc.
#[derive(Debug)]
pub(in crate::consensus) struct PendingCommands {
    node: u8,
    incarnation: u64,
    last_seq: u64,
    pending: VecDeque<Pending>,
    /// A reconfiguration that is decided later than the commands after it. An ensemble has one at a time.
    deferred: Option<(u64, Ticket)>,
    bytes: usize,
    /// Number of the next command to be sent.
    next: u64,
    /// Highest number ever taken to be sent. A leader may have the command, whatever `next` is since.
    sent_max: u64,
    /// The newest resolved number when last checked, and the time since which it has not changed, ns.
    decided: (u64, u64),
}

impl PendingCommands {
    /// The stream (`node`, `incarnation`), from number 1.
    pub(in crate::consensus) fn new(node: u8, incarnation: u64) -> Self {
        let (pending, deferred) = (VecDeque::new(), None);
        Self {
            node,
            incarnation,
            last_seq: 0,
            pending,
            deferred,
            bytes: 0,
            next: 1,
            sent_max: 0,
            decided: (0, 0),
        }
    }

    /// Whether more submissions may be taken.
    pub(in crate::consensus) fn has_room(&self) -> bool {
        self.pending.len() < PENDING_COMMANDS_MAX && self.bytes < PENDING_BYTES_MAX
    }

    /// Gives a command the next number.
    pub(in crate::consensus) fn push(
        &mut self,
        ticket: Option<Ticket>,
        session: i64,
        attachment: u32,
        identities: Vec<Identity>,
        op: Op,
    ) {
        debug_assert!(self.is_consistent());
        self.last_seq += 1;
        let (node, incarnation, seq) = (self.node, self.incarnation, self.last_seq);
        let bytes = command_bytes(&op, &identities);
        let command = Command { node, incarnation, seq, session, attachment, identities, op };
        self.bytes += bytes;
        self.pending.push_back(Pending { seq, ticket, bytes, command: Some(command) });
        debug_assert_eq!(self.position(seq), Some(self.pending.len() - 1), "numbers have no gap");
    }

    /// Whether commands wait to be sent for the first time or, after a rewind, again.
    pub(in crate::consensus) fn has_unsent(&self) -> bool {
        self.next <= self.last_seq
    }

    /// Takes the next commands to be sent: at most `count` and about `bytes`, but at least one if any
    /// waits. They count as sent unless [`PendingCommands::restore`] is called with `sent` = `false`.
    pub(in crate::consensus) fn take_for_send(&mut self, count: usize, bytes: usize) -> Vec<Command> {
        debug_assert!(self.is_consistent());
        let mut taken = Vec::new();
        let mut taken_bytes = 0;
        let Some(at) = self.position(self.next) else { return taken };
        for pending in self.pending.range_mut(at..) {
            if taken.len() >= count || (!taken.is_empty() && taken_bytes + pending.bytes > bytes) {
                break;
            }
            let Some(command) = pending.command.take() else { break };
            taken_bytes += pending.bytes;
            taken.push(command);
        }
        self.next += taken.len() as u64;
        self.sent_max = self.sent_max.max(self.next - 1);
        debug_assert!(taken.last().is_none_or(|newest| newest.seq + 1 == self.next));
        taken
    }

    /// Puts taken commands back, in the order in which they were taken. `sent`: they count as sent.
    pub(in crate::consensus) fn restore(&mut self, commands: impl IntoIterator<Item = Command>, sent: bool) {
        debug_assert!(self.is_consistent());
        let mut first = None;
        for command in commands {
            first = first.or(Some(command.seq));
            if let Some(at) = self.position(command.seq) {
                self.pending[at].command = Some(command);
            }
        }
        if let Some(first) = first.filter(|_| !sent) {
            self.next = first;
        }
        debug_assert!(self.is_consistent());
    }

    /// The leader expects `seq` next: everything from there on is sent again. `false`: `seq` is decided
    /// already or was never given to a command, so the message is late or mistaken.
    pub(in crate::consensus) fn rewind(&mut self, seq: u64) -> bool {
        if seq <= self.resolved() || seq > self.last_seq + 1 {
            return false;
        }
        debug_assert!(self.is_consistent());
        self.next = seq;
        if let Some(at) = self.position(seq) {
            for command in self.pending.range_mut(at..).filter_map(|p| p.command.as_mut()) {
                if command.op == Op::ExpireSession && !mutated(Mutation::KeepExpiry) {
                    // No session has the number 0.
                    command.session = 0;
                }
            }
        }
        debug_assert!(self.is_consistent());
        true
    }

    /// The leader returned everything from `seq` on. No leader proposed these commands, and none takes them
    /// if they still arrive, so they count as never sent. The rest is as in [`PendingCommands::rewind`].
    pub(in crate::consensus) fn accept_return(&mut self, seq: u64) -> bool {
        debug_assert!(self.is_consistent());
        let known = self.rewind(seq);
        if known {
            self.sent_max = self.sent_max.min(seq - 1);
        }
        debug_assert!(!known || self.sent_max < self.next, "returned commands count as never sent");
        known
    }

    /// Removes the commands that no leader can have ordered, and returns their tickets in order. The
    /// numbers are free again. A command that was sent stays even after a rewind: it may have crossed the
    /// leader's message. Only [`PendingCommands::accept_return`] makes it count as never sent.
    pub(in crate::consensus) fn withdraw(&mut self) -> Vec<Ticket> {
        debug_assert!(self.is_consistent());
        let next = match mutated(Mutation::RefuseLent) {
            true => self.resolved() + 1,
            false => self.next.max(self.sent_max + 1),
        };
        let never = self.position(next).unwrap_or(self.pending.len());
        let withdrawn = self.pending.split_off(never);
        self.last_seq -= withdrawn.len() as u64;
        self.bytes -= withdrawn.iter().map(|p| p.bytes).sum::<usize>();
        debug_assert!(self.is_consistent());
        withdrawn.into_iter().filter_map(|p| p.ticket).collect()
    }

    /// Removes the effect of session requests whose connections are gone.
    pub(in crate::consensus) fn disarm(&mut self, mut gone: Vec<Ticket>) {
        if gone.is_empty() {
            return;
        }
        debug_assert!(self.is_consistent());
        gone.sort_unstable_by_key(|ticket| (ticket.shard, ticket.token));
        let is_gone = |ticket: &Ticket| {
            gone.binary_search_by_key(&(ticket.shard, ticket.token), |gone| (gone.shard, gone.token)).is_ok()
        };
        for pending in self.pending.iter_mut().filter(|p| p.ticket.as_ref().is_some_and(is_gone)) {
            pending.ticket = None;
            if let Some(command) = &mut pending.command
                && matches!(command.op, Op::AttachSession { .. } | Op::OpenSession { .. })
            {
                // No session has the number 0.
                (command.session, command.op) = (0, Op::ExpireSession);
            }
        }
        debug_assert!(!self.pending.iter().any(|p| p.ticket.as_ref().is_some_and(is_gone)));
    }

    /// Returns the ticket that waits for this result. `None`: the result is of another stream, or no ticket
    /// waits for it.
    pub(in crate::consensus) fn resolve(&mut self, node: u8, incarnation: u64, seq: u64) -> Option<Ticket> {
        if (node, incarnation) != (self.node, self.incarnation) {
            return None;
        }
        debug_assert!(self.is_consistent());
        if let Some((_, ticket)) = self.deferred.take_if(|(deferred, _)| *deferred == seq) {
            return Some(ticket);
        }
        let mut ticket = None;
        while self.pending.front().is_some_and(|oldest| oldest.seq <= seq) {
            let oldest = self.pending.pop_front()?;
            self.bytes -= oldest.bytes;
            ticket = oldest.ticket.filter(|_| oldest.seq == seq);
        }
        self.next = self.next.max(self.resolved() + 1);
        debug_assert!(self.pending.front().is_none_or(|oldest| oldest.seq > seq));
        ticket
    }

    /// The command is ordered and its result comes later. The commands after it do not wait for it.
    pub(in crate::consensus) fn defer(&mut self, node: u8, incarnation: u64, seq: u64) {
        debug_assert!(self.is_consistent());
        if let Some(ticket) = self.resolve(node, incarnation, seq) {
            self.deferred = Some((seq, ticket));
        }
        debug_assert!(self.is_consistent());
    }

    /// Number of the newest command such that its result and all results before it are known.
    pub(in crate::consensus) fn resolved(&self) -> u64 {
        self.pending.front().map_or(self.last_seq, |p| p.seq - 1)
    }

    /// Number of the newest command such that no client waits for its result or for an earlier one. A sync
    /// waits for this number. An abandoned command may stay undecided as long as disks are full, and its
    /// client is gone.
    pub(in crate::consensus) fn answered(&self) -> u64 {
        let first = self.pending.iter().find(|p| p.ticket.is_some());
        let answered = first.map_or(self.last_seq, |p| p.seq - 1);
        debug_assert!(answered >= self.resolved());
        answered
    }

    pub(in crate::consensus) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Takes the tickets of all undecided commands. The commands may still be ordered.
    pub(in crate::consensus) fn abandon(&mut self) -> impl Iterator<Item = Ticket> {
        self.pending.iter_mut().filter_map(|p| p.ticket.take())
    }

    /// Whether the stream, at `position` in the log, was begun again after commands of this start. Then no
    /// further command of this start would ever have a result.
    pub(in crate::consensus) fn is_cut_off(&self, position: Option<StreamPosition>) -> bool {
        self.resolved() > 0 && position.is_some_and(StreamPosition::is_anew)
    }

    /// Whether commands wait and none was decided for `after_ns`. Call in every turn.
    pub(in crate::consensus) fn is_stalled(&mut self, now_ns: u64, after_ns: u64) -> bool {
        let resolved = self.resolved();
        if self.pending.is_empty() || self.decided.0 != resolved {
            self.decided = (resolved, now_ns);
        }
        debug_assert_eq!(self.decided.0, resolved);
        now_ns.saturating_sub(self.decided.1) >= after_ns
    }

    /// Count of commands whose result is not known.
    pub(in crate::consensus) fn undecided(&self) -> usize {
        self.pending.len()
    }

    /// Invariants that can be checked without a pass over all commands. The defect `RefuseLent` withdraws
    /// commands that were sent, and so breaks those of `next` and `sent_max`.
    fn is_consistent(&self) -> bool {
        let known = self.next <= self.last_seq + 1 && self.sent_max <= self.last_seq;
        let newest = self.pending.back().is_none_or(|newest| newest.seq == self.last_seq);
        let bytes = self.bytes == 0 || !self.pending.is_empty();
        let deferred = self.deferred.as_ref().is_none_or(|(seq, _)| *seq <= self.resolved());
        newest && bytes && deferred && (known || mutated(Mutation::RefuseLent))
    }

    fn position(&self, seq: u64) -> Option<usize> {
        let at = seq.checked_sub(self.pending.front()?.seq)? as usize;
        (at < self.pending.len()).then_some(at)
    }
}

/// Estimated bytes of a command in a batch.
pub(in crate::consensus) fn command_bytes(op: &Op, identities: &[Identity]) -> usize {
    let body = match op {
        Op::Request { body, .. } => body.len(),
        _ => 0,
    };
    let ids: usize = identities.iter().map(|i| i.scheme.len() + i.id.len() + 16).sum();
    COMMAND_OVERHEAD_BYTES + body + ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> PendingCommands {
        let mut out = PendingCommands::new(3, 7);
        for token in 1..=count {
            let op = Op::Request { opcode: 5, body: vec![0; 10] };
            out.push(Some(Ticket { shard: 0, token }), 9, 1, Vec::new(), op);
        }
        out
    }

    fn send(out: &mut PendingCommands, count: usize) -> Vec<u64> {
        let taken = out.take_for_send(count, usize::MAX);
        let seqs = taken.iter().map(|c| c.seq).collect();
        out.restore(taken, true);
        seqs
    }

    #[test]
    fn what_a_dead_leader_had_is_sent_to_the_next_one_from_the_number_it_expects() {
        let mut out = filled(4);
        assert_eq!(send(&mut out, 3), [1, 2, 3]);
        assert_eq!(out.resolve(3, 7, 1).unwrap().token, 1);
        assert!(out.rewind(2));
        assert_eq!(send(&mut out, 9), [2, 3, 4]);
        assert!(!out.has_unsent());
        // Decided already, or never given to a command.
        assert!(!out.rewind(1) && !out.rewind(6));
        assert!(out.rewind(5));
    }

    #[test]
    fn what_could_not_be_sent_is_sent_again() {
        let mut out = filled(2);
        let taken = out.take_for_send(1, usize::MAX);
        out.restore(taken, false);
        assert_eq!(send(&mut out, 9), [1, 2]);
    }

    #[test]
    fn results_find_their_tickets_and_those_of_other_streams_find_none() {
        let mut out = filled(2);
        out.push(None, 9, 0, Vec::new(), Op::ExpireSession);
        assert_eq!((out.undecided(), out.resolved(), out.last_seq()), (3, 0, 3));
        assert_eq!(out.resolve(3, 6, 1), None);
        assert_eq!(out.resolve(2, 7, 1), None);
        assert_eq!(out.resolve(3, 7, 1).unwrap().token, 1);
        assert_eq!((out.resolved(), out.resolve(3, 7, 1)), (1, None));
        assert_eq!(out.resolve(3, 7, 2).unwrap().token, 2);
        assert_eq!(out.resolve(3, 7, 3), None);
        assert_eq!((out.resolved(), out.undecided(), out.bytes), (3, 0, 0));
    }

    #[test]
    fn a_node_that_was_removed_and_added_again_while_it_ran_needs_another_start() {
        let anew = Some(StreamPosition { incarnation: 0, seq: 0 });
        let mut out = filled(2);
        // Nothing is resolved yet: the first command is the first one of the stream.
        assert!(!out.is_cut_off(anew) && !out.is_cut_off(None));
        out.resolve(3, 7, 1);
        assert!(!out.is_cut_off(Some(StreamPosition { incarnation: 7, seq: 1 })));
        assert!(out.is_cut_off(anew));
    }

    #[test]
    fn abandoned_commands_hold_back_no_sync_and_later_ones_do() {
        let mut out = filled(2);
        assert_eq!((out.answered(), out.resolved()), (0, 0));
        assert_eq!(out.abandon().count(), 2);
        assert_eq!((out.answered(), out.resolved()), (2, 0));
        out.push(Some(Ticket { shard: 0, token: 3 }), 9, 1, Vec::new(), Op::CloseSession);
        assert_eq!((out.answered(), out.last_seq()), (2, 3));
        for seq in 1..=3 {
            out.resolve(3, 7, seq);
        }
        assert_eq!(out.answered(), 3);
    }

    #[test]
    fn commands_that_stay_undecided_are_noticed() {
        let mut out = PendingCommands::new(3, 7);
        assert!(!out.is_stalled(0, 100) && !out.is_stalled(500, 100));
        out.push(None, 9, 0, Vec::new(), Op::CloseSession);
        out.push(None, 9, 0, Vec::new(), Op::CloseSession);
        assert!(!out.is_stalled(599, 100) && out.is_stalled(600, 100));
        out.resolve(3, 7, 1);
        assert!(!out.is_stalled(700, 100) && out.is_stalled(800, 100));
        out.resolve(3, 7, 2);
        assert!(!out.is_stalled(900, 100));
    }

    #[test]
    fn an_expiry_of_a_dead_leader_has_no_effect_under_the_next() {
        let mut out = PendingCommands::new(1, 1);
        out.push(None, 77, 0, Vec::new(), Op::ExpireSession);
        let taken = out.take_for_send(9, usize::MAX);
        assert_eq!(taken[0].session, 77);
        out.restore(taken, true);
        assert!(out.rewind(1));
        assert_eq!(out.take_for_send(9, usize::MAX)[0].session, 0);
    }

    #[test]
    fn what_was_sent_once_is_never_withdrawn() {
        let mut out = filled(4);
        send(&mut out, 2);
        // The message crossed the second command, which the leader has by now.
        assert!(out.rewind(2));
        assert_eq!(out.withdraw().iter().map(|t| t.token).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((out.last_seq(), send(&mut out, 9)), (2, vec![2]));
    }

    #[test]
    fn an_expiry_that_was_never_proposed_keeps_no_write_from_being_refused() {
        let mut out = filled(2);
        out.push(None, 77, 0, Vec::new(), Op::ExpireSession);
        out.push(Some(Ticket { shard: 0, token: 3 }), 9, 1, Vec::new(), Op::CloseSession);
        send(&mut out, 4);
        assert!(out.accept_return(2));
        assert_eq!(out.withdraw().iter().map(|t| t.token).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((out.last_seq(), out.undecided()), (1, 1));
    }

    #[test]
    fn a_session_request_of_a_closed_connection_moves_no_session() {
        let mut out = filled(2);
        let attach = Op::AttachSession { timeout_ms: 1000, password: vec![7; 16], last_zxid_seen: 0 };
        for token in [3, 4] {
            out.push(Some(Ticket { shard: 1, token }), 77, 0, Vec::new(), attach.clone());
        }
        // Tickets of the other shards mean other connections, and a write keeps its effect.
        let gone = [(1, 3), (0, 2), (0, 4), (2, 4)].map(|(shard, token)| Ticket { shard, token });
        out.disarm(gone.to_vec());
        let taken = out.take_for_send(9, usize::MAX);
        let shown: Vec<_> = taken.iter().map(|c| (c.seq, c.session, c.op.clone())).collect();
        assert_eq!((shown[2].clone(), shown[3].clone()), ((3, 0, Op::ExpireSession), (4, 77, attach)));
        assert!(matches!(shown[1].2, Op::Request { .. }));
        out.restore(taken, true);
        // Sent or not, the command that the next leader gets has no effect.
        out.disarm(vec![Ticket { shard: 1, token: 4 }]);
        assert!(out.rewind(1));
        assert_eq!(out.take_for_send(9, usize::MAX)[3].session, 0);
        assert_eq!((out.resolve(3, 7, 3), out.resolve(3, 7, 4)), (None, None));
    }

    #[test]
    fn returned_commands_can_be_refused_and_their_numbers_are_used_again() {
        let mut out = filled(5);
        send(&mut out, 4);
        assert_eq!(out.resolve(3, 7, 1).map(|t| t.token), Some(1));
        // Decided here, or never given to a command: no leader returns that number.
        assert!(!out.accept_return(1) && !out.accept_return(7));
        assert!(out.accept_return(3));
        // The connection of one of them was closed.
        out.disarm(vec![Ticket { shard: 0, token: 4 }]);
        assert_eq!(out.withdraw().iter().map(|t| t.token).collect::<Vec<_>>(), [3, 5]);
        assert_eq!((out.last_seq(), out.undecided(), out.has_unsent()), (2, 1, false));
        out.push(Some(Ticket { shard: 0, token: 9 }), 9, 1, Vec::new(), Op::CloseSession);
        assert_eq!(send(&mut out, 9), [3]);
        assert_eq!(out.resolve(3, 7, 2).map(|t| t.token), Some(2));
        assert_eq!(out.resolve(3, 7, 3).map(|t| t.token), Some(9));
    }

    #[test]
    fn what_was_never_sent_frees_its_numbers() {
        let mut out = filled(3);
        send(&mut out, 1);
        let tickets = out.withdraw();
        assert_eq!(tickets.iter().map(|t| t.token).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(out.last_seq(), 1);
        assert!(!out.has_unsent());
    }
}
