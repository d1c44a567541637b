//! The way to the consensus core.
//!
//! Owns the shard's end of the submission ring and the numbering of its tickets. Never waits: a full ring is an answer.
//! It stays correct because a ticket names the connection's slot and a number that no other submission of the last four
//! thousand million had, so a result never reaches a stranger in a reused slot.

use crate::commit::Ticket;
use crate::submit::{SUBMIT_RING_ENTRIES, Submit};
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::sync::Arc;

/// Withdrawals that wait for room in the ring; what is beyond is not withdrawn. More than the ring and the core hold commands between
/// them, each of which is withdrawn once at most.
const UNSAID_MAX: usize = 4 * SUBMIT_RING_ENTRIES;

pub(super) struct Uplink {
    shard: u16,
    ring: rtrb::Producer<Submit>,
    consensus: Arc<Waker>,
    number: u32,
    /// Withdrawals that found no room.
    unsaid: VecDeque<Ticket>,
    /// Something was pushed since the last wake.
    pushed: bool,
    /// Something found no room since the turn began.
    pub full: bool,
}

impl Uplink {
    pub fn new(shard: u16, ring: rtrb::Producer<Submit>, consensus: Arc<Waker>) -> Self {
        Self { shard, ring, consensus, number: 0, unsaid: VecDeque::new(), pushed: false, full: false }
    }
    /// Whether a push would succeed; noted when not.
    pub fn has_room(&mut self) -> bool {
        let room = !self.ring.is_full();
        self.full |= !room;
        room
    }
    /// Pushes what `submit` makes of the ticket for the connection in `slot`; its number, or `None` when there is no room.
    pub fn push(&mut self, slot: u32, submit: impl FnOnce(Ticket) -> Submit) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        let token = u64::from(slot) << 32 | u64::from(self.number);
        self.push_plain(submit(Ticket { shard: self.shard, token })).then_some(self.number)
    }
    /// A ticket for something that goes beside the ring; the consensus core is woken for it.
    pub fn beside(&mut self, slot: u32) -> (Ticket, u32) {
        self.number = self.number.wrapping_add(1);
        self.pushed = true;
        let token = u64::from(slot) << 32 | u64::from(self.number);
        (Ticket { shard: self.shard, token }, self.number)
    }
    /// Pushes something that nobody waits for.
    pub fn push_plain(&mut self, submit: Submit) -> bool {
        let done = self.ring.push(submit).is_ok();
        self.pushed |= done;
        self.full |= !done;
        done
    }
    /// Nobody waits any more for the session that was asked for under this number.
    pub fn withdraw(&mut self, slot: u32, number: u32) {
        if self.unsaid.len() < UNSAID_MAX {
            self.unsaid
                .push_back(Ticket { shard: self.shard, token: u64::from(slot) << 32 | u64::from(number) });
        }
    }
    /// Says what was withdrawn, as far as there is room.
    pub fn say_withdrawn(&mut self) {
        while let Some(ticket) = self.unsaid.front().copied() {
            if !self.push_plain(Submit::Withdraw { ticket }) {
                return;
            }
            self.unsaid.pop_front();
        }
    }
    /// Wakes the consensus core if anything was pushed: once a turn.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.consensus.wake();
        }
    }
}

/// The slot and number of a token.
pub(super) fn split_token(token: u64) -> (u32, u32) {
    ((token >> 32) as u32, token as u32)
}
