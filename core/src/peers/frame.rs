//! The framing of a link: from bytes to messages and back.
//!
//! Owns the frame header (`docs/formats/peers.md`), its checks, and the bytes of an incomplete frame.
//!
//! Never trusts a length before the header's checksum matches, and never reserves memory for bytes that
//! have not arrived.
//!
//! Correct because frames begin at multiples of 16 bytes of both stream and buffer, so an archive is read
//! in place.

#![forbid(unsafe_code)]

use super::config::{FRAME_BYTES_MAX, INBOX_KEEP_BYTES};
use super::crc::crc32c;
use super::greeting::{GREETING_BYTES, Greeting, GreetingError};
use super::message::{ArchivedMessage, KINDS, Message};
use rkyv::rancor::BoxedError;
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use thiserror::Error;

/// Alignment of frames, in bytes, in stream and buffer.
pub(super) const ALIGN: usize = 16;

pub(super) const HEADER_BYTES: usize = 16;

const MARK: u8 = 0xb5;

/// Length of the header's part that the header checksum covers.
const CHECKED_BYTES: usize = 12;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN) && GREETING_BYTES.is_multiple_of(ALIGN));

/// The kind of a frame, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameKind {
    Message = 1,
    /// A keep-alive, without payload.
    Here = 2,
    /// Asks for a keep-alive at once, without payload.
    Probe = 3,
    /// The sender closes the link. The payload is the code of a [`Refusal`](super::Refusal).
    Goodbye = 4,
}

/// Why a link's bytes are not valid frames.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum FrameError {
    #[error("it sent something that is no frame")]
    NotAFrame,
    #[error("the checksum of a frame's header is wrong")]
    HeaderChecksum,
    #[error("the checksum of a frame's payload is wrong")]
    PayloadChecksum,
    #[error("it announced a frame of {0} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong(u32),
    #[error("it sent a frame of kind {0}, which this version does not know")]
    Kind(u8),
    #[error(
        "a message of {bytes} bytes ({kind}) cannot be read: {reason}. It came as that node sent it, so its build is not this \
         one's: run the same release on all nodes"
    )]
    Message {
        /// The kind that the message claims.
        kind: &'static str,
        bytes: usize,
        reason: String,
    },
}

/// A decoded frame of a link.
#[derive(PartialEq, Debug)]
pub(super) enum Frame {
    /// The message, and its payload's size in bytes.
    Message(Message, usize),
    Here,
    Probe,
    /// The code of a refusal.
    Goodbye(u8),
}

/// Received bytes of a link that are not decoded yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: AlignedVec<ALIGN>,
    /// Bytes decoded so far; a multiple of [`ALIGN`].
    taken: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            let rest = self.bytes.len() - self.taken;
            self.bytes.as_mut_slice().copy_within(self.taken.., 0);
            self.bytes.resize(rest, 0);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Length of the incomplete rest, in bytes.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// The other end's greeting, or `None` while it is incomplete.
    pub(super) fn greeting(&mut self) -> Result<Option<Greeting>, GreetingError> {
        let found = Greeting::decode(&self.bytes[self.taken..])?;
        if found.is_some() {
            self.taken += GREETING_BYTES;
        }
        Ok(found)
    }

    /// The next frame, or `None` while it is incomplete.
    pub(super) fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
            // The first byte already tells another protocol, even if no more arrives.
            return if rest.first().is_some_and(|b| *b != MARK) {
                Err(FrameError::NotAFrame)
            } else {
                Ok(None)
            };
        };
        let (kind, length, checksum) = read_header(header)?;
        let padded = length.next_multiple_of(ALIGN);
        let Some(body) = rest.get(HEADER_BYTES..HEADER_BYTES + padded) else { return Ok(None) };
        if crc32c(body) != checksum {
            return Err(FrameError::PayloadChecksum);
        }
        let frame = read_body(kind, &body[..length])?;
        self.taken += HEADER_BYTES + padded;
        self.release_capacity();
        Ok(Some(frame))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn release_capacity(&mut self) {
        if self.taken == self.bytes.len() {
            self.taken = 0;
            match self.bytes.capacity() > INBOX_KEEP_BYTES {
                true => self.bytes = AlignedVec::new(),
                false => self.bytes.clear(),
            }
        }
    }
}

fn read_header(header: &[u8; HEADER_BYTES]) -> Result<(FrameKind, usize, u32), FrameError> {
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[0] != MARK {
        return Err(FrameError::NotAFrame);
    }
    if crc32c(&header[..CHECKED_BYTES]) != word(CHECKED_BYTES) {
        return Err(FrameError::HeaderChecksum);
    }
    let length = word(4);
    if length as usize > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let kind = [FrameKind::Message, FrameKind::Here, FrameKind::Probe, FrameKind::Goodbye]
        .into_iter()
        .find(|k| *k as u8 == header[1]);
    let kind = kind.ok_or(FrameError::Kind(header[1]))?;
    Ok((kind, length as usize, word(8)))
}

fn read_body(kind: FrameKind, payload: &[u8]) -> Result<Frame, FrameError> {
    Ok(match (kind, payload) {
        (FrameKind::Message, _) => {
            // `rkyv`'s default error keeps no text in a release build.
            let message = rkyv::from_bytes::<Message, BoxedError>(payload).map_err(|e| {
                FrameError::Message { kind: kind_of(payload), bytes: payload.len(), reason: e.to_string() }
            })?;
            Frame::Message(message, payload.len())
        }
        (FrameKind::Here, []) => Frame::Here,
        (FrameKind::Probe, []) => Frame::Probe,
        (FrameKind::Goodbye, [code]) => Frame::Goodbye(*code),
        _ => return Err(FrameError::NotAFrame),
    })
}

/// The kind that an archive's tag byte names, however invalid the rest is.
pub(super) fn kind_of(payload: &[u8]) -> &'static str {
    let tag = payload.get(rkyv::api::root_position::<ArchivedMessage>(payload.len()));
    let name = tag.and_then(|tag| KINDS.get(usize::from(*tag)));
    name.copied().unwrap_or("a kind that this build does not know")
}

/// Appends a frame that carries no message.
pub(super) fn put(kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) {
    let start = begin(out);
    out.extend_from_slice(payload);
    finish(kind, start, out);
}

/// Appends a message, archived in place, and returns its payload's size. `None` if it exceeds the largest
/// frame; then nothing is appended.
pub(super) fn put_message(message: &Message, out: &mut Vec<u8>) -> Option<usize> {
    let start = begin(out);
    let payload = Payload { from: out.len(), out };
    let done = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(message, payload).is_ok();
    let length = out.len() - start - HEADER_BYTES;
    if !done || length > FRAME_BYTES_MAX {
        out.truncate(start);
        return None;
    }
    finish(FrameKind::Message, start, out);
    Some(length)
}

fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    start
}

fn finish(kind: FrameKind, start: usize, out: &mut Vec<u8>) {
    let body = start + HEADER_BYTES;
    let length = out.len() - body;
    out.resize(body + length.next_multiple_of(ALIGN), 0);
    let checksum = crc32c(&out[body..]);
    let header = &mut out[start..body];
    header[0] = MARK;
    header[1] = kind as u8;
    header[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    header[8..12].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32c(&header[..CHECKED_BYTES]);
    header[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
}

/// Lets `rkyv` append to existing output. Positions count from the payload's beginning, where the reader's
/// alignment begins too.
struct Payload<'a> {
    out: &'a mut Vec<u8>,
    from: usize,
}

impl Positional for Payload<'_> {
    fn pos(&self) -> usize {
        self.out.len() - self.from
    }
}

impl<E> Writer<E> for Payload<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}
