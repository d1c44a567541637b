//! The sender's side.
//!
//! Owns one record per node that needs a snapshot: the open file, how far the receiver has acknowledged it,
//! how much is in flight. Never has more in flight than a window, which grows while chunks are acknowledged
//! about as soon as the first one was, and shrinks when they take longer: then they stand in a queue
//! somewhere, and a heartbeat would stand behind them. It stays correct because all it believes of the
//! receiver is a position within the file, from which it sends.

use super::worker::{Done, Job, TransferWorker};
use super::{
    CHUNK_BYTES, Failure, LOG_KEEP_NS, Outbox, Outcome, PAUSE_NS, RESEND_NS, SENDINGS_MAX, SILENCE_MAX_NS,
    STALL_MAX_NS, WINDOW_CHUNKS_MAX,
};
use crate::peers::message::SnapshotMessage;
use paddock_storage::SnapshotReader;
use std::collections::{BTreeMap, VecDeque};

/// Time in a queue up to which the window grows.
const QUEUED_LITTLE_NS: u64 = 5_000_000;
/// Time in a queue from which it shrinks: well below a heartbeat's interval.
const QUEUED_MUCH_NS: u64 = 30_000_000;

#[derive(Default)]
pub(super) struct Sendings {
    by_node: BTreeMap<u8, Sending>,
    /// Snapshots that arrived, by receiver: index, and until when the log is kept for it.
    arrived: BTreeMap<u8, (u64, u64)>,
    /// Why the last transfer to a node failed, until one succeeds or this node does not lead any more.
    failed: BTreeMap<u8, Failure>,
    next_number: u64,
}

struct Sending {
    number: u64,
    term: u64,
    stage: Stage,
}

enum Stage {
    /// Others are being served.
    Waiting,
    /// The helper opens the file.
    Opening,
    /// The receiver has the offer, and more.
    Open(Box<Flow>),
    /// The transfer has ended. Raft is told `ok` when the pause is over.
    Over { until_ns: u64, index: u64, ok: bool },
}

/// A file on its way.
struct Flow {
    reader: SnapshotReader,
    index: u64,
    bytes: u64,
    /// What the receiver has; `None`: it has not answered the offer.
    acked: Option<u64>,
    /// The furthest that it ever had.
    furthest: u64,
    /// From where the next chunk is read.
    next: u64,
    /// Grows when sending begins anew from `acked`: chunks that were read before are void.
    round: u64,
    /// Chunks that the helper reads.
    reading: usize,
    /// Chunks on their way: where each ends, and when it left.
    left_at: VecDeque<(u64, u64)>,
    window: usize,
    /// The shortest time from a chunk to its acknowledgement.
    shortest_ns: u64,
    /// When the receiver was last heard, or sent to again.
    heard_ns: u64,
    resent_ns: u64,
    /// When it last got on.
    advanced_ns: u64,
}

impl Sendings {
    pub(super) fn begin(&mut self, to: u8, term: u64, now_ns: u64) {
        self.arrived.retain(|_, (_, until_ns)| *until_ns > now_ns);
        if self.by_node.get(&to).is_some_and(|sending| sending.term == term) {
            return;
        }
        self.next_number += 1;
        let sending = Sending { number: self.next_number, term, stage: Stage::Waiting };
        self.by_node.insert(to, sending);
    }

    pub(super) fn clear(&mut self, helper: &mut TransferWorker, outbox: &mut Outbox) {
        self.failed.clear();
        for (to, sending) in std::mem::take(&mut self.by_node) {
            if let Stage::Open(flow) = sending.stage {
                outbox.stop(to, flow.index, "the sender does not lead any more");
                helper.submit(Job::Release(flow.reader));
            }
        }
    }

    pub(super) fn link_down(&mut self, node: u8, helper: &mut TransferWorker, outbox: &mut Outbox) {
        let Some(sending) = self.by_node.remove(&node) else { return };
        let (ok, index) = match sending.stage {
            Stage::Open(flow) => {
                tracing::warn!("the link to node {node} is gone: the snapshot at index {} waits", flow.index);
                let index = flow.index;
                let why = "the link was lost".to_owned();
                self.failed.insert(node, Failure { index, why, ..Failure::default() });
                helper.submit(Job::Release(flow.reader));
                (false, index)
            }
            Stage::Over { ok, index, .. } => (ok, index),
            Stage::Waiting | Stage::Opening => (false, 0),
        };
        outbox.outcomes.push_back(Outcome::Sent { to: node, ok, index });
    }

    /// The receiver asks for what follows `offset`.
    pub(super) fn want(
        &mut self,
        from: u8,
        index: u64,
        offset: u64,
        now_ns: u64,
        helper: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        let Some(sending) = self.by_node.get_mut(&from) else {
            return outbox.stop(from, index, "this snapshot is not being sent");
        };
        let number = sending.number;
        let Stage::Open(flow) = &mut sending.stage else { return };
        if flow.index != index {
            return;
        }
        if offset > flow.bytes {
            self.fail(from, "it asks for bytes behind the file's end", now_ns, helper, outbox);
            return;
        }
        if offset == flow.bytes {
            tracing::info!("node {from} has the snapshot at index {index}: {} bytes", flow.bytes);
            self.failed.remove(&from);
            let before = self.arrived.insert(from, (index, now_ns + LOG_KEEP_NS));
            // A receiver that says so again, and yet takes no entry behind the snapshot, costs one offer in
            // each pause.
            let again = before.is_some_and(|(arrived, _)| arrived == index);
            sending.over(index, true, if again { now_ns + PAUSE_NS } else { now_ns }, helper);
            self.tell_ended(now_ns, outbox);
            return;
        }
        flow.acknowledged(offset, now_ns);
        flow.pump(number, helper);
    }

    /// The receiver does not want it.
    pub(super) fn stopped(
        &mut self,
        from: u8,
        index: u64,
        why: &str,
        now_ns: u64,
        helper: &mut TransferWorker,
    ) {
        let Some(sending) = self.by_node.get_mut(&from) else { return };
        if !matches!(&sending.stage, Stage::Open(flow) if flow.index == index) {
            return;
        }
        if let Some(more) = self.failed.entry(from).or_default().happened(index, why, now_ns) {
            tracing::warn!(more, "node {from} does not take the snapshot at index {index}: {why}");
        }
        sending.over(index, false, now_ns + PAUSE_NS, helper);
    }

    pub(super) fn done(&mut self, done: Done, now_ns: u64, helper: &mut TransferWorker, outbox: &mut Outbox) {
        match done {
            Done::Opened { transfer, result } => {
                let found = self.by_node.iter_mut().find(|(_, s)| s.number == transfer);
                match (found, result) {
                    (Some((to, sending)), Ok(reader)) => {
                        let flow = Flow::new(reader, now_ns);
                        // An offer of the snapshot that failed before is told with the next failure.
                        if self.failed.get(to).is_none_or(|failure| failure.index != flow.index) {
                            tracing::info!(
                                "node {to} is behind the log: it is sent the snapshot at index {}, {} bytes",
                                flow.index,
                                flow.bytes
                            );
                        }
                        outbox.send(*to, flow.offer(sending.term));
                        sending.stage = Stage::Open(Box::new(flow));
                    }
                    (Some((to, sending)), Err(why)) => {
                        if let Some(more) = self.failed.entry(*to).or_default().happened(0, &why, now_ns) {
                            tracing::error!(
                                more,
                                "node {to} needs a snapshot and none can be sent: {why}. It is tried again"
                            );
                        }
                        sending.over(0, false, now_ns + PAUSE_NS, helper);
                    }
                    (None, Ok(reader)) => {
                        helper.submit(Job::Release(reader));
                    }
                    (None, Err(_)) => {}
                }
            }
            Done::Read { transfer, round, offset, bytes } => {
                let found = self.by_node.iter_mut().find(|(_, s)| s.number == transfer);
                let Some((to, Sending { stage: Stage::Open(flow), .. })) = found else { return };
                flow.reading -= 1;
                if flow.round == round && !bytes.is_empty() {
                    flow.left_at.push_back((offset + bytes.len() as u64, now_ns));
                    outbox.send(*to, SnapshotMessage::Chunk { index: flow.index, offset, bytes });
                }
                flow.pump(transfer, helper);
            }
            // The receiver's.
            Done::Created { .. } | Done::Written { .. } | Done::Finished { .. } => {}
        }
    }

    pub(super) fn turn(
        &mut self,
        now_ns: u64,
        helper: &mut TransferWorker,
        outbox: &mut Outbox,
    ) -> Option<u64> {
        self.arrived.retain(|_, (_, until_ns)| *until_ns > now_ns);
        let mut failed = Vec::new();
        for (to, sending) in &mut self.by_node {
            match &mut sending.stage {
                Stage::Open(flow) if now_ns >= flow.heard_ns + SILENCE_MAX_NS => {
                    failed.push((*to, "it does not answer"));
                }
                Stage::Open(flow) if now_ns >= flow.advanced_ns + STALL_MAX_NS => {
                    failed.push((*to, "it does not get on"));
                }
                Stage::Open(flow) if now_ns >= flow.resend_ns() => {
                    flow.resent_ns = now_ns;
                    match flow.acked {
                        None => outbox.send(*to, flow.offer(sending.term)),
                        Some(acked) => flow.go_back(acked),
                    }
                    flow.pump(sending.number, helper);
                }
                Stage::Open(_) | Stage::Over { .. } | Stage::Waiting | Stage::Opening => {}
            }
        }
        for (to, why) in failed {
            self.fail(to, why, now_ns, helper, outbox);
        }
        self.tell_ended(now_ns, outbox);
        self.open_next(now_ns, helper);
        self.by_node.values().filter_map(|sending| sending.deadline_ns()).min()
    }

    /// Tells Raft of the transfers that have ended and whose pause is over.
    fn tell_ended(&mut self, now_ns: u64, outbox: &mut Outbox) {
        self.by_node.retain(|&to, sending| match sending.stage {
            Stage::Over { until_ns, index, ok } if now_ns >= until_ns => {
                outbox.outcomes.push_back(Outcome::Sent { to, ok, index });
                false
            }
            _ => true,
        });
    }

    /// The lowest index that somebody will go on from.
    pub(super) fn keep_log_from(&self, now_ns: u64) -> Option<u64> {
        let open = self.by_node.values().filter_map(|sending| match &sending.stage {
            Stage::Open(flow) => Some(flow.index),
            Stage::Over { .. } | Stage::Waiting | Stage::Opening => None,
        });
        let arrived =
            self.arrived.values().filter(|(_, until_ns)| *until_ns > now_ns).map(|(index, _)| *index);
        open.chain(arrived).min()
    }

    /// How the transfer to a node stands, in words for an operator; `None`: no snapshot is being sent to it.
    pub(super) fn state(&self, to: u8) -> Option<String> {
        let sending = self.by_node.get(&to)?;
        let now = match &sending.stage {
            Stage::Waiting => "it needs a snapshot and waits for other transfers to end".to_owned(),
            Stage::Opening => "it needs a snapshot, which is being opened".to_owned(),
            Stage::Open(flow) => format!(
                "it is sent the snapshot at index {} and has {} of {} bytes",
                flow.index,
                flow.acked.unwrap_or(0),
                flow.bytes
            ),
            Stage::Over { ok: true, index, .. } => format!("it has the snapshot at index {index}"),
            Stage::Over { ok: false, .. } => "it needs a snapshot, and the last transfer failed".to_owned(),
        };
        Some(match self.failed.get(&to) {
            None => now,
            Some(Failure { index: 0, why, .. }) => format!("{now}; no snapshot could be opened here: {why}"),
            Some(Failure { index, why, .. }) => {
                format!("{now}; before, the snapshot at index {index} failed: {why}")
            }
        })
    }

    /// Whoever waits gets its turn as far as there is room.
    fn open_next(&mut self, now_ns: u64, helper: &mut TransferWorker) {
        loop {
            let served = self.by_node.values().filter(|s| matches!(s.stage, Stage::Opening | Stage::Open(_)));
            if served.count() >= SENDINGS_MAX {
                return;
            }
            let known = self.by_node.values().filter_map(|sending| match &sending.stage {
                Stage::Open(flow) => Some(flow.reader.clone()),
                Stage::Over { .. } | Stage::Waiting | Stage::Opening => None,
            });
            let known = known.collect();
            let waiting = self.by_node.values_mut().find(|s| matches!(s.stage, Stage::Waiting));
            let Some(sending) = waiting else { return };
            if helper.submit(Job::Open { transfer: sending.number, known }) {
                sending.stage = Stage::Opening;
            } else {
                sending.over(0, false, now_ns + PAUSE_NS, helper);
            }
        }
    }

    fn fail(&mut self, to: u8, why: &str, now_ns: u64, helper: &mut TransferWorker, outbox: &mut Outbox) {
        let Some(sending) = self.by_node.get_mut(&to) else { return };
        if let Stage::Open(flow) = &sending.stage {
            let index = flow.index;
            if let Some(more) = self.failed.entry(to).or_default().happened(index, why, now_ns) {
                tracing::warn!(more, "the snapshot at index {index} does not reach node {to}: {why}");
            }
            outbox.stop(to, index, why);
            sending.over(index, false, now_ns + PAUSE_NS, helper);
        }
    }
}

impl Sending {
    /// Ends the transfer; Raft is told at `until_ns`.
    fn over(&mut self, index: u64, ok: bool, until_ns: u64, helper: &mut TransferWorker) {
        let over = Stage::Over { until_ns, index, ok };
        if let Stage::Open(flow) = std::mem::replace(&mut self.stage, over) {
            helper.submit(Job::Release(flow.reader));
        }
    }

    fn deadline_ns(&self) -> Option<u64> {
        match &self.stage {
            Stage::Open(flow) => Some(flow.resend_ns()),
            Stage::Over { until_ns, .. } => Some(*until_ns),
            // Somebody else's end, or the helper, is waited for.
            Stage::Waiting | Stage::Opening => None,
        }
    }
}

impl Flow {
    fn new(reader: SnapshotReader, now_ns: u64) -> Self {
        let (index, bytes) = (reader.header().index, reader.file_bytes());
        Self {
            reader,
            index,
            bytes,
            acked: None,
            furthest: 0,
            next: 0,
            round: 0,
            reading: 0,
            left_at: VecDeque::new(),
            window: 1,
            shortest_ns: u64::MAX,
            heard_ns: now_ns,
            resent_ns: now_ns,
            advanced_ns: now_ns,
        }
    }

    fn offer(&self, term: u64) -> SnapshotMessage {
        let index_term = self.reader.header().term;
        SnapshotMessage::Offer { term, index: self.index, index_term, bytes: self.bytes }
    }

    fn resend_ns(&self) -> u64 {
        self.heard_ns.max(self.resent_ns) + RESEND_NS
    }

    fn acknowledged(&mut self, offset: u64, now_ns: u64) {
        self.heard_ns = now_ns;
        if offset > self.furthest {
            (self.furthest, self.advanced_ns) = (offset, now_ns);
        }
        let known = self.acked.is_some_and(|acked| (acked..=self.next).contains(&offset));
        if !known {
            // The first answer, one that follows a second start of sending, or a receiver that lost what it
            // had.
            self.go_back(offset);
            return;
        }
        self.acked = Some(offset);
        while let Some((_, left_ns)) = self.left_at.pop_front_if(|(end, _)| *end <= offset) {
            let took_ns = now_ns.saturating_sub(left_ns);
            self.shortest_ns = self.shortest_ns.min(took_ns);
            let queued_ns = took_ns - self.shortest_ns;
            if queued_ns <= QUEUED_LITTLE_NS {
                self.window = (self.window + 1).min(WINDOW_CHUNKS_MAX);
            } else if queued_ns >= QUEUED_MUCH_NS {
                self.window = (self.window - 1).max(1);
            }
        }
    }

    /// Sends on from `offset`, whatever is on its way.
    fn go_back(&mut self, offset: u64) {
        (self.acked, self.next) = (Some(offset), offset);
        self.round += 1;
        self.left_at.clear();
        self.window = 1;
    }

    /// Has the helper read as many chunks as may be on their way.
    fn pump(&mut self, transfer: u64, helper: &mut TransferWorker) {
        let Some(acked) = self.acked else { return };
        let limit = acked + (self.window * CHUNK_BYTES) as u64;
        while self.next < self.bytes.min(limit) && self.reading < WINDOW_CHUNKS_MAX {
            let (round, offset) = (self.round, self.next);
            if !helper.submit(Job::Read { transfer, round, reader: self.reader.clone(), offset }) {
                // Sent again when nothing is heard.
                return;
            }
            self.reading += 1;
            self.next = (offset + CHUNK_BYTES as u64).min(self.bytes);
        }
    }
}
