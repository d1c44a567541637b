//! The ZooKeeper client protocol: every record, both directions.
//!
//! Owns the bytes of a message and nothing else. Never does I/O, knows no session, tree or watch, and never decides
//! what a request means. It stays correct because every read is bounds-checked by one type ([`Reader`]), lists are
//! validated when their record is decoded and only then handed out, and no decoder panics, whatever the bytes.
//!
//! Decoding borrows from the frame and allocates nothing for well-formed text: strings are [`Text`] (borrowed unless
//! the bytes were malformed UTF-8), lists are [`List`] and [`Multi`], iterated where they lie. Encoding appends to a
//! `Vec<u8>`. What a server is lenient about and where it is strict follows `spec/01`: bytes behind a record are
//! ignored, a vector count below -1 is an empty vector, any non-zero boolean is true; a short body, a length below -1
//! or above the limit, a null path or an op that a multi may not hold is a [`DecodeError`], answered by
//! [`DecodeError::code`].
//!
//! | part | holds |
//! |---|---|
//! | [`primitives`] | jute's types: [`Reader`], the `put_*` functions, [`Text`], [`Limits`], [`DecodeError`] |
//! | [`list`] | [`List`]: a vector in wire form or as a slice |
//! | [`records`] | [`Stat`], [`Acl`], [`Id`], headers, [`WatcherEvent`] |
//! | [`connect`] | the handshake |
//! | [`frame`] | length prefixes, four-letter words |
//! | [`opcode`], [`error`] | numbers and names |
//! | [`request`] | [`Request`]: what clients send |
//! | [`reply`] | [`Response`]: what servers answer; whole reply frames at little cost |
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
