//! The readiness loop: epoll with nonblocking receives and sends. Works wherever Linux runs, and is the
//! baseline of all comparisons.
//!
//! Owns its connections' sockets. One read buffer serves them all, and output is sent from where the
//! engine wrote it, so an idle connection holds no buffer. Never blocks except in `epoll_wait`.
//!
//! Correct because no readiness is lost. Input is watched edge-triggered, and each connection remembers
//! that it may be readable until a receive comes back short or empty. So pausing costs no system call, and
//! a connection that used up its share is read again in the next turn. Writability is watched only while a
//! send has been refused.

#![forbid(unsafe_code)]

use crate::accept::reason;
use crate::engine::{Address, Closed, ConnId, Engine, Origin};
use crate::event_loop::{LoopError, LoopState, Wait};
use crate::io::CloseRequest;
use crate::socket::{self, Attempt};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Event tokens from here on are not connections: no [`ConnId`] has such low bits. A slot index this large
/// cannot exist (2^32 slots of some hundred bytes).
const SPECIAL: u64 = 0xffff_ffff_ffff_0000;
/// The token of the waker's eventfd; listeners are `SPECIAL + n`.
const WAKE: u64 = u64::MAX;

/// Most stretches of output in one send. A reply with a shared value has two.
const SLICES_PER_SEND: usize = 64;

/// Most accepts from one listener in one turn: a burst of new clients must not delay the others.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause before repeating a connect to a unix listener with a full queue, which refuses at once.
const BUSY_LISTENER_PAUSE_NS: u64 = 1_000_000;

const READ: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

struct Conn {
    id: ConnId,
    fd: OwnedFd,
    /// The address being connected to, until the connection is established.
    connecting: Option<Box<Address>>,
    /// A receive may find input.
    readable: bool,
    /// The peer's end of stream was announced: receive until it is reached.
    hangup: bool,
    read_done: bool,
    /// The connection is in `Epoll::to_read`.
    queued: bool,
    /// A send was refused: the loop waits for writability.
    blocked: bool,
    /// The deadline for closing is set already.
    closing: bool,
}

/// Runs `engine` until it stops.
pub(crate) fn run(loop_state: LoopState, engine: &mut impl Engine) -> Result<(), LoopError> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)
        .map_err(|e| LoopError::failed("making an epoll set")(e.into()))?;
    let read_buffer = vec![0; loop_state.options.read_buffer_bytes.max(1)];
    let mut this = Epoll {
        epoll,
        conns: Vec::new(),
        to_read: Vec::new(),
        reading: Vec::new(),
        busy: Vec::new(),
        read_buffer,
        loop_state,
    };
    this.run(engine)
}

struct Epoll {
    epoll: OwnedFd,
    conns: Vec<Option<Conn>>,
    /// Connections that may have input.
    to_read: Vec<ConnId>,
    /// Empty between calls of `read_all`, which reuses its memory.
    reading: Vec<ConnId>,
    /// Connection attempts to repeat.
    busy: Vec<(ConnId, Address)>,
    read_buffer: Vec<u8>,
    loop_state: LoopState,
}

impl Epoll {
    fn run(&mut self, engine: &mut impl Engine) -> Result<(), LoopError> {
        self.watch_own_descriptors()?;
        let mut events: Vec<Event> = Vec::with_capacity(self.loop_state.options.events_per_wait.max(1));
        loop {
            self.wait(engine, &mut events)?;
            self.loop_state.awake(engine);
            for event in events.drain(..) {
                self.note(event, engine);
            }
            self.end_of_rest()?;
            self.loop_state.tell(engine);
            while let Some(adoption) = self.loop_state.adoption() {
                self.add(adoption.fd, &adoption.origin, engine);
            }
            self.read_all(engine);
            if self.loop_state.turn(engine) {
                self.begin_stop();
            }
            self.submit_requests();
            if self.loop_state.is_finished() {
                return Ok(());
            }
            if self.loop_state.is_overdue() {
                self.close_all(CloseRequest::Now);
                self.submit_requests();
            }
        }
    }

    fn watch_own_descriptors(&mut self) -> Result<(), LoopError> {
        let watching = |e: Errno| LoopError::failed("watching the loop's own descriptors")(e.into());
        let wake = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, self.loop_state.waker.event(), EventData::new_u64(WAKE), wake)
            .map_err(watching)?;
        if let Some(acceptor) = &self.loop_state.acceptor {
            for (n, listening) in acceptor.listeners.iter().enumerate() {
                let token = EventData::new_u64(SPECIAL + n as u64);
                epoll::add(&self.epoll, &listening.listener, token, EventFlags::IN).map_err(watching)?;
            }
        }
        Ok(())
    }

    fn wait(&mut self, engine: &mut impl Engine, events: &mut Vec<Event>) -> Result<(), LoopError> {
        let rest = self
            .loop_state
            .acceptor
            .iter()
            .flat_map(|a| a.listeners.iter())
            .filter_map(|l| l.resting_until)
            .min();
        let retry = (!self.busy.is_empty()).then(|| self.loop_state.now.mono_ns + BUSY_LISTENER_PAUSE_NS);
        let own = rest.into_iter().chain(retry).min();
        let wait = if self.to_read.is_empty() { self.loop_state.wait(own) } else { Wait::No };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = match wait {
            Wait::Until(until) if self.loop_state.park(engine) => until.map(|t| {
                let ns = t.saturating_sub(self.loop_state.now.mono_ns);
                Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
            }),
            _ => Some(zero),
        };
        self.loop_state.counters.system_calls.add(1);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(LoopError::failed("waiting for events")(e.into())),
        }
    }

    /// Records readiness. Only accepts and connection attempts are completed at once.
    fn note(&mut self, event: Event, engine: &mut impl Engine) {
        let token = event.data.u64();
        if token == WAKE {
            return;
        }
        if token >= SPECIAL {
            return self.accept((token - SPECIAL) as usize);
        }
        let id = ConnId(token);
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut).filter(|c| c.id == id)
        else {
            return;
        };
        let flags = event.flags;
        if conn.connecting.is_some() {
            return self.finish_connect(id, engine);
        }
        // A receive reports the error after the input that precedes it. Report it here only if no receive
        // will follow.
        let paused = self.loop_state.io.requests(id).is_some_and(|r| r.input_paused);
        let failed = flags.contains(EventFlags::ERR);
        if failed && paused || conn.read_done && (failed || flags.contains(EventFlags::HUP)) {
            let errno = rustix::net::sockopt::socket_error(&conn.fd).ok().and_then(Result::err);
            return self.end(id, errno.map_or(Closed::ByPeer, reason));
        }
        conn.hangup |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            conn.readable = true;
            if !conn.queued {
                conn.queued = true;
                self.to_read.push(id);
            }
        }
        if flags.contains(EventFlags::OUT) && std::mem::take(&mut conn.blocked) {
            let _ = epoll::modify(&self.epoll, &conn.fd, EventData::new_u64(id.0), READ);
            self.loop_state.dirty.push(id);
        }
    }

    fn accept(&mut self, n: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(acceptor) = &mut self.loop_state.acceptor else { return };
            let listening = &mut acceptor.listeners[n];
            match rustix::net::accept_with(&listening.listener, SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    listening.accepted();
                    acceptor.deal(fd, n);
                }
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    if listening.failed(errno, self.loop_state.now.mono_ns) {
                        let _ = epoll::delete(&self.epoll, &listening.listener);
                        return;
                    }
                }
            }
        }
    }

    /// Watches listeners again after their pause.
    fn end_of_rest(&mut self) -> Result<(), LoopError> {
        let now = self.loop_state.now.mono_ns;
        let Some(acceptor) = &mut self.loop_state.acceptor else { return Ok(()) };
        for (n, listening) in acceptor.listeners.iter_mut().enumerate() {
            if listening.resting_until.is_some_and(|until| until <= now) {
                listening.resting_until = None;
                let token = EventData::new_u64(SPECIAL + n as u64);
                epoll::add(&self.epoll, &listening.listener, token, EventFlags::IN)
                    .map_err(|e| LoopError::failed("watching a listener again")(e.into()))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, fd: OwnedFd, origin: &Origin, engine: &mut impl Engine) {
        let id = self.loop_state.io.open();
        let token = EventData::new_u64(id.0);
        let watched = epoll::add(&self.epoll, &fd, token, READ);
        self.put(Conn::new(id, fd, None));
        self.loop_state.counters.opened.add(1);
        engine.opened(self.loop_state.now, id, origin, &mut self.loop_state.io);
        if let Err(errno) = watched {
            self.end(id, reason(errno));
        }
    }

    fn put(&mut self, conn: Conn) {
        let index = conn.id.index();
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        self.conns[index] = Some(conn);
    }

    fn connect(&mut self, id: ConnId, address: Address) {
        let attempt = if self.loop_state.is_stopping() {
            Err(Errno::CANCELED.into())
        } else {
            socket::start_connect(&address)
        };
        let (fd, token) = match attempt {
            Ok(Attempt::Connected(fd) | Attempt::Started(fd)) => (fd, EventData::new_u64(id.0)),
            Ok(Attempt::Busy) => return self.busy.push((id, address)),
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
                let why = if self.loop_state.is_stopping() {
                    Closed::ByEngine
                } else {
                    Closed::ConnectFailed(errno)
                };
                return self.loop_state.ended.push((id, why));
            }
        };
        // Writability announces the result in the next turn, also of an attempt that succeeded at once.
        match epoll::add(&self.epoll, &fd, token, EventFlags::OUT | EventFlags::ET) {
            Ok(()) => self.put(Conn::new(id, fd, Some(Box::new(address)))),
            Err(errno) => self.loop_state.ended.push((id, Closed::ConnectFailed(errno.raw_os_error()))),
        }
    }

    fn finish_connect(&mut self, id: ConnId, engine: &mut impl Engine) {
        let Some(conn) = &mut self.conns[id.index()] else { return };
        let Some(peer) = conn.connecting.take() else { return };
        let outcome = rustix::net::sockopt::socket_error(&conn.fd)
            .and_then(|error| error)
            .and_then(|()| epoll::modify(&self.epoll, &conn.fd, EventData::new_u64(id.0), READ));
        if let Err(errno) = outcome {
            return self.end(id, Closed::ConnectFailed(errno.raw_os_error()));
        }
        // Output and requests made meanwhile are still pending.
        self.loop_state.dirty.push(id);
        if !self.loop_state.io.is_open(id) {
            return; // Closed meanwhile: `submit_requests` ends it in this turn.
        }
        self.loop_state.counters.opened.add(1);
        engine.opened(
            self.loop_state.now,
            id,
            &Origin { peer: *peer, listener: None },
            &mut self.loop_state.io,
        );
    }

    fn read_all(&mut self, engine: &mut impl Engine) {
        let mut reading = std::mem::take(&mut self.reading);
        reading.append(&mut self.to_read);
        for id in reading.drain(..) {
            self.read(id, engine);
        }
        self.reading = reading;
    }

    /// Delivers what has arrived on one connection, up to its share of the turn.
    fn read(&mut self, id: ConnId, engine: &mut impl Engine) {
        let Some(conn) = self.conns[id.index()].as_mut().filter(|c| c.id == id) else { return };
        conn.queued = false;
        let mut share = self.loop_state.options.input_bytes_per_turn_max as isize;
        while conn.readable && !conn.read_done {
            match self.loop_state.io.requests(id) {
                Some(r) if r.close == CloseRequest::None && !r.input_paused => {}
                _ => return,
            }
            if share <= 0 {
                conn.queued = true;
                self.to_read.push(id);
                return;
            }
            self.loop_state.counters.system_calls.add(1);
            match rustix::net::recv(&conn.fd, &mut self.read_buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    conn.read_done = true;
                    engine.eof(self.loop_state.now, id, &mut self.loop_state.io);
                }
                Ok((count, _)) => {
                    // A short receive emptied the socket, and later input is announced. An end of stream
                    // that was announced already is not announced again.
                    conn.readable = count == self.read_buffer.len() || conn.hangup;
                    share -= count as isize;
                    engine.received(
                        self.loop_state.now,
                        id,
                        &self.read_buffer[..count],
                        &mut self.loop_state.io,
                    );
                }
                Err(Errno::AGAIN) => conn.readable = false,
                Err(Errno::INTR) => {}
                Err(errno) => return self.end(id, reason(errno)),
            }
        }
    }

    /// Opens connections, sends output and closes connections as the engine requested in this turn.
    fn submit_requests(&mut self) {
        let mut connects = std::mem::take(&mut self.loop_state.connects);
        connects.append(&mut self.busy);
        self.loop_state.io.take_connects(&mut connects);
        for (id, address) in connects.drain(..) {
            match self.loop_state.io.is_open(id) {
                true => self.connect(id, address),
                false => self.loop_state.ended.push((id, Closed::ByEngine)),
            }
        }
        self.loop_state.connects = connects;

        let mut dirty = std::mem::take(&mut self.loop_state.dirty);
        self.loop_state.io.take_dirty(&mut dirty);
        for id in dirty.drain(..) {
            self.submit_requests_of(id);
        }
        self.loop_state.dirty = dirty;
    }

    fn submit_requests_of(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut).filter(|c| c.id == id)
        else {
            return;
        };
        let Some(requests) = self.loop_state.io.requests(id) else { return };
        match requests.close {
            CloseRequest::Now => return self.end(id, Closed::ByEngine),
            CloseRequest::AfterOutput if conn.connecting.is_some() => return self.end(id, Closed::ByEngine),
            _ => {}
        }
        if conn.connecting.is_some() {
            return;
        }
        if requests.close == CloseRequest::None && !requests.input_paused && conn.readable && !conn.queued {
            conn.queued = true;
            self.to_read.push(id);
        }
        if requests.close == CloseRequest::AfterOutput
            && requests.output
            && !std::mem::replace(&mut conn.closing, true)
        {
            self.loop_state.limit_closing(id);
        }
        if conn.blocked {
            return;
        }
        if requests.output {
            match send_all(&mut self.loop_state, conn) {
                Ok(true) => {}
                Ok(false) => {
                    conn.blocked = true;
                    let interest = READ | EventFlags::OUT;
                    let _ = epoll::modify(&self.epoll, &conn.fd, EventData::new_u64(id.0), interest);
                    return;
                }
                Err(errno) => return self.end(id, reason(errno)),
            }
        }
        if requests.close == CloseRequest::AfterOutput {
            self.end(id, Closed::ByEngine);
        }
    }

    /// Closes the socket and queues the `Engine::closed` call.
    fn end(&mut self, id: ConnId, why: Closed) {
        let asked_for = !self.loop_state.io.is_open(id);
        if self.conns[id.index()].take().is_some() {
            self.loop_state.ended.push((id, if asked_for { Closed::ByEngine } else { why }));
        }
    }

    fn begin_stop(&mut self) {
        self.loop_state.acceptor = None;
        self.close_all(CloseRequest::AfterOutput);
    }

    fn close_all(&mut self, how: CloseRequest) {
        for conn in self.conns.iter().flatten() {
            match how {
                CloseRequest::Now => self.loop_state.io.abort(conn.id),
                _ => self.loop_state.io.close(conn.id),
            }
        }
        for (id, _) in &self.busy {
            self.loop_state.io.abort(*id);
        }
    }
}

impl Conn {
    fn new(id: ConnId, fd: OwnedFd, connecting: Option<Box<Address>>) -> Conn {
        Conn {
            id,
            fd,
            connecting,
            readable: false,
            hangup: false,
            read_done: false,
            queued: false,
            blocked: false,
            closing: false,
        }
    }
}

/// Sends a connection's output. Returns `false` if the kernel took only a part.
fn send_all(loop_state: &mut LoopState, conn: &Conn) -> Result<bool, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    while let Some(out) = loop_state.io.output(conn.id).filter(|out| !out.is_empty()) {
        let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
        let filled = out.slices(&mut slices);
        loop_state.counters.system_calls.add(1);
        let attempt = match &slices[..filled] {
            [one] => rustix::net::send(&conn.fd, one, flags),
            several => {
                let mut no_control = SendAncillaryBuffer::new(&mut [] as &mut [MaybeUninit<u8>]);
                rustix::net::sendmsg(conn.fd.as_fd(), several, &mut no_control, flags)
            }
        };
        match attempt {
            Ok(count) => {
                if loop_state.io.sent(conn.id, count) {
                    loop_state.drained.push(conn.id);
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}
