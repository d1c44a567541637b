//! A connection of the completion loop, and the user data of its operations.
//!
//! Owns the socket and everything that the kernel reads or writes for it outside the shared receive
//! buffers: output in flight, the message header that describes it, the address being connected to. Never
//! moves or frees that memory while the kernel uses it. Correct because a connection leaves the table only
//! when none of its operations is under way.

use crate::engine::{Address, Closed, ConnId};
use crate::io::OutBuf;
use io_uring::{opcode, squeue, types};
use socket2::SockAddr;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

/// Most stretches of output in one send. A reply with a shared value has two.
const SLICES_PER_SEND: usize = 64;

/// Kind of an operation: the top four bits of its user data. Below are 28 bits of the connection's
/// generation and 32 bits of its slot. So a cancellation never meets an operation of another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Op {
    Wake = 0,
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    Cancel = 5,
}

const GENERATION_MASK: u64 = 0x0fff_ffff;

pub(super) const fn user_data(op: Op, index: u32, generation: u32) -> u64 {
    (op as u64) << 60 | (generation as u64 & GENERATION_MASK) << 32 | index as u64
}

impl Op {
    pub(super) fn of(op: Op, id: ConnId) -> u64 {
        user_data(op, id.index() as u32, id.generation())
    }

    /// The operation and its index (slot or listener); `None` for a cancellation.
    pub(super) fn parse(user_data: u64) -> Option<(Op, usize)> {
        let op = match user_data >> 60 {
            0 => Op::Wake,
            1 => Op::Accept,
            2 => Op::Receive,
            3 => Op::Send,
            4 => Op::Connect,
            _ => return None,
        };
        Some((op, (user_data & 0xffff_ffff) as usize))
    }
}

/// The state of the multishot receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receive {
    Idle,
    Armed,
    /// Cancelled, but the last completion has not arrived yet.
    Cancelled,
}

/// A header and slices that a `sendmsg` points to.
struct Message {
    header: libc::msghdr,
    slices: [libc::iovec; SLICES_PER_SEND],
}

/// A connection attempt under way.
pub(super) struct Connecting {
    pub(super) to: Address,
    raw: SockAddr,
}

impl Connecting {
    pub(super) fn new(to: Address, raw: SockAddr) -> Box<Connecting> {
        Box::new(Connecting { to, raw })
    }
}

pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) fd: OwnedFd,
    /// Set until the connection is established.
    pub(super) connecting: Option<Box<Connecting>>,
    pub(super) receive: Receive,
    /// The peer sends no more.
    pub(super) read_done: bool,
    /// A send that reads from `output` is under way.
    pub(super) sending: bool,
    pub(super) output: OutBuf,
    message: Option<Box<Message>>,
    /// Operations that the kernel has not completed yet.
    pub(super) in_kernel: u8,
    /// The deadline for closing is set already.
    pub(super) closing: bool,
    /// Set once the connection is to end. It leaves the table when its last operation has completed.
    pub(super) ended: Option<Closed>,
    /// Bytes received in the turn numbered `in_turn`.
    pub(super) received: usize,
    pub(super) in_turn: u64,
}

impl Conn {
    pub(super) fn new(id: ConnId, fd: OwnedFd, connecting: Option<Box<Connecting>>) -> Conn {
        Conn {
            id,
            fd,
            connecting,
            receive: Receive::Idle,
            read_done: false,
            sending: false,
            output: OutBuf::default(),
            message: None,
            in_kernel: 0,
            closing: false,
            ended: None,
            received: 0,
            in_turn: 0,
        }
    }

    /// Adds to the bytes received in `turn` and returns their sum.
    pub(super) fn count_received(&mut self, turn: u64, bytes: usize) -> usize {
        if self.in_turn != turn {
            self.in_turn = turn;
            self.received = 0;
        }
        self.received += bytes;
        self.received
    }

    /// Builds a send of `output`. The entry points into `output` and `message`, which must not be touched
    /// until the send has completed.
    pub(super) fn send_entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.fd.as_raw_fd());
        let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
        let filled = self.output.slices(&mut slices);
        let entry = match &slices[..filled] {
            [one] => opcode::Send::new(fd, one.as_ptr(), one.len().min(u32::MAX as usize) as u32)
                .flags(libc::MSG_NOSIGNAL)
                .build(),
            several => {
                let message = self.message.insert(Message::new(several));
                opcode::SendMsg::new(fd, &raw const message.header).flags(libc::MSG_NOSIGNAL as u32).build()
            }
        };
        entry.user_data(Op::of(Op::Send, self.id))
    }

    /// Records that the send has completed.
    pub(super) fn send_done(&mut self) {
        self.sending = false;
        self.in_kernel -= 1;
        self.message = None;
    }

    /// Builds a connect to the address in `connecting`, to which the entry points.
    pub(super) fn connect_entry(&self) -> Option<squeue::Entry> {
        let raw = &self.connecting.as_ref()?.raw;
        let entry =
            opcode::Connect::new(types::Fd(self.fd.as_raw_fd()), raw.as_ptr().cast(), raw.len()).build();
        Some(entry.user_data(Op::of(Op::Connect, self.id)))
    }
}

impl Message {
    fn new(from: &[IoSlice<'_>]) -> Box<Message> {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a message header is plain data for which all zeroes is a valid value (no name, no control).
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut message = Box::new(Message { header, slices: [empty; SLICES_PER_SEND] });
        for (to, slice) in message.slices.iter_mut().zip(from) {
            *to = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = from.len() as _;
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_keep_their_names_apart() {
        let id = ConnId::new(7, u32::MAX);
        for op in [Op::Receive, Op::Send, Op::Connect] {
            assert_eq!(Op::parse(Op::of(op, id)), Some((op, 7)));
        }
        assert_ne!(Op::of(Op::Send, ConnId::new(7, 1)), Op::of(Op::Send, ConnId::new(7, 2)));
        assert_eq!(Op::parse(user_data(Op::Cancel, 0, 0)), None);
    }
}
