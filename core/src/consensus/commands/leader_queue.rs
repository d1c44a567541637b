//! The leader's queues: commands that the nodes forward, each node's in the order of its numbers.
//!
//! Owns, while this node leads, the next number of each stream, and the commands taken and not yet
//! proposed.
//!
//! Never orders anything itself. Empty while the node follows.
//!
//! Correct because the first number of a stream comes from the machine, after it has applied the first
//! entry of the leader's own term. That state includes everything that any earlier leader ordered. From
//! there on only the next number is taken:
//!
//! - A gap is answered with the expected number.
//! - A repetition is dropped without an answer. An answer would have it sent a third time.
//! - A command that is not proposed may be returned ([`LeaderQueues::return_unproposed`]). The leader then
//!   ignores the node's forwards until the node acknowledges: older forwards may still arrive under numbers
//!   that the node uses again.
//! - A stream that was begun again has lost its earlier position. Its node gets an `Expect` only after it
//!   has applied the entry that did so ([`LeaderQueues::required_applied`]).

use crate::command::Command;
use crate::consensus::commands::pending::command_bytes;
use crate::consensus::config::{FAIR_BURST, PENDING_BYTES_MAX};
use crate::machine::StreamPosition;
use crate::mutation::{Mutation, mutated};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of one node's commands that wait here. Twice the pending bytes of a correct node, since the
/// estimates of both nodes may differ.
const STREAM_BYTES_MAX: usize = 2 * PENDING_BYTES_MAX;

#[derive(Debug)]
struct Stream {
    incarnation: u64,
    next: u64,
    queue: VecDeque<Command>,
    bytes: usize,
    /// Number of the return that the node has not acknowledged.
    returned: Option<u64>,
}

impl Stream {
    fn continues_with(&self, node: u8, commands: &[Command]) -> bool {
        (self.next..).zip(commands).all(|(seq, command)| {
            command.node == node && command.incarnation == self.incarnation && command.seq == seq
        })
    }

    fn push(&mut self, command: Command) {
        debug_assert_eq!(command.seq, self.next);
        self.next += 1;
        self.bytes += command_bytes(&command.op, &command.identities);
        self.queue.push_back(command);
        debug_assert!(self.is_consistent());
    }

    /// The queue ends just before `next`, and an unacknowledged return leaves the queue empty.
    fn is_consistent(&self) -> bool {
        let end = self.queue.back().is_none_or(|newest| newest.seq + 1 == self.next);
        end && (self.returned.is_none() || self.queue.is_empty())
            && (self.bytes == 0 || !self.queue.is_empty())
    }
}

/// A return: the node gets its commands from `seq` on back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Return {
    pub(in crate::consensus) incarnation: u64,
    pub(in crate::consensus) seq: u64,
    /// Number of this return, never used twice by one start of the leader.
    pub(in crate::consensus) number: u64,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct LeaderQueues {
    nodes: BTreeMap<u8, Stream>,
    /// Count of returns so far.
    returns: u64,
    /// The node that was served last.
    last: u8,
    /// Nodes whose streams were begun again, and an entry at or behind the one that did so.
    restarted: BTreeMap<u8, u64>,
}

impl LeaderQueues {
    /// Forgets everything: this node begins or ceases to lead. Returns the waiting commands of this node's
    /// own stream, which have no other copy.
    pub(in crate::consensus) fn clear(&mut self, own: u8) -> VecDeque<Command> {
        debug_assert!(self.nodes.get(&own).is_none_or(|stream| stream.returned.is_none()));
        self.restarted.clear();
        std::mem::take(&mut self.nodes).remove(&own).map_or_else(VecDeque::new, |stream| stream.queue)
    }

    /// Returns the number that is taken next. `known`: the stream's position in the machine. Commands of an
    /// earlier start of the node are dropped, since no client waits for them.
    pub(in crate::consensus) fn expect(
        &mut self,
        node: u8,
        incarnation: u64,
        known: Option<StreamPosition>,
    ) -> u64 {
        match self.nodes.get(&node) {
            Some(stream) if stream.incarnation == incarnation => stream.next,
            _ => {
                let next = match known {
                    Some(at) if at.incarnation == incarnation => at.seq + 1,
                    _ => 1,
                };
                let stream = Stream { incarnation, next, queue: VecDeque::new(), bytes: 0, returned: None };
                self.nodes.insert(node, stream);
                next
            }
        }
    }

    /// A node comes with another data directory. Its queue and position are dropped: starts from the
    /// earlier directory may have had the same incarnations.
    pub(in crate::consensus) fn forget(&mut self, node: u8) {
        self.nodes.remove(&node);
        self.restarted.remove(&node);
    }

    /// The entry that a node must have applied before it gets an `Expect`. `known` is the stream's position
    /// behind entry `applied`. An earlier `Expect` to a running node whose stream was begun again would
    /// make it send, and the leader order, commands twice.
    pub(in crate::consensus) fn required_applied(
        &mut self,
        node: u8,
        known: Option<StreamPosition>,
        applied: u64,
    ) -> u64 {
        if known.is_some_and(StreamPosition::is_anew) {
            let bound = *self.restarted.entry(node).or_insert(applied);
            debug_assert!(bound <= applied, "the applied index never falls");
            return bound;
        }
        self.restarted.remove(&node);
        0
    }

    /// Takes the commands that a node forwards, without repetitions. An error holds the incarnation and the
    /// number that is expected instead. The commands before that number were taken.
    pub(in crate::consensus) fn take(
        &mut self,
        node: u8,
        commands: Vec<Command>,
    ) -> Result<(), Option<(u64, u64)>> {
        let stream = self.nodes.get_mut(&node).ok_or(None)?;
        if stream.returned.is_some() {
            return Ok(());
        }
        debug_assert!(stream.is_consistent());
        let wanted = |s: &Stream| Err(Some((s.incarnation, s.next)));
        if commands.is_empty() {
            return wanted(stream);
        }
        for command in commands {
            let of_stream = command.node == node && command.incarnation == stream.incarnation;
            if of_stream && command.seq < stream.next {
                continue;
            }
            let fits = of_stream && command.seq == stream.next && stream.bytes < STREAM_BYTES_MAX;
            if !fits {
                return wanted(stream);
            }
            stream.push(command);
        }
        Ok(())
    }

    /// Takes a node's commands that become the next entry as they are, since nothing else waits. `false`:
    /// other commands wait, or these are not the next ones. Then nothing was taken.
    pub(in crate::consensus) fn pass(&mut self, node: u8, commands: &[Command]) -> bool {
        if commands.is_empty() || self.has_more() {
            return false;
        }
        let Some(stream) = self.nodes.get_mut(&node) else { return false };
        debug_assert!(stream.is_consistent());
        let next = stream.continues_with(node, commands);
        if next {
            stream.next += commands.len() as u64;
        }
        debug_assert!(stream.is_consistent());
        next
    }

    /// Takes commands that are bounded at their source. Either all are taken, or all come back as the
    /// error, since they are not the next ones.
    pub(in crate::consensus) fn take_all(
        &mut self,
        node: u8,
        commands: Vec<Command>,
    ) -> Result<(), Vec<Command>> {
        let stream = self.nodes.get_mut(&node).filter(|stream| stream.continues_with(node, &commands));
        let Some(stream) = stream else { return Err(commands) };
        debug_assert!(stream.returned.is_none(), "only forwards of other nodes are returned");
        commands.into_iter().for_each(|command| stream.push(command));
        debug_assert!(stream.is_consistent());
        Ok(())
    }

    /// The number that is taken next, if the node's stream is known.
    pub(in crate::consensus) fn wanted(&self, node: u8) -> Option<u64> {
        self.nodes.get(&node).map(|stream| stream.next)
    }

    /// Whether any queue holds a command.
    pub(in crate::consensus) fn has_more(&self) -> bool {
        self.nodes.values().any(|s| !s.queue.is_empty())
    }

    /// Nodes whose queues are not empty.
    pub(in crate::consensus) fn waiting(&self) -> Vec<u8> {
        self.nodes.iter().filter(|(_, s)| !s.queue.is_empty()).map(|(node, _)| *node).collect()
    }

    /// Empties a node's queue. Returns the commands and the number that is taken next.
    pub(in crate::consensus) fn withdraw(&mut self, node: u8) -> Option<(VecDeque<Command>, u64)> {
        let stream = self.nodes.get_mut(&node)?;
        debug_assert!(stream.is_consistent());
        stream.bytes = 0;
        let waiting = std::mem::take(&mut stream.queue);
        // The queue ends at the newest command that was taken.
        stream.next -= waiting.len() as u64;
        debug_assert!(stream.is_consistent());
        Some((waiting, stream.next))
    }

    /// Returns a node's waiting commands, and takes no more of them before the node acknowledges.
    pub(in crate::consensus) fn return_unproposed(&mut self, node: u8) -> Option<Return> {
        if self.nodes.get(&node)?.returned.is_none() {
            self.withdraw(node)?;
            self.returns += 1;
            self.nodes.get_mut(&node)?.returned = Some(self.returns);
        }
        debug_assert!(self.nodes.get(&node).is_none_or(Stream::is_consistent));
        self.returned(node)
    }

    /// The return that the node has not acknowledged.
    pub(in crate::consensus) fn returned(&self, node: u8) -> Option<Return> {
        let stream = self.nodes.get(&node)?;
        let number = stream.returned?;
        Some(Return { incarnation: stream.incarnation, seq: stream.next, number })
    }

    /// A node acknowledges a return, and its forwards count again. `false`: that is not the node's last
    /// return.
    pub(in crate::consensus) fn acknowledge_return(&mut self, node: u8, back: Return) -> bool {
        let last = self.returned(node) == Some(back);
        if let Some(stream) = self.nodes.get_mut(&node).filter(|_| last) {
            stream.returned = None;
        }
        last
    }

    /// The node has a new link. Everything sent on the old link is lost.
    pub(in crate::consensus) fn link_up(&mut self, node: u8) {
        if let Some(stream) = self.nodes.get_mut(&node) {
            stream.returned = None;
        }
    }

    /// Takes the commands of the next entry, the nodes in turn.
    pub(in crate::consensus) fn fill(&mut self, commands_max: usize, bytes_max: usize) -> Vec<Command> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let order: Vec<u8> = {
            let (before, after): (Vec<u8>, Vec<u8>) = self.nodes.keys().partition(|&&n| n <= self.last);
            after.into_iter().chain(before).collect()
        };
        let mut progress = true;
        while progress {
            progress = false;
            for &node in &order {
                let Some(stream) = self.nodes.get_mut(&node) else { continue };
                for _ in 0..FAIR_BURST {
                    let Some(first) = stream.queue.front() else { break };
                    let size = command_bytes(&first.op, &first.identities);
                    let full = taken.len() >= commands_max;
                    if full || (!taken.is_empty() && bytes + size > bytes_max) {
                        return taken;
                    }
                    bytes += size;
                    stream.bytes -= size;
                    if mutated(Mutation::ApplyTwice) && first.seq.is_multiple_of(16) {
                        taken.push(first.clone());
                    }
                    taken.extend(stream.queue.pop_front());
                    debug_assert!(stream.is_consistent());
                    debug_assert!(taken.len() <= commands_max || mutated(Mutation::ApplyTwice));
                    self.last = node;
                    progress = true;
                }
            }
        }
        taken
    }

    /// Puts back commands that were taken and could not be proposed. They must be the newest taken of their
    /// streams, and are the first to be taken next time.
    pub(in crate::consensus) fn requeue(&mut self, commands: Vec<Command>) {
        for command in commands.into_iter().rev() {
            if let Some(stream) = self.nodes.get_mut(&command.node)
                && stream.incarnation == command.incarnation
            {
                debug_assert!(
                    stream.queue.front().is_none_or(|oldest| command.seq < oldest.seq)
                        || mutated(Mutation::ApplyTwice)
                );
                stream.bytes += command_bytes(&command.op, &command.identities);
                stream.queue.push_front(command);
                debug_assert!(stream.is_consistent());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Op;

    fn command(node: u8, incarnation: u64, seq: u64) -> Command {
        let op = Op::Request { opcode: 5, body: vec![0; 100] };
        Command { node, incarnation, seq, session: 1, attachment: 1, identities: Vec::new(), op }
    }

    fn run(node: u8, incarnation: u64, seqs: std::ops::RangeInclusive<u64>) -> Vec<Command> {
        seqs.map(|seq| command(node, incarnation, seq)).collect()
    }

    #[test]
    fn a_gap_is_answered_with_the_expected_number() {
        let mut s = LeaderQueues::default();
        assert_eq!(s.take(2, run(2, 5, 1..=1)), Err(None));
        assert_eq!(s.expect(2, 5, Some(StreamPosition { incarnation: 5, seq: 10 })), 11);
        assert_eq!(s.take(2, run(2, 5, 12..=12)), Err(Some((5, 11))));
        assert_eq!(s.take(2, run(2, 5, 11..=12)), Ok(()));
        assert_eq!(s.take(2, run(2, 5, 14..=15)), Err(Some((5, 13))));
        // A command of another node, and an empty forward as a question.
        assert_eq!(s.take(2, run(3, 5, 13..=13)), Err(Some((5, 13))));
        assert_eq!(s.take(2, Vec::new()), Err(Some((5, 13))));
        assert_eq!(s.fill(10, 10_000).len(), 2);
    }

    #[test]
    fn a_new_start_of_a_node_begins_at_one_and_drops_what_the_old_one_left() {
        let mut s = LeaderQueues::default();
        s.expect(2, 5, None);
        s.take(2, run(2, 5, 1..=3)).unwrap();
        assert_eq!(s.expect(2, 5, None), 4);
        assert_eq!(s.expect(2, 6, Some(StreamPosition { incarnation: 5, seq: 2 })), 1);
        assert!(!s.has_more());
    }

    /// An answer makes the node send everything on its way again. If repetitions were answered too, that
    /// would never end under load.
    #[test]
    fn what_comes_twice_is_dropped_without_an_answer() {
        let mut s = LeaderQueues::default();
        s.expect(2, 5, None);
        s.take(2, run(2, 5, 1..=3)).unwrap();
        assert_eq!(s.take(2, run(2, 5, 1..=3)), Ok(()));
        assert_eq!(s.take(2, run(2, 5, 2..=5)), Ok(()));
        let got = s.fill(10, usize::MAX);
        assert_eq!(got.iter().map(|c| c.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        // Commands of another incarnation are no repetition.
        assert_eq!(s.take(2, run(2, 4, 1..=1)), Err(Some((5, 6))));
    }

    #[test]
    fn a_node_with_another_disk_begins_at_one_though_its_start_has_the_same_number() {
        let mut s = LeaderQueues::default();
        s.expect(2, 1, None);
        s.take(2, run(2, 1, 1..=3)).unwrap();
        s.forget(2);
        assert!(!s.has_more());
        assert_eq!(s.expect(2, 1, Some(StreamPosition { incarnation: 0, seq: 0 })), 1);
    }

    #[test]
    fn a_node_whose_stream_is_begun_again_first_applies_what_was_taken_of_it() {
        let (mut s, anew) = (LeaderQueues::default(), StreamPosition { incarnation: 0, seq: 0 });
        assert_eq!(s.required_applied(2, Some(StreamPosition { incarnation: 1, seq: 1 }), 50), 0);
        assert_eq!(s.required_applied(2, Some(anew), 70), 70);
        // Entries applied here meanwhile do not raise the bound.
        assert_eq!(s.required_applied(2, Some(anew), 90), 70);
        // Again, with yet another data directory.
        s.forget(2);
        assert_eq!(s.required_applied(2, Some(anew), 95), 95);
        assert_eq!(s.required_applied(2, Some(StreamPosition { incarnation: 1, seq: 1 }), 96), 0);
        assert_eq!(s.required_applied(3, None, 96), 0);
    }

    /// The node gives the same numbers to other commands meanwhile. The earlier commands were refused to
    /// their clients.
    #[test]
    fn what_was_on_its_way_when_commands_were_returned_is_never_taken() {
        let mut s = LeaderQueues::default();
        s.expect(2, 5, None);
        s.take(2, run(2, 5, 1..=6)).unwrap();
        assert_eq!(s.fill(2, usize::MAX).len(), 2);
        let back = s.return_unproposed(2).unwrap();
        assert_eq!((back.incarnation, back.seq, s.has_more()), (5, 3, false));
        // Repetitions and later commands are ignored. The return is sent again, unchanged.
        assert_eq!((s.take(2, run(2, 5, 3..=6)), s.take(2, run(2, 5, 7..=8))), (Ok(()), Ok(())));
        assert!(!s.has_more());
        assert_eq!((s.return_unproposed(2), s.returned(2)), (Some(back), Some(back)));
        // An acknowledgement of another return proves nothing about later forwards.
        assert!(
            !s.acknowledge_return(2, Return { number: back.number + 1, ..back })
                && !s.acknowledge_return(3, back)
        );
        assert_eq!(s.take(2, run(2, 5, 3..=3)), Ok(()));
        assert!(!s.has_more());
        assert!(s.acknowledge_return(2, back) && !s.acknowledge_return(2, back));
        assert_eq!((s.expect(2, 5, None), s.take(2, run(2, 5, 3..=4))), (3, Ok(())));
        assert_eq!(s.fill(9, usize::MAX).iter().map(|c| c.seq).collect::<Vec<_>>(), [3, 4]);
        // The next return has another number. On a new link nothing of the old one can arrive.
        s.take(2, run(2, 5, 5..=5)).unwrap();
        assert_ne!(s.return_unproposed(2).unwrap().number, back.number);
        s.link_up(2);
        assert_eq!((s.returned(2), s.take(2, run(2, 5, 5..=5)), s.has_more()), (None, Ok(()), true));
    }

    #[test]
    fn no_node_starves_behind_a_busy_one() {
        let mut s = LeaderQueues::default();
        for node in [1, 2] {
            s.expect(node, 1, None);
        }
        s.take(1, run(1, 1, 1..=1000)).unwrap();
        s.take(2, run(2, 1, 1..=1)).unwrap();
        let got = s.fill(FAIR_BURST + 1, usize::MAX);
        assert!(got.iter().any(|c| c.node == 2), "{}", got.len());
    }

    #[test]
    fn a_deposed_leader_gets_its_own_commands_back() {
        let mut s = LeaderQueues::default();
        s.expect(1, 1, None);
        s.take(1, run(1, 1, 1..=3)).unwrap();
        assert_eq!(s.fill(1, usize::MAX).len(), 1);
        assert_eq!(s.clear(1).iter().map(|c| c.seq).collect::<Vec<_>>(), [2, 3]);
        assert!(!s.has_more());
    }

    #[test]
    fn commands_that_are_not_the_next_ones_come_back_whole() {
        let mut s = LeaderQueues::default();
        assert_eq!(s.take_all(1, run(1, 1, 1..=3)), Err(run(1, 1, 1..=3)));
        s.expect(1, 1, None);
        for wrong in [run(1, 1, 2..=3), run(1, 2, 1..=2), run(2, 1, 1..=2)] {
            assert_eq!(s.take_all(1, wrong.clone()), Err(wrong));
        }
        let gap = [run(1, 1, 1..=2), run(1, 1, 4..=4)].concat();
        assert_eq!((s.take_all(1, gap.clone()), s.wanted(1)), (Err(gap), Some(1)));
        assert_eq!((s.take_all(1, run(1, 1, 1..=3)), s.wanted(1)), (Ok(()), Some(4)));
        assert_eq!(s.fill(9, usize::MAX).len(), 3);
    }

    #[test]
    fn what_waits_alone_passes_and_what_does_not_pass_is_not_taken() {
        let mut s = LeaderQueues::default();
        for node in [1, 2] {
            s.expect(node, 1, None);
        }
        assert!(!s.pass(1, &[]) && !s.pass(3, &run(3, 1, 1..=1)));
        assert!(s.pass(1, &run(1, 1, 1..=3)));
        assert!(
            !s.pass(1, &run(1, 1, 5..=5)) && !s.pass(1, &run(1, 2, 4..=4)) && !s.pass(1, &run(2, 1, 4..=4))
        );
        // Commands that could not be proposed wait at the front.
        s.requeue(run(1, 1, 3..=3));
        assert!(!s.pass(1, &run(1, 1, 4..=4)));
        assert_eq!(s.take(1, run(1, 1, 4..=4)), Ok(()));
        assert_eq!(s.fill(10, 10_000).iter().map(|c| c.seq).collect::<Vec<_>>(), [3, 4]);
        s.take(2, run(2, 1, 1..=1)).unwrap();
        assert!(!s.pass(1, &run(1, 1, 5..=5)));
    }

    #[test]
    fn what_could_not_be_proposed_is_taken_first_next_time() {
        let mut s = LeaderQueues::default();
        s.expect(1, 1, None);
        s.take(1, run(1, 1, 1..=3)).unwrap();
        let got = s.fill(2, usize::MAX);
        s.requeue(got);
        let again = s.fill(10, usize::MAX);
        assert_eq!(again.iter().map(|c| c.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
