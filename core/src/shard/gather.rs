//! Parsing: what goes to the consensus core at once, and what is answered here.
//!
//! Owns the look at the head of a connection's input, and with it the order of a session. Never answers. It stays correct
//! because it stops at the first request that may not go together with those before it: a write at a read of the same
//! round, a read or a sync at a write on its way, anything at a sync, a closeSession or a reconfig on its way (but a ping at the last).

use super::Shard;
use super::config::{REQUESTS_PER_TURN_MAX, WRITE_BYTES_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX};
use super::connection::{Connection, Pending, Phase, Waiting};
use super::leases::{Sign, hear_alone};
use super::read_only::{self, classify_read_only};
use super::reads::Read;
use super::rounds::looks_at_the_tree;
use super::serve::{Item, What, Work};
use crate::command::Op;
use crate::mutation::{Mutation, mutated};
use crate::submit::Submit;
use paddock_transport::engine::Now;
use paddock_transport::wire::opcode::{self, Class};
use paddock_transport::wire::{Limits, Reader, Request, RequestHeader, Split, Text, error, split, xid};

impl Shard {
    /// Parses from where the connection stands: forwards writes, gathers reads.
    pub(super) fn gather<'i>(
        &mut self,
        now: Now,
        n: u32,
        work: &mut Work,
        input: &'i [u8],
        batch: &mut Vec<Item<'i>>,
    ) {
        let Some(connection) = self.connections.slot(work.slot) else {
            work.over = true;
            return;
        };
        let max = self.config.jute_max_buffer_bytes;
        let mut at = work.done_bytes;
        let mut gathered = false;
        // Heard from, also when what it sends must wait: a ping behind a sync is a sign of life.
        if input.len() > at && connection.phase == Phase::Open {
            if connection.read_only {
                read_only::heard(connection, now);
            } else if connection.touched_beat != self.touched.beat {
                if self.leases.are_on() {
                    self.touched.connections.push(connection.id);
                } else {
                    match hear_alone(connection, now.mono_ns, self.config.touch_beat_ns()) {
                        Sign::Living => {}
                        Sign::Urgent => self.touched.urgent = true,
                        Sign::TooLate => {
                            (work.over, work.close) = (true, true);
                            return;
                        }
                    }
                }
                connection.touched_beat = self.touched.beat;
                self.touched.sessions.push(connection.session);
            }
        }
        // Whatever ends the loop without setting `over` waits for the reads gathered before it.
        loop {
            if connection.stalled || connection.barrier || connection.phase != Phase::Open {
                if work.begun < REQUESTS_PER_TURN_MAX
                    && let Some(bytes) = ping_behind_reconfig(connection, &input[at..], max)
                {
                    at += bytes;
                    batch.push(Item { work: n, xid: xid::PING, end: at, what: What::Ping });
                    work.begun += 1;
                    gathered = true;
                    continue;
                }
                work.over = !gathered;
                return;
            }
            let (header, body, end) = match split(&input[at..], max) {
                Ok(Split::Incomplete { needed_bytes }) => {
                    connection.needed_bytes = needed_bytes;
                    work.over = !gathered;
                    return;
                }
                Ok(Split::Frame { payload, rest }) => match RequestHeader::split(payload) {
                    Ok((header, body)) => (header, body, input.len() - rest.len()),
                    Err(_) => return gather_end(connection, n, work, What::Reject, 0, gathered, batch),
                },
                Err(_) => return gather_end(connection, n, work, What::Reject, 0, gathered, batch),
            };
            connection.needed_bytes = 0;
            if work.begun >= REQUESTS_PER_TURN_MAX {
                work.again = true;
                work.over = !gathered;
                return;
            }
            let RequestHeader { xid, opcode } = header;
            let kind = if connection.read_only {
                Kind::Here(classify_read_only(opcode, body, self.limits, connection.global))
            } else {
                classify(opcode, body, self.limits)
            };
            let what = match kind {
                Kind::Here(what) => what,
                Kind::Forward(op) => {
                    // Behind a read of this round: the next round takes it, when the read was served.
                    if gathered {
                        return;
                    }
                    let bytes = body.len();
                    let room = connection.pending.len() < WRITES_IN_FLIGHT_MAX
                        && (connection.pending_bytes == 0
                            || connection.pending_bytes + bytes <= WRITE_BYTES_IN_FLIGHT_MAX);
                    // A sync waits for the writes before it.
                    let early = matches!(op, Forward::Sync(_)) && !connection.pending.is_empty();
                    if !room || early {
                        work.over = true;
                        return;
                    }
                    let (session, attachment) = (connection.session, connection.attachment);
                    let identities = &connection.identities;
                    let command = |ticket, op| Submit::Command {
                        ticket,
                        session,
                        attachment,
                        identities: identities.clone(),
                        op,
                    };
                    if !self.uplink.has_room() {
                        work.retry = true;
                        work.over = true;
                        return;
                    }
                    let (number, waiting) = match op {
                        Forward::Write => {
                            let op = Op::Request { opcode, body: body.to_vec() };
                            // Decided long after it was ordered: what follows would overtake it.
                            let waiting =
                                if opcode == opcode::RECONFIG { Waiting::Reconfig } else { Waiting::Write };
                            (self.uplink.push(work.slot, |ticket| command(ticket, op)), waiting)
                        }
                        Forward::Close => {
                            (self.uplink.push(work.slot, |t| command(t, Op::CloseSession)), Waiting::Close)
                        }
                        Forward::Sync(path) => {
                            let path = path.into_owned().into();
                            (
                                self.uplink.push(work.slot, |ticket| Submit::Sync { ticket }),
                                Waiting::Sync { path },
                            )
                        }
                    };
                    let Some(number) = number else {
                        work.over = true;
                        return;
                    };
                    connection.barrier = !matches!(waiting, Waiting::Write);
                    connection.pending_bytes += bytes;
                    let (what, since_ns) = (waiting, now.mono_ns);
                    connection.pending.push_back(Pending {
                        number,
                        xid,
                        what,
                        bytes,
                        since_ns,
                        result: None,
                    });
                    connection.received += 1;
                    self.outstanding += 1;
                    let cells = self.stats.shard(self.config.id);
                    cells.packets_received.add(1);
                    cells.writes_forwarded.add(1);
                    work.begun += 1;
                    work.done_bytes = end;
                    at = end;
                    continue;
                }
            };
            let waits = connection.linearizable && !mutated(Mutation::StaleListener);
            if waits && end > connection.covered_bytes && looks_at_the_tree(&what) {
                if connection.asked_bytes == 0 {
                    // All that came so far is covered by a round that begins after now.
                    connection.asked_bytes = input.len();
                    self.rounds.join(connection.id);
                }
                work.over = !gathered;
                return;
            }
            // Answered here: after everything that was forwarded.
            if !connection.pending.is_empty() && !mutated(Mutation::OvertakeWrites) {
                work.over = true;
                return;
            }
            let last = matches!(what, What::Unknown | What::Goodbye);
            batch.push(Item { work: n, xid, end, what });
            work.begun += 1;
            gathered = true;
            at = end;
            if last {
                return;
            }
        }
    }
}

/// Bytes of the ping that comes next on a connection whose reconfiguration is under way. That may take two minutes, and clients
/// give up a server that leaves their pings unanswered for two thirds of their timeout: they would never hear how it ended. A
/// ping has no place among the replies: clients know it by its xid.
fn ping_behind_reconfig(connection: &Connection, input: &[u8], max: u32) -> Option<usize> {
    let waits = matches!(connection.pending.front(), Some(Pending { what: Waiting::Reconfig, .. }));
    if !waits || connection.stalled || connection.phase != Phase::Open {
        return None;
    }
    let Ok(Split::Frame { payload, rest }) = split(input, max) else { return None };
    let (header, _) = RequestHeader::split(payload).ok()?;
    (header.opcode == opcode::PING).then_some(input.len() - rest.len())
}

/// What is to be done with a request.
pub(super) enum Kind<'i> {
    Here(What<'i>),
    Forward(Forward<'i>),
}

pub(super) enum Forward<'i> {
    Write,
    Close,
    Sync(Text<'i>),
}

#[inline]
pub(super) fn classify(opcode: i32, body: &[u8], limits: Limits) -> Kind<'_> {
    if let Some(read) = Read::of(opcode) {
        let mut r = Reader::new(body, limits);
        let record = r.text().and_then(|path| Ok((path, read.has_watch() && r.boolean()?)));
        return Kind::Here(match record {
            Ok((path, watch)) => What::Read { read, path, watch },
            Err(fault) => What::Fault(fault.code()),
        });
    }
    match opcode {
        opcode::PING => Kind::Here(What::Ping),
        opcode::CLOSE_SESSION => Kind::Forward(Forward::Close),
        // Meant for the server's own container manager.
        opcode::DELETE_CONTAINER => Kind::Here(What::Fault(error::UNIMPLEMENTED)),
        // Exists for multi only.
        opcode::CHECK => Kind::Here(What::Unknown),
        _ => match opcode::class(opcode) {
            None => Kind::Here(What::Unknown),
            Some(Class::Read | Class::Local) => Kind::Here(What::Local { opcode, body }),
            Some(Class::Write) => match Request::decode(opcode, body, limits) {
                Ok(_) => Kind::Forward(Forward::Write),
                Err(fault) => Kind::Here(What::Fault(fault.code())),
            },
            Some(Class::Sync) => match Request::decode(opcode, body, limits) {
                Ok(Request::Sync { path }) => Kind::Forward(Forward::Sync(path)),
                Ok(_) => Kind::Here(What::Unknown),
                Err(fault) => Kind::Here(What::Fault(fault.code())),
            },
        },
    }
}

/// A frame that ends the connection: after all before it.
fn gather_end<'i>(
    connection: &Connection,
    n: u32,
    work: &mut Work,
    what: What<'i>,
    xid: i32,
    gathered: bool,
    batch: &mut Vec<Item<'i>>,
) {
    if connection.pending.is_empty() {
        batch.push(Item { work: n, xid, end: work.done_bytes, what });
    } else {
        work.over = !gathered;
    }
}
