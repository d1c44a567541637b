//! A loop in its own thread, with an engine that reports every call to the test and executes the test's
//! orders.

#![allow(dead_code)] // Each test binary uses a part of this module.

use crossbeam_channel::{Receiver, Sender, unbounded as channel};
use paddock_transport::accept::{Acceptor, Listener};
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::event_loop::{Choice, EventLoop, LoopHandle, LoopKind, LoopOptions, choose};
use paddock_transport::io::Io;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time after which a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
pub enum Heard {
    Opened(ConnId, Origin),
    Received(ConnId, Vec<u8>),
    Eof(ConnId),
    Drained(ConnId),
    Closed(ConnId, Closed),
    /// [`Probe::deadline_ns`] was reached: the time, and the turns taken since the start.
    Deadline(Now, u64),
}

pub type Order = Box<dyn FnOnce(&mut Probe, Now, &mut Io) + Send>;

/// The engine of a [`Running`] loop.
pub struct Probe {
    heard: Sender<Heard>,
    orders: Arc<Mutex<VecDeque<Order>>>,
    /// Sends back what arrives instead of reporting it.
    pub echo: bool,
    /// Closes a connection on the peer's end of stream.
    pub close_on_eof: bool,
    pub deadline_ns: Option<u64>,
    pub turns: u64,
    pub stop: bool,
}

impl Probe {
    fn tell(&self, heard: Heard) {
        let _ = self.heard.send(heard);
    }
}

impl Engine for Probe {
    fn opened(&mut self, _: Now, conn: ConnId, origin: &Origin, _: &mut Io) {
        self.tell(Heard::Opened(conn, origin.clone()));
    }
    fn received(&mut self, _: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        assert!(!bytes.is_empty() && io.is_open(conn));
        match (self.echo, io.out(conn)) {
            (true, Some(out)) => out.bytes().extend_from_slice(bytes),
            _ => self.tell(Heard::Received(conn, bytes.to_vec())),
        }
    }
    fn eof(&mut self, _: Now, conn: ConnId, io: &mut Io) {
        self.tell(Heard::Eof(conn));
        if self.close_on_eof {
            io.close(conn);
        }
    }
    fn drained(&mut self, _: Now, conn: ConnId, _: &mut Io) {
        self.tell(Heard::Drained(conn));
    }
    fn closed(&mut self, _: Now, conn: ConnId, why: Closed, io: &mut Io) {
        assert!(io.out(conn).is_none(), "no output to a connection that is gone");
        self.tell(Heard::Closed(conn, why));
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        self.turns += 1;
        loop {
            let order = self.orders.lock().unwrap().pop_front();
            let Some(order) = order else { break };
            order(self, now, io);
        }
        if self.deadline_ns.is_some_and(|at| now.mono_ns >= at) {
            self.deadline_ns = None;
            self.tell(Heard::Deadline(now, self.turns));
        }
        match self.stop {
            true => Next::Stop,
            false => Next::Sleep { deadline_ns: self.deadline_ns },
        }
    }
    fn park(&mut self) -> bool {
        self.orders.lock().unwrap().is_empty()
    }
}

/// A loop that runs in its own thread until dropped.
pub struct Running {
    pub handle: LoopHandle,
    pub address: Address,
    heard: Receiver<Heard>,
    orders: Arc<Mutex<VecDeque<Order>>>,
    thread: Option<JoinHandle<()>>,
    _folder: Option<tempfile::TempDir>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Tcp,
    Unix,
}

pub const FAMILIES: [Family; 2] = [Family::Tcp, Family::Unix];

/// Returns `false`, and prints the reason, if the kernel denies the transport.
pub fn available(kind: LoopKind) -> bool {
    let choice = match kind {
        LoopKind::Uring => Choice::Uring,
        LoopKind::Epoll => Choice::Epoll,
    };
    match choose(choice) {
        Ok(_) => true,
        Err(e) => {
            eprintln!("SKIPPED: {e}");
            false
        }
    }
}

pub fn any_address(family: Family) -> (Address, Option<tempfile::TempDir>) {
    match family {
        Family::Tcp => ("127.0.0.1:0".parse().unwrap(), None),
        Family::Unix => {
            let folder = tempfile::tempdir().unwrap();
            (Address::Unix(folder.path().join("socket")), Some(folder))
        }
    }
}

/// Starts a loop that accepts for itself and echoes.
pub fn echo_server(kind: LoopKind, family: Family) -> Running {
    start(kind, family, LoopOptions::default(), true)
}

/// Starts a loop that accepts for itself and reports what it receives.
pub fn server(kind: LoopKind, family: Family) -> Running {
    start(kind, family, LoopOptions::default(), false)
}

pub fn start(kind: LoopKind, family: Family, options: LoopOptions, echo: bool) -> Running {
    let (address, folder) = any_address(family);
    let listener = Listener::bind(&address).unwrap();
    let address = listener.local_address().clone();
    let mut event_loop = EventLoop::new(kind, options).unwrap();
    event_loop.accept_with(Acceptor::new(vec![listener], vec![event_loop.handle()]));
    run(event_loop, address, echo, folder)
}

/// Runs a loop in a thread.
pub fn run(
    event_loop: EventLoop,
    address: Address,
    echo: bool,
    folder: Option<tempfile::TempDir>,
) -> Running {
    let (heard_sender, heard) = channel();
    let orders = Arc::new(Mutex::new(VecDeque::new()));
    let handle = event_loop.handle();
    let mut probe = Probe {
        heard: heard_sender,
        orders: Arc::clone(&orders),
        echo,
        close_on_eof: true,
        deadline_ns: None,
        turns: 0,
        stop: false,
    };
    let thread = std::thread::spawn(move || event_loop.run(&mut probe).unwrap());
    Running { handle, address, heard, orders, thread: Some(thread), _folder: folder }
}

impl Running {
    /// Executes `order` in the engine's next turn.
    pub fn order(&self, order: impl FnOnce(&mut Probe, Now, &mut Io) + Send + 'static) {
        self.orders.lock().unwrap().push_back(Box::new(order));
        self.handle.waker().wake();
    }

    /// Executes `question` in the engine's next turn, and waits for the answer.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Probe, Now, &mut Io) -> T + Send + 'static,
    ) -> T {
        let (answer, wait) = channel();
        self.order(move |probe, now, io| answer.send(question(probe, now, io)).unwrap());
        wait.recv_timeout(PATIENCE).expect("an answer from the loop")
    }

    /// Waits for the next event that the engine was told.
    pub fn hear(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).expect("the engine is told something")
    }

    /// The next event that the engine was told, if there is one already.
    pub fn heard(&self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }

    pub fn hear_opened(&self) -> ConnId {
        match self.hear() {
            Heard::Opened(conn, _) => conn,
            other => panic!("expected a connection, heard {other:?}"),
        }
    }

    /// Collects what arrives on one connection until it is `length` bytes.
    pub fn hear_bytes(&self, conn: ConnId, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            match self.hear() {
                Heard::Received(from, bytes) if from == conn => all.extend(bytes),
                other => panic!("expected bytes, heard {other:?}"),
            }
        }
        all
    }

    pub fn dial(&self) -> Stream {
        Stream::dial(&self.address)
    }

    /// Stops the loop and waits for its thread.
    pub fn stop(mut self) -> Vec<Heard> {
        self.order(|probe, _, _| probe.stop = true);
        self.thread.take().unwrap().join().unwrap();
        self.heard.try_iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.order(|probe, _, _| probe.stop = true);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the loop panicked");
        }
    }
}

/// A blocking client over either address family.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn dial(address: &Address) -> Stream {
        match address {
            Address::Tcp(at) => {
                let stream = TcpStream::connect(at).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                Stream::Unix(stream)
            }
        }
    }

    pub fn finish(&self) {
        match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write).unwrap(),
            Stream::Unix(s) => s.shutdown(Shutdown::Write).unwrap(),
        }
    }

    pub fn split(&self) -> Stream {
        match self {
            Stream::Tcp(s) => Stream::Tcp(s.try_clone().unwrap()),
            Stream::Unix(s) => Stream::Unix(s.try_clone().unwrap()),
        }
    }

    pub fn exchange(&mut self, bytes: &[u8]) {
        self.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        self.read_exact(&mut back).unwrap();
        assert!(back == bytes, "the echo differs");
    }

    /// Reads everything up to the end of stream; a reset counts as one.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        match self.read_to_end(&mut all) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(e) => panic!("{e}"),
        }
        all
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buf),
            Stream::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(buf),
            Stream::Unix(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
