//! Messages of a client after the handshake.
//!
//! Owns each request record, in both directions. Never judges paths, ACLs or versions: their meaning
//! belongs to the server. Correct because a decoder refuses what ZooKeeper cannot decode, such as a null
//! path in most requests or an unknown watch mode. `tests/golden.rs` compares with recordings and names
//! the few differences.

use super::list::List;
use super::multi::{Multi, MultiKind};
use super::primitives::{
    DecodeError, Limits, Reader, Text, put_boolean, put_buffer, put_int, put_long, put_opt_text, put_text,
    text_from,
};
use super::records::{Acl, RequestHeader};
use super::{frame, opcode};

/// Create flags and the modes they stand for (spec 01 section 5).
pub mod create_flags {
    pub const PERSISTENT: i32 = 0;
    pub const EPHEMERAL: i32 = 1;
    pub const PERSISTENT_SEQUENTIAL: i32 = 2;
    pub const EPHEMERAL_SEQUENTIAL: i32 = 3;
    pub const CONTAINER: i32 = 4;
    pub const PERSISTENT_WITH_TTL: i32 = 5;
    pub const PERSISTENT_SEQUENTIAL_WITH_TTL: i32 = 6;
}

/// The create request. Its opcode decides the kind of znode and the form of the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateOp {
    /// create: answers the path.
    Create,
    /// create2: answers path and Stat, as do the others below.
    Create2,
    CreateContainer,
    CreateTtl {
        /// Time to live, ms.
        ttl_ms: i64,
    },
}

/// create, create2, createContainer and createTTL.
#[derive(Clone, PartialEq, Debug)]
pub struct Create<'a> {
    pub op: CreateOp,
    /// The path without sequence suffix.
    pub path: Text<'a>,
    /// `None` encodes null data.
    pub data: Option<&'a [u8]>,
    /// Null and empty lists decode. The state machine refuses both.
    pub acl: List<'a, Acl<'a>>,
    /// [`create_flags`], unchecked outside a multi.
    pub flags: i32,
}

/// Kind of watch that addWatch arms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchMode {
    /// 0: stays armed after it fires.
    Persistent,
    /// 1: stays armed, and covers the whole subtree.
    PersistentRecursive,
}

impl WatchMode {
    pub const fn code(self) -> i32 {
        match self {
            WatchMode::Persistent => 0,
            WatchMode::PersistentRecursive => 1,
        }
    }
    fn from_code(code: i32) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(WatchMode::Persistent),
            1 => Ok(WatchMode::PersistentRecursive),
            other => Err(DecodeError::UnknownValue(other)),
        }
    }
}

/// Kind of watch that checkWatches and removeWatches select.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherKind {
    Children,
    Data,
    Any,
    /// 4, since ZooKeeper 3.9.0.
    Persistent,
    /// 5, since ZooKeeper 3.9.0.
    PersistentRecursive,
}

impl WatcherKind {
    pub const fn code(self) -> i32 {
        match self {
            WatcherKind::Children => 1,
            WatcherKind::Data => 2,
            WatcherKind::Any => 3,
            WatcherKind::Persistent => 4,
            WatcherKind::PersistentRecursive => 5,
        }
    }
    fn from_code(code: i32) -> Result<Self, DecodeError> {
        match code {
            1 => Ok(WatcherKind::Children),
            2 => Ok(WatcherKind::Data),
            3 => Ok(WatcherKind::Any),
            4 => Ok(WatcherKind::Persistent),
            5 => Ok(WatcherKind::PersistentRecursive),
            other => Err(DecodeError::UnknownValue(other)),
        }
    }
}

/// The watches that a client brings along after a reconnect. None of the lists is null.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SetWatches<'a> {
    /// The client's last zxid when it lost its connection.
    pub relative_zxid: i64,
    /// Armed by getData, or by exists on a znode that was there.
    pub data: List<'a, Text<'a>>,
    /// Armed by exists on a znode that was not there.
    pub exist: List<'a, Text<'a>>,
    /// Armed by getChildren or getChildren2.
    pub child: List<'a, Text<'a>>,
    /// Only setWatches2 carries this list.
    pub persistent: List<'a, Text<'a>>,
    /// Only setWatches2 carries this list.
    pub persistent_recursive: List<'a, Text<'a>>,
}

/// A request of any opcode.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "variants are the opcodes, their fields those of spec 01 section 6")]
pub enum Request<'a> {
    Create(Create<'a>),
    Delete {
        path: Text<'a>,
        version: i32,
    },
    DeleteContainer {
        path: Text<'a>,
    },
    Exists {
        path: Text<'a>,
        watch: bool,
    },
    GetData {
        path: Text<'a>,
        watch: bool,
    },
    SetData {
        path: Text<'a>,
        data: Option<&'a [u8]>,
        version: i32,
    },
    GetAcl {
        path: Text<'a>,
    },
    SetAcl {
        path: Text<'a>,
        acl: List<'a, Acl<'a>>,
        version: i32,
    },
    GetChildren {
        path: Text<'a>,
        watch: bool,
    },
    GetChildren2 {
        path: Text<'a>,
        watch: bool,
    },
    GetAllChildrenNumber {
        path: Text<'a>,
    },
    GetEphemerals {
        prefix: Option<Text<'a>>,
    },
    Sync {
        path: Text<'a>,
    },
    Check {
        path: Text<'a>,
        version: i32,
    },
    Multi(Multi<'a, Request<'a>>),
    MultiRead(Multi<'a, Request<'a>>),
    Reconfig {
        joining: Option<Text<'a>>,
        leaving: Option<Text<'a>>,
        new_members: Option<Text<'a>>,
        config_id: i64,
    },
    CheckWatches {
        path: Text<'a>,
        kind: WatcherKind,
    },
    RemoveWatches {
        path: Text<'a>,
        kind: WatcherKind,
    },
    AddWatch {
        path: Text<'a>,
        mode: WatchMode,
    },
    SetWatches(SetWatches<'a>),
    SetWatches2(SetWatches<'a>),
    Auth {
        kind: i32,
        scheme: Option<Text<'a>>,
        auth: Option<&'a [u8]>,
    },
    Sasl {
        token: Option<&'a [u8]>,
    },
    WhoAmI,
    Ping,
    CloseSession,
}

impl<'a> Request<'a> {
    /// Decodes the record behind a request header. Bytes behind the record are ignored.
    ///
    /// An error is answered with [`DecodeError::code`], and the connection goes on, except in two cases.
    /// An unknown opcode closes the connection after the reply. Undecodable auth and sasl
    /// ([`opcode::Class::Local`]) close it without a reply.
    pub fn decode(opcode: i32, body: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        Self::read(opcode, &mut Reader::new(body, limits))
    }

    /// Reads the record of `opcode`. A null path is an error, except where ZooKeeper looks it up as an
    /// empty one. Those are setData and setACL (-8), sync and addWatch (success), and checkWatches and
    /// removeWatches (-121).
    pub fn read(opcode: i32, r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match opcode {
            opcode::CREATE => Request::Create(read_create(CreateOp::Create, r)?),
            opcode::CREATE2 => Request::Create(read_create(CreateOp::Create2, r)?),
            opcode::CREATE_CONTAINER => Request::Create(read_create(CreateOp::CreateContainer, r)?),
            opcode::CREATE_TTL => {
                let mut create = read_create(CreateOp::CreateTtl { ttl_ms: 0 }, r)?;
                create.op = CreateOp::CreateTtl { ttl_ms: r.long()? };
                Request::Create(create)
            }
            opcode::DELETE => Request::Delete { path: r.text()?, version: r.int()? },
            opcode::DELETE_CONTAINER => {
                Request::DeleteContainer { path: text_from(r.buffer()?.ok_or(DecodeError::NullBuffer)?) }
            }
            opcode::EXISTS => Request::Exists { path: r.text()?, watch: r.boolean()? },
            opcode::GET_DATA => Request::GetData { path: r.text()?, watch: r.boolean()? },
            opcode::SET_DATA => {
                Request::SetData { path: r.text_or_empty()?, data: r.buffer()?, version: r.int()? }
            }
            opcode::GET_ACL => Request::GetAcl { path: r.text()? },
            opcode::SET_ACL => {
                Request::SetAcl { path: r.text_or_empty()?, acl: List::read(r)?, version: r.int()? }
            }
            opcode::GET_CHILDREN => Request::GetChildren { path: r.text()?, watch: r.boolean()? },
            opcode::GET_CHILDREN2 => Request::GetChildren2 { path: r.text()?, watch: r.boolean()? },
            opcode::GET_ALL_CHILDREN_NUMBER => Request::GetAllChildrenNumber { path: r.text()? },
            opcode::GET_EPHEMERALS => Request::GetEphemerals { prefix: r.opt_text()? },
            opcode::SYNC => Request::Sync { path: r.text_or_empty()? },
            opcode::CHECK => Request::Check { path: r.text()?, version: r.int()? },
            opcode::MULTI => Request::Multi(Multi::read_ops(r, MultiKind::Write)?),
            opcode::MULTI_READ => Request::MultiRead(Multi::read_ops(r, MultiKind::Read)?),
            opcode::RECONFIG => Request::Reconfig {
                joining: r.opt_text()?,
                leaving: r.opt_text()?,
                new_members: r.opt_text()?,
                config_id: r.long()?,
            },
            opcode::CHECK_WATCHES => {
                Request::CheckWatches { path: r.text_or_empty()?, kind: WatcherKind::from_code(r.int()?)? }
            }
            opcode::REMOVE_WATCHES => {
                Request::RemoveWatches { path: r.text_or_empty()?, kind: WatcherKind::from_code(r.int()?)? }
            }
            opcode::ADD_WATCH => {
                Request::AddWatch { path: r.text_or_empty()?, mode: WatchMode::from_code(r.int()?)? }
            }
            opcode::SET_WATCHES => Request::SetWatches(read_set_watches(false, r)?),
            opcode::SET_WATCHES2 => Request::SetWatches2(read_set_watches(true, r)?),
            opcode::AUTH => Request::Auth { kind: r.int()?, scheme: r.opt_text()?, auth: r.buffer()? },
            opcode::SASL => Request::Sasl { token: r.buffer()? },
            opcode::WHO_AM_I => Request::WhoAmI,
            opcode::PING => Request::Ping,
            opcode::CLOSE_SESSION => Request::CloseSession,
            other => return Err(DecodeError::UnknownOpcode(other)),
        })
    }

    /// The opcode that this request is sent under.
    pub const fn opcode(&self) -> i32 {
        match self {
            Request::Create(create) => match create.op {
                CreateOp::Create => opcode::CREATE,
                CreateOp::Create2 => opcode::CREATE2,
                CreateOp::CreateContainer => opcode::CREATE_CONTAINER,
                CreateOp::CreateTtl { .. } => opcode::CREATE_TTL,
            },
            Request::Delete { .. } => opcode::DELETE,
            Request::DeleteContainer { .. } => opcode::DELETE_CONTAINER,
            Request::Exists { .. } => opcode::EXISTS,
            Request::GetData { .. } => opcode::GET_DATA,
            Request::SetData { .. } => opcode::SET_DATA,
            Request::GetAcl { .. } => opcode::GET_ACL,
            Request::SetAcl { .. } => opcode::SET_ACL,
            Request::GetChildren { .. } => opcode::GET_CHILDREN,
            Request::GetChildren2 { .. } => opcode::GET_CHILDREN2,
            Request::GetAllChildrenNumber { .. } => opcode::GET_ALL_CHILDREN_NUMBER,
            Request::GetEphemerals { .. } => opcode::GET_EPHEMERALS,
            Request::Sync { .. } => opcode::SYNC,
            Request::Check { .. } => opcode::CHECK,
            Request::Multi(_) => opcode::MULTI,
            Request::MultiRead(_) => opcode::MULTI_READ,
            Request::Reconfig { .. } => opcode::RECONFIG,
            Request::CheckWatches { .. } => opcode::CHECK_WATCHES,
            Request::RemoveWatches { .. } => opcode::REMOVE_WATCHES,
            Request::AddWatch { .. } => opcode::ADD_WATCH,
            Request::SetWatches(_) => opcode::SET_WATCHES,
            Request::SetWatches2(_) => opcode::SET_WATCHES2,
            Request::Auth { .. } => opcode::AUTH,
            Request::Sasl { .. } => opcode::SASL,
            Request::WhoAmI => opcode::WHO_AM_I,
            Request::Ping => opcode::PING,
            Request::CloseSession => opcode::CLOSE_SESSION,
        }
    }

    /// Appends the record alone, without header and length.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Request::Create(create) => put_create(create, out),
            Request::Delete { path, version } | Request::Check { path, version } => {
                put_text(out, path);
                put_int(out, *version);
            }
            Request::Exists { path, watch }
            | Request::GetData { path, watch }
            | Request::GetChildren { path, watch }
            | Request::GetChildren2 { path, watch } => {
                put_text(out, path);
                put_boolean(out, *watch);
            }
            Request::SetData { path, data, version } => {
                put_text(out, path);
                put_buffer(out, *data);
                put_int(out, *version);
            }
            Request::SetAcl { path, acl, version } => {
                put_text(out, path);
                acl.put(out);
                put_int(out, *version);
            }
            Request::DeleteContainer { path }
            | Request::GetAcl { path }
            | Request::GetAllChildrenNumber { path }
            | Request::Sync { path } => put_text(out, path),
            Request::GetEphemerals { prefix } => put_opt_text(out, prefix.as_deref()),
            Request::Multi(ops) | Request::MultiRead(ops) => ops.put(out),
            Request::Reconfig { joining, leaving, new_members, config_id } => {
                put_opt_text(out, joining.as_deref());
                put_opt_text(out, leaving.as_deref());
                put_opt_text(out, new_members.as_deref());
                put_long(out, *config_id);
            }
            Request::CheckWatches { path, kind } | Request::RemoveWatches { path, kind } => {
                put_text(out, path);
                put_int(out, kind.code());
            }
            Request::AddWatch { path, mode } => {
                put_text(out, path);
                put_int(out, mode.code());
            }
            Request::SetWatches(watches) => put_set_watches(watches, false, out),
            Request::SetWatches2(watches) => put_set_watches(watches, true, out),
            Request::Auth { kind, scheme, auth } => {
                put_int(out, *kind);
                put_opt_text(out, scheme.as_deref());
                put_buffer(out, *auth);
            }
            Request::Sasl { token } => put_buffer(out, *token),
            Request::WhoAmI | Request::Ping | Request::CloseSession => {}
        }
    }
}

/// Appends a whole request frame: length, header, record.
pub fn put_request(out: &mut Vec<u8>, xid: i32, request: &Request<'_>) {
    frame::put_frame(out, |out| {
        RequestHeader { xid, opcode: request.opcode() }.put(out);
        request.put(out);
    });
}

fn read_create<'a>(op: CreateOp, r: &mut Reader<'a>) -> Result<Create<'a>, DecodeError> {
    Ok(Create { op, path: r.text()?, data: r.buffer()?, acl: List::read(r)?, flags: r.int()? })
}

fn put_create(create: &Create<'_>, out: &mut Vec<u8>) {
    put_text(out, &create.path);
    put_buffer(out, create.data);
    create.acl.put(out);
    put_int(out, create.flags);
    if let CreateOp::CreateTtl { ttl_ms } = create.op {
        put_long(out, ttl_ms);
    }
}

fn read_set_watches<'a>(persistent: bool, r: &mut Reader<'a>) -> Result<SetWatches<'a>, DecodeError> {
    let mut watches = SetWatches {
        relative_zxid: r.long()?,
        data: List::read_present(r)?,
        exist: List::read_present(r)?,
        child: List::read_present(r)?,
        ..SetWatches::default()
    };
    if persistent {
        watches.persistent = List::read_present(r)?;
        watches.persistent_recursive = List::read_present(r)?;
    }
    Ok(watches)
}

fn put_set_watches(watches: &SetWatches<'_>, persistent: bool, out: &mut Vec<u8>) {
    put_long(out, watches.relative_zxid);
    watches.data.put(out);
    watches.exist.put(out);
    watches.child.put(out);
    if persistent {
        watches.persistent.put(out);
        watches.persistent_recursive.put(out);
    }
}
