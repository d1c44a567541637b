//! The handshake: the first frame in each direction.

use super::primitives::{DecodeError, Limits, Reader, put_boolean, put_buffer, put_int, put_long};

/// Bytes of a session's password.
pub const PASSWORD_BYTES: usize = 16;

/// The first message of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectRequest<'a> {
    /// Servers ignore this field.
    pub protocol_version: i32,
    /// Highest zxid that the client saw on any connection.
    pub last_zxid_seen: i64,
    /// Requested session timeout, ms.
    pub timeout_ms: i32,
    /// 0 for a new session.
    pub session_id: i64,
    /// [`PASSWORD_BYTES`] bytes. A new session may send anything, null included.
    pub password: Option<&'a [u8]>,
    /// `None` from a very old client that does not know the field. The response then omits it too.
    pub read_only: Option<bool>,
}

impl<'a> ConnectRequest<'a> {
    /// Decodes the first frame's payload. On an error the caller closes the connection.
    pub fn decode(payload: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload, limits);
        Ok(Self {
            protocol_version: r.int()?,
            last_zxid_seen: r.long()?,
            timeout_ms: r.int()?,
            session_id: r.long()?,
            password: r.buffer()?,
            read_only: optional_boolean(&mut r)?,
        })
    }
    /// Appends the payload, without a frame length.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_int(out, self.protocol_version);
        put_long(out, self.last_zxid_seen);
        put_int(out, self.timeout_ms);
        put_long(out, self.session_id);
        put_buffer(out, self.password);
        if let Some(read_only) = self.read_only {
            put_boolean(out, read_only);
        }
    }
}

/// The first message of a server. It has no reply header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectResponse<'a> {
    /// Servers always send 0.
    pub protocol_version: i32,
    /// Negotiated session timeout, ms. 0 or less means refused: the session is gone.
    pub timeout_ms: i32,
    /// Id of the session; 0 when refused.
    pub session_id: i64,
    /// Password of the session; all zero when refused.
    pub password: Option<&'a [u8]>,
    /// Whether this is a read-only server. Sent only if the request carried the field.
    pub read_only: Option<bool>,
}

impl<'a> ConnectResponse<'a> {
    /// The response to a session that is unknown or expired, or whose password does not match.
    pub const fn refused(read_only: Option<bool>) -> ConnectResponse<'static> {
        ConnectResponse {
            protocol_version: 0,
            timeout_ms: 0,
            session_id: 0,
            password: Some(&[0; PASSWORD_BYTES]),
            read_only,
        }
    }
    pub fn decode(payload: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload, limits);
        Ok(Self {
            protocol_version: r.int()?,
            timeout_ms: r.int()?,
            session_id: r.long()?,
            password: r.buffer()?,
            read_only: optional_boolean(&mut r)?,
        })
    }
    /// Appends the payload, without a frame length.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_int(out, self.protocol_version);
        put_int(out, self.timeout_ms);
        put_long(out, self.session_id);
        put_buffer(out, self.password);
        if let Some(read_only) = self.read_only {
            put_boolean(out, read_only);
        }
    }
}

fn optional_boolean(r: &mut Reader<'_>) -> Result<Option<bool>, DecodeError> {
    if r.rest().is_empty() { Ok(None) } else { r.boolean().map(Some) }
}
