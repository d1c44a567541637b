//! A server process and a blocking client for tests of the real binary.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod ensemble;

use paddock_transport::wire::{
    self, ConnectRequest, ConnectResponse, Limits, ReplyHeader, Request, Response, Text, put_request,
};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Time limit of each wait, far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server process. Dropping it kills it.
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
}

/// Flags for every event loop of this machine: epoll always, the default loop where it differs.
pub fn transports() -> [&'static str; 2] {
    ["auto", "epoll"]
}

impl Process {
    /// Starts the binary on `dir` and a free port, with `config` as further lines of its configuration file.
    pub fn start(dir: &Path, config: &str, flags: &[&str]) -> Process {
        let file = dir.join("zoo.cfg");
        let data = dir.join("data");
        std::fs::write(
            &file,
            format!("dataDir={}\nclientPort=0\nclientPortAddress=127.0.0.1\n{config}", data.display()),
        )
        .unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_paddock"))
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .args(flags)
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (told, tells) = mpsc::channel();
        // Reads until the process ends, so that the server never blocks on a full pipe.
        std::thread::spawn(move || {
            let mut log = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = line.split("listening on ").nth(1) {
                    let _ = told.send(Ok(address.trim().to_owned()));
                }
                log.push_str(&line);
                log.push('\n');
            }
            let _ = told.send(Err(log));
        });
        match tells.recv_timeout(PATIENCE) {
            Ok(Ok(address)) => Process { child, address: address.parse().unwrap() },
            Ok(Err(log)) => panic!("the server ended before it listened:\n{log}"),
            Err(_) => panic!("the server did not say where it listens"),
        }
    }

    /// Sends SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// A connection without a handshake.
    pub fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// A client with a new session.
    pub fn client(&self, timeout_ms: i32) -> Client {
        Client::open(self.socket(), 0, [0; 16], timeout_ms).unwrap()
    }

    /// Resident memory of the process, KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message from the server, decoded when asked for.
pub struct Message {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
    pub body: Vec<u8>,
}

/// A blocking client with one session.
pub struct Client {
    pub socket: TcpStream,
    pub session: i64,
    pub password: [u8; 16],
    pub timeout_ms: i32,
    /// Highest zxid of all replies.
    pub zxid: i64,
    /// Whether the server said that it serves read-only.
    pub read_only: bool,
    xid: i32,
}

impl Client {
    /// Performs the handshake. A refused reattach has `session` 0.
    pub fn open(socket: TcpStream, session: i64, password: [u8; 16], timeout_ms: i32) -> io::Result<Client> {
        Self::shake(socket, &greeting(session, &password, timeout_ms))
    }

    /// Performs the handshake of a client that accepts a read-only server.
    pub fn open_read_only(socket: TcpStream, timeout_ms: i32) -> io::Result<Client> {
        Self::shake(socket, &ConnectRequest { read_only: Some(true), ..greeting(0, &[0; 16], timeout_ms) })
    }

    /// Moves the session to another connection, as a client library does.
    pub fn moved(&self, socket: TcpStream) -> io::Result<Client> {
        let greeting = greeting(self.session, &self.password, self.timeout_ms);
        Self::shake(socket, &ConnectRequest { last_zxid_seen: self.zxid, ..greeting })
    }

    /// Moves the session, and accepts a read-only server.
    pub fn moved_read_only(&self, socket: TcpStream) -> io::Result<Client> {
        let greeting = greeting(self.session, &self.password, self.timeout_ms);
        let zxid = self.zxid;
        Self::shake(socket, &ConnectRequest { last_zxid_seen: zxid, read_only: Some(true), ..greeting })
    }

    fn shake(mut socket: TcpStream, request: &ConnectRequest<'_>) -> io::Result<Client> {
        let mut out = Vec::new();
        wire::put_frame(&mut out, |out| request.put(out));
        socket.write_all(&out)?;
        let payload = read_frame(&mut socket)?;
        let response = ConnectResponse::decode(&payload, Limits::NONE).map_err(io::Error::other)?;
        let (session, timeout_ms) = (response.session_id, response.timeout_ms);
        let password = response.password.and_then(|p| p.try_into().ok()).unwrap_or([0; 16]);
        let read_only = response.read_only == Some(true);
        Ok(Client { socket, session, password, timeout_ms, zxid: request.last_zxid_seen, read_only, xid: 0 })
    }

    /// Sends without waiting; gives the xid.
    pub fn send(&mut self, request: &Request<'_>) -> io::Result<i32> {
        self.xid += 1;
        let mut out = Vec::new();
        put_request(&mut out, self.xid, request);
        self.socket.write_all(&out)?;
        Ok(self.xid)
    }

    /// The next notification or reply.
    pub fn receive(&mut self) -> io::Result<Message> {
        let payload = read_frame(&mut self.socket)?;
        let (header, body) = ReplyHeader::split(&payload).map_err(io::Error::other)?;
        self.zxid = self.zxid.max(header.zxid);
        Ok(Message { xid: header.xid, zxid: header.zxid, err: header.err, body: body.to_vec() })
    }

    /// Sends a request and waits for its reply, skipping notifications.
    pub fn call(&mut self, request: &Request<'_>) -> io::Result<Message> {
        let xid = self.send(request)?;
        loop {
            let message = self.receive()?;
            if message.xid == -1 {
                continue;
            }
            assert_eq!(message.xid, xid, "replies come in the order of the requests");
            return Ok(message);
        }
    }

    pub fn create(&mut self, path: &str, data: &[u8], flags: i32) -> io::Result<Message> {
        self.call(&create(path, data, flags))
    }

    /// Creates a sequential znode; gives its final path.
    pub fn create_sequential(&mut self, prefix: &str, data: &[u8]) -> io::Result<String> {
        const SEQUENTIAL: i32 = 2;
        let reply = self.create(prefix, data, SEQUENTIAL)?;
        assert_eq!(reply.err, 0, "create {prefix}");
        match Response::decode(1, &reply.body, Limits::NONE) {
            Ok(Response::Path(path)) => Ok(path.into_owned()),
            other => panic!("create answered {other:?}"),
        }
    }

    /// Waits until this server has applied everything that was committed before.
    pub fn sync(&mut self) -> io::Result<()> {
        let reply = self.call(&Request::Sync { path: "/".into() })?;
        assert_eq!(reply.err, 0, "sync");
        Ok(())
    }

    pub fn set(&mut self, path: &str, data: &[u8]) -> io::Result<Message> {
        self.call(&Request::SetData { path: path.into(), data: Some(data), version: -1 })
    }

    /// Data and version; `None` without such a znode.
    pub fn get(&mut self, path: &str) -> io::Result<Option<(Vec<u8>, i32)>> {
        let reply = self.call(&Request::GetData { path: path.into(), watch: false })?;
        if reply.err != 0 {
            assert_eq!(reply.err, -101, "get {path}");
            return Ok(None);
        }
        match Response::decode(4, &reply.body, Limits::NONE) {
            Ok(Response::Data(data, stat)) => Ok(Some((data.unwrap_or_default().to_vec(), stat.version))),
            other => panic!("getData answered {other:?}"),
        }
    }

    pub fn children(&mut self, path: &str) -> io::Result<Vec<String>> {
        let reply = self.call(&Request::GetChildren { path: path.into(), watch: false })?;
        assert_eq!(reply.err, 0, "getChildren {path}");
        match Response::decode(8, &reply.body, Limits::NONE) {
            Ok(Response::Names(names)) => Ok(names.iter().map(Text::into_owned).collect()),
            other => panic!("getChildren answered {other:?}"),
        }
    }
}

fn greeting(session_id: i64, password: &[u8; 16], timeout_ms: i32) -> ConnectRequest<'_> {
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms,
        session_id,
        password: Some(password),
        read_only: Some(false),
    }
}

/// A create request with the open ACL.
pub fn create<'a>(path: &'a str, data: &'a [u8], flags: i32) -> Request<'a> {
    Request::Create(wire::Create {
        op: wire::CreateOp::Create,
        path: path.into(),
        data: Some(data),
        acl: wire::List::new(OPEN),
        flags,
    })
}

const OPEN: &[wire::Acl<'static>] = &[wire::Acl::OPEN];

/// The payload of one frame.
pub fn read_frame(socket: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut payload = vec![0; i32::from_be_bytes(length) as usize];
    socket.read_exact(&mut payload)?;
    Ok(payload)
}

/// A directory for one test, removed at its end.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}

/// A small seeded generator for schedules. The seed is in the test's name, or printed.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
