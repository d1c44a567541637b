//! Messages of a server after the handshake.
//!
//! Owns each response record in both directions ([`Response`]), and functions that append whole reply
//! frames cheaply: without an intermediate record, with one growth of the buffer. Never decides an
//! outcome. Correct because `tests/golden.rs` compares both with recordings of ZooKeeper.

use super::connect::ConnectResponse;
use super::frame::{LENGTH_PREFIX_BYTES, put_frame};
use super::list::List;
use super::multi::{Multi, MultiResult};
use super::opcode;
use super::primitives::{DecodeError, Limits, Reader, Text, put_buffer, put_int, put_text, wire_length};
use super::records::{
    Acl, ClientInfo, REPLY_HEADER_BYTES, ReplyHeader, STAT_BYTES, Stat, WatcherEvent, event, xid as xids,
};

/// A response record: what follows a reply header whose err is 0.
#[derive(Clone, PartialEq, Debug)]
pub enum Response<'a> {
    /// Nothing: delete, check-/removeWatches, setWatches, auth, ping, closeSession.
    Empty,
    /// create: the final path; sync: the path echoed.
    Path(Text<'a>),
    /// create2, createContainer and createTTL.
    PathStat(Text<'a>, Stat),
    /// exists, setData and setACL.
    Stat(Stat),
    /// getData, reconfig. `None` is null.
    Data(Option<&'a [u8]>, Stat),
    /// Names only: getChildren and getEphemerals.
    Names(List<'a, Text<'a>>),
    /// Names and Stat: getChildren2.
    NamesStat(List<'a, Text<'a>>, Stat),
    Acl(List<'a, Acl<'a>>, Stat),
    /// The count of getAllChildrenNumber.
    Number(i32),
    /// addWatch: an error code, always 0.
    WatchAdded(i32),
    /// sasl. `None` is null.
    Token(Option<&'a [u8]>),
    /// Identities of the connection: whoAmI.
    Clients(List<'a, ClientInfo<'a>>),
    /// Results of multi and multiRead.
    Multi(Multi<'a, MultiResult<'a>>),
}

impl<'a> Response<'a> {
    /// Decodes the record that answers a request of `opcode`. Bytes behind the record are ignored.
    pub fn decode(opcode: i32, body: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(body, limits);
        Ok(match opcode {
            opcode::DELETE
            | opcode::DELETE_CONTAINER
            | opcode::PING
            | opcode::CHECK
            | opcode::CHECK_WATCHES
            | opcode::REMOVE_WATCHES
            | opcode::AUTH
            | opcode::SET_WATCHES
            | opcode::SET_WATCHES2
            | opcode::CLOSE_SESSION => Response::Empty,
            opcode::CREATE | opcode::SYNC => Response::Path(r.text()?),
            opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL => {
                Response::PathStat(r.text()?, Stat::read(r)?)
            }
            opcode::EXISTS | opcode::SET_DATA | opcode::SET_ACL => Response::Stat(Stat::read(r)?),
            opcode::GET_DATA | opcode::RECONFIG => Response::Data(r.buffer()?, Stat::read(r)?),
            opcode::GET_CHILDREN | opcode::GET_EPHEMERALS => Response::Names(List::read(r)?),
            opcode::GET_CHILDREN2 => Response::NamesStat(List::read(r)?, Stat::read(r)?),
            opcode::GET_ACL => Response::Acl(List::read(r)?, Stat::read(r)?),
            opcode::GET_ALL_CHILDREN_NUMBER => Response::Number(r.int()?),
            opcode::ADD_WATCH => Response::WatchAdded(r.int()?),
            opcode::SASL => Response::Token(r.buffer()?),
            opcode::WHO_AM_I => Response::Clients(List::read(r)?),
            opcode::MULTI | opcode::MULTI_READ => Response::Multi(Multi::read(r)?),
            other => return Err(DecodeError::UnknownOpcode(other)),
        })
    }
    /// Appends the record alone, without header and length.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Response::Empty => {}
            Response::Path(path) => put_text(out, path),
            Response::PathStat(path, stat) => {
                put_text(out, path);
                stat.put(out);
            }
            Response::Stat(stat) => stat.put(out),
            Response::Data(data, stat) => {
                put_buffer(out, *data);
                stat.put(out);
            }
            Response::Names(names) => names.put(out),
            Response::NamesStat(names, stat) => {
                names.put(out);
                stat.put(out);
            }
            Response::Acl(acl, stat) => {
                acl.put(out);
                stat.put(out);
            }
            Response::Number(n) | Response::WatchAdded(n) => put_int(out, *n),
            Response::Token(token) => put_buffer(out, *token),
            Response::Clients(clients) => clients.put(out),
            Response::Multi(results) => results.put(out),
        }
    }
}

/// Length and header of a reply frame.
#[inline]
fn head(header: ReplyHeader, body_bytes: usize) -> [u8; LENGTH_PREFIX_BYTES + REPLY_HEADER_BYTES] {
    let mut head = [0; LENGTH_PREFIX_BYTES + REPLY_HEADER_BYTES];
    head[..LENGTH_PREFIX_BYTES].copy_from_slice(&wire_length(REPLY_HEADER_BYTES + body_bytes).to_be_bytes());
    head[LENGTH_PREFIX_BYTES..].copy_from_slice(&header.to_bytes());
    head
}

/// Appends length and header, with room for the body.
#[inline]
fn put_head(out: &mut Vec<u8>, header: ReplyHeader, body_bytes: usize) {
    out.reserve(LENGTH_PREFIX_BYTES + REPLY_HEADER_BYTES + body_bytes);
    out.extend_from_slice(&head(header, body_bytes));
}

/// Appends a reply frame without a body: success of a request that has none.
#[inline]
pub fn put_empty(out: &mut Vec<u8>, xid: i32, zxid: i64) {
    put_error(out, xid, zxid, 0);
}

/// Appends a reply frame that carries only an error code.
#[inline]
pub fn put_error(out: &mut Vec<u8>, xid: i32, zxid: i64, err: i32) {
    put_head(out, ReplyHeader { xid, zxid, err }, 0);
}

/// Appends a reply frame around a record that is in wire form already.
#[inline]
pub fn put_record(out: &mut Vec<u8>, xid: i32, zxid: i64, record: &[u8]) {
    put_head(out, ReplyHeader { xid, zxid, err: 0 }, record.len());
    out.extend_from_slice(record);
}

/// Appends a reply frame around any record.
pub fn put_response(out: &mut Vec<u8>, xid: i32, zxid: i64, response: &Response<'_>) {
    put_frame(out, |out| {
        ReplyHeader { xid, zxid, err: 0 }.put(out);
        response.put(out);
    });
}

/// Appends a reply frame with a Stat: exists, setData, setACL.
#[inline]
pub fn put_stat(out: &mut Vec<u8>, xid: i32, zxid: i64, stat: &Stat) {
    put_head(out, ReplyHeader { xid, zxid, err: 0 }, STAT_BYTES);
    stat.put(out);
}

/// Appends a reply frame with data and Stat: getData.
#[inline]
pub fn put_data(out: &mut Vec<u8>, xid: i32, zxid: i64, data: Option<&[u8]>, stat: &Stat) {
    put_head(out, ReplyHeader { xid, zxid, err: 0 }, data_body_bytes(data.map_or(0, <[u8]>::len)));
    put_buffer(out, data);
    stat.put(out);
}

/// Appends everything before the data of a getData reply, for data that travels shared. The caller then
/// appends exactly `data_bytes` bytes and the Stat.
#[inline]
pub fn put_data_head(out: &mut Vec<u8>, xid: i32, zxid: i64, data_bytes: usize) {
    out.extend_from_slice(&head(ReplyHeader { xid, zxid, err: 0 }, data_body_bytes(data_bytes)));
    put_int(out, wire_length(data_bytes));
}

const fn data_body_bytes(data_bytes: usize) -> usize {
    4 + data_bytes + STAT_BYTES
}

/// Appends a reply frame with names (getChildren, getEphemerals), and with a Stat if there is one
/// (getChildren2).
pub fn put_names<'n>(
    out: &mut Vec<u8>,
    xid: i32,
    zxid: i64,
    names: impl IntoIterator<Item = &'n str>,
    stat: Option<&Stat>,
) {
    put_frame(out, |out| {
        ReplyHeader { xid, zxid, err: 0 }.put(out);
        put_names_record(out, names);
        if let Some(stat) = stat {
            stat.put(out);
        }
    });
}

/// Appends a vector of strings from an iterator, and fills in its count afterwards.
pub fn put_names_record<'n>(out: &mut Vec<u8>, names: impl IntoIterator<Item = &'n str>) {
    let at = out.len();
    put_int(out, 0);
    let mut count = 0usize;
    for name in names {
        put_text(out, name);
        count += 1;
    }
    out[at..at + 4].copy_from_slice(&wire_length(count).to_be_bytes());
}

/// Appends a whole notification frame. `zxid` is that of the transaction that fired the watch, or -1 for a
/// catch-up event of setWatches. `kind` is one of [`event`]'s types.
pub fn put_notification(out: &mut Vec<u8>, zxid: i64, kind: i32, path: &str) {
    put_head(out, ReplyHeader { xid: xids::NOTIFICATION, zxid, err: 0 }, 4 + 4 + 4 + path.len());
    WatcherEvent { kind, state: event::SYNC_CONNECTED, path: Text::Borrowed(path) }.put(out);
}

/// Appends a whole reply frame to a ping, whose xid is always -2.
#[inline]
pub fn put_ping(out: &mut Vec<u8>, zxid: i64) {
    put_empty(out, xids::PING, zxid);
}

/// Appends a whole frame with a connect response.
pub fn put_connect(out: &mut Vec<u8>, response: &ConnectResponse<'_>) {
    put_frame(out, |out| response.put(out));
}
