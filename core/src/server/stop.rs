//! How a running server is told to stop.
//!
//! Owns the flag between the process and its loops, and the handlers of SIGTERM, SIGINT and SIGXFSZ.
//! Never ends anything itself, except on a second signal.
//! Correct because the flag is raised once, and each loop is woken after that. A loop checks the flag again
//! before it sleeps ([`Engine::park`]).

#![forbid(unsafe_code)]

use crossbeam_channel::{Receiver, bounded};
use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Delivers SIGTERM and SIGINT as messages from now on. A second signal ends the process at once.
pub fn stop_signal() -> io::Result<Receiver<i32>> {
    let (told, tells) = bounded(1);
    outlive_file_size_limit()?;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("paddock-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if told.try_send(signal).is_err() {
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(tells)
}

/// Handles SIGXFSZ, which would end the process when a file exceeds its limit (`ulimit -f`). The write then
/// fails with EFBIG, and the writer reports it.
fn outlive_file_size_limit() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// An engine that stops when the flag is raised.
pub struct Stoppable<E> {
    inner: E,
    flag: Arc<AtomicBool>,
}

impl<E> Stoppable<E> {
    pub fn new(inner: E, flag: Arc<AtomicBool>) -> Self {
        Self { inner, flag }
    }
}

impl<E: Engine> Engine for Stoppable<E> {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        self.inner.opened(now, conn, origin, io);
    }
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        self.inner.received(now, conn, bytes, io);
    }
    fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        self.inner.eof(now, conn, io);
    }
    fn drained(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        self.inner.drained(now, conn, io);
    }
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.inner.closed(now, conn, why, io);
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        let next = self.inner.turn(now, io);
        if self.flag.load(Ordering::Acquire) { Next::Stop } else { next }
    }
    fn late(&mut self, now: Now, io: &mut Io) {
        self.inner.late(now, io);
    }
    fn park(&mut self) -> bool {
        !self.flag.load(Ordering::Acquire) && self.inner.park()
    }
    fn unpark(&mut self) {
        self.inner.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_on_the_size_of_files_does_not_end_the_process_without_a_word() {
        outlive_file_size_limit().expect("a handler");
        // Without the handler this signal ends the process, and the test with it.
        signal_hook::low_level::raise(SIGXFSZ).expect("a signal");
    }
}
