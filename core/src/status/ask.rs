//! A client for four-letter words: sends a word, reads the answer until the server closes. Bounded in time
//! by the caller and in bytes by [`ANSWER_MAX_BYTES`], since the other end may be any program.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Longest answer read, bytes. `mntr` and `srvr` are a few KiB.
pub const ANSWER_MAX_BYTES: u64 = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The name has no address.
    #[error("no such host")]
    NoSuchHost,
    #[error("no answer within {} ms", patience.as_millis())]
    TimedOut {
        /// Time limit of the whole conversation.
        patience: Duration,
    },
    /// Closed without an answer: a server that refuses clients, or another protocol.
    #[error("it closes the connection without an answer")]
    Silent,
    /// The network reported an error.
    #[error("{0}")]
    Failed(io::Error),
}

/// Sends `word` to `server` (`HOST:PORT`) and gives the complete answer.
pub fn ask(server: &str, word: &str, patience: Duration) -> Result<String, AskError> {
    let until = Instant::now() + patience;
    let left = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(AskError::TimedOut { patience }),
        left => Ok(left),
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::TimedOut { patience },
        _ => AskError::Failed(error),
    };
    let mut last = AskError::NoSuchHost;
    let addresses = server.to_socket_addrs().map_err(|_| AskError::NoSuchHost)?;
    for address in addresses {
        let mut socket = match TcpStream::connect_timeout(&address, left()?) {
            Ok(socket) => socket,
            Err(error) => {
                last = failed(error);
                continue;
            }
        };
        socket.write_all(word.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while (answer.len() as u64) < ANSWER_MAX_BYTES {
            socket.set_read_timeout(Some(left()?)).map_err(failed)?;
            match socket.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Bytes before a reset are the answer: the server closes while this end is still open.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => break,
                Err(error) => return Err(failed(error)),
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        return if answer.is_empty() { Err(AskError::Silent) } else { Ok(answer) };
    }
    Err(last)
}
