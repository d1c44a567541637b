//! Parsing: cuts a connection's input into requests, forwards writes, and batches what the shard answers
//! itself.
//!
//! Owns the head of each connection's input, and with it the order of requests within a session. Never
//! answers. Correct because parsing stops at the first request that may not share a pass with the
//! requests before it:
//! - a write stops behind a read of the same pass;
//! - a read or a sync stops behind a write in flight;
//! - every request stops behind a sync, closeSession or reconfig in flight, except a ping behind a
//!   reconfig.

use super::Shard;
use super::config::{REQUESTS_PER_TURN_MAX, WRITE_BYTES_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX};
use super::connection::{Connection, ConnectionPhase, Pending, PendingKind};
use super::request_class::{ForwardKind, RequestClass, RequestKind, classify, classify_read_only};
use super::serve::{ConnectionTurn, ParsedRequest};
use super::submit_queue::SubmitQueue;
use crate::command::Op;
use crate::mutation::{Mutation, mutated};
use crate::submit::Submit;
use paddock_transport::engine::Now;
use paddock_transport::wire::{RequestHeader, Split, opcode, split, xid};

/// The head of a connection's input.
enum Head<'i> {
    /// `end` is the offset in the input behind the frame.
    Request {
        header: RequestHeader,
        body: &'i [u8],
        end: usize,
    },
    Incomplete {
        needed_bytes: usize,
    },
    Invalid,
}

/// Whether a request went into the ring to the consensus core.
enum Forwarded {
    Yes,
    /// A bound on writes in flight is reached, or a sync waits for the writes before it.
    MustWait,
    RingFull,
}

impl Shard {
    /// Parses from `turn.done_bytes` on: forwards writes and pushes the requests answered here to
    /// `batch`. `n` is the index of `turn`, which each pushed request carries.
    pub(super) fn parse<'i>(
        &mut self,
        now: Now,
        n: u32,
        turn: &mut ConnectionTurn,
        input: &'i [u8],
        batch: &mut Vec<ParsedRequest<'i>>,
    ) {
        let Some(connection) = self.connections.slot(turn.slot) else {
            turn.over = true;
            return;
        };
        let max_bytes = self.config.jute_max_buffer_bytes;
        let mut at = turn.done_bytes;
        // Input counts as a sign of life even if its request must wait: for example a ping behind a sync.
        if input.len() > at
            && connection.phase == ConnectionPhase::Open
            && !self.touched.note(connection, &self.leases, &self.config, now)
        {
            (turn.over, turn.close) = (true, true);
            return;
        }
        // A request of this pass is in the batch. A return that leaves `over` unset continues after it is
        // answered.
        let mut pushed = false;
        loop {
            if connection.stalled || connection.barrier || connection.phase != ConnectionPhase::Open {
                if turn.begun < REQUESTS_PER_TURN_MAX
                    && let Some(bytes) = ping_behind_reconfig(connection, &input[at..], max_bytes)
                {
                    at += bytes;
                    batch.push(ParsedRequest { turn: n, xid: xid::PING, end: at, kind: RequestKind::Ping });
                    turn.begun += 1;
                    pushed = true;
                    continue;
                }
                turn.over = !pushed;
                return;
            }
            let (header, body, end) = match head(input, at, max_bytes) {
                Head::Request { header, body, end } => (header, body, end),
                Head::Incomplete { needed_bytes } => {
                    connection.needed_bytes = needed_bytes;
                    turn.over = !pushed;
                    return;
                }
                Head::Invalid if connection.pending.is_empty() => {
                    let (end, kind) = (turn.done_bytes, RequestKind::Reject);
                    batch.push(ParsedRequest { turn: n, xid: 0, end, kind });
                    return;
                }
                // The connection closes after the replies to the requests before the invalid frame.
                Head::Invalid => {
                    turn.over = !pushed;
                    return;
                }
            };
            connection.needed_bytes = 0;
            if turn.begun >= REQUESTS_PER_TURN_MAX {
                turn.again = true;
                turn.over = !pushed;
                return;
            }
            let class = if connection.read_only {
                let kind = classify_read_only(header.opcode, body, self.limits, connection.global);
                RequestClass::AnswerHere(kind)
            } else {
                classify(header.opcode, body, self.limits)
            };
            let kind = match class {
                RequestClass::AnswerHere(kind) => kind,
                RequestClass::Forward(kind) => {
                    // The next pass forwards it, after the reads of this pass are answered.
                    if pushed {
                        return;
                    }
                    match forward(connection, &mut self.submit_queue, now, header, body, kind) {
                        Forwarded::Yes => {}
                        Forwarded::MustWait => {
                            turn.over = true;
                            return;
                        }
                        Forwarded::RingFull => {
                            (turn.retry, turn.over) = (true, true);
                            return;
                        }
                    }
                    self.outstanding += 1;
                    let cells = self.stats.shard(self.config.id);
                    cells.packets_received.add(1);
                    cells.writes_forwarded.add(1);
                    turn.begun += 1;
                    turn.done_bytes = end;
                    at = end;
                    continue;
                }
            };
            if connection.linearizable
                && !mutated(Mutation::StaleListener)
                && self.read_rounds.must_wait(connection, &kind, end, input.len())
            {
                turn.over = !pushed;
                return;
            }
            // A request answered here waits until every forwarded request has its result.
            if !connection.pending.is_empty() && !mutated(Mutation::OvertakeWrites) {
                turn.over = true;
                return;
            }
            let last = matches!(kind, RequestKind::Unknown | RequestKind::CloseLocalSession);
            batch.push(ParsedRequest { turn: n, xid: header.xid, end, kind });
            turn.begun += 1;
            pushed = true;
            at = end;
            if last {
                return;
            }
        }
    }
}

/// Cuts the frame at `at` and reads its header.
#[inline]
fn head(input: &[u8], at: usize, max_bytes: u32) -> Head<'_> {
    match split(&input[at..], max_bytes) {
        Ok(Split::Incomplete { needed_bytes }) => Head::Incomplete { needed_bytes },
        Ok(Split::Frame { payload, rest }) => match RequestHeader::split(payload) {
            Ok((header, body)) => Head::Request { header, body, end: input.len() - rest.len() },
            Err(_) => Head::Invalid,
        },
        Err(_) => Head::Invalid,
    }
}

/// Pushes a request into the ring to the consensus core and notes it as pending.
fn forward(
    connection: &mut Connection,
    queue: &mut SubmitQueue,
    now: Now,
    RequestHeader { xid, opcode }: RequestHeader,
    body: &[u8],
    kind: ForwardKind<'_>,
) -> Forwarded {
    let bytes = body.len();
    let room = connection.pending.len() < WRITES_IN_FLIGHT_MAX
        && (connection.pending_bytes == 0 || connection.pending_bytes + bytes <= WRITE_BYTES_IN_FLIGHT_MAX);
    // A sync waits for the writes before it.
    let early = matches!(kind, ForwardKind::Sync(_)) && !connection.pending.is_empty();
    if !room || early {
        return Forwarded::MustWait;
    }
    if !queue.has_room() {
        return Forwarded::RingFull;
    }
    let slot = connection.id.index() as u32;
    let (session, attachment) = (connection.session, connection.attachment);
    let identities = &connection.identities;
    let command =
        |ticket, op| Submit::Command { ticket, session, attachment, identities: identities.clone(), op };
    let (number, kind) = match kind {
        ForwardKind::Write => {
            let op = Op::Request { opcode, body: body.to_vec() };
            // A reconfig is decided long after it is ordered; a request behind it would overtake it.
            let kind = if opcode == opcode::RECONFIG { PendingKind::Reconfig } else { PendingKind::Write };
            (queue.push(slot, |ticket| command(ticket, op)), kind)
        }
        ForwardKind::Close => {
            (queue.push(slot, |ticket| command(ticket, Op::CloseSession)), PendingKind::Close)
        }
        ForwardKind::Sync(path) => {
            let path = path.into_owned().into();
            (queue.push(slot, |ticket| Submit::Sync { ticket }), PendingKind::Sync { path })
        }
    };
    let Some(number) = number else { return Forwarded::MustWait };
    connection.barrier = !matches!(kind, PendingKind::Write);
    connection.pending_bytes += bytes;
    connection.received += 1;
    let since_ns = now.mono_ns;
    connection.pending.push_back(Pending { number, xid, kind, bytes, since_ns, result: None });
    Forwarded::Yes
}

/// Bytes of the ping at the head of a connection whose reconfiguration is in progress. That may take two
/// minutes, and a client abandons a server that leaves pings unanswered for two thirds of its timeout. A
/// ping may be answered out of order, because clients recognise its reply by the xid.
fn ping_behind_reconfig(connection: &Connection, input: &[u8], max_bytes: u32) -> Option<usize> {
    let waits = matches!(connection.pending.front(), Some(Pending { kind: PendingKind::Reconfig, .. }));
    if !waits || connection.stalled || connection.phase != ConnectionPhase::Open {
        return None;
    }
    let Ok(Split::Frame { payload, rest }) = split(input, max_bytes) else { return None };
    let (header, _) = RequestHeader::split(payload).ok()?;
    (header.opcode == opcode::PING).then_some(input.len() - rest.len())
}
