//! Outgoing transfers.
//!
//! Owns one record per node that needs a snapshot: the open file, the acknowledged position, and the chunks
//! in flight.
//!
//! Never has more in flight than a window. The window grows while acknowledgements take little longer than
//! the fastest one. It shrinks when they take much longer: then chunks queue on the way, and heartbeats
//! queue behind them.
//!
//! Correct because a receiver's answer is only a position within the file, from which the sender goes on.

use super::worker::{Done, Job, TransferWorker};
use super::{
    CHUNK_BYTES, Failure, LOG_KEEP_NS, OUTGOING_TRANSFERS_MAX, Outbox, PAUSE_NS, RESEND_NS, SILENCE_MAX_NS,
    STALL_MAX_NS, TransferOutcome, WINDOW_CHUNKS_MAX,
};
use crate::peers::message::SnapshotMessage;
use paddock_storage::SnapshotReader;
use std::collections::{BTreeMap, VecDeque};

/// Queueing delay up to which the window grows.
const QUEUED_LITTLE_NS: u64 = 5_000_000;
/// Queueing delay from which the window shrinks: well below a heartbeat's interval.
const QUEUED_MUCH_NS: u64 = 30_000_000;

/// See the module doc.
#[derive(Default)]
pub(super) struct OutgoingTransfers {
    by_node: BTreeMap<u8, OutgoingTransfer>,
    /// Snapshots that arrived, by receiver: (index, time until which the log is kept for it).
    arrived: BTreeMap<u8, (u64, u64)>,
    /// The last failure of each receiver, until a transfer succeeds or this node no longer leads.
    failed: BTreeMap<u8, Failure>,
    /// Number of the newest transfer; each number is used once.
    last_number: u64,
}

struct OutgoingTransfer {
    /// Number by which the worker's results name this transfer.
    number: u64,
    term: u64,
    stage: OutgoingStage,
}

enum OutgoingStage {
    /// As many transfers as allowed are under way.
    Waiting,
    /// The worker opens the file.
    Opening,
    /// The offer is sent, and perhaps chunks.
    Open(Box<Flow>),
    /// The transfer has ended. Raft learns `ok` at `until_ns`.
    Over { until_ns: u64, index: u64, ok: bool },
}

/// The flow of one file to its receiver.
struct Flow {
    reader: SnapshotReader,
    index: u64,
    bytes: u64,
    /// Acknowledged bytes; `None`: the receiver has not answered the offer.
    acked: Option<u64>,
    /// Highest position that the receiver has ever acknowledged.
    furthest: u64,
    /// Offset of the next chunk to be read.
    next: u64,
    /// Grows when sending goes back to `acked`. Chunks that were read in an earlier round are dropped.
    round: u64,
    /// Chunks that the worker has yet to read.
    reading: usize,
    /// Chunks in flight: (end of the chunk, time of sending).
    left_at: VecDeque<(u64, u64)>,
    /// Chunks that may be in flight.
    window: usize,
    /// Shortest time between a chunk and its acknowledgement.
    shortest_ns: u64,
    /// Time of the receiver's last answer, or of the offer.
    last_reply_ns: u64,
    /// Time of the last resending, or of the offer.
    resent_ns: u64,
    /// Time at which `furthest` last grew.
    advanced_ns: u64,
}

impl OutgoingTransfers {
    pub(super) fn begin(&mut self, to: u8, term: u64, now_ns: u64) {
        self.arrived.retain(|_, (_, until_ns)| *until_ns > now_ns);
        if self.by_node.get(&to).is_some_and(|transfer| transfer.term == term) {
            return;
        }
        self.last_number += 1;
        let transfer = OutgoingTransfer { number: self.last_number, term, stage: OutgoingStage::Waiting };
        self.by_node.insert(to, transfer);
    }

    pub(super) fn clear(&mut self, worker: &mut TransferWorker, outbox: &mut Outbox) {
        self.failed.clear();
        for (to, transfer) in std::mem::take(&mut self.by_node) {
            if let OutgoingStage::Open(flow) = transfer.stage {
                outbox.stop(to, flow.index, "the sender does not lead any more");
                worker.submit(Job::Release(flow.reader));
            }
        }
    }

    pub(super) fn link_down(&mut self, node: u8, worker: &mut TransferWorker, outbox: &mut Outbox) {
        let Some(transfer) = self.by_node.remove(&node) else { return };
        let (ok, index) = match transfer.stage {
            OutgoingStage::Open(flow) => {
                tracing::warn!("the link to node {node} is gone: the snapshot at index {} waits", flow.index);
                let index = flow.index;
                let why = "the link was lost".to_owned();
                self.failed.insert(node, Failure { index, why, ..Failure::default() });
                worker.submit(Job::Release(flow.reader));
                (false, index)
            }
            OutgoingStage::Over { ok, index, .. } => (ok, index),
            OutgoingStage::Waiting | OutgoingStage::Opening => (false, 0),
        };
        outbox.outcomes.push_back(TransferOutcome::Sent { to: node, ok, index });
    }

    /// Handles a request of the receiver for the bytes from `offset` on.
    pub(super) fn want(
        &mut self,
        from: u8,
        index: u64,
        offset: u64,
        now_ns: u64,
        worker: &mut TransferWorker,
        outbox: &mut Outbox,
    ) {
        let Some(transfer) = self.by_node.get_mut(&from) else {
            return outbox.stop(from, index, "this snapshot is not being sent");
        };
        let number = transfer.number;
        let OutgoingStage::Open(flow) = &mut transfer.stage else { return };
        if flow.index != index {
            return;
        }
        if offset > flow.bytes {
            self.fail(from, "it asks for bytes behind the file's end", now_ns, worker, outbox);
            return;
        }
        if offset == flow.bytes {
            tracing::info!("node {from} has the snapshot at index {index}: {} bytes", flow.bytes);
            self.failed.remove(&from);
            let before = self.arrived.insert(from, (index, now_ns + LOG_KEEP_NS));
            // A receiver may repeat this although it takes no entry after the snapshot. Then it costs one
            // offer per pause.
            let again = before.is_some_and(|(arrived, _)| arrived == index);
            transfer.end(index, true, if again { now_ns + PAUSE_NS } else { now_ns }, worker);
            self.report_ended(now_ns, outbox);
            return;
        }
        flow.acknowledged(offset, now_ns);
        flow.fill_window(number, worker);
    }

    /// Ends a transfer that the receiver refuses.
    pub(super) fn stopped(
        &mut self,
        from: u8,
        index: u64,
        why: &str,
        now_ns: u64,
        worker: &mut TransferWorker,
    ) {
        let Some(transfer) = self.by_node.get_mut(&from) else { return };
        if !matches!(&transfer.stage, OutgoingStage::Open(flow) if flow.index == index) {
            return;
        }
        if let Some(more) = self.failed.entry(from).or_default().record(index, why, now_ns) {
            tracing::warn!(more, "node {from} does not take the snapshot at index {index}: {why}");
        }
        transfer.end(index, false, now_ns + PAUSE_NS, worker);
    }

    pub(super) fn done(&mut self, done: Done, now_ns: u64, worker: &mut TransferWorker, outbox: &mut Outbox) {
        match done {
            Done::Opened { transfer, result } => {
                let found = self.by_node.iter_mut().find(|(_, t)| t.number == transfer);
                match (found, result) {
                    (Some((to, transfer)), Ok(reader)) => {
                        let flow = Flow::new(reader, now_ns);
                        // A repeated offer of a snapshot that failed gets no line of its own.
                        if self.failed.get(to).is_none_or(|failure| failure.index != flow.index) {
                            tracing::info!(
                                "node {to} is behind the log: it is sent the snapshot at index {}, {} bytes",
                                flow.index,
                                flow.bytes
                            );
                        }
                        outbox.send(*to, flow.offer(transfer.term));
                        transfer.stage = OutgoingStage::Open(Box::new(flow));
                    }
                    (Some((to, transfer)), Err(why)) => {
                        if let Some(more) = self.failed.entry(*to).or_default().record(0, &why, now_ns) {
                            tracing::error!(
                                more,
                                "node {to} needs a snapshot and none can be sent: {why}. It is tried again"
                            );
                        }
                        transfer.end(0, false, now_ns + PAUSE_NS, worker);
                    }
                    (None, Ok(reader)) => {
                        worker.submit(Job::Release(reader));
                    }
                    (None, Err(_)) => {}
                }
            }
            Done::Read { transfer, round, offset, bytes } => {
                let found = self.by_node.iter_mut().find(|(_, t)| t.number == transfer);
                let Some((to, OutgoingTransfer { stage: OutgoingStage::Open(flow), .. })) = found else {
                    return;
                };
                debug_assert!(flow.reading > 0, "the worker returns one result for each chunk");
                flow.reading -= 1;
                if flow.round == round && !bytes.is_empty() {
                    flow.left_at.push_back((offset + bytes.len() as u64, now_ns));
                    outbox.send(*to, SnapshotMessage::Chunk { index: flow.index, offset, bytes });
                }
                flow.fill_window(transfer, worker);
            }
            // Results of incoming transfers.
            Done::Created { .. } | Done::Written { .. } | Done::Finished { .. } => {}
        }
    }

    pub(super) fn turn(
        &mut self,
        now_ns: u64,
        worker: &mut TransferWorker,
        outbox: &mut Outbox,
    ) -> Option<u64> {
        self.arrived.retain(|_, (_, until_ns)| *until_ns > now_ns);
        let mut failed = Vec::new();
        for (to, transfer) in &mut self.by_node {
            match &mut transfer.stage {
                OutgoingStage::Open(flow) if now_ns >= flow.last_reply_ns + SILENCE_MAX_NS => {
                    failed.push((*to, "it does not answer"));
                }
                OutgoingStage::Open(flow) if now_ns >= flow.advanced_ns + STALL_MAX_NS => {
                    failed.push((*to, "it does not get on"));
                }
                OutgoingStage::Open(flow) if now_ns >= flow.resend_ns() => {
                    flow.resent_ns = now_ns;
                    match flow.acked {
                        None => outbox.send(*to, flow.offer(transfer.term)),
                        Some(acked) => flow.go_back(acked),
                    }
                    flow.fill_window(transfer.number, worker);
                }
                OutgoingStage::Open(_)
                | OutgoingStage::Over { .. }
                | OutgoingStage::Waiting
                | OutgoingStage::Opening => {}
            }
        }
        for (to, why) in failed {
            self.fail(to, why, now_ns, worker, outbox);
        }
        self.report_ended(now_ns, outbox);
        self.open_next(now_ns, worker);
        self.by_node.values().filter_map(|transfer| transfer.deadline_ns()).min()
    }

    /// Reports the transfers that have ended and whose pause is over.
    fn report_ended(&mut self, now_ns: u64, outbox: &mut Outbox) {
        self.by_node.retain(|&to, transfer| match transfer.stage {
            OutgoingStage::Over { until_ns, index, ok } if now_ns >= until_ns => {
                outbox.outcomes.push_back(TransferOutcome::Sent { to, ok, index });
                false
            }
            _ => true,
        });
    }

    /// Lowest index of a snapshot that is being sent or has just arrived.
    pub(super) fn keep_log_from(&self, now_ns: u64) -> Option<u64> {
        let open = self.by_node.values().filter_map(|transfer| match &transfer.stage {
            OutgoingStage::Open(flow) => Some(flow.index),
            OutgoingStage::Over { .. } | OutgoingStage::Waiting | OutgoingStage::Opening => None,
        });
        let arrived =
            self.arrived.values().filter(|(_, until_ns)| *until_ns > now_ns).map(|(index, _)| *index);
        open.chain(arrived).min()
    }

    /// State of the transfer to a node, as text for an operator; `None`: there is no transfer.
    pub(super) fn state(&self, to: u8) -> Option<String> {
        let transfer = self.by_node.get(&to)?;
        let now = match &transfer.stage {
            OutgoingStage::Waiting => "it needs a snapshot and waits for other transfers to end".to_owned(),
            OutgoingStage::Opening => "it needs a snapshot, which is being opened".to_owned(),
            OutgoingStage::Open(flow) => format!(
                "it is sent the snapshot at index {} and has {} of {} bytes",
                flow.index,
                flow.acked.unwrap_or(0),
                flow.bytes
            ),
            OutgoingStage::Over { ok: true, index, .. } => format!("it has the snapshot at index {index}"),
            OutgoingStage::Over { ok: false, .. } => {
                "it needs a snapshot, and the last transfer failed".to_owned()
            }
        };
        Some(match self.failed.get(&to) {
            None => now,
            Some(Failure { index: 0, why, .. }) => format!("{now}; no snapshot could be opened here: {why}"),
            Some(Failure { index, why, .. }) => {
                format!("{now}; before, the snapshot at index {index} failed: {why}")
            }
        })
    }

    /// Opens files for waiting transfers, up to [`OUTGOING_TRANSFERS_MAX`] at a time.
    fn open_next(&mut self, now_ns: u64, worker: &mut TransferWorker) {
        loop {
            let is_active =
                |t: &&OutgoingTransfer| matches!(t.stage, OutgoingStage::Opening | OutgoingStage::Open(_));
            let active = self.by_node.values().filter(is_active).count();
            debug_assert!(active <= OUTGOING_TRANSFERS_MAX, "{active} transfers are under way");
            if active >= OUTGOING_TRANSFERS_MAX {
                return;
            }
            let known = self.by_node.values().filter_map(|transfer| match &transfer.stage {
                OutgoingStage::Open(flow) => Some(flow.reader.clone()),
                OutgoingStage::Over { .. } | OutgoingStage::Waiting | OutgoingStage::Opening => None,
            });
            let known = known.collect();
            let waiting = self.by_node.values_mut().find(|t| matches!(t.stage, OutgoingStage::Waiting));
            let Some(transfer) = waiting else { return };
            if worker.submit(Job::Open { transfer: transfer.number, known }) {
                transfer.stage = OutgoingStage::Opening;
            } else {
                transfer.end(0, false, now_ns + PAUSE_NS, worker);
            }
        }
    }

    fn fail(&mut self, to: u8, why: &str, now_ns: u64, worker: &mut TransferWorker, outbox: &mut Outbox) {
        let Some(transfer) = self.by_node.get_mut(&to) else { return };
        if let OutgoingStage::Open(flow) = &transfer.stage {
            let index = flow.index;
            if let Some(more) = self.failed.entry(to).or_default().record(index, why, now_ns) {
                tracing::warn!(more, "the snapshot at index {index} does not reach node {to}: {why}");
            }
            outbox.stop(to, index, why);
            transfer.end(index, false, now_ns + PAUSE_NS, worker);
        }
    }
}

impl OutgoingTransfer {
    /// Ends the transfer. Raft learns of it at `until_ns`.
    fn end(&mut self, index: u64, ok: bool, until_ns: u64, worker: &mut TransferWorker) {
        debug_assert!(!matches!(self.stage, OutgoingStage::Over { .. }), "a transfer ends once");
        let over = OutgoingStage::Over { until_ns, index, ok };
        if let OutgoingStage::Open(flow) = std::mem::replace(&mut self.stage, over) {
            worker.submit(Job::Release(flow.reader));
        }
    }

    fn deadline_ns(&self) -> Option<u64> {
        match &self.stage {
            OutgoingStage::Open(flow) => Some(flow.resend_ns()),
            OutgoingStage::Over { until_ns, .. } => Some(*until_ns),
            // The end of another transfer, or a result of the worker, comes first.
            OutgoingStage::Waiting | OutgoingStage::Opening => None,
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
            last_reply_ns: now_ns,
            resent_ns: now_ns,
            advanced_ns: now_ns,
        }
    }

    fn offer(&self, term: u64) -> SnapshotMessage {
        let index_term = self.reader.header().term;
        SnapshotMessage::Offer { term, index: self.index, index_term, bytes: self.bytes }
    }

    fn resend_ns(&self) -> u64 {
        self.last_reply_ns.max(self.resent_ns) + RESEND_NS
    }

    /// Whether positions and counts lie within their bounds.
    fn is_consistent(&self) -> bool {
        let acked = self.acked.unwrap_or(0);
        acked <= self.next
            && acked <= self.furthest
            && self.next <= self.bytes
            && (1..=WINDOW_CHUNKS_MAX).contains(&self.window)
            && self.reading <= WINDOW_CHUNKS_MAX
    }

    /// Takes an acknowledgement of the bytes before `offset`, which lies before the file's end. Adapts the
    /// window to the queueing delay.
    fn acknowledged(&mut self, offset: u64, now_ns: u64) {
        debug_assert!(offset < self.bytes && self.is_consistent(), "acknowledged up to {offset}");
        self.last_reply_ns = now_ns;
        if offset > self.furthest {
            (self.furthest, self.advanced_ns) = (offset, now_ns);
        }
        let known = self.acked.is_some_and(|acked| (acked..=self.next).contains(&offset));
        if !known {
            // The first answer, the answer to an earlier round, or a receiver that lost its part.
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
        debug_assert!(self.is_consistent());
    }

    /// Restarts sending at `offset` with the smallest window. Chunks in flight count as lost.
    fn go_back(&mut self, offset: u64) {
        (self.acked, self.next) = (Some(offset), offset);
        self.round += 1;
        self.left_at.clear();
        self.window = 1;
        debug_assert!(self.is_consistent());
    }

    /// Lets the worker read as many chunks as the window has room for.
    fn fill_window(&mut self, transfer: u64, worker: &mut TransferWorker) {
        let Some(acked) = self.acked else { return };
        let limit = acked + (self.window * CHUNK_BYTES) as u64;
        while self.next < self.bytes.min(limit) && self.reading < WINDOW_CHUNKS_MAX {
            let (round, offset) = (self.round, self.next);
            if !worker.submit(Job::Read { transfer, round, reader: self.reader.clone(), offset }) {
                // The next resending tries again.
                return;
            }
            self.reading += 1;
            self.next = (offset + CHUNK_BYTES as u64).min(self.bytes);
        }
        debug_assert!(self.is_consistent());
    }
}
