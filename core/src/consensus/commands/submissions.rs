//! Submissions of the shards, taken a batch at a time and numbered.
//!
//! Owns the receiving ends of the shards' rings.
//!
//! Never reorders the submissions of one shard, and never takes more than a batch at a time. The rest stays
//! in its ring, whose bound is the shard's to handle.
//!
//! Correct because a command gets its number in the node's stream ([`PendingCommands`]) at the moment in
//! which it is taken.

use crate::commit::Ticket;
use crate::consensus::commands::pending::{PendingCommands, command_bytes};
use crate::consensus::config::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, FAIR_BURST};
use crate::submit::Submit;
use rtrb::Consumer;

/// Bytes left free in an entry beside one command, for what surrounds it. At most a quarter of the entry.
const ENTRY_SPARE_BYTES: usize = 64 * 1024;

/// Submissions taken in one call.
#[derive(Debug, Default)]
pub(in crate::consensus) struct Gathered {
    pub(in crate::consensus) commands: usize,
    /// Syncs, each with the number of the last command taken before it.
    pub(in crate::consensus) syncs: Vec<(Ticket, u64)>,
    /// Commands that no entry of the log can hold.
    pub(in crate::consensus) oversized: Vec<Ticket>,
    /// Session requests whose connections are gone.
    pub(in crate::consensus) withdrawn: Vec<Ticket>,
    /// An operator requested that this node lead.
    pub(in crate::consensus) lead: bool,
    /// Reports of sessions heard from: (shard, sessions, time in ns).
    pub(in crate::consensus) touched: Vec<(u16, Vec<i64>, u64)>,
    /// Shards whose ring was full and now is not. Such a shard may be waiting to submit.
    pub(in crate::consensus) relieved: Vec<usize>,
    bytes: usize,
    full: bool,
}

/// See the module doc.
pub(in crate::consensus) struct Submissions {
    rings: Vec<Consumer<Submit>>,
    /// The ring whose turn is next.
    first: usize,
    /// Largest command that an entry of the log can hold, bytes.
    command_bytes_max: usize,
    /// Bytes of requests in one batch: [`BATCH_BYTES_MAX`], or less where entries must be small.
    batch_bytes_max: usize,
}

impl Submissions {
    /// `entry_bytes_max`: the largest entry that the log takes.
    pub(in crate::consensus) fn new(rings: Vec<Consumer<Submit>>, entry_bytes_max: u64) -> Self {
        let entry_bytes_max = usize::try_from(entry_bytes_max).unwrap_or(usize::MAX);
        Self {
            rings,
            first: 0,
            command_bytes_max: entry_bytes_max - ENTRY_SPARE_BYTES.min(entry_bytes_max / 4),
            batch_bytes_max: batch_bytes_max(entry_bytes_max),
        }
    }

    /// Whether any ring holds a submission.
    pub(in crate::consensus) fn has_more(&self) -> bool {
        self.rings.iter().any(|r| !r.is_empty())
    }

    /// Takes submissions, shard by shard in turn, until a batch is full.
    pub(in crate::consensus) fn gather(&mut self, into: &mut Gathered, stream: &mut PendingCommands) {
        let shards = self.rings.len();
        debug_assert!(self.first < shards.max(1));
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
                into.full = into.commands >= BATCH_COMMANDS_MAX
                    || (into.commands > 0 && into.bytes + submit_bytes(next) > self.batch_bytes_max);
                if into.full {
                    break;
                }
                let Ok(submit) = self.rings[shard].pop() else { break };
                self.take(shard as u16, submit, into, stream);
                taken += 1;
            }
            idle = if taken == 0 { idle + 1 } else { 0 };
        }
        debug_assert!(into.commands <= BATCH_COMMANDS_MAX);
    }

    fn take(&mut self, shard: u16, submit: Submit, into: &mut Gathered, stream: &mut PendingCommands) {
        debug_assert!(into.commands < BATCH_COMMANDS_MAX);
        let bytes = submit_bytes(&submit);
        match submit {
            Submit::Command { ticket, session, attachment, identities, op } => {
                if bytes > self.command_bytes_max {
                    into.oversized.push(ticket);
                    return;
                }
                into.bytes += bytes;
                into.commands += 1;
                stream.push(Some(ticket), session, attachment, identities.to_vec(), op);
            }
            Submit::Withdraw { ticket } => into.withdrawn.push(ticket),
            Submit::Lead => into.lead = true,
            Submit::Sync { ticket } => into.syncs.push((ticket, stream.last_seq())),
            Submit::Touched { sessions, at_ns } => into.touched.push((shard, sessions, at_ns)),
        }
        debug_assert!(into.bytes <= self.batch_bytes_max || into.commands == 1);
    }
}

/// Bytes of commands in one batch: [`BATCH_BYTES_MAX`], or less where entries must be small.
pub(in crate::consensus) fn batch_bytes_max(entry_bytes_max: usize) -> usize {
    BATCH_BYTES_MAX.min(entry_bytes_max / 2)
}

fn submit_bytes(submit: &Submit) -> usize {
    match submit {
        Submit::Command { op, identities, .. } => command_bytes(op, identities),
        Submit::Sync { .. } | Submit::Withdraw { .. } | Submit::Lead | Submit::Touched { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Identity, Op};
    use rtrb::{Producer, RingBuffer};

    fn submissions(shards: usize, entries: usize) -> (Submissions, PendingCommands, Vec<Producer<Submit>>) {
        let (producers, consumers) = (0..shards).map(|_| RingBuffer::new(entries)).unzip();
        (Submissions::new(consumers, 64 << 20), PendingCommands::new(1, 5), producers)
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
        let (mut submissions, mut stream, mut rings) = submissions(2, 4096);
        for token in 0..4096 {
            rings[0].push(write(0, token, 0)).unwrap();
        }
        rings[1].push(write(1, 7, 0)).unwrap();
        let mut got = Gathered::default();
        submissions.gather(&mut got, &mut stream);
        assert_eq!((got.commands, got.relieved), (BATCH_COMMANDS_MAX, vec![0]));
        let other = (1..).find(|&seq| stream.resolve(1, 5, seq).unwrap().shard == 1).unwrap();
        assert!(other <= FAIR_BURST as u64 + 1);
    }

    #[test]
    fn bytes_bound_a_batch_but_one_request_always_fits() {
        let (mut submissions, mut stream, mut rings) = submissions(1, 16);
        for token in 0..3 {
            rings[0].push(write(0, token, BATCH_BYTES_MAX)).unwrap();
        }
        for expected in 1..=3 {
            let mut got = Gathered::default();
            submissions.gather(&mut got, &mut stream);
            assert_eq!((got.commands, stream.last_seq()), (1, expected));
        }
    }

    #[test]
    fn a_sync_stands_behind_the_commands_before_it() {
        let (mut submissions, mut stream, mut rings) = submissions(1, 16);
        for token in [10, 11] {
            rings[0].push(write(0, token, 1)).unwrap();
        }
        rings[0].push(Submit::Sync { ticket: Ticket { shard: 0, token: 12 } }).unwrap();
        let mut got = Gathered::default();
        submissions.gather(&mut got, &mut stream);
        assert_eq!(got.syncs, [(Ticket { shard: 0, token: 12 }, 2)]);
    }

    #[test]
    fn what_fits_no_entry_is_refused_identities_included() {
        let (mut submissions, mut stream, mut rings) = submissions(1, 16);
        rings[0].push(write(0, 1, 64 << 20)).unwrap();
        let id = Identity { scheme: "digest".into(), id: "x".repeat(1 << 20) };
        let op = Op::CloseSession;
        let ticket = Ticket { shard: 0, token: 2 };
        let identities = vec![id; 65].into();
        rings[0].push(Submit::Command { ticket, session: 1, attachment: 1, identities, op }).unwrap();
        let mut got = Gathered::default();
        submissions.gather(&mut got, &mut stream);
        assert_eq!((got.oversized.len(), stream.last_seq()), (2, 0));
    }
}
