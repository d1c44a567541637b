//! What comes in from the shards: gathered into batches, numbered, and matched with who asked.
//!
//! Owns the receiving ends of the shards' rings, this node's stream of commands and the tickets of those that are not
//! decided. Never reorders what one shard submitted, and never takes more than a batch at a time: what does not fit
//! stays in its ring, whose bound is the shard's to deal with. It stays correct because a number is given to a command
//! when it is taken and results come in the order of numbers, so that the oldest ticket is always the next one's.

use super::config::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, FAIR_BURST};
use crate::command::{Command, Op};
use crate::commit::Ticket;
use crate::submit::Submit;
use rtrb::Consumer;
use std::collections::VecDeque;

/// Bytes that a command is reckoned to take beside its body: numbers, identities, lengths.
const COMMAND_OVERHEAD_BYTES: usize = 128;

/// Bytes left free in an entry beside a request's body, for identities and lengths; at most a quarter of the entry.
const ENTRY_SPARE_BYTES: usize = 64 * 1024;

/// What was taken in one go.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// To be ordered.
    pub(super) commands: Vec<Command>,
    /// Syncs, each with the number of the last command taken before it.
    pub(super) syncs: Vec<(Ticket, u64)>,
    /// Commands that no entry of the log can hold.
    pub(super) oversized: Vec<Ticket>,
    /// Reports of sessions heard from: (sessions, when).
    pub(super) touched: Vec<(Vec<i64>, u64)>,
    /// Shards whose ring was full and now is not: they may be waiting for room.
    pub(super) relieved: Vec<usize>,
    bytes: usize,
    full: bool,
}

/// A command of this node's stream whose result is not known.
#[derive(Debug)]
struct Pending {
    seq: u64,
    ticket: Option<Ticket>,
}

/// See the module doc.
pub(super) struct Intake {
    rings: Vec<Consumer<Submit>>,
    /// The ring whose turn it is first.
    first: usize,
    node: u8,
    incarnation: u64,
    last_seq: u64,
    pending: VecDeque<Pending>,
    /// The one that is decided later than those after it: an ensemble has one reconfiguration at a time.
    deferred: Option<Pending>,
    /// Largest request that an entry of the log can hold.
    request_bytes_max: usize,
    /// Bytes of requests in one batch: [`BATCH_BYTES_MAX`], less where entries must be small.
    batch_bytes_max: usize,
}

impl Intake {
    /// The stream (`node`, `incarnation`), from 1. `entry_bytes_max` is the largest entry that the log takes.
    pub(super) fn new(
        rings: Vec<Consumer<Submit>>,
        node: u8,
        incarnation: u64,
        entry_bytes_max: u64,
    ) -> Self {
        let entry_bytes_max = usize::try_from(entry_bytes_max).unwrap_or(usize::MAX);
        Self {
            rings,
            first: 0,
            node,
            incarnation,
            last_seq: 0,
            pending: VecDeque::new(),
            deferred: None,
            request_bytes_max: entry_bytes_max - ENTRY_SPARE_BYTES.min(entry_bytes_max / 4),
            batch_bytes_max: BATCH_BYTES_MAX.min(entry_bytes_max / 2),
        }
    }

    /// Whether anything waits in a ring.
    pub(super) fn has_more(&self) -> bool {
        self.rings.iter().any(|r| !r.is_empty())
    }

    /// Takes what waits, shard by shard in turn, until a batch is full.
    pub(super) fn gather(&mut self, into: &mut Gathered) {
        let shards = self.rings.len();
        for (shard, ring) in self.rings.iter().enumerate() {
            if ring.slots() == ring.buffer().capacity() {
                into.relieved.push(shard);
            }
        }
        let mut idle = 0;
        while idle < shards && !into.full {
            let shard = self.first;
            self.first = (self.first + 1) % shards;
            let mut taken = 0;
            while taken < FAIR_BURST && !into.full {
                let Ok(next) = self.rings[shard].peek() else { break };
                into.full = into.commands.len() >= BATCH_COMMANDS_MAX
                    || (!into.commands.is_empty() && into.bytes + body_bytes(next) > self.batch_bytes_max);
                if into.full {
                    break;
                }
                let Ok(submit) = self.rings[shard].pop() else { break };
                self.take(submit, into);
                taken += 1;
            }
            idle = if taken == 0 { idle + 1 } else { 0 };
        }
    }

    /// Numbers a command of the node itself, for which nobody waits.
    pub(super) fn own(&mut self, session: i64, op: Op) -> Command {
        self.number(None, session, 0, Vec::new(), op)
    }

    /// Takes commands out again that were numbered but never proposed, and gives their tickets: `commands` are the
    /// newest of the stream.
    pub(super) fn withdraw(&mut self, commands: &[Command]) -> Vec<Ticket> {
        let keep = self.pending.len() - commands.len();
        let withdrawn = self.pending.split_off(keep);
        self.last_seq -= commands.len() as u64;
        withdrawn.into_iter().filter_map(|p| p.ticket).collect()
    }

    /// Whose result this is; `None` if it is not of this stream, or nobody waits for it.
    pub(super) fn resolve(&mut self, node: u8, incarnation: u64, seq: u64) -> Option<Ticket> {
        if (node, incarnation) != (self.node, self.incarnation) {
            return None;
        }
        if let Some(deferred) = self.deferred.take_if(|deferred| deferred.seq == seq) {
            return deferred.ticket;
        }
        while let Some(oldest) = self.pending.front() {
            if oldest.seq > seq {
                return None;
            }
            let oldest = self.pending.pop_front()?;
            if oldest.seq == seq {
                return oldest.ticket;
            }
        }
        None
    }

    /// The command is ordered and its result comes later: those after it do not wait for it.
    pub(super) fn defer(&mut self, node: u8, incarnation: u64, seq: u64) {
        if let Some(ticket) = self.resolve(node, incarnation, seq) {
            self.deferred = Some(Pending { seq, ticket: Some(ticket) });
        }
    }

    /// Number of the newest command whose result, and that of all before it, is known.
    pub(super) fn resolved(&self) -> u64 {
        self.pending.front().map_or(self.last_seq, |p| p.seq - 1)
    }

    /// Number of the newest command.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Gives up waiting for the results of all that is not decided: they may still be ordered.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = Ticket> {
        self.pending.iter_mut().filter_map(|p| p.ticket.take())
    }

    /// Commands whose result is not known.
    pub(super) fn undecided(&self) -> usize {
        self.pending.len()
    }

    fn take(&mut self, submit: Submit, into: &mut Gathered) {
        match submit {
            Submit::Command { ticket, session, attachment, identities, op } => {
                if let Op::Request { body, .. } = &op {
                    if body.len() > self.request_bytes_max {
                        into.oversized.push(ticket);
                        return;
                    }
                    into.bytes += body.len();
                }
                into.bytes += COMMAND_OVERHEAD_BYTES;
                let command = self.number(Some(ticket), session, attachment, identities.to_vec(), op);
                into.commands.push(command);
            }
            Submit::Sync { ticket } => into.syncs.push((ticket, self.last_seq)),
            Submit::Touched { sessions, at_ns } => into.touched.push((sessions, at_ns)),
        }
    }

    fn number(
        &mut self,
        ticket: Option<Ticket>,
        session: i64,
        attachment: u32,
        identities: Vec<crate::command::Identity>,
        op: Op,
    ) -> Command {
        self.last_seq += 1;
        self.pending.push_back(Pending { seq: self.last_seq, ticket });
        let (node, incarnation, seq) = (self.node, self.incarnation, self.last_seq);
        Command { node, incarnation, seq, session, attachment, identities, op }
    }
}

fn body_bytes(submit: &Submit) -> usize {
    match submit {
        Submit::Command { op: Op::Request { body, .. }, .. } => body.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtrb::{Producer, RingBuffer};

    fn intake(shards: usize, entries: usize) -> (Intake, Vec<Producer<Submit>>) {
        let (producers, consumers) = (0..shards).map(|_| RingBuffer::new(entries)).unzip();
        (Intake::new(consumers, 1, 5, 64 << 20), producers)
    }

    fn write(shard: u16, token: u64, bytes: usize) -> Submit {
        Submit::Command {
            ticket: Ticket { shard, token },
            session: 1,
            attachment: 1,
            identities: [].into(),
            op: Op::Request { opcode: 5, body: vec![0; bytes] },
        }
    }

    #[test]
    fn no_shard_starves_behind_a_busy_one() {
        let (mut intake, mut rings) = intake(2, 4096);
        for token in 0..4096 {
            rings[0].push(write(0, token, 0)).unwrap();
        }
        rings[1].push(write(1, 7, 0)).unwrap();
        let mut got = Gathered::default();
        intake.gather(&mut got);
        assert_eq!(got.commands.len(), BATCH_COMMANDS_MAX);
        assert_eq!(got.relieved, [0]);
        assert!((1..=got.commands.len() as u64).eq(got.commands.iter().map(|c| c.seq)));
        let stranger = (1..).find(|&seq| intake.resolve(1, 5, seq).unwrap().shard == 1).unwrap();
        assert!(stranger <= FAIR_BURST as u64 + 1);
    }

    #[test]
    fn bytes_bound_a_batch_but_one_request_always_fits() {
        let (mut intake, mut rings) = intake(1, 16);
        for token in 0..3 {
            rings[0].push(write(0, token, BATCH_BYTES_MAX)).unwrap();
        }
        for expected in 1..=3 {
            let mut got = Gathered::default();
            intake.gather(&mut got);
            assert_eq!(got.commands.iter().map(|c| c.seq).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn results_find_their_tickets_and_strangers_find_none() {
        let (mut intake, mut rings) = intake(1, 16);
        for token in [10, 11] {
            rings[0].push(write(0, token, 1)).unwrap();
        }
        rings[0].push(Submit::Sync { ticket: Ticket { shard: 0, token: 12 } }).unwrap();
        let mut got = Gathered::default();
        intake.gather(&mut got);
        assert_eq!(got.syncs, [(Ticket { shard: 0, token: 12 }, 2)]);
        let own = intake.own(9, Op::ExpireSession);
        assert_eq!((own.seq, intake.undecided(), intake.resolved()), (3, 3, 0));
        assert_eq!(intake.resolve(1, 4, 1), None);
        assert_eq!(intake.resolve(2, 5, 1), None);
        assert_eq!(intake.resolve(1, 5, 1).unwrap().token, 10);
        assert_eq!((intake.resolved(), intake.resolve(1, 5, 1)), (1, None));
        assert_eq!(intake.resolve(1, 5, 2).unwrap().token, 11);
        assert_eq!(intake.resolve(1, 5, 3), None);
        assert_eq!((intake.resolved(), intake.undecided()), (3, 0));
    }

    #[test]
    fn what_was_never_proposed_gives_its_numbers_back() {
        let (mut intake, mut rings) = intake(1, 16);
        for token in [10, 11, 12] {
            rings[0].push(write(0, token, 1)).unwrap();
        }
        let mut got = Gathered::default();
        intake.gather(&mut got);
        let tickets = intake.withdraw(&got.commands[1..]);
        assert_eq!(tickets.iter().map(|t| t.token).collect::<Vec<_>>(), [11, 12]);
        assert_eq!(intake.own(1, Op::CloseSession).seq, 2);
    }
}
