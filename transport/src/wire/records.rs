//! Records that several messages share.

use super::list::ListItem;
use super::primitives::{DecodeError, Limits, Reader, Text, put_int, put_opt_text, put_text};

/// Permission bits of an [`Acl`]. Unknown bits are stored and returned untouched.
pub mod perms {
    /// Allows reading the data and listing the children.
    pub const READ: i32 = 1;
    /// Allows setting the data.
    pub const WRITE: i32 = 2;
    /// Allows creating children of the znode.
    pub const CREATE: i32 = 4;
    /// Allows deleting children of the znode.
    pub const DELETE: i32 = 8;
    /// Allows setting the ACL.
    pub const ADMIN: i32 = 16;
    /// All five permissions together.
    pub const ALL: i32 = 31;
}

/// Xids with a meaning of their own.
pub mod xid {
    /// Xid of a watch notification.
    pub const NOTIFICATION: i32 = -1;
    /// A ping and its reply.
    pub const PING: i32 = -2;
    /// An auth packet, by convention of the clients.
    pub const AUTH: i32 = -4;
    /// setWatches, by convention of the C client.
    pub const SET_WATCHES: i32 = -8;
}

/// Types and states of notifications.
pub mod event {
    /// The znode was created.
    pub const NODE_CREATED: i32 = 1;
    /// The znode was deleted.
    pub const NODE_DELETED: i32 = 2;
    /// The znode's data was set.
    pub const NODE_DATA_CHANGED: i32 = 3;
    /// A child was created or deleted.
    pub const NODE_CHILDREN_CHANGED: i32 = 4;
    /// The only state that a server sends.
    pub const SYNC_CONNECTED: i32 = 3;
}

/// Length of an encoded [`Stat`], bytes.
pub const STAT_BYTES: usize = 68;

/// A znode's Stat as clients see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    /// Zxid of the creation.
    pub czxid: i64,
    /// Zxid of the last change of data.
    pub mzxid: i64,
    /// Time of the creation, ms since the epoch.
    pub ctime: i64,
    /// Time of the last change of data, ms since the epoch.
    pub mtime: i64,
    /// Version of the data.
    pub version: i32,
    /// Version of the children as clients see it: 2 × the stored counter − `num_children`.
    pub cversion: i32,
    /// Version of the ACL.
    pub aversion: i32,
    /// Owning session of an ordinary ephemeral znode, else 0 (containers and TTL znodes too).
    pub ephemeral_owner: i64,
    /// Length of the data, bytes.
    pub data_length: i32,
    /// Number of direct children.
    pub num_children: i32,
    /// Zxid of the last change of the set of children.
    pub pzxid: i64,
}

impl Stat {
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            czxid: r.long()?,
            mzxid: r.long()?,
            ctime: r.long()?,
            mtime: r.long()?,
            version: r.int()?,
            cversion: r.int()?,
            aversion: r.int()?,
            ephemeral_owner: r.long()?,
            data_length: r.int()?,
            num_children: r.int()?,
            pzxid: r.long()?,
        })
    }
    #[inline]
    pub fn to_bytes(&self) -> [u8; STAT_BYTES] {
        let mut b = [0; STAT_BYTES];
        b[0..8].copy_from_slice(&self.czxid.to_be_bytes());
        b[8..16].copy_from_slice(&self.mzxid.to_be_bytes());
        b[16..24].copy_from_slice(&self.ctime.to_be_bytes());
        b[24..32].copy_from_slice(&self.mtime.to_be_bytes());
        b[32..36].copy_from_slice(&self.version.to_be_bytes());
        b[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        b[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        b[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        b[52..56].copy_from_slice(&self.data_length.to_be_bytes());
        b[56..60].copy_from_slice(&self.num_children.to_be_bytes());
        b[60..68].copy_from_slice(&self.pzxid.to_be_bytes());
        b
    }
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }
}

/// The identity that an [`Acl`] applies to. The strings of a client's request may be null.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Id<'a> {
    /// `world`, `digest`, `ip`, `auth`, ….
    pub scheme: Option<Text<'a>>,
    /// The id in the scheme's own form.
    pub id: Option<Text<'a>>,
}

/// One entry of an access control list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl<'a> {
    /// [`perms`] bits; unknown ones are kept.
    pub perms: i32,
    pub id: Id<'a>,
}

impl<'a> Acl<'a> {
    /// All permissions for `world:anyone`.
    pub const OPEN: Acl<'static> = Acl::new(perms::ALL, "world", "anyone");

    /// An entry whose scheme and id are not null.
    pub const fn new(perms: i32, scheme: &'a str, id: &'a str) -> Self {
        Self { perms, id: Id { scheme: Some(Text::Borrowed(scheme)), id: Some(Text::Borrowed(id)) } }
    }
}

impl<'a> ListItem<'a> for Acl<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { perms: r.int()?, id: Id { scheme: r.opt_text()?, id: r.opt_text()? } })
    }
    fn put(&self, out: &mut Vec<u8>) {
        put_int(out, self.perms);
        put_opt_text(out, self.id.scheme.as_deref());
        put_opt_text(out, self.id.id.as_deref());
    }
}

/// One identity of a connection, as whoAmI reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientInfo<'a> {
    pub auth_scheme: Text<'a>,
    /// The user: for digest the part before the colon, otherwise the id.
    pub user: Text<'a>,
}

impl<'a> ListItem<'a> for ClientInfo<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { auth_scheme: r.text()?, user: r.text()? })
    }
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, &self.auth_scheme);
        put_text(out, &self.user);
    }
}

/// Header of every request after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// The client's number for the request.
    pub xid: i32,
    pub opcode: i32,
}

impl RequestHeader {
    /// Splits a request's payload into header and body. On an error the caller closes the connection.
    #[inline]
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut r = Reader::new(payload, Limits::NONE);
        Ok((Self { xid: r.int()?, opcode: r.int()? }, r.rest()))
    }
    pub fn put(&self, out: &mut Vec<u8>) {
        put_int(out, self.xid);
        put_int(out, self.opcode);
    }
}

/// Length of an encoded [`ReplyHeader`], bytes.
pub const REPLY_HEADER_BYTES: usize = 16;

/// Header of every message to a client after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    /// The request's xid; see [`xid`] for the exceptions.
    pub xid: i32,
    /// Last zxid applied when the reply was made.
    pub zxid: i64,
    /// [`super::error`] code. A body follows only if it is 0.
    pub err: i32,
}

impl ReplyHeader {
    /// Splits a message's payload into header and body.
    #[inline]
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut r = Reader::new(payload, Limits::NONE);
        Ok((Self { xid: r.int()?, zxid: r.long()?, err: r.int()? }, r.rest()))
    }
    #[inline]
    pub fn to_bytes(&self) -> [u8; REPLY_HEADER_BYTES] {
        let mut b = [0; REPLY_HEADER_BYTES];
        b[0..4].copy_from_slice(&self.xid.to_be_bytes());
        b[4..12].copy_from_slice(&self.zxid.to_be_bytes());
        b[12..16].copy_from_slice(&self.err.to_be_bytes());
        b
    }
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }
}

/// The body of a notification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatcherEvent<'a> {
    /// One of [`event`]'s types.
    pub kind: i32,
    /// Servers send only [`event::SYNC_CONNECTED`].
    pub state: i32,
    pub path: Text<'a>,
}

impl<'a> WatcherEvent<'a> {
    /// Decodes a notification's body.
    pub fn decode(body: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body, limits);
        Ok(Self { kind: r.int()?, state: r.int()?, path: r.text()? })
    }
    pub fn put(&self, out: &mut Vec<u8>) {
        put_int(out, self.kind);
        put_int(out, self.state);
        put_text(out, &self.path);
    }
}
