//! The shard's submission queue to the consensus core.
//!
//! Owns the shard's end of the ring and the numbers of its tickets. Never waits: a full ring is reported
//! to the caller. Correct because a ticket contains the connection's slot and a number that returns only
//! after 2^32 submissions. So a result never reaches another connection in a reused slot.

use crate::commit::Ticket;
use crate::submit::{SUBMIT_RING_ENTRIES, Submit};
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::sync::Arc;

/// Withdrawals that wait for room in the ring; further ones are dropped. Exceeds the commands that the
/// ring and the consensus core hold together, each of which is withdrawn at most once.
const WITHDRAWALS_MAX: usize = 4 * SUBMIT_RING_ENTRIES;

pub(super) struct SubmitQueue {
    shard: u16,
    ring: rtrb::Producer<Submit>,
    consensus: Arc<Waker>,
    number: u32,
    /// Withdrawals to push, at most [`WITHDRAWALS_MAX`].
    withdrawals: VecDeque<Ticket>,
    /// The consensus core must be woken.
    pushed: bool,
    /// The ring was full at least once in this turn.
    pub full: bool,
}

impl SubmitQueue {
    pub fn new(shard: u16, ring: rtrb::Producer<Submit>, consensus: Arc<Waker>) -> Self {
        Self { shard, ring, consensus, number: 0, withdrawals: VecDeque::new(), pushed: false, full: false }
    }
    /// Whether a push would succeed. If not, sets [`Self::full`].
    pub fn has_room(&mut self) -> bool {
        let room = !self.ring.is_full();
        self.full |= !room;
        room
    }
    /// Pushes the submission that `submit` makes of a new ticket for `slot`. Returns the ticket's number,
    /// or `None` if the ring is full.
    pub fn push(&mut self, slot: u32, submit: impl FnOnce(Ticket) -> Submit) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        let token = u64::from(slot) << 32 | u64::from(self.number);
        self.push_untracked(submit(Ticket { shard: self.shard, token })).then_some(self.number)
    }
    /// A ticket and its number for a question that does not go through the ring. The consensus core is
    /// woken for it.
    pub fn ticket_outside_ring(&mut self, slot: u32) -> (Ticket, u32) {
        self.number = self.number.wrapping_add(1);
        self.pushed = true;
        let token = u64::from(slot) << 32 | u64::from(self.number);
        (Ticket { shard: self.shard, token }, self.number)
    }
    /// Pushes a submission without a result. `false`: the ring is full.
    pub fn push_untracked(&mut self, submit: Submit) -> bool {
        let done = self.ring.push(submit).is_ok();
        self.pushed |= done;
        self.full |= !done;
        done
    }
    /// Withdraws the request for a session with this number, whose connection is gone.
    pub fn withdraw(&mut self, slot: u32, number: u32) {
        if self.withdrawals.len() < WITHDRAWALS_MAX {
            self.withdrawals
                .push_back(Ticket { shard: self.shard, token: u64::from(slot) << 32 | u64::from(number) });
        }
    }
    /// Pushes pending withdrawals while the ring has room.
    pub fn push_withdrawals(&mut self) {
        while let Some(ticket) = self.withdrawals.front().copied() {
            if !self.push_untracked(Submit::Withdraw { ticket }) {
                return;
            }
            self.withdrawals.pop_front();
        }
    }
    /// Wakes the consensus core if a submission was pushed. Called once a turn.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.consensus.wake();
        }
    }
}

/// The slot and the number in a ticket's token.
pub(super) fn split_token(token: u64) -> (u32, u32) {
    ((token >> 32) as u32, token as u32)
}
