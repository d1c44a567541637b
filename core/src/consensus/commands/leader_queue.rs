//! What the nodes of the ensemble forward to the leader, each node's commands in their order.
//!
//! Owns, while this node leads, the next number of each stream that it takes, and the commands taken and not yet proposed.
//! Never orders anything itself, and knows nothing while the node follows. It stays correct because the first number of a
//! stream comes from the machine after it has applied the first entry of the leader's own term, hence everything that any
//! leader before it could have ordered; and because from there on only the next number is taken: a gap is answered with the
//! number that is wanted, and what comes twice is dropped without a word, for an answer would have it sent a third time.
//! What was taken can be given back as long as it was not proposed ([`LeaderQueues::give_back`]). Nothing more is taken of its node then
//! until it has said that it knows, for what it sent before may still be on its way, under numbers that it gives to other commands.
//! A stream that begins anew has forgotten what it took: its node is told to send only when it has seen in its own log what that
//! was ([`LeaderQueues::seen_by`]).

use crate::command::Command;
use crate::consensus::commands::pending::command_bytes;
use crate::consensus::config::{FAIR_BURST, OUTBOUND_BYTES_MAX};
use crate::machine::StreamPosition;
use crate::mutation::{Mutation, mutated};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of one node's commands that wait here: what an honest node can have undecided, twice over, for its own reckoning
/// and ours may differ.
const STREAM_BYTES_MAX: usize = 2 * OUTBOUND_BYTES_MAX;

#[derive(Debug)]
struct Stream {
    incarnation: u64,
    next: u64,
    queue: VecDeque<Command>,
    bytes: usize,
    /// Number of the return that the node has not answered.
    returned: Option<u64>,
}

impl Stream {
    fn continues_with(&self, node: u8, commands: &[Command]) -> bool {
        (self.next..).zip(commands).all(|(seq, command)| {
            command.node == node && command.incarnation == self.incarnation && command.seq == seq
        })
    }

    fn push(&mut self, command: Command) {
        self.next += 1;
        self.bytes += command_bytes(&command.op, &command.identities);
        self.queue.push_back(command);
    }
}

/// What a node is told that gets its commands back: those from `seq` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::consensus) struct Return {
    pub(in crate::consensus) incarnation: u64,
    pub(in crate::consensus) seq: u64,
    /// Of this return; never given twice.
    pub(in crate::consensus) number: u64,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(in crate::consensus) struct LeaderQueues {
    nodes: BTreeMap<u8, Stream>,
    /// Returns so far.
    returns: u64,
    /// The node whose turn it was last.
    last: u8,
    /// Nodes whose streams begin anew, and an entry at or behind that in which they do.
    anew: BTreeMap<u8, u64>,
}

impl LeaderQueues {
    /// Forgets everything: this node begins to lead, or does no longer. Gives back what waited of the node's own: only
    /// the others still have theirs.
    pub(in crate::consensus) fn clear(&mut self, own: u8) -> VecDeque<Command> {
        self.anew.clear();
        std::mem::take(&mut self.nodes).remove(&own).map_or_else(VecDeque::new, |stream| stream.queue)
    }

    /// A node's stream as the machine knows it: the number that is taken next. What an earlier start of the node left here is
    /// dropped: nobody waits for it.
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

    /// A node comes with another data directory: whatever was known of its stream, and what waits of it, is of a life that is
    /// over, whose starts may have had the same numbers.
    pub(in crate::consensus) fn forget(&mut self, node: u8) {
        self.nodes.remove(&node);
        self.anew.remove(&node);
    }

    /// The entry that a node must have applied before it is told where its stream stands, which is `known` behind entry `applied`.
    /// Told sooner, a node whose stream was begun anew while it ran would send what was taken before, and it would be taken
    /// again.
    pub(in crate::consensus) fn seen_by(
        &mut self,
        node: u8,
        known: Option<StreamPosition>,
        applied: u64,
    ) -> u64 {
        if known.is_some_and(StreamPosition::is_anew) {
            return *self.anew.entry(node).or_insert(applied);
        }
        self.anew.remove(&node);
        0
    }

    /// Takes what a node forwards, less what was taken before. An error is the number of the command that is wanted instead, with
    /// its incarnation; what stood before it in `commands` was taken.
    pub(in crate::consensus) fn take(
        &mut self,
        node: u8,
        commands: Vec<Command>,
    ) -> Result<(), Option<(u64, u64)>> {
        let stream = self.nodes.get_mut(&node).ok_or(None)?;
        if stream.returned.is_some() {
            return Ok(());
        }
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

    /// Takes a node's commands that become the next entry as they stand, since nothing else waits. `false`: something does,
    /// or they are not the next ones; nothing was taken.
    pub(in crate::consensus) fn pass(&mut self, node: u8, commands: &[Command]) -> bool {
        if commands.is_empty() || self.has_more() {
            return false;
        }
        let Some(stream) = self.nodes.get_mut(&node) else { return false };
        let next = stream.continues_with(node, commands);
        if next {
            stream.next += commands.len() as u64;
        }
        next
    }

    /// Takes commands that are bounded where they come from: all of them, or none and gives them back, since they are not the
    /// next ones.
    pub(in crate::consensus) fn take_all(
        &mut self,
        node: u8,
        commands: Vec<Command>,
    ) -> Result<(), Vec<Command>> {
        let stream = self.nodes.get_mut(&node).filter(|stream| stream.continues_with(node, &commands));
        let Some(stream) = stream else { return Err(commands) };
        commands.into_iter().for_each(|command| stream.push(command));
        Ok(())
    }

    /// The number that is taken next of a node whose stream is known.
    pub(in crate::consensus) fn wanted(&self, node: u8) -> Option<u64> {
        self.nodes.get(&node).map(|stream| stream.next)
    }

    /// Whether anything waits.
    pub(in crate::consensus) fn has_more(&self) -> bool {
        self.nodes.values().any(|s| !s.queue.is_empty())
    }

    /// Nodes of which something waits.
    pub(in crate::consensus) fn waiting(&self) -> Vec<u8> {
        self.nodes.iter().filter(|(_, s)| !s.queue.is_empty()).map(|(node, _)| *node).collect()
    }

    /// Takes out what waits of the node, and gives it with the number that is taken next.
    pub(in crate::consensus) fn withdraw(&mut self, node: u8) -> Option<(VecDeque<Command>, u64)> {
        let stream = self.nodes.get_mut(&node)?;
        stream.bytes = 0;
        let waiting = std::mem::take(&mut stream.queue);
        // The queue ends at the newest that was taken.
        stream.next -= waiting.len() as u64;
        Some((waiting, stream.next))
    }

    /// Gives back what waits of a node, and takes nothing more of it before it has answered.
    pub(in crate::consensus) fn give_back(&mut self, node: u8) -> Option<Return> {
        if self.nodes.get(&node)?.returned.is_none() {
            self.withdraw(node)?;
            self.returns += 1;
            self.nodes.get_mut(&node)?.returned = Some(self.returns);
        }
        self.returned(node)
    }

    /// The return that the node has not answered.
    pub(in crate::consensus) fn returned(&self, node: u8) -> Option<Return> {
        let stream = self.nodes.get(&node)?;
        let number = stream.returned?;
        Some(Return { incarnation: stream.incarnation, seq: stream.next, number })
    }

    /// A node has heard of this return: what it sends from now on is meant. `false`: that is not the last one.
    pub(in crate::consensus) fn answered(&mut self, node: u8, back: Return) -> bool {
        let last = self.returned(node) == Some(back);
        if let Some(stream) = self.nodes.get_mut(&node).filter(|_| last) {
            stream.returned = None;
        }
        last
    }

    /// There is a new link with the node: what was on its way on the old one is lost.
    pub(in crate::consensus) fn link_up(&mut self, node: u8) {
        if let Some(stream) = self.nodes.get_mut(&node) {
            stream.returned = None;
        }
    }

    /// Takes the next entry's commands, the nodes in turn.
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
                    self.last = node;
                    progress = true;
                }
            }
        }
        taken
    }

    /// Commands that were taken and could not be proposed: they are taken first next time. The newest of their streams.
    pub(in crate::consensus) fn untake(&mut self, commands: Vec<Command>) {
        for command in commands.into_iter().rev() {
            if let Some(stream) = self.nodes.get_mut(&command.node)
                && stream.incarnation == command.incarnation
            {
                stream.bytes += command_bytes(&command.op, &command.identities);
                stream.queue.push_front(command);
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
    fn a_gap_is_answered_with_the_number_wanted() {
        let mut s = LeaderQueues::default();
        assert_eq!(s.take(2, run(2, 5, 1..=1)), Err(None));
        assert_eq!(s.expect(2, 5, Some(StreamPosition { incarnation: 5, seq: 10 })), 11);
        assert_eq!(s.take(2, run(2, 5, 12..=12)), Err(Some((5, 11))));
        assert_eq!(s.take(2, run(2, 5, 11..=12)), Ok(()));
        assert_eq!(s.take(2, run(2, 5, 14..=15)), Err(Some((5, 13))));
        // Somebody else's command, and an empty question.
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

    /// Each answer has the node send again what is on its way; answered as well, that would never end under load.
    #[test]
    fn what_comes_twice_is_dropped_without_an_answer() {
        let mut s = LeaderQueues::default();
        s.expect(2, 5, None);
        s.take(2, run(2, 5, 1..=3)).unwrap();
        assert_eq!(s.take(2, run(2, 5, 1..=3)), Ok(()));
        assert_eq!(s.take(2, run(2, 5, 2..=5)), Ok(()));
        let got = s.fill(10, usize::MAX);
        assert_eq!(got.iter().map(|c| c.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        // Another life's are no repetition.
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
    fn a_node_whose_stream_begins_anew_sees_first_what_was_taken_of_it() {
        let (mut s, anew) = (LeaderQueues::default(), StreamPosition { incarnation: 0, seq: 0 });
        assert_eq!(s.seen_by(2, Some(StreamPosition { incarnation: 1, seq: 1 }), 50), 0);
        assert_eq!(s.seen_by(2, Some(anew), 70), 70);
        // What is applied here meanwhile does not keep it waiting.
        assert_eq!(s.seen_by(2, Some(anew), 90), 70);
        // Once more, with yet another disk.
        s.forget(2);
        assert_eq!(s.seen_by(2, Some(anew), 95), 95);
        assert_eq!(s.seen_by(2, Some(StreamPosition { incarnation: 1, seq: 1 }), 96), 0);
        assert_eq!(s.seen_by(3, None, 96), 0);
    }

    /// The numbers are given to other commands meanwhile: what comes under them from before was refused to its client.
    #[test]
    fn what_was_on_its_way_when_commands_were_given_back_is_never_taken() {
        let mut s = LeaderQueues::default();
        s.expect(2, 5, None);
        s.take(2, run(2, 5, 1..=6)).unwrap();
        assert_eq!(s.fill(2, usize::MAX).len(), 2);
        let back = s.give_back(2).unwrap();
        assert_eq!((back.incarnation, back.seq, s.has_more()), (5, 3, false));
        // Sent twice, or sent on; and the return is said again, the same one.
        assert_eq!((s.take(2, run(2, 5, 3..=6)), s.take(2, run(2, 5, 7..=8))), (Ok(()), Ok(())));
        assert!(!s.has_more());
        assert_eq!((s.give_back(2), s.returned(2)), (Some(back), Some(back)));
        // An answer to another one says nothing about what was sent since.
        assert!(!s.answered(2, Return { number: back.number + 1, ..back }) && !s.answered(3, back));
        assert_eq!(s.take(2, run(2, 5, 3..=3)), Ok(()));
        assert!(!s.has_more());
        assert!(s.answered(2, back) && !s.answered(2, back));
        assert_eq!((s.expect(2, 5, None), s.take(2, run(2, 5, 3..=4))), (3, Ok(())));
        assert_eq!(s.fill(9, usize::MAX).iter().map(|c| c.seq).collect::<Vec<_>>(), [3, 4]);
        // The next one has another number; on a new link nothing of before can come.
        s.take(2, run(2, 5, 5..=5)).unwrap();
        assert_ne!(s.give_back(2).unwrap().number, back.number);
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
        // What could not be proposed waits, and is first.
        s.untake(run(1, 1, 3..=3));
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
        s.untake(got);
        let again = s.fill(10, usize::MAX);
        assert_eq!(again.iter().map(|c| c.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
