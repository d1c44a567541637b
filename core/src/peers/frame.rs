//! The framing of a link: what stands between its bytes and its messages.
//!
//! Owns the frame header (`docs/formats/peers.md`), its checks, and the bytes of a frame that has not arrived whole. Never
//! trusts a length before its own checksum fits, and never reserves what has not arrived. It stays correct because frames begin at
//! multiples of 16 bytes of the stream and of the buffer, so that an archive is read where it arrived.

#![forbid(unsafe_code)]

use super::config::{FRAME_BYTES_MAX, INBOX_KEEP_BYTES};
use super::crc::crc32c;
use super::greeting::{GREETING_BYTES, Greeting, GreetingError};
use super::message::{ArchivedMessage, KINDS, Message};
use rkyv::rancor::BoxedError;
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use thiserror::Error;

/// Alignment of frames in stream and buffer.
pub(super) const ALIGN: usize = 16;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 16;

/// First byte of every frame.
const MARK: u8 = 0xb5;

/// Bytes that the first checksum covers.
const CHECKED_BYTES: usize = 12;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN) && GREETING_BYTES.is_multiple_of(ALIGN));

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameKind {
    /// A message.
    Message = 1,
    /// A sign of life, nothing in it.
    Here = 2,
    /// Wants a sign of life at once, nothing in it.
    Probe = 3,
    /// The sender closes the link; one byte tells why.
    Goodbye = 4,
}

/// Why a link's bytes are no frames.
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
        /// What it says it is.
        kind: &'static str,
        bytes: usize,
        reason: String,
    },
}

/// What arrived.
#[derive(PartialEq, Debug)]
pub(super) enum Frame {
    /// A message and the size of its payload.
    Message(Message, usize),
    Here,
    Probe,
    /// A refusal's code.
    Goodbye(u8),
}

/// Bytes of a link that are not taken apart yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: AlignedVec<ALIGN>,
    /// Up to here they are taken; a multiple of [`ALIGN`].
    taken: usize,
}

impl Inbox {
    /// More arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            let rest = self.bytes.len() - self.taken;
            self.bytes.as_mut_slice().copy_within(self.taken.., 0);
            self.bytes.resize(rest, 0);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes of what has not arrived whole.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// The other end's greeting; `None`: it has not arrived whole.
    pub(super) fn greeting(&mut self) -> Result<Option<Greeting>, GreetingError> {
        let found = Greeting::decode(&self.bytes[self.taken..])?;
        if found.is_some() {
            self.taken += GREETING_BYTES;
        }
        Ok(found)
    }

    /// The next frame; `None`: it has not arrived whole.
    pub(super) fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
            // Whoever speaks another protocol is told apart by the first byte, however little he sends.
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

    /// Bytes reserved.
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
            // The crate's usual error keeps no text in a release build.
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

/// The kind that an archive's first byte names, however wrong the rest is.
pub(super) fn kind_of(payload: &[u8]) -> &'static str {
    let tag = payload.get(rkyv::api::root_position::<ArchivedMessage>(payload.len()));
    let name = tag.and_then(|tag| KINDS.get(usize::from(*tag)));
    name.copied().unwrap_or("a kind that this build does not know")
}

/// Appends a frame without a message.
pub(super) fn put(kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) {
    let start = begin(out);
    out.extend_from_slice(payload);
    finish(kind, start, out);
}

/// Appends a message, archived in its place. `None`: it is larger than a frame may be, and nothing was appended.
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

/// Lets `rkyv` write behind what the output holds already; positions count from the payload's beginning, where the
/// reader's alignment begins too.
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
