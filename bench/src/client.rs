//! A minimal blocking client with one request at a time, for questions such as whether a server answers
//! yet.
//!
//! Never measures load: that is the business of `paddock-load`. Correct because it uses the server's own
//! codec: what it cannot decode is an error and never a wrong figure.

use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, FRAME_MAX_BYTES_DEFAULT, Limits, ReplyHeader, Request, Response, Text,
    opcode, put_frame, put_request,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Session timeout to ask for, ms: longer than any measurement needs.
const SESSION_TIMEOUT_MS: i32 = 40_000;

/// One session on one connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    xid: i32,
}

impl Client {
    /// Connects and sends the handshake without waiting for its answer. No step takes longer than
    /// `patience`.
    pub fn dial(to: SocketAddr, patience: Duration) -> io::Result<Client> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut frame = Vec::new();
        put_frame(&mut frame, |out| {
            ConnectRequest {
                protocol_version: 0,
                last_zxid_seen: 0,
                timeout_ms: SESSION_TIMEOUT_MS,
                session_id: 0,
                password: Some(&[0; 16]),
                read_only: Some(false),
            }
            .put(out);
        });
        stream.write_all(&frame)?;
        Ok(Client { stream, xid: 0 })
    }

    /// Waits for the answer to the handshake.
    pub fn established(&mut self) -> io::Result<()> {
        let payload = self.frame()?;
        let response = ConnectResponse::decode(&payload, Limits::NONE).map_err(io::Error::other)?;
        if response.session_id == 0 {
            return Err(io::Error::other("the server refused a new session"));
        }
        Ok(())
    }

    /// Connects and waits until the session is established.
    pub fn connect(to: SocketAddr, patience: Duration) -> io::Result<Client> {
        let mut client = Client::dial(to, patience)?;
        client.established()?;
        Ok(client)
    }

    /// The data at `path`; `None` if the server answered with an error.
    pub fn get(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let request = Request::GetData { path: Text::Borrowed(path), watch: false };
        let Some(body) = self.call(&request)? else { return Ok(None) };
        match Response::decode(opcode::GET_DATA, &body, Limits::NONE).map_err(io::Error::other)? {
            Response::Data(data, _) => Ok(Some(data.unwrap_or_default().to_vec())),
            _ => Ok(None),
        }
    }

    /// Closes the session and waits for the answer.
    pub fn close(mut self) -> io::Result<()> {
        self.call(&Request::CloseSession)?;
        Ok(())
    }

    fn call(&mut self, request: &Request<'_>) -> io::Result<Option<Vec<u8>>> {
        self.xid += 1;
        let mut out = Vec::new();
        put_request(&mut out, self.xid, request);
        self.stream.write_all(&out)?;
        let payload = self.frame()?;
        let (header, body) = ReplyHeader::split(&payload).map_err(io::Error::other)?;
        Ok((header.err == 0).then(|| body.to_vec()))
    }

    fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let length = u32::from_be_bytes(prefix);
        if length > FRAME_MAX_BYTES_DEFAULT {
            return Err(io::Error::other(format!("a reply of {length} bytes")));
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(payload)
    }
}
