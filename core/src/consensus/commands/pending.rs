//! This node's numbered stream of commands, each kept until it is applied.
//!
//! Owns the numbers, the commands that are not decided, and who waits for them. Never decides where they go: whoever
//! leads takes them in order ([`PendingCommands::lend`]), and says from which number on it wants them again
//! ([`PendingCommands::rewind`]). It stays correct because a number is given once and for ever to one command, and a command
//! leaves only when its own result, or that of a later one, was applied here: whatever a dead leader had or had not
//! ordered, the next one is offered the rest, and the machine skips what it has seen.
//!
//! Two kinds of command lose their effect, and keep their number. An expiry must not come again: it was decided by a leader that
//! heard of the session's silence, and the next leader knows better. And a session that was asked for by a connection that is gone is
//! not taken away from where its client has it by now ([`PendingCommands::disarm`]). Where the command as it was is ordered all
//! the same, since a leader has it, the other one is skipped.

use crate::command::{Command, Identity, Op};
use crate::commit::Ticket;
use crate::consensus::config::{OUTBOUND_BYTES_MAX, OUTBOUND_COMMANDS_MAX};
use crate::machine::StreamPosition;
use crate::mutation::{Mutation, mutated};
use std::collections::VecDeque;

/// Bytes that a command is reckoned to take beside its body and identities.
const COMMAND_OVERHEAD_BYTES: usize = 128;

/// A command whose result is not known.
#[derive(Debug)]
struct Pending {
    seq: u64,
    ticket: Option<Ticket>,
    bytes: usize,
    /// `None` while lent, and for good in a group of one, where nobody could ask for it again.
    command: Option<Command>,
}

/// See the module doc.
#[derive(Debug)]
pub(in crate::consensus) struct PendingCommands {
    node: u8,
    incarnation: u64,
    last_seq: u64,
    pending: VecDeque<Pending>,
    /// The one that is decided later than those after it: an ensemble has one reconfiguration at a time.
    deferred: Option<(u64, Ticket)>,
    bytes: usize,
    /// Number of the next command to be lent.
    next: u64,
    /// Highest number that was ever lent: somebody may have the command, whatever `next` says since.
    lent: u64,
    /// What was decided when it was last looked at, and since when nothing more was.
    decided: (u64, u64),
}

impl PendingCommands {
    /// The stream (`node`, `incarnation`), from 1.
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
            lent: 0,
            decided: (0, 0),
        }
    }

    /// Whether more may be taken in.
    pub(in crate::consensus) fn has_room(&self) -> bool {
        self.pending.len() < OUTBOUND_COMMANDS_MAX && self.bytes < OUTBOUND_BYTES_MAX
    }

    /// Numbers a command.
    pub(in crate::consensus) fn push(
        &mut self,
        ticket: Option<Ticket>,
        session: i64,
        attachment: u32,
        identities: Vec<Identity>,
        op: Op,
    ) {
        self.last_seq += 1;
        let (node, incarnation, seq) = (self.node, self.incarnation, self.last_seq);
        let bytes = command_bytes(&op, &identities);
        let command = Command { node, incarnation, seq, session, attachment, identities, op };
        self.bytes += bytes;
        self.pending.push_back(Pending { seq, ticket, bytes, command: Some(command) });
    }

    /// Whether something was never lent since the last rewind.
    pub(in crate::consensus) fn has_unsent(&self) -> bool {
        self.next <= self.last_seq
    }

    /// Lends the next commands, at most `count` and about `bytes` of them but at least one if there is any. They count as
    /// handed over unless [`PendingCommands::give_back`] says otherwise.
    pub(in crate::consensus) fn take_for_send(&mut self, count: usize, bytes: usize) -> Vec<Command> {
        let mut lent = Vec::new();
        let mut taken = 0;
        let Some(at) = self.position(self.next) else { return lent };
        for pending in self.pending.range_mut(at..) {
            if lent.len() >= count || (!lent.is_empty() && taken + pending.bytes > bytes) {
                break;
            }
            let Some(command) = pending.command.take() else { break };
            taken += pending.bytes;
            lent.push(command);
        }
        self.next += lent.len() as u64;
        self.lent = self.lent.max(self.next - 1);
        lent
    }

    /// Takes lent commands back to be kept, in the order in which they were lent. `sent`: they count as handed over.
    pub(in crate::consensus) fn restore(&mut self, commands: impl IntoIterator<Item = Command>, sent: bool) {
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
    }

    /// The leader takes `seq` next: everything from there on will be lent again. `false`: that number was never given out
    /// or is decided already, so whoever says so is mistaken or late.
    pub(in crate::consensus) fn rewind(&mut self, seq: u64) -> bool {
        if seq <= self.resolved() || seq > self.last_seq + 1 {
            return false;
        }
        self.next = seq;
        if let Some(at) = self.position(seq) {
            for command in self.pending.range_mut(at..).filter_map(|p| p.command.as_mut()) {
                if command.op == Op::ExpireSession && !mutated(Mutation::KeepExpiry) {
                    // No session has this number.
                    command.session = 0;
                }
            }
        }
        true
    }

    /// What was lent from `seq` on was never proposed, and nobody has it or will take it if it still comes: it counts as never
    /// lent, and the rest is as in [`PendingCommands::rewind`].
    pub(in crate::consensus) fn take_back(&mut self, seq: u64) -> bool {
        let known = self.rewind(seq);
        if known {
            self.lent = self.lent.min(seq - 1);
        }
        known
    }

    /// Takes commands out again that nobody can have ordered, newest first in number, and gives their tickets in order. Lent
    /// is lent: the word by which a leader wanted a number again may have crossed the command. Only [`PendingCommands::take_back`] says
    /// otherwise.
    pub(in crate::consensus) fn withdraw(&mut self) -> Vec<Ticket> {
        let next = match mutated(Mutation::RefuseLent) {
            true => self.resolved() + 1,
            false => self.next.max(self.lent + 1),
        };
        let never = self.position(next).unwrap_or(self.pending.len());
        let withdrawn = self.pending.split_off(never);
        self.last_seq -= withdrawn.len() as u64;
        self.bytes -= withdrawn.iter().map(|p| p.bytes).sum::<usize>();
        withdrawn.into_iter().filter_map(|p| p.ticket).collect()
    }

    /// Takes the effect from commands of connections that asked for a session and are gone.
    pub(in crate::consensus) fn disarm(&mut self, mut gone: Vec<Ticket>) {
        if gone.is_empty() {
            return;
        }
        gone.sort_unstable_by_key(|ticket| (ticket.shard, ticket.token));
        let is_gone = |ticket: &Ticket| {
            gone.binary_search_by_key(&(ticket.shard, ticket.token), |gone| (gone.shard, gone.token)).is_ok()
        };
        for pending in self.pending.iter_mut().filter(|p| p.ticket.as_ref().is_some_and(is_gone)) {
            pending.ticket = None;
            if let Some(command) = &mut pending.command
                && matches!(command.op, Op::AttachSession { .. } | Op::OpenSession { .. })
            {
                // No session has this number.
                (command.session, command.op) = (0, Op::ExpireSession);
            }
        }
    }

    /// Whose result this is; `None` if it is not of this stream, or nobody waits for it.
    pub(in crate::consensus) fn resolve(&mut self, node: u8, incarnation: u64, seq: u64) -> Option<Ticket> {
        if (node, incarnation) != (self.node, self.incarnation) {
            return None;
        }
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
        ticket
    }

    /// The command is ordered and its result comes later: those after it do not wait for it.
    pub(in crate::consensus) fn defer(&mut self, node: u8, incarnation: u64, seq: u64) {
        if let Some(ticket) = self.resolve(node, incarnation, seq) {
            self.deferred = Some((seq, ticket));
        }
    }

    /// Number of the newest command whose result, and that of all before it, is known.
    pub(in crate::consensus) fn resolved(&self) -> u64 {
        self.pending.front().map_or(self.last_seq, |p| p.seq - 1)
    }

    /// Number of the newest command.
    pub(in crate::consensus) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Gives up waiting for the results of all that is not decided: they may still be ordered.
    pub(in crate::consensus) fn abandon(&mut self) -> impl Iterator<Item = Ticket> {
        self.pending.iter_mut().filter_map(|p| p.ticket.take())
    }

    /// Whether the log, in which the stream stands at `position`, has begun it anew behind commands of this start: nothing more
    /// of this start would ever have a result.
    pub(in crate::consensus) fn is_cut_off(&self, position: Option<StreamPosition>) -> bool {
        self.resolved() > 0 && position.is_some_and(StreamPosition::is_anew)
    }

    /// Whether something waits and nothing was decided for so long. To be asked in every turn.
    pub(in crate::consensus) fn is_stalled(&mut self, now_ns: u64, after_ns: u64) -> bool {
        let resolved = self.resolved();
        if self.pending.is_empty() || self.decided.0 != resolved {
            self.decided = (resolved, now_ns);
        }
        now_ns.saturating_sub(self.decided.1) >= after_ns
    }

    /// Commands whose result is not known.
    pub(in crate::consensus) fn undecided(&self) -> usize {
        self.pending.len()
    }

    fn position(&self, seq: u64) -> Option<usize> {
        let at = seq.checked_sub(self.pending.front()?.seq)? as usize;
        (at < self.pending.len()).then_some(at)
    }
}

/// What a command is reckoned to take in a batch.
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

    fn lend(out: &mut PendingCommands, count: usize) -> Vec<u64> {
        let lent = out.take_for_send(count, usize::MAX);
        let seqs = lent.iter().map(|c| c.seq).collect();
        out.restore(lent, true);
        seqs
    }

    #[test]
    fn what_a_dead_leader_had_is_offered_to_the_next_one_from_where_it_says() {
        let mut out = filled(4);
        assert_eq!(lend(&mut out, 3), [1, 2, 3]);
        assert_eq!(out.resolve(3, 7, 1).unwrap().token, 1);
        assert!(out.rewind(2));
        assert_eq!(lend(&mut out, 9), [2, 3, 4]);
        assert!(!out.has_unsent());
        // Decided, or never given out.
        assert!(!out.rewind(1) && !out.rewind(6));
        assert!(out.rewind(5));
    }

    #[test]
    fn what_could_not_be_sent_is_lent_again() {
        let mut out = filled(2);
        let lent = out.take_for_send(1, usize::MAX);
        out.restore(lent, false);
        assert_eq!(lend(&mut out, 9), [1, 2]);
    }

    #[test]
    fn results_find_their_tickets_and_strangers_find_none() {
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
        // It has done nothing yet: its first command is the first one of the stream.
        assert!(!out.is_cut_off(anew) && !out.is_cut_off(None));
        out.resolve(3, 7, 1);
        assert!(!out.is_cut_off(Some(StreamPosition { incarnation: 7, seq: 1 })));
        assert!(out.is_cut_off(anew));
    }

    #[test]
    fn commands_that_nobody_decides_are_noticed() {
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
        let lent = out.take_for_send(9, usize::MAX);
        assert_eq!(lent[0].session, 77);
        out.restore(lent, true);
        assert!(out.rewind(1));
        assert_eq!(out.take_for_send(9, usize::MAX)[0].session, 0);
    }

    #[test]
    fn what_was_lent_once_is_never_withdrawn() {
        let mut out = filled(4);
        lend(&mut out, 2);
        // Crossed by the second command: the leader has it by now.
        assert!(out.rewind(2));
        assert_eq!(out.withdraw().iter().map(|t| t.token).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((out.last_seq(), lend(&mut out, 9)), (2, vec![2]));
    }

    #[test]
    fn an_expiry_that_was_never_proposed_keeps_no_write_from_being_refused() {
        let mut out = filled(2);
        out.push(None, 77, 0, Vec::new(), Op::ExpireSession);
        out.push(Some(Ticket { shard: 0, token: 3 }), 9, 1, Vec::new(), Op::CloseSession);
        lend(&mut out, 4);
        assert!(out.take_back(2));
        assert_eq!(out.withdraw().iter().map(|t| t.token).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((out.last_seq(), out.undecided()), (1, 1));
    }

    #[test]
    fn a_session_asked_for_by_a_connection_that_is_gone_is_taken_from_nobody() {
        let mut out = filled(2);
        let attach = Op::AttachSession { timeout_ms: 1000, password: vec![7; 16], last_zxid_seen: 0 };
        for token in [3, 4] {
            out.push(Some(Ticket { shard: 1, token }), 77, 0, Vec::new(), attach.clone());
        }
        // Of the other shard nobody is meant, and a write is a write.
        let gone = [(1, 3), (0, 2), (0, 4), (2, 4)].map(|(shard, token)| Ticket { shard, token });
        out.disarm(gone.to_vec());
        let lent = out.take_for_send(9, usize::MAX);
        let shown: Vec<_> = lent.iter().map(|c| (c.seq, c.session, c.op.clone())).collect();
        assert_eq!((shown[2].clone(), shown[3].clone()), ((3, 0, Op::ExpireSession), (4, 77, attach)));
        assert!(matches!(shown[1].2, Op::Request { .. }));
        out.restore(lent, true);
        // Lent or not: what the next leader gets has no effect.
        out.disarm(vec![Ticket { shard: 1, token: 4 }]);
        assert!(out.rewind(1));
        assert_eq!(out.take_for_send(9, usize::MAX)[3].session, 0);
        assert_eq!((out.resolve(3, 7, 3), out.resolve(3, 7, 4)), (None, None));
    }

    #[test]
    fn what_a_leader_gives_back_can_be_refused_and_its_numbers_go_to_others() {
        let mut out = filled(5);
        lend(&mut out, 4);
        assert_eq!(out.resolve(3, 7, 1).map(|t| t.token), Some(1));
        // Decided here, or never given out: no leader gives that back.
        assert!(!out.take_back(1) && !out.take_back(7));
        assert!(out.take_back(3));
        // Nobody waits for one of them any more: its connection was closed.
        out.disarm(vec![Ticket { shard: 0, token: 4 }]);
        assert_eq!(out.withdraw().iter().map(|t| t.token).collect::<Vec<_>>(), [3, 5]);
        assert_eq!((out.last_seq(), out.undecided(), out.has_unsent()), (2, 1, false));
        out.push(Some(Ticket { shard: 0, token: 9 }), 9, 1, Vec::new(), Op::CloseSession);
        assert_eq!(lend(&mut out, 9), [3]);
        assert_eq!(out.resolve(3, 7, 2).map(|t| t.token), Some(2));
        assert_eq!(out.resolve(3, 7, 3).map(|t| t.token), Some(9));
    }

    #[test]
    fn what_was_never_lent_gives_its_numbers_back() {
        let mut out = filled(3);
        lend(&mut out, 1);
        let tickets = out.withdraw();
        assert_eq!(tickets.iter().map(|t| t.token).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(out.last_seq(), 1);
        assert!(!out.has_unsent());
    }
}
