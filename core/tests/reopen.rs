//! The data directory is opened again while clients are connected, as after an installed snapshot. They lose
//! their connections, and reconnect to the same address with the same sessions. All data must be there.

mod common;

use common::{Client, scratch};
use crossbeam_channel::{Sender, bounded};
use paddock_core::config::Config;
use paddock_core::consensus::{Control, StopReason};
use paddock_core::server::{RunError, Server, ServerOptions};
use paddock_transport::engine::Address;
use paddock_transport::event_loop::Choice;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Time limit of each wait: a server that hangs must not hang the test.
const PATIENCE: Duration = Duration::from_secs(30);
const TIMEOUT_MS: i32 = 30_000;

struct Running {
    address: SocketAddr,
    control: Arc<Control>,
    stop: Sender<i32>,
    thread: JoinHandle<Result<(), RunError>>,
}

fn start(dir: &Path, transport: Choice, shards: usize) -> Running {
    let mut config = Config::standalone(dir.to_owned());
    // A free port, which must be the same after the reopening.
    config.listen = vec![Address::Tcp("127.0.0.1:0".parse().unwrap())];
    let options = ServerOptions { transport, shards: Some(shards), ..ServerOptions::new(config) };
    let server = Server::start(options).unwrap();
    let Address::Tcp(address) = server.client_addresses()[0].clone() else { panic!("a TCP address") };
    let control = Arc::clone(server.control());
    let (stop, stopped) = bounded(1);
    let thread = std::thread::spawn(move || server.run_until(&stopped));
    Running { address, control, stop, thread }
}

impl Running {
    fn connect(&self, session: i64, password: [u8; 16]) -> Client {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client::open(socket, session, password, TIMEOUT_MS).unwrap()
    }
}

fn clients_come_back(transport: Choice, shards: usize) {
    let (_guard, dir) = scratch();
    let running = start(&dir, transport, shards);
    let mut clients: Vec<_> = (0..4).map(|_| running.connect(0, [0; 16])).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let flags = i32::from(n % 2 == 1);
        assert_eq!(client.create(&format!("/n{n}"), b"before", flags).unwrap().err, 0);
    }

    running.control.reopen(7);

    for client in &mut clients {
        assert!(client.receive().is_err(), "the connection is closed");
        // At once: a client that connects in between waits.
        let (session, password) = (client.session, client.password);
        *client = running.connect(session, password);
        assert_eq!(client.session, session, "the session lives");
    }
    for n in 0..clients.len() {
        for client in &mut clients {
            let (data, _) = client.get(&format!("/n{n}")).unwrap().expect("it is there");
            assert_eq!(data, b"before");
        }
    }
    assert_eq!(clients[0].create("/after", b"", 0).unwrap().err, 0);
    assert_eq!(running.control.reason(), Some(&StopReason::Reopen { index: 7 }));

    running.stop.send(15).unwrap();
    running.thread.join().unwrap().unwrap();
    assert!(clients[0].receive().is_err());
    assert!(TcpStream::connect(running.address).is_err(), "nobody listens after the stop");
}

#[test]
fn clients_find_sessions_and_data_on_the_same_address_after_a_reopening() {
    clients_come_back(Choice::Auto, 2);
}

#[test]
fn the_same_with_everything_on_one_thread_and_epoll() {
    clients_come_back("epoll".parse().unwrap(), 1);
}

#[test]
fn a_stop_that_comes_with_a_reopening_is_a_stop() {
    let (_guard, dir) = scratch();
    let running = start(&dir, Choice::Auto, 1);
    running.stop.send(15).unwrap();
    running.control.reopen(1);
    running.thread.join().unwrap().unwrap();
    assert!(TcpStream::connect(running.address).is_err());
}
