//! State that both socket loops share: everything except their sockets.
//!
//! Owns the [`Io`] table, the events that the engine has not been told yet, and the queue of adopted
//! connections. Also owns the deadlines of closing and stopping. Never touches a socket's bytes.
//!
//! Correct because [`LoopState::tell`] alone reports ended and drained connections, before the engine's
//! turn. An engine is never called from inside its own call.

#![forbid(unsafe_code)]

use super::{Adoption, LoopCounters, LoopOptions};
use crate::accept::Acceptor;
use crate::engine::{Address, Closed, ConnId, Engine, LONG_TURN_NS, Next, Now};
use crate::io::Io;
use crate::wake::Waker;
use crossbeam_channel::Receiver;
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::sync::Arc;

/// Nanoseconds of `CLOCK_BOOTTIME`, which never goes back and counts suspension.
fn read_mono_ns() -> u64 {
    let mono = clock_gettime(ClockId::Boottime);
    mono.tv_sec as u64 * 1_000_000_000 + mono.tv_nsec as u64
}

/// Reads both clocks, once at the start of a turn.
pub(crate) fn read_clock() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    Now { mono_ns: read_mono_ns(), wall_ms: wall.tv_sec * 1_000 + wall.tv_nsec / 1_000_000 }
}

/// How long the loop may wait in the kernel before the next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Poll the sockets without sleeping.
    No,
    /// Sleep until this time on the clock of [`Now::mono_ns`]; `None` sets no deadline.
    Until(Option<u64>),
}

/// The part of a loop that does not depend on how its sockets are driven.
pub(crate) struct LoopState {
    pub(crate) options: LoopOptions,
    pub(crate) io: Io,
    pub(crate) waker: Arc<Waker>,
    pub(crate) counters: Arc<LoopCounters>,
    pub(crate) acceptor: Option<Acceptor>,
    pub(crate) now: Now,
    /// Connections whose sockets are closed and whose [`Engine::closed`] call is still due.
    pub(crate) ended: Vec<(ConnId, Closed)>,
    /// Connections whose [`Engine::drained`] call is still due.
    pub(crate) drained: Vec<ConnId>,
    /// Connections whose requests or output the loop handles at the end of this turn.
    pub(crate) dirty: Vec<ConnId>,
    /// Scratch list: connections to open at the end of this turn.
    pub(crate) connects: Vec<(ConnId, Address)>,
    adoptions: Receiver<Adoption>,
    parked: bool,
    /// Connections that close after their output, oldest first, each with the time at which the loop
    /// aborts it.
    closing: VecDeque<(u64, ConnId)>,
    /// Set once the engine returned [`Next::Stop`]: the time until which output may still leave.
    stopping_until: Option<u64>,
    /// The engine's result of its last turn.
    next: Next,
}

impl LoopState {
    pub(crate) fn new(
        options: LoopOptions,
        waker: Arc<Waker>,
        counters: Arc<LoopCounters>,
        adoptions: Receiver<Adoption>,
        acceptor: Option<Acceptor>,
    ) -> LoopState {
        LoopState {
            options,
            io: Io::default(),
            waker,
            counters,
            acceptor,
            now: read_clock(),
            ended: Vec::new(),
            drained: Vec::new(),
            dirty: Vec::new(),
            connects: Vec::new(),
            adoptions,
            parked: false,
            closing: VecDeque::new(),
            stopping_until: None,
            next: Next::Again,
        }
    }

    /// Reads the clock after a wait in the kernel, and unparks the engine if it was parked.
    pub(crate) fn awake(&mut self, engine: &mut impl Engine) {
        self.now = read_clock();
        if std::mem::take(&mut self.parked) {
            self.waker.lower();
            engine.unpark();
        }
    }

    /// Calls [`Engine::closed`] and [`Engine::drained`] for the events collected since the last turn.
    pub(crate) fn tell(&mut self, engine: &mut impl Engine) {
        while let Some((conn, why)) = self.ended.pop() {
            self.counters.closed.add(1);
            // Refuses output and requests during the engine's `closed` call. The slot is freed afterwards.
            self.io.abort(conn);
            engine.closed(self.now, conn, why, &mut self.io);
            self.io.release(conn);
        }
        while let Some(conn) = self.drained.pop() {
            if self.io.is_open(conn) {
                engine.drained(self.now, conn, &mut self.io);
            }
        }
    }

    /// Takes the next connection handed over by another thread. A stopping loop closes such connections
    /// without telling the engine.
    pub(crate) fn adoption(&mut self) -> Option<Adoption> {
        loop {
            let adoption = self.adoptions.try_recv().ok()?;
            if self.stopping_until.is_none() {
                return Some(adoption);
            }
        }
    }

    /// Runs the engine's turn. Returns `true` once, when the engine asks to stop: the caller then closes
    /// its listeners and requests that all connections close.
    pub(crate) fn turn(&mut self, engine: &mut impl Engine) -> bool {
        self.abort_closing();
        if self.stopping_until.is_some() {
            return false;
        }
        self.counters.turns.add(1);
        self.next = engine.turn(self.now, &mut self.io);
        self.look_again(read_mono_ns, engine);
        if self.next != Next::Stop {
            return false;
        }
        self.stopping_until = Some(self.now.mono_ns + self.options.stop_flush.as_nanos() as u64);
        true
    }

    /// Reads the clock again before a turn's output leaves, and reports a long turn to the engine. The
    /// kernel may stop a process at any point of a turn, for any time.
    fn look_again(&mut self, mono_ns: impl Fn() -> u64, engine: &mut impl Engine) {
        if !self.io.has_requests() {
            return;
        }
        let mono_ns = mono_ns();
        if mono_ns.saturating_sub(self.now.mono_ns) >= LONG_TURN_NS {
            self.counters.long_turns.add(1);
            self.now = Now { mono_ns, ..self.now };
            engine.late(self.now, &mut self.io);
        }
    }

    /// Sets the deadline of a connection that closes after its output: [`LoopOptions::close_flush`] from
    /// now.
    pub(crate) fn limit_closing(&mut self, conn: ConnId) {
        let until = self.now.mono_ns + self.options.close_flush.as_nanos() as u64;
        self.closing.push_back((until, conn));
    }

    fn abort_closing(&mut self) {
        while let Some(&(until, conn)) = self.closing.front() {
            if self.io.requests(conn).is_some() {
                if until > self.now.mono_ns {
                    return;
                }
                self.io.abort(conn);
            }
            self.closing.pop_front();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping_until.is_some()
    }

    /// Whether the loop is stopping and [`LoopOptions::stop_flush`] has passed.
    pub(crate) fn is_overdue(&self) -> bool {
        self.stopping_until.is_some_and(|until| self.now.mono_ns >= until)
    }

    /// Whether the loop is stopping and the engine has been told that every connection is closed.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_stopping() && self.io.connections() == 0
    }

    /// How long the loop may wait. `also` is a deadline of the loop's own.
    pub(crate) fn wait(&self, also: Option<u64>) -> Wait {
        if !self.ended.is_empty() || !self.drained.is_empty() || self.io.has_requests() {
            return Wait::No;
        }
        let engines = match (self.stopping_until, self.next) {
            (Some(until), _) => Some(until),
            (None, Next::Sleep { deadline_ns }) => deadline_ns,
            (None, Next::Again | Next::Stop) => return Wait::No,
        };
        let closing = self.closing.front().map(|&(until, _)| until);
        match engines.into_iter().chain(also).chain(closing).min() {
            Some(deadline) if deadline <= self.now.mono_ns => Wait::No,
            deadline => Wait::Until(deadline),
        }
    }

    /// Announces a sleep. Returns `true` if neither the engine nor the adoption queue has work. The loop
    /// must then block in the kernel and call [`LoopState::awake`].
    pub(crate) fn park(&mut self, engine: &mut impl Engine) -> bool {
        self.waker.raise();
        if self.adoptions.is_empty() && (self.is_stopping() || engine.park()) {
            self.counters.sleeps.add(1);
            self.parked = !self.is_stopping();
            if !self.parked {
                self.waker.lower();
            }
            return true;
        }
        self.waker.lower();
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Origin;

    #[derive(Default)]
    struct Sleeper {
        conn: Option<ConnId>,
        late: Vec<Now>,
    }

    impl Engine for Sleeper {
        fn opened(&mut self, _: Now, _: ConnId, _: &Origin, _: &mut Io) {}
        fn received(&mut self, _: Now, _: ConnId, _: &[u8], _: &mut Io) {}
        fn closed(&mut self, _: Now, _: ConnId, _: Closed, _: &mut Io) {}
        fn turn(&mut self, _: Now, _: &mut Io) -> Next {
            Next::Again
        }
        fn late(&mut self, now: Now, io: &mut Io) {
            self.late.push(now);
            if let Some(conn) = self.conn {
                io.abort(conn);
            }
        }
    }

    #[test]
    fn a_process_that_was_stopped_in_a_turn_is_asked_before_its_output_leaves() {
        let (_sender, adoptions) = crossbeam_channel::bounded(1);
        let waker = Waker::new().unwrap();
        let mut loop_state = LoopState::new(LoopOptions::default(), waker, Arc::default(), adoptions, None);
        let mut engine = Sleeper::default();
        loop_state.now = Now { mono_ns: 5_000_000_000, wall_ms: 7 };
        let began_ns = loop_state.now.mono_ns;
        // Without output the engine is not asked, and the clock is not read.
        loop_state.look_again(|| unreachable!("no output"), &mut engine);
        let conn = loop_state.io.open();
        loop_state.io.out(conn).unwrap().bytes().extend_from_slice(b"an answer");
        loop_state.look_again(|| began_ns + LONG_TURN_NS - 1, &mut engine);
        assert!(engine.late.is_empty());
        engine.conn = Some(conn);
        loop_state.look_again(|| began_ns + LONG_TURN_NS, &mut engine);
        assert_eq!(engine.late, [Now { mono_ns: began_ns + LONG_TURN_NS, wall_ms: 7 }]);
        assert!(loop_state.io.out(conn).is_none() && loop_state.counters.long_turns() == 1);
    }
}
