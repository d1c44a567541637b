//! The ZooKeeper client protocol: every record, in both directions.
//!
//! Owns the bytes of a message. Never does I/O, knows no session, tree or watch, and never decides what a
//! request means. Correct because one type ([`Reader`]) bounds-checks every read, and no decoder panics on
//! any bytes. A list is handed out only after its record was decoded, which validates the list.
//!
//! Decoding borrows from the frame and allocates nothing for well-formed text. Strings are [`Text`]
//! (borrowed unless the bytes were malformed UTF-8). Lists are [`List`] and [`Multi`], iterated in place.
//! Encoding appends to a `Vec<u8>`.
//!
//! Strictness follows `spec/01`. Bytes behind a record are ignored, a vector count below -1 is an empty
//! vector, and any non-zero boolean is true. These are a [`DecodeError`], answered by
//! [`DecodeError::code`]:
//!
//! - a short body;
//! - a length below -1 or above the limit;
//! - a null path;
//! - an op that a multi may not hold.
//!
//! | part | holds |
//! |---|---|
//! | [`primitives`] | jute types: [`Reader`], `put_*` functions, [`Text`], [`Limits`], [`DecodeError`] |
//! | [`list`] | [`List`]: a vector in wire form or as a slice |
//! | [`records`] | [`Stat`], [`Acl`], [`Id`], headers, [`WatcherEvent`] |
//! | [`connect`] | the handshake |
//! | [`frame`] | length prefixes, four-letter words |
//! | [`opcode`], [`error`] | numbers and names |
//! | [`request`] | [`Request`]: records of clients |
//! | [`reply`] | [`Response`]: records of servers, and whole reply frames |
//! | [`multi`] | the framing of multi and multiRead |

#![forbid(unsafe_code)]

pub mod connect;
pub mod error;
pub mod frame;
mod fuzz;
pub mod list;
pub mod multi;
pub mod opcode;
pub mod primitives;
pub mod records;
pub mod reply;
pub mod request;

pub use connect::{ConnectRequest, ConnectResponse, PASSWORD_BYTES};
pub use frame::{
    FOUR_LETTER_BYTES, FRAME_MAX_BYTES_DEFAULT, FourLetterWord, FrameError, LENGTH_PREFIX_BYTES, Split,
    put_frame, split,
};
#[doc(hidden)]
pub use fuzz::fuzz_one;
pub use list::{List, ListIter};
pub use multi::{Multi, MultiIter, MultiKind, MultiOp, MultiResult, put_multi_end};
pub use primitives::{DecodeError, Limits, Reader, Text};
pub use records::{
    Acl, ClientInfo, Id, REPLY_HEADER_BYTES, ReplyHeader, RequestHeader, STAT_BYTES, Stat, WatcherEvent,
    event, perms, xid,
};
pub use reply::Response;
pub use request::{Create, CreateOp, Request, SetWatches, WatchMode, WatcherKind, create_flags, put_request};
