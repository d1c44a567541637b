//! The class of a request: answered by this shard, or forwarded to the consensus core.
//!
//! Owns the mapping from opcode and body to [`RequestClass`]. Never looks at a connection or at the tree.
//! Correct because a write is decoded before it is forwarded, so the state machine receives only requests
//! that decode.

use super::read_replies::ReadKind;
use paddock_transport::wire::opcode::{self, Class};
use paddock_transport::wire::{self, Limits, Request, Text, error};

/// How a request is handled.
pub(super) enum RequestClass<'i> {
    AnswerHere(RequestKind<'i>),
    Forward(ForwardKind<'i>),
}

/// A request that the consensus core orders.
pub(super) enum ForwardKind<'i> {
    Write,
    Close,
    Sync(Text<'i>),
}

/// A request that the shard answers.
pub(super) enum RequestKind<'i> {
    /// A read of one path. The next result of the batch lookup belongs to it.
    Read {
        read: ReadKind,
        path: Text<'i>,
        watch: bool,
    },
    Ping,
    /// Every other request that the shard answers; see [`super::local_requests`].
    Local {
        opcode: i32,
        body: &'i [u8],
    },
    /// A request that does not decode or is not offered. The reply carries this error, and the connection
    /// stays open.
    Fault(i32),
    /// A write or sync of a read-only client: error -119.
    NotReadOnly,
    /// closeSession of a read-only client whose session exists in this shard only.
    CloseLocalSession,
    /// An opcode that does not exist for clients: error -6 with zxid -1, then the connection closes.
    Unknown,
    /// An invalid frame: the connection closes without a reply.
    Reject,
}

impl RequestKind<'_> {
    /// Whether the request may visit many znodes. Such requests share a budget in each turn; all others
    /// bypass it.
    pub fn looks_at_many(&self) -> bool {
        match self {
            RequestKind::Read { read, .. } => {
                matches!(
                    read,
                    ReadKind::GetChildren | ReadKind::GetChildren2 | ReadKind::GetAllChildrenNumber
                )
            }
            RequestKind::Local { .. } => true,
            _ => false,
        }
    }

    /// Whether the request is answered from the tree, or arms watches on it.
    pub fn reads_the_tree(&self) -> bool {
        match self {
            RequestKind::Read { .. } => true,
            RequestKind::Local { opcode, .. } => matches!(
                *opcode,
                opcode::MULTI_READ
                    | opcode::SET_WATCHES
                    | opcode::SET_WATCHES2
                    | opcode::ADD_WATCH
                    | opcode::GET_EPHEMERALS
            ),
            _ => false,
        }
    }
}

/// Classifies a request of an ordinary client.
#[inline]
pub(super) fn classify(opcode: i32, body: &[u8], limits: Limits) -> RequestClass<'_> {
    use RequestClass::{AnswerHere, Forward};
    if let Some(read) = ReadKind::of(opcode) {
        let mut r = wire::Reader::new(body, limits);
        let record = r.text().and_then(|path| Ok((path, read.has_watch() && r.boolean()?)));
        return AnswerHere(match record {
            Ok((path, watch)) => RequestKind::Read { read, path, watch },
            Err(fault) => RequestKind::Fault(fault.code()),
        });
    }
    match opcode {
        opcode::PING => AnswerHere(RequestKind::Ping),
        opcode::CLOSE_SESSION => Forward(ForwardKind::Close),
        // For the server's own container manager only.
        opcode::DELETE_CONTAINER => AnswerHere(RequestKind::Fault(error::UNIMPLEMENTED)),
        // Valid inside multi only.
        opcode::CHECK => AnswerHere(RequestKind::Unknown),
        _ => match opcode::class(opcode) {
            None => AnswerHere(RequestKind::Unknown),
            Some(Class::Read | Class::Local) => AnswerHere(RequestKind::Local { opcode, body }),
            Some(Class::Write) => match Request::decode(opcode, body, limits) {
                Ok(_) => Forward(ForwardKind::Write),
                Err(fault) => AnswerHere(RequestKind::Fault(fault.code())),
            },
            Some(Class::Sync) => match Request::decode(opcode, body, limits) {
                Ok(Request::Sync { path }) => Forward(ForwardKind::Sync(path)),
                Ok(_) => AnswerHere(RequestKind::Unknown),
                Err(fault) => AnswerHere(RequestKind::Fault(fault.code())),
            },
        },
    }
}

/// Classifies a request of a read-only client. Requests that would have to be ordered are refused
/// undecoded. So is closeSession of a `global` session, because ordering it needs the quorum.
pub(super) fn classify_read_only(opcode: i32, body: &[u8], limits: Limits, global: bool) -> RequestKind<'_> {
    match opcode {
        opcode::CLOSE_SESSION if global => RequestKind::NotReadOnly,
        opcode::CLOSE_SESSION => RequestKind::CloseLocalSession,
        opcode::CHECK | opcode::DELETE_CONTAINER => RequestKind::NotReadOnly,
        _ if matches!(opcode::class(opcode), Some(Class::Write | Class::Sync)) => RequestKind::NotReadOnly,
        _ => match classify(opcode, body, limits) {
            RequestClass::AnswerHere(kind) => kind,
            RequestClass::Forward(_) => RequestKind::NotReadOnly,
        },
    }
}
