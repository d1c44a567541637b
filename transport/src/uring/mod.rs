//! The completion loop: io_uring with deferred task work, multishot accept and receive, and shared receive
//! buffers.
//!
//! Owns its connections' sockets and the ring. A turn reaps what has completed, hands it to the engine,
//! queues one send per connection, and submits everything with one system call. The same call brings in
//! what arrived meanwhile. Never blocks except in that call, and there only with nothing to do.
//!
//! Correct because:
//!
//! - One send is under way per connection, so output cannot be reordered.
//! - A connection leaves the table only when the kernel is done with all its operations, so memory that
//!   the kernel reads stays in place.
//! - Receive buffers return to the kernel within the turn, so a slow connection cannot use them up.
//! - A receive that ends for want of a buffer, or of its own accord, is armed again in the same turn.

mod conn;
mod ring;

use crate::accept::reason;
use crate::engine::{Address, Closed, ConnId, Engine, Origin};
use crate::event_loop::{LoopError, LoopOptions, LoopState, Wait};
use crate::io::CloseRequest;
use crate::socket;
use conn::{Conn, Connecting, Op, Receive, user_data};
use io_uring::{cqueue, opcode, squeue, types};
use ring::{BUFFER_GROUP, Ring};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Sets up a ring and drops it, to learn whether io_uring works here.
pub(crate) fn probe(options: &LoopOptions) -> Result<(), LoopError> {
    Ring::new(options, Arc::default()).map(drop)
}

/// Runs `engine` until it stops.
pub(crate) fn run(loop_state: LoopState, engine: &mut impl Engine) -> Result<(), LoopError> {
    let ring = Ring::new(&loop_state.options, Arc::clone(&loop_state.counters))?;
    let listeners = loop_state.acceptor.as_ref().map_or(0, |a| a.listeners.len());
    let accepting = vec![false; listeners];
    let mut this = Uring { conns: Vec::new(), ring, accepting, completions: Vec::new(), turn: 0, loop_state };
    this.run(engine)
}

struct Uring {
    conns: Vec<Option<Conn>>,
    ring: Ring,
    /// Whether the multishot accept of each listener is armed.
    accepting: Vec<bool>,
    /// Completions of this turn except sends: (user data, result, flags).
    completions: Vec<(u64, i32, u32)>,
    turn: u64,
    loop_state: LoopState,
}

impl Uring {
    fn run(&mut self, engine: &mut impl Engine) -> Result<(), LoopError> {
        self.watch_waker()?;
        self.arm_accepts()?;
        loop {
            self.wait(engine)?;
            self.loop_state.awake(engine);
            self.turn += 1;
            self.reap()?;
            let mut completions = std::mem::take(&mut self.completions);
            for (name, result, flags) in completions.drain(..) {
                self.complete(name, result, flags, engine)?;
            }
            self.completions = completions;
            self.ring.buffers.publish();
            self.arm_accepts()?;
            self.loop_state.tell(engine);
            while let Some(adoption) = self.loop_state.adoption() {
                self.add(adoption.fd, &adoption.origin, engine);
            }
            if self.loop_state.turn(engine) {
                self.begin_stop()?;
            }
            self.submit_requests()?;
            if self.loop_state.is_overdue() {
                self.conns.iter().flatten().for_each(|conn| self.loop_state.io.abort(conn.id));
                self.submit_requests()?;
            }
            if self.loop_state.is_finished() && self.ring.in_kernel == 0 {
                return Ok(());
            }
        }
    }

    /// Submits this turn's operations and brings in completions. Sleeps if there is nothing to do.
    fn wait(&mut self, engine: &mut impl Engine) -> Result<(), LoopError> {
        if self.sleepiness() == Wait::No {
            return if self.ring.has_business() { self.ring.enter(0, None) } else { Ok(()) };
        }
        if self.ring.has_submissions() {
            // Sends complete within the call, so that waiting for one completion would return at once.
            // Submit first, and check whether anything but sends came back.
            self.ring.enter(0, None)?;
            self.reap()?;
        }
        let Wait::Until(until) = self.sleepiness() else { return Ok(()) };
        if !self.completions.is_empty() || self.ring.has_submissions() || !self.loop_state.park(engine) {
            return Ok(());
        }
        let timeout = until.map(|t| {
            let ns = t.saturating_sub(self.loop_state.now.mono_ns);
            types::Timespec::new().sec(ns / 1_000_000_000).nsec((ns % 1_000_000_000) as u32)
        });
        self.ring.enter(1, timeout)
    }

    fn sleepiness(&self) -> Wait {
        if !self.loop_state.dirty.is_empty() {
            return Wait::No;
        }
        if self.loop_state.is_finished() {
            return Wait::Until(None); // Only the loop's own operations are left, and they are cancelled.
        }
        let listeners = self.loop_state.acceptor.iter().flat_map(|a| a.listeners.iter());
        self.loop_state.wait(listeners.filter_map(|l| l.resting_until).min())
    }

    /// Takes completions out of the ring. Sends do not concern the engine and are handled at once.
    fn reap(&mut self) -> Result<(), LoopError> {
        while let Some((name, result, flags)) = self.ring.completion() {
            match Op::parse(name) {
                Some((Op::Send, index)) => self.sent(index, result)?,
                Some(_) => self.completions.push((name, result, flags)),
                None => {}
            }
        }
        Ok(())
    }

    fn complete(
        &mut self,
        name: u64,
        result: i32,
        flags: u32,
        engine: &mut impl Engine,
    ) -> Result<(), LoopError> {
        match Op::parse(name) {
            Some((Op::Receive, index)) => self.received(index, result, flags, engine),
            Some((Op::Accept, n)) => self.accepted(n, result, flags),
            Some((Op::Connect, index)) => self.connected(index, result, engine),
            Some((Op::Wake, _)) if !cqueue::more(flags) => {
                self.ring.in_kernel -= 1;
                if self.loop_state.is_stopping() { Ok(()) } else { self.watch_waker() }
            }
            _ => Ok(()),
        }
    }

    fn watch_waker(&mut self) -> Result<(), LoopError> {
        let event = types::Fd(self.loop_state.waker.event().as_raw_fd());
        let poll = opcode::PollAdd::new(event, libc::POLLIN as u32).multi(true).build();
        // SAFETY: points to nothing, and the eventfd lives as long as `loop_state`.
        unsafe { self.ring.push(poll.user_data(user_data(Op::Wake, 0, 0))) }
    }

    /// Arms the accept of each listener that is neither armed nor paused.
    fn arm_accepts(&mut self) -> Result<(), LoopError> {
        let Some(acceptor) = &mut self.loop_state.acceptor else { return Ok(()) };
        for (n, listening) in acceptor.listeners.iter_mut().enumerate() {
            if self.accepting[n] || listening.resting_until.is_some_and(|t| t > self.loop_state.now.mono_ns) {
                continue;
            }
            listening.resting_until = None;
            self.accepting[n] = true;
            // With O_NONBLOCK the kernel would report EAGAIN instead of completing the operation later.
            let _ = rustix::io::ioctl_fionbio(&listening.listener, false);
            let fd = types::Fd(std::os::fd::AsFd::as_fd(&listening.listener).as_raw_fd());
            let accept = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
            // SAFETY: points to nothing, and the kernel holds the listener itself.
            unsafe { self.ring.push(accept.user_data(user_data(Op::Accept, n as u32, 0)))? };
        }
        Ok(())
    }

    fn accepted(&mut self, n: usize, result: i32, flags: u32) -> Result<(), LoopError> {
        if !cqueue::more(flags) {
            self.ring.in_kernel -= 1;
            self.accepting[n] = false;
        }
        // SAFETY: a result that is no error is a new descriptor, and this completion is its only owner.
        let fd = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let Some(acceptor) = &mut self.loop_state.acceptor else { return Ok(()) };
        match fd {
            Some(fd) => {
                acceptor.listeners[n].accepted();
                acceptor.deal(fd, n);
            }
            None => {
                let errno = Errno::from_raw_os_error(-result);
                // A paused listener is armed again after its pause, any other in this turn.
                let _rests = acceptor.listeners[n].failed(errno, self.loop_state.now.mono_ns);
            }
        }
        Ok(())
    }

    fn add(&mut self, fd: OwnedFd, origin: &Origin, engine: &mut impl Engine) {
        // With O_NONBLOCK the kernel would report EAGAIN instead of completing the operation later.
        let _ = rustix::io::ioctl_fionbio(&fd, false);
        let id = self.loop_state.io.open();
        self.put(Conn::new(id, fd, None));
        self.loop_state.dirty.push(id);
        self.loop_state.counters.opened.add(1);
        engine.opened(self.loop_state.now, id, origin, &mut self.loop_state.io);
    }

    fn put(&mut self, conn: Conn) {
        let index = conn.id.index();
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        self.conns[index] = Some(conn);
    }

    fn connect(&mut self, id: ConnId, address: Address) -> Result<(), LoopError> {
        let made = socket::sockaddr(&address).and_then(|raw| Ok((raw, socket::socket_for(&address)?)));
        let (raw, socket) = match made {
            Ok(made) => made,
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
                self.loop_state.ended.push((id, Closed::ConnectFailed(errno)));
                return Ok(());
            }
        };
        let mut conn = Conn::new(id, socket.into(), Some(Connecting::new(address, raw)));
        if let Some(entry) = conn.connect_entry() {
            conn.in_kernel += 1;
            // SAFETY: the address is boxed inside the connection, which stays in the table until the
            // connect completes.
            unsafe { self.ring.push(entry)? };
        }
        self.put(conn);
        Ok(())
    }

    fn connected(&mut self, index: usize, result: i32, engine: &mut impl Engine) -> Result<(), LoopError> {
        self.ring.in_kernel -= 1;
        let Some(conn) = self.conns[index].as_mut() else { return Ok(()) };
        conn.in_kernel -= 1;
        let id = conn.id;
        if conn.ended.is_some() {
            self.leave_if_done(index);
            return Ok(());
        }
        if result < 0 {
            return self.end(id, Closed::ConnectFailed(-result));
        }
        let Some(connecting) = conn.connecting.take() else { return Ok(()) };
        self.loop_state.dirty.push(id);
        if self.loop_state.io.is_open(id) {
            let origin = Origin { peer: connecting.to, listener: None };
            self.loop_state.counters.opened.add(1);
            engine.opened(self.loop_state.now, id, &origin, &mut self.loop_state.io);
        }
        Ok(())
    }

    fn received(
        &mut self,
        index: usize,
        result: i32,
        flags: u32,
        engine: &mut impl Engine,
    ) -> Result<(), LoopError> {
        let buffer = cqueue::buffer_select(flags);
        let Some(conn) = self.conns[index].as_mut() else {
            debug_assert!(false, "a connection left before its receive had completed");
            return Ok(());
        };
        let id = conn.id;
        let heard = conn.ended.is_none() && self.loop_state.io.is_open(id);
        let mut over = false;
        if let Some(buffer) = buffer {
            if result > 0 && heard {
                over = conn.count_received(self.turn, result as usize)
                    > self.loop_state.options.input_bytes_per_turn_max;
                let bytes = self.ring.buffers.filled(buffer, result as usize);
                engine.received(self.loop_state.now, id, bytes, &mut self.loop_state.io);
            }
            self.ring.buffers.give_back(buffer);
        }
        if cqueue::more(flags) {
            return if over { self.cancel_receive(id) } else { Ok(()) };
        }
        conn.receive = Receive::Idle;
        conn.in_kernel -= 1;
        self.ring.in_kernel -= 1;
        if conn.ended.is_some() {
            self.leave_if_done(index);
            return Ok(());
        }
        self.loop_state.dirty.push(id);
        match result {
            1.. => {}
            0 => {
                conn.read_done = true;
                if heard {
                    engine.eof(self.loop_state.now, id, &mut self.loop_state.io);
                }
            }
            _ => match Errno::from_raw_os_error(-result) {
                Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN => {}
                errno => return self.end(id, reason(errno)),
            },
        }
        Ok(())
    }

    /// Handles the completion of a send.
    fn sent(&mut self, index: usize, result: i32) -> Result<(), LoopError> {
        self.ring.in_kernel -= 1;
        let Some(conn) = self.conns[index].as_mut() else {
            debug_assert!(false, "a connection left before its send had completed");
            return Ok(());
        };
        conn.send_done();
        let id = conn.id;
        if result > 0 {
            let count = (result as usize).min(conn.output.len());
            if self.loop_state.io.sent_of(id, &mut conn.output, count) {
                self.loop_state.drained.push(id);
            }
        }
        if conn.ended.is_some() {
            self.leave_if_done(index);
            return Ok(());
        }
        if result < 0 {
            match Errno::from_raw_os_error(-result) {
                Errno::INTR | Errno::AGAIN | Errno::CANCELED => {}
                errno => return self.end(id, reason(errno)),
            }
        }
        let requests = self.loop_state.io.requests(id);
        if !conn.output.is_empty() || requests.is_some_and(|r| r.output || r.close != CloseRequest::None) {
            self.loop_state.dirty.push(id);
        }
        Ok(())
    }

    /// Submits what the engine requested in this turn, and arms again what completions ended.
    fn submit_requests(&mut self) -> Result<(), LoopError> {
        let mut connects = std::mem::take(&mut self.loop_state.connects);
        self.loop_state.io.take_connects(&mut connects);
        for (id, address) in connects.drain(..) {
            match self.loop_state.io.is_open(id) && !self.loop_state.is_stopping() {
                true => self.connect(id, address)?,
                false => self.loop_state.ended.push((id, Closed::ByEngine)),
            }
        }
        self.loop_state.connects = connects;

        let mut dirty = std::mem::take(&mut self.loop_state.dirty);
        self.loop_state.io.take_dirty(&mut dirty);
        for id in dirty.drain(..) {
            self.submit_requests_of(id)?;
        }
        self.loop_state.dirty = dirty;
        Ok(())
    }

    fn submit_requests_of(&mut self, id: ConnId) -> Result<(), LoopError> {
        let found = self.conns.get_mut(id.index()).and_then(Option::as_mut);
        let Some(conn) = found.filter(|c| c.id == id && c.ended.is_none()) else { return Ok(()) };
        let Some(requests) = self.loop_state.io.requests(id) else { return Ok(()) };
        match requests.close {
            CloseRequest::Now => return self.end(id, Closed::ByEngine),
            CloseRequest::AfterOutput if conn.connecting.is_some() => return self.end(id, Closed::ByEngine),
            CloseRequest::AfterOutput if !conn.sending && !requests.output && conn.output.is_empty() => {
                return self.end(id, Closed::ByEngine);
            }
            CloseRequest::AfterOutput if !std::mem::replace(&mut conn.closing, true) => {
                self.loop_state.limit_closing(id)
            }
            _ => {}
        }
        if conn.connecting.is_some() {
            return Ok(());
        }
        if !conn.sending {
            if conn.output.is_empty() && requests.output {
                conn.output = self.loop_state.io.take_output(id).unwrap_or_default();
            }
            if !conn.output.is_empty() {
                conn.sending = true;
                conn.in_kernel += 1;
                let entry = conn.send_entry();
                // SAFETY: the output's buffers and the boxed message belong to the connection, which stays
                // in the table and leaves them alone until `sent`.
                unsafe { self.ring.push(entry)? };
            }
        }
        let reading = requests.close == CloseRequest::None && !requests.input_paused && !conn.read_done;
        match conn.receive {
            Receive::Idle if reading => {
                conn.receive = Receive::Armed;
                conn.in_kernel += 1;
                let fd = types::Fd(conn.fd.as_raw_fd());
                let receive = opcode::RecvMulti::new(fd, BUFFER_GROUP).build();
                // SAFETY: points to nothing, and the provided buffers live as long as the ring.
                unsafe { self.ring.push(receive.user_data(Op::of(Op::Receive, id))) }
            }
            Receive::Armed if !reading => self.cancel_receive(id),
            _ => Ok(()),
        }
    }

    /// Cancels the multishot receive. Its last completion decides whether it is armed again.
    fn cancel_receive(&mut self, id: ConnId) -> Result<(), LoopError> {
        let Some(conn) = self.conns[id.index()].as_mut() else { return Ok(()) };
        if conn.receive != Receive::Armed {
            return Ok(());
        }
        conn.receive = Receive::Cancelled;
        self.cancel(Op::of(Op::Receive, id))
    }

    fn cancel(&mut self, name: u64) -> Result<(), LoopError> {
        let cancel = opcode::AsyncCancel::new(name)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(Op::Cancel, 0, 0));
        // SAFETY: points to nothing.
        unsafe { self.ring.push_uncounted(cancel) }
    }

    /// Marks a connection as ended and cancels its operations. It leaves the table when the kernel is done
    /// with it.
    fn end(&mut self, id: ConnId, why: Closed) -> Result<(), LoopError> {
        let asked_for = !self.loop_state.io.is_open(id);
        let Some(conn) = self.conns[id.index()].as_mut().filter(|c| c.ended.is_none()) else { return Ok(()) };
        conn.ended = Some(if asked_for { Closed::ByEngine } else { why });
        let (sending, connecting) = (conn.sending, conn.connecting.is_some() && conn.in_kernel > 0);
        self.cancel_receive(id)?;
        if sending {
            self.cancel(Op::of(Op::Send, id))?;
        }
        if connecting {
            self.cancel(Op::of(Op::Connect, id))?;
        }
        self.leave_if_done(id.index());
        Ok(())
    }

    /// Closes the socket of an ended connection whose operations have all completed.
    fn leave_if_done(&mut self, index: usize) {
        if let Some(conn) = self.conns[index].take_if(|c| c.in_kernel == 0 && c.ended.is_some()) {
            let why = conn.ended.unwrap_or(Closed::ByEngine);
            self.loop_state.ended.push((conn.id, why));
        }
    }

    fn begin_stop(&mut self) -> Result<(), LoopError> {
        for n in 0..self.accepting.len() {
            if self.accepting[n] {
                self.cancel(user_data(Op::Accept, n as u32, 0))?;
            }
        }
        self.cancel(user_data(Op::Wake, 0, 0))?;
        self.loop_state.acceptor = None;
        self.conns.iter().flatten().for_each(|conn| self.loop_state.io.close(conn.id));
        Ok(())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.ring.in_kernel > 0 {
            // Only if an engine panicked or the ring failed: the kernel may still read what the
            // connections own.
            std::mem::forget(std::mem::take(&mut self.conns));
        }
    }
}
